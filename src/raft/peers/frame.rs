//! Frames: a 4-byte little-endian length and one protobuf message.

use std::io;

use bytes::{Buf, BufMut, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest frame after the handshake. An append holds about 1 MiB of entries, or one entry that is larger.
pub const MAX_FRAME_BYTES: usize = 64 << 20;

/// The longest value that a command may carry.
pub const MAX_VALUE_BYTES: u64 = 48 << 20;

/// The longest command: one with the longest value and the longest key. Its entry fits a frame with the entries that lead
/// up to it and their framing.
pub const MAX_COMMAND_BYTES: usize = MAX_VALUE_BYTES as usize + (1 << 20);
const _: () = assert!(MAX_COMMAND_BYTES + (8 << 20) <= MAX_FRAME_BYTES);

const HEADER_BYTES: usize = 4;

/// Appends a frame to a buffer.
///
/// # Panics
/// If the message is longer than [`MAX_FRAME_BYTES`]. No input causes this: a command is bounded before it becomes an
/// entry, and answers hold no key and no value.
pub fn put_frame(buffer: &mut BytesMut, message: &impl Message) {
    let length = message.encoded_len();
    assert!(length <= MAX_FRAME_BYTES, "a message of {length} bytes is longer than a frame may be");
    buffer.reserve(HEADER_BYTES + length);
    buffer.put_u32_le(length as u32);
    message.encode_raw(buffer);
}

/// Reads frames. Dropping an unfinished [`FrameReader::next`] loses nothing.
pub struct FrameReader<R> {
    read: R,
    buffer: BytesMut,
    limit: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames of at most `limit` bytes.
    pub fn new(read: R, limit: usize) -> FrameReader<R> {
        FrameReader { read, buffer: BytesMut::with_capacity(16 << 10), limit }
    }

    /// The underlying stream, to write in the other direction.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.read
    }

    /// The next frame's message; `None` when the peer closed between two frames.
    ///
    /// # Errors
    /// If the connection breaks or ends within a frame, or a frame is too long or holds no message of this type.
    pub async fn next<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            if self.read.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => {
                        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed within a frame"))
                    }
                };
            }
        }
    }

    fn take<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        if self.buffer.len() < HEADER_BYTES {
            return Ok(None);
        }
        let length = u32::from_le_bytes(self.buffer[..HEADER_BYTES].try_into().expect("four bytes")) as usize;
        // Bounded before anything is allocated for it.
        if length > self.limit {
            let message = format!("a frame of {length} bytes, more than the {} allowed here", self.limit);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        if self.buffer.len() < HEADER_BYTES + length {
            self.buffer.reserve(HEADER_BYTES + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let frame = self.buffer.split_to(length).freeze();
        M::decode(frame).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mokv_proto::raft;
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = raft::AppendEntries> {
        let entry = (any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(term, index, payload)| raft::Entry { term, index, payload: payload.into() });
        proptest::collection::vec(entry, 0..8)
            .prop_map(|entries| raft::AppendEntries { entries, ..Default::default() })
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        crate::rt::process::block_on(future).unwrap()
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(
            messages in proptest::collection::vec(entries(), 0..6),
            cut in 1usize..97,
        ) {
            let mut bytes = BytesMut::new();
            messages.iter().for_each(|message| put_frame(&mut bytes, message));
            let read = block_on(async {
                let mut reader = FrameReader::new(in_pieces(&bytes, cut), MAX_FRAME_BYTES);
                let mut read = Vec::new();
                while let Some(message) = reader.next::<raft::AppendEntries>().await.unwrap() {
                    read.push(message);
                }
                read
            });
            prop_assert_eq!(read, messages);
        }
    }

    /// A reader that hands out `cut` bytes at a time.
    fn in_pieces(bytes: &[u8], cut: usize) -> impl AsyncRead + Unpin + use<> {
        let mut chained: Box<dyn AsyncRead + Unpin + Send> = Box::new(tokio::io::empty());
        for piece in bytes.chunks(cut).rev() {
            chained = Box::new(AsyncReadExt::chain(io::Cursor::new(piece.to_vec()), chained));
        }
        chained
    }

    #[test]
    fn an_overlong_frame_is_refused_before_it_is_allocated() {
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(u32::MAX);
        let error =
            block_on(async { FrameReader::new(&bytes[..], 1024).next::<raft::Hello>().await.unwrap_err() });
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn half_a_frame_is_an_error_and_none_at_all_is_an_end() {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, &raft::Hello { from: 7, ..Default::default() });
        block_on(async {
            let half = FrameReader::new(&bytes[..3], 1024).next::<raft::Hello>().await;
            assert_eq!(half.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(FrameReader::new(&b""[..], 1024).next::<raft::Hello>().await.unwrap(), None);
        });
    }
}
