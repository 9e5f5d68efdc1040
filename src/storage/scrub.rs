//! Reads sealed segments again, to check whether durable data is still what was written.
//!
//! It finds what the next start would find, while it can still be repaired. The bytes are read from the files that the
//! log already has open, piece by piece; no lock is held while a piece is read, and the writer is not involved. The
//! file of a segment that is retired meanwhile may be reused, so its result is ignored. What the operating system has
//! in its cache is read from there, not from the disk. Nothing here writes.

use std::time::Duration;

use bytes::Bytes;

use super::error::StorageError;
use super::log::Log;
use super::record::{self, Record, Seed};
use super::segment;
use crate::rt;
use crate::rt::disk::FileRef;

/// Bytes read at a time, unless a record is longer.
const PIECE_BYTES: usize = 256 << 10;

/// The rate at which files are read in the background.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The maximum; not zero.
    pub bytes_per_second: u64,
}

impl Pace {
    /// Sleeps for the time that reading this many bytes may take, so that other work goes first.
    pub async fn give_way(self, bytes: u64) {
        rt::sleep(Duration::from_micros(bytes * 1_000_000 / self.bytes_per_second)).await;
    }
}

impl Log {
    /// The numbers of the segments that are not written any more, oldest first.
    pub fn sealed(&self) -> Vec<u64> {
        let state = self.shared().state();
        let mut numbers: Vec<u64> = state.segments.keys().copied().collect();
        // The last one is active.
        numbers.pop();
        numbers
    }

    /// Whether this segment is part of the log.
    pub fn has_segment(&self, number: u64) -> bool {
        self.shared().state().segments.contains_key(&number)
    }

    /// Index of the last entry in this segment or an earlier one; `None` if they hold no entry of the log.
    pub fn last_index_in(&self, number: u64) -> Option<u64> {
        self.shared().state().index.last_in(number)
    }

    /// Reads a sealed segment from its beginning to where the next one continues, and checks every record. Returns `Ok`
    /// if the segment is retired meanwhile.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] at the first record that is not what was written; otherwise the disk's error.
    pub async fn check_sealed(&self, number: u64, pace: Pace) -> Result<(), StorageError> {
        let found = self.check_segment(number, pace).await;
        if self.has_segment(number) { found } else { Ok(()) }
    }

    async fn check_segment(&self, number: u64, pace: Pace) -> Result<(), StorageError> {
        let (here, next) = {
            let state = self.shared().state();
            (state.segments.get(&number).cloned(), state.segments.get(&(number + 1)).cloned())
        };
        let (Some((file, salt)), Some((next, _))) = (here, next) else { return Ok(()) };
        // Batches before a rotation were durable before it, so the next segment's first sequence number is where this
        // one ends.
        let end = Pieces::new(next, number + 1, pace).await?.first_sequence().await?;
        let mut pieces = Pieces::new(file, number, pace).await?;
        let mut sequence = pieces.first_sequence().await?;
        let mut offset = 0;
        while sequence < end {
            match pieces.record(offset, salt).await? {
                Some(record) if record.place.sequence == sequence => {
                    offset += record.size as u64;
                    sequence += 1;
                }
                _ => return Err(pieces.corrupt(offset, "a record is not what was written")),
            }
        }
        Ok(())
    }
}

/// A segment that is read piece by piece.
struct Pieces {
    file: FileRef,
    number: u64,
    length: u64,
    pace: Pace,
    piece: Bytes,
    /// Offset of the piece in the file.
    begin: u64,
}

impl Pieces {
    async fn new(file: FileRef, number: u64, pace: Pace) -> Result<Pieces, StorageError> {
        let length = file.len().await.map_err(StorageError::io("look at", segment::live_name(number)))?;
        Ok(Pieces { file, number, length, pace, piece: Bytes::new(), begin: 0 })
    }

    /// The sequence number of the checkpoint with which it begins.
    async fn first_sequence(&mut self) -> Result<u64, StorageError> {
        match self.record(0, 0).await? {
            Some(checkpoint) => Ok(checkpoint.place.sequence),
            None => Err(self.corrupt(0, "its checkpoint is damaged")),
        }
    }

    /// The record at `offset`, if there is one with a valid checksum.
    async fn record(&mut self, offset: u64, salt: u64) -> Result<Option<Record>, StorageError> {
        if !self.holds(offset, record::HEADER_BYTES) {
            self.read(offset, record::HEADER_BYTES).await?;
        }
        let Some(size) = record::size_at(&self.piece, self.within(offset)) else { return Ok(None) };
        if offset + size as u64 > self.length {
            return Ok(None);
        }
        if !self.holds(offset, size) {
            self.read(offset, size).await?;
        }
        let seed = Seed { segment: self.number, salt };
        Ok(record::decode(&self.piece, self.within(offset), seed))
    }

    fn within(&self, offset: u64) -> usize {
        (offset - self.begin) as usize
    }

    fn holds(&self, offset: u64, bytes: usize) -> bool {
        offset >= self.begin && offset + bytes as u64 <= self.begin + self.piece.len() as u64
    }

    async fn read(&mut self, offset: u64, at_least: usize) -> Result<(), StorageError> {
        // `decode` accepts a checkpoint at offset 0 of its bytes. A segment has one only at its beginning, so every
        // other piece begins before the requested record.
        let begin = offset.saturating_sub(record::ALIGNMENT as u64);
        let bytes = PIECE_BYTES.max(at_least + record::ALIGNMENT);
        let read = self.file.read_at(begin, bytes).await;
        self.piece = read.map_err(StorageError::io("read", segment::live_name(self.number)))?;
        self.begin = begin;
        self.pace.give_way(self.piece.len() as u64).await;
        Ok(())
    }

    fn corrupt(&self, offset: u64, reason: &'static str) -> StorageError {
        StorageError::Corrupt { file: segment::live_name(self.number), offset, reason }
    }
}
