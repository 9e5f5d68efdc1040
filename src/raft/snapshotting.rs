//! When a node takes a snapshot: by the bytes of its log, each node by itself.
//!
//! A snapshot costs as many bytes as the state has, and saves as many as the log since the last one has. So one is taken
//! when the log has grown to twice the last snapshot: whatever the state's size, snapshots then add at most
//! half of what the log writes, and a start replays at most twice the state. The policy's bounds hold before
//! that: a small state is not written over and over, and a start never replays more than the upper bound. Once there is no
//! room for that much log and another snapshot, one is taken while there still is.
//!
//! Everything after the older of the two kept snapshots stays in the log, for followers that lag; the rest is purged here.
//! `space` takes the snapshots that free a nearly full disk.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::snapshot::estimated_bytes;
use super::{Consensus, SnapshotError, space};
use crate::rt::sleep;
use crate::storage::{Log, SnapshotInfo, Snapshots};

/// The interval at which a node looks at its log.
const INTERVAL: Duration = Duration::from_millis(100);
/// The pause after a snapshot that could not be taken.
const PAUSE: Duration = Duration::from_secs(5);
/// A snapshot is taken once the log since the last one has so many times its size.
const RATIO: u64 = 2;

/// When a node takes a snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotPolicy {
    /// At the lower bound, in payload bytes of the log since the last snapshot, at the earliest; at the upper one at the
    /// latest.
    pub log_bytes: RangeInclusive<u64>,
}

/// What a node has written.
#[derive(Debug, Clone)]
struct Written {
    /// The last applied index.
    applied: u64,
    /// The newest snapshot.
    newest: Option<SnapshotInfo>,
    /// Payload bytes of the log after it.
    log_bytes: u64,
    /// The size of a snapshot of the current state, at most.
    expected_bytes: u64,
    /// The space that a snapshot may use now.
    room_bytes: u64,
}

impl SnapshotPolicy {
    fn is_due(&self, written: &Written) -> bool {
        let newest = written.newest.as_ref();
        if newest.is_some_and(|newest| newest.position.index >= written.applied) {
            return false;
        }
        let wanted = self.due_bytes(newest);
        let left = written.room_bytes.saturating_sub(written.expected_bytes);
        let is_short = || written.log_bytes >= *self.log_bytes.start() && left < wanted - written.log_bytes;
        written.log_bytes >= wanted || is_short()
    }

    /// Payload bytes of the log since the newest snapshot at which the next one is taken, unless the disk has too little
    /// room for that.
    pub fn due_bytes(&self, newest: Option<&SnapshotInfo>) -> u64 {
        let last_bytes = newest.map_or(0, |newest| newest.bytes);
        last_bytes.saturating_mul(RATIO).clamp(*self.log_bytes.start(), *self.log_bytes.end())
    }
}

/// Payload bytes of the log since the newest snapshot.
pub fn log_bytes_since(newest: Option<&SnapshotInfo>, log: &Log) -> u64 {
    let covered = newest.map(|newest| newest.position).max(log.purged());
    log.bytes_after(covered.map_or(0, |position| position.index)).unwrap_or(0)
}

/// Takes snapshots by the policy, and purges the log that they replace. Never returns.
pub async fn take_snapshots_for_ever(consensus: Consensus, snapshots: Snapshots, policy: SnapshotPolicy) {
    loop {
        sleep(INTERVAL).await;
        space::purge(&consensus, &snapshots).await;
        if !policy.is_due(&written(&consensus, &snapshots)) {
            continue;
        }
        match consensus.take_snapshot().await {
            Ok(index) => tracing::debug!(index, "took a snapshot"),
            // The reason was logged where it arose.
            Err(SnapshotError::Declined(_)) => sleep(PAUSE).await,
            // The node ends, by whatever stopped Raft.
            Err(SnapshotError::Stopped(_)) => sleep(PAUSE).await,
        }
    }
}

fn written(consensus: &Consensus, snapshots: &Snapshots) -> Written {
    let newest = snapshots.newest();
    let log = consensus.log();
    let state = consensus.store().read();
    Written {
        applied: state.applied.map_or(0, |id| id.index),
        log_bytes: log_bytes_since(newest.as_ref(), log),
        newest,
        expected_bytes: estimated_bytes(&state.map),
        room_bytes: log.room_for_snapshot(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Position;

    const MIB: u64 = 1 << 20;

    fn policy() -> SnapshotPolicy {
        SnapshotPolicy { log_bytes: 64 * MIB..=4096 * MIB }
    }

    fn snapshot(bytes: u64) -> Option<SnapshotInfo> {
        Some(SnapshotInfo { position: Position { term: 1, index: 1_000 }, bytes })
    }

    /// A log of so many bytes since a snapshot of so many, on a large disk.
    fn written(log_bytes: u64, newest: Option<SnapshotInfo>) -> Written {
        let expected_bytes = 100 * MIB;
        Written { applied: 2_000, newest, log_bytes, expected_bytes, room_bytes: 1 << 40 }
    }

    #[test]
    fn a_snapshot_follows_the_size_of_the_last_one_within_bounds() {
        let is_due = |log_bytes, newest| policy().is_due(&written(log_bytes, newest));
        assert!(!is_due(64 * MIB - 1, None) && is_due(64 * MIB, None));
        assert!(!is_due(64 * MIB - 1, snapshot(MIB)) && is_due(64 * MIB, snapshot(MIB)));
        assert!(!is_due(600 * MIB - 1, snapshot(300 * MIB)) && is_due(600 * MIB, snapshot(300 * MIB)));
        assert!(!is_due(4096 * MIB - 1, snapshot(1 << 40)) && is_due(4096 * MIB, snapshot(u64::MAX)));
    }

    #[test]
    fn what_a_snapshot_holds_is_not_written_again() {
        let nothing_new = Written { applied: 1_000, ..written(4096 * MIB, snapshot(MIB)) };
        assert!(!policy().is_due(&nothing_new));
    }

    #[test]
    fn a_snapshot_is_taken_while_there_is_room_for_it() {
        let on_a_disk_with =
            |room_bytes, log_bytes| Written { room_bytes, ..written(log_bytes, snapshot(300 * MIB)) };
        // 500 MiB more of log are to come, and a snapshot of 100 MiB.
        assert!(!policy().is_due(&on_a_disk_with(600 * MIB, 100 * MIB)));
        assert!(policy().is_due(&on_a_disk_with(600 * MIB - 1, 100 * MIB)));
        assert!(!policy().is_due(&on_a_disk_with(600 * MIB - 1, 64 * MIB - 1)), "not over and over");
    }
}
