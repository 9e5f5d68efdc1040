//! The state that the log's handle shares with its two tasks, the writer and the one that prepares segments.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

use super::config::LogConfig;
use super::error::StorageError;
use super::index::EntryIndex;
use super::metrics::LogMetrics;
use super::record::{self, State};
use super::{LogEntry, Position};
use crate::rt::disk::FileRef;
use crate::rt::{self, watch};

/// Called when a request is durable, or never will be.
pub(super) type Callback = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// A change for the writer.
pub(super) enum LogChange {
    /// Entries, each with its ticket in the index.
    Append(Vec<(LogEntry, u32)>),
    Vote(Bytes),
    Truncate(Option<Position>),
    Purge(Position),
    /// Makes everything before it durable and marked, then ends the writer.
    Close,
}

pub(super) struct Request {
    pub change: LogChange,
    /// Payload bytes, counted for the bounds of batch and queue.
    pub bytes: u64,
    pub callback: Callback,
}

impl Request {
    /// Removes and returns the first entries and their size, if there are several: as many as fit into `room`, at least
    /// one. The last entry stays.
    pub fn first_entries(&mut self, room: u64) -> (Vec<(LogEntry, u32)>, u64) {
        let LogChange::Append(entries) = &mut self.change else { return (Vec::new(), 0) };
        let most = entries.len().saturating_sub(1);
        let (mut count, mut bytes) = (0, 0);
        for (entry, _) in &entries[..most] {
            let more = record::entry_bytes(entry.payload.len());
            if count > 0 && bytes + more > room {
                break;
            }
            (count, bytes) = (count + 1, bytes + more);
        }
        self.bytes -= bytes;
        (entries.drain(..count).collect(), bytes)
    }
}

/// A file of the size of a segment, ready to become the active one.
pub(super) struct Spare {
    pub name: String,
    /// Open for reading, on another thread than the log's own.
    pub file: FileRef,
    pub capacity: u64,
}

/// Whether there is space for client writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Space {
    Enough,
    /// Less than the reserve is free.
    Low,
    /// The next segment could not be prepared.
    Full(StorageError),
}

/// State shared by the handle and the tasks.
pub(super) struct Shared {
    state: Mutex<Inner>,
    pub config: LogConfig,
    pub failure: watch::Sender<Option<StorageError>>,
    /// Sent after every batch.
    pub progress: watch::Sender<()>,
    /// Sent when `spares` or `space` changes.
    pub spares_changed: watch::Sender<()>,
}

/// See [`Shared`].
pub(super) struct Inner {
    pub index: EntryIndex,
    /// The last saved vote.
    pub vote: Option<Bytes>,
    pub committed: Option<Position>,
    pub acknowledged: Option<Bytes>,
    /// The last entry made durable since the log was opened. It may have been truncated since.
    pub durable: Option<Position>,
    pub queue: VecDeque<Request>,
    pub queued_bytes: u64,
    /// Set once; nothing is accepted afterwards.
    pub ended: Option<StorageError>,
    /// Segments that hold state, open for reading, each with the salt of its checksums.
    pub segments: BTreeMap<u64, (FileRef, u64)>,
    /// Segments prepared ahead.
    pub spares: VecDeque<Spare>,
    pub space: Space,
    pub metrics: LogMetrics,
}

impl Shared {
    /// The state of a log that was just recovered.
    pub fn new(
        config: LogConfig,
        recovered: &State,
        index: EntryIndex,
        segments: BTreeMap<u64, (FileRef, u64)>,
        spares: VecDeque<Spare>,
    ) -> Shared {
        let state = Mutex::new(Inner {
            vote: recovered.vote.clone(),
            committed: recovered.committed,
            acknowledged: recovered.acknowledged.clone(),
            durable: None,
            index,
            queue: VecDeque::new(),
            queued_bytes: 0,
            ended: None,
            segments,
            spares,
            space: Space::Enough,
            metrics: LogMetrics::default(),
        });
        Shared {
            state,
            config,
            failure: watch::channel(None).0,
            progress: watch::channel(()).0,
            spares_changed: watch::channel(()).0,
        }
    }

    pub fn state(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Stops the log after a failed write or sync. Never retried: after a failed sync the kernel marks the pages as
    /// clean, and the next sync succeeds without them.
    pub fn poison(&self, error: StorageError, callbacks: impl IntoIterator<Item = Callback>) {
        let stopped = error.clone().stopped();
        let queued = {
            let mut state = self.state();
            state.ended = Some(stopped.clone());
            let queued = std::mem::take(&mut state.queue);
            // What a batch in progress has taken is subtracted when it is written.
            state.queued_bytes -= queued.iter().map(|request| request.bytes).sum::<u64>();
            queued
        };
        rt::sometimes("log stopped by a failed write or sync");
        tracing::error!(%error, "the log has stopped for good");
        self.failure.send_if_modified(|failure| failure.is_none() && failure.replace(error).is_none());
        self.progress.send(());
        let queued = queued.into_iter().map(|request| request.callback);
        for callback in callbacks.into_iter().chain(queued) {
            callback(Err(stopped.clone()));
        }
    }
}
