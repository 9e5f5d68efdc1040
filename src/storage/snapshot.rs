//! Snapshot files: written under a temporary name, synced, renamed, the directory synced; two are kept.
//!
//! A file with a live name is complete and was durable before it got the name. Its content is opaque: a header and
//! blocks, each with its checksum. "Newest" is by log position, never by a file's time. Creating a snapshot never
//! changes the log, and a lack of space for it is an error of the snapshot alone.

mod encode;
mod format;
mod read;
mod write;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::mpsc;

use super::Position;
use super::error::StorageError;
use crate::rt;
use crate::rt::disk::{Disk, DiskRef};
use crate::rt::random;

pub use encode::SnapshotEncoder;
pub use read::SnapshotReader;
pub use write::{ReceivedSnapshot, SnapshotReceiver, SnapshotWriter};

/// Number of snapshots kept: if the newest turns out to be damaged, the previous one and the log after it are used.
const KEPT: usize = 2;

/// A complete snapshot on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The last log entry that it includes.
    pub position: Position,
    /// Length of its file in bytes.
    pub bytes: u64,
}

/// A file with a snapshot's name that is not a valid snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedSnapshot {
    /// The position in its name.
    pub position: Position,
    /// How it is damaged.
    pub error: StorageError,
}

/// The snapshots on a disk. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Snapshots {
    disk: DiskRef,
    state: Arc<Mutex<State>>,
    /// Names of unfinished files whose writer was dropped, for the task that removes them.
    dropped: mpsc::UnboundedSender<String>,
}

#[derive(Debug, Default)]
struct State {
    /// Complete snapshots, newest first.
    whole: Vec<SnapshotInfo>,
    damaged: Vec<DamagedSnapshot>,
    /// Part of the names of files that are being written.
    next_temporary: u64,
}

impl State {
    /// Removes the complete snapshots beyond those to keep from the list, and returns their positions.
    fn superfluous(&mut self) -> Vec<Position> {
        let kept = self.whole.len().min(KEPT);
        self.whole.split_off(kept).into_iter().map(|info| info.position).collect()
    }
}

fn live_name(position: Position) -> String {
    format!("snapshot-{:016x}-{:016x}.snap", position.term, position.index)
}

fn live_position(name: &str) -> Option<Position> {
    let (term, index) = name.strip_prefix("snapshot-")?.strip_suffix(".snap")?.split_once('-')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    let position = Position { term: number(term)?, index: number(index)? };
    (live_name(position) == name).then_some(position)
}

fn is_temporary(name: &str) -> bool {
    name.starts_with("snapshot-") && name.ends_with(".tmp")
}

impl Snapshots {
    /// Finds the snapshots on `disk`, newest first, and checks every byte of them. Damaged ones are skipped; see
    /// [`Snapshots::damaged`]. Unfinished ones are removed: those of earlier processes now, those of this process as
    /// soon as they are dropped, by a task that ends with the last handle.
    ///
    /// # Errors
    /// If the directory cannot be read, cleaned or synced.
    pub async fn open(disk: DiskRef) -> Result<(Snapshots, Vec<SnapshotInfo>), StorageError> {
        let names = disk.list().await.map_err(StorageError::io("list", "."))?;
        for name in names.iter().filter(|name| is_temporary(name)) {
            rt::sometimes("unfinished snapshot swept up");
            remove_if_there(&*disk, name).await?;
        }
        // A name that is only in the page cache could be lost after the log was purged because of it.
        disk.sync_dir().await.map_err(StorageError::io("sync", "."))?;
        // Another incarnation in this process may still drop drafts on this disk, so their names must not be used
        // again.
        let mut state = State { next_temporary: random::random_u64(), ..State::default() };
        for position in names.iter().filter_map(|name| live_position(name)) {
            match SnapshotReader::check(&disk, &live_name(position), position).await {
                Ok(bytes) => state.whole.push(SnapshotInfo { position, bytes }),
                Err(error) => {
                    tracing::warn!(%error, "skipped a damaged snapshot");
                    state.damaged.push(DamagedSnapshot { position, error });
                }
            }
        }
        state.whole.sort_by_key(|info| std::cmp::Reverse(info.position));
        if let Some(newest) = state.whole.first()
            && state.damaged.iter().any(|damaged| damaged.position > newest.position)
        {
            rt::sometimes("fallback to an older snapshot");
        }
        // A crash may have come between a new snapshot and the removal of an old one: repeated crashes must not
        // accumulate files.
        let superfluous = state.superfluous();
        let whole = state.whole.clone();
        // Holds at most as many names as there are transfers in progress.
        let (dropped, names) = mpsc::unbounded_channel();
        rt::spawn(remove_dropped(Arc::downgrade(&disk), names));
        let snapshots = Snapshots { disk, state: Arc::new(Mutex::new(state)), dropped };
        snapshots.remove(&superfluous).await?;
        Ok((snapshots, whole))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Complete snapshots, newest first.
    pub fn list(&self) -> Vec<SnapshotInfo> {
        self.state().whole.clone()
    }

    /// The newest complete snapshot.
    pub fn newest(&self) -> Option<SnapshotInfo> {
        self.state().whole.first().cloned()
    }

    /// The damaged snapshots, which are skipped. They are removed when the next snapshot is published.
    pub fn damaged(&self) -> Vec<DamagedSnapshot> {
        self.state().damaged.clone()
    }

    /// Marks a kept snapshot as damaged: it is not used any more, and is removed when the next one is published. The
    /// last one stays in use: there is no other, and its readers check it.
    pub fn condemn(&self, position: Position, error: StorageError) {
        let mut state = self.state();
        let is_kept = state.whole.iter().any(|info| info.position == position);
        if is_kept && state.whole.len() > 1 {
            state.whole.retain(|info| info.position != position);
            state.damaged.push(DamagedSnapshot { position, error });
        }
    }

    /// Whether a file for this position exists, damaged or not.
    pub fn has(&self, position: Position) -> bool {
        let state = self.state();
        let damaged = state.damaged.iter().map(|damaged| damaged.position);
        state.whole.iter().map(|info| info.position).chain(damaged).any(|kept| kept == position)
    }

    fn temporary_name(&self, position: Position) -> String {
        let mut state = self.state();
        state.next_temporary = state.next_temporary.wrapping_add(1);
        format!("snapshot-{:016x}-{:016x}-{:016x}.tmp", position.term, position.index, state.next_temporary)
    }

    /// Begins a snapshot of the state after `position`. `expected_bytes` is an estimate of the size of all blocks: that
    /// much space is reserved first.
    ///
    /// # Errors
    /// [`StorageError::Full`] if there is not enough space: try again later.
    pub async fn create(
        &self,
        position: Position,
        header: bytes::Bytes,
        expected_bytes: u64,
    ) -> Result<SnapshotWriter, StorageError> {
        SnapshotWriter::create(self.clone(), position, header, expected_bytes).await
    }

    /// Begins to receive a snapshot of `total_bytes` from a peer.
    ///
    /// # Errors
    /// [`StorageError::Full`] if there is not enough space.
    pub async fn receive(
        &self,
        position: Position,
        total_bytes: u64,
    ) -> Result<SnapshotReceiver, StorageError> {
        SnapshotReceiver::create(self.clone(), position, total_bytes).await
    }

    /// Opens a snapshot for reading. It stays readable while it is open, even if a newer one replaces it.
    ///
    /// # Errors
    /// If it no longer exists, or its header is damaged.
    pub async fn reader(&self, info: &SnapshotInfo) -> Result<SnapshotReader, StorageError> {
        SnapshotReader::open(&self.disk, &live_name(info.position), info.position).await
    }

    /// Gives a complete and synced file its live name, which [`Snapshots::publish`] makes durable.
    async fn take_live_name(&self, temporary: &str, position: Position) -> Result<(), StorageError> {
        let renamed = self.disk.rename(temporary, &live_name(position)).await;
        renamed.map_err(StorageError::io("rename", temporary))
    }

    /// Makes a live name durable, and removes older snapshots.
    async fn publish(&self, info: SnapshotInfo) -> Result<(), StorageError> {
        self.sync_dir().await?;
        let superfluous: Vec<Position> = {
            let mut state = self.state();
            state.damaged.retain(|damaged| damaged.position != info.position);
            state.whole.retain(|other| other.position != info.position);
            state.whole.push(info);
            state.whole.sort_by_key(|info| std::cmp::Reverse(info.position));
            let mut superfluous = state.superfluous();
            superfluous.extend(state.damaged.drain(..).map(|damaged| damaged.position));
            superfluous
        };
        self.remove(&superfluous).await
    }

    async fn remove(&self, superfluous: &[Position]) -> Result<(), StorageError> {
        for position in superfluous {
            remove_if_there(&*self.disk, &live_name(*position)).await?;
        }
        if !superfluous.is_empty() {
            self.sync_dir().await?;
        }
        Ok(())
    }

    async fn sync_dir(&self) -> Result<(), StorageError> {
        self.disk.sync_dir().await.map_err(StorageError::io("sync", "."))
    }
}

async fn remove_if_there(disk: &dyn Disk, name: &str) -> Result<(), StorageError> {
    match disk.remove(name).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(StorageError::io("remove", name)),
    }
}

/// Removes unfinished files whose writer was dropped. Holds the disk weakly, so that it is released with the last
/// handle.
async fn remove_dropped(disk: Weak<dyn Disk>, mut names: mpsc::UnboundedReceiver<String>) {
    while let Some(name) = names.recv().await {
        let Some(disk) = disk.upgrade() else { return };
        rt::sometimes("unfinished snapshot dropped");
        if let Err(error) = remove_if_there(&*disk, &name).await {
            tracing::warn!("an unfinished snapshot stays until the next start: {error}");
        }
    }
}
