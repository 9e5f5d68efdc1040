//! Handles the requests of peers.

use std::future::{Future, ready};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use mokv_proto::raft::{
    self as wire, forward_answer, replacement_answer, request::Body as Request, response::Body as Response,
};
use openraft::raft::{AppendEntriesResponse, VoteResponse};

use super::consensus::{Consensus, ProposeError};
use super::consistency::Claim;
use super::peers::frame::MAX_COMMAND_BYTES;
use super::peers::server::Handling;
use super::peers::{Dialer, Handler};
use super::reads;
use super::snapshot_upload::{Incoming, SnapshotUpload};
use super::types::TypeConfig;
use super::wire::*;
use crate::map::Command;
use crate::node_id::NodeId;
use crate::rt;
use crate::storage::Snapshots;

/// Handles the requests of peers.
pub struct PeerHandler {
    consensus: Consensus,
    incoming: Arc<Incoming>,
}

impl PeerHandler {
    /// Creates a handler over `consensus`; received snapshots go to `snapshots`.
    pub fn new(consensus: Consensus, snapshots: Snapshots) -> PeerHandler {
        PeerHandler { consensus, incoming: Arc::new(Incoming::new(snapshots)) }
    }
}

/// One connection of a peer.
pub struct Session {
    peer: NodeId,
    upload: SnapshotUpload,
}

impl Handler for PeerHandler {
    type Session = Session;

    fn open(&self, peer: &Dialer) -> Session {
        let upload = SnapshotUpload::new(self.consensus.clone(), self.incoming.clone());
        Session { peer: peer.node_id, upload }
    }

    fn handle(&self, session: &mut Session, request: Request) -> Handling {
        if !matches!(request, Request::Digests(_))
            && let Err(reason) = self.consensus.uncontradicted()
        {
            return ready(Response::Failed(reason)).boxed();
        }
        let consensus = self.consensus.clone();
        match request {
            Request::Append(request) => answer(append(consensus, request)),
            Request::Vote(request) => answer(vote(consensus, request)),
            Request::PreVote(request) => answer(pre_vote(consensus, request)),
            Request::Transfer(request) => answer(transfer(consensus, request)),
            Request::ReadIndex(_) => answer(read_index(consensus)),
            Request::Forward(request) => answer(forward(consensus, request)),
            Request::Digests(_) => answer(digests(consensus)),
            Request::Admission(_) => answer(admission(consensus, session.peer)),
            Request::Replacement(_) => answer(replacement(consensus, session.peer)),
            Request::SnapshotBegin(begin) => answer(session.upload.clone().begin(begin)),
            Request::SnapshotChunk(chunk) => answer(session.upload.clone().write(chunk)),
            Request::SnapshotEnd(_) => answer(session.upload.clone().end()),
        }
    }
}

/// Makes an error the answer that reports it.
fn answer(handling: impl Future<Output = Result<Response, String>> + Send + 'static) -> Handling {
    handling.map(|answer| answer.unwrap_or_else(Response::Failed)).boxed()
}

/// Appends what a leader sent, unless it contradicts this node's committed log.
async fn append(consensus: Consensus, mut request: wire::AppendEntries) -> Result<Response, String> {
    let acknowledged = std::mem::take(&mut request.acknowledged);
    let request = append_from_wire(request).map_err(text)?;
    let claim = Claim::of_append(&request);
    consensus.check(&claim)?;
    let committed = request.leader_commit.map_or(0, |id| id.index);
    let answer = consensus.raft().append_entries(request).await.map_err(text)?;
    // Entries that were committed while this append waited in openraft's queue were not compared before.
    if matches!(answer, AppendEntriesResponse::Success) && consensus.denies(&claim) {
        return Err("this node's log has other entries than those that were sent".into());
    }
    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
        consensus.leader_spoke(committed);
        consensus.record_acknowledged(acknowledged);
    }
    let boot = consensus.peers().local().boot;
    Ok(Response::Append(append_answer_to_wire(answer, consensus.condition(), boot)))
}

async fn vote(consensus: Consensus, request: wire::Vote) -> Result<Response, String> {
    let answer = consensus.raft().vote(vote_request_from_wire(request).map_err(text)?).await.map_err(text)?;
    if !answer.vote_granted {
        rt::sometimes("vote refused");
    }
    Ok(vote_answer(&consensus, &answer))
}

async fn pre_vote(consensus: Consensus, request: wire::Vote) -> Result<Response, String> {
    let answer =
        consensus.raft().pre_vote(vote_request_from_wire(request).map_err(text)?).await.map_err(text)?;
    if !answer.vote_granted {
        rt::sometimes("pre-vote refused");
    }
    Ok(vote_answer(&consensus, &answer))
}

fn vote_answer(consensus: &Consensus, answer: &VoteResponse<TypeConfig>) -> Response {
    Response::Vote(vote_answer_to_wire(answer, consensus.peers().local().boot))
}

async fn transfer(consensus: Consensus, request: wire::TransferLeader) -> Result<Response, String> {
    let request = transfer_from_wire(request).map_err(text)?;
    // openraft would start an election even though elections are disabled here.
    if *request.to_node_id() == consensus.node_id() && consensus.is_doubted() {
        return Err("this node's state is doubted, and it must not lead".into());
    }
    let outcome = consensus.raft().handle_transfer_leader(request).await.map_err(text)?;
    Ok(Response::Transfer(wire::TransferAnswer { refused: outcome.err().map(text).unwrap_or_default() }))
}

async fn read_index(consensus: Consensus) -> Result<Response, String> {
    Ok(Response::ReadIndex(reads::to_wire(consensus.reads().read_index_here().await)))
}

/// Proposes a client's command that another node received.
async fn forward(consensus: Consensus, request: wire::Forward) -> Result<Response, String> {
    let deadline = rt::now() + consensus.request_timeout();
    let payload = Bytes::copy_from_slice(&request.payload);
    let proposed = match may_be_forwarded(&payload) {
        true => consensus.propose_here(payload, deadline).await,
        false => {
            Err(ProposeError::NotExecuted("the leader accepts no such command from another node".into()))
        }
    };
    let outcome = match proposed {
        Ok(committed) => forward_answer::Outcome::Forwarded(wire::Forwarded {
            answer: Some(committed.answer.into()),
            log_id: Some(log_id_to_wire(committed.log_id)),
            revision: committed.revision,
        }),
        Err(ProposeError::NotLeader(leader)) => forward_answer::Outcome::NotLeader(leader_to_wire(leader)),
        Err(ProposeError::NotExecuted(reason)) => forward_answer::Outcome::Refused(reason),
        Err(ProposeError::Full(reason)) => forward_answer::Outcome::Full(wire::Full { reason }),
        Err(ProposeError::Unknown(reason)) => forward_answer::Outcome::Unknown(reason),
    };
    Ok(Response::Forward(wire::ForwardAnswer { outcome: Some(outcome) }))
}

/// Returns `true` for a client's command. A command that this node cannot apply, or one of Raft's own types, must not
/// enter the log: it would stop every node, or be taken for a membership. Neither may one that fits no frame beside
/// other entries, nor a removal that an earlier leader decided: of two deciders each counts on the node that the other
/// removes.
fn may_be_forwarded(payload: &Bytes) -> bool {
    payload.len() <= MAX_COMMAND_BYTES
        && !Command::is_rafts_own(payload)
        && !Command::is_a_tombstone(payload)
        && Command::decode(payload).is_ok()
}

async fn digests(consensus: Consensus) -> Result<Response, String> {
    let digests = consensus.store().digests().into_iter();
    let digests = digests
        .map(|(index, digest)| wire::DigestAt { index, digest: digest.to_be_bytes().to_vec().into() })
        .collect();
    Ok(Response::Digests(wire::DigestsAnswer { digests }))
}

async fn admission(consensus: Consensus, newcomer: NodeId) -> Result<Response, String> {
    Ok(Response::Admission(wire::AdmissionAnswer { refused: consensus.refusal(newcomer) }))
}

/// Answers whether a peer whose data is damaged may start over.
async fn replacement(consensus: Consensus, damaged: NodeId) -> Result<Response, String> {
    let outcome = match consensus.is_leader() {
        false => replacement_answer::Outcome::NotLeader(leader_to_wire(consensus.leader())),
        true => match consensus.may_start_over(damaged).await {
            Ok(()) => replacement_answer::Outcome::Confirmed(wire::Done {}),
            Err(reason) => replacement_answer::Outcome::Refused(reason),
        },
    };
    Ok(Response::Replacement(wire::ReplacementAnswer { outcome: Some(outcome) }))
}
