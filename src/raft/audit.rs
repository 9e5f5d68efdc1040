//! Checks of this node's state, in memory and in snapshots, that leave time for other work.

use std::time::Duration;

use super::snapshot::read_meta;
use crate::map::{BlockSum, Map, Unsound};
use crate::rt;
use crate::storage::{Pace, SnapshotInfo, Snapshots, StorageError};

/// Bytes of the state that are summed without a pause: well below a millisecond.
const SLICE_BYTES: u64 = 256 << 10;

/// Computes the digest and the counters of a clone of the state anew, and compares them with those maintained by
/// applying. Between two slices it waits for at least `pause`; if that is zero, it only yields to tasks that are ready.
///
/// # Errors
/// If they differ: the state is not what was applied.
pub async fn check_map(map: &Map, pause: Duration) -> Result<(), Unsound> {
    let mut audit = map.audit();
    while audit.step(SLICE_BYTES) {
        match pause.is_zero() {
            true => rt::task::yield_now().await,
            false => rt::sleep(pause).await,
        }
    }
    audit.verdict()
}

/// Reads a whole kept snapshot, and verifies its checksums and the digest of its state, with memory for one block.
/// Returns `Ok` if a later snapshot has replaced it meanwhile.
///
/// # Errors
/// [`StorageError::Corrupt`] if it is not what was written; otherwise the error of the disk.
pub async fn check_snapshot(
    snapshots: &Snapshots,
    info: &SnapshotInfo,
    pace: Pace,
) -> Result<(), StorageError> {
    let found = read_whole(snapshots, info, pace).await;
    if snapshots.list().contains(info) { found } else { Ok(()) }
}

async fn read_whole(snapshots: &Snapshots, info: &SnapshotInfo, pace: Pace) -> Result<(), StorageError> {
    let mut reader = snapshots.reader(info).await?;
    let Ok((_, digest)) = read_meta(reader.header()) else {
        return Err(reader.corrupt(0, "its header cannot be decoded although its checksum matches"));
    };
    let mut sum = BlockSum::default();
    while let Some(block) = reader.next_block().await? {
        sum.add(&block).map_err(|reason| reader.corrupt(0, reason))?;
        pace.give_way(block.len() as u64).await;
    }
    match sum.digest() == digest {
        true => Ok(()),
        false => Err(reader.corrupt(0, "its content has another digest than its header says")),
    }
}
