//! Segments prepared ahead, and the files of retired segments.
//!
//! A separate task fills new files with zeros, so that a commit overwrites allocated blocks, and turns retired segments
//! into spares. It also monitors the free space: client writes are rejected while there is still space for Raft's own
//! writes, and spares beyond those prepared ahead are removed. Those prepared ahead are Raft's reserve and are never
//! removed. A spare has no live name and no state.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::error::StorageError;
use super::segment;
use super::shared::{Shared, Space, Spare};
use crate::rt::disk::{DiskRef, FileRef};
use crate::rt::sleep;
use crate::rt::task::{TaskGuard, spawn_guarded};

/// A segment that the log no longer needs.
pub(super) struct Retired {
    pub number: u64,
    pub file: FileRef,
}

/// The writer's handle of the task.
pub(super) struct Spares {
    shared: Arc<Shared>,
    retired: mpsc::UnboundedSender<Retired>,
    task: TaskGuard<()>,
}

/// Starts the task.
pub(super) fn start(shared: Arc<Shared>, disk: DiskRef) -> Spares {
    // Holds at most as many as there are segments on disk.
    let (retired, receiver) = mpsc::unbounded_channel();
    let taken = shared.state().spares.iter().filter_map(|spare| segment::spare_number(&spare.name)).max();
    let keeper = Keeper { shared: shared.clone(), disk, next_name: taken.unwrap_or(0) + 1 };
    Spares { shared, retired, task: spawn_guarded(keeper.run(receiver)) }
}

impl Spares {
    /// Returns the next spare; waits for it if it is being prepared.
    ///
    /// # Errors
    /// If there is none and the disk is full, or if the log has failed.
    pub async fn take(&mut self) -> Result<Spare, StorageError> {
        let mut changed = self.shared.spares_changed.subscribe();
        loop {
            {
                let mut state = self.shared.state();
                if let Some(spare) = state.spares.pop_front() {
                    drop(state);
                    self.shared.spares_changed.send(());
                    return Ok(spare);
                }
                if let Space::Full(error) = &state.space {
                    return Err(error.clone());
                }
            }
            if let Some(failure) = self.shared.failure.borrow().clone() {
                return Err(failure);
            }
            changed.changed().await.map_err(|_| StorageError::Closed)?;
        }
    }

    /// Ends the task; when this returns the task no longer holds the disk.
    pub async fn stop(self) {
        drop(self.retired);
        // The task ends by itself, or with the runtime.
        let _ = self.task.await;
    }

    /// Passes a segment to the task that may lose its live name.
    pub fn retire(&self, segment: Retired) {
        // The task ends early only after a failure; recovery then finds the file again.
        let _ = self.retired.send(segment);
    }
}

struct Keeper {
    shared: Arc<Shared>,
    disk: DiskRef,
    next_name: u64,
}

impl Keeper {
    async fn run(mut self, retired: mpsc::UnboundedReceiver<Retired>) {
        if let Err(error) = self.keep(retired).await {
            self.shared.poison(error, []);
            self.shared.spares_changed.send(());
        }
    }

    /// Runs until the writer is dropped.
    async fn keep(&mut self, mut retired: mpsc::UnboundedReceiver<Retired>) -> Result<(), StorageError> {
        // An earlier process may have kept more.
        self.give_up_beyond(self.wanted() + self.kept_beyond()).await?;
        loop {
            while let Ok(segment) = retired.try_recv() {
                self.recycle(segment).await?;
            }
            let full = self.prepare_missing().await?;
            self.publish_space(full, self.free_bytes().await?);
            if self.is_short() && self.give_up_beyond(self.wanted()).await? {
                // There may be enough space now.
                continue;
            }
            tokio::select! {
                biased;
                segment = retired.recv() => match segment {
                    Some(segment) => self.recycle(segment).await?,
                    None => return Ok(()),
                },
                () = self.spare_is_missing() => {}
                () = sleep(self.shared.config.space_check_interval) => {}
            }
        }
    }

    /// Waits until a spare was taken. While the disk is full, only the next space check can help.
    async fn spare_is_missing(&self) {
        let mut changed = self.shared.spares_changed.subscribe();
        loop {
            {
                let state = self.shared.state();
                if state.spares.len() < self.wanted() && !matches!(state.space, Space::Full(_)) {
                    return;
                }
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn wanted(&self) -> usize {
        self.shared.config.spare_segments.max(1)
    }

    /// How many spares are kept for reuse: as many as there are segments, because the log grows to about twice its size
    /// before the next snapshot cuts it again, and a new file is written twice, once with zeros.
    fn kept_beyond(&self) -> usize {
        match self.is_short() {
            true => 0,
            false => self.shared.config.recycled_segments.max(self.shared.state().segments.len()),
        }
    }

    fn spare_count(&self) -> usize {
        self.shared.state().spares.len()
    }

    fn new_name(&mut self) -> String {
        self.next_name += 1;
        segment::spare_name(self.next_name - 1)
    }

    fn add(&self, spare: Spare) {
        self.shared.state().spares.push_back(spare);
        self.shared.spares_changed.send(());
    }

    async fn free_bytes(&self) -> Result<u64, StorageError> {
        self.disk.free_bytes().await.map_err(StorageError::io("look for free space in", "."))
    }

    fn is_short(&self) -> bool {
        self.shared.state().space != Space::Enough
    }

    /// Removes spares beyond a number. Returns whether there were any.
    async fn give_up_beyond(&self, kept: usize) -> Result<bool, StorageError> {
        let superfluous: Vec<Spare> = {
            let mut state = self.shared.state();
            let kept = state.spares.len().min(kept);
            state.spares.split_off(kept).into()
        };
        for Spare { name, .. } in &superfluous {
            self.remove_if_there(name).await?;
        }
        Ok(!superfluous.is_empty())
    }

    /// Prepares the missing spares. Returns the error if there is not enough space for one.
    async fn prepare_missing(&mut self) -> Result<Option<StorageError>, StorageError> {
        while self.spare_count() < self.wanted() {
            let name = self.new_name();
            // A hopeless attempt would fill the disk for a moment, in which others find it full: a snapshot that would
            // free space, or the identity.
            if self.free_bytes().await? < self.shared.config.segment_bytes {
                return Ok(Some(StorageError::Full { operation: "preallocate", file: name }));
            }
            match self.prepare(&name).await {
                Ok(spare) => self.add(spare),
                Err(error) if error.is_full() => {
                    // The log may need the space of the unfinished file more.
                    self.remove_if_there(&name).await?;
                    return Ok(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn prepare(&self, name: &str) -> Result<Spare, StorageError> {
        let capacity = self.shared.config.segment_bytes;
        let file = self.disk.create(name).await.map_err(StorageError::io("create", name))?;
        file.preallocate(capacity).await.map_err(StorageError::io("preallocate", name))?;
        Ok(Spare { name: name.to_owned(), file, capacity })
    }

    async fn remove_if_there(&self, name: &str) -> Result<(), StorageError> {
        match self.disk.remove(name).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(StorageError::io("remove", name)),
        }
    }

    fn publish_space(&self, full: Option<StorageError>, free: u64) {
        let space = match full {
            Some(error) => Space::Full(error),
            None if free < self.shared.config.reserve_bytes => Space::Low,
            None => Space::Enough,
        };
        let mut state = self.shared.state();
        state.metrics.free_bytes = free;
        if state.space != space {
            tracing::warn!(?space, free, "free space for the log");
            state.space = space;
            drop(state);
            self.shared.spares_changed.send(());
        }
    }

    /// Makes a spare of a segment, or removes it if there are enough. The directory is synced each time: if several removals were pending, a power
    /// failure could keep a later one alone, and the log would seem to have a hole.
    async fn recycle(&mut self, Retired { number, file }: Retired) -> Result<(), StorageError> {
        let live = segment::live_name(number);
        let length = file.len().await.map_err(StorageError::io("look at", &live))?;
        let wanted = self.spare_count() < self.wanted() + self.kept_beyond();
        if wanted && length == self.shared.config.segment_bytes {
            let name = self.new_name();
            self.disk.rename(&live, &name).await.map_err(StorageError::io("rename", &live))?;
            self.sync_dir().await?;
            self.add(Spare { name, file, capacity: length });
        } else {
            self.disk.remove(&live).await.map_err(StorageError::io("remove", &live))?;
            self.sync_dir().await?;
            self.give_up_beyond(self.wanted() + self.kept_beyond()).await?;
        }
        Ok(())
    }

    async fn sync_dir(&self) -> Result<(), StorageError> {
        self.disk.sync_dir().await.map_err(StorageError::io("sync", "."))
    }
}
