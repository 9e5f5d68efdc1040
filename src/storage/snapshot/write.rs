//! Writes a snapshot, from this node's state or from a peer's bytes.
//!
//! No file gets a live name before all of it is synced. A dropped writer leaves no file: its temporary file is removed
//! at once, or by the next start if the process ends first.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{SnapshotEncoder, SnapshotInfo, SnapshotReader, Snapshots};
use crate::rt::disk::FileRef;
use crate::storage::{Position, StorageError};

/// So many bytes are written without a sync: if the whole file were synced at its end, the log's syncs would wait for it.
const SYNC_BYTES: u64 = 4 << 20;

/// A file that is being written under a temporary name.
#[derive(Debug)]
struct Draft {
    snapshots: Snapshots,
    position: Position,
    name: TemporaryName,
    file: FileRef,
    /// Bytes written since the last sync.
    unsynced: u64,
}

/// The name of an unfinished file. Dropping it cannot wait for the disk, so the name is passed to the task that removes
/// such files.
#[derive(Debug)]
struct TemporaryName {
    name: String,
    dropped: mpsc::UnboundedSender<String>,
    is_settled: bool,
}

impl TemporaryName {
    /// The file has its live name or has been removed.
    fn settle(&mut self) {
        self.is_settled = true;
    }
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        if !self.is_settled {
            // If the task is gone, the process is about to end, and the next start removes the file.
            let _ = self.dropped.send(std::mem::take(&mut self.name));
        }
    }
}

impl Draft {
    async fn create(snapshots: Snapshots, position: Position, bytes: u64) -> Result<Draft, StorageError> {
        // Named before it is created: if the caller is dropped in between, the file may or may not exist.
        let name = TemporaryName {
            name: snapshots.temporary_name(position),
            dropped: snapshots.dropped.clone(),
            is_settled: false,
        };
        let created = snapshots.disk.create(&name.name).await;
        let file = created.map_err(StorageError::io("create", &name.name))?;
        let mut draft = Draft { snapshots, position, name, file, unsynced: 0 };
        let reserved = draft.file.reserve(bytes).await;
        draft.or_discard(reserved, "reserve space for").await?;
        Ok(draft)
    }

    fn name(&self) -> &str {
        &self.name.name
    }

    /// Passes a result on; after a failure removes the file, which only takes space that others need.
    async fn or_discard<T>(
        &mut self,
        result: std::io::Result<T>,
        operation: &'static str,
    ) -> Result<T, StorageError> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                let error = StorageError::io(operation, self.name())(error);
                self.discard().await;
                Err(error)
            }
        }
    }

    async fn discard(&mut self) {
        // If it cannot be removed now, it is removed after the drop.
        if self.snapshots.disk.remove(self.name()).await.is_ok() {
            self.name.settle();
        }
    }

    async fn write(&mut self, offset: u64, bytes: Bytes) -> Result<(), StorageError> {
        self.unsynced += bytes.len() as u64;
        let written = self.file.write_at(offset, bytes).await;
        self.or_discard(written, "write").await?;
        if self.unsynced >= SYNC_BYTES {
            self.unsynced = 0;
            let synced = self.file.sync().await;
            self.or_discard(synced, "sync").await?;
        }
        Ok(())
    }

    /// Truncates unused reserved space and makes the content durable.
    async fn sync(&mut self, length: u64) -> Result<(), StorageError> {
        let cut = self.file.set_len(length).await;
        self.or_discard(cut, "cut").await?;
        let synced = self.file.sync().await;
        self.or_discard(synced, "sync").await
    }

    /// Gives it its live name, durably.
    async fn publish(mut self, bytes: u64) -> Result<SnapshotInfo, StorageError> {
        let info = SnapshotInfo { position: self.position, bytes };
        self.snapshots.take_live_name(self.name(), info.position).await?;
        self.name.settle();
        self.snapshots.publish(info.clone()).await?;
        Ok(info)
    }
}

/// Writes a snapshot of this node's own state.
#[derive(Debug)]
pub struct SnapshotWriter {
    draft: Draft,
    encoder: SnapshotEncoder,
}

impl SnapshotWriter {
    pub(super) async fn create(
        snapshots: Snapshots,
        position: Position,
        header: Bytes,
        expected_bytes: u64,
    ) -> Result<SnapshotWriter, StorageError> {
        let mut draft = Draft::create(snapshots, position, expected_bytes).await?;
        let (encoder, beginning) = SnapshotEncoder::new(position, &header);
        draft.write(0, beginning).await?;
        Ok(SnapshotWriter { draft, encoder })
    }

    /// Adds a block of at most 256 MiB.
    ///
    /// # Errors
    /// [`StorageError::Full`] or another error of the disk; the snapshot is then discarded.
    pub async fn add_block(&mut self, block: Bytes) -> Result<(), StorageError> {
        let offset = self.encoder.bytes();
        self.draft.write(offset, self.encoder.block(&block)).await
    }

    /// Makes it durable, gives it its live name, and removes the third-newest snapshot.
    ///
    /// # Errors
    /// As [`SnapshotWriter::add_block`]; earlier snapshots are unchanged.
    pub async fn finish(mut self) -> Result<SnapshotInfo, StorageError> {
        let offset = self.encoder.bytes();
        self.draft.write(offset, self.encoder.end()).await?;
        let bytes = self.encoder.bytes();
        self.draft.sync(bytes).await?;
        self.draft.publish(bytes).await
    }

    /// Discards it and frees its space.
    pub async fn abandon(mut self) {
        self.draft.discard().await;
    }
}

/// Receives the bytes of a peer's snapshot.
#[derive(Debug)]
pub struct SnapshotReceiver {
    draft: Draft,
    total_bytes: u64,
}

impl SnapshotReceiver {
    pub(super) async fn create(
        snapshots: Snapshots,
        position: Position,
        total_bytes: u64,
    ) -> Result<SnapshotReceiver, StorageError> {
        let draft = Draft::create(snapshots, position, total_bytes).await?;
        Ok(SnapshotReceiver { draft, total_bytes })
    }

    /// Writes a chunk of the file at its offset; chunks may come in any order and repeatedly.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is outside of the announced length; otherwise the disk's error.
    pub async fn write_chunk(&mut self, offset: u64, chunk: Bytes) -> Result<(), StorageError> {
        if offset.checked_add(chunk.len() as u64).is_none_or(|end| end > self.total_bytes) {
            let reason = "a chunk lies outside of the announced length";
            return Err(StorageError::Corrupt { file: self.draft.name().to_owned(), offset, reason });
        }
        self.draft.write(offset, chunk).await
    }

    /// Makes the file durable and checks every byte of it.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if a chunk is missing or damaged; otherwise the disk's error.
    pub async fn verify(mut self) -> Result<ReceivedSnapshot, StorageError> {
        self.draft.sync(self.total_bytes).await?;
        let checked =
            SnapshotReader::check(&self.draft.snapshots.disk, self.draft.name(), self.draft.position).await;
        match checked {
            Ok(bytes) => {
                let info = SnapshotInfo { position: self.draft.position, bytes };
                Ok(ReceivedSnapshot { draft: self.draft, info })
            }
            Err(error) => {
                self.draft.discard().await;
                Err(error)
            }
        }
    }

    /// Discards it and frees its space.
    pub async fn abandon(mut self) {
        self.draft.discard().await;
    }
}

/// A received snapshot that is durable and complete, but has no live name yet.
///
/// The caller builds the new state from [`ReceivedSnapshot::reader`], truncates the log durably if it conflicts, and
/// only then publishes: after a crash in between the old snapshot and the old log are still consistent.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    draft: Draft,
    info: SnapshotInfo,
}

impl ReceivedSnapshot {
    /// Its description in the list of snapshots once it is published.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// If the disk cannot be read.
    pub async fn reader(&self) -> Result<SnapshotReader, StorageError> {
        SnapshotReader::of_file(self.draft.file.clone(), self.draft.name().to_owned(), self.draft.position)
            .await
    }

    /// Gives it its live name, durably, and removes the third-newest snapshot.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn publish(self) -> Result<SnapshotInfo, StorageError> {
        self.draft.publish(self.info.bytes).await
    }

    /// Discards it and frees its space.
    pub async fn abandon(mut self) {
        self.draft.discard().await;
    }
}
