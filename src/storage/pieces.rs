//! The records of a segment, read from its file piece by piece.

use bytes::Bytes;

use super::error::StorageError;
use super::record::{self, Record, Seed};
use super::scrub::Pace;
use super::segment;
use crate::rt::disk::FileRef;

/// Bytes read at a time where a whole segment is read: the memory for them is used again and again.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// A segment that is read piece by piece.
pub(super) struct Pieces {
    file: FileRef,
    number: u64,
    /// Bytes read at a time, unless a record is longer.
    piece_bytes: usize,
    pace: Option<Pace>,
    piece: Bytes,
    /// Offset of the piece in the file.
    begin: u64,
}

impl Pieces {
    /// The segment of this number, of which nothing is read yet.
    pub fn new(file: FileRef, number: u64, piece_bytes: usize, pace: Option<Pace>) -> Pieces {
        Pieces { file, number, piece_bytes, pace, piece: Bytes::new(), begin: 0 }
    }

    /// The segment of this number, all of which is read at once.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn whole(file: FileRef, number: u64) -> Result<Pieces, StorageError> {
        let length = file.len().await.map_err(StorageError::io("look at", segment::live_name(number)))?;
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(u32::MAX as usize);
        let mut pieces = Pieces::new(file, number, length, None);
        pieces.read(0, 0).await?;
        Ok(pieces)
    }

    /// The number of the segment.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The piece that was read last: of a segment that is read at once, all of it.
    pub fn last_read(&self) -> &Bytes {
        &self.piece
    }

    /// The sequence number of the checkpoint with which it begins.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is damaged; otherwise the disk's error.
    pub async fn first_sequence(&mut self) -> Result<u64, StorageError> {
        match self.record(0, 0).await? {
            Some(checkpoint) => Ok(checkpoint.place.sequence),
            None => Err(self.corrupt(0, "its checkpoint is damaged")),
        }
    }

    /// The record at `offset`, if there is one with a valid checksum.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn record(&mut self, offset: u64, salt: u64) -> Result<Option<Record>, StorageError> {
        if !self.holds(offset, record::HEADER_BYTES) && !self.read(offset, record::HEADER_BYTES).await? {
            return Ok(None);
        }
        let Some(size) = record::size_at(&self.piece, self.within(offset)) else { return Ok(None) };
        if !self.holds(offset, size) {
            // The length of a damaged record may be anything.
            let length = self.file.len().await;
            let length = length.map_err(StorageError::io("look at", segment::live_name(self.number)))?;
            if offset + size as u64 > length {
                return Ok(None);
            }
            if !self.read(offset, size).await? {
                return Ok(None);
            }
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

    /// Reads the next piece; `false` if the file ends before that, and the last piece is kept.
    async fn read(&mut self, offset: u64, at_least: usize) -> Result<bool, StorageError> {
        // `decode` accepts a checkpoint at offset 0 of its bytes. A segment has one only at its beginning, so every
        // other piece begins before the requested record.
        let begin = offset.saturating_sub(record::ALIGNMENT as u64);
        let bytes = self.piece_bytes.max(at_least + record::ALIGNMENT);
        let read = self.file.read_at(begin, bytes).await;
        let read = read.map_err(StorageError::io("read", segment::live_name(self.number)))?;
        if begin + (read.len() as u64) < offset + at_least as u64 {
            return Ok(false);
        }
        (self.piece, self.begin) = (read, begin);
        if let Some(pace) = self.pace {
            pace.give_way(self.piece.len() as u64).await;
        }
        Ok(true)
    }

    /// The error for a record at `offset`.
    pub fn corrupt(&self, offset: u64, reason: &'static str) -> StorageError {
        StorageError::Corrupt { file: segment::live_name(self.number), offset, reason }
    }
}
