//! What reads and writes of keys return.

use std::num::NonZeroU64;

use bytes::Bytes;
use mokv_proto::api;

/// A key with its value and its history.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyValue {
    /// 1 to 4,096 bytes.
    pub key: Bytes,
    /// Empty in a listing of keys only.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision that wrote this value; see [`WriteOptions::if_revision`](super::WriteOptions::if_revision).
    pub mod_revision: u64,
    /// The number of writes to the key since its creation, starting at 1.
    pub version: u64,
}

impl KeyValue {
    pub(super) fn from_wire(entry: api::GetResponse) -> KeyValue {
        KeyValue {
            key: entry.key,
            value: entry.value,
            create_revision: entry.create_revision,
            mod_revision: entry.mod_revision,
            version: entry.version,
        }
    }
}

/// The answer to a read of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Read {
    /// The store's revision the read was made at.
    pub revision: u64,
    /// `None`: the key does not exist.
    pub entry: Option<KeyValue>,
}

/// The answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The store's revision that this write created; also the key's new mod revision.
    pub revision: u64,
}

/// The answer to a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted {
    /// The store's revision after the delete. Deleting an absent key does not advance it.
    pub revision: u64,
    /// Whether the key existed.
    pub existed: bool,
}

/// A change's place among all changes of the store, in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The revision that made the change.
    pub revision: u64,
    /// The number of changes, of any keys, that the same revision made before: 0 unless it is a transaction.
    pub place: u32,
    /// The cluster that made it, which alone has it: a restored backup is another cluster. `None`: not known, and any
    /// cluster takes it for its own.
    pub cluster: Option<NonZeroU64>,
}

impl Position {
    pub(super) fn wire(self) -> api::Position {
        let Position { revision, place, cluster } = self;
        api::Position { revision, place, cluster: cluster.map_or(0, NonZeroU64::get) }
    }
}

/// What a write or a deletion did to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Where it stands among all changes.
    pub position: Position,
    /// What was written; `None`: the key was deleted.
    pub entry: Option<KeyValue>,
}

impl Change {
    pub(super) fn from_wire(change: api::Change) -> Change {
        let api::Change { key, value, position, deleted, create_revision, version } = change;
        let api::Position { revision, place, cluster } = position.unwrap_or_default();
        let position = Position { revision, place, cluster: NonZeroU64::new(cluster) };
        let written = KeyValue { key: key.clone(), value, create_revision, mod_revision: revision, version };
        Change { key, position, entry: (!deleted).then_some(written) }
    }
}
