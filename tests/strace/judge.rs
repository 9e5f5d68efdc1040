//! The rules that a recording has to satisfy.
//!
//! - A node sends no answer to a write before the entry is durable on a quorum: written, the file synced after that,
//!   and the file's name durable.
//! - A node grants no vote before the vote is durable.
//! - Every rename and unlink of a file that holds state is followed by a sync of the directory before the next one of
//!   its kind, and a segment that got its name is not written again before that sync. A process that is told to stop may
//!   end before the sync, as long as nothing relies on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prost::Message;

use super::trace::{self, Call};
use super::wire::{self, DATA, END_STREAM, HEADERS};

/// Marks the values of the recorded writes; a number of [`MARK_DIGITS`] digits follows.
pub const MARK: &[u8] = b"recorded-write-";
pub const MARK_DIGITS: usize = 6;

/// A node of the recording.
#[derive(Debug, Clone)]
pub struct Place {
    /// `host:port` of its one port.
    pub rpc: String,
    /// Its data directory.
    pub directory: String,
}

/// A violated rule, with the details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    Answer,
    Vote,
    Directory,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// Counts of what was checked. A check that saw nothing proves nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub answers: usize,
    pub votes: usize,
    pub activated_segments: usize,
    pub retired_segments: usize,
    pub snapshots: usize,
}

/// Checks a recording of all nodes of a cluster.
pub fn judge(text: &str, nodes: &[Place]) -> (Seen, Vec<Violation>) {
    let calls = trace::parse(text);
    let stop = trace::first_stop(text).unwrap_or(usize::MAX);
    let mut judge = Judge { calls: &calls, stop, nodes, seen: Seen::default(), violations: Vec::new() };
    judge.answers();
    judge.votes();
    nodes.iter().for_each(|node| judge.directory(&node.directory));
    (judge.seen, judge.violations)
}

struct Judge<'a> {
    calls: &'a [Call],
    /// The line from which on processes may end.
    stop: usize,
    nodes: &'a [Place],
    seen: Seen,
    violations: Vec<Violation>,
}

impl<'a> Judge<'a> {
    fn violation(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { rule, what });
    }

    fn answers(&mut self) {
        // For each node and write, the line after which the write is durable there.
        let durable: Vec<BTreeMap<u64, usize>> = self.nodes.iter().map(|node| self.durable(node)).collect();
        let quorum = self.nodes.len() / 2 + 1;
        for node in self.nodes {
            for conversation in wire::conversations(self.calls, &node.rpc).values() {
                if !conversation.is_http2() {
                    continue;
                }
                let mut bodies: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
                for frame in conversation.requests().into_iter().filter(|frame| frame.kind == DATA) {
                    bodies.entry(frame.stream).or_default().extend(frame.payload);
                }
                let mut answered = BTreeSet::new();
                for frame in conversation.answers().into_iter().filter(|frame| frame.kind == HEADERS) {
                    // The first headers begin the answer, later ones end it. An error acknowledges nothing.
                    if !answered.insert(frame.stream) || frame.flags & END_STREAM != 0 {
                        continue;
                    }
                    let Some(mark) = bodies.get(&frame.stream).and_then(|body| marks(body).next()) else {
                        continue;
                    };
                    self.seen.answers += 1;
                    let held = durable
                        .iter()
                        .filter(|durable| durable.get(&mark).is_some_and(|line| *line < frame.line))
                        .count();
                    if held < quorum {
                        self.violation(
                            Rule::Answer,
                            format!(
                                "line {}: the answer to write {mark} leaves {} while {held} of {} nodes hold it durably",
                                frame.line + 1,
                                node.rpc,
                                self.nodes.len()
                            ),
                        );
                    }
                }
            }
        }
    }

    /// By mark: the line on which the write became durable on a node.
    fn durable(&self, node: &Place) -> BTreeMap<u64, usize> {
        let mut durable = BTreeMap::new();
        for write in self.log_writes(&node.directory) {
            for mark in marks(&write.strings.concat()) {
                if let Some(line) = self.durable_since(write) {
                    let first = durable.entry(mark).or_insert(line);
                    *first = line.min(*first);
                }
            }
        }
        durable
    }

    fn log_writes(&self, directory: &str) -> impl Iterator<Item = &'a Call> {
        let log = format!("{directory}/log-");
        let is_log = move |call: &&Call| {
            call.name.starts_with("pwrite") && call.path().is_some_and(|path| path.starts_with(&log))
        };
        self.calls.iter().filter(is_log)
    }

    /// The line from which on the bytes of `write` cannot be lost any more.
    fn durable_since(&self, write: &Call) -> Option<usize> {
        let path = write.path()?;
        let is_sync = |call: &&Call| {
            ["fdatasync", "fsync"].contains(&call.name.as_str())
                && call.path() == Some(path)
                && call.result == 0
        };
        let synced = self.after(write.end).find(is_sync)?.end;
        if path.ends_with(".wal") {
            return Some(synced);
        }
        // A start would not look for the file under this name: the rename comes next, and has to be durable, too.
        let named = self.after(synced).find(|call| {
            call.name.starts_with("rename") && call.result == 0 && call.path_argument(0) == Some(path)
        })?;
        self.directory_synced_after(named.end, parent(path))
    }

    /// The calls that were entered after a line.
    fn after(&self, line: usize) -> impl Iterator<Item = &'a Call> {
        let first = self.calls.partition_point(|call| call.begin <= line);
        self.calls[first..].iter()
    }

    fn directory_synced_after(&self, line: usize, directory: &str) -> Option<usize> {
        let is_sync =
            |call: &&Call| call.name == "fsync" && call.path() == Some(directory) && call.result == 0;
        self.after(line).find(is_sync).map(|call| call.end)
    }

    fn votes(&mut self) {
        for node in self.nodes {
            for conversation in wire::conversations(self.calls, &node.rpc).values() {
                if !conversation.is_peer() {
                    continue;
                }
                for (vote, line) in conversation.granted_votes() {
                    self.seen.votes += 1;
                    let record = vote.encode_to_vec();
                    let holds = |write: &&Call| contains(&write.strings.concat(), &record);
                    let durable = self.log_writes(&node.directory).find(holds);
                    let durable = durable.and_then(|write| self.durable_since(write));
                    if durable.is_none_or(|durable| durable > line) {
                        let term = vote.term;
                        self.violation(
                            Rule::Vote,
                            format!(
                                "line {}: {} grants its vote of term {term} before it is durable",
                                line + 1,
                                node.rpc
                            ),
                        );
                    }
                }
            }
        }
    }

    fn directory(&mut self, directory: &str) {
        let changes: Vec<Change> = self.calls.iter().filter_map(|call| Change::of(call, directory)).collect();
        for (number, change) in changes.iter().enumerate() {
            match change.kind {
                Kind::ActivateSegment => self.seen.activated_segments += 1,
                Kind::RetireSegment => self.seen.retired_segments += 1,
                Kind::PublishSnapshot => self.seen.snapshots += 1,
                Kind::RemoveSnapshot | Kind::Identity => {}
            }
            let synced = self.directory_synced_after(change.call.end, directory);
            let next = changes[number + 1..].iter().find(|next| change.kind.precedes(next.kind));
            let written = match change.kind {
                Kind::ActivateSegment => self.log_writes(directory).find(|write| {
                    write.begin > change.call.end && write.path() == Some(change.name.as_str())
                }),
                _ => None,
            };
            let relies = next.map(|next| next.call).into_iter().chain(written).map(|call| call.begin).min();
            let is_cut_off = synced.is_none() && relies.is_none() && change.call.begin > self.stop;
            if !is_cut_off && synced.is_none_or(|synced| relies.is_some_and(|line| line < synced)) {
                self.violation(
                    Rule::Directory,
                    format!(
                        "line {}: {:?} of '{}' is not followed by a sync of the directory before line {:?} relies on it",
                        change.call.begin + 1,
                        change.kind,
                        change.name,
                        relies.map(|line| line + 1)
                    ),
                );
            }
        }
    }
}

/// A change in the directory that a start relies on.
struct Change<'a> {
    kind: Kind,
    /// The path of the file.
    name: String,
    call: &'a Call,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ActivateSegment,
    RetireSegment,
    PublishSnapshot,
    RemoveSnapshot,
    Identity,
}

impl Kind {
    /// Whether a change of this kind must be durable before one of kind `next` begins. Several tasks work concurrently:
    /// segments are retired while another one becomes active.
    fn precedes(self, next: Kind) -> bool {
        match self {
            // Superfluous snapshots may be removed together.
            Kind::RemoveSnapshot => next == Kind::PublishSnapshot,
            Kind::PublishSnapshot => matches!(next, Kind::PublishSnapshot | Kind::RemoveSnapshot),
            same => same == next,
        }
    }
}

impl<'a> Change<'a> {
    fn of(call: &'a Call, directory: &str) -> Option<Change<'a>> {
        if call.result != 0 {
            return None;
        }
        let (from, to) = match call.name.as_str() {
            name if name.starts_with("rename") => (call.path_argument(0)?, call.path_argument(1)),
            name if name.starts_with("unlink") => (call.path_argument(0)?, None),
            _ => return None,
        };
        if parent(from) != directory {
            return None;
        }
        let to = to.unwrap_or_default();
        let (kind, name) = match () {
            () if to.ends_with(".wal") => (Kind::ActivateSegment, to),
            () if from.ends_with(".wal") => (Kind::RetireSegment, from),
            () if to.ends_with(".snap") => (Kind::PublishSnapshot, to),
            () if from.ends_with(".snap") => (Kind::RemoveSnapshot, from),
            () if to.ends_with("/identity") => (Kind::Identity, to),
            // Files that are still being prepared hold no state.
            () => return None,
        };
        Some(Change { kind, name: name.to_owned(), call })
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The numbers of the marked writes in some bytes.
fn marks(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let length = MARK.len() + MARK_DIGITS;
    bytes
        .windows(length)
        .filter(|window| window.starts_with(MARK))
        .filter_map(|window| std::str::from_utf8(&window[MARK.len()..]).ok()?.parse().ok())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
