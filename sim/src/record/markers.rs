//! The table of markers that a sweep must reach at least once, and what each means.
//!
//! Node code sets most of them where they happen (`mokv::rt::sometimes`), the harness a few of its own
//! (`Run::marker`). A sweep of many seeds that never reached a marker that chaos should reach injected too little,
//! and fails. A marker that is missing here, or is never set anywhere, fails a test.

use std::collections::BTreeMap;

/// A sweep of at least this many seeds must reach every marker of [`Reach::Chaos`].
pub const SEEDS_THAT_REACH_ALL: u64 = 1_000;

/// A marker.
#[derive(Debug, Clone, Copy)]
pub struct Marker {
    /// Its name in the code.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Which runs have to reach it.
    pub reach: Reach,
}

/// Which runs have to reach a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// A sweep of chaos.
    Chaos,
    /// A scenario aimed at it; chaos may.
    Scenario,
}

const fn chaos(name: &'static str, meaning: &'static str) -> Marker {
    Marker { name, meaning, reach: Reach::Chaos }
}

const fn scenario(name: &'static str, meaning: &'static str) -> Marker {
    Marker { name, meaning, reach: Reach::Scenario }
}

/// All markers.
pub const ALL: &[Marker] = &[
    // Disk and log.
    chaos("torn tail recovered", "a start dropped records at the end of the log that no sync had covered"),
    chaos("log stopped by a failed write or sync", "the disk failed, and the node stopped for it"),
    chaos("segment rolled", "the log went on in a new segment"),
    chaos("segment retired", "a segment whose entries were purged was given up"),
    chaos("log conflict truncated", "a follower threw away entries that another leader had overruled"),
    scenario(
        "leader contradicts what is committed",
        "a leader's log and what a node knew to be committed belong to two histories",
    ),
    chaos(
        "member that has gone back refused",
        "a node was put back behind what it had acknowledged, and somebody knew",
    ),
    chaos(
        "a minority stayed broken and the others served",
        "nothing was repaired, and clients wrote and read for long",
    ),
    scenario(
        "fallback to an older snapshot",
        "the newest snapshot was damaged, and the one before it helped",
    ),
    scenario("damaged segment given up", "a sealed segment was damaged, and later snapshots stand for it"),
    scenario("damaged snapshot replaced", "a kept snapshot was damaged, and later ones took its place"),
    scenario("rotten state found", "the state in memory was not what had been applied to it"),
    scenario("no snapshot made of a rotten state", "a snapshot was due, and the state in memory was rotten"),
    scenario("damaged node replaced itself", "its leader said that the others can do without it"),
    scenario("damaged node not replaced", "no leader said that the others can do without it"),
    chaos("unfinished snapshot swept up", "a start found a snapshot that a crash had left half-written"),
    chaos(
        "unfinished snapshot dropped",
        "a snapshot was given up while it was written, and its file was removed",
    ),
    scenario("snapshot declined for want of space", "no snapshot was taken, for the disk had no room for it"),
    scenario("snapshot taken to make room", "a disk was nearly full, and a snapshot let old log go"),
    chaos("write refused for a full disk", "a client's write was refused while Raft's own still had room"),
    chaos(
        "power lost with unsynced writes",
        "a machine lost power while something was written and not synced",
    ),
    chaos("power lost just before a sync", "a machine lost power at the instant of a sync"),
    chaos("power lost everywhere", "all machines lost power at once"),
    chaos(
        "crashed at an aimed call of the log",
        "a node died between an append and its sync, or between the sync and the answer",
    ),
    chaos("crashed between vote and answer", "a voter died with its vote written and nobody told"),
    chaos("crashed in a snapshot", "a node died while it built or installed a snapshot"),
    chaos("ambushed", "something befell a node at the very moment in which it reached one of these markers"),
    chaos("killed while recovering", "a process died at a call of its disk soon after its start"),
    chaos("a node lags behind the purge", "the others' logs no longer begin where a node's own ends"),
    chaos(
        "leader lost in the middle of a membership change",
        "a newcomer had just learnt of the joint configuration when the leader lost power",
    ),
    scenario(
        "power lost while a segment was rolled",
        "a machine lost power at a step of going on in a new segment",
    ),
    // Elections and leadership.
    chaos("pre-vote refused", "a node that wanted to stand for election was told that it would not win"),
    chaos("vote refused", "a candidate was refused a vote"),
    chaos("leader changed with uncommitted entries", "a write's entry was discarded by another leader"),
    chaos("leader without a quorum", "no quorum had confirmed a leader for so long that it falls silent"),
    chaos("leadership handed over", "a transfer of leadership was completed"),
    chaos("leadership not handed over", "a transfer of leadership did not come about in time"),
    // Replication.
    chaos("replication made no progress", "a leader broke a stream off, for no append was answered for long"),
    chaos("replication connection rebuilt", "the connection of a replication stream was made anew"),
    chaos("snapshot transfer interrupted", "a leader could not bring a snapshot to its end"),
    scenario("killed while installing a snapshot", "a process died between the steps of installing one"),
    chaos("snapshot installed", "a node replaced its state by a leader's snapshot"),
    chaos("snapshot jumped a gap in the log", "a snapshot took a follower past entries that it never had"),
    chaos("empty node caught up by a snapshot", "a node without any state began with a snapshot"),
    scenario(
        "follower had lost what it acknowledged",
        "a leader noticed that a follower's disk had gone back",
    ),
    scenario(
        "doubted node leads until another one is level",
        "a node whose state is outvoted had the only log with which the cluster could go on",
    ),
    scenario("doubted node handed leadership over", "and another one led as soon as it had all of it"),
    scenario("doubted leader proposed nothing", "meanwhile a client's write came to it"),
    // Writes, reads, sessions.
    chaos("write without a quorum until its deadline", "a leader could not commit a write in its time"),
    chaos("forwarded write not sent", "a follower could not reach the leader: certainly not executed"),
    chaos("forwarded write of unknown outcome", "the connection broke after a forwarded write had left"),
    chaos(
        "answer to an append held back",
        "an append without entries came after it, which it would have answered, too",
    ),
    chaos("read index known", "a read knows what it has to wait for, and has not been answered"),
    chaos("read index retried", "no leader confirmed a read at first, and it was asked again"),
    chaos("reads shared a confirmation", "several reads waited for one round of heartbeats"),
    chaos("stale read waited for its revision", "a node was behind what a client had seen already"),
    chaos("stale read declined for its revision", "a node stayed behind it until the deadline"),
    chaos("read refused because its revision is compacted", "a read asked for more past than is kept"),
    scenario("position of another cluster refused", "a client read on where only another cluster was"),
    chaos("history compacted by its age", "the leader gave up revisions that were there for long enough"),
    chaos("history compacted by its size", "the leader gave up revisions whose versions took too much"),
    chaos("history given up for a full disk", "the leader gave up all revisions but the present one"),
    chaos(
        "transaction kept whole at the end of a page",
        "a client's limit of changes was reached within a transaction, and the rest of it came, too",
    ),
    chaos("client repeats a write in doubt", "a client sent a write again without knowing its fate"),
    chaos("session deduplicated a retry", "a repeated write got its first answer again"),
    scenario("session evicted", "a session had to go, for there were too many"),
    scenario("write of an ended session refused", "a write named a session that was gone"),
    scenario("client lost its session", "a client heard that its session was gone"),
    // Membership and formation.
    chaos("learner added", "the leader added a learner"),
    chaos("learner promoted", "a learner became a voter"),
    chaos("node replaced under its name", "a new id took the place of an old one of the same name"),
    chaos("newcomer not admitted yet", "the leader had a reason not to admit a node"),
    scenario("member removed", "a member was removed for good"),
    scenario("member's address updated", "a member's address in the membership was renewed"),
    chaos("membership change did not go through", "a change of the membership was not committed in its time"),
    chaos("membership taken back", "a membership that was in force was overruled by another leader's log"),
    chaos(
        "snapshot installed over a membership",
        "a snapshot took the place of a membership that was in force and not known to be committed (openraft #1808)",
    ),
    chaos("joint configuration flattened", "a new leader completed a change of the membership"),
    chaos(
        "joint configuration crashed through",
        "a node started in the middle of a change of the membership",
    ),
    scenario("formation interrupted after the pledge", "a node crashed between its pledge and the cluster"),
    chaos(
        "gossip rejoined under a renewed identity",
        "a node that was thought dead told gossip that it is not",
    ),
    chaos(
        "gossip gave up a suspicion that nobody ended",
        "whoever suspected a node had gone without a verdict",
    ),
    // Identity.
    chaos("older boot counter refused", "a node whose disk had gone back was refused"),
    scenario(
        "another past refused",
        "a node whose disk had gone back had started so often that only its past told it",
    ),
    scenario(
        "copied directory told before it took part",
        "a node asked where its data directory was used last, and was answered by its original",
    ),
    scenario("second live copy refused", "two processes with one identity were noticed"),
    scenario("removed node refused", "a removed node tried to speak to the cluster"),
    chaos("a node is no member by its own log", "a node asked the members whether it was removed"),
    scenario(
        "a node has heard of no member but by gossip",
        "a node whose log is empty asked those that gossip knows whether it was removed",
    ),
];

/// The markers that chaos should have reached and did not.
pub fn unreached(counts: &BTreeMap<String, u64>) -> Vec<&'static Marker> {
    let is_missing = |marker: &&Marker| {
        marker.reach == Reach::Chaos && counts.get(marker.name).is_none_or(|count| *count == 0)
    };
    ALL.iter().filter(is_missing).collect()
}

/// How many of the markers that chaos should reach were reached, and how many there are.
pub fn coverage(counts: &BTreeMap<String, u64>) -> (usize, usize) {
    let all = ALL.iter().filter(|marker| marker.reach == Reach::Chaos).count();
    (all - unreached(counts).len(), all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The names in all calls of `sometimes("...")` and `marker("...")` below a folder.
    fn marked(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("the source is there") {
            let path = entry.expect("the source can be listed").path();
            if path.is_dir() {
                marked(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("markers.rs")
                && !path.ends_with("sometimes.rs")
            {
                let text = std::fs::read_to_string(&path).expect("the source is text");
                for call in ["sometimes(", "marker("] {
                    for (place, _) in text.match_indices(call) {
                        let argument = text[place + call.len()..].trim_start().strip_prefix('"');
                        names.extend(argument.and_then(|rest| rest.split('"').next()).map(str::to_owned));
                    }
                }
            }
        }
    }

    #[test]
    fn the_table_and_the_code_name_the_same_situations() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut in_code = BTreeSet::new();
        marked(&top.join("../src"), &mut in_code);
        marked(&top.join("src"), &mut in_code);
        let in_table: BTreeSet<String> = ALL.iter().map(|marker| marker.name.to_owned()).collect();
        assert_eq!(in_table.len(), ALL.len(), "a name stands twice in the table");
        assert_eq!(
            in_code.difference(&in_table).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "not in the table"
        );
        assert_eq!(in_table.difference(&in_code).collect::<Vec<_>>(), Vec::<&String>::new(), "never marked");
    }

    #[test]
    fn what_was_never_reached_is_named() {
        let mut counts: BTreeMap<String, u64> =
            ALL.iter().map(|marker| (marker.name.to_owned(), 3)).collect();
        assert!(unreached(&counts).is_empty());
        counts.remove("vote refused");
        counts.remove("session evicted");
        let names: Vec<&str> = unreached(&counts).iter().map(|marker| marker.name).collect();
        assert_eq!(names, ["vote refused"]);
        assert_eq!(coverage(&counts).0 + 1, coverage(&counts).1);
    }
}
