//! Reads sealed segments again, to check whether durable data is still what was written.
//!
//! It finds what the next start would find, while it can still be repaired. The bytes are read from the files that the
//! log already has open, piece by piece; no lock is held while a piece is read, and the writer is not involved. The
//! file of a segment that is retired meanwhile may be reused, so its result is ignored. What the operating system has
//! in its cache is read from there, not from the disk. Nothing here writes.

use std::time::Duration;

use super::error::StorageError;
use super::log::Log;
use super::pieces::{PIECE_BYTES, Pieces};
use crate::rt;

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
        let paced = |file, number| Pieces::new(file, number, PIECE_BYTES, Some(pace));
        let end = paced(next, number + 1).first_sequence().await?;
        let mut pieces = paced(file, number);
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
