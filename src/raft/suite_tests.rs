//! openraft's own storage suite, on our log and state machine, on real files and on the simulated disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{Stream, TryStreamExt, stream};
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, OptionalSend, StorageError};

use super::log_store::LogStore;
use super::snapshot::load;
use super::state_machine::{SnapshotBuilder, SnapshotData, StateMachine};
use super::store::Store;
use super::types::{LogId, RaftEntry, SnapshotMeta, StoredMembership, TypeConfig};
use super::wire::position;
use crate::metrics::{Metrics, Sample, Sampler};
use crate::node_id::NodeId;
use crate::rt::disk::{DiskRef, RealDisk, SimDisk};
use crate::storage::{
    Log, LogConfig, Owner, Position, ReceivedSnapshot, SnapshotReader, Snapshots, StorageError as LogError,
};

struct Nothing;

impl Sampler for Nothing {
    fn sample(&self) -> Sample {
        Sample::default()
    }
}

/// The suite numbers its nodes.
impl From<u64> for NodeId {
    fn from(number: u64) -> NodeId {
        NodeId(number)
    }
}

/// The suite applies entries with holes between them, which Raft never does and the state machine refuses: here the
/// holes are filled with blank entries. It installs snapshots of this node or of another disk, where a node loads its own
/// before Raft starts, and receives others.
struct Filled {
    state_machine: StateMachine,
    store: Arc<Store>,
    snapshots: Snapshots,
}

impl RaftStateMachine<TypeConfig> for Filled {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.state_machine.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut next = self.state_machine.applied_state().await?.0.map(|applied| applied.index + 1);
        let mut filled = Vec::new();
        for (entry, responder) in entries.try_collect::<Vec<_>>().await? {
            let index = entry.log_id.index;
            let holes = next.unwrap_or(index)..index;
            let blank =
                |index| RaftEntry { log_id: LogId { index, ..entry.log_id }, payload: EntryPayload::Blank };
            filled.extend(holes.map(|hole| Ok((blank(hole), None))));
            filled.push(Ok((entry, responder)));
            next = Some(index + 1);
        }
        self.state_machine.apply(stream::iter(filled)).await
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        self.state_machine.try_create_snapshot_builder(force).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.state_machine.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        let SnapshotData::Kept(reader) = data else {
            return self.state_machine.install_snapshot(meta, data).await;
        };
        let at = meta.last_log_id.map(position).unwrap_or_default();
        if self.snapshots.list().iter().any(|kept| kept.position == at) {
            self.store.install(load(reader).await?);
            return Ok(());
        }
        let copy =
            SnapshotData::Received(copy(&self.snapshots, at, &reader).await.map_err(io::Error::other)?);
        self.state_machine.install_snapshot(meta, copy).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        self.state_machine.get_current_snapshot().await
    }
}

/// Copies a snapshot that lies on another disk of this process.
async fn copy(
    snapshots: &Snapshots,
    position: Position,
    from: &SnapshotReader,
) -> Result<ReceivedSnapshot, LogError> {
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

async fn open(disk: DiskRef) -> (LogStore, Filled) {
    let owner = Owner { node_id: NodeId(1), cluster_id: [1; 16] };
    // Small segments: the suite crosses their borders.
    let config = LogConfig { segment_bytes: 64 << 10, cache_bytes: 2 << 10, ..LogConfig::default() };
    let log = Log::open(disk.clone(), config, owner).await.unwrap();
    let (snapshots, _) = Snapshots::open(disk).await.unwrap();
    let store = Store::new(None, Metrics::new(Arc::new(Nothing), []));
    let state_machine = StateMachine::new(store.clone(), snapshots.clone());
    (LogStore::new(log, snapshots.clone(), None, None), Filled { state_machine, store, snapshots })
}

struct OnRealFiles;

impl StoreBuilder<TypeConfig, LogStore, Filled, tempfile::TempDir> for OnRealFiles {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Filled), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::open(directory.path()).unwrap());
        let (log, state_machine) = open(disk).await;
        Ok((directory, log, state_machine))
    }
}

#[derive(Default)]
struct OnSimulatedDisks(AtomicU64);

impl StoreBuilder<TypeConfig, LogStore, Filled, SimDisk> for OnSimulatedDisks {
    async fn build(&self) -> Result<(SimDisk, LogStore, Filled), StorageError<TypeConfig>> {
        let disk = SimDisk::new(self.0.fetch_add(1, Ordering::Relaxed));
        let (log, state_machine) = open(disk.mount()).await;
        Ok((disk, log, state_machine))
    }
}

#[tokio::test]
async fn openrafts_suite_passes_on_real_files() {
    Suite::test_all(OnRealFiles).await.unwrap();
}

#[tokio::test]
async fn openrafts_suite_passes_on_the_simulated_disk() {
    Suite::test_all(OnSimulatedDisks::default()).await.unwrap();
}
