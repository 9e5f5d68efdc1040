//! The frames of a snapshot file.
//!
//! Frames follow each other without gaps: one header, any number of blocks, one footer.
//!
//! ```text
//! crc32c u32 | body length u32 | number u32 | kind u8 | 0 u8 u16 | body
//! ```
//!
//! all little endian. A frame's checksum covers everything after it. The footer holds the number of blocks and the
//! checksum of the whole file before it. No IO here.

use bytes::{BufMut, Bytes, BytesMut};

use crate::storage::Position;

pub(super) const FORMAT_VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"mokvsnap";

/// Bytes before a frame's body.
pub(super) const FRAME_BYTES: usize = 16;
/// Maximum size of a body, so that a damaged length never causes a large allocation.
pub(super) const MAX_BODY_BYTES: usize = 256 << 20;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Header,
    Block,
    Footer,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Header => 1,
            Kind::Block => 2,
            Kind::Footer => 3,
        }
    }

    fn from_code(code: u8) -> Option<Kind> {
        [Kind::Header, Kind::Block, Kind::Footer].into_iter().find(|kind| kind.code() == code)
    }
}

/// The decoded beginning of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub kind: Kind,
    /// The frame's number, from 0.
    pub number: u32,
    /// Length of the body in bytes.
    pub length: usize,
    checksum: u32,
}

/// Encodes a frame with this body.
pub(super) fn encode(kind: Kind, number: u32, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_BYTES + body.len());
    frame.put_u32_le(0);
    frame.put_u32_le(u32::try_from(body.len()).expect("a block is bounded"));
    frame.put_u32_le(number);
    frame.put_u8(kind.code());
    frame.put_bytes(0, 3);
    frame.put_slice(body);
    let checksum = crc32c::crc32c(&frame[4..]);
    frame[..4].copy_from_slice(&checksum.to_le_bytes());
    frame.freeze()
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

impl Frame {
    /// Decodes the first [`FRAME_BYTES`] of a frame; `None` if they are malformed. The checksum is not verified.
    pub fn parse(bytes: &[u8]) -> Option<Frame> {
        let bytes = bytes.get(..FRAME_BYTES)?;
        let length = u32_at(bytes, 4) as usize;
        let kind = Kind::from_code(bytes[12])?;
        (length <= MAX_BODY_BYTES).then(|| Frame {
            kind,
            number: u32_at(bytes, 8),
            length,
            checksum: u32_at(bytes, 0),
        })
    }

    /// Whether these are the bytes of the complete frame, as they were written.
    pub fn holds(&self, whole: &[u8]) -> bool {
        whole.len() == FRAME_BYTES + self.length && crc32c::crc32c(&whole[4..]) == self.checksum
    }
}

/// The body of the header frame.
pub(super) fn encode_header(position: Position, header: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(28 + header.len());
    body.put_slice(MAGIC);
    body.put_u32_le(FORMAT_VERSION);
    body.put_u64_le(position.term);
    body.put_u64_le(position.index);
    body.put_slice(header);
    body.freeze()
}

/// Format version, position and opaque part of a header frame's body.
pub(super) fn parse_header(body: &Bytes) -> Option<(u32, Position, Bytes)> {
    if body.len() < 28 || &body[..8] != MAGIC {
        return None;
    }
    let position = Position { term: u64_at(body, 12), index: u64_at(body, 20) };
    Some((u32_at(body, 8), position, body.slice(28..)))
}

/// The footer's data on everything before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    pub blocks: u64,
    /// Offset of the footer in the file.
    pub offset: u64,
    /// CRC32C of all bytes before the footer.
    pub checksum: u32,
}

impl Footer {
    pub fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(20);
        body.put_u64_le(self.blocks);
        body.put_u64_le(self.offset);
        body.put_u32_le(self.checksum);
        body.freeze()
    }

    pub fn parse(body: &[u8]) -> Option<Footer> {
        (body.len() == 20).then(|| Footer {
            blocks: u64_at(body, 0),
            offset: u64_at(body, 8),
            checksum: u32_at(body, 16),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn a_frame_is_read_back_and_any_flipped_bit_is_noticed(
            body in bytes(), number in any::<u32>(), at in any::<prop::sample::Index>(), bit in 0..8,
        ) {
            let whole = encode(Kind::Block, number, &body);
            let frame = Frame::parse(&whole).unwrap();
            prop_assert!(frame.holds(&whole));
            prop_assert_eq!((frame.kind, frame.number, frame.length), (Kind::Block, number, body.len()));
            let mut damaged = whole.to_vec();
            damaged[at.index(whole.len())] ^= 1u8 << bit;
            prop_assert!(Frame::parse(&damaged).is_none_or(|frame| !frame.holds(&damaged)));
        }

        #[test]
        fn headers_and_footers_are_read_back(
            term in any::<u64>(), index in any::<u64>(), header in bytes(), blocks in any::<u64>(),
            offset in any::<u64>(), checksum in any::<u32>(),
        ) {
            let position = Position { term, index };
            prop_assert_eq!(parse_header(&encode_header(position, &header)), Some((FORMAT_VERSION, position, header)));
            let footer = Footer { blocks, offset, checksum };
            prop_assert_eq!(Footer::parse(&footer.encode()), Some(footer));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in bytes()) {
            if let Some(frame) = Frame::parse(&bytes) {
                let _ = frame.holds(&bytes);
            }
            let _ = (parse_header(&bytes), Footer::parse(&bytes));
        }
    }
}
