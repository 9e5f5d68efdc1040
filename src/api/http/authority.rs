//! Requests whose `:authority` the HTTP/2 library would refuse reach their services all the same.
//!
//! grpc-go sends an *empty* `:authority` for targets such as `mokv://HOST:PORT`, others send socket paths or lists of
//! endpoints. To h2 each of these is a malformed request, answered with `PROTOCOL_ERROR`; to gRPC an authority is a
//! name for virtual hosts, of which a node has none. So the [`AuthorityFilter`] stands between a connection and HTTP/2:
//!
//! - It holds back the connection's first header block until that is complete. If its authority is one that h2 takes, or
//!   there is none, or it cannot be decoded, everything passes unchanged from then on, at the cost of one comparison a
//!   read.
//! - Otherwise every header block of the connection is decoded and written again with [`REPLACEMENT`] in place of an
//!   authority that h2 would refuse.
//!
//! The bound of this: a connection whose first request has a good authority and a later one a bad one is not
//! translated, and the later request is refused as malformed. A client takes the authority from its target, which a
//! connection has one of.
//!
//! Invariants: all other header fields, their order, and all other frames arrive as they were sent, and no frame waits
//! that belongs to no header block (a client may ping long before it asks for anything). What is written
//! again refers to no dynamic table, so h2's stays empty and nothing can get out of step. No more is kept than
//! [`MAX_BLOCK_BYTES`], and a block that decodes to more than [`MAX_LIST_BYTES`] is cut off beyond it, where h2 refuses
//! it as too large.
//!
//! Judges nothing else: what is malformed otherwise goes to h2 as it is, or ends the connection when it cannot be
//! followed.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The length of what a client's connection begins with (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
/// SETTINGS_MAX_FRAME_SIZE, which hyper leaves at what RFC 9113 begins with.
const MAX_FRAME_BYTES: usize = 16 << 10;
/// SETTINGS_HEADER_TABLE_SIZE, which hyper leaves at what RFC 9113 begins with.
const MAX_TABLE_BYTES: usize = 4 << 10;
/// What hyper takes as a header list by default (SETTINGS_MAX_HEADER_LIST_SIZE), counted as RFC 9113 does.
const MAX_LIST_BYTES: usize = 16 << 10;
/// What RFC 9113 counts for a field besides its name and its value.
const FIELD_OVERHEAD: usize = 32;
/// Bytes of one encoded header block, in all its frames: what a whole list takes uncompressed, twice.
const MAX_BLOCK_BYTES: usize = 2 * MAX_LIST_BYTES;
/// Frames of one header block; an honest client fills each but the last.
const MAX_BLOCK_FRAMES: usize = 8;
/// Bytes read from the connection at a time while it is looked at.
const READ_BYTES: usize = 16 << 10;

/// What stands for an authority that h2 refuses. Nothing in a node looks at it.
const REPLACEMENT: &[u8] = b"localhost";

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;

/// A connection, its requests' authorities made such that h2 takes them.
pub struct AuthorityFilter<S> {
    stream: S,
    state: State,
    /// Ready for HTTP/2, from `read` on.
    ready: Vec<u8>,
    read: usize,
}

enum State {
    /// Header blocks are looked at.
    Watching(Box<Watch>),
    /// Nothing is.
    Passing,
}

impl<S> AuthorityFilter<S> {
    /// Filters what `stream` reads, from the client's preface on.
    pub fn new(stream: S) -> AuthorityFilter<S> {
        AuthorityFilter { stream, state: State::Watching(Box::default()), ready: Vec::new(), read: 0 }
    }

    /// Takes what the connection brought; nothing: its end.
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

/// Whether h2 makes no URI of this authority and calls the request malformed.
fn is_refused(authority: &[u8]) -> bool {
    http::uri::Authority::try_from(authority).is_err()
}

/// A whole frame, in place.
struct Frame<'a> {
    kind: u8,
    flags: u8,
    /// The stream's number as it was sent, reserved bit and all.
    stream: [u8; 4],
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The length of the payload that these bytes begin to tell.
    fn length(bytes: &[u8]) -> Option<usize> {
        let [high, middle, low] = *bytes.first_chunk::<3>()?;
        Some(u32::from_be_bytes([0, high, middle, low]) as usize)
    }

    /// The frame of which these are the bytes, if they are all of it.
    fn whole(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let (header, payload) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>()?;
        let [_, _, _, kind, flags, stream @ ..] = *header;
        (payload.len() == Frame::length(header)?).then_some(Frame { kind, flags, stream, payload })
    }

    /// Of HEADERS: what stands before the fragment that has to stay, and the fragment, without padding.
    fn fragment(&self) -> io::Result<(&'a [u8], &'a [u8])> {
        let too_short = || malformed("a HEADERS frame is shorter than what it says it holds");
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

/// A header block on its way, of one HEADERS frame and perhaps CONTINUATION frames.
#[derive(Default)]
struct Block {
    frames: usize,
    flags: u8,
    stream: [u8; 4],
    priority: Vec<u8>,
    bytes: Vec<u8>,
}

impl Block {
    /// Adds a frame; whether the block is complete.
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
            _ => return Err(malformed("a header block is broken off by another frame")),
        }
        self.frames += 1;
        if self.frames > MAX_BLOCK_FRAMES || self.bytes.len() > MAX_BLOCK_BYTES {
            return Err(malformed("a header block is too large"));
        }
        Ok(frame.flags & END_HEADERS != 0)
    }
}

/// What becomes of a connection's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Watch,
    Pass,
}

/// Looks for header blocks, and writes them anew once the first one asked for it.
struct Watch {
    /// Follows the client's dynamic table.
    decoder: Decoder<'static>,
    /// The first header block had an authority that h2 refuses.
    translating: bool,
    block: Block,
    /// The frames of the block as they came, as long as it may have to pass as it is.
    held_back: Vec<u8>,
    /// A frame of a header block, or a frame's header, that is not yet there as a whole.
    partial: Vec<u8>,
    /// Bytes that are still to come and pass as they are: of the preface, then of a frame of no header block.
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
            // First a frame's header, then all of it if it belongs to a header block.
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
                // So far h2 sees what the client sent, and it is h2 that judges.
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

    /// Lets pass what is held back of the first header block.
    fn give_up(&mut self, ready: &mut Vec<u8>) {
        ready.append(&mut self.held_back);
        ready.append(&mut self.partial);
    }

    /// Does what can be done with what is there of a frame.
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

    /// Writes a block that is translated; whether its authority is one that h2 refuses.
    fn write(&mut self, block: &Block, ready: &mut Vec<u8>) -> io::Result<bool> {
        let mut fields = Vec::new();
        let mut list_bytes = 0;
        let mut has_refused = false;
        let decoded = self.decoder.decode_with_cb(&block.bytes, |name, value| {
            let replaced = name.as_ref() == b":authority" && is_refused(&value);
            has_refused |= replaced;
            // Beyond the bound h2 has to see no more, but the dynamic table has.
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

/// A literal field that enters no table, its name spelled out (RFC 7541, section 6.2.2).
fn encode(name: &[u8], value: &[u8], block: &mut Vec<u8>) {
    block.push(0);
    for text in [name, value] {
        encode_length(text.len(), block);
        block.extend_from_slice(text);
    }
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
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
