//! The metrics that are sampled on request.

use std::num::NonZeroU64;
use std::sync::{Arc, OnceLock, Weak};

use super::health::Readiness;
use crate::membership::{Liveness, View};
use crate::metrics::http::Health;
use crate::metrics::{Sample, Sampler};
use crate::raft::LogId;
use crate::raft::snapshotting::log_bytes_since;
use crate::rt::{process, watch};
use crate::service::{MemoryUse, Serving};

/// Samples a node for its metrics.
pub struct NodeSampler {
    readiness: OnceLock<Weak<Readiness>>,
    view: watch::Receiver<View>,
    /// The bytes that earlier nodes have left; they change only while the node is stopped.
    left_bytes: u64,
}

impl NodeSampler {
    /// Creates a sampler of gossip and of the data that earlier nodes of the directory have left; the rest is sampled
    /// after [`NodeSampler::look_at`].
    pub fn new(view: watch::Receiver<View>, left_bytes: u64) -> NodeSampler {
        NodeSampler { readiness: OnceLock::new(), view, left_bytes }
    }

    /// Samples this node from now on.
    pub fn look_at(&self, readiness: &Arc<Readiness>) {
        let _ = self.readiness.set(Arc::downgrade(readiness));
    }
}

impl Sampler for NodeSampler {
    fn sample(&self) -> Sample {
        let mut sample = Sample { role: "recovering", ..Sample::default() };
        self.sample_process(&mut sample);
        let Some(readiness) = self.readiness.get().and_then(Weak::upgrade) else { return sample };
        sample_node(&readiness, &mut sample);
        if let Some(serving) = readiness.context.recovered() {
            sample_raft(serving, &mut sample);
            sample_store(serving, &mut sample);
            sample_storage(serving, &mut sample);
            sample_memory(serving, &mut sample);
        }
        sample
    }
}

impl NodeSampler {
    /// What is known before the node has found its cluster.
    fn sample_process(&self, sample: &mut Sample) {
        let alive = self.view.borrow().values().filter(|peer| peer.liveness == Liveness::Alive).count();
        let known = self.view.borrow().len();
        let left = "Bytes that earlier nodes of this data directory left; 'mokv left --remove' deletes them";
        sample.gauges.extend([
            ("gossip_members", "Nodes of the cluster known by gossip", known as f64),
            ("gossip_members_alive", "Of those, nodes that answer", alive as f64),
            ("left_bytes", left, self.left_bytes as f64),
        ]);
        if let Some(bytes) = process::resident_bytes() {
            let help = "Memory of the process that is in RAM";
            sample.gauges.push(("resident_memory_bytes", help, bytes as f64));
        }
    }
}

fn sample_node(readiness: &Readiness, sample: &mut Sample) {
    let context = &readiness.context;
    let is_ready = readiness.ready().is_ok();
    let gone_back =
        "Members that this node refuses, because they started with less than they had acknowledged";
    sample.gauges.extend([
        ("ready", "1 when the node is ready, as /readyz says", f64::from(is_ready)),
        ("boot_count", "How often this data directory was started", context.boot as f64),
        ("digest_alarm", "1 when states of the cluster's nodes differ", f64::from(context.digest_alarm())),
        ("quarantined", "1 when a majority has another state", f64::from(context.is_quarantined())),
        ("members_gone_back", gone_back, context.gone_back().len() as f64),
    ]);
    sample.role = context.role();
}

fn sample_raft(serving: &Serving, sample: &mut Sample) {
    if let Some(lag) = serving.consensus.lag() {
        let help = "Entries still to apply of what the leader has committed; absent without a leader";
        sample.gauges.push(("leader_lag_entries", help, lag as f64));
    }
    let raft = serving.consensus.metrics();
    let index = |id: Option<LogId>| id.map_or(0.0, |id| id.index as f64);
    let voters = raft.membership_config.voter_ids().count();
    let members = raft.membership_config.nodes().count();
    sample.gauges.extend([
        ("raft_term", "The current term", raft.current_term as f64),
        ("raft_has_leader", "1 when a leader is known", f64::from(serving.consensus.leader().is_some())),
        ("raft_last_log_index", "The last entry in the log", raft.last_log_index.unwrap_or(0) as f64),
        ("raft_committed_index", "The last entry known to be committed", index(raft.local_committed)),
        ("raft_applied_index", "The last entry applied to the map", index(raft.last_applied)),
        ("raft_snapshot_index", "The last entry in the newest snapshot", index(raft.snapshot)),
        ("raft_purged_index", "The last entry purged from the log", index(raft.purged)),
        ("raft_voters", "Members that vote", voters as f64),
        ("raft_members", "Members, voting or learning", members as f64),
    ]);
}

fn sample_store(serving: &Serving, sample: &mut Sample) {
    let state = serving.consensus.store().read();
    let (map, bounds) = (&state.map, state.map.settings());
    let bytes = |bound: Option<NonZeroU64>| bound.map_or(0, NonZeroU64::get);
    let (max_store_bytes, history_max_bytes) =
        (bytes(bounds.max_store_bytes), bytes(bounds.history_max_bytes));
    sample.gauges.extend([
        ("store_revision", "The store's revision", map.revision() as f64),
        ("store_keys", "Keys in the store", map.keys() as f64),
        ("store_bytes", "Bytes of keys and values, earlier versions not counted", map.bytes() as f64),
        (
            "store_size_bytes",
            "Bytes that must be kept: keys, values and sessions, each with what it takes besides",
            map.size() as f64,
        ),
        ("store_max_bytes", "The bound of store_size_bytes, 0 for none", max_store_bytes as f64),
        ("store_versions", "Versions of keys that are kept, deletions included", map.versions() as f64),
        (
            "store_history_bytes",
            "Bytes of earlier versions, each with what it takes besides key and value",
            map.history_size() as f64,
        ),
        ("store_history_max_bytes", "Its bound, 0 for none", history_max_bytes as f64),
        ("store_floor_revision", "The earliest revision that can be read", map.floor() as f64),
        ("store_sessions", "Open sessions", map.sessions() as f64),
        ("store_max_sessions", "Their bound", bounds.max_sessions as f64),
    ]);
}

/// The parts of `resident_memory_bytes`.
fn sample_memory(serving: &Serving, sample: &mut Sample) {
    let parts = MemoryUse::of(&serving.consensus.store().read().map, &serving.log.metrics());
    sample.gauges.extend([
        ("memory_key_bytes", "Memory for the keys, with what each takes besides", parts.keys as f64),
        ("memory_value_bytes", "Memory for the values", parts.values as f64),
        (
            "memory_history_bytes",
            "Memory for earlier versions, with what each takes besides",
            parts.history as f64,
        ),
        ("memory_session_bytes", "Memory for sessions", parts.sessions as f64),
        ("memory_log_cache_bytes", "Memory for recent entries of the log", parts.log_cache as f64),
        ("memory_log_index_bytes", "Memory for the places of the log's entries", parts.log_index as f64),
    ]);
}

fn sample_storage(serving: &Serving, sample: &mut Sample) {
    let newest = serving.snapshots.newest();
    let since = log_bytes_since(newest.as_ref(), &serving.log);
    let due = serving.snapshot_policy.due_bytes(newest.as_ref());
    sample.gauges.extend([
        ("snapshot_log_bytes", "Bytes of the log since the newest snapshot", since as f64),
        ("snapshot_due_bytes", "Its length at which the next snapshot is taken", due as f64),
    ]);
    if let Some(newest) = newest {
        sample.gauges.push(("snapshot_bytes", "Length of the newest snapshot", newest.bytes as f64));
    }
    let log = serving.log.metrics();
    sample.gauges.extend([
        ("log_segments", "Segments of the log", log.segments as f64),
        ("log_queued_bytes", "Bytes that wait to be written", log.queued_bytes as f64),
        ("disk_free_bytes", "Free space in the data directory's file system", log.free_bytes as f64),
    ]);
    sample.counters.extend([
        ("log_batches", "Batches made durable", log.batches),
        ("log_entries", "Entries made durable", log.entries),
        ("log_written_bytes", "Bytes written to the log", log.bytes_written),
        ("log_rotations", "Segments that became active", log.rotations),
    ]);
    sample.histograms.push((
        "log_fsync_duration_seconds",
        "Time to write and sync a batch",
        log.write_and_sync,
    ));
}
