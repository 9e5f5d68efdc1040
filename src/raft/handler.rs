//! What this node does for its peers.

use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use mokv_proto::raft::{self as wire, forward_answer, request, response};
use openraft::alias::SnapshotOf;
use openraft::raft::AppendEntriesResponse;

use super::consensus::{Consensus, ProposeError};
use super::consistency::Claim;
use super::peers::Handler;
use super::peers::hello::Dialer;
use super::peers::server::Handling;
use super::state_machine::{SnapshotData, read_meta};
use super::types::{SnapshotMeta, TypeConfig, Vote, log_id};
use super::wire::*;
use super::{reads, types::LogId};
use crate::map::Command;
use crate::planted;
use crate::rt;
use crate::storage::{SnapshotReceiver, Snapshots};

/// Serves peers.
pub struct PeerHandler {
    /// The node's share of the consensus.
    pub consensus: Consensus,
    /// Where received snapshots go.
    pub snapshots: Snapshots,
}

/// One connection's snapshot under way.
pub struct Session {
    peer: u64,
    receiving: Arc<tokio::sync::Mutex<Option<Receiving>>>,
}

struct Receiving {
    vote: Vote,
    meta: SnapshotMeta,
    receiver: SnapshotReceiver,
}

impl Handler for PeerHandler {
    type Session = Session;

    fn open(&self, peer: &Dialer) -> Session {
        Session { peer: peer.node_id, receiving: Arc::default() }
    }

    fn handle(&self, session: &mut Session, request: request::Body) -> Handling {
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
                            response::Body::Vote(vote_answer_to_wire(&answer, consensus.peers().me().boot))
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
                            response::Body::Vote(vote_answer_to_wire(&answer, consensus.peers().me().boot))
                        }
                        Err(error) => failed(error),
                    },
                    Err(error) => failed(error),
                }
            }
            .boxed(),
            request::Body::Transfer(transfer) => async move {
                match transfer_from_wire(transfer) {
                    // openraft would elect it, whatever it was told of elections.
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
                if planted::is("follower-reads-unconfirmed")
                    && consensus.is_leader()
                    && let Some(applied) = consensus.store().read().applied
                {
                    return response::Body::ReadIndex(reads::to_wire(Ok(applied)));
                }
                response::Body::ReadIndex(reads::to_wire(consensus.reads().read_index_here().await))
            }
            .boxed(),
            request::Body::Forward(forward) => async move {
                let deadline = rt::now() + consensus.request_timeout();
                let payload = Bytes::copy_from_slice(&forward.payload);
                // What this node could not apply, or what is Raft's own to say, must not get into the log: it would
                // stop every node, or pass for a membership.
                let is_a_clients = !Command::is_rafts_own(&payload) && Command::decode(&payload).is_ok();
                let proposed = match is_a_clients {
                    true => consensus.propose_here(payload, deadline).await,
                    false => Err(ProposeError::NotExecuted("the leader does not know such a command".into())),
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
            request::Body::SnapshotBegin(begin) => {
                let (receiving, snapshots) = (session.receiving.clone(), self.snapshots.clone());
                async move {
                    let mut receiving = receiving.lock().await;
                    *receiving = None;
                    match begin_snapshot(&consensus, &snapshots, begin).await {
                        Ok(begun) => {
                            *receiving = Some(begun);
                            response::Body::Done(wire::Done {})
                        }
                        Err(reason) => response::Body::Failed(reason),
                    }
                }
                .boxed()
            }
            request::Body::SnapshotChunk(chunk) => {
                let receiving = session.receiving.clone();
                async move {
                    let mut receiving = receiving.lock().await;
                    let Some(begun) = receiving.as_mut() else { return no_snapshot() };
                    match begun.receiver.write_chunk(chunk.offset, chunk.data).await {
                        Ok(()) => response::Body::Done(wire::Done {}),
                        Err(error) => {
                            *receiving = None;
                            failed(error)
                        }
                    }
                }
                .boxed()
            }
            request::Body::SnapshotEnd(_) => {
                let receiving = session.receiving.clone();
                async move {
                    let Some(begun) = receiving.lock().await.take() else { return no_snapshot() };
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

/// Appends what a leader sent, unless it contradicts what this node knows to be committed.
async fn append(consensus: Consensus, mut request: wire::AppendEntries) -> Result<response::Body, String> {
    let acknowledged = std::mem::take(&mut request.acknowledged);
    let request = append_from_wire(request).map_err(|error| error.to_string())?;
    let claim = Claim::of_append(&request);
    consensus.check(&claim)?;
    let committed = request.leader_commit.map_or(0, |id| id.index);
    let answer = consensus.raft().append_entries(request).await.map_err(|error| error.to_string())?;
    // What was committed while this waited in openraft's queue was not compared before.
    if matches!(answer, AppendEntriesResponse::Success) && consensus.denies(&claim) {
        return Err("this node's log has other entries than those that were sent".into());
    }
    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
        consensus.leader_spoke(committed);
        consensus.hear_of_acknowledged(acknowledged);
    }
    let boot = consensus.peers().me().boot;
    Ok(response::Body::Append(append_answer_to_wire(answer, consensus.condition(), boot)))
}

fn failed(error: impl ToString) -> response::Body {
    response::Body::Failed(error.to_string())
}

fn no_snapshot() -> response::Body {
    response::Body::Failed("no snapshot was begun on this connection".into())
}

async fn begin_snapshot(
    consensus: &Consensus,
    snapshots: &Snapshots,
    begin: wire::SnapshotBegin,
) -> Result<Receiving, String> {
    let vote = vote_from_wire(begin.vote).map_err(|error| error.to_string())?;
    let wire_meta = begin.meta.ok_or("the snapshot has no description")?;
    let (meta, _) = snapshot_meta_from_wire(&wire_meta).map_err(|error| error.to_string())?;
    consensus.check(&Claim::of_snapshot(vote, &meta))?;
    let at: LogId = log_id(wire_meta.term, wire_meta.index);
    let receiver = snapshots.receive(position(at), begin.bytes).await.map_err(|error| error.to_string())?;
    Ok(Receiving { vote, meta, receiver })
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
    // More may be committed here than when it was begun.
    consensus.check(&Claim::of_snapshot(vote, &meta))?;
    let snapshot =
        SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot: SnapshotData::Received(received) };
    let answer =
        consensus.raft().install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())?;
    Ok(answer.vote)
}
