//! openraft's network, over the links to peers.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt};
use mokv_proto::raft::{self as wire, Channel, request::Body as Request, response::Body as Response};
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::doubt::Doubt;
use super::peers::{CallError, FollowerState, Link, Peers};
use super::state_machine::SnapshotData;
use super::types::{LogId, Member, TypeConfig, Vote};
use super::wire::*;
use crate::node_id::NodeId;
use crate::positions::{Acknowledgement, Reach, Told};
use crate::rt::time::InactivityTimer;
use crate::rt::{self, timeout};
use crate::storage::Log;

/// The in-flight window: appends sent but not answered on one replication stream. A larger one only lengthens queues:
/// a batch grows while the window is full.
const APPEND_WINDOW: usize = 4;
/// A replication stream that receives no answer for this long fails. Large entries on slow links need more than a
/// heartbeat interval.
const NO_PROGRESS: Duration = Duration::from_secs(3);
/// Bytes of a snapshot in one message.
const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// A snapshot transfer fails if a message has no answer for this long. The last message is answered after the
/// installation.
const SNAPSHOT_STEP_TIMEOUT: Duration = Duration::from_secs(30);

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
    fn client(&self, target: u64, append_channel: Channel) -> Client {
        Client {
            control: self.peers.link(target, Channel::Control),
            append: self.peers.link(target, append_channel),
            snapshot: self.peers.link(target, Channel::Snapshot),
            doubt: self.doubt.clone(),
            teller: Teller {
                peers: self.peers.clone(),
                log: self.log.clone(),
                target,
                told: Told::default(),
            },
        }
    }
}

/// Adds to the appends for one peer how far members have acknowledged. Positions that the peer has not confirmed are
/// sent again with the next append.
struct Teller {
    peers: Arc<Peers>,
    log: Log,
    target: u64,
    told: Told,
}

impl Teller {
    /// Returns an append with the positions that are new to the peer.
    fn append(&self, request: &AppendEntriesRequest<TypeConfig>) -> (Request, Sent) {
        let me = self.peers.local();
        let durable = self.log.durable();
        let mut positions = self.peers.positions();
        if let Some(durable) = durable {
            // An entry is durable after the vote for the leader that made it, and no leader of that term truncates it.
            let upto = Reach { term: durable.term, index: Some(durable.index) };
            positions.remember(me.node_id, Acknowledgement { boot: me.boot, upto });
        }
        let news = positions.news(self.told.version(), self.target);
        let sent = Sent::of(request, positions.version());
        drop(positions);
        (Request::Append(append_to_wire(request, news)), sent)
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &Member) -> Client {
        self.peers.introduce(target, &node.name, &node.rpc_addr);
        self.client(target, Channel::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Client {
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
    teller: Teller,
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
        _ => broken("the peer answered another question"),
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
        let (append, sent) = self.teller.append(&request);
        let answer = call(&self.append, append, option.hard_ttl()).await?;
        sent.hear(answer, &mut self.teller)
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
        let pipeline = Pipeline {
            link: self.append.clone(),
            teller: &mut self.teller,
            input,
            input_ended: false,
            unanswered: VecDeque::new(),
            inactivity: InactivityTimer::new(NO_PROGRESS),
        };
        // The stream must end once its input has ended and every request is answered: openraft sends a heartbeat as
        // a stream of one and waits for that end.
        let answers = futures_util::stream::unfold(Some(pipeline), |pipeline| async move {
            let mut pipeline = pipeline?;
            match pipeline.next().await {
                Ok(None) => None,
                Ok(Some(Ok(matching))) => Some((Ok(Ok(matching)), Some(pipeline))),
                // All later appends meet the same conflict.
                Ok(Some(Err(rejected))) => Some((Ok(Err(rejected)), None)),
                Err(error) => Some((Err(error), None)),
            }
        });
        async move { Ok(answers.boxed()) }.boxed()
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
                    self.teller.peers.granted(self.teller.target, boot, request.vote.leader_id.term);
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

impl Client {
    /// Sends a snapshot chunk by chunk; each is answered before the next is sent, so that memory stays bounded on
    /// both sides.
    async fn send_snapshot(
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

type Answer = Pin<Box<dyn Future<Output = Result<Response, CallError>> + Send>>;

/// What is kept of an append that was sent, to interpret its answer.
struct Sent {
    term: u64,
    previous: Option<LogId>,
    last: Option<LogId>,
    /// It carried all positions up to this version.
    version: u64,
}

impl Sent {
    fn of(request: &AppendEntriesRequest<TypeConfig>, version: u64) -> Sent {
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        Sent { term: request.vote.leader_id.term, previous, last, version }
    }

    /// Returns a follower's answer for openraft, and records what it reports. If a follower denies an entry that it
    /// acknowledged to this leader, an error is returned instead: its disk has lost synced data, and counting on it
    /// again could lose a committed entry.
    fn hear(
        &self,
        answer: Response,
        teller: &mut Teller,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = match answer {
            Response::Append(answer) => answer,
            other => return Err(unexpected(other)),
        };
        let Teller { peers, target, told, .. } = teller;
        let follower = *target;
        let condition = FollowerState { disk_full: answer.disk_full, is_doubted: answer.doubted };
        peers.report(follower, self.term, condition);
        let boot = answer.boot;
        let answer = append_answer_from_wire(answer).map_err(broken)?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            told.heard(boot, self.version);
        }
        match &answer {
            AppendEntriesResponse::Success => self.acknowledged(self.last, peers, follower, boot),
            AppendEntriesResponse::PartialSuccess(upto) => self.acknowledged(*upto, peers, follower, boot),
            AppendEntriesResponse::HigherVote(_) => {}
            AppendEntriesResponse::Conflict => {
                let index = self.previous.ok_or_else(|| broken("a conflict before the first entry"))?.index;
                if let Some(denied) = peers.denies(follower, self.term, index) {
                    rt::sometimes("follower had lost what it acknowledged");
                    // This recurs at every heartbeat until an operator acts: it is logged once.
                    if denied.is_news {
                        tracing::error!(
                            node = %NodeId(follower),
                            index,
                            "a follower has lost entries that it had acknowledged; wipe it with 'mokv serve --wipe'"
                        );
                    }
                    return Err(unreachable("the follower has lost entries that it had acknowledged"));
                }
            }
        }
        Ok(answer)
    }

    /// Returns `true` if openraft would take the answer to an earlier append, which ended at `matching`, for an
    /// answer to this one. openraft identifies appends by their entries, so one without entries seems answered by the
    /// append sent right before it. The follower would then seem to have received from this leader later than it did,
    /// and a read index would be confirmed by an answer that is older than the read (chaos seed 7605705).
    fn seems_answered_by(&self, matching: Option<LogId>) -> bool {
        self.last <= matching || self.previous < matching
    }

    fn acknowledged(&self, upto: Option<LogId>, peers: &Peers, follower: u64, boot: u64) {
        if let Some(upto) = upto {
            peers.acknowledge(follower, boot, self.term, upto.index);
        }
    }
}

struct Unanswered {
    sent: Sent,
    answer: Answer,
}

/// The in-flight appends of one stream, answered in the order in which they were sent.
struct Pipeline<'a, S> {
    link: Arc<Link>,
    teller: &'a mut Teller,
    input: S,
    input_ended: bool,
    unanswered: VecDeque<Unanswered>,
    /// Expires when an append is unanswered and no answer has come for [`NO_PROGRESS`].
    inactivity: InactivityTimer,
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Pipeline<'_, S> {
    /// The next answer; `None` when all input is answered.
    async fn next(&mut self) -> Result<Option<StreamAppendResult<TypeConfig>>, RPCError<TypeConfig>> {
        self.inactivity.reset();
        loop {
            if self.input_ended && self.unanswered.is_empty() {
                return Ok(None);
            }
            let may_send = !self.input_ended && self.unanswered.len() < APPEND_WINDOW;
            let idle = self.unanswered.is_empty();
            tokio::select! {
                biased;
                answer = oldest(&mut self.unanswered) => {
                    let Unanswered { sent, .. } = self.unanswered.pop_front().expect("the one just answered");
                    // Held back: openraft would take it for the next append's answer too, which confirms as much and
                    // comes a little later.
                    let is_next_alike =
                        self.unanswered.front().is_some_and(|next| next.sent.seems_answered_by(sent.last));
                    let answer = sent.hear(answer.map_err(call_failed)?, self.teller)?;
                    if is_next_alike && matches!(answer, AppendEntriesResponse::Success) {
                        rt::sometimes("answer to an append held back");
                        self.inactivity.reset();
                        continue;
                    }
                    return Ok(Some(answer.into_stream_result(sent.previous, sent.last)));
                }
                request = self.input.next(), if may_send => match request {
                    None => self.input_ended = true,
                    Some(request) => {
                        if idle {
                            self.inactivity.reset();
                        }
                        self.send(request).await?;
                    }
                },
                () = self.inactivity.expired(), if !idle => {
                    rt::sometimes("replication made no progress");
                    return Err(unreachable(format!("no append was answered for {NO_PROGRESS:?}")));
                }
            }
        }
    }

    async fn send(&mut self, request: AppendEntriesRequest<TypeConfig>) -> Result<(), RPCError<TypeConfig>> {
        let (append, sent) = self.teller.append(&request);
        let sending = self.link.start(append);
        let answer = timeout(NO_PROGRESS, sending).await.map_err(unreachable)?.map_err(call_failed)?;
        self.unanswered.push_back(Unanswered { sent, answer: Box::pin(answer) });
        Ok(())
    }
}

async fn oldest(unanswered: &mut VecDeque<Unanswered>) -> Result<Response, CallError> {
    match unanswered.front_mut() {
        Some(oldest) => (&mut oldest.answer).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::log_id;
    use super::*;

    #[test]
    fn only_an_append_that_carries_more_tells_its_answer_from_the_one_before() {
        let append = |previous, last| Sent {
            term: 2,
            previous: Some(log_id(2, previous)),
            last: Some(log_id(2, last)),
            version: 0,
        };
        let matching = append(5, 8).last;
        assert!(append(8, 8).seems_answered_by(matching), "without entries");
        assert!(append(6, 9).seems_answered_by(matching), "sent again, with one more");
        assert!(!append(8, 9).seems_answered_by(matching), "the next entry");
    }
}
