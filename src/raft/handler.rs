//! Handles the requests of peers.

use std::future::ready;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::FutureExt;
use mokv_proto::raft::{self as wire, forward_answer, replacement_answer, request, response};
use openraft::alias::SnapshotOf;
use openraft::raft::AppendEntriesResponse;

use super::consensus::{Consensus, ProposeError};
use super::consistency::Claim;
use super::peers::Handler;
use super::peers::frame::MAX_COMMAND_BYTES;
use super::peers::handshake::Dialer;
use super::peers::server::Handling;
use super::state_machine::{SnapshotData, read_meta};
use super::types::{SnapshotMeta, TypeConfig, Vote, log_id};
use super::wire::*;
use super::{reads, types::LogId};
use crate::map::Command;
use crate::rt;
use crate::rt::lock::Mutex;
use crate::storage::{SnapshotReceiver, Snapshots};

/// Handles the requests of peers.
pub struct PeerHandler {
    consensus: Consensus,
    incoming: Arc<Incoming>,
}

impl PeerHandler {
    /// Creates a handler over `consensus`; received snapshots go to `snapshots`.
    pub fn new(consensus: Consensus, snapshots: Snapshots) -> PeerHandler {
        PeerHandler { consensus, incoming: Arc::new(Incoming { snapshots, latest: Mutex::default() }) }
    }
}

/// One connection, and the snapshot that is received on it.
pub struct SnapshotUpload {
    peer: u64,
    transfer: Arc<Transfer>,
}

/// The snapshot that a connection receives; abandoned with the connection.
type Transfer = tokio::sync::Mutex<Option<Receiving>>;

/// The snapshots that peers send. One is received at a time: a new one cancels the one before, whose sender may have
/// disappeared silently, so that its connection never ends.
struct Incoming {
    snapshots: Snapshots,
    latest: Mutex<Weak<Transfer>>,
}

struct Receiving {
    vote: Vote,
    meta: SnapshotMeta,
    receiver: SnapshotReceiver,
}

impl Handler for PeerHandler {
    type Session = SnapshotUpload;

    fn open(&self, peer: &Dialer) -> SnapshotUpload {
        SnapshotUpload { peer: peer.node_id, transfer: Arc::default() }
    }

    fn handle(&self, session: &mut SnapshotUpload, request: request::Body) -> Handling {
        let consensus = self.consensus.clone();
        if !matches!(request, request::Body::Digests(_))
            && let Err(reason) = consensus.uncontradicted()
        {
            return ready(failed(reason)).boxed();
        }
        let raft = consensus.raft().clone();
        match request {
            request::Body::Append(request) => {
                append(consensus, request).map(|answer| answer.unwrap_or_else(response::Body::Failed)).boxed()
            }
            request::Body::Vote(vote) => async move {
                match vote_request_from_wire(vote) {
                    Ok(vote) => match raft.vote(vote).await {
                        Ok(answer) => {
                            if !answer.vote_granted {
                                rt::sometimes("vote refused");
                            }
                            response::Body::Vote(vote_answer_to_wire(&answer, consensus.peers().local().boot))
                        }
                        Err(error) => failed(error),
                    },
                    Err(error) => failed(error),
                }
            }
            .boxed(),
            request::Body::PreVote(vote) => async move {
                match vote_request_from_wire(vote) {
                    Ok(vote) => match raft.pre_vote(vote).await {
                        Ok(answer) => {
                            if !answer.vote_granted {
                                rt::sometimes("pre-vote refused");
                            }
                            response::Body::Vote(vote_answer_to_wire(&answer, consensus.peers().local().boot))
                        }
                        Err(error) => failed(error),
                    },
                    Err(error) => failed(error),
                }
            }
            .boxed(),
            request::Body::Transfer(transfer) => async move {
                match transfer_from_wire(transfer) {
                    // openraft would start an election even though elections are disabled here.
                    Ok(transfer)
                        if *transfer.to_node_id() == consensus.node_id() && consensus.is_doubted() =>
                    {
                        failed("this node's state is doubted, and it must not lead")
                    }
                    Ok(transfer) => match raft.handle_transfer_leader(transfer).await {
                        Ok(outcome) => response::Body::Transfer(wire::TransferAnswer {
                            refused: outcome.err().map(|error| error.to_string()).unwrap_or_default(),
                        }),
                        Err(error) => failed(error),
                    },
                    Err(error) => failed(error),
                }
            }
            .boxed(),
            request::Body::ReadIndex(_) => async move {
                response::Body::ReadIndex(reads::to_wire(consensus.reads().read_index_here().await))
            }
            .boxed(),
            request::Body::Forward(forward) => async move {
                let deadline = rt::now() + consensus.request_timeout();
                let payload = Bytes::copy_from_slice(&forward.payload);
                // A command that this node cannot apply, or one of Raft's own types, must not enter the log: it would
                // stop every node, or be taken for a membership. Neither may one that fits no frame beside other
                // entries, nor a removal that an earlier leader decided: of two deciders each counts on the node that
                // the other removes.
                let is_a_clients = payload.len() <= MAX_COMMAND_BYTES
                    && !Command::is_rafts_own(&payload)
                    && !Command::is_a_tombstone(&payload)
                    && Command::decode(&payload).is_ok();
                let proposed = match is_a_clients {
                    true => consensus.propose_here(payload, deadline).await,
                    false => Err(ProposeError::NotExecuted(
                        "the leader takes no such command from another node".into(),
                    )),
                };
                let outcome = match proposed {
                    Ok(committed) => forward_answer::Outcome::Forwarded(wire::Forwarded {
                        answer: Some(committed.answer.into()),
                        log_id: Some(log_id_to_wire(committed.log_id)),
                        revision: committed.revision,
                    }),
                    Err(ProposeError::NotLeader(leader)) => {
                        forward_answer::Outcome::NotLeader(leader.unwrap_or(0))
                    }
                    Err(ProposeError::NotExecuted(reason)) => forward_answer::Outcome::Refused(reason),
                    Err(ProposeError::Full(reason)) => forward_answer::Outcome::Full(wire::Full { reason }),
                    Err(ProposeError::Unknown(reason)) => forward_answer::Outcome::Unknown(reason),
                };
                response::Body::Forward(wire::ForwardAnswer { outcome: Some(outcome) })
            }
            .boxed(),
            request::Body::Digests(_) => async move {
                let digests = (consensus.store().digests().into_iter())
                    .map(|(index, digest)| wire::DigestAt {
                        index,
                        digest: digest.to_be_bytes().to_vec().into(),
                    })
                    .collect();
                response::Body::Digests(wire::DigestsAnswer { digests })
            }
            .boxed(),
            request::Body::Admission(_) => ready(response::Body::Admission(wire::AdmissionAnswer {
                refused: consensus.refusal(session.peer),
            }))
            .boxed(),
            request::Body::Replacement(_) => {
                let asker = session.peer;
                async move { response::Body::Replacement(replacement(&consensus, asker).await) }.boxed()
            }
            request::Body::SnapshotBegin(begin) => {
                let (transfer, incoming) = (session.transfer.clone(), self.incoming.clone());
                async move {
                    match begin_snapshot(&consensus, &incoming, &transfer, begin).await {
                        Ok(()) => response::Body::Done(wire::Done {}),
                        Err(reason) => response::Body::Failed(reason),
                    }
                }
                .boxed()
            }
            request::Body::SnapshotChunk(chunk) => {
                let transfer = session.transfer.clone();
                async move {
                    let mut transfer = transfer.lock().await;
                    let Some(begun) = transfer.as_mut() else { return no_snapshot() };
                    match begun.receiver.write_chunk(chunk.offset, chunk.data).await {
                        Ok(()) => response::Body::Done(wire::Done {}),
                        Err(error) => {
                            *transfer = None;
                            failed(error)
                        }
                    }
                }
                .boxed()
            }
            request::Body::SnapshotEnd(_) => {
                let transfer = session.transfer.clone();
                async move {
                    let Some(begun) = transfer.lock().await.take() else { return no_snapshot() };
                    match end_snapshot(&consensus, begun).await {
                        Ok(vote) => {
                            response::Body::Snapshot(wire::SnapshotAnswer { vote: Some(vote_to_wire(&vote)) })
                        }
                        Err(reason) => response::Body::Failed(reason),
                    }
                }
                .boxed()
            }
        }
    }
}

/// Whether a peer whose data is damaged may start over.
async fn replacement(consensus: &Consensus, asker: u64) -> wire::ReplacementAnswer {
    let outcome = match consensus.is_leader() {
        false => replacement_answer::Outcome::NotLeader(consensus.leader().unwrap_or(0)),
        true => match consensus.may_start_over(asker).await {
            Ok(()) => replacement_answer::Outcome::Confirmed(wire::Done {}),
            Err(reason) => replacement_answer::Outcome::Refused(reason),
        },
    };
    wire::ReplacementAnswer { outcome: Some(outcome) }
}

/// Appends what a leader sent, unless it contradicts this node's committed log.
async fn append(consensus: Consensus, mut request: wire::AppendEntries) -> Result<response::Body, String> {
    let acknowledged = std::mem::take(&mut request.acknowledged);
    let request = append_from_wire(request).map_err(|error| error.to_string())?;
    let claim = Claim::of_append(&request);
    consensus.check(&claim)?;
    let committed = request.leader_commit.map_or(0, |id| id.index);
    let answer = consensus.raft().append_entries(request).await.map_err(|error| error.to_string())?;
    // Entries that were committed while this append waited in openraft's queue were not compared before.
    if matches!(answer, AppendEntriesResponse::Success) && consensus.denies(&claim) {
        return Err("this node's log has other entries than those that were sent".into());
    }
    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
        consensus.leader_spoke(committed);
        consensus.hear_of_acknowledged(acknowledged);
    }
    let boot = consensus.peers().local().boot;
    Ok(response::Body::Append(append_answer_to_wire(answer, consensus.condition(), boot)))
}

fn failed(error: impl ToString) -> response::Body {
    response::Body::Failed(error.to_string())
}

fn no_snapshot() -> response::Body {
    response::Body::Failed("no snapshot is being received on this connection".into())
}

async fn begin_snapshot(
    consensus: &Consensus,
    incoming: &Incoming,
    transfer: &Arc<Transfer>,
    begin: wire::SnapshotBegin,
) -> Result<(), String> {
    let vote = vote_from_wire(begin.vote).map_err(|error| error.to_string())?;
    let wire_meta = begin.meta.ok_or("the snapshot has no description")?;
    let (meta, _) = snapshot_meta_from_wire(&wire_meta).map_err(|error| error.to_string())?;
    consensus.check(&Claim::of_snapshot(vote, &meta))?;
    incoming.give_up_the_one_before(transfer).await;
    let at: LogId = log_id(wire_meta.term, wire_meta.index);
    let received = incoming.snapshots.receive(position(at), begin.bytes).await;
    let receiver = received.map_err(|error| error.to_string())?;
    let mut place = transfer.lock().await;
    if !incoming.is_latest(transfer) {
        receiver.abandon().await;
        return Err("another snapshot was begun since".into());
    }
    *place = Some(Receiving { vote, meta, receiver });
    Ok(())
}

impl Incoming {
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

/// Checks the whole file, then lets openraft truncate what conflicts and install it.
async fn end_snapshot(consensus: &Consensus, begun: Receiving) -> Result<Vote, String> {
    let Receiving { vote, meta, receiver } = begun;
    let received = receiver.verify().await.map_err(|error| error.to_string())?;
    let reader = received.reader().await.map_err(|error| error.to_string())?;
    let (written_meta, _) = read_meta(reader.header()).map_err(|error| error.to_string())?;
    if written_meta != meta {
        return Err("the snapshot's file and its announcement differ".into());
    }
    // More may be committed here now than when the transfer began.
    consensus.check(&Claim::of_snapshot(vote, &meta))?;
    let snapshot =
        SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot: SnapshotData::Received(received) };
    let answer =
        consensus.raft().install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())?;
    Ok(answer.vote)
}
