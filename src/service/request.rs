//! Requests and replies as plain types, the same for every API.

use std::num::NonZeroU32;

use bytes::Bytes;

use super::Place;
use crate::map::{Entry, ShownDigest};
use crate::membership::ClusterId;
use crate::node_id::NodeId;
use crate::replicated_settings::SettingsChange;

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It sees every write that was answered before the read came.
    Linearizable,
    /// This node's copy as it is, if it has reached this revision.
    Stale {
        /// 0: any.
        min_revision: u64,
    },
}

/// The name under which a write is applied once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteName {
    /// The session.
    pub session: u64,
    /// The write's number in it.
    pub sequence: u64,
    /// The lowest number in it whose answer its client still waits for.
    pub lowest_unanswered: u64,
}

/// Reads one key.
#[derive(Debug)]
pub struct Get {
    /// 1 to [`crate::config::MAX_KEY_BYTES`] bytes.
    pub key: Bytes,
    /// How fresh.
    pub freshness: Freshness,
}

/// A key as it was read.
#[derive(Debug)]
pub struct Got {
    /// The key.
    pub key: Bytes,
    /// What it holds.
    pub entry: Entry,
    /// The store's revision.
    pub revision: u64,
}

/// Writes a value.
#[derive(Debug)]
pub struct Set {
    /// 1 to [`crate::config::MAX_KEY_BYTES`] bytes.
    pub key: Bytes,
    /// At most `max-value-bytes`.
    pub value: Bytes,
    /// Only if the key's mod revision is this one; 0: only if it does not exist.
    pub if_revision: Option<u64>,
    /// `None`: applied once for each time that it is sent.
    pub name: Option<WriteName>,
}

/// Deletes a key.
#[derive(Debug)]
pub struct Delete {
    /// 1 to [`crate::config::MAX_KEY_BYTES`] bytes.
    pub key: Bytes,
    /// Only if the key's mod revision is this one; 0: only if it does not exist.
    pub if_revision: Option<u64>,
    /// `None`: applied once for each time that it is sent.
    pub name: Option<WriteName>,
}

/// What a deletion came to.
#[derive(Debug, Clone, Copy)]
pub struct Deleted {
    /// The store's revision; of one that changed something, its own.
    pub revision: u64,
    /// Whether the key was there.
    pub existed: bool,
}

/// Lists keys of one revision in byte order.
#[derive(Debug)]
pub struct List {
    /// Only keys that begin so.
    pub prefix: Bytes,
    /// Only keys behind this one.
    pub start_after: Bytes,
    /// At most so many keys; `None`: as many as there are.
    pub limit: Option<u64>,
    /// How fresh, or at which revision.
    pub at: ListAt,
    /// Values are left out.
    pub keys_only: bool,
}

/// Which revision a listing shows.
#[derive(Debug, Clone, Copy)]
pub enum ListAt {
    /// The present one.
    Present(Freshness),
    /// This one, of an earlier page.
    Revision(u64),
}

/// A listing that begins.
pub struct Listed {
    /// The revision that it shows.
    pub revision: u64,
    /// The keys.
    pub keys: super::Keys,
}

/// Opens a session.
#[derive(Debug)]
pub struct OpenSession;

/// An open session.
#[derive(Debug, Clone, Copy)]
pub struct SessionOpened {
    /// Its id.
    pub session: u64,
    /// How many of its writes may be unanswered at a time.
    pub window: u64,
}

/// Closes a session.
#[derive(Debug)]
pub struct CloseSession {
    /// Its id.
    pub session: u64,
}

/// Lists the members of the cluster.
#[derive(Debug)]
pub struct Members {
    /// As of every change that was committed before the request came; else as this node knows them.
    pub linearizable: bool,
}

/// The members of the cluster.
#[derive(Debug)]
pub struct MemberList {
    /// By node id.
    pub members: Vec<MemberInfo>,
    /// How many voters there are to be; `None`: as many as come.
    pub wanted_size: Option<NonZeroU32>,
}

/// A member.
#[derive(Debug)]
pub struct MemberInfo {
    /// Its Raft node id.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Where its port is, as `host:port`.
    pub rpc_addr: String,
    /// It leads, as far as this node knows.
    pub is_leader: bool,
    /// It has no vote.
    pub is_learner: bool,
}

/// Asks how a node is. Every node answers, whatever its state.
#[derive(Debug)]
pub struct Status;

/// How a node is.
#[derive(Debug)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its Raft node id.
    pub node_id: NodeId,
    /// How often its data directory was started.
    pub boot: u64,
    /// Where its port is, as `host:port`.
    pub rpc_addr: String,
    /// One word of [`crate::metrics::ROLES`].
    pub role: &'static str,
    /// Digests of the members disagree.
    pub digest_alarm: bool,
    /// What a person should know of it, in words.
    pub reasons: Vec<String>,
    /// Where a leader's log contradicts what this node knows to be committed.
    pub contradiction: Option<Contradicted>,
    /// The members that it refuses, because they have gone back behind what they had acknowledged.
    pub gone_back: Vec<WentBack>,
    /// What it knows of the cluster; `None`: it takes no part in one yet.
    pub raft: Option<RaftStatus>,
}

/// A leader's log has another entry where this node knows one to be committed.
#[derive(Debug)]
pub struct Contradicted {
    /// Term of this node's committed entry.
    pub term: u64,
    /// Index of this node's committed entry.
    pub index: u64,
    /// Term of the leader's entry.
    pub leader_entry_term: u64,
    /// Index of the leader's entry.
    pub leader_entry_index: u64,
    /// The leader's node id.
    pub leader_id: NodeId,
    /// The leader's name; empty: it is no member.
    pub leader_name: String,
    /// The term that it led in.
    pub leader_term: u64,
}

/// A member that lacks what it had acknowledged.
#[derive(Debug)]
pub struct WentBack {
    /// Its node id.
    pub node_id: NodeId,
    /// Its name; empty: it is no member.
    pub name: String,
    /// The leader's term in which it acknowledged.
    pub acknowledged_term: u64,
    /// The last log index that it acknowledged; `None`: none.
    pub acknowledged_index: Option<u64>,
    /// The boot counter of the start in which it did.
    pub acknowledged_boot: u64,
    /// The term that a later start found on the disk.
    pub found_term: u64,
    /// The last log index that it found; `None`: none.
    pub found_index: Option<u64>,
    /// The boot counter of that start.
    pub found_boot: u64,
}

/// What a node knows of its cluster.
#[derive(Debug)]
pub struct RaftStatus {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Raft's term.
    pub term: u64,
    /// Positions and state; `None`: it has not recovered yet.
    pub recovered: Option<StateStatus>,
}

/// Positions and state of a node that has recovered. Positions are log indexes; 0: none.
#[derive(Debug, Default)]
pub struct StateStatus {
    /// The leader's node id, if one is known.
    pub leader_id: Option<NodeId>,
    /// Its name; empty: none is known.
    pub leader_name: String,
    /// The last entry of the log.
    pub last_log_index: u64,
    /// The last entry that is known to be committed.
    pub committed_index: u64,
    /// The last entry of the newest snapshot.
    pub snapshot_index: u64,
    /// The last entry that the log no longer has.
    pub purged_index: u64,
    /// The last entry in the state.
    pub applied_index: u64,
    /// The store's revision.
    pub revision: u64,
    /// How many keys there are.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// How many sessions are open.
    pub sessions: u64,
    /// How many voters there are to be; `None`: as many as come.
    pub wanted_size: Option<NonZeroU32>,
    /// Of the whole state; `None`: the cluster has no key for digests yet.
    pub digest: Option<ShownDigest>,
    /// Digests at fixed positions of the log, to compare nodes by.
    pub digests: Vec<(u64, ShownDigest)>,
}

/// Hands leadership over. The leader's work.
#[derive(Debug)]
pub struct TransferLeader {
    /// To this member; `None`: to whichever voter is nearest.
    pub to: Option<String>,
}

/// Takes a member out of the cluster for good. The leader's work.
#[derive(Debug)]
pub struct RemoveMember {
    /// Its name.
    pub name: String,
    /// What becomes of its place.
    pub place: Place,
}

/// Asks this node to leave its cluster for good, and to end.
#[derive(Debug)]
pub struct Leave;

/// Takes a snapshot on this node.
#[derive(Debug)]
pub struct TakeSnapshot;

/// Reads the whole store, as a snapshot file.
#[derive(Debug)]
pub struct Backup;

/// Changes the replicated settings.
#[derive(Debug)]
pub enum Configure {
    /// What the state may hold.
    Bounds(SettingsChange),
    /// How many voters there are to be; `None`: as many as come.
    WantedSize(Option<NonZeroU32>),
}
