//! openraft's state machine over [`Store`] and snapshot files.

use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use super::audit;
use super::snapshot::{estimated_bytes, header, load, read_meta};
use super::store::Store;
use super::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};
use super::wire::position;
use crate::map::Map;
use crate::rt;
use crate::storage::{Pace, ReceivedSnapshot, SnapshotReader, SnapshotWriter, Snapshots, StorageError};

/// The rate at which a snapshot is written: requests go first, on the processor as on the disk.
const PACE: Pace = Pace { bytes_per_second: 32 << 20 };
/// The pause between two slices of the state that is checked before it is written, each well below a millisecond.
const AUDIT_PAUSE: Duration = Duration::from_millis(2);

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
    /// A state machine over a store that holds what [`replay`](super::replay) has found.
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
                    "applying entry {} panicked, which is a bug of mokv; the panic message is in this node's log",
                    entry.log_id
                ))
            })?;
            let reply = applied.map_err(|error| {
                io::Error::other(format!(
                    "entry {} cannot be applied: {error}; this version of mokv is too old for the cluster: upgrade \
                     this node",
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
        let SnapshotData::Received(received) = data else {
            unreachable!("this node's own snapshot is loaded before Raft starts")
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
            let bytes = block.len() as u64;
            writer.add_block(block).await?;
            PACE.give_way(bytes).await;
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
        let checked = audit::check_map(&self.map, AUDIT_PAUSE).await;
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
