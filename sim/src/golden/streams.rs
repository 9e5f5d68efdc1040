//! Cuts the two byte streams of a TCP connection into the messages of its protocol. Pure.
//!
//! A connection whose first byte is 1 is a peer's: a handshake of four frames, then requests and answers. One that
//! begins with `P` is HTTP/2; of it only the gRPC messages are taken, from its DATA frames. What they mean is not
//! interpreted here.

use std::collections::BTreeMap;

const FIRST_BYTE_OF_PEER: u8 = 1;
const FIRST_BYTE_OF_HTTP: u8 = b'P';
/// What an HTTP/2 client says before its first frame.
const PREFACE_BYTES: usize = 24;
const HTTP_HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
/// A flag and a length, before each gRPC message.
const GRPC_HEADER_BYTES: usize = 5;

/// A message and its place in its protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// First of a peer's handshake, from the node that dials.
    Hello(Vec<u8>),
    /// Second, from the node that was dialed.
    Welcome(Vec<u8>),
    /// Third, from the node that dials.
    Proof(Vec<u8>),
    /// Last, from the node that was dialed.
    Accepted(Vec<u8>),
    /// A peer's request, from the node that dialed.
    Request(Vec<u8>),
    /// The answer to one, from the node that was dialed.
    Response(Vec<u8>),
    /// A client's gRPC request.
    Call(Vec<u8>),
    /// The answer to one.
    Reply(Vec<u8>),
}

/// One connection.
#[derive(Debug, Default)]
pub struct Connection {
    protocol: Option<u8>,
    dialer: Side,
    listener: Side,
}

/// What one side has sent.
#[derive(Debug, Default)]
struct Side {
    /// Not yet cut.
    bytes: Vec<u8>,
    /// How many bytes come before the first message.
    ahead: usize,
    /// Number of messages so far.
    messages: usize,
    /// gRPC messages that are not yet whole, by HTTP/2 stream.
    unfinished: BTreeMap<u32, Vec<u8>>,
}

impl Connection {
    /// Adds bytes that one side has written. Returns the messages that are whole now.
    pub fn write(&mut self, is_dialer: bool, bytes: &[u8]) -> Vec<Message> {
        let side = if is_dialer { &mut self.dialer } else { &mut self.listener };
        side.bytes.extend_from_slice(bytes);
        if is_dialer && self.protocol.is_none() {
            self.protocol = side.bytes.first().copied();
            side.ahead = if self.protocol == Some(FIRST_BYTE_OF_PEER) { 1 } else { PREFACE_BYTES };
        }
        let ahead = side.ahead.min(side.bytes.len());
        side.ahead -= ahead;
        side.bytes.drain(..ahead);
        match self.protocol {
            Some(FIRST_BYTE_OF_PEER) => side.frames(is_dialer),
            Some(FIRST_BYTE_OF_HTTP) => side.calls(is_dialer),
            _ => Vec::new(),
        }
    }
}

impl Side {
    /// The messages of a peer: a length of four bytes, little-endian, before each.
    fn frames(&mut self, is_dialer: bool) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(length) = self.bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize) {
            let Some(frame) = self.take(4, length) else { break };
            messages.push(match (is_dialer, self.messages) {
                (true, 0) => Message::Hello(frame),
                (true, 1) => Message::Proof(frame),
                (true, _) => Message::Request(frame),
                (false, 0) => Message::Welcome(frame),
                (false, 1) => Message::Accepted(frame),
                (false, _) => Message::Response(frame),
            });
            self.messages += 1;
        }
        messages
    }

    /// The gRPC messages in the DATA frames of HTTP/2, uncompressed and without padding, as tonic and hyper send them.
    fn calls(&mut self, is_dialer: bool) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(header) = self.bytes.first_chunk::<HTTP_HEADER_BYTES>().copied() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            let Some(payload) = self.take(HTTP_HEADER_BYTES, length) else { break };
            if header[3] != DATA {
                continue;
            }
            let unfinished = self.unfinished.entry(stream).or_default();
            unfinished.extend_from_slice(&payload);
            while let Some([_, length @ ..]) = unfinished.first_chunk::<GRPC_HEADER_BYTES>().copied() {
                let end = GRPC_HEADER_BYTES + u32::from_be_bytes(length) as usize;
                if unfinished.len() < end {
                    break;
                }
                let message = unfinished.drain(..end).skip(GRPC_HEADER_BYTES).collect();
                messages.push(if is_dialer { Message::Call(message) } else { Message::Reply(message) });
            }
        }
        messages
    }

    /// Takes a header and the bytes that it announces, and returns the latter; `None` if they are not all there.
    fn take(&mut self, header: usize, length: usize) -> Option<Vec<u8>> {
        (self.bytes.len() >= header + length)
            .then(|| self.bytes.drain(..header + length).skip(header).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes both sides' bytes in pieces of this size, the dialer's first.
    fn cut(dialer: &[u8], listener: &[u8], piece: usize) -> Vec<Message> {
        let mut connection = Connection::default();
        let sides = dialer.chunks(piece).map(|bytes| (true, bytes));
        let sides = sides.chain(listener.chunks(piece).map(|bytes| (false, bytes)));
        sides.flat_map(|(is_dialer, bytes)| connection.write(is_dialer, bytes)).collect()
    }

    fn frame(content: &str) -> Vec<u8> {
        [&(content.len() as u32).to_le_bytes(), content.as_bytes()].concat()
    }

    #[test]
    fn a_peers_connection_is_a_handshake_and_then_requests_however_its_bytes_are_cut() {
        let dialer = [vec![1], frame("hello"), frame("proof"), frame(""), frame("append")].concat();
        let listener = [frame("welcome"), frame("accepted"), frame("success")].concat();
        for piece in [1, 2, 3, 7, 1_000] {
            let expected = [
                Message::Hello(b"hello".into()),
                Message::Proof(b"proof".into()),
                Message::Request(Vec::new()),
                Message::Request(b"append".into()),
                Message::Welcome(b"welcome".into()),
                Message::Accepted(b"accepted".into()),
                Message::Response(b"success".into()),
            ];
            assert_eq!(cut(&dialer, &listener, piece), expected);
        }
    }

    fn http_frame(kind: u8, stream: u8, content: &[u8]) -> Vec<u8> {
        [&[0, 0, content.len() as u8, kind, 0, 0, 0, 0, stream], content].concat()
    }

    #[test]
    fn of_a_clients_connection_the_grpc_messages_are_taken_however_its_bytes_are_cut() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let settings = http_frame(4, 0, &[]);
        let dialer = [
            preface,
            settings.clone(),
            http_frame(1, 1, b"headers"),
            http_frame(DATA, 1, &[0, 0, 0, 0, 3, b'g']),
            http_frame(DATA, 3, &[0, 0, 0, 0, 1, b's']),
            http_frame(DATA, 1, b"et"),
        ];
        let listener = [settings, http_frame(DATA, 1, &[0, 0, 0, 0, 0]), http_frame(1, 1, b"trailers")];
        for piece in [1, 2, 5, 1_000] {
            let expected =
                [Message::Call(b"s".into()), Message::Call(b"get".into()), Message::Reply(Vec::new())];
            assert_eq!(cut(&dialer.concat(), &listener.concat(), piece), expected);
        }
    }

    #[test]
    fn of_anything_else_nothing_is_taken() {
        assert_eq!(cut(b"GET / HTTP/1.1\r\n\r\n more than one frame", b"400", 10), []);
    }
}
