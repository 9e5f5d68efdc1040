//! The command in a user's shell: real processes, their output and their exit codes, without a cluster.

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

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

/// An address of this machine that never answers: the listener keeps others from taking the port, and its connections
/// are never accepted.
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
    assert_eq!(run(&["version"]).stdout, run(&["--version"]).stdout);
}

#[test]
fn shells_get_a_script_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completion", shell]);
        assert!(script.status.success());
        assert!(String::from_utf8_lossy(&script.stdout).contains("transfer-leader"), "{shell}");
    }
    assert_eq!(run(&["completion", "cmd"]).status.code(), Some(2));
}

#[test]
fn a_cluster_that_does_not_answer_exits_with_6_and_says_what_to_do() {
    let (_listener, endpoint) = silent_endpoint();
    for command in [vec!["get", "key"], vec!["list"], vec!["members"], vec!["status"]] {
        let output = run(&[&command[..], &["--endpoints", &endpoint, "--timeout", "300ms"]].concat());
        assert_eq!(output.status.code(), Some(6), "{command:?}");
        let said = stderr(&output);
        assert!(said.contains(&endpoint) && said.contains("next:"), "{said}");
        assert!(!said.contains('\u{1b}'), "a pipe gets no colours: {said}");
        assert!(output.stdout.is_empty());
    }
}

/// If all ten thousand requests of a measurement had to time out, it would print nothing for most of an hour.
#[test]
fn a_measurement_ends_when_no_node_answers_and_reports_why() {
    let (_listener, endpoint) = silent_endpoint();
    for mode in [vec!["put"], vec!["put", "--duration=1h"], vec!["get"], vec!["mixed", "--clients=8"]] {
        let args = [&["bench"], &mode[..], &["--endpoints", &endpoint, "--timeout", "300ms"]].concat();
        let output = run(&args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(6), "{mode:?}: {said}");
        assert!(said.contains(&endpoint) && said.contains("within 300ms"), "{mode:?}: {said}");
    }
}

#[test]
fn values_never_appear_in_messages() {
    let (_listener, endpoint) = silent_endpoint();
    let output = run(&["set", "key", "s3cr3t-v4lue", "--endpoints", &endpoint, "--timeout", "300ms"]);
    assert_eq!(output.status.code(), Some(6));
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

#[test]
fn a_typo_in_a_variable_is_refused_with_what_was_meant() {
    let output = mokv(&["serve"]).env("MOKV_RCP_PORT", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("MOKV_RCP_PORT: there is no such setting"), "{}", stderr(&output));
    assert!(stderr(&output).contains("MOKV_RPC_PORT"));
}

fn free_ports() -> [u16; 2] {
    let listeners = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
