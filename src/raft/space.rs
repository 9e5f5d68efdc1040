//! Frees space on a nearly full disk, on each node independently: takes a snapshot, so that the log before it is
//! deleted.
//!
//! Clients are advised to delete keys, but that alone frees nothing: it only makes the next snapshot smaller, and that
//! one would come after the usual number of entries. Everything after the older of the two kept snapshots stays in the
//! log, so two snapshots, with an entry between them, are needed until the log is freed; if clients send no entry, the
//! node proposes one that changes nothing. Takes no snapshot that is not worth its space, and none that uses space that
//! Raft itself needs next.

use std::time::Duration;

use super::Consensus;
use super::snapshot::estimated_bytes;
use crate::map::Command;
use crate::replicated_settings::SettingsChange;
use crate::rt::time::Seldom;
use crate::rt::{self, sleep, timeout};
use crate::storage::{SnapshotInfo, Snapshots};

/// The interval at which a node with a nearly full disk checks whether it can free space; the log checks the disk as
/// often.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest wait for a snapshot; one that takes longer goes on.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);
/// Two snapshots are worth writing if they free at least so many segments: the last ones of a log come and go.
const WORTH_SEGMENTS: u64 = 2;
/// And if they free at least the size of a snapshot divided by this: a store that fills the disk by itself is not
/// written over and over.
const WORTH_SHARE: u64 = 4;

/// What the disk holds, and what could replace it.
#[derive(Debug, Clone)]
struct Holdings {
    /// The last applied index.
    applied: u64,
    /// The complete snapshots, newest first.
    kept: Vec<SnapshotInfo>,
    /// The size of the segments that are no longer written.
    sealed_bytes: u64,
    segment_bytes: u64,
    /// The size of a snapshot of the current state, at most.
    expected_bytes: u64,
    /// The space that a snapshot may use now.
    room_bytes: u64,
}

/// What to do about a disk that is nearly full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Take a snapshot.
    Snapshot,
    /// Propose an entry: a snapshot of everything applied exists, and only one of a later entry frees log.
    Entry,
    /// A snapshot would free space, but there is no room to write it.
    NoRoom,
    /// A snapshot would free almost nothing.
    Nothing,
}

impl Holdings {
    fn step(&self) -> Step {
        // Both snapshots are replaced in the end, and the log before them is deleted.
        let freed = self.sealed_bytes + self.kept.iter().map(|kept| kept.bytes).sum::<u64>();
        let worth = (self.segment_bytes * WORTH_SEGMENTS).max(self.expected_bytes / WORTH_SHARE);
        if freed < self.expected_bytes * 2 + worth {
            return Step::Nothing;
        }
        match self.kept.first() {
            _ if self.expected_bytes > self.room_bytes => Step::NoRoom,
            Some(newest) if newest.position.index >= self.applied => Step::Entry,
            _ => Step::Snapshot,
        }
    }
}

/// Makes room whenever this node's disk is nearly full. Never returns.
pub async fn make_room_for_ever(consensus: Consensus, snapshots: Snapshots) {
    let mut logged = None;
    let failing = Seldom::default();
    loop {
        sleep(PAUSE).await;
        if !consensus.is_disk_full() {
            logged = None;
            continue;
        }
        purge(&consensus, &snapshots).await;
        let holdings = holdings(&consensus, &snapshots);
        let step = holdings.step();
        if logged.replace(step) != Some(step) {
            report(step, &holdings);
        }
        match step {
            Step::Snapshot => snapshot(&consensus, &failing).await,
            Step::Entry => propose_nothing(&consensus).await,
            Step::NoRoom | Step::Nothing => {}
        }
    }
}

fn holdings(consensus: &Consensus, snapshots: &Snapshots) -> Holdings {
    let (map, meta) = consensus.store().read().frozen();
    let log = consensus.log();
    Holdings {
        applied: meta.last_log_id.map_or(0, |id| id.index),
        kept: snapshots.list(),
        sealed_bytes: log.sealed_bytes(),
        segment_bytes: log.segment_bytes(),
        expected_bytes: estimated_bytes(&map),
        room_bytes: log.room_for_snapshot(),
    }
}

fn report(step: Step, holdings: &Holdings) {
    let Holdings { expected_bytes, room_bytes, sealed_bytes, .. } = holdings;
    match step {
        Step::Snapshot | Step::Entry => {
            tracing::warn!(expected_bytes, sealed_bytes, "the disk is nearly full: a snapshot will free log");
        }
        Step::NoRoom => tracing::warn!(
            expected_bytes,
            room_bytes,
            "the disk is nearly full, and a snapshot that would free log does not fit: free space in the file system of the \
             data directory, or delete keys until it fits"
        ),
        Step::Nothing => tracing::warn!(
            expected_bytes,
            sealed_bytes,
            "the disk is nearly full, and a snapshot would free almost nothing: free space in the file system of the \
             data directory, make it larger, or delete keys"
        ),
    }
}

/// Purges the whole log that the older snapshot covers. openraft by itself keeps as many entries before a snapshot as
/// lie between two, for followers that lag.
pub async fn purge(consensus: &Consensus, snapshots: &Snapshots) {
    let Some(older) = snapshots.list().get(1).map(|older| older.position.index) else { return };
    if consensus.metrics().purged.is_none_or(|purged| purged.index < older) {
        // If Raft has stopped, the node ends anyway.
        let _ = consensus.raft().trigger().purge_log(older).await;
    }
}

async fn snapshot(consensus: &Consensus, failing: &Seldom) {
    rt::sometimes("snapshot taken to make room");
    let failure = match timeout(SNAPSHOT_PATIENCE, consensus.take_snapshot()).await {
        Ok(Ok(index)) => return tracing::info!(index, "took a snapshot to make room"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it takes longer than {SNAPSHOT_PATIENCE:?}"),
    };
    if let Some(more) = failing.now() {
        tracing::warn!(more, "a snapshot to make room failed: {failure}");
    }
}

/// Proposes an entry that changes nothing, so that another snapshot can be taken.
pub async fn propose_nothing(consensus: &Consensus) {
    let nothing = Command::Configure(SettingsChange::none());
    let deadline = rt::now() + consensus.request_timeout();
    if let Err(error) = consensus.propose(nothing.encode(), deadline).await {
        tracing::debug!("no entry for another snapshot: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Position;

    const MIB: u64 = 1 << 20;

    fn kept(index: u64, bytes: u64) -> SnapshotInfo {
        SnapshotInfo { position: Position { term: 1, index }, bytes }
    }

    /// 1 GiB was written and deleted again, and there was no snapshot yet.
    fn deleted() -> Holdings {
        Holdings {
            applied: 2_000,
            kept: Vec::new(),
            sealed_bytes: 1_024 * MIB,
            segment_bytes: 32 * MIB,
            expected_bytes: MIB / 16,
            room_bytes: 200 * MIB,
        }
    }

    #[test]
    fn what_was_deleted_goes_with_two_snapshots_and_an_entry_between_them() {
        let mut holdings = deleted();
        assert_eq!(holdings.step(), Step::Snapshot);
        holdings.kept = vec![kept(2_000, 1_000)];
        assert_eq!(holdings.step(), Step::Entry, "the older one is still none");
        holdings.applied = 2_001;
        assert_eq!(holdings.step(), Step::Snapshot);
        holdings.kept = vec![kept(2_001, 1_000), kept(2_000, 1_000)];
        holdings.sealed_bytes = 0;
        assert_eq!(holdings.step(), Step::Nothing);
        holdings.applied = 3_000;
        assert_eq!(holdings.step(), Step::Nothing, "entries alone are no reason");
    }

    #[test]
    fn no_snapshot_takes_what_raft_needs_or_frees_less_than_it_is_worth() {
        let without_room = Holdings { room_bytes: 1_000, ..deleted() };
        assert_eq!(without_room.step(), Step::NoRoom);
        let nothing_deleted = Holdings { expected_bytes: 1_000 * MIB, room_bytes: 2_000 * MIB, ..deleted() };
        assert_eq!(nothing_deleted.step(), Step::Nothing);
        let last_segment = Holdings { sealed_bytes: 32 * MIB, ..deleted() };
        assert_eq!(last_segment.step(), Step::Nothing);
        // Large snapshots of data that is deleted by now are worth replacing even without log.
        let large = vec![kept(1_900, 500 * MIB), kept(1_000, 500 * MIB)];
        assert_eq!(Holdings { kept: large, sealed_bytes: 0, ..deleted() }.step(), Step::Snapshot);
    }
}
