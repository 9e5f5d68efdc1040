//! Reading sealed segments again: whether what was durable once still is what was written.
//!
//! Finds what the next start would find, while there is still something to be done about it. The bytes come from the files
//! that the log has open anyway, piece by piece; no lock is held while a piece is read, and the writer is not involved. A
//! segment that is given up meanwhile may be in use for something else, and says nothing any more. What the operating
//! system still has in its cache is read from there, not from the medium. Nothing here writes.

use std::time::Duration;

use bytes::Bytes;

use super::error::StorageError;
use super::log::Log;
use super::record::{self, Record, Seed};
use super::segment;
use crate::rt;
use crate::rt::disk::FileRef;

/// How much is read at a time, unless a record is longer.
const PIECE_BYTES: usize = 256 << 10;

/// How fast files are read in the background.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// At most so many; not zero.
    pub bytes_per_second: u64,
}

impl Pace {
    /// Lets everything else go first, for the time that so many bytes may take.
    pub async fn give_way(self, bytes: u64) {
        rt::sleep(Duration::from_micros(bytes * 1_000_000 / self.bytes_per_second)).await;
    }
}

impl Log {
    /// The segments that are not written any more, oldest first.
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

    /// The last entry that lies in this segment or an earlier one; `None`: they hold none that counts.
    pub fn last_index_in(&self, number: u64) -> Option<u64> {
        self.shared().state().index.last_in(number)
    }

    /// Reads a sealed segment from its beginning to where the next one goes on, and checks every record. Well if it is given
    /// up meanwhile.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where the first record is not what was written, and what the disk says.
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
        // Batches before a rotation were durable before it, so where this one ends the next one says.
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

/// A segment, read piece by piece.
struct Pieces {
    file: FileRef,
    number: u64,
    length: u64,
    pace: Pace,
    piece: Bytes,
    /// Where the piece begins.
    begin: u64,
}

impl Pieces {
    async fn new(file: FileRef, number: u64, pace: Pace) -> Result<Pieces, StorageError> {
        let length = file.len().await.map_err(StorageError::io("look at", segment::live_name(number)))?;
        Ok(Pieces { file, number, length, pace, piece: Bytes::new(), begin: 0 })
    }

    /// The sequence of the checkpoint that it begins with.
    async fn first_sequence(&mut self) -> Result<u64, StorageError> {
        match self.record(0, 0).await? {
            Some(checkpoint) => Ok(checkpoint.place.sequence),
            None => Err(self.corrupt(0, "its checkpoint is damaged")),
        }
    }

    /// The record at `offset`, if there is one whose checksum holds.
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
        // Only at its beginning a segment has a checkpoint: elsewhere a piece begins before the record that is wanted.
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
