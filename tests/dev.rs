//! `mokv dev`: a cluster on one machine by one command, which leaves no process running when it ends.

#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use common::ports::PortBlock;
use common::{assert_no_panic, run, wait_for};
use mokv::client::Client;
use rustix::process::{Pid, Signal, kill_process};

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// A running `mokv dev`. It is killed when dropped, and its nodes end with it.
struct Dev {
    process: Child,
    /// Its standard output, line by line.
    lines: std::sync::mpsc::Receiver<String>,
    said: Vec<String>,
    endpoints: Vec<String>,
}

impl Dev {
    /// Starts it and reads the pids of its nodes. To be called on the test's own thread.
    fn start(data_dir: &Path, ports: &PortBlock) -> (Dev, Vec<String>) {
        let base = ports.first();
        let mut process =
            dev(data_dir, base).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::sync_channel(1000);
        mokv::rt::spawn(mokv::rt::spawn_blocking(move || {
            // Until the process ends, or the receiver is dropped.
            output.lines().map_while(Result::ok).take_while(|line| sender.send(line.clone()).is_ok()).count()
        }));
        let endpoints = (0..3).map(|i| format!("127.0.0.1:{}", base + 2 * i)).collect();
        let mut dev = Dev { process, lines, said: Vec::new(), endpoints };
        let table = dev.read_until("CONFIGURATION");
        assert!(table.contains("NODE") && table.contains("PID"), "{table}");
        let pids = NODES.map(|node| {
            let row = dev.read_until(node);
            assert!(row.contains(&format!("{node}.yaml")), "{row}");
            row.split_whitespace().nth(1).unwrap().to_owned()
        });
        (dev, pids.to_vec())
    }

    /// Returns the next line that contains `text`.
    fn read_until(&mut self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(common::LIMIT);
            let line = line.unwrap_or_else(|_| panic!("'{text}' was never said after {:#?}", self.said));
            self.said.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    fn client(&self) -> Client {
        let builder = Client::builder().endpoints(self.endpoints.clone());
        builder.timeout(common::cluster::PATIENCE).build().unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        let Dev { process, .. } = self;
        wait_for("mokv dev ends", async || process.try_wait().unwrap()).await
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn dev(data_dir: &Path, base: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
    command.args(["dev", "--base-port", &base.to_string(), "--data-dir"]).arg(data_dir).stdin(Stdio::null());
    command
}

/// Waits until the process is gone, or is a zombie with no other thread. Its first thread ends before the others, and
/// the ports stay in use as long as one of them runs.
async fn wait_until_ended(pid: &str) {
    wait_for(&format!("process {pid} ends"), async || {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return Some(()) };
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Some(()) };
        (stat.rsplit(") ").next().unwrap().starts_with('Z') && threads.count() <= 1).then_some(())
    })
    .await;
}

/// Ports for a development cluster: its metrics ports are far below the others, and may be in use by other programs.
fn free_ports() -> PortBlock {
    PortBlock::take_where(|base| {
        base > 15_500
            && [4400, 4397, 4394].iter().all(|below| TcpListener::bind(("127.0.0.1", base - below)).is_ok())
    })
}

#[test]
fn dev_names_the_leader_stops_all_on_ctrl_c_and_finds_the_data_again() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let ports = free_ports();
        let (mut dev, pids) = Dev::start(directory.path(), &ports);
        let leads = dev.read_until(" leads.");
        assert!(NODES.iter().any(|node| leads == format!("{node} leads.")), "{leads}");
        let command = dev.read_until(" set greeting hello");
        dev.read_until("Ctrl-C stops all nodes and keeps their data.");
        // The command that it prints works as it is.
        let output = Command::new("sh").args(["-c", command.trim()]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        let client = dev.client();
        let read = client.get("greeting").await.unwrap();
        assert_eq!(read.entry.unwrap().value, &b"hello"[..]);
        dev.signal(Signal::INT);
        assert_eq!(dev.ended().await.code(), Some(0));
        for (pid, node) in pids.iter().zip(NODES) {
            wait_until_ended(pid).await;
            let log = std::fs::read_to_string(directory.path().join(format!("{node}.log"))).unwrap();
            assert!(log.contains("stopped"), "{node} stopped cleanly: {log}");
            assert_no_panic(&log);
            assert!(directory.path().join(format!("{node}.yaml")).exists());
        }
        dev.read_until("All nodes are stopped.");

        let (mut dev, _) = Dev::start(directory.path(), &ports);
        dev.read_until(" leads.");
        let read = dev.client().get("greeting").await.unwrap();
        assert_eq!(read.entry.unwrap().value, &b"hello"[..]);
        // The other signal that asks a process to stop.
        dev.signal(Signal::TERM);
        assert_eq!(dev.ended().await.code(), Some(0));
    });
}

#[test]
fn when_dev_is_killed_its_nodes_end_too_and_nothing_acknowledged_is_lost() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let ports = free_ports();
        let (mut dev, pids) = Dev::start(directory.path(), &ports);
        let client = dev.client();
        client.set("key", "value").await.unwrap();
        dev.process.kill().unwrap();
        dev.process.wait().unwrap();
        for pid in &pids {
            wait_until_ended(pid).await;
        }
        let (dev, _) = Dev::start(directory.path(), &ports);
        let read = dev.client().get("key").await.unwrap();
        assert_eq!(read.entry.unwrap().value, &b"value"[..]);
    });
}

#[test]
fn dev_reports_a_node_that_ended_and_how_to_start_it_again() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let ports = free_ports();
        let (mut dev, pids) = Dev::start(directory.path(), &ports);
        dev.read_until(" leads.");
        let victim = pids[0].parse().ok().and_then(Pid::from_raw).unwrap();
        kill_process(victim, Signal::KILL).unwrap();
        let line = dev.read_until("node-1 was ended by signal 9.");
        assert!(line.contains("node-1.log"), "{line}");
        let (_, command) = line.split_once("Start it again: ").unwrap();
        assert!(command.contains("serve --config-file"), "{line}");
        // The other nodes go on, and the printed command starts the ended one again.
        let client = dev.client();
        client.set("key", "value").await.unwrap();
        let mut words = command.split(' ');
        let mut again = Command::new(words.next().unwrap());
        again.args(words).args(["--exit-with-parent", &std::process::id().to_string()]);
        let mut again =
            again.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let endpoint = dev.endpoints[0].clone();
        wait_for("node-1 is back", async || {
            let status = client.status(&endpoint).await.ok()?;
            (status.leader.is_some() && status.keys == 1).then_some(())
        })
        .await;
        again.kill().unwrap();
        again.wait().unwrap();
    });
}

#[test]
fn all_ports_in_use_are_named_in_one_error_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let ports = free_ports();
    let base = ports.first();
    // One port of each kind, of different nodes.
    let rpc = TcpListener::bind(("127.0.0.1", base + 2)).unwrap();
    let gossip = UdpSocket::bind(("127.0.0.1", base + 5)).unwrap();
    let metrics = TcpListener::bind(("127.0.0.1", base - 4400 + 3)).unwrap();
    let output = dev(&data_dir, base).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    for (port, purpose) in
        [(base + 2, "node-2 rpc"), (base + 5, "node-3 gossip"), (base - 4397, "node-2 metrics")]
    {
        assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains(purpose), "{said}");
    }
    assert_eq!(said.matches("error:").count(), 1, "{said}");
    assert!(said.contains("--base-port"), "{said}");
    assert!(!data_dir.exists(), "nothing was written");
    drop((rpc, gossip, metrics));
}

#[test]
fn a_cluster_that_runs_keeps_its_directory_and_its_files() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let (ports, others) = (free_ports(), free_ports());
        let (mut running, _) = Dev::start(directory.path(), &ports);
        running.read_until(" leads.");
        let files =
            || NODES.map(|node| std::fs::read(directory.path().join(format!("{node}.yaml"))).unwrap());
        let before = files();
        let output = dev(directory.path(), others.first()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for node in NODES {
            assert!(said.contains(&format!("{}", directory.path().join(node).display())), "{said}");
        }
        assert!(said.contains("nothing was started") && said.contains("--data-dir"), "{said}");
        assert_eq!(files(), before);
    });
}
