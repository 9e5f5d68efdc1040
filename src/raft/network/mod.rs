//! openraft's network, over the links to peers.

mod append;
mod pipeline;
mod snapshot;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt};
use mokv_proto::raft::{Channel, request::Body as Request, response::Body as Response};
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::doubt::Doubt;
use super::peers::{CallError, Link, Peers};
use super::state_machine::SnapshotData;
use super::types::{Member, TypeConfig, Vote};
use super::wire::*;
use crate::node_id::NodeId;
use crate::rt::{self, timeout};
use crate::storage::Log;

use append::Appender;
use pipeline::Pipeline;

/// Creates openraft's clients, one for each peer.
#[derive(Clone)]
pub struct Network {
    /// Links to all peers.
    pub peers: Arc<Peers>,
    /// This node's own log; how far it is durable is sent to peers.
    pub log: Log,
    /// Whether this node's state is doubted: no snapshot of it is sent then.
    pub doubt: Doubt,
}

impl Network {
    fn client(&self, target: NodeId, append_channel: Channel) -> Client {
        Client {
            control: self.peers.link(target, Channel::Control),
            append: self.peers.link(target, append_channel),
            snapshot: self.peers.link(target, Channel::Snapshot),
            doubt: self.doubt.clone(),
            appender: Appender::new(self.peers.clone(), self.log.clone(), target),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Client {
        self.peers.introduce(target, &node.name, &node.rpc_addr);
        self.client(target, Channel::Log)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Member) -> Client {
        self.peers.introduce(target, &node.name, &node.rpc_addr);
        // Heartbeats are appends without entries; they never queue behind entries.
        self.client(target, Channel::Control)
    }
}

/// openraft's client of one peer.
pub struct Client {
    control: Arc<Link>,
    append: Arc<Link>,
    snapshot: Arc<Link>,
    doubt: Doubt,
    appender: Appender,
}

/// Connecting failed: openraft backs off.
fn unreachable(reason: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

/// The connection broke: openraft tries again at once.
fn broken(reason: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(reason))
}

fn call_failed(error: CallError) -> RPCError<TypeConfig> {
    match error {
        CallError::NotSent(_) => unreachable(error),
        CallError::Unanswered(_) => broken(error),
    }
}

/// The error for an answer of another type than the request calls for.
fn unexpected(answer: Response) -> RPCError<TypeConfig> {
    match answer {
        Response::Failed(reason) => unreachable(reason),
        _ => broken("the peer's answer is to another kind of request"),
    }
}

async fn call(
    link: &Arc<Link>,
    request: Request,
    within: Duration,
) -> Result<Response, RPCError<TypeConfig>> {
    match timeout(within, link.call(request)).await {
        Ok(answer) => answer.map_err(call_failed),
        Err(_) => Err(unreachable(format!("no answer within {within:?}"))),
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (append, sent) = self.appender.append(&request);
        let answer = call(&self.append, append, option.hard_ttl()).await?;
        sent.process_answer(answer, &mut self.appender)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let pipeline = Pipeline::new(self.append.clone(), &mut self.appender, input);
        async move { Ok(pipeline.answers().boxed()) }.boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match call(&self.control, Request::Vote(vote_request_to_wire(&request)), option.hard_ttl()).await? {
            Response::Vote(answer) => {
                let (boot, granted) = (answer.boot, answer.granted);
                let answer = vote_answer_from_wire(answer).map_err(broken)?;
                if granted {
                    self.appender.granted(boot, request.vote.leader_id.term);
                }
                Ok(answer)
            }
            other => Err(unexpected(other)),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match call(&self.control, Request::PreVote(vote_request_to_wire(&request)), option.hard_ttl()).await?
        {
            Response::Vote(answer) => vote_answer_from_wire(answer).map_err(broken),
            other => Err(unexpected(other)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match call(&self.control, Request::Transfer(transfer_to_wire(&request)), option.hard_ttl()).await? {
            Response::Transfer(answer) if answer.refused.is_empty() => Ok(Ok(())),
            Response::Transfer(answer) => Err(broken(answer.refused)),
            other => Err(unexpected(other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => {
                rt::sometimes("snapshot transfer interrupted");
                Err(StreamingError::Closed(closed))
            }
            sent = self.send_snapshot(vote, snapshot) => {
                if sent.is_err() {
                    rt::sometimes("snapshot transfer interrupted");
                }
                sent.map_err(StreamingError::from)
            }
        }
    }
}
