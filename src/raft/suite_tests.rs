//! openraft's own storage suite, on our log and state machine, on real files and on the simulated disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::log_store::LogStore;
use super::state_machine::StateMachine;
use super::store::Store;
use super::types::TypeConfig;
use crate::metrics::{Metrics, Sample, Sampler};
use crate::rt::disk::{DiskRef, RealDisk, SimDisk};
use crate::storage::{Log, LogConfig, Owner, Snapshots};

struct Nothing;

impl Sampler for Nothing {
    fn sample(&self) -> Sample {
        Sample::default()
    }
}

async fn open(disk: DiskRef) -> (LogStore, StateMachine) {
    let owner = Owner { node_id: 1, cluster_id: [1; 16] };
    // Small segments: the suite crosses their borders.
    let config = LogConfig { segment_bytes: 64 << 10, cache_bytes: 2 << 10, ..LogConfig::default() };
    let log = Log::open(disk.clone(), config, owner).await.unwrap();
    let (snapshots, _) = Snapshots::open(disk).await.unwrap();
    let store = Store::new(None, Metrics::new(Arc::new(Nothing), []));
    (LogStore::new(log, snapshots.clone(), None, None), StateMachine::new(store, snapshots))
}

struct OnRealFiles;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for OnRealFiles {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::open(directory.path()).unwrap());
        let (log, state_machine) = open(disk).await;
        Ok((directory, log, state_machine))
    }
}

#[derive(Default)]
struct OnSimulatedDisks(AtomicU64);

impl StoreBuilder<TypeConfig, LogStore, StateMachine, SimDisk> for OnSimulatedDisks {
    async fn build(&self) -> Result<(SimDisk, LogStore, StateMachine), StorageError<TypeConfig>> {
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
