//! Bounded memory and files: what a node keeps on its disk and in its log is bounded by its configuration, however long
//! it runs and whatever faults it meets.
//!
//! The bounds are those that the product guarantees: two snapshots, the log behind the older of them, spare segments
//! prepared in advance, a bounded table of sessions, and tasks that last as long as a peer, a connection or a request.
//! Each has a margin for what is under way, and no margin grows with time.

use super::{Finding, Findings};

const NAME: &str = "bounded memory and files";

/// Snapshots that are kept, and a new one before the oldest is removed.
const SNAPSHOTS: usize = 3;
/// Snapshots being written or received at a time: one of its own, one from a peer, one being installed.
const UNFINISHED_SNAPSHOTS: usize = 3;
/// Spare segments: prepared in advance, being prepared, and the copy that recovery makes.
const SPARES: u64 = 2 + 2;
/// And recycled ones, or as many as the log has segments.
const RECYCLED: u64 = 4;
/// The identity file, and the new one that is about to replace it.
const IDENTITIES: usize = 2;
/// Bytes of entries that arrive while a small snapshot is written to a slow disk. A large one is written at a bounded rate,
/// which clients do not exceed: as many bytes arrive as it has.
const BYTES_UNDER_WAY: u64 = 1_000_000;
/// Most bytes of a record besides its payload.
const RECORD_BYTES: u64 = 96;
/// The active segment, one that is being retired, and two that truncated entries and votes may fill.
const EXTRA_SEGMENTS: u64 = 4;
/// Tasks of a node: its own, Raft's, and those of its clients' requests.
const OWN_TASKS: u64 = 100;
/// Tasks for each other node: connections in both directions, and Raft's tasks for it.
const TASKS_OF_A_PEER: u64 = 20;

/// The bounds that the configuration sets.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Payload bytes of the log after which a snapshot is taken at the latest.
    pub snapshot_log_bytes: u64,
    /// Size of a segment, in bytes.
    pub segment_bytes: u64,
    /// Most sessions, by the cluster's settings.
    pub sessions: u64,
    /// Number of other nodes.
    pub peers: u64,
}

/// What a node holds at one moment.
#[derive(Debug, Clone, Default)]
pub struct Footprint {
    /// The node.
    pub node: String,
    /// Names of its files, and their lengths in bytes.
    pub files: Vec<(String, u64)>,
    /// Number of entries in its log and bytes of their payloads; `None`: not measured.
    pub log: Option<(u64, u64)>,
    /// Number of sessions in its state.
    pub sessions: u64,
    /// Number of tasks on its host.
    pub tasks: u64,
}

/// Checks one node at one moment.
pub fn check(footprint: &Footprint, bounds: Bounds) -> Findings {
    let mut excesses: Vec<String> = Vec::new();
    let mut most = |what: &str, found: u64, bound: u64| {
        if found > bound {
            excesses.push(format!("{found} {what}, {bound} at most"));
        }
    };
    let mut counts = [0usize; 5];
    let mut unknown = Vec::new();
    let mut largest_snapshot = 0;
    for (name, bytes) in &footprint.files {
        if class(name) == Some(Class::Snapshot) {
            largest_snapshot = largest_snapshot.max(*bytes);
        }
        match class(name) {
            Some(Class::SetAside) => {}
            Some(class) => counts[class as usize] += 1,
            None => unknown.push(name.as_str()),
        }
    }
    let count = |class: Class| counts[class as usize] as u64;
    most("snapshots", count(Class::Snapshot), SNAPSHOTS as u64);
    most("unfinished snapshots", count(Class::Unfinished), UNFINISHED_SNAPSHOTS as u64);
    let segments = count(Class::Segment);
    most("spare segments", count(Class::Spare), SPARES + RECYCLED.max(segments + EXTRA_SEGMENTS));
    most("identity files", count(Class::Identity), IDENTITIES as u64);
    most("sessions", footprint.sessions, bounds.sessions);
    most("tasks", footprint.tasks, OWN_TASKS + bounds.peers * TASKS_OF_A_PEER);
    if let Some((entries, bytes)) = footprint.log {
        // Two snapshots are kept with the log behind the older one, and a third is under way.
        let under_way = BYTES_UNDER_WAY.max(largest_snapshot);
        most("bytes in the log", bytes, 3 * bounds.snapshot_log_bytes + under_way);
        // Of two consecutive segments at least one is half full: one is closed only if the next batch does not fit.
        let records = bytes + entries * RECORD_BYTES;
        most("segments", segments, 2 * records.div_ceil(bounds.segment_bytes) + EXTRA_SEGMENTS);
    }
    if !unknown.is_empty() {
        excesses.push(format!("files that nobody knows: {}", unknown.join(", ")));
    }
    if excesses.is_empty() {
        return Findings::new();
    }
    let words = format!("{} has {}", footprint.node, excesses.join("; "));
    vec![Finding::violation(NAME, words)]
}

/// The class of a file, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Segment,
    Spare,
    Snapshot,
    Unfinished,
    Identity,
    /// What a node set aside of an earlier incarnation: kept on purpose, until a person removes it.
    SetAside,
}

fn class(name: &str) -> Option<Class> {
    let temporary = name.ends_with(".tmp");
    match name {
        "identity" | "identity.tmp" => Some(Class::Identity),
        _ if name.starts_with("left-") => Some(Class::SetAside),
        _ if name.starts_with("log-") && name.ends_with(".wal") => Some(Class::Segment),
        _ if name.starts_with("log-") && temporary => Some(Class::Spare),
        _ if name.starts_with("snapshot-") && name.ends_with(".snap") => Some(Class::Snapshot),
        _ if name.starts_with("snapshot-") && temporary => Some(Class::Unfinished),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { snapshot_log_bytes: 1_000, segment_bytes: 1_000, sessions: 5, peers: 2 };

    fn files(names: &[(&str, u32)]) -> Vec<(String, u64)> {
        let many = |(name, count): &(&str, u32)| {
            let (begin, end) = name.split_once('*').unwrap_or((name, ""));
            (0..*count).map(|number| (format!("{begin}{number}{end}"), 10)).collect::<Vec<_>>()
        };
        names.iter().flat_map(many).chain([("identity".to_owned(), 10)]).collect()
    }

    fn said(footprint: Footprint) -> String {
        check(&footprint, BOUNDS).first().map_or_else(String::new, ToString::to_string)
    }

    #[test]
    fn a_node_in_its_bounds_is_fine_and_each_excess_is_named() {
        let normal =
            [("log-*.wal", 4), ("log-spare-*.tmp", 6), ("snapshot-*.snap", 2), ("left-7-log-*.wal", 50)];
        let fine = Footprint {
            node: "n1".into(),
            files: files(&normal),
            log: Some((300, 3_000)),
            sessions: 5,
            tasks: 100,
        };
        assert_eq!(said(fine.clone()), "");
        let with = |more: (&str, u32)| Footprint { files: files(&[more]), ..fine.clone() };
        for (broken, expected) in [
            (with(("snapshot-*.snap", 4)), "4 snapshots, 3 at most"),
            (with(("snapshot-*.tmp", 9)), "9 unfinished snapshots"),
            (with(("log-spare-*.tmp", 20)), "20 spare segments"),
            (with(("log-*.wal", 500)), "500 segments"),
            (with(("core.*", 1)), "files that nobody knows: core.0"),
            (Footprint { sessions: 6, ..fine.clone() }, "6 sessions, 5 at most"),
            (Footprint { tasks: 1_000, ..fine.clone() }, "1000 tasks, 140 at most"),
            (Footprint { log: Some((300, 1_003_001)), ..fine.clone() }, "1003001 bytes in the log"),
        ] {
            assert!(said(broken.clone()).contains(expected), "{}", said(broken));
        }
        let large = vec![("snapshot-1.snap".to_owned(), 2_000_000)];
        let with = |bytes| Footprint { files: large.clone(), log: Some((300, bytes)), ..fine.clone() };
        assert_eq!(said(with(2_003_000)), "", "as many bytes arrive as a large snapshot has");
        assert!(said(with(2_003_001)).contains("2003001 bytes in the log"));
    }
}
