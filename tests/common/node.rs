//! One node as a child process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use mokv::client::{Client, NodeStatus};
use rustix::process::{Pid, Signal, kill_process};

use super::direct::Direct;
use super::ports::PortBlock;
use super::wait_for;

/// A node must answer a status request within this, or the request is repeated.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of lines of a node's log that are shown when a test fails.
const SHOWN_LINES: usize = 60;

/// A node: its files, its ports, and its process while it has one.
pub struct Node {
    pub name: String,
    /// `host:port` of gRPC and Raft.
    pub rpc: String,
    /// `host:port` of gossip.
    pub gossip: String,
    /// `host:port` of metrics and probes.
    pub metrics: String,
    pub data_dir: PathBuf,
    pub config_file: PathBuf,
    /// The log of all its processes, one after the other.
    pub log_file: PathBuf,
    process: Option<Child>,
    asks: Client,
}

impl Node {
    /// A node with files in `directory`, never started so far.
    pub fn new(directory: &Path, name: &str, ports: &mut PortBlock) -> Node {
        let [rpc, gossip, metrics] = [(); 3].map(|()| format!("127.0.0.1:{}", ports.next()));
        let asks = Client::builder().endpoints([&rpc]).timeout(ANSWER_TIMEOUT).build().unwrap();
        Node {
            name: name.to_owned(),
            data_dir: directory.join(name),
            config_file: directory.join(format!("{name}.yaml")),
            log_file: directory.join(format!("{name}.log")),
            rpc,
            gossip,
            metrics,
            process: None,
            asks,
        }
    }

    /// Writes its configuration file: its name and addresses, and these lines.
    pub fn configure(&self, settings: &[&str]) {
        let port = |address: &str| address.rsplit_once(':').expect("host:port").1.to_owned();
        let mut text = format!(
            "node-name: {}\ndata-dir: {}\nbind-addr: {}\nrpc-port: {}\nmetrics-port: {}\n",
            self.name,
            self.data_dir.display(),
            self.gossip,
            port(&self.rpc),
            port(&self.metrics),
        );
        for line in settings {
            text.push_str(line);
            text.push('\n');
        }
        std::fs::write(&self.config_file, text).unwrap();
    }

    /// The command that serves this node.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
        command.args(self.arguments());
        command
    }

    /// The arguments of the command.
    pub fn arguments(&self) -> Vec<String> {
        let me = std::process::id().to_string();
        // The node ends when the test's process ends, by whatever signal.
        let words = ["serve", "--config-file", self.config_file.to_str().unwrap(), "--exit-with-parent", &me];
        words.map(str::to_owned).to_vec()
    }

    /// Starts it. To be called on the test's own thread: the node ends with it.
    pub fn start(&mut self) {
        let command = self.command();
        self.start_as(command);
    }

    /// Starts it with another command.
    pub fn start_as(&mut self, command: Command) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log_file).unwrap();
        self.spawn(command, log.try_clone().unwrap(), log);
    }

    /// Starts it with its log going to `stderr` instead of its file.
    pub fn start_saying_to(&mut self, stderr: impl Into<Stdio>) {
        let command = self.command();
        self.spawn(command, Stdio::null(), stderr);
    }

    fn spawn(&mut self, mut command: Command, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        self.process = Some(command.spawn().unwrap());
    }

    /// Whether it has a process whose end has not been observed.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the node runs").id()
    }

    /// Resident memory of its process, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let figures = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        let pages = figures.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
        pages * rustix::param::page_size() as u64
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the node runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Sends its process a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Whether its process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_some())
    }

    /// Waits until its process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let Node { process, name, .. } = self;
        let child = process.as_mut().expect("the node runs");
        let status = wait_for(&format!("{name} ends"), async || child.try_wait().unwrap()).await;
        *process = None;
        status
    }

    /// Sends SIGTERM and waits. Returns how the process ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log_file)
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The warnings and errors in its log so far, which must be JSON.
    ///
    /// # Panics
    /// If its log is not JSON, or has no other lines.
    pub fn complaints(&self) -> Vec<serde_json::Value> {
        let log = self.log();
        let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line));
        let (complaints, said): (Vec<_>, Vec<_>) =
            lines.partition(|line| ["WARN", "ERROR"].contains(&line["level"].as_str().unwrap()));
        assert!(said.iter().any(|line| line["level"] == "INFO"), "{} says what it does", self.name);
        complaints
    }

    /// Its status; `None` if it does not answer.
    pub async fn status(&self) -> Option<NodeStatus> {
        self.asks.status(&self.rpc).await.ok()
    }

    /// Waits until its status is as wanted.
    pub async fn wait_status(&self, what: &str, mut wanted: impl FnMut(&NodeStatus) -> bool) -> NodeStatus {
        let what = format!("{}: {what}", self.name);
        wait_for(&what, async || self.status().await.filter(|status| wanted(status))).await
    }

    /// A connection to this node only.
    pub async fn connect(&self) -> Direct {
        let what = format!("{} listens", self.name);
        wait_for(&what, async || Direct::connect(&self.rpc).await.ok()).await
    }

    /// The names of the files in its data directory, sorted.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.data_dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn show_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        eprintln!("---- {} said, in the end:\n{}", self.name, shown.join("\n"));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_log();
        }
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
