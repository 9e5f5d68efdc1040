//! A snapshot's bytes, frame after frame. Does no IO.

use bytes::Bytes;

use super::format::{self, Footer, Kind, MAX_BODY_BYTES};
use crate::storage::Position;

/// Frames a snapshot: the header when it is made, then the blocks, then the end.
#[derive(Debug)]
pub struct SnapshotEncoder {
    offset: u64,
    frames: u32,
    /// Of all bytes so far.
    checksum: u32,
}

impl SnapshotEncoder {
    /// Begins a snapshot of the state after `position`; the bytes it begins with.
    pub fn new(position: Position, header: &[u8]) -> (SnapshotEncoder, Bytes) {
        let mut encoder = SnapshotEncoder { offset: 0, frames: 0, checksum: 0 };
        let bytes = encoder.frame(Kind::Header, &format::encode_header(position, header));
        (encoder, bytes)
    }

    /// The bytes of the next block.
    ///
    /// # Panics
    /// If it is longer than 256 MiB.
    pub fn block(&mut self, block: &[u8]) -> Bytes {
        self.frame(Kind::Block, block)
    }

    /// The bytes that every snapshot ends with.
    pub fn end(&mut self) -> Bytes {
        let blocks = u64::from(self.frames) - 1;
        let footer = Footer { blocks, offset: self.offset, checksum: self.checksum };
        self.frame(Kind::Footer, &footer.encode())
    }

    /// How many bytes there were so far.
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    fn frame(&mut self, kind: Kind, body: &[u8]) -> Bytes {
        assert!(body.len() <= MAX_BODY_BYTES, "a block is bounded");
        let frame = format::encode(kind, self.frames, body);
        self.offset += frame.len() as u64;
        self.frames += 1;
        self.checksum = crc32c::crc32c_append(self.checksum, &frame);
        frame
    }
}
