//! The handle of the log: reads are answered from memory where possible, changes are queued for the writer.
//!
//! Every change is visible to readers at once, and durable when its callback is called or its future resolves. All
//! changes go through one queue, in the order of their calls. Nothing here writes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::config::{LogConfig, SEGMENT_BYTES};
use super::error::StorageError;
use super::index::{Found, OnDisk};
use super::metrics::LogMetrics;
use super::pieces::Pieces;
use super::record::{self, Body};
use super::shared::{Callback, Inner, LogChange, Request, Shared, Space};
use super::{LogEntry, Owner, Position, recovery, segment, spares, writer};
use crate::rt::disk::DiskRef;
use crate::rt::watch;

/// The state of the log besides its entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last saved vote.
    pub vote: Option<Bytes>,
    /// The last saved committed position; after a restart possibly an earlier one.
    pub committed: Option<Position>,
    /// Entries up to here have been removed.
    pub purged: Option<Position>,
    /// The last entry, or `purged` if there is none after it.
    pub last: Option<Position>,
    /// The last saved acknowledgements of members, opaque here; after a restart possibly earlier ones.
    pub acknowledged: Option<Bytes>,
}

/// The write-ahead log. Cheap to clone; all clones are the same log. It stops when it is closed or all clones are
/// dropped.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    doorbell: mpsc::Sender<()>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("last", &self.shared.state().index.last()).finish_non_exhaustive()
    }
}

impl Log {
    /// Whether a file of this name is part of a log.
    pub fn is_log_file(name: &str) -> bool {
        segment::live_number(name).is_some()
    }

    /// Whether `disk` holds a log, of any owner.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub async fn exists(disk: &DiskRef) -> Result<bool, StorageError> {
        let names = disk.list().await.map_err(StorageError::io("list", "."))?;
        Ok(names.iter().any(|name| Log::is_log_file(name)))
    }

    /// Truncates the prepared but unwritten end of a segment. The segment is stored under another name (`name`) and is
    /// not open in any log. A file that is no segment, or is damaged, stays unchanged.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn cut_unused(disk: &DiskRef, name: &str, segment: &str) -> Result<(), StorageError> {
        let Some(number) = segment::live_number(segment) else { return Ok(()) };
        let file = disk.open(name).await.map_err(StorageError::io("open", name))?;
        let length = file.len().await.map_err(StorageError::io("look at", name))?;
        let Ok(end) = segment::sound_end(file.clone(), number).await else { return Ok(()) };
        if end < length {
            file.set_len(end).await.map_err(StorageError::io("cut", name))?;
            file.sync().await.map_err(StorageError::io("sync", name))?;
        }
        Ok(())
    }

    /// Opens the log on `disk`, or creates an empty one. Everything found is durable when this returns.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] and [`StorageError::Missing`] if acknowledged data may be lost,
    /// [`StorageError::Foreign`] if the log is not `owner`'s; otherwise the disk's error.
    pub async fn open(disk: DiskRef, config: LogConfig, owner: Owner) -> Result<Log, StorageError> {
        assert!(config.segment_bytes <= *SEGMENT_BYTES.end(), "offsets in a segment are 32 bits");
        let log_disk = disk.on_own_thread().map_err(StorageError::io("start the thread of", "the log"))?;
        let recovered = recovery::recover(&disk, &config, owner).await?;
        let recovery::Recovered { index, segments, spares, tail } = recovered;
        let shared = Arc::new(Shared::new(config, &tail.state, index, segments, spares));
        let (doorbell, rings) = mpsc::channel(1);
        let spares = spares::start(shared.clone(), disk);
        writer::start(shared.clone(), log_disk, rings, spares, tail, owner).await?;
        Ok(Log { shared, doorbell })
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The state of the log besides its entries, including the newest changes.
    pub fn state(&self) -> LogState {
        let state = self.shared.state();
        LogState {
            vote: state.vote.clone(),
            committed: state.committed,
            purged: state.index.purged(),
            last: state.index.last(),
            acknowledged: state.acknowledged.clone(),
        }
    }

    /// The last entry, durable or not, or the purge mark if there is none after it.
    pub fn last(&self) -> Option<Position> {
        self.shared.state().index.last()
    }

    /// The last entry made durable since the log was opened. It may have been truncated since.
    pub fn durable(&self) -> Option<Position> {
        self.shared.state().durable
    }

    /// The position of an entry that is in the log, or of the purge mark.
    pub fn position_at(&self, index: u64) -> Option<Position> {
        self.shared.state().index.position_at(index)
    }

    /// Entries up to here have been removed.
    pub fn purged(&self) -> Option<Position> {
        self.shared.state().index.purged()
    }

    /// Appends entries. They can be read when this returns. `durable` is called when they are durable, or never will
    /// be; it is called from a task of the log and must not block.
    ///
    /// The caller waits for [`Log::ready`] first, which bounds the queue. Entries that fill more than a batch are
    /// written in several batches, and a crash may keep only the first of them.
    ///
    /// # Errors
    /// [`StorageError::Stopped`] or [`StorageError::Closed`]; `durable` receives it too.
    ///
    /// # Panics
    /// If the indexes are not consecutive, or do not continue the log. An empty log can begin at any index.
    pub fn append(
        &self,
        entries: Vec<LogEntry>,
        durable: impl FnOnce(Result<(), StorageError>) + Send + 'static,
    ) -> Result<(), StorageError> {
        let bytes = entries.iter().map(|entry| record::entry_bytes(entry.payload.len())).sum();
        self.submit(bytes, Box::new(durable), |state| {
            let ticketed = entries.into_iter().map(|entry| {
                let ticket = state.index.append(&entry);
                (entry, ticket)
            });
            LogChange::Append(ticketed.collect())
        })
    }

    /// Waits until the queue has room for an append.
    ///
    /// # Errors
    /// [`StorageError::Stopped`] or [`StorageError::Closed`].
    pub async fn ready(&self) -> Result<(), StorageError> {
        let mut progress = self.shared.progress.subscribe();
        loop {
            {
                let state = self.shared.state();
                if let Some(ended) = &state.ended {
                    return Err(ended.clone());
                }
                if state.queued_bytes <= self.shared.config.max_queued_bytes {
                    return Ok(());
                }
            }
            progress.changed().await.map_err(|_| StorageError::Closed)?;
        }
    }

    /// Saves the vote. When this returns, the vote and its mark are durable: damage to the end of the log cannot make
    /// recovery drop the vote silently.
    ///
    /// # Errors
    /// [`StorageError::Stopped`] or [`StorageError::Closed`]; whether the vote is durable is then unknown.
    pub async fn save_vote(&self, vote: Bytes) -> Result<(), StorageError> {
        self.submit_and_wait(vote.len() as u64, |state| {
            state.vote = Some(vote.clone());
            LogChange::Vote(vote)
        })
        .await
    }

    /// Records the committed position. It becomes durable with the next batch, never by a write of its own.
    pub fn save_committed(&self, committed: Position) {
        self.shared.state().committed = Some(committed);
    }

    /// Records the acknowledgements of members, opaque here. They become durable with the next batch, never by a write
    /// of their own.
    pub fn save_acknowledged(&self, acknowledged: Bytes) {
        self.shared.state().acknowledged = Some(acknowledged);
    }

    /// Removes the entries after index `last` (`None`: all that are not purged). Durable when this returns.
    ///
    /// # Errors
    /// [`StorageError::Stopped`] or [`StorageError::Closed`].
    pub async fn truncate_after(&self, last: Option<u64>) -> Result<(), StorageError> {
        self.submit_and_wait(0, |state| {
            let (end, purged) = (state.index.last(), state.index.purged());
            let last = match last {
                Some(last) if end.is_none_or(|end| last >= end.index) => end,
                // Before the first entry there are only purged ones.
                Some(last) => state.index.position_at(last).or(purged),
                None => purged,
            };
            state.index.truncate_after(last);
            LogChange::Truncate(last)
        })
        .await
    }

    /// Removes the entries up to `upto`, which may be after the last entry: the log is then empty and continues there.
    /// Readers see it at once; the files are removed later. Durable when this returns.
    ///
    /// # Errors
    /// [`StorageError::Stopped`] or [`StorageError::Closed`].
    pub async fn purge(&self, upto: Position) -> Result<(), StorageError> {
        self.submit_and_wait(0, |state| {
            state.index.purge(upto);
            LogChange::Purge(state.index.purged().expect("something was purged just now, or before"))
        })
        .await
    }

    /// The entries of `range` that are in the log, in order, until their payloads reach `max_bytes`; at least one if
    /// there is any.
    ///
    /// # Errors
    /// If the disk cannot be read; [`StorageError::Corrupt`] if it does not return what was written.
    pub async fn read(&self, range: Range<u64>, max_bytes: u64) -> Result<Vec<LogEntry>, StorageError> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let (mut next, mut left) = (range.start, max_bytes);
        let truncations = self.shared.state().index.truncations();
        let mut open: Option<Open> = None;
        loop {
            let found = {
                let index = &self.shared.state().index;
                // What was truncated or purged meanwhile does not fit the entries read before, which are still a valid
                // result.
                let goes_on = entries.is_empty()
                    || (index.truncations() == truncations && index.position_at(next).is_some());
                if goes_on { index.find(next..range.end, left) } else { None }
            };
            let more = match found {
                None => return Ok(entries),
                Some(Found::Cached(more)) => more,
                Some(Found::OnDisk(found)) => {
                    let here = open.take_if(|open| open.segment == found.segment);
                    let Some(here) = here.or_else(|| self.open_segment(&found, left)) else {
                        return Ok(entries);
                    };
                    let open = open.insert(here);
                    self.read_run(open, &found, left).await?.unwrap_or_default()
                }
            };
            let Some(last) = more.last() else { return Ok(entries) };
            next = last.index + 1;
            for entry in more {
                let bytes = entry.payload.len() as u64;
                if bytes > left && !entries.is_empty() {
                    return Ok(entries);
                }
                left = left.saturating_sub(bytes);
                entries.push(entry);
            }
            if left == 0 {
                return Ok(entries);
            }
        }
    }

    /// Opens a segment, of which about `max_bytes` are to be read; `None` if it was removed meanwhile.
    fn open_segment(&self, found: &OnDisk, max_bytes: u64) -> Option<Open> {
        const MOST_BYTES: u64 = 256 << 10;
        let (file, salt) = self.shared.state().segments.get(&found.segment).cloned()?;
        // What is wanted lies a little further than its payload is long.
        let payloads = max_bytes.saturating_mul(2).saturating_add(self.shared.config.run_bytes());
        let piece_bytes = found.bytes.min(payloads).min(MOST_BYTES);
        let pieces = Pieces::new(file, found.segment, piece_bytes as usize, None);
        Some(Open { segment: found.segment, salt, pieces })
    }

    /// Reads entries of one run from its segment until their payloads reach `max_bytes`, at least one; `None` if they were
    /// removed meanwhile.
    async fn read_run(
        &self,
        open: &mut Open,
        found: &OnDisk,
        max_bytes: u64,
    ) -> Result<Option<Vec<LogEntry>>, StorageError> {
        let read = open.read_run(found, max_bytes).await;
        let state = self.shared.state();
        // The file of a purged segment may have been reused by now.
        if !state.index.still_has(found) {
            return Ok(None);
        }
        let read = read?;
        let is_of_log = |entry: &LogEntry| state.index.position_at(entry.index) == Some(entry.position());
        match read.iter().all(is_of_log) {
            true => Ok(Some(read)),
            false => Err(StorageError::Corrupt {
                file: segment::live_name(found.segment),
                offset: found.offset.into(),
                reason: "an entry is not of the term in which it was written",
            }),
        }
    }

    /// Set once, when a write or a sync failed: nothing becomes durable any more and the node must stop.
    pub fn failure(&self) -> watch::Receiver<Option<StorageError>> {
        self.shared.failure.subscribe()
    }

    /// Payload bytes of the entries after `index`; `None` if the first of them was purged.
    pub fn bytes_after(&self, index: u64) -> Option<u64> {
        self.shared.state().index.bytes_after(index)
    }

    /// Whether client writes may be admitted: segments are prepared ahead and the file system has its reserve. While it
    /// returns `false`, Raft's own writes go on, into the segments prepared before.
    pub fn has_room(&self) -> bool {
        self.shared.state().space == Space::Enough
    }

    /// The space that a snapshot may take, in bytes, without taking what Raft itself needs next: besides the segments
    /// prepared ahead, space for one more stays free if there is any.
    pub fn room_for_snapshot(&self) -> u64 {
        let state = self.shared.state();
        match state.space {
            // Too little for a segment in any case.
            Space::Full(_) => state.metrics.free_bytes,
            Space::Low | Space::Enough => {
                state.metrics.free_bytes.saturating_sub(self.shared.config.segment_bytes)
            }
        }
    }

    /// The size of all segments except the active one, in bytes: the space that purging all their entries would free.
    pub fn sealed_bytes(&self) -> u64 {
        let sealed = self.shared.state().segments.len().saturating_sub(1);
        sealed as u64 * self.shared.config.segment_bytes
    }

    /// Size of a segment, in bytes.
    pub fn segment_bytes(&self) -> u64 {
        self.shared.config.segment_bytes
    }

    /// The log's counters and present state.
    pub fn metrics(&self) -> LogMetrics {
        let state = self.shared.state();
        LogMetrics {
            queued_bytes: state.queued_bytes,
            cached_bytes: state.index.cached_bytes(),
            index_bytes: state.index.index_bytes(),
            segments: state.segments.len() as u64,
            spares: state.spares.len() as u64,
            ..state.metrics
        }
    }

    /// Makes everything durable and marked, and stops. Later changes are rejected; reading still works.
    ///
    /// # Errors
    /// [`StorageError::Stopped`] if the log had failed, [`StorageError::Closed`] if it was closed before.
    pub async fn close(&self) -> Result<(), StorageError> {
        self.submit_and_wait(0, |_| LogChange::Close).await
    }

    async fn submit_and_wait(
        &self,
        bytes: u64,
        change: impl FnOnce(&mut Inner) -> LogChange,
    ) -> Result<(), StorageError> {
        let (done, result) = oneshot::channel();
        let callback = Box::new(move |result| drop(done.send(result)));
        self.submit(bytes, callback, change)?;
        // The writer ends without an answer only when its runtime ends.
        result.await.unwrap_or(Err(StorageError::Closed))
    }

    /// Makes a change in memory and queues it, under one lock, so that both happen in the same order.
    fn submit(
        &self,
        bytes: u64,
        callback: Callback,
        change: impl FnOnce(&mut Inner) -> LogChange,
    ) -> Result<(), StorageError> {
        let mut state = self.shared.state();
        if let Some(ended) = state.ended.clone() {
            drop(state);
            callback(Err(ended.clone()));
            return Err(ended);
        }
        let change = change(&mut state);
        if matches!(change, LogChange::Close) {
            state.ended = Some(StorageError::Closed);
        }
        state.queued_bytes += bytes;
        state.queue.push_back(Request { change, bytes, callback });
        drop(state);
        // If the channel is full, the writer has a wake-up pending.
        let _ = self.doorbell.try_send(());
        Ok(())
    }
}

const NOT_WHAT_WAS_WRITTEN: &str = "an entry is not what was written";

/// A segment that entries are read from.
struct Open {
    segment: u64,
    salt: u64,
    pieces: Pieces,
}

impl Open {
    /// Reads on from the beginning of a run until the wanted entries are found.
    async fn read_run(&mut self, found: &OnDisk, max_bytes: u64) -> Result<Vec<LogEntry>, StorageError> {
        let (mut offset, mut next, mut bytes) = (u64::from(found.offset), found.first, 0);
        let mut entries = Vec::new();
        while next < found.wanted.end && (bytes < max_bytes || entries.is_empty()) {
            let Some(record) = self.pieces.record(offset, self.salt).await? else {
                return Err(self.pieces.corrupt(offset, NOT_WHAT_WAS_WRITTEN));
            };
            let end = offset + record.size as u64;
            match record.parse() {
                Ok(Body::LogEntry { term, index, payload }) if index == next => {
                    if found.wanted.contains(&index) {
                        bytes += payload.len() as u64;
                        entries.push(LogEntry { term, index, payload });
                    }
                    next += 1;
                }
                // Other records lie in between.
                Ok(body) if !matches!(body, Body::LogEntry { .. }) => {}
                _ => return Err(self.pieces.corrupt(offset, NOT_WHAT_WAS_WRITTEN)),
            }
            offset = end;
        }
        Ok(entries)
    }
}
