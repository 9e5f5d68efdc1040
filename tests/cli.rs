//! The command as a user's shell sees it: real processes, their output and their exit codes, without a cluster.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

fn mokv(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    mokv(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An address of this machine where nobody listens: the listener keeps others from taking the port, and its
/// connections are never answered.
fn silent_endpoint() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn wrong_usage_exits_with_2_and_help_with_0() {
    assert_eq!(run(&["get"]).status.code(), Some(2));
    assert_eq!(run(&["get", "key", "--endpoints", "nonsense"]).status.code(), Some(2));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_cluster_that_does_not_answer_exits_with_1_and_says_what_to_do() {
    let (_listener, endpoint) = silent_endpoint();
    for command in [vec!["get", "key"], vec!["list"], vec!["members"], vec!["status"]] {
        let output = run(&[&command[..], &["--endpoints", &endpoint, "--timeout", "300ms"]].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let said = stderr(&output);
        assert!(said.contains(&endpoint) && said.contains("next:"), "{said}");
        assert!(!said.contains('\u{1b}'), "a pipe gets no colours: {said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn values_never_appear_in_messages() {
    let (_listener, endpoint) = silent_endpoint();
    let output = run(&["set", "key", "s3cr3t-v4lue", "--endpoints", &endpoint, "--timeout", "300ms"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!stderr(&output).contains("s3cr3t-v4lue"));
}

#[test]
fn a_typo_in_the_configuration_names_file_line_and_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mokv.yaml");
    std::fs::write(&file, "node-name: alpha\nbind-adr: 127.0.0.1:1\n").unwrap();
    let file = file.to_str().unwrap();
    for args in [vec!["serve", "--config-file", file], vec!["--config-file", file]] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        assert!(said.contains(&format!("{file} line 2: bind-adr")) && said.contains("'bind-addr'"), "{said}");
    }
}

#[test]
fn wipe_without_a_terminal_and_without_yes_deletes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("identity"), b"x").unwrap();
    let [rpc, gossip] = free_ports();
    let output = run(&[
        "serve",
        "--wipe",
        "--data-dir",
        directory.path().to_str().unwrap(),
        "--bind-addr",
        &format!("127.0.0.1:{gossip}"),
        "--rpc-port",
        &rpc.to_string(),
    ]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("--yes"));
    assert!(directory.path().join("identity").exists());
}

fn free_ports() -> [u16; 2] {
    let listeners = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

#[test]
fn dev_names_all_ports_in_use_before_it_starts_anything() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    // Two ports two apart, which are the RPC ports of two nodes.
    let (base, _listeners) = (20_000..60_000)
        .step_by(7)
        .find_map(|base: u16| {
            let taken = [base, base + 2].map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
            taken.iter().all(Option::is_some).then_some((base, taken))
        })
        .expect("some port is free");
    let output = run(&["dev", "--base-port", &base.to_string(), "--data-dir", data_dir.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains(&format!("127.0.0.1:{base} (node-1 rpc)")), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{} (node-2 rpc)", base + 2)), "{said}");
    assert!(!data_dir.exists(), "nothing was written");
}

/// Starts `mokv dev` on ports that are free; with the process ids of its nodes.
#[cfg(target_os = "linux")]
fn start_dev(data_dir: &str) -> (Child, Vec<String>) {
    for base in (21_000..60_000).step_by(211) {
        let base = base.to_string();
        let mut dev = mokv(&["dev", "--base-port", &base, "--data-dir", data_dir])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(dev.stdout.take().unwrap()).lines().map(Result::unwrap);
        let nodes = lines.skip_while(|line| !line.starts_with("NODE")).skip(1).take(3);
        let pids: Vec<String> =
            nodes.map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect();
        if pids.len() == 3 {
            return (dev, pids);
        }
        dev.wait().unwrap();
    }
    panic!("no free ports for a cluster");
}

/// Waits until the process is gone, or dead and only waiting for somebody to notice.
#[cfg(target_os = "linux")]
fn wait_until_ended(pid: &str) {
    while let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        if stat.rsplit(") ").next().unwrap().starts_with('Z') {
            return;
        }
        #[allow(clippy::disallowed_methods)] // A test of real processes waits in real time.
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_nodes_of_dev_end_when_dev_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut dev, pids) = start_dev(directory.path().to_str().unwrap());
    dev.kill().unwrap();
    dev.wait().unwrap();
    pids.iter().for_each(|pid| wait_until_ended(pid));
}

#[test]
#[cfg(target_os = "linux")]
fn dev_stops_its_nodes_and_itself_on_sigterm_and_keeps_their_files() {
    let directory = tempfile::tempdir().unwrap();
    let (mut dev, pids) = start_dev(directory.path().to_str().unwrap());
    let pid = rustix::process::Pid::from_child(&dev);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(dev.wait().unwrap().code(), Some(0));
    for (pid, node) in pids.iter().zip(["node-1", "node-2", "node-3"]) {
        wait_until_ended(pid);
        assert!(directory.path().join(format!("{node}.yaml")).exists());
    }
}
