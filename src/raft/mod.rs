//! Raft: adapters to openraft, and the interface that the rest of the node uses.
//!
//! openraft decides; this module gives it a log ([`log_store`]), a state machine ([`state_machine`] over [`store`]),
//! a network ([`network`] over [`peers`]) and a runtime ([`runtime`]), and offers [`Consensus`] to the rest of the
//! node. The generic `Raft<..>` is instantiated here and nowhere else: it is large.

pub mod audit;
pub mod consensus;
pub mod consistency;
pub mod doubt;
pub mod handler;
pub mod log_store;
pub mod network;
pub mod observer;
pub mod peers;
pub mod reads;
pub mod replacing;
pub mod replay;
pub mod runtime;
pub mod snapshot;
mod snapshot_upload;
pub mod snapshotting;
pub mod space;
pub mod state_machine;
pub mod store;
pub mod types;
pub mod wire;

#[cfg(test)]
mod suite_tests;

use std::sync::Arc;
use std::time::Duration;

pub use consensus::{Committed, Consensus, ProposeError, SnapshotError};
pub use consistency::Contradiction;
pub use observer::{Found, Observer};
pub use reads::ReadIndexError;
pub use store::Store;
pub use types::{LogId, Member, Membership, StoredMembership, TypeConfig, Vote};

use doubt::Doubt;
use log_store::LogStore;
use network::Network;
use peers::Peers;
use state_machine::StateMachine;

use crate::node_id::NodeId;
use crate::storage::{Log, Snapshots};

/// openraft with our types.
pub type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// The timing and size settings of Raft.
#[derive(Debug, Clone)]
pub struct Timing {
    /// The interval between a leader's heartbeats.
    pub heartbeat: Duration,
    /// A follower that receives nothing from a leader for this long (up to twice this long) starts an election.
    pub election: Duration,
    /// The time limit of a request whose client sets none.
    pub request_timeout: Duration,
}

/// Starts Raft on an open log and the newest snapshot. Returns once the entries known to be committed are applied
/// again.
///
/// # Errors
/// A message, if the log and the snapshots do not fit together or Raft cannot start.
pub async fn start(
    node_id: NodeId,
    timing: &Timing,
    log: Log,
    snapshots: Snapshots,
    peers: Arc<Peers>,
    store: Arc<Store>,
) -> Result<Consensus, String> {
    let config = config(timing);
    let log_store = LogStore::new(log.clone(), snapshots.clone(), Some(peers.clone()), store.observer());
    if let Some(observer) = store.observer() {
        observer.opened(node_id, &log_store.found().map_err(|error| error.to_string())?);
        observer.holds(&store);
    }
    replay::committed(&store, &log, &snapshots).await.map_err(|error| error.to_string())?;
    let state_machine = StateMachine::new(store.clone(), snapshots);
    let doubt = Doubt::default();
    let network = Network { peers: peers.clone(), log: log.clone(), doubt: doubt.clone() };
    let raft =
        Raft::new(node_id, config, network, log_store, state_machine).await.map_err(|e| e.to_string())?;
    Ok(Consensus::new(raft, store, peers, log, doubt, timing))
}

/// openraft's configuration, with the settings that safety requires.
fn config(timing: &Timing) -> Arc<openraft::Config> {
    let millis = |duration: Duration| duration.as_millis() as u64;
    let (heartbeat, election) = (millis(timing.heartbeat), millis(timing.election));
    let config = openraft::Config {
        cluster_name: "mokv".into(),
        heartbeat_interval: heartbeat,
        election_timeout_min: election,
        election_timeout_max: election * 2,
        // A leader may have committed an entry before its own disk had it. After a restart it must win an election
        // before it assigns the same log position again.
        enable_leader_restore: Some(false),
        enable_pre_vote: Some(true),
        // CheckQuorum: a leader that has lost its quorum suspends its heartbeats, and resumes them, in phases of this
        // length.
        quorum_loss_probe_interval: Some(election * 2 * 2 + election * 2),
        // `snapshotting` takes snapshots and purges the log.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        install_snapshot_timeout: 60_000,
        max_payload_entries: 4096,
        // For statistics that this build of openraft does not collect.
        log_stage_capacity: Some(1),
        ..Default::default()
    };
    let config = config.validate().expect("these settings are consistent");
    assert!(config.enable_leader_restore == Some(false), "a restored leader could hand out a position twice");
    Arc::new(config)
}
