//! The scenarios: each produces one sequence of events that once lost data in some system, or would, and fails if data
//! is lost here.
//!
//! A scenario drives the cluster to the point and checks what no general checker can; the liveness phase that all runs
//! share then undoes all faults, demands progress and runs every checker. Each scenario runs with several seeds,
//! because a seed shifts the time of every event.

mod backup;
mod basics;
pub mod bench;
pub mod calm;
mod disks;
mod doubted;
mod formation;
mod golden;
mod histories;
mod identity;
mod logs;
mod past;
mod raft;
mod replicated;
mod restarts;
mod rot;
mod setup;
mod snapshots;
mod wire;

use std::pin::Pin;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::record::Run;

/// A running scenario. It resolves to the cluster, or to a description of what went wrong.
pub type RunningScenario = Pin<Box<dyn Future<Output = Result<Cluster, String>>>>;

/// A named scenario.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its subject, in one sentence.
    pub about: &'static str,
    /// The number of its seeds; 0: as many as chaos has.
    pub seeds: u64,
    /// Runs it.
    pub play: fn(Arc<Run>) -> RunningScenario,
}

macro_rules! scenario {
    ($name:literal, $seeds:expr, $play:path, $about:literal) => {
        Scenario { name: $name, about: $about, seeds: $seeds, play: |run| Box::pin($play(run)) }
    };
}

/// All scenarios; the chaos loop is the last.
pub const ALL: &[Scenario] = &[
    scenario!(
        "elect-and-write",
        2,
        basics::elect_and_write,
        "three nodes form a cluster, elect, write and read"
    ),
    scenario!(
        "leader-partitioned",
        2,
        basics::leader_partitioned,
        "the leader is cut off, another is elected, the old one answers nothing old, and it comes back"
    ),
    scenario!(
        "leader-killed-under-load",
        3,
        basics::leader_killed_under_load,
        "the leader dies under load, and clients see nothing but a pause"
    ),
    scenario!(
        "leader-transfer",
        2,
        basics::leader_transfer_on_stop,
        "a leader that is stopped hands over first"
    ),
    scenario!(
        "conditions",
        2,
        basics::conditions,
        "a condition holds when a write is applied, or takes no revision"
    ),
    scenario!("kill-each", 2, restarts::kill_each_in_turn, "every node is killed in turn and comes back"),
    scenario!(
        "all-start-at-once",
        3,
        restarts::all_start_at_once,
        "all nodes start again, and one leads long before an election timeout"
    ),
    scenario!(
        "purges-before-it-serves",
        3,
        restarts::purges_before_it_serves,
        "a node that starts and reaches no other one purges the log that its snapshots replace"
    ),
    scenario!("power-loss-of-all", 3, restarts::power_loss_of_all, "all machines lose power at once, twice"),
    scenario!(
        "failed-sync",
        2,
        restarts::failed_sync,
        "a failed sync stops the node, and what it showed is not trusted"
    ),
    scenario!(
        "snapshot-to-a-laggard",
        2,
        snapshots::laggard,
        "a node that lagged behind the purge gets a snapshot, and is killed at every step of installing it"
    ),
    scenario!(
        "interrupted-transfers",
        2,
        snapshots::interrupted_transfers,
        "a newcomer's connections are reset in the middle of 20 snapshots, and nothing of them stays on its disk"
    ),
    scenario!("join", 2, identity::join, "a fourth node joins by gossip"),
    scenario!(
        "join-over-a-slow-link",
        2,
        identity::join_over_a_slow_link,
        "a newcomer that has megabytes to fetch stops no writes"
    ),
    scenario!(
        "grow-and-shrink",
        3,
        identity::grow_and_shrink,
        "a cluster of one grows to five and shrinks to three"
    ),
    scenario!(
        "wanted-size",
        3,
        identity::wanted_size,
        "of five members two are removed and run on, and wait outside until five are wanted again"
    ),
    scenario!(
        "restored-backup",
        4,
        backup::restored,
        "all disks are lost, a backup becomes another cluster, and power fails while it is restored"
    ),
    scenario!("wiped-disk", 2, identity::wiped_disk, "a node whose disk is lost comes back under its name"),
    scenario!("twin-name", 2, identity::twin_name, "a second node of the same name is refused"),
    scenario!(
        "all-addresses-change",
        2,
        identity::all_addresses_change,
        "all nodes come back at other addresses"
    ),
    scenario!(
        "leader-back-at-once",
        3,
        raft::leader_back_at_once,
        "a leader that committed more than its own disk has loses power and is back before an election"
    ),
    scenario!(
        "deaf-leader",
        2,
        raft::deaf_leader,
        "a leader that everybody hears and that hears nobody steps down"
    ),
    scenario!(
        "late-answers",
        3,
        raft::late_answers,
        "answers from before an election confirm no read of the old leader that began after it"
    ),
    scenario!(
        "reads-during-recovery",
        2,
        raft::reads_during_recovery,
        "a node that restarts alone answers nothing, and then nothing older than it knew to be committed"
    ),
    scenario!(
        "server-keeps-deadlines",
        2,
        raft::server_keeps_deadlines,
        "a caller that tells its deadline and does not keep it itself is answered by then"
    ),
    scenario!(
        "large-values",
        1,
        raft::large_values,
        "the largest values reach a laggard over a slow network"
    ),
    scenario!("lost-answers", 2, raft::lost_answers, "writes whose answers are lost are applied once"),
    scenario!(
        "evicted-sessions",
        1,
        raft::evicted_sessions,
        "more clients than the cluster keeps sessions for"
    ),
    scenario!("pages", 1, raft::pages_of_one_revision, "the pages of a list belong to one revision"),
    scenario!(
        "past-on-an-old-node",
        2,
        past::past_on_an_old_node,
        "a node that is cut off shows the past in a transaction and says nothing of the present"
    ),
    scenario!("history", 1, past::history, "every node shows the same past, and only as far back as it goes"),
    scenario!(
        "compaction",
        2,
        past::compaction,
        "the leader gives the past up by age and size, also while nobody writes"
    ),
    scenario!("flipped-bit", 2, disks::flipped_bit_in_the_log, "a bit flips in the middle of a log"),
    scenario!(
        "damaged-snapshot",
        2,
        disks::damaged_snapshot,
        "the newest snapshot is damaged, the older one helps"
    ),
    scenario!("deleted-log", 1, disks::deleted_log, "a data directory has lost its log"),
    scenario!("rolled-back-disk", 2, disks::rolled_back_disk, "a volume is rolled back to an older state"),
    scenario!(
        "rolled-back-and-restarted",
        2,
        disks::rolled_back_and_restarted,
        "a volume is rolled back, and its node starts more often than it had"
    ),
    scenario!(
        "rolled-back-beside-a-laggard",
        2,
        disks::rolled_back_beside_a_laggard,
        "a volume is rolled back, and a peer that lags behind has restarted"
    ),
    scenario!("copied-disk", 2, disks::copied_disk, "a data directory is copied and both run"),
    scenario!(
        "majority-goes-back",
        4,
        histories::majority_goes_back,
        "two of three disks go back to copies made while they ran, and the third node refuses both when it returns"
    ),
    scenario!(
        "majority-goes-back-unknown",
        4,
        histories::majority_goes_back_unknown,
        "two of three disks go back, the third node has forgotten what they acknowledged, and does not go along"
    ),
    scenario!(
        "goes-back-within-a-life",
        4,
        histories::within_an_incarnation,
        "a disk goes back to a copy of its node's present incarnation, and all others have started since"
    ),
    scenario!(
        "nobody-has-gone-back",
        3,
        histories::nobody_has_gone_back,
        "kills, power losses, truncation by a later leader and a new disk, and nobody is refused for them"
    ),
    scenario!(
        "two-go-back-one-by-one",
        2,
        histories::one_by_one,
        "two disks go back one after the other, and the nodes that have what each has lost refuse it"
    ),
    scenario!(
        "all-go-back",
        2,
        histories::all_go_back,
        "all disks go back to copies made while they ran, and the cluster goes on from there"
    ),
    scenario!(
        "votes-across-segments",
        2,
        logs::votes_across_segments,
        "a vote survives power losses at every step of rolling to a new segment"
    ),
    scenario!(
        "forgetful-follower",
        2,
        logs::forgetful_follower,
        "a follower that lost what it had acknowledged is refused"
    ),
    scenario!("dead-raft", 2, logs::dead_raft, "a node whose Raft died ends with it"),
    scenario!(
        "different-flags",
        2,
        replicated::different_flags,
        "nodes with different flags apply the same log to the same state"
    ),
    scenario!(
        "initial-bounds",
        2,
        replicated::initial_bounds,
        "a new cluster gets the bounds that its nodes' flags name, whoever leads it"
    ),
    scenario!(
        "digest-key",
        4,
        replicated::digest_key,
        "a cluster that is upgraded draws a key for the digests that it shows, although its leaders die of it"
    ),
    scenario!(
        "unknown-entry",
        2,
        replicated::unknown_entry,
        "an entry of an unknown kind stops the node before it is applied"
    ),
    scenario!("forged-forward", 1, replicated::forged_forward, "no forwarded nonsense gets into the log"),
    scenario!(
        "outvoted",
        2,
        doubted::outvoted,
        "a node whose state differs from the majority's is quarantined"
    ),
    scenario!(
        "no-majority",
        1,
        doubted::no_majority,
        "three different states raise the alarm and stop nobody"
    ),
    scenario!(
        "outvoted-and-asked-to-lead",
        3,
        doubted::outvoted_and_asked_to_lead,
        "leadership is handed over again and again while one of three is quarantined"
    ),
    scenario!(
        "only-a-doubted-log-has-it",
        3,
        doubted::only_a_doubted_log_has_it,
        "a quarantined node has the only copy of a committed entry that is in reach"
    ),
    scenario!(
        "rot-in-a-cold-segment",
        4,
        rot::in_a_cold_segment,
        "a bit flips in a segment that nobody reads, and its node does without it before it has to"
    ),
    scenario!(
        "rot-in-a-snapshot",
        4,
        rot::in_a_snapshot,
        "a bit flips in a kept snapshot, and its node takes new ones before it needs it"
    ),
    scenario!(
        "rot-in-memory",
        4,
        rot::in_memory,
        "a bit flips in a node's memory: nothing is made of it, and the node is quarantined"
    ),
    scenario!(
        "damaged-node-starts-over",
        4,
        rot::damaged_node_starts_over,
        "a node whose log is damaged asks, and comes back as a newcomer"
    ),
    scenario!(
        "rotten-node-starts-over",
        4,
        rot::rotten_node_starts_over,
        "a node whose memory has lost a bit asks, stops, asks again, and comes back as a newcomer"
    ),
    scenario!(
        "two-damaged-at-once",
        3,
        rot::two_damaged_at_once,
        "two of three nodes are damaged, and nobody is replaced"
    ),
    scenario!(
        "two-rotten-at-once",
        3,
        rot::two_rotten_at_once,
        "two of three memories lose a bit: nobody is replaced, until one of the two is whole again"
    ),
    scenario!(
        "damaged-while-another-recovers",
        3,
        rot::damaged_while_another_recovers,
        "a node is damaged while another one's disk is lost: one is replaced after the other"
    ),
    scenario!("full-disk", 1, disks::full_disk, "the leader's disk fills up"),
    scenario!("full-voter", 2, disks::full_voter, "a follower's disk fills up, and the leader honours it"),
    scenario!(
        "full-and-deleted",
        2,
        disks::full_and_deleted,
        "all disks fill up, and deleting keys makes room again"
    ),
    scenario!(
        "full-voter-and-deleted",
        2,
        disks::full_voter_and_deleted,
        "a follower's disk fills up, and deleting keys makes room on it again"
    ),
    scenario!(
        "full-voter-dies",
        2,
        disks::full_voter_dies,
        "a follower whose disk is full dies, and writes go on"
    ),
    scenario!(
        "long-queue",
        3,
        disks::long_queue,
        "a slow leader's disk is full while more than a segment waits for it, then its power fails"
    ),
    scenario!("full-leader", 2, disks::full_leader, "the leader's disk fills up with what followers forward"),
    scenario!("silence", 1, formation::silence_is_no_consent, "two of three expected nodes form nothing"),
    scenario!(
        "forming-under-loss",
        3,
        formation::forming_under_loss,
        "seven nodes form a cluster although a quarter of their datagrams is lost"
    ),
    scenario!(
        "power-losses-while-forming",
        5,
        formation::power_losses_while_forming,
        "machines lose power while the cluster forms"
    ),
    scenario!(
        "slow-name-server",
        2,
        formation::slow_name_server,
        "every lookup takes 5 s: a cluster forms and survives the restart of each node"
    ),
    scenario!("two-clusters", 1, formation::two_clusters, "a node of another cluster is refused"),
    scenario!(
        "newcomer-of-two-clusters",
        2,
        formation::newcomer_of_two_clusters,
        "an empty node that is told of two clusters joins neither"
    ),
    scenario!("wrong-key", 1, formation::wrong_key, "who does not know the cluster's key stays outside"),
    scenario!("removed-member", 2, formation::removed_member, "a removed member comes back as a new one"),
    scenario!(
        "removed-leader-killed",
        6,
        formation::removed_leader_killed,
        "the leader removes itself, is killed in the middle of it, and comes back as another node"
    ),
    scenario!(
        "removed-before-it-heard",
        3,
        formation::removed_before_it_heard,
        "a newcomer is removed before it has heard a single entry, and comes back as another node"
    ),
    scenario!(
        "removed-learner",
        3,
        formation::removed_learner,
        "a learner is removed while it is dead, and comes back as another node"
    ),
    scenario!(
        "removed-and-all-others-new",
        2,
        formation::removed_and_all_others_new,
        "a voter is removed while it is dead, and all whom its log names become other nodes"
    ),
    scenario!(
        "unheard-newcomer",
        3,
        formation::unheard_newcomer,
        "a new leader admits a newcomer that nothing reaches, and gives it no vote"
    ),
    scenario!(
        "removed-alive",
        3,
        formation::removed_alive,
        "a member that is removed while it runs hears of it and comes back as a new one"
    ),
    scenario!(
        "removal-needs-a-majority",
        2,
        formation::removal_needs_a_majority,
        "nobody is removed when what would remain has no majority"
    ),
    scenario!(
        "removal-commits-late",
        3,
        formation::removal_commits_late,
        "one of two members is removed, and so is the other before the first removal is committed: one stays"
    ),
    scenario!("long-partition", 1, formation::long_partition, "a node is cut off for two minutes"),
    scenario!("corrupted-byte", 1, wire::corrupted_byte, "a byte that changes on the wire is noticed"),
    scenario!("nonsense", 1, wire::nonsense, "garbage, HTTP/1 and half a frame do not hurt a node"),
    scenario!("golden-join", 1, golden::join, "the messages of a join are those of sim/golden/join.txt"),
    scenario!(
        "golden-linearizable-read",
        1,
        golden::linearizable_read,
        "the messages of a read at a follower are those of sim/golden/linearizable-read.txt"
    ),
    scenario!("chaos", 0, crate::chaos::play, "clients at work while the faults of a drawn world rage"),
];

/// The scenario of this name, the hidden ones included.
pub fn find(name: &str) -> Option<&'static Scenario> {
    let hidden = [&calm::SCENARIO, &bench::SCENARIO];
    ALL.iter().chain(hidden).find(|scenario| scenario.name == name)
}
