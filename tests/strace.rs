//! What is on disk before an answer is sent: system calls of the real binary, recorded and checked.
//!
//! `kill -9` proves nothing about fsync, since the page cache survives it. So three nodes run under strace while a
//! client writes, and the recording has to show that no answer was sent before the syncs that it relies on had
//! returned. The check itself is tested, too: the same recordings with their syncs removed or moved must fail.

mod common;
#[path = "strace/judge.rs"]
mod judge;
#[path = "strace/trace.rs"]
mod trace;
#[path = "strace/wire.rs"]
mod wire;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::cluster::{Cluster, MANY_SNAPSHOTS};
use common::{run, wait_for};
use judge::{MARK, MARK_DIGITS, Place, Rule, Seen, Violation, judge};
use mokv_proto::api;
use rustix::process::{Pid, Signal, kill_process};

/// Small segments, and snapshots as early as possible, so that a short recording has every kind of change in it.
const SETTINGS: [&str; 5] = [
    "max-value-bytes: 8KiB",
    "max-request-bytes: 32KiB",
    "log-segment-bytes: 64KiB",
    MANY_SNAPSHOTS,
    "log-level: warn",
];
const WRITES: usize = 360;
const VALUE_BYTES: usize = 1500;

/// Whether strace works here: some containers have it but forbid tracing. If not, prints a message; in continuous
/// integration it must work.
fn strace_is_here() -> bool {
    let mut trial = Command::new("strace");
    trial.args(["-f", "--seccomp-bpf", "-yy", "-o", "/dev/null", "true"]);
    let here = trial.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if here.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci.is_empty()),
        "strace is missing or may not trace, and CI is set: install it (apt-get install strace), allow ptrace"
    );
    // Written past the test harness, which would capture it.
    let stderr = std::fs::OpenOptions::new().append(true).open("/dev/stderr");
    let note = "\n*** SKIPPED: strace is not installed or may not trace: that answers wait for fdatasync was NOT checked. \
                Install it (apt-get install strace) and run: cargo test --test strace ***\n";
    if let Ok(mut stderr) = stderr {
        let _ = std::io::Write::write_all(&mut stderr, note.as_bytes());
    }
    false
}

/// Nodes under one strace: a shell starts them, and they end with it.
struct Recorded(Child);

impl Recorded {
    fn start(cluster: &Cluster, recording: &Path) -> Recorded {
        let script = "for file in \"$@\"; do \
                      \"$MOKV\" serve --config-file \"$file\" --exit-with-parent $$ 2>>\"${file%.yaml}.log\" & done; wait";
        let mut command = Command::new("strace");
        // -D: strace stays in the background, so that the shell is our own child.
        command.args([
            "-D",
            "-f",
            "--seccomp-bpf",
            "-ttt",
            "-yy",
            "-xx",
            "-s",
            "32768",
            "-e",
            trace::CALLS,
            "-o",
        ]);
        command.arg(recording).args(["sh", "-c", script, "sh"]);
        command.args(cluster.nodes.iter().map(|node| &node.config_file));
        command.env("MOKV", env!("CARGO_BIN_EXE_mokv")).stdin(Stdio::null());
        Recorded(command.spawn().unwrap())
    }

    /// Ends the shell, and with it the nodes, which stop as on SIGTERM. Waits until the recording is complete.
    async fn stop(mut self, cluster: &Cluster, recording: &Path) -> String {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        self.0.wait().unwrap();
        for node in &cluster.nodes {
            wait_for("the nodes stop", async || std::net::TcpListener::bind(&node.rpc).ok()).await;
        }
        // strace writes the ends of processes last.
        wait_for("the recording is complete", async || {
            let text = String::from_utf8(std::fs::read(recording).unwrap()).ok()?;
            let ends = text.lines().filter(|line| line.ends_with("+++ exited with 0 +++"));
            let tasks: std::collections::BTreeSet<&str> = tasks(&text);
            let ended = ends.count() + text.lines().filter(|line| line.contains("+++ killed by ")).count();
            (ended >= tasks.len()).then_some(text.clone())
        })
        .await
    }
}

/// The processes and threads in the recording.
fn tasks(text: &str) -> std::collections::BTreeSet<&str> {
    text.lines().filter_map(|line| line.split(' ').next()).collect()
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // It may have ended by itself. The nodes end with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mark(number: usize) -> String {
    format!("{}{number:0width$}", std::str::from_utf8(MARK).unwrap(), width = MARK_DIGITS)
}

/// Records three nodes while a client of each writes, one write at a time.
async fn record() -> (String, Vec<Place>) {
    let cluster = Cluster::prepare(3, &SETTINGS);
    let recording = cluster.path("recording");
    let recorded = Recorded::start(&cluster, &recording);
    for node in &cluster.nodes {
        node.wait_status("it knows a leader", |status| status.leader.is_some()).await;
    }
    let mut clients = Vec::new();
    for node in &cluster.nodes {
        clients.push(node.connect().await.kv());
    }
    for number in 0..WRITES {
        let value = format!("{:-<VALUE_BYTES$}", mark(number));
        let request = api::SetRequest {
            key: format!("key-{}", number % 50).into(),
            value: value.into_bytes().into(),
            ..api::SetRequest::default()
        };
        let client = &mut clients[number % 3];
        // Refused while the machine is busy and a leader is elected: retried until it succeeds.
        wait_for("a write is answered", async || client.set(request.clone()).await.ok()).await;
    }
    let directory = |node: &common::node::Node| {
        let path = node.data_dir.canonicalize().unwrap();
        path.to_str().unwrap().to_owned()
    };
    let places: Vec<Place> = cluster
        .nodes
        .iter()
        .map(|node| Place { rpc: node.rpc.clone(), directory: directory(node) })
        .collect();
    let text = recorded.stop(&cluster, &recording).await;
    (text, places)
}

fn broken(violations: &[Violation]) -> Vec<Rule> {
    let mut rules: Vec<Rule> = violations.iter().map(|violation| violation.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

/// The recording without the lines of some calls, including the lines on which they return.
fn without(text: &str, is_unwanted: impl Fn(&str) -> bool) -> String {
    let mut unfinished = std::collections::BTreeSet::new();
    let kept = text.lines().filter(|line| {
        let task = line.split(' ').next().unwrap_or_default();
        if is_unwanted(line) {
            if line.ends_with("<unfinished ...>") {
                unfinished.insert(task.to_owned());
            }
            return false;
        }
        !(line.contains(" resumed>") && unfinished.remove(task))
    });
    kept.collect::<Vec<_>>().join("\n")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

#[test]
fn no_answer_leaves_before_the_fdatasync_that_covers_it_on_a_quorum() {
    if !strace_is_here() {
        return;
    }
    run(async {
        let (text, places) = record().await;
        let (seen, violations) = judge(&text, &places);
        if !violations.is_empty() {
            let kept = std::env::temp_dir().join("mokv-recording");
            std::fs::write(&kept, &text).unwrap();
            let shown: Vec<String> = violations.iter().take(10).map(Violation::to_string).collect();
            panic!("{} violations in {}:\n{}", violations.len(), kept.display(), shown.join("\n"));
        }
        eprintln!("{seen:?} in {} calls", text.lines().count());
        assert_eq!(seen.answers, WRITES, "every write and its answer were seen");
        assert!(seen.votes >= 1, "{seen:?}");
        assert!(seen.activated_segments > 6 && seen.retired_segments > 0 && seen.snapshots > 3, "{seen:?}");

        // As of a binary that syncs nothing, or on one node only, or too late.
        let no_sync = without(&text, |line| line.contains(" fdatasync("));
        assert!(broken(&judge(&no_sync, &places).1).starts_with(&[Rule::Answer, Rule::Vote]));
        for survivor in &places {
            let others = places.iter().filter(|place| place.rpc != survivor.rpc);
            let others: Vec<String> =
                others.map(|place| hexadecimal(format!("{}/", place.directory).as_bytes())).collect();
            let lonely = without(&text, |line| {
                line.contains(" fdatasync(") && others.iter().any(|other| line.contains(other))
            });
            assert!(broken(&judge(&lonely, &places).1).contains(&Rule::Answer), "{}", survivor.rpc);
        }
        let is_sync = |line: &str| line.contains(" fdatasync(");
        let late = without(&text, is_sync)
            + "\n"
            + &text.lines().filter(|line| is_sync(line)).collect::<Vec<_>>().join("\n");
        assert!(broken(&judge(&late, &places).1).contains(&Rule::Answer));
        // As of a binary that does not sync the directory.
        let directories: Vec<String> =
            places.iter().map(|place| format!("<{}>", hexadecimal(place.directory.as_bytes()))).collect();
        let no_directory = without(&text, |line| {
            line.contains(" fsync(") && directories.iter().any(|directory| line.contains(directory))
        });
        assert!(broken(&judge(&no_directory, &places).1).contains(&Rule::Directory));
    });
}

// ---- the check, tested without strace ----

/// A recording written by hand, one call per line.
#[derive(Default, Clone)]
struct Script(Vec<String>);

impl Script {
    fn call(mut self, text: String) -> Script {
        self.0.push(format!("7 1.0 {text}"));
        self
    }

    fn write(self, file: &str, bytes: &[u8]) -> Script {
        let call =
            format!("pwrite64(3<{}>, \"{}\", 1, 0) = 1", hexadecimal(file.as_bytes()), hexadecimal(bytes));
        self.call(call)
    }

    fn sync(self, call: &str, file: &str) -> Script {
        self.call(format!("{call}(3<{}>) = 0", hexadecimal(file.as_bytes())))
    }

    fn rename(self, from: &str, to: &str) -> Script {
        let [from, to] = [from, to].map(|path| hexadecimal(path.as_bytes()));
        self.call(format!("rename(\"{from}\", \"{to}\") = 0"))
    }

    fn over(self, call: &str, port: u16, bytes: &[u8]) -> Script {
        let (text, length) = (hexadecimal(bytes), bytes.len());
        self.call(format!("{call}(9<TCP:[n1:1->c:{port}]>, \"{text}\", {length}, 0) = {length}"))
    }

    /// A client's request with this mark; its answer comes later.
    fn request(self, number: usize) -> Script {
        let body = mark(number).into_bytes();
        let frame = [&[0, 0, body.len() as u8, wire::DATA, 1, 0, 0, 0, 1], &body[..]].concat();
        self.over("recvfrom", 5, &[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame].concat())
    }

    fn answer(self) -> Script {
        self.over("writev", 5, &[0, 0, 1, wire::HEADERS, 4, 0, 0, 0, 1, 0x88])
    }

    fn broken(&self) -> (Seen, Vec<Rule>) {
        let place = |n: u8| Place { rpc: format!("n{n}:1"), directory: format!("/n{n}") };
        let (seen, violations) = judge(&self.0.join("\n"), &[1, 2, 3].map(place));
        (seen, broken(&violations))
    }
}

const SEGMENT: &str = "log-0000000000000001.wal";

#[test]
fn the_check_requires_a_quorum_of_syncs_between_the_write_and_the_answer() {
    let file = |n: u8| format!("/n{n}/{SEGMENT}");
    let write = |script: Script, n: u8| script.write(&file(n), mark(3).as_bytes());
    let sync = |script: Script, n: u8| script.sync("fdatasync", &file(n));
    let asked = Script::default().request(3);
    let good = sync(write(sync(write(asked.clone(), 1), 1), 2), 2).answer();
    assert_eq!(good.broken(), (Seen { answers: 1, ..Seen::default() }, vec![]));
    let one_sync = write(sync(write(asked.clone(), 1), 1), 2).answer();
    assert_eq!(one_sync.broken().1, [Rule::Answer]);
    let late = sync(write(sync(write(asked.clone(), 1), 1), 2).answer(), 2);
    assert_eq!(late.broken().1, [Rule::Answer], "after the answer is too late");
    let early = write(sync(sync(write(asked.clone(), 1), 1), 2), 2).answer();
    assert_eq!(early.broken().1, [Rule::Answer], "a sync covers what was written before it");
    let failed = write(sync(write(asked, 1), 1), 2);
    let failed = failed.call(format!("fdatasync(3<{}>) = -1 EIO", hexadecimal(file(2).as_bytes()))).answer();
    assert_eq!(failed.broken().1, [Rule::Answer], "a failed sync is none");
}

#[test]
fn the_check_requires_the_name_of_a_new_segment_to_be_durable() {
    let begin = |script: Script, n: u8| {
        let (spare, live) = (format!("/n{n}/log-spare-0000000000000001.tmp"), format!("/n{n}/{SEGMENT}"));
        script.write(&spare, mark(3).as_bytes()).sync("fdatasync", &spare).rename(&spare, &live)
    };
    let asked = Script::default().request(3);
    let good = begin(begin(asked.clone(), 1).sync("fsync", "/n1"), 2).sync("fsync", "/n2").answer();
    assert_eq!(good.broken().1, []);
    let unnamed = begin(begin(asked.clone(), 1).sync("fsync", "/n1"), 2).answer().sync("fsync", "/n2");
    assert_eq!(unnamed.broken().1, [Rule::Answer]);
    let written_again = begin(asked, 1).write(&format!("/n1/{SEGMENT}"), b"next").sync("fsync", "/n1");
    assert_eq!(written_again.broken().1, [Rule::Directory]);
    let forgotten = Script::default().rename("/n1/identity.tmp", "/n1/identity");
    assert_eq!(forgotten.broken().1, [Rule::Directory]);
}

#[test]
fn the_check_lets_a_node_that_stops_end_before_a_sync_on_which_nothing_relies() {
    let stop = || Script::default().call("--- SIGTERM {si_signo=SIGTERM, si_code=SI_USER} ---".to_owned());
    let publish = |script: Script, n: u8| {
        script.rename(&format!("/n1/snapshot-{n}.tmp"), &format!("/n1/snapshot-{n}.snap"))
    };
    assert_eq!(publish(stop(), 1).broken().1, []);
    assert_eq!(
        publish(publish(stop(), 1), 2).broken().1,
        [Rule::Directory],
        "the second relies on the first"
    );
    let before = publish(Script::default(), 1).call("--- SIGTERM {si_signo=SIGTERM} ---".to_owned());
    assert_eq!(before.broken().1, [Rule::Directory]);
}

#[test]
fn the_check_requires_votes_to_be_durable_before_they_are_granted() {
    use mokv_proto::raft::{Request, Response, Vote, VoteAnswer, VoteState, request, response};
    use prost::Message;
    let frame = |message: &[u8]| [&(message.len() as u32).to_le_bytes()[..], message].concat();
    let vote = VoteState { term: 4, node_id: 77_777_777_777, committed: false };
    let asks =
        Request { id: 1, body: Some(request::Body::Vote(Vote { vote: Some(vote), ..Vote::default() })) };
    let granted = VoteAnswer { vote: Some(vote), granted: true, ..VoteAnswer::default() };
    let grants = Response { id: 1, body: Some(response::Body::Vote(granted)) };
    let hello = [&[1][..], &frame(b""), &frame(b""), &frame(&asks.encode_to_vec())].concat();
    let answer = [frame(b""), frame(b""), frame(&grants.encode_to_vec())].concat();
    let file = format!("/n1/{SEGMENT}");
    let asked = Script::default().over("recvfrom", 6, &hello);
    let saved = |script: Script| script.write(&file, &vote.encode_to_vec());
    let good = saved(asked.clone()).sync("fdatasync", &file).over("sendto", 6, &answer);
    assert_eq!(good.broken(), (Seen { votes: 1, ..Seen::default() }, vec![]));
    let unsynced = saved(asked.clone()).over("sendto", 6, &answer).sync("fdatasync", &file);
    assert_eq!(unsynced.broken().1, [Rule::Vote]);
    let forgotten = asked.over("sendto", 6, &answer);
    assert_eq!(forgotten.broken().1, [Rule::Vote]);
}

#[test]
fn calls_that_others_interrupt_are_put_together_again() {
    let text = "8 1.0 recvfrom(4<TCP:[a:1->b:2]>,  <unfinished ...>\n\
                9 1.1 fdatasync(3<\\x2f\\x61>) = 0\n\
                8 1.2 <... recvfrom resumed>\"\\x68\\x69\", 5, 0, NULL, NULL) = 2\n\
                8 1.3 +++ exited with 0 +++\n";
    let calls = trace::parse(text);
    assert_eq!(calls.len(), 2);
    assert_eq!((calls[0].begin, calls[0].end, calls[0].bytes()), (0, 2, b"hi".to_vec()));
    assert_eq!((calls[1].name.as_str(), calls[1].path()), ("fdatasync", Some("/a")));
}
