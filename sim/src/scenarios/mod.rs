//! The stories: each plays one sequence of events that once lost data somewhere, or would, and says so if it did here.
//!
//! A story drives the cluster to the point and checks what only it can know; the common ending then undoes all faults,
//! demands life and lets every judge look. Each is told for several seeds, because a seed moves every instant.

mod basics;
mod identity;
mod restarts;
mod snapshots;
mod stage;

use std::pin::Pin;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::run::Run;

/// A story under way; it ends with the cluster, or with what went wrong in words.
pub type Story = Pin<Box<dyn Future<Output = Result<Cluster, String>>>>;

/// A named story.
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it is about, in one sentence.
    pub about: &'static str,
    /// With how many seeds it is told; 0: as many as chaos has.
    pub seeds: u64,
    /// Tells it.
    pub play: fn(Arc<Run>) -> Story,
}

macro_rules! scenario {
    ($name:literal, $seeds:expr, $play:path, $about:literal) => {
        Scenario { name: $name, about: $about, seeds: $seeds, play: |run| Box::pin($play(run)) }
    };
}

/// The name of the chaos loop.
pub const CHAOS: &str = "chaos";

/// All stories; the chaos loop is the last.
pub const ALL: &[Scenario] = &[
    scenario!("elect-and-write", 2, basics::elect_and_write, "three nodes form a cluster, elect, write and read"),
    scenario!(
        "leader-partitioned",
        2,
        basics::leader_partitioned,
        "the leader is cut off, another is elected, the old one answers nothing old, and it comes back"
    ),
    scenario!("leader-transfer", 2, basics::leader_transfer_on_stop, "a leader that is stopped hands over first"),
    scenario!("kill-each", 2, restarts::kill_each_in_turn, "every node is killed in turn and comes back"),
    scenario!("power-loss-of-all", 3, restarts::power_loss_of_all, "all machines lose power at once, twice"),
    scenario!("failed-sync", 2, restarts::failed_sync, "a failed sync stops the node, and what it showed is not trusted"),
    scenario!(
        "snapshot-to-a-laggard",
        2,
        snapshots::laggard,
        "a node that lagged behind the purge gets a snapshot, and is killed at every step of installing it"
    ),
    scenario!("join", 2, identity::join, "a fourth node joins by gossip"),
    scenario!("wiped-disk", 2, identity::wiped_disk, "a node whose disk is lost comes back under its name"),
    scenario!("twin-name", 2, identity::twin_name, "a second node of the same name is refused"),
    scenario!("all-addresses-change", 2, identity::all_addresses_change, "all nodes come back at other addresses"),
    scenario!("chaos", 0, crate::chaos::play, "clients at work while the faults of a drawn world rage"),
];

/// The story of this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
