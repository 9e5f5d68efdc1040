//! Requests and replies as plain types, the same for every API.

use std::num::{NonZeroU32, NonZeroU64};

use bytes::Bytes;

use super::Place;
use crate::map::{ChangeAt, Entry, Map, OperationResult, ResultsMissing, ShownDigest};
use crate::membership::ClusterId;
use crate::node_id::NodeId;
use crate::replicated_settings::SettingsChange;
use crate::storage::LogMetrics;
use crate::transaction::{KeyRange, Transaction};

/// The consistency that a read requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The read sees every write that was answered before the read arrived.
    Linearizable,
    /// The read sees this node's state as it is, once the state has reached this revision.
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
    /// The lowest number in the session whose answer the client still waits for.
    pub lowest_unanswered: u64,
}

/// Reads one key.
#[derive(Debug)]
pub struct Get {
    /// 1 to [`crate::config::MAX_KEY_BYTES`] bytes.
    pub key: Bytes,
    /// The revision, or the consistency, at which to read.
    pub at: ReadAt,
}

/// A key that was read.
#[derive(Debug)]
pub struct Got {
    /// The key.
    pub key: Bytes,
    /// Its value and revisions.
    pub entry: Entry,
    /// The revision at which it was read.
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

/// The result of a deletion.
#[derive(Debug, Clone, Copy)]
pub struct Deleted {
    /// The revision of this deletion, or the store's revision if the key did not exist.
    pub revision: u64,
    /// Whether the key existed.
    pub existed: bool,
}

/// Executes a transaction.
#[derive(Debug)]
pub struct Transact {
    /// What is tested and done.
    pub transaction: Transaction,
    /// `None`: applied once for each time that it is sent.
    pub name: Option<WriteName>,
    /// The consistency of a transaction that cannot write.
    pub freshness: Freshness,
}

/// The result of a transaction.
#[derive(Debug)]
pub struct Transacted {
    /// The store's revision after it: its own if it changed anything.
    pub revision: u64,
    /// Whether the conditions held.
    pub succeeded: bool,
    /// What its operations found, or why that cannot be had.
    pub results: Result<Vec<OperationResult>, ResultsMissing>,
}

/// Lists keys of one revision in byte order.
#[derive(Debug)]
pub struct List {
    /// Only keys with this prefix.
    pub prefix: Bytes,
    /// Only keys behind this one.
    pub start_after: Bytes,
    /// At most this many keys; `None`: all.
    pub limit: Option<u64>,
    /// The revision, or the consistency, at which to read.
    pub at: ReadAt,
    /// Whether values are left out.
    pub keys_only: bool,
}

/// Reads the versions of one key, in the order in which they were made.
#[derive(Debug)]
pub struct Versions {
    /// 1 to [`crate::config::MAX_KEY_BYTES`] bytes.
    pub key: Bytes,
    /// Those that revisions from this one on show, and deletions from there on; `None`: from the earliest one on that can
    /// be read.
    pub from: Option<u64>,
    /// Only those behind the one that this revision made.
    pub start_after: Option<KeptPosition>,
    /// None that was made after this revision, or the present one.
    pub to: ReadAt,
    /// At most this many; `None`: all.
    pub limit: Option<NonZeroU64>,
}

/// Reads changes in the order in which they were made.
#[derive(Debug)]
pub struct Changes {
    /// Only changes of keys in this range.
    pub range: KeyRange,
    /// Only those of this revision and later ones; `None`: from the earliest one on that can be read.
    pub from: Option<u64>,
    /// Only those behind this place.
    pub start_after: Option<KeptPosition>,
    /// Only those of this revision, or the present one, and earlier ones.
    pub to: ReadAt,
    /// This many, and the rest of the last one's revision; `None`: all.
    pub limit: Option<NonZeroU64>,
    /// Whether values are left out.
    pub keys_only: bool,
}

/// The place of a change, as a client keeps it to read on behind it.
#[derive(Debug, Clone, Copy)]
pub struct KeptPosition {
    /// The place.
    pub at: ChangeAt,
    /// The [number](ClusterId::number) of the cluster that made the change; `None`: the client does not say.
    pub cluster: Option<NonZeroU64>,
}

/// The beginning of a reading of versions or changes.
pub struct Changed {
    /// The last revision that it covers.
    pub revision: u64,
    /// The number of the cluster that made them.
    pub cluster: NonZeroU64,
    /// What was changed.
    pub changes: super::KeyChanges,
}

/// The revision at which to read.
#[derive(Debug, Clone, Copy)]
pub enum ReadAt {
    /// The present one.
    Present(Freshness),
    /// This one.
    Revision(u64),
}

/// The beginning of a listing.
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
    /// The most of its writes that may be unanswered at a time.
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
    /// Whether the list includes every change that was committed before the request arrived. Otherwise it is the list
    /// that this node knows.
    pub linearizable: bool,
}

/// The members of the cluster.
#[derive(Debug)]
pub struct MemberList {
    /// In order of node id.
    pub members: Vec<MemberInfo>,
    /// The wanted number of voters; `None`: no bound.
    pub wanted_size: Option<NonZeroU32>,
}

/// A member.
#[derive(Debug)]
pub struct MemberInfo {
    /// Its Raft node id.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Its rpc address, as `host:port`.
    pub rpc_addr: String,
    /// Whether it leads, as far as this node knows.
    pub is_leader: bool,
    /// Whether it has no vote.
    pub is_learner: bool,
}

/// Asks for a node's status. Every node answers, whatever its state.
#[derive(Debug)]
pub struct Status;

/// A node's status.
#[derive(Debug)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its Raft node id.
    pub node_id: NodeId,
    /// The boot counter of its data directory.
    pub boot: u64,
    /// Its rpc address, as `host:port`.
    pub rpc_addr: String,
    /// One of [`crate::metrics::ROLES`].
    pub role: &'static str,
    /// Whether digests of the members disagree.
    pub digest_alarm: bool,
    /// The reasons why it does not serve, and its warnings, as sentences.
    pub reasons: Vec<String>,
    /// The position where a leader's log contradicts an entry that this node knows to be committed.
    pub contradiction: Option<Contradicted>,
    /// The members that it refuses, because they have gone back behind what they had acknowledged.
    pub gone_back: Vec<WentBack>,
    /// Its view of the cluster; `None`: it takes no part in one yet.
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
    /// The term in which it led.
    pub leader_term: u64,
}

/// A member that lacks entries or a term that it had acknowledged.
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
    /// The boot counter of the start in which it acknowledged.
    pub acknowledged_boot: u64,
    /// The term that a later start found on the disk.
    pub found_term: u64,
    /// The last log index that it found; `None`: none.
    pub found_index: Option<u64>,
    /// The boot counter of that start.
    pub found_boot: u64,
}

/// A node's view of its cluster.
#[derive(Debug)]
pub struct RaftStatus {
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// The current term.
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
    /// The number of keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Bytes that must be kept: [`crate::map::Map::size`].
    pub size_bytes: u64,
    /// Bytes of earlier versions: [`crate::map::Map::history_size`].
    pub history_bytes: u64,
    /// The earliest revision that can be read.
    pub floor: u64,
    /// The number of open sessions.
    pub sessions: u64,
    /// What takes its memory.
    pub memory: MemoryUse,
    /// The wanted number of voters; `None`: no bound.
    pub wanted_size: Option<NonZeroU32>,
    /// The digest of the whole state; `None`: the cluster has no key for digests yet.
    pub digest: Option<ShownDigest>,
    /// Digests by log index, at fixed positions, so that nodes can be compared.
    pub digests: Vec<(u64, ShownDigest)>,
}

/// What a node has in memory, in bytes. The parts of the store are counted with a fixed amount for what each key, version and
/// session takes besides its content.
#[derive(Debug, Default, Clone, Copy)]
pub struct MemoryUse {
    /// The process's memory that is in RAM, if that is known.
    pub resident: Option<u64>,
    /// The keys that exist.
    pub keys: u64,
    /// Their values.
    pub values: u64,
    /// Earlier versions and deletions.
    pub history: u64,
    /// Sessions, and the outcomes that they remember.
    pub sessions: u64,
    /// Recent entries of the log.
    pub log_cache: u64,
    /// The places of the log's entries on disk.
    pub log_index: u64,
    /// Entries that wait to be written.
    pub log_queue: u64,
}

impl MemoryUse {
    /// The parts, of a node with this state and this log; what is resident is not looked up.
    pub fn of(map: &Map, log: &LogMetrics) -> MemoryUse {
        MemoryUse {
            resident: None,
            keys: map.keys_size(),
            values: map.bytes() - map.key_bytes(),
            history: map.history_size(),
            sessions: map.sessions_size(),
            log_cache: log.cached_bytes,
            log_index: log.index_bytes,
            log_queue: log.queued_bytes,
        }
    }
}

/// Hands leadership over. Only the leader executes it.
#[derive(Debug)]
pub struct TransferLeader {
    /// The name of the next leader; `None`: the voter whose log reaches furthest, of those that answered recently.
    pub to: Option<String>,
}

/// Removes a member from the cluster for good. Only the leader executes it.
#[derive(Debug)]
pub struct RemoveMember {
    /// Its name.
    pub name: String,
    /// What happens to its place.
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
    /// The bounds of the state.
    Bounds(SettingsChange),
    /// The wanted number of voters; `None`: no bound.
    WantedSize(Option<NonZeroU32>),
}

/// Makes revisions unreadable, so that versions which only they show are removed.
#[derive(Debug)]
pub struct Compact {
    /// The earliest revision that is to be readable; `None`: the present one.
    pub revision: Option<u64>,
}

/// The result of a compaction.
#[derive(Debug, Clone, Copy)]
pub struct Compacted {
    /// The earliest revision that can be read.
    pub floor: u64,
    /// `false` if it was as high, or higher, before.
    pub raised: bool,
}
