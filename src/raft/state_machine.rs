//! openraft's state machine over [`Store`] and snapshot files.

use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use mokv_proto::log;
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use prost::Message as _;

use super::audit;
use super::store::{State, Store};
use super::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};
use super::wire::{position, snapshot_meta_from_wire, snapshot_meta_to_wire};
use crate::map::{Map, Restore};
use crate::rt;
use crate::storage::{Position, ReceivedSnapshot, SnapshotReader, SnapshotWriter, Snapshots, StorageError};

/// A snapshot, as openraft passes it around.
pub enum SnapshotData {
    /// One of the kept files, open for reading: it stays readable when a newer one replaces it.
    Kept(SnapshotReader),
    /// A complete, verified file from the leader, not published under its name yet.
    Received(ReceivedSnapshot),
}

/// Applies entries, takes and installs snapshots.
pub struct StateMachine {
    store: Arc<Store>,
    snapshots: Snapshots,
}

impl StateMachine {
    /// A state machine over a store that is empty: openraft installs the newest snapshot and replays the log.
    pub fn new(store: Arc<Store>, snapshots: Snapshots) -> StateMachine {
        StateMachine { store, snapshots }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.store.read();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            // openraft notices an error here at once, and a panic only when it next needs this task.
            let applied = catch_unwind(AssertUnwindSafe(|| self.store.apply(&entry)));
            let applied = applied.map_err(|_| {
                io::Error::other(format!(
                    "applying entry {} panicked, which is a bug of mokv; what it said is in this node's log",
                    entry.log_id
                ))
            })?;
            let reply = applied.map_err(|error| {
                io::Error::other(format!(
                    "entry {} cannot be applied: {error}; this node is too old for its cluster: upgrade it",
                    entry.log_id
                ))
            })?;
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        if self.store.rotten().borrow().is_some() {
            rt::sometimes("no snapshot made of a rotten state");
            self.store.decline_snapshot("the state in memory is not what was applied to it".into());
            return None;
        }
        // Writes go on while the snapshot is written.
        let (map, meta) = self.store.read().frozen();
        if meta.last_log_id.is_none() && !force {
            return None;
        }
        let at = meta.last_log_id.map(position).unwrap_or_default();
        let header = header(&meta, map.digest());
        // Space is reserved before openraft counts on the snapshot: a failure later would stop the node.
        match self.snapshots.create(at, header, estimated_bytes(&map)).await {
            Ok(writer) => {
                let snapshots = self.snapshots.clone();
                Some(SnapshotBuilder {
                    map,
                    meta,
                    store: Some(self.store.clone()),
                    snapshots,
                    writer: Some(writer),
                })
            }
            Err(error) => {
                rt::sometimes("snapshot declined for want of space");
                tracing::warn!(index = at.index, "no snapshot is taken: {error}");
                self.store.decline_snapshot(error.to_string());
                None
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        unreachable!("openraft asks try_create_snapshot_builder")
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        let received = match data {
            SnapshotData::Received(received) => received,
            SnapshotData::Kept(reader) => {
                let position = meta.last_log_id.map(position).unwrap_or_default();
                if self.snapshots.list().iter().any(|kept| kept.position == position) {
                    // This node's own snapshot, installed at a start: the file is already in its place.
                    let state = load(reader).await?;
                    self.store.install(state);
                    return Ok(());
                }
                copy(&self.snapshots, position, &reader).await.map_err(io::Error::other)?
            }
        };
        // The new state is built separately first: a damaged file then changes nothing.
        let state = load(received.reader().await.map_err(io::Error::other)?).await?;
        if state.applied != meta.last_log_id {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot's header names another position",
            ));
        }
        let applied = self.store.read().applied;
        assert!(
            applied <= state.applied,
            "a snapshot at {:?} would replace the state at {applied:?}",
            state.applied
        );
        // openraft has already truncated conflicting entries, durably; from here on the file is the newest snapshot.
        received.publish().await.map_err(io::Error::other)?;
        if applied.is_none() {
            rt::sometimes("empty node caught up by a snapshot");
        }
        self.store.install(state);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        let kept = self.snapshots.list();
        let Some(info) = kept.first() else { return Ok(None) };
        let reader = self.snapshots.reader(info).await.map_err(io::Error::other)?;
        let (meta, _) = read_meta(reader.header())?;
        Ok(Some(SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot: SnapshotData::Kept(reader) }))
    }
}

/// A snapshot's header.
pub fn header(meta: &SnapshotMeta, digest: u128) -> Bytes {
    snapshot_meta_to_wire(meta, digest).encode_to_vec().into()
}

/// An estimate, slightly too high, of the size of a snapshot of the map.
pub fn estimated_bytes(map: &Map) -> u64 {
    const PER_KEY: u64 = 48;
    const PER_SESSION: u64 = 64;
    const FIXED: u64 = 64 << 10;
    map.bytes() + map.keys() * PER_KEY + map.sessions() * PER_SESSION * 4 + FIXED
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

/// Copies a snapshot that lies on another disk of this process.
async fn copy(
    snapshots: &Snapshots,
    position: Position,
    from: &SnapshotReader,
) -> Result<ReceivedSnapshot, StorageError> {
    const CHUNK_BYTES: usize = 1 << 20;
    let mut receiver = snapshots.receive(position, from.total_bytes()).await?;
    let mut offset = 0;
    while offset < from.total_bytes() {
        let chunk = from.read_chunk(offset, CHUNK_BYTES).await?;
        let length = chunk.len() as u64;
        receiver.write_chunk(offset, chunk).await?;
        offset += length;
    }
    receiver.verify().await
}

/// Writes a clone of the map to a snapshot file.
pub struct SnapshotBuilder {
    map: Map,
    meta: SnapshotMeta,
    /// Dropped when the state turns out to be corrupt: the builder then waits until the process ends.
    store: Option<Arc<Store>>,
    snapshots: Snapshots,
    writer: Option<SnapshotWriter>,
}

impl SnapshotBuilder {
    async fn write(&self, mut writer: SnapshotWriter) -> Result<SnapshotReader, StorageError> {
        for block in self.map.blocks() {
            writer.add_block(block).await?;
        }
        self.snapshots.reader(&writer.finish().await?).await
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        let writer = self.writer.take().expect("a builder builds one snapshot");
        // Once this snapshot exists, the log before it and the oldest snapshot are deleted: first check that the state
        // is what they produced.
        let checked = audit::check_map(&self.map, Duration::ZERO).await;
        if let Err(found) = checked {
            rt::sometimes("no snapshot made of a rotten state");
            let store = self.store.take().expect("a builder builds one snapshot");
            self.map = Map::new();
            drop(writer);
            store.decline_snapshot(format!("the state in memory is not what was applied to it: {found}"));
            store.find_rotten(found);
            drop(store);
            // On an error openraft would stop the node, which may be the only one with the newest committed entries.
            match std::future::pending::<Infallible>().await {}
        }
        let data = SnapshotData::Kept(self.write(writer).await.map_err(io::Error::other)?);
        Ok(SnapshotOf::<TypeConfig, SnapshotData> { meta: self.meta.clone(), snapshot: data })
    }
}
