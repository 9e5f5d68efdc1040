//! Encodes a snapshot, frame by frame. No IO here.

use bytes::Bytes;

use super::format::{self, Footer, Kind, MAX_BODY_BYTES};
use crate::storage::Position;

/// Encodes the frames of a snapshot: first the header, then the blocks, then the footer.
#[derive(Debug)]
pub struct SnapshotEncoder {
    offset: u64,
    frames: u32,
    /// CRC32C of all bytes so far.
    checksum: u32,
}

impl SnapshotEncoder {
    /// Begins a snapshot of the state after `position`. Returns the encoder and the snapshot's first bytes.
    pub fn new(position: Position, header: &[u8]) -> (SnapshotEncoder, Bytes) {
        let mut encoder = SnapshotEncoder { offset: 0, frames: 0, checksum: 0 };
        let bytes = encoder.frame(Kind::Header, &format::encode_header(position, header));
        (encoder, bytes)
    }

    /// The encoded next block.
    ///
    /// # Panics
    /// If the block is longer than 256 MiB.
    pub fn block(&mut self, block: &[u8]) -> Bytes {
        self.frame(Kind::Block, block)
    }

    /// The encoded footer, which ends a snapshot.
    pub fn end(&mut self) -> Bytes {
        let blocks = u64::from(self.frames) - 1;
        let footer = Footer { blocks, offset: self.offset, checksum: self.checksum };
        self.frame(Kind::Footer, &footer.encode())
    }

    /// Number of bytes so far.
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
