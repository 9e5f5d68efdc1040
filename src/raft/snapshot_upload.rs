//! Receives the snapshots that a leader sends: a description, the file chunk by chunk, and its end.

use std::sync::{Arc, Weak};

use mokv_proto::raft::{self as wire, response::Body as Response};
use openraft::alias::SnapshotOf;

use super::consensus::Consensus;
use super::consistency::Claim;
use super::snapshot::read_meta;
use super::state_machine::SnapshotData;
use super::types::{LogId, SnapshotMeta, TypeConfig, Vote, log_id};
use super::wire::*;
use crate::rt::lock::Mutex;
use crate::storage::{SnapshotReceiver, Snapshots};

/// The snapshots that peers send. One is received at a time: a new one cancels the one before, whose sender may have
/// disappeared silently, so that its connection never ends.
pub struct Incoming {
    snapshots: Snapshots,
    latest: Mutex<Weak<Transfer>>,
}

/// The snapshot that a connection receives; abandoned with the connection.
type Transfer = tokio::sync::Mutex<Option<Receiving>>;

struct Receiving {
    vote: Vote,
    meta: SnapshotMeta,
    receiver: SnapshotReceiver,
}

impl Incoming {
    /// Received files go to `snapshots`.
    pub fn new(snapshots: Snapshots) -> Incoming {
        Incoming { snapshots, latest: Mutex::default() }
    }

    fn is_latest(&self, transfer: &Arc<Transfer>) -> bool {
        self.latest.lock().as_ptr() == Arc::as_ptr(transfer)
    }

    async fn give_up_the_one_before(&self, next: &Arc<Transfer>) {
        let before = std::mem::replace(&mut *self.latest.lock(), Arc::downgrade(next)).upgrade();
        // This connection's own transfer is no longer the latest if another connection began one after it.
        for transfer in before.iter().chain([next]) {
            let begun = transfer.lock().await.take();
            if let Some(begun) = begun {
                begun.receiver.abandon().await;
            }
        }
    }
}

/// What one connection receives of a snapshot. Clones are handles of the same upload.
#[derive(Clone)]
pub struct SnapshotUpload {
    consensus: Consensus,
    incoming: Arc<Incoming>,
    transfer: Arc<Transfer>,
}

impl SnapshotUpload {
    /// The upload of a new connection: nothing is received yet.
    pub fn new(consensus: Consensus, incoming: Arc<Incoming>) -> SnapshotUpload {
        SnapshotUpload { consensus, incoming, transfer: Arc::default() }
    }

    /// Begins a file, unless this node's committed log contradicts the snapshot.
    ///
    /// # Errors
    /// The reason, if it was not begun.
    pub async fn begin(self, begin: wire::SnapshotBegin) -> Result<Response, String> {
        let vote = vote_from_wire(begin.vote).map_err(text)?;
        let wire_meta = begin.meta.ok_or("the snapshot has no description")?;
        let (meta, _) = snapshot_meta_from_wire(&wire_meta).map_err(text)?;
        self.consensus.check(&Claim::of_snapshot(vote, &meta))?;
        self.incoming.give_up_the_one_before(&self.transfer).await;
        let at: LogId = log_id(wire_meta.term, wire_meta.index);
        let receiver = self.incoming.snapshots.receive(position(at), begin.bytes).await.map_err(text)?;
        let mut place = self.transfer.lock().await;
        if !self.incoming.is_latest(&self.transfer) {
            receiver.abandon().await;
            return Err("another snapshot was begun since".into());
        }
        *place = Some(Receiving { vote, meta, receiver });
        Ok(Response::Done(wire::Done {}))
    }

    /// Writes the next chunk. A chunk that cannot be written ends the upload.
    ///
    /// # Errors
    /// The reason, if it was not written.
    pub async fn write(self, chunk: wire::SnapshotChunk) -> Result<Response, String> {
        let mut transfer = self.transfer.lock().await;
        let begun = transfer.as_mut().ok_or(NOT_BEGUN)?;
        if let Err(error) = begun.receiver.write_chunk(chunk.offset, chunk.data).await {
            *transfer = None;
            return Err(text(error));
        }
        Ok(Response::Done(wire::Done {}))
    }

    /// Checks the whole file, then lets openraft truncate what conflicts and install it.
    ///
    /// # Errors
    /// The reason, if it was not installed.
    pub async fn end(self) -> Result<Response, String> {
        let begun = self.transfer.lock().await.take();
        let Receiving { vote, meta, receiver } = begun.ok_or(NOT_BEGUN)?;
        let received = receiver.verify().await.map_err(text)?;
        let reader = received.reader().await.map_err(text)?;
        let (written_meta, _) = read_meta(reader.header()).map_err(text)?;
        if written_meta != meta {
            return Err("the snapshot's file and its announcement differ".into());
        }
        // More may be committed here now than when the transfer began.
        self.consensus.check(&Claim::of_snapshot(vote, &meta))?;
        let snapshot =
            SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot: SnapshotData::Received(received) };
        let answer = self.consensus.raft().install_full_snapshot(vote, snapshot).await.map_err(text)?;
        Ok(Response::Snapshot(wire::SnapshotAnswer { vote: Some(vote_to_wire(&answer.vote)) }))
    }
}

const NOT_BEGUN: &str = "no snapshot is being received on this connection";
