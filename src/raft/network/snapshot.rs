//! Sends a snapshot to a peer.

use std::time::Duration;

use mokv_proto::raft::{self as wire, request::Body as Request, response::Body as Response};
use openraft::alias::SnapshotOf;
use openraft::errors::RPCError;
use openraft::raft::SnapshotResponse;

use super::super::state_machine::SnapshotData;
use super::super::types::{TypeConfig, Vote};
use super::super::wire::*;
use super::{Client, broken, call, unexpected, unreachable};

/// Bytes of a snapshot in one message.
const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// A snapshot transfer fails if a message has no answer for this long. The last message is answered after the
/// installation.
const SNAPSHOT_STEP_TIMEOUT: Duration = Duration::from_secs(30);

impl Client {
    /// Sends a snapshot chunk by chunk; each is answered before the next is sent, so that memory stays bounded on
    /// both sides.
    pub(super) async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
    ) -> Result<SnapshotResponse<TypeConfig>, RPCError<TypeConfig>> {
        if self.doubt.is_there() {
            return Err(unreachable("this node's state is doubted, and it sends no snapshot of it"));
        }
        let SnapshotData::Kept(reader) = snapshot.snapshot else {
            return Err(broken("a snapshot that is still being installed is not sent on"));
        };
        let begin = wire::SnapshotBegin {
            vote: Some(vote_to_wire(&vote)),
            meta: Some(prost::Message::decode(reader.header().clone()).map_err(unreachable)?),
            bytes: reader.total_bytes(),
        };
        match call(&self.snapshot, Request::SnapshotBegin(begin), SNAPSHOT_STEP_TIMEOUT).await? {
            Response::Done(_) => {}
            // The peer has a higher vote: no chunk is sent.
            Response::Snapshot(answer) => {
                return Ok(SnapshotResponse::new(vote_from_wire(answer.vote).map_err(broken)?));
            }
            other => return Err(unexpected(other)),
        }
        let mut offset = 0;
        while offset < reader.total_bytes() {
            let data = reader.read_chunk(offset, SNAPSHOT_CHUNK_BYTES).await.map_err(unreachable)?;
            if data.is_empty() {
                return Err(unreachable("the snapshot file is shorter than it was"));
            }
            let length = data.len() as u64;
            let chunk = Request::SnapshotChunk(wire::SnapshotChunk { offset, data });
            match call(&self.snapshot, chunk, SNAPSHOT_STEP_TIMEOUT).await? {
                Response::Done(_) => offset += length,
                other => return Err(unexpected(other)),
            }
        }
        match call(&self.snapshot, Request::SnapshotEnd(wire::SnapshotEnd {}), SNAPSHOT_STEP_TIMEOUT).await? {
            Response::Snapshot(answer) => {
                Ok(SnapshotResponse::new(vote_from_wire(answer.vote).map_err(broken)?))
            }
            other => Err(unexpected(other)),
        }
    }
}
