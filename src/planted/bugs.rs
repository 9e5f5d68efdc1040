//! All planted bugs: what each breaks, and where it comes from.
//!
//! This is the one list of names: a point or a simulation that names another one panics. Each bug is one honest small
//! mistake that unit tests, property tests and a calm day do not notice.

use std::fmt;

/// A planted bug.
#[derive(Debug, Clone, Copy)]
pub struct Bug {
    /// What its point and `MOKV_PLANTED` call it.
    pub name: &'static str,
    /// Where it sits.
    pub area: Area,
    /// What it does wrong and what comes of it.
    pub breaks: &'static str,
    /// The rule it breaks, or the system that had it.
    pub origin: &'static str,
    /// Whether it shows only after an aimed or rare sequence of events.
    pub rare: bool,
    /// The story of the simulation that is aimed at it; `None`: chaos finds it.
    pub story: Option<&'static str>,
}

/// A part of the node, or of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// The write-ahead log.
    Log,
    /// Votes and elections.
    Vote,
    /// Taking, sending and installing snapshots.
    Snapshot,
    /// What becomes of an entry, and of an answer.
    Apply,
    /// Writes that are applied once.
    Sessions,
    /// Linearizable and stale reads.
    Reads,
    /// Who belongs to the cluster.
    Membership,
    /// Connections between nodes.
    Transport,
    /// Who a node is, and what is said of it.
    Identity,
    /// The client library.
    Client,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Area::Log => "log",
            Area::Vote => "vote",
            Area::Snapshot => "snapshot",
            Area::Apply => "apply",
            Area::Sessions => "sessions",
            Area::Reads => "reads",
            Area::Membership => "membership",
            Area::Transport => "transport",
            Area::Identity => "identity",
            Area::Client => "client",
        })
    }
}

/// The bug of this name.
pub(super) fn find(name: &str) -> Option<&'static Bug> {
    BUGS.iter().find(|bug| bug.name == name)
}

/// One that shows on an ordinary bad day.
const fn bug(name: &'static str, area: Area, breaks: &'static str, origin: &'static str) -> Bug {
    Bug { name, area, breaks, origin, rare: false, story: None }
}

/// One that needs an aimed or rare sequence of events.
const fn rare(name: &'static str, area: Area, breaks: &'static str, origin: &'static str) -> Bug {
    Bug { name, area, breaks, origin, rare: true, story: None }
}

/// One that only a story is aimed at.
const fn told(
    name: &'static str,
    area: Area,
    breaks: &'static str,
    origin: &'static str,
    story: &'static str,
) -> Bug {
    Bug { name, area, breaks, origin, rare: true, story: Some(story) }
}

/// All of them, by area.
pub const BUGS: &[Bug] = &[
    // ---- log ----
    bug(
        "ack-before-fsync",
        Area::Log,
        "entries count as durable once they are queued; a power failure takes back what was acknowledged",
        "etcd #14370, Jepsen on unsynced writes (etcd #14140)",
    ),
    bug(
        "restart-commits-all",
        Area::Log,
        "a start takes the end of its log for committed and applies what another leader then overwrites",
        "goraft #69: a restarted node applied what was never committed",
    ),
    bug(
        "commit-on-receipt",
        Area::Log,
        "an append names its own last entry as committed; followers apply what may never be",
        "Raft, section 5.3: applying before a majority holds it",
    ),
    rare(
        "purge-beyond-older-snapshot",
        Area::Log,
        "the log is purged up to the newest snapshot; if that one is damaged nothing reaches so far",
        "fallback to an older snapshot without the log behind it",
    ),
    bug(
        "install-keeps-log",
        Area::Log,
        "a snapshot that jumped a gap leaves the older log in place, and the next entry meets a hole",
        "openraft #753: entries covered by an installed snapshot stayed",
    ),
    told(
        "scrub-reads-nothing",
        Area::Log,
        "the background reading finds everything sound; damage shows when a start needs what is damaged",
        "scrubbing that reads its own cache",
        "rot-in-a-cold-segment",
    ),
    // ---- vote ----
    bug(
        "forget-vote",
        Area::Vote,
        "a start that finds a purged log forgets the vote and may vote twice in a term",
        "Raft, figure 2: votes are persistent",
    ),
    rare(
        "vote-not-awaited",
        Area::Vote,
        "a vote is answered before it is durable; after a crash the node may vote for another",
        "Raft, figure 2: stable storage before answering",
    ),
    bug(
        "vote-with-present-term",
        Area::Vote,
        "a candidate tells its present term as its last entry's, so a node that lacks committed entries is elected",
        "Raft, section 5.4.1: the election restriction",
    ),
    bug(
        "leader-restore",
        Area::Vote,
        "a leader that restarts leads on without an election and hands out positions a second time",
        "openraft #1511 and #1771",
    ),
    // ---- snapshot ----
    bug(
        "snapshot-without-sessions",
        Area::Snapshot,
        "a snapshot holds the newest session only; whoever restores it differs and applies a retry twice",
        "state that decides answers left out of the snapshot",
    ),
    bug(
        "snapshot-without-settings",
        Area::Snapshot,
        "a snapshot holds default settings; whoever restores it decides otherwise than its peers",
        "state that decides answers left out of the snapshot",
    ),
    rare(
        "snapshot-reads-live-map",
        Area::Snapshot,
        "a snapshot is read from the map while entries are applied, and is no point in time",
        "the original Go mökv",
    ),
    bug(
        "install-keeps-old-keys",
        Area::Snapshot,
        "an installed snapshot is laid over the old map; keys that were deleted meanwhile come back",
        "the original Go mökv: restore never clears the map",
    ),
    rare(
        "install-keeps-members",
        Area::Snapshot,
        "after an installed snapshot the store goes on with the members that it had; its own snapshots and restarts \
         bring back a membership that is no more",
        "openraft #1808: a snapshot that covers a membership entry left that membership in force",
    ),
    rare(
        "oldest-snapshot-first",
        Area::Snapshot,
        "a start takes the older of two snapshots; after one that jumped a gap the log behind it is missing",
        "newest by the wrong end of a list",
    ),
    // ---- apply ----
    rare(
        "full-for-ever",
        Area::Apply,
        "a voter that said that its disk is full counts as full for as long as its leader leads, though it died",
        "a voter that died while its disk was full kept two healthy ones from taking values",
    ),
    rare(
        "discarded-not-executed",
        Area::Apply,
        "an entry discarded at a deposed leader is reported as not executed, though its successor may commit it",
        "openraft #1762, ClientWriteError::LogEntryDiscarded",
    ),
    bug(
        "dead-raft-lives-on",
        Area::Apply,
        "a node whose log or Raft has failed goes on serving",
        "zombies after a failed fsync",
    ),
    bug(
        "reserve-ignored",
        Area::Apply,
        "values are admitted though a disk is nearly full; the append that finds it full stops the node",
        "etcd's space quota, raised until the disk is full",
    ),
    // ---- sessions ----
    bug(
        "forward-drops-session",
        Area::Sessions,
        "a follower forwards a set without its name; a retry is applied twice",
        "metadata lost at a proxy",
    ),
    bug(
        "delete-drops-session",
        Area::Sessions,
        "deletes lose their names on the way into the log; a retry is applied twice",
        "Ongaro's thesis, section 6.3",
    ),
    // ---- reads ----
    bug(
        "leader-reads-locally",
        Area::Reads,
        "a leader answers reads without asking a quorum whether it still leads",
        "etcd #741, found by Jepsen",
    ),
    rare(
        "lease-reads",
        Area::Reads,
        "reads rely on the leader's lease, which restarted voters and pauses do not honour",
        "etcd #20418: stale reads by process pausing",
    ),
    rare(
        "follower-reads-unconfirmed",
        Area::Reads,
        "a leader gives followers a read index without confirming that it still leads",
        "etcd #20418 and #21375: read index across a leader change",
    ),
    rare(
        "read-index-wait-gives-up",
        Area::Reads,
        "a follower that does not reach the read index soon answers all the same",
        "etcd #13464: an old value after a timeout",
    ),
    rare(
        "stale-read-gives-up",
        Area::Reads,
        "a node that does not reach min_revision soon answers all the same; a client's reads go back",
        "session guarantees, Terry et al. 1994",
    ),
    bug(
        "serves-before-leader",
        Area::Reads,
        "a node that starts answers stale reads before it has heard from a leader",
        "README: not before it has heard from a leader and applied again what it had",
    ),
    bug(
        "doubted-answers",
        Area::Reads,
        "a node whose state a majority contradicts goes on answering",
        "docs/operate.md: a node that a majority has outvoted serves nothing",
    ),
    rare(
        "caller-deadline-ignored",
        Area::Reads,
        "a node takes as long as it may, whatever deadline its caller told",
        "gRPC's grpc-timeout: the server keeps it, too",
    ),
    // ---- membership ----
    bug(
        "joiner-bootstraps",
        Area::Membership,
        "a node that joins a cluster also forms one of its own",
        "the original Go mökv: the first pod always bootstraps",
    ),
    bug(
        "suspicion-removes",
        Area::Membership,
        "who is down in gossip's eyes and silent for the leader counts as having left and loses its vote",
        "dead-server cleanup on suspicion alone",
    ),
    bug(
        "stop-says-left",
        Area::Membership,
        "a node that is stopped says that it leaves; its vote goes for good",
        "the original Go mökv: SIGTERM of a follower removes it",
    ),
    rare(
        "joint-not-flattened",
        Area::Membership,
        "a joint configuration that a leader left behind is never finished",
        "Raft, section 6",
    ),
    told(
        "replaces-without-asking",
        Area::Membership,
        "a damaged node sets its files aside without asking whether the others can do without it",
        "automatic repair of two replicas at once",
        "two-damaged-at-once",
    ),
    // ---- transport ----
    rare(
        "answer-credits-newest",
        Area::Transport,
        "an append's answer is credited to the newest request of the pipeline; entries count that nobody holds",
        "pipelined replication",
    ),
    rare(
        "append-unchecked",
        Area::Transport,
        "an append is not compared with what is committed: after a majority went back in time, the node that did not \
         acknowledges what it does not hold",
        "openraft: `has_log_id` compares nothing at or below the committed index",
    ),
    rare(
        "late-answer-confirms",
        Area::Transport,
        "an append's answer counts as the answer to a later one that carries nothing more: an old leader confirms a read \
         with what was said before the read",
        "openraft: `InflightAppendQueue::drain_acked`; chaos seed 7605705",
    ),
    rare(
        "quorum-of-the-quickest",
        Area::Transport,
        "what the quickest follower has acknowledged is credited to a slower one whose answer comes in, too: entries \
         count as committed that fewer than a majority hold",
        "openraft #1802: positions of voters out of order, and a quorum counted that never was",
    ),
    bug(
        "forward-sent-twice",
        Area::Transport,
        "a forward without an answer is sent once more, without regard to its name",
        "etcd #14890 and #18424: retries below the client",
    ),
    bug(
        "broken-forward-not-executed",
        Area::Transport,
        "a forward whose connection broke is reported as not executed",
        "Jepsen: indeterminate errors told as failures",
    ),
    // ---- identity ----
    bug(
        "hello-says-first-boot",
        Area::Identity,
        "every start says hello with boot counter 1 and passes for a copy of the one before",
        "a counter that is kept and not told",
    ),
    rare(
        "lives-forgotten",
        Area::Identity,
        "a start forgets how often the other members have started, and lets a rolled-back one in",
        "chaos seed 7208688",
    ),
    rare(
        "past-ignored",
        Area::Identity,
        "a rolled-back directory passes once it has started as often as the one that its peers know",
        "chaos seed 5400132",
    ),
    rare(
        "acknowledged-forgotten",
        Area::Identity,
        "a start forgets how far the other members have acknowledged, and lets one in that was put back to a copy of its \
         present life",
        "copies of running machines: the past is right, and what was acknowledged since is gone",
    ),
    bug(
        "id-from-name",
        Area::Identity,
        "a new disk gets the old node id, with its votes and acknowledgements forgotten",
        "amnesia: a wiped replica under its old id",
    ),
    bug(
        "addresses-never-refreshed",
        Area::Identity,
        "members are sought where the membership says, never where gossip says",
        "pods that restart with new addresses",
    ),
    // ---- client ----
    rare(
        "delete-sent-again",
        Area::Client,
        "a delete without a name counts as safe to repeat; the second takes away what was written in between",
        "etcd #18424: the client repeats what is not idempotent",
    ),
    rare(
        "conditional-set-sent-again",
        Area::Client,
        "a conditional set without a name counts as safe to repeat; its own success fails the second attempt",
        "etcd #14890 and #18424: the client repeats a guarded transaction",
    ),
    bug(
        "client-falls-back-to-stale",
        Area::Client,
        "a linearizable read that no node serves is answered by a stale one",
        "graceful degradation",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_bug_is_told_of() {
        for (place, bug) in BUGS.iter().enumerate() {
            let named = |other: &&Bug| other.name == bug.name;
            assert_eq!(BUGS.iter().filter(named).count(), 1, "{} is there twice", bug.name);
            assert!(!bug.breaks.is_empty() && !bug.origin.is_empty(), "{} says nothing of itself", bug.name);
            assert!(place == 0 || BUGS[place - 1].area <= bug.area, "{} is out of order", bug.name);
            assert!(bug.name.bytes().all(|byte| byte == b'-' || byte.is_ascii_lowercase()), "{}", bug.name);
        }
    }

    #[test]
    fn there_are_bugs_of_every_area_and_enough_that_are_rare() {
        for pair in BUGS.chunk_by(|one, other| one.area == other.area) {
            assert!(pair.len() >= 2, "{} has one bug only", pair[0].area);
        }
        assert_eq!(BUGS.chunk_by(|one, other| one.area == other.area).count(), 10);
        assert!(BUGS.iter().filter(|bug| bug.rare).count() >= 10);
    }
}
