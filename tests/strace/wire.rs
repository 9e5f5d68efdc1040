//! The traffic on a node's connections, reassembled from the calls: HTTP/2 frames of clients, frames of peers.

use std::collections::BTreeMap;

use mokv_proto::raft;
use prost::Message;

use super::trace::{Call, Connection, Target};

const RECEIVES: [&str; 4] = ["recvfrom", "recvmsg", "read", "readv"];
const SENDS: [&str; 4] = ["sendto", "sendmsg", "write", "writev"];
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// One direction of a connection.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    /// Pairs of an offset and the line of the call that carried the bytes from there on.
    carried: Vec<(usize, usize)>,
}

impl Stream {
    fn add(&mut self, bytes: &[u8], line: usize) {
        self.carried.push((self.bytes.len(), line));
        self.bytes.extend(bytes);
    }

    /// The line of the call that carried the byte at `offset`.
    fn line(&self, offset: usize) -> usize {
        let after = self.carried.partition_point(|(from, _)| *from <= offset);
        self.carried[after - 1].1
    }
}

/// Both directions of a connection that a node accepted.
#[derive(Default)]
pub struct Conversation {
    received: Stream,
    sent: Stream,
}

/// An HTTP/2 frame.
pub struct Frame<'a> {
    /// For a sent frame: the line of the call that sent its first byte.
    pub line: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: &'a [u8],
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
/// Flag: the last frame of its stream. An answer that has only headers is an error.
pub const END_STREAM: u8 = 1;

/// The conversations of the listener at `address`, in the order of their first bytes.
pub fn conversations(calls: &[Call], address: &str) -> BTreeMap<Connection, Conversation> {
    let mut found: BTreeMap<Connection, Conversation> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.result > 0) {
        let Target::Connection(connection) = &call.target else { continue };
        if connection.local != address {
            continue;
        }
        let conversation = found.entry(connection.clone()).or_default();
        if RECEIVES.contains(&call.name.as_str()) {
            conversation.received.add(&call.bytes(), call.end);
        } else if SENDS.contains(&call.name.as_str()) {
            // It may have been sent as soon as the call was entered.
            conversation.sent.add(&call.bytes(), call.begin);
        }
    }
    found
}

impl Conversation {
    pub fn is_http2(&self) -> bool {
        self.received.bytes.starts_with(b"PRI")
    }

    pub fn is_peer(&self) -> bool {
        self.received.bytes.first() == Some(&1)
    }

    /// The frames that the client sent.
    pub fn requests(&self) -> Vec<Frame<'_>> {
        http2(&self.received, PREFACE)
    }

    /// The frames that the node sent.
    pub fn answers(&self) -> Vec<Frame<'_>> {
        http2(&self.sent, 0)
    }

    /// The votes (no pre-votes) that this node granted on this connection, and the lines that sent the answers.
    pub fn granted_votes(&self) -> Vec<(raft::VoteState, usize)> {
        // The handshake is skipped: the byte and two frames in, two frames out.
        let asked: BTreeMap<u64, raft::VoteState> = frames(&self.received, 1)
            .skip(2)
            .filter_map(|(_, frame)| raft::Request::decode(frame).ok())
            .filter_map(|request| match request.body? {
                raft::request::Body::Vote(vote) => Some((request.id, vote.vote?)),
                _ => None,
            })
            .collect();
        frames(&self.sent, 0)
            .skip(2)
            .filter_map(|(line, frame)| {
                let response = raft::Response::decode(frame).ok()?;
                let vote = *asked.get(&response.id)?;
                matches!(response.body?, raft::response::Body::Vote(answer) if answer.granted)
                    .then_some((vote, line))
            })
            .collect()
    }
}

fn http2(stream: &Stream, mut offset: usize) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while let Some(header) = stream.bytes.get(offset..offset + 9) {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let Some(payload) = stream.bytes.get(offset + 9..offset + 9 + length) else { break };
        let id = u32::from_be_bytes([header[5] & 0x7f, header[6], header[7], header[8]]);
        frames.push(Frame {
            line: stream.line(offset),
            kind: header[3],
            flags: header[4],
            stream: id,
            payload,
        });
        offset += 9 + length;
    }
    frames
}

fn frames(stream: &Stream, mut offset: usize) -> impl Iterator<Item = (usize, &[u8])> {
    std::iter::from_fn(move || {
        let header = stream.bytes.get(offset..offset + 4)?;
        let length = u32::from_le_bytes(header.try_into().ok()?) as usize;
        let frame = stream.bytes.get(offset + 4..offset + 4 + length)?;
        let line = stream.line(offset);
        offset += 4 + length;
        Some((line, frame))
    })
}
