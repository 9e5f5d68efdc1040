//! Translation of requests whose `:authority` the HTTP/2 library (h2) would refuse.
//!
//! grpc-go sends an *empty* `:authority` for targets such as `mokv://HOST:PORT`, others send socket paths or lists of
//! endpoints. h2 answers each of these as a malformed request with `PROTOCOL_ERROR`. In gRPC an authority names a virtual
//! host, and a node has none. So the [`AuthorityFilter`] sits between a connection and HTTP/2:
//!
//! - It holds back the connection's first header block until that is complete. If h2 accepts its authority, or it has
//!   none, or it cannot be decoded, everything passes unchanged from then on, at the cost of one comparison per read.
//! - Otherwise it decodes every header block of the connection and encodes it again, with [`REPLACEMENT`] in place of an
//!   authority that h2 would refuse.
//!
//! Limit: if a connection's first request has a valid authority and a later one an invalid one, the filter does not
//! translate, and h2 refuses the later request. A client takes the authority from its target, and a connection has one
//! target.
//!
//! Invariants: all other header fields, their order, and all other frames arrive as they were sent. A frame that belongs
//! to no header block is never held back (a client may ping long before its first request). An encoded block refers to
//! no dynamic table, so h2's table stays empty and cannot diverge from the client's. The filter keeps at most
//! [`MAX_BLOCK_BYTES`]. It truncates a block that decodes to more than [`MAX_LIST_BYTES`] beyond that size, so that h2
//! refuses it as too large.
//!
//! The filter checks nothing else. Other malformed input goes to h2 as it is, or ends the connection if the filter cannot
//! decode it.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The length of the client's connection preface (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
/// SETTINGS_MAX_FRAME_SIZE: hyper leaves it at the initial value of RFC 9113.
const MAX_FRAME_BYTES: usize = 16 << 10;
/// SETTINGS_HEADER_TABLE_SIZE: hyper leaves it at the initial value of RFC 9113.
const MAX_TABLE_BYTES: usize = 4 << 10;
/// SETTINGS_MAX_HEADER_LIST_SIZE: hyper's default, counted as RFC 9113 does.
const MAX_LIST_BYTES: usize = 16 << 10;
/// Bytes that RFC 9113 counts for a field besides its name and its value.
const FIELD_OVERHEAD: usize = 32;
/// Most bytes of one encoded header block, in all its frames: twice those of a whole uncompressed list.
const MAX_BLOCK_BYTES: usize = 2 * MAX_LIST_BYTES;
/// Most frames of one header block. A well-behaved client fills each but the last.
const MAX_BLOCK_FRAMES: usize = 8;
/// Bytes read from the connection at a time while the filter decodes.
const READ_BYTES: usize = 16 << 10;

/// Replaces an authority that h2 refuses. No code of a node reads it.
const REPLACEMENT: &[u8] = b"localhost";

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;

/// A connection whose requests have only authorities that h2 accepts.
pub struct AuthorityFilter<S> {
    stream: S,
    state: State,
    /// Bytes for HTTP/2; those before `read` are already read.
    ready: Vec<u8>,
    read: usize,
}

enum State {
    /// Header blocks are decoded.
    Watching(Box<Watch>),
    /// Everything passes unchanged.
    Passing,
}

impl<S> AuthorityFilter<S> {
    /// Returns a filter of what `stream` reads, beginning with the client's preface.
    pub fn new(stream: S) -> AuthorityFilter<S> {
        AuthorityFilter { stream, state: State::Watching(Box::default()), ready: Vec::new(), read: 0 }
    }

    /// Processes bytes that were read from the connection. Empty: the connection has ended.
    fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        let State::Watching(watch) = &mut self.state else {
            self.ready.extend_from_slice(bytes);
            return Ok(());
        };
        let next = watch.take(bytes, &mut self.ready)?;
        if next == Next::Pass || (bytes.is_empty() && !watch.translating) {
            watch.give_up(&mut self.ready);
            self.state = State::Passing;
        }
        Ok(())
    }
}

/// Returns whether h2 cannot parse this authority and would refuse the request as malformed.
fn is_refused(authority: &[u8]) -> bool {
    http::uri::Authority::try_from(authority).is_err()
}

/// A whole frame, in place.
struct Frame<'a> {
    kind: u8,
    flags: u8,
    /// The stream's number as it was sent, with the reserved bit.
    stream: [u8; 4],
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Returns the payload length from the frame header at the beginning of `bytes`; `None`: too few bytes.
    fn length(bytes: &[u8]) -> Option<usize> {
        let [high, middle, low] = *bytes.first_chunk::<3>()?;
        Some(u32::from_be_bytes([0, high, middle, low]) as usize)
    }

    /// Returns the frame in `bytes`, if it is complete.
    fn whole(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let (header, payload) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>()?;
        let [_, _, _, kind, flags, stream @ ..] = *header;
        (payload.len() == Frame::length(header)?).then_some(Frame { kind, flags, stream, payload })
    }

    /// Returns the priority fields and the fragment of a HEADERS frame, without padding.
    fn fragment(&self) -> io::Result<(&'a [u8], &'a [u8])> {
        let too_short = || malformed("a HEADERS frame is shorter than its fields require");
        let mut payload = self.payload;
        if self.flags & PADDED != 0 {
            let (&padding, rest) = payload.split_first().ok_or_else(too_short)?;
            let end = rest.len().checked_sub(padding.into()).ok_or_else(too_short)?;
            payload = &rest[..end];
        }
        let kept = if self.flags & PRIORITY != 0 { PRIORITY_BYTES } else { 0 };
        payload.split_at_checked(kept).ok_or_else(too_short)
    }
}

/// A header block that is being received: one HEADERS frame, and perhaps CONTINUATION frames.
#[derive(Default)]
struct Block {
    frames: usize,
    flags: u8,
    stream: [u8; 4],
    priority: Vec<u8>,
    bytes: Vec<u8>,
}

impl Block {
    /// Adds a frame. Returns whether the block is complete.
    fn take(&mut self, frame: &Frame<'_>) -> io::Result<bool> {
        match frame.kind {
            HEADERS if self.frames == 0 => {
                let (priority, fragment) = frame.fragment()?;
                self.flags = frame.flags & !(END_HEADERS | PADDED);
                self.stream = frame.stream;
                self.priority = priority.to_vec();
                self.bytes.extend_from_slice(fragment);
            }
            CONTINUATION if self.frames > 0 && frame.stream == self.stream => {
                self.bytes.extend_from_slice(frame.payload);
            }
            _ => return Err(malformed("a header block is interrupted by another frame")),
        }
        self.frames += 1;
        if self.frames > MAX_BLOCK_FRAMES || self.bytes.len() > MAX_BLOCK_BYTES {
            return Err(malformed("a header block is too large"));
        }
        Ok(frame.flags & END_HEADERS != 0)
    }
}

/// Whether the filter goes on decoding a connection's bytes, or passes them unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Watch,
    Pass,
}

/// Decodes header blocks, and encodes them again if the first one had an authority that h2 refuses.
struct Watch {
    /// Has the client's dynamic table.
    decoder: Decoder<'static>,
    /// Whether the first header block had an authority that h2 refuses.
    translating: bool,
    block: Block,
    /// The first block's frames as they arrived, in case that they have to pass unchanged.
    held_back: Vec<u8>,
    /// A frame of a header block, or a frame's header, that has not arrived completely.
    partial: Vec<u8>,
    /// Number of bytes to come that pass unchanged: of the preface, or of a frame that belongs to no header block.
    passing: usize,
}

impl Default for Watch {
    fn default() -> Watch {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(MAX_TABLE_BYTES);
        Watch {
            decoder,
            translating: false,
            block: Block::default(),
            held_back: Vec::new(),
            partial: Vec::new(),
            passing: PREFACE_BYTES,
        }
    }
}

impl Watch {
    fn take(&mut self, mut bytes: &[u8], ready: &mut Vec<u8>) -> io::Result<Next> {
        while !bytes.is_empty() {
            // Collect a frame's header first, then the whole frame if it belongs to a header block.
            let wanted = match Frame::length(&self.partial) {
                _ if self.passing > 0 => self.passing,
                Some(length) if self.partial.len() >= FRAME_HEADER_BYTES => {
                    FRAME_HEADER_BYTES + length - self.partial.len()
                }
                _ => FRAME_HEADER_BYTES - self.partial.len(),
            };
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            bytes = later;
            if self.passing > 0 {
                ready.extend_from_slice(now);
                self.passing -= now.len();
                continue;
            }
            self.partial.extend_from_slice(now);
            let next = match self.advance(ready) {
                // Before the first translation h2 gets the client's bytes unchanged, and reports their errors itself.
                Err(_) if !self.translating => Next::Pass,
                next => next?,
            };
            if next == Next::Pass {
                self.give_up(ready);
                ready.extend_from_slice(bytes);
                return Ok(Next::Pass);
            }
        }
        Ok(Next::Watch)
    }

    /// Passes on unchanged what is held back of the first header block.
    fn give_up(&mut self, ready: &mut Vec<u8>) {
        ready.append(&mut self.held_back);
        ready.append(&mut self.partial);
    }

    /// Processes the part of a frame that has arrived.
    fn advance(&mut self, ready: &mut Vec<u8>) -> io::Result<Next> {
        let Some(header) = self.partial.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(Next::Watch);
        };
        let length = Frame::length(header).unwrap_or_default();
        if self.block.frames == 0 && header[3] != HEADERS {
            ready.append(&mut self.partial);
            self.passing = length;
            return Ok(Next::Watch);
        }
        if length > MAX_FRAME_BYTES {
            return Err(malformed("a frame is larger than this side allows"));
        }
        let Some(frame) = Frame::whole(&self.partial) else {
            return Ok(Next::Watch);
        };
        let complete = self.block.take(&frame)?;
        if !self.translating {
            self.held_back.append(&mut self.partial);
        }
        self.partial.clear();
        if !complete {
            return Ok(Next::Watch);
        }
        let block = std::mem::take(&mut self.block);
        let has_refused = self.write(&block, ready)?;
        if !self.translating && !has_refused {
            return Ok(Next::Pass);
        }
        self.translating = true;
        self.held_back = Vec::new();
        Ok(Next::Watch)
    }

    /// Decodes a block, and encodes it into `ready` if the connection is translated. Returns whether h2 would refuse its
    /// authority.
    fn write(&mut self, block: &Block, ready: &mut Vec<u8>) -> io::Result<bool> {
        let mut fields = Vec::new();
        let mut list_bytes = 0;
        let mut has_refused = false;
        let decoded = self.decoder.decode_with_cb(&block.bytes, |name, value| {
            let replaced = name.as_ref() == b":authority" && is_refused(&value);
            has_refused |= replaced;
            // Beyond the bound h2 needs no more fields, but the decoder's dynamic table does.
            if list_bytes <= MAX_LIST_BYTES {
                let value = if replaced { REPLACEMENT } else { value.as_ref() };
                list_bytes += name.len() + value.len() + FIELD_OVERHEAD;
                encode(&name, value, &mut fields);
            }
        });
        decoded.map_err(|error| malformed(&format!("a header block cannot be decoded: {error}")))?;
        if !self.translating && !has_refused {
            return Ok(false);
        }

        let first = MAX_FRAME_BYTES - block.priority.len();
        let (fragment, mut rest) = fields.split_at(fields.len().min(first));
        let payload = [block.priority.as_slice(), fragment].concat();
        let end = |rest: &[u8]| if rest.is_empty() { END_HEADERS } else { 0 };
        write_frame(HEADERS, block.flags | end(rest), block.stream, &payload, ready);
        while !rest.is_empty() {
            let (fragment, after) = rest.split_at(rest.len().min(MAX_FRAME_BYTES));
            rest = after;
            write_frame(CONTINUATION, end(rest), block.stream, fragment, ready);
        }
        Ok(has_refused)
    }
}

fn write_frame(kind: u8, flags: u8, stream: [u8; 4], payload: &[u8], ready: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("a frame is no larger than its bound");
    ready.extend_from_slice(&length.to_be_bytes()[1..]);
    ready.extend_from_slice(&[kind, flags]);
    ready.extend_from_slice(&stream);
    ready.extend_from_slice(payload);
}

/// Encodes a literal field without indexing, with its name as a literal (RFC 7541, section 6.2.2).
fn encode(name: &[u8], value: &[u8], block: &mut Vec<u8>) {
    block.push(0);
    for text in [name, value] {
        encode_length(text.len(), block);
        block.extend_from_slice(text);
    }
}

/// Encodes an integer with a prefix of seven bits (RFC 7541, section 5.1).
fn encode_length(length: usize, block: &mut Vec<u8>) {
    const PREFIX: usize = 0x7f;
    let Some(mut rest) = length.checked_sub(PREFIX) else {
        block.push(length as u8);
        return;
    };
    block.push(PREFIX as u8);
    while rest >= 0x80 {
        block.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityFilter<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let left = &this.ready[this.read..];
            if !left.is_empty() {
                let count = left.len().min(buf.remaining());
                buf.put_slice(&left[..count]);
                this.read += count;
                return Poll::Ready(Ok(()));
            }
            match this.state {
                State::Passing => this.ready = Vec::new(),
                State::Watching(_) => this.ready.clear(),
            }
            this.read = 0;
            if matches!(this.state, State::Passing) {
                return Pin::new(&mut this.stream).poll_read(cx, buf);
            }
            let mut bytes = [MaybeUninit::uninit(); READ_BYTES];
            let mut bytes = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut bytes))?;
            this.receive(bytes.filled())?;
            if bytes.filled().is_empty() && this.ready.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityFilter<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
