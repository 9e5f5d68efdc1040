//! Durable storage: a write-ahead log and snapshot files over a [`Disk`](crate::rt::disk::Disk).
//!
//! The log is one stream of records (entries, votes, truncations, purges) in numbered segments. One batch is one write
//! and one fdatasync, on the log's own thread. The rules that keep data safe, and where they are enforced:
//!
//! - a failed write or sync stops the log for good, nothing is ever retried: `Shared::poison`;
//! - recovery relies on nothing that was not synced: `recovery::make_durable`;
//! - no segment is unlinked before a later segment's durable checkpoint makes it superfluous: `Writer::retire`;
//! - no byte of a batch is written before the previous batch is durable: `Writer::write_batch`. So a valid record
//!   proves that all batches before its own were durable (the "durable mark" of a batch is its successor):
//!   `Batches::refuse_damage_before_valid_records`;
//! - a vote is acknowledged only when its mark is durable too: `Writer::settle`.
//!
//! **One batch of doubt**: damage to the very last batch looks like a torn write and is dropped, though the batch may
//! have been acknowledged. After a short idle time an empty batch closes that window; votes are never exposed to it.
//!
//! This module is independent of Raft and of the map: payloads, votes and snapshot blocks are opaque bytes.

mod config;
mod error;
mod index;
mod log;
mod metrics;
mod pieces;
mod record;
mod recovery;
mod scrub;
mod segment;
mod shared;
mod snapshot;
mod spares;
#[cfg(test)]
mod tests;
mod writer;

use crate::node_id::NodeId;
use bytes::Bytes;

pub use config::{LogConfig, SEGMENT_BYTES};
pub use error::StorageError;
pub use log::{Log, LogState};
pub use metrics::{LATENCY_BOUNDS, LatencyHistogram, LogMetrics};
pub use scrub::Pace;
pub use snapshot::{
    DamagedSnapshot, ReceivedSnapshot, SnapshotEncoder, SnapshotInfo, SnapshotReader, SnapshotReceiver,
    SnapshotWriter, Snapshots,
};

/// The position of an entry in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The term in which the entry was created.
    pub term: u64,
    /// Its log index.
    pub index: u64,
}

/// A log entry. The payload is stored unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The term in which it was created.
    pub term: u64,
    /// Its log index; indexes are consecutive.
    pub index: u64,
    /// Opaque bytes, less than 1 GiB.
    pub payload: Bytes,
}

impl LogEntry {
    /// Its position in the log.
    pub fn position(&self) -> Position {
        Position { term: self.term, index: self.index }
    }
}

/// The owner of a log: every segment repeats it, so that a copied or mixed-up directory is detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The Raft node id.
    pub node_id: NodeId,
    /// The cluster's id.
    pub cluster_id: [u8; 16],
}
