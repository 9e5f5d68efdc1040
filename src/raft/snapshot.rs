//! A state as a snapshot's header and blocks, and back.

use std::io;

use bytes::Bytes;
use mokv_proto::log;
use prost::Message as _;

use super::store::State;
use super::types::SnapshotMeta;
use super::wire::{snapshot_meta_from_wire, snapshot_meta_to_wire};
use crate::map::{Map, Restore};
use crate::rt;
use crate::storage::SnapshotReader;

/// A snapshot's header.
pub fn header(meta: &SnapshotMeta, digest: u128) -> Bytes {
    snapshot_meta_to_wire(meta, digest).encode_to_vec().into()
}

/// An estimate, slightly too high, of the size of a snapshot of the map.
pub fn estimated_bytes(map: &Map) -> u64 {
    const PER_VERSION: u64 = 48;
    const FIXED: u64 = 64 << 10;
    map.bytes() + map.history_bytes() + map.versions() * PER_VERSION + map.session_bytes() + FIXED
}

/// Returns a snapshot's metadata and the digest of its state, from its header.
pub(super) fn read_meta(header: &Bytes) -> io::Result<(SnapshotMeta, u128)> {
    let meta = log::SnapshotMeta::decode(header.clone())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    snapshot_meta_from_wire(&meta).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Reads a whole snapshot and checks that its state has the digest that its header claims.
///
/// # Errors
/// If it cannot be read, is damaged or is no snapshot of a map.
pub async fn load(mut reader: SnapshotReader) -> io::Result<State> {
    let (meta, digest) = read_meta(reader.header())?;
    let mut restore = Restore::new();
    while let Some(block) = reader.next_block().await.map_err(io::Error::other)? {
        restore.add_block(&block).map_err(io::Error::other)?;
        // A large map is built in many steps; heartbeats are answered in between.
        rt::task::yield_now().await;
    }
    let map = restore.finish(digest).map_err(io::Error::other)?;
    Ok(State { map, applied: meta.last_log_id, membership: meta.last_membership })
}
