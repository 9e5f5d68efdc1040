//! Scrubbing: files that are rarely read are read again in the background, slowly, and the digest of the state in
//! memory is computed anew.
//!
//! Disks lose bits unnoticed, and memory flips them. A restart would detect it, but by then the other copies may be
//! lost too; so a node checks while it runs. One round checks the state in memory, every sealed segment and every kept
//! snapshot, one after the other and at a bounded rate; then comes a pause. A start has read everything, so the first
//! round comes after a pause.
//!
//! Damage is reported (log, metric, status), and then
//!
//! - a damaged **file** is replaced, because the state in memory is sound: it was checked first, and every snapshot is
//!   checked before it counts. New snapshots are taken until both kept ones are newer than the damage; the log before
//!   them is purged as always, and the damaged file with it. Until then nothing is removed; a damaged snapshot is only
//!   no longer offered to other nodes. A node that still needs entries of a damaged segment gets a snapshot, which it
//!   would need in any case, because the entries cannot be read.
//! - a state that differs from what was applied to it is **doubted**: it is not written to any snapshot, and the node
//!   does not serve it (`lifecycle.rs`).
//!
//! Nothing here removes or writes a file, decides about the membership, or holds a lock while it waits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Damaged;
use crate::raft::{Consensus, audit, space};
use crate::rt::{self, sleep, timeout};
use crate::service::Context;
use crate::storage::{Log, Pace, Position, Snapshots, StorageError};

/// A tenth of a slow disk's throughput.
const PACE: Pace = Pace { bytes_per_second: 16 << 20 };
/// The pause between two slices of the state: checking takes at most a tenth of a processor.
const BREATH: Duration = Duration::from_millis(2);
/// How long after a failed read a file is read once more, before it counts as damaged.
const SECOND_TRY: Duration = Duration::from_secs(1);
/// The pause between two steps of replacing a damaged file.
const STEP: Duration = Duration::from_secs(1);
/// The most steps for one file in a round; the next round tries again.
const STEPS: u32 = 20;
/// How long a snapshot is waited for; after that it goes on in the background.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);
/// The longest pause before the next round if one has not repaired all damage.
const AGAIN: Duration = Duration::from_secs(60);

/// What is checked, and how often.
pub(super) struct Scrub {
    pub consensus: Consensus,
    pub log: Log,
    pub snapshots: Snapshots,
    pub context: Arc<Context>,
    /// The pause between two rounds; zero disables them.
    pub interval: Duration,
}

/// A damaged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Segment(u64),
    Snapshot(Position),
}

impl Damage {
    fn counts_as(self) -> Damaged {
        match self {
            Damage::Segment(_) => Damaged::Log,
            Damage::Snapshot(_) => Damaged::Snapshot,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Segment(number) => write!(f, "segment {number:016x}"),
            Damage::Snapshot(position) => write!(f, "snapshot {:016x}", position.index),
        }
    }
}

impl Scrub {
    /// Checks round after round, for ever.
    pub async fn scrub_for_ever(self) {
        if self.interval.is_zero() {
            std::future::pending::<()>().await;
        }
        let mut pause = self.interval;
        loop {
            sleep(pause).await;
            pause = match self.round().await {
                true => self.interval,
                false => self.interval.min(AGAIN),
            };
        }
    }

    /// Runs one round. Returns `true` if everything is sound after it.
    async fn round(&self) -> bool {
        if self.consensus.is_doubted() || !self.is_memory_sound().await {
            return false;
        }
        let mut is_sound = true;
        for number in self.log.sealed() {
            let damage = Damage::Segment(number);
            let found = twice(|| self.log.check_sealed(number, PACE)).await;
            is_sound &= self.settle(damage, found.err()).await;
        }
        for info in self.snapshots.list() {
            let damage = Damage::Snapshot(info.position);
            let found = twice(|| audit::check_snapshot(&self.snapshots, &info, PACE)).await;
            if let Err(error) = &found {
                self.snapshots.condemn(info.position, error.clone());
            }
            is_sound &= self.settle(damage, found.err()).await;
        }
        is_sound
    }

    async fn is_memory_sound(&self) -> bool {
        let (map, _) = self.consensus.store().read().frozen();
        match audit::check_map(&map, BREATH).await {
            Ok(()) => true,
            Err(found) => {
                self.consensus.store().find_rotten(found);
                false
            }
        }
    }

    /// Replaces a damaged file by new snapshots. Returns `true` if there is no damage, or the damaged file is gone.
    async fn settle(&self, damage: Damage, error: Option<StorageError>) -> bool {
        let Some(error) = error else { return true };
        let found = format!(
            "{}; the state in memory is sound, and this node is replacing what is damaged by new snapshots. Have the \
             disk checked: a disk that has lost one bit may lose more",
            error.finding()
        );
        let was_known = self.context.set_damage(&damage.to_string(), Some(found.clone()));
        if !was_known {
            tracing::error!("the background check found damage: {found}");
            self.context.metrics.damage_found(damage.counts_as());
        }
        for _ in 0..STEPS {
            if self.is_gone(damage) {
                match damage {
                    Damage::Segment(_) => rt::sometimes("damaged segment given up"),
                    Damage::Snapshot(_) => rt::sometimes("damaged snapshot replaced"),
                }
                tracing::info!("{damage} was damaged and is not needed any more: later snapshots replace it");
                self.context.set_damage(&damage.to_string(), None);
                return true;
            }
            // A doubted state must not replace anything.
            if self.consensus.is_doubted() || self.consensus.store().rotten().borrow().is_some() {
                return false;
            }
            self.step(damage).await;
            sleep(STEP).await;
        }
        tracing::warn!("{damage} is still damaged and still needed; the next round tries again");
        false
    }

    fn is_gone(&self, damage: Damage) -> bool {
        match damage {
            Damage::Segment(number) => !self.log.has_segment(number),
            Damage::Snapshot(position) => !self.snapshots.has(position),
        }
    }

    /// Takes one step towards two snapshots that cover everything up to the damage.
    async fn step(&self, damage: Damage) {
        let kept = self.snapshots.list();
        if let Damage::Segment(number) = damage
            && let Some(older) = kept.get(1)
            && self.log.last_index_in(number).is_none_or(|last| last <= older.position.index)
        {
            space::purge(&self.consensus, &self.snapshots).await;
            if self.is_gone(damage) {
                return;
            }
        }
        let applied = self.consensus.store().read().applied.map_or(0, |id| id.index);
        if self.consensus.metrics().snapshot.is_some_and(|newest| newest.index >= applied) {
            return space::propose_nothing(&self.consensus).await;
        }
        match timeout(SNAPSHOT_PATIENCE, self.consensus.take_snapshot()).await {
            Ok(Ok(index)) => tracing::info!(index, "took a snapshot to replace {damage}"),
            Ok(Err(error)) => tracing::warn!("no snapshot replaces {damage} yet: {error}"),
            Err(_) => tracing::info!("a snapshot that replaces {damage} is still being written"),
        }
    }
}

/// Checks a file, and once more after a pause if the disk failed to read it.
async fn twice<F: Future<Output = Result<(), StorageError>>>(check: impl Fn() -> F) -> F::Output {
    match check().await {
        Err(StorageError::Io { .. }) => {
            sleep(SECOND_TRY).await;
            check().await
        }
        found => found,
    }
}
