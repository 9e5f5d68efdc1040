//! Checks of what this node holds of the state, in memory and in snapshots, that leave time for everything else.

use std::time::Duration;

use super::state_machine::read_meta;
use crate::map::{BlockSum, Map, Unsound};
use crate::rt;
use crate::storage::{Pace, SnapshotInfo, Snapshots, StorageError};

/// So many bytes of the state are summed up at a time: well below a millisecond.
const SLICE_BYTES: u64 = 256 << 10;

/// Sums a clone of the state up from nothing and compares it with what was carried along. Between two slices everything
/// else goes first, for this long at least; zero: whatever is ready.
///
/// # Errors
/// If it is not what was applied.
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

/// Reads a kept snapshot whole, every checksum and the digest of the state in it, in the space of one block. Well if a later
/// one takes its place meanwhile.
///
/// # Errors
/// [`StorageError::Corrupt`] if it is not what was written, and what the disk says.
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
        return Err(reader.corrupt(0, "its header makes no sense though its checksum holds"));
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
