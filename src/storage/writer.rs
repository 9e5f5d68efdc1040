//! The writer: one task that turns all queued requests into one batch, one write, one fdatasync.
//!
//! While a batch is being written, requests for the next one are queued. Invariants: batches are written strictly one
//! after the other; a callback receives `Ok` only after the sync that covers its request; after any failure no callback
//! receives `Ok`. The writer never reads and never unlinks.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::error::StorageError;
use super::record::{self, Body, Checkpoint, Place, Seed, State};
use super::shared::{Callback, LogChange, Request, Shared, Spare};
use super::spares::{Retired, Spares};
use super::{LogEntry, Owner, Position, segment};
use crate::rt::disk::{DiskRef, FileRef};
use crate::rt::{self, now, random, spawn, timeout};

/// A segment that is not written any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed {
    pub number: u64,
    /// The highest index of an entry in it.
    pub highest: Option<u64>,
}

/// The state needed to continue writing.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The active segment; zero if there is none yet.
    pub number: u64,
    pub salt: u64,
    /// Offset of the end of its last batch.
    pub end: u64,
    /// The intended size of its file, in bytes.
    pub capacity: u64,
    /// The highest index of an entry in it.
    pub highest: Option<u64>,
    pub next_sequence: u64,
    /// The state after all records so far.
    pub state: State,
    /// Earlier segments, oldest first.
    pub sealed: Vec<Sealed>,
}

struct Writer {
    shared: Arc<Shared>,
    disk: DiskRef,
    rings: mpsc::Receiver<()>,
    spares: Spares,
    owner: Owner,
    tail: Tail,
    /// The active segment, open on the log's own thread.
    file: Option<FileRef>,
    buffer: BytesMut,
    /// Callbacks of requests that are durable and wait for the next batch to prove it.
    unproven: Vec<Callback>,
    /// The last batch holds data and is not yet marked as durable.
    unmarked: bool,
    abandoned: bool,
    /// Called when the writer has ended.
    closing: Vec<Callback>,
}

/// The records of a batch.
#[derive(Default)]
struct Records {
    bodies: Vec<Body>,
    /// Index and ticket of each entry, in the order of their bodies.
    entries: Vec<(u64, u32)>,
}

impl Records {
    /// Position of the last entry.
    fn last_entry(&self) -> Option<Position> {
        let entry = |body: &Body| match body {
            Body::LogEntry { term, index, .. } => Some(Position { term: *term, index: *index }),
            _ => None,
        };
        self.bodies.iter().rev().find_map(entry)
    }

    /// The maximum of bytes they take in a segment.
    fn room(&self) -> u64 {
        let room = |body: &Body| match body {
            Body::LogEntry { payload, .. } => record::entry_bytes(payload.len()),
            Body::Vote(opaque) | Body::Acknowledged(opaque) => record::small_record_bytes(opaque.len()),
            _ => record::small_record_bytes(0),
        };
        self.bodies.iter().map(room).sum()
    }
}

/// A batch of requests, split into records and callbacks.
#[derive(Default)]
struct Batch {
    records: Records,
    callbacks: Vec<Callback>,
    /// Callbacks that must wait for the mark.
    want_mark: Vec<Callback>,
    /// Payload bytes as counted for the queue.
    bytes: u64,
    purges: bool,
    /// The committed position, if no earlier request is still queued: a majority may have committed what this log has
    /// yet to write, or to truncate.
    committed: Option<Position>,
    /// The acknowledgements of members.
    acknowledged: Option<Bytes>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.records.bodies.is_empty() && self.callbacks.is_empty() && self.want_mark.is_empty()
    }

    /// Adds an entry and its ticket in the index to the records.
    fn add(&mut self, (entry, ticket): (LogEntry, u32)) {
        self.records.entries.push((entry.index, ticket));
        let LogEntry { term, index, payload } = entry;
        self.records.bodies.push(Body::LogEntry { term, index, payload });
    }
}

/// Why the writer woke up.
enum Wake {
    Ring,
    Idle,
    /// All handles were dropped.
    Abandoned,
}

/// Starts the task. A new log is durable before this returns.
///
/// # Errors
/// If the disk fails.
pub(super) async fn start(
    shared: Arc<Shared>,
    disk: DiskRef,
    rings: mpsc::Receiver<()>,
    spares: Spares,
    tail: Tail,
    owner: Owner,
) -> Result<(), StorageError> {
    let mut writer = Writer {
        shared,
        disk,
        rings,
        spares,
        owner,
        tail,
        file: None,
        buffer: BytesMut::new(),
        unproven: Vec::new(),
        unmarked: false,
        abandoned: false,
        closing: Vec::new(),
    };
    if writer.tail.number == 0 {
        writer.write_batch(Batch::default()).await?;
    } else {
        let name = segment::live_name(writer.tail.number);
        writer.file = Some(writer.disk.open(&name).await.map_err(StorageError::io("open", &name))?);
        // Segments whose entries were purged just before the last stop.
        writer.retire();
    }
    spawn(writer.run());
    Ok(())
}

impl Writer {
    async fn run(mut self) {
        while self.shared.failure.borrow().is_none() {
            let batch = self.take_batch();
            let ending = self.abandoned || !self.closing.is_empty();
            let must_mark = !self.unproven.is_empty() || (ending && self.unmarked);
            if batch.is_empty() && !must_mark {
                if ending {
                    break;
                }
                match self.wait().await {
                    Wake::Ring => continue,
                    Wake::Idle => {}
                    Wake::Abandoned => {
                        self.abandoned = true;
                        continue;
                    }
                }
            }
            if self.write_batch(batch).await.is_err() {
                break;
            }
        }
        self.end().await;
    }

    /// Releases everything, so that the disk can be opened again, and calls the waiting callbacks.
    async fn end(self) {
        let Writer { shared, disk, spares, file, unproven, closing, .. } = self;
        drop((disk, file));
        spares.stop().await;
        let failure = shared.failure.borrow().clone();
        match failure {
            Some(error) => shared.poison(error, unproven.into_iter().chain(closing)),
            None => closing.into_iter().for_each(|callback| callback(Ok(()))),
        }
    }

    async fn wait(&mut self) -> Wake {
        let ring = if self.unmarked {
            match timeout(self.shared.config.idle_mark_delay, self.rings.recv()).await {
                Ok(ring) => ring,
                Err(_) => return Wake::Idle,
            }
        } else {
            self.rings.recv().await
        };
        if ring.is_some() { Wake::Ring } else { Wake::Abandoned }
    }

    /// Takes requests from the queue: as many as fit into a batch but at least one, or the first entries of a request
    /// that is larger than a batch.
    fn take_batch(&mut self) -> Batch {
        let limit = self.shared.config.batch_bytes();
        let mut batch = Batch::default();
        let mut state = self.shared.state();
        while let Some(request) = state.queue.front_mut() {
            if batch.bytes > 0 && batch.bytes + request.bytes > limit {
                break;
            }
            if request.bytes > limit {
                let (first, bytes) = request.first_entries(limit);
                if !first.is_empty() {
                    batch.bytes += bytes;
                    first.into_iter().for_each(|entry| batch.add(entry));
                    break;
                }
            }
            let Request { change, bytes, callback } = state.queue.pop_front().expect("it has a front");
            batch.bytes += bytes;
            match change {
                LogChange::Append(entries) => {
                    entries.into_iter().for_each(|entry| batch.add(entry));
                    batch.callbacks.push(callback);
                }
                LogChange::Vote(vote) => {
                    batch.records.bodies.push(Body::Vote(vote));
                    batch.want_mark.push(callback);
                }
                LogChange::Truncate(last) => {
                    batch.records.bodies.push(Body::Truncate(last));
                    batch.callbacks.push(callback);
                }
                LogChange::Purge(upto) => {
                    batch.records.bodies.push(Body::Purge(upto));
                    batch.callbacks.push(callback);
                    batch.purges = true;
                }
                LogChange::Close => self.closing.push(callback),
            }
        }
        batch.committed = state.committed.filter(|_| state.queue.is_empty());
        batch.acknowledged = state.acknowledged.clone();
        batch
    }

    /// The only place that writes. It returns only after the sync, and no byte of the next batch is written before.
    async fn write_batch(&mut self, mut batch: Batch) -> Result<(), StorageError> {
        self.unmarked = !batch.records.bodies.is_empty();
        // The committed position and the acknowledgements are added to a batch that is written anyway.
        if let Some(committed) = batch.committed.filter(|_| batch.committed != self.tail.state.committed) {
            batch.records.bodies.push(Body::Committed(committed));
        }
        let acknowledged = batch.acknowledged.take();
        if let Some(acknowledged) =
            acknowledged.filter(|newest| self.tail.state.acknowledged.as_ref() != Some(newest))
        {
            batch.records.bodies.push(Body::Acknowledged(acknowledged));
        }
        if batch.records.bodies.is_empty() {
            batch.records.bodies.push(Body::Mark);
        }
        let room = batch.records.room();
        let started = now();
        let written = if self.file.is_none() || self.tail.end + room > self.tail.capacity {
            self.rotate(&batch.records).await
        } else {
            self.extend(&batch.records).await
        };
        match written {
            Ok(offsets) => {
                self.publish(&batch, &offsets, now() - started);
                self.settle(batch);
                Ok(())
            }
            Err(error) => {
                let unproven = std::mem::take(&mut self.unproven);
                let callbacks = unproven.into_iter().chain(batch.callbacks).chain(batch.want_mark);
                self.shared.poison(error.clone(), callbacks);
                Err(error)
            }
        }
    }

    /// Adds a batch to the active segment.
    async fn extend(&mut self, records: &Records) -> Result<Vec<u32>, StorageError> {
        let (bytes, offsets) = self.encode(None, records);
        let file = self.file.as_ref().expect("there is an active segment");
        let written = bytes.len() as u64;
        // Beyond its capacity a write may need space that the disk no longer has.
        assert!(self.tail.end + written <= self.tail.capacity, "a batch leaves its segment");
        file.write_and_sync(self.tail.end, bytes)
            .await
            .map_err(StorageError::io("write and sync", segment::live_name(self.tail.number)))?;
        self.tail.end += written;
        Ok(offsets)
    }

    /// Begins a new segment with a checkpoint and a batch in one write. It gets its live name only when both are
    /// durable, so a file with a live name always has a complete checkpoint.
    async fn rotate(&mut self, records: &Records) -> Result<Vec<u32>, StorageError> {
        let Spare { name, file: readable, capacity } = self.spares.take().await?;
        if self.tail.number > 0 {
            assert!(
                self.tail.sealed.last().is_none_or(|earlier| earlier.number < self.tail.number),
                "segments are sealed in order"
            );
            self.tail.sealed.push(Sealed { number: self.tail.number, highest: self.tail.highest });
        }
        self.tail.number += 1;
        self.tail.salt = random::random_u64();
        self.tail.end = 0;
        self.tail.capacity = capacity;
        self.tail.highest = None;
        let checkpoint = Checkpoint {
            segment: self.tail.number,
            salt: self.tail.salt,
            owner: self.owner,
            state: self.tail.state.clone(),
        };
        let (bytes, offsets) = self.encode(Some(checkpoint), records);
        let written = bytes.len() as u64;
        let live = segment::live_name(self.tail.number);
        let file = self.disk.open(&name).await.map_err(StorageError::io("open", &name))?;
        file.write_and_sync(0, bytes).await.map_err(StorageError::io("write and sync", &name))?;
        self.disk.rename(&name, &live).await.map_err(StorageError::io("rename", &name))?;
        // Sync the directory too: the name alone can vanish when power fails.
        self.disk.sync_dir().await.map_err(StorageError::io("sync", "."))?;
        self.tail.end = written;
        self.file = Some(file);
        if self.tail.number > 1 {
            rt::sometimes("segment rolled");
        }
        let mut state = self.shared.state();
        state.segments.insert(self.tail.number, (readable, self.tail.salt));
        state.metrics.rotations += 1;
        Ok(offsets)
    }

    /// Encodes a batch and applies it to the tail's state. Returns the bytes and the offsets of the entries in the
    /// segment.
    fn encode(&mut self, checkpoint: Option<Checkpoint>, records: &Records) -> (Bytes, Vec<u32>) {
        let seed = Seed { segment: self.tail.number, salt: self.tail.salt };
        let count = records.bodies.len() + usize::from(checkpoint.is_some());
        let mut offsets = Vec::with_capacity(records.entries.len());
        self.buffer.reserve(records.room() as usize);
        let mut in_batch = 0;
        let mut put = |buffer: &mut BytesMut, tail: &mut Tail, body: &Body| {
            let place = Place {
                sequence: tail.next_sequence,
                in_batch,
                last_of_batch: in_batch as usize + 1 == count,
            };
            if let Body::LogEntry { index, .. } = body {
                let offset = tail.end + buffer.len() as u64;
                offsets.push(u32::try_from(offset).expect("a segment is bounded"));
                tail.highest = tail.highest.max(Some(*index));
            }
            if let Body::Committed(committed) = body {
                // A majority may have committed what this log has yet to write: `take_batch` holds such a position back
                // (chaos seed 7802739).
                let last = tail.state.last;
                assert!(
                    last.is_some_and(|last| committed.index <= last.index),
                    "marked as committed up to {committed:?}, but written up to {last:?}"
                );
            }
            record::encode(buffer, seed, place, body);
            tail.state.apply(body);
            tail.next_sequence += 1;
            in_batch += 1;
        };
        if let Some(checkpoint) = checkpoint {
            put(&mut self.buffer, &mut self.tail, &Body::Checkpoint(Box::new(checkpoint)));
        }
        for body in &records.bodies {
            put(&mut self.buffer, &mut self.tail, body);
        }
        assert_eq!(in_batch as usize, count, "the last record of a batch is marked as the last");
        assert_eq!(offsets.len(), records.entries.len(), "each entry has an offset");
        (self.buffer.split().freeze(), offsets)
    }

    /// Makes the batch's entries readable from disk, and updates metrics.
    fn publish(&mut self, batch: &Batch, offsets: &[u32], took: std::time::Duration) {
        let mut state = self.shared.state();
        for ((index, ticket), offset) in batch.records.entries.iter().zip(offsets) {
            state.index.written(*index, *ticket, self.tail.number, *offset);
        }
        state.index.evict();
        assert!(state.queued_bytes >= batch.bytes, "a batch holds more than was queued");
        state.queued_bytes -= batch.bytes;
        state.durable = batch.records.last_entry().or(state.durable);
        let metrics = &mut state.metrics;
        metrics.batches += 1;
        metrics.marks += u64::from(!self.unmarked);
        metrics.entries += batch.records.entries.len() as u64;
        metrics.bytes_written += batch.records.room();
        metrics.write_and_sync.observe(took);
        drop(state);
        self.shared.progress.send(());
        if batch.purges {
            self.retire();
        }
    }

    /// Calls the callbacks of a durable batch. This batch also proves that the previous one was durable, so votes of
    /// that one are acknowledged now, and votes of this one after the next.
    fn settle(&mut self, batch: Batch) {
        let proven = std::mem::replace(&mut self.unproven, batch.want_mark);
        for callback in proven.into_iter().chain(batch.callbacks) {
            callback(Ok(()));
        }
    }

    /// Retires the oldest segments whose entries are all durably purged. Every segment but the active one has a later
    /// one, whose durable checkpoint repeats the vote and all other state that it held.
    fn retire(&mut self) {
        let Some(purged) = self.tail.state.purged else { return };
        let superfluous = |sealed: &&Sealed| sealed.highest.is_none_or(|highest| highest <= purged.index);
        let count = self.tail.sealed.iter().take_while(superfluous).count();
        for Sealed { number, .. } in self.tail.sealed.drain(..count) {
            assert!(number < self.tail.number, "the active segment is never retired");
            let removed = self.shared.state().segments.remove(&number);
            if let Some((file, _)) = removed {
                rt::sometimes("segment retired");
                self.spares.retire(Retired { number, file });
            }
        }
    }
}
