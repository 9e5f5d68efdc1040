//! The dialing side: one [`Link`] for each peer and channel, connected when first needed and again after it broke.
//!
//! Requests are pipelined and bounded in number. A connection on which nothing is received while answers are due is
//! dropped, so that a link that fails in one direction never looks like a live peer.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use mokv_proto::raft::{self, Channel, Exclusion, request, response};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::admission::{HandshakeError, LocalNode, PeerAdmission};
use super::frame::{FrameReader, MAX_FRAME_BYTES, put_frame};
use super::handshake::dial;
use super::reach::{Contact, Reach};
use crate::node_id::{Named, NodeId};
use crate::positions::{self, Acknowledgement, Positions};
use crate::rt::lock::{Mutex, MutexGuard};
use crate::rt::net::{Resolver, TcpStream};
use crate::rt::task::{TaskGuard, spawn_guarded};
use crate::rt::{self, Instant, timeout, watch};

/// The time limit for connecting and the handshake together. A name lookup that takes longer continues, for the next
/// attempt.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection on which nothing is received for this long while answers are due is dead. After half of this time a
/// ping is sent.
const SILENCE: Duration = Duration::from_secs(2);
/// The in-flight window: unanswered requests on one connection.
const MAX_IN_FLIGHT: usize = 1024;
/// A flush takes no more requests once it holds this many bytes.
const WRITE_BATCH_BYTES: usize = 256 << 10;

/// The addresses and names of nodes.
pub trait AddressBook: Send + Sync + 'static {
    /// `host:port` of a node, the newest claim first.
    fn addresses(&self, node_id: NodeId) -> Vec<String>;

    /// What a member is called; `None` if it is no member.
    fn member_name(&self, node_id: NodeId) -> Option<String>;

    /// Whether another live node has this name: this node, if it had that id before, or a node that lost its disk.
    fn has_successor(&self, node_id: NodeId, name: &str) -> bool;
}

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// Certainly nothing of the request left this node.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The request may have arrived.
    #[error("sent, but not answered: {0}")]
    Unanswered(String),
}

/// The links of one node to all others.
pub struct Peers {
    admission: Arc<PeerAdmission>,
    book: Arc<dyn AddressBook>,
    resolver: Resolver,
    links: Mutex<BTreeMap<(NodeId, i32), Arc<Link>>>,
    acquaintance: Arc<Acquaintance>,
    /// The condition that each peer's last answer reported.
    reports: Mutex<BTreeMap<NodeId, Report>>,
    /// How far each follower has acknowledged this leader's log.
    acknowledged: Mutex<BTreeMap<NodeId, Acknowledged>>,
}

/// What all links of this node share.
#[derive(Default)]
struct Acquaintance {
    /// Name and address of peers by Raft's newest membership, applied or not. This address is dialed last: what a node
    /// claims is newer.
    written: Mutex<BTreeMap<NodeId, (String, String)>>,
    reach: Reach,
}

/// A follower's condition, as it reports it with its answers to a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerState {
    /// Its disk is nearly full. This counts only while the follower answers, and only for the leader that received the
    /// answer: otherwise the last report of a dead voter would block writes for ever.
    pub disk_full: bool,
    /// Its state is doubted, and it should not lead. This counts for as long as it has this id.
    pub is_doubted: bool,
}

/// A follower's last report.
struct Report {
    /// The term of the leader that received it.
    term: u64,
    /// When it answered.
    received_at: Instant,
    condition: FollowerState,
}

/// What a follower has acknowledged.
#[derive(Default)]
struct Acknowledged {
    /// The term of the leader whose log it acknowledged.
    term: u64,
    /// The last index that it acknowledged.
    index: u64,
    /// It has denied an acknowledgement in this term.
    denied: bool,
}

/// A follower denies what it has acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub struct Denied {
    /// For the first time in this term.
    pub is_news: bool,
}

impl Peers {
    /// Creates the peers of this node, without links.
    pub fn new(admission: Arc<PeerAdmission>, book: Arc<dyn AddressBook>, resolver: Resolver) -> Arc<Peers> {
        Arc::new(Peers {
            admission,
            book,
            resolver,
            links: Mutex::default(),
            acquaintance: Arc::default(),
            reports: Mutex::default(),
            acknowledged: Mutex::default(),
        })
    }

    /// The link to a peer for a channel. Does not dial.
    pub fn link(&self, target: NodeId, channel: Channel) -> Arc<Link> {
        let mut links = self.links.lock();
        (links.entry((target, channel.into())))
            .or_insert_with(|| {
                Arc::new(Link {
                    target,
                    channel,
                    admission: self.admission.clone(),
                    book: self.book.clone(),
                    acquaintance: self.acquaintance.clone(),
                    resolver: self.resolver.clone(),
                    line: Mutex::new(Line::Down),
                })
            })
            .clone()
    }

    /// Records a peer's name and address by Raft's membership. The first votes precede the first applied entry, and may
    /// precede gossip: there is no other source of the address then.
    pub fn introduce(&self, target: NodeId, name: &str, address: &str) {
        self.acquaintance.written.lock().insert(target, (name.to_owned(), address.to_owned()));
    }

    /// The result of the last attempt to reach a peer. [`Contact::Reached`] only while a connection to it exists.
    pub fn contact(&self, target: NodeId) -> Contact {
        match self.acquaintance.reach.contact(target) {
            Contact::Reached if !self.is_connected(target) => Contact::Untried,
            contact => contact,
        }
    }

    /// When the newest connection to a peer was made; `None` if there is none now.
    pub fn in_contact_since(&self, target: NodeId) -> Option<Instant> {
        self.acquaintance.reach.reached_at(target).filter(|_| self.is_connected(target))
    }

    fn is_connected(&self, target: NodeId) -> bool {
        let links = self.links.lock();
        let mut of_target = links.range((target, i32::MIN)..=(target, i32::MAX));
        of_target.any(|(_, link)| matches!(&*link.line.lock(), Line::Up(line) if !line.is_closed()))
    }

    /// The identity of this process.
    pub fn local(&self) -> &LocalNode {
        self.admission.local()
    }

    /// The records of how far members have acknowledged.
    pub fn positions(&self) -> MutexGuard<'_, Positions> {
        self.admission.positions()
    }

    /// Records the condition that a peer reported to this node as the leader of `term`.
    pub fn report(&self, node_id: NodeId, term: u64, condition: FollowerState) {
        let mut reports = self.reports.lock();
        reports.insert(node_id, Report { term, received_at: rt::now(), condition });
    }

    /// Whether a peer has reported that its state is doubted.
    pub fn is_doubted(&self, node_id: NodeId) -> bool {
        let reports = self.reports.lock();
        reports.get(&node_id).is_some_and(|report| report.condition.is_doubted)
    }

    /// Whether a peer has reported that this node was removed from the cluster.
    pub fn say_removed(&self) -> bool {
        self.admission.excluded().borrow().as_ref().is_some_and(|said| said.exclusion() == Exclusion::Removed)
    }

    /// Returns the first peer that `counts` accepts and whose disk is nearly full, by its answer to the leader of
    /// `term` at most `patience` before `now`.
    pub fn full(
        &self,
        term: u64,
        now: Instant,
        patience: Duration,
        counts: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let reports = self.reports.lock();
        let is_valid = |report: &Report| {
            report.condition.disk_full
                && report.term == term
                && now.saturating_duration_since(report.received_at) <= patience
        };
        reports.iter().find(|(id, report)| is_valid(report) && counts(**id)).map(|(id, _)| *id)
    }

    /// Records that a follower holds the log of this leader's `term` up to `index`. `boot` is the boot counter in its
    /// answer; 0 if the answer has none.
    pub fn acknowledge(&self, follower: NodeId, boot: u64, term: u64, index: u64) {
        if boot > 0 {
            let upto = positions::Reach { term, index: Some(index) };
            self.positions().remember(follower, Acknowledgement { boot, upto });
        }
        let mut acknowledged = self.acknowledged.lock();
        let known = acknowledged.entry(follower).or_default();
        if (known.term, known.index) < (term, index) {
            let denied = known.denied && known.term == term;
            *known = Acknowledged { term, index, denied };
        }
    }

    /// Records that a voter granted this candidate its vote in `term`. `boot` is the boot counter in its answer; 0 if
    /// the answer has none.
    pub fn granted(&self, voter: NodeId, boot: u64, term: u64) {
        if boot > 0 {
            let upto = positions::Reach { term, index: None };
            self.positions().remember(voter, Acknowledgement { boot, upto });
        }
    }

    /// Returns `Some` if a follower that does not hold the entry at `index` acknowledged it in this very term: its disk
    /// has lost synced data.
    pub fn denies(&self, follower: NodeId, term: u64, index: u64) -> Option<Denied> {
        let mut acknowledged = self.acknowledged.lock();
        let known =
            acknowledged.get_mut(&follower).filter(|known| known.term == term && index <= known.index)?;
        Some(Denied { is_news: !std::mem::replace(&mut known.denied, true) })
    }

    /// Drops what is kept for nodes that are no longer members.
    pub fn retain(&self, is_member: impl Fn(NodeId) -> bool) {
        let mut links = self.links.lock();
        links.retain(|(target, _), _| is_member(*target));
        self.acquaintance.written.lock().retain(|id, _| is_member(*id));
        self.acquaintance.reach.retain(&is_member);
        self.reports.lock().retain(|id, _| is_member(*id));
        self.acknowledged.lock().retain(|id, _| is_member(*id));
        let local = self.local().node_id;
        self.positions().retain(|id| id == local || is_member(id));
    }
}

/// The connection to one peer for one channel.
pub struct Link {
    target: NodeId,
    channel: Channel,
    admission: Arc<PeerAdmission>,
    book: Arc<dyn AddressBook>,
    acquaintance: Arc<Acquaintance>,
    resolver: Resolver,
    line: Mutex<Line>,
}

/// The state of a link's connection.
enum Line {
    /// No caller has needed it yet, or the last attempt failed.
    Down,
    /// One attempt for all callers that come meanwhile: otherwise attempts to an unreachable peer would pile up without
    /// end.
    Dialing(watch::Receiver<Option<Dialed>>),
    /// Connected, until it breaks.
    Up(Arc<Connection>),
}

type Dialed = Result<Arc<Connection>, CallError>;

impl Link {
    /// Sends a request and waits for its answer. Has no time limit: give it a timeout. Dropping the future discards the
    /// answer.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(self: &Arc<Self>, body: request::Body) -> Result<response::Body, CallError> {
        self.start(body).await?.await
    }

    /// Sends a request, in the order of the calls, and returns the future of its answer.
    ///
    /// # Errors
    /// [`CallError::NotSent`].
    pub async fn start(
        self: &Arc<Self>,
        body: request::Body,
    ) -> Result<impl Future<Output = Result<response::Body, CallError>> + Send + use<>, CallError> {
        self.connection().await?.start(body).await
    }

    async fn connection(self: &Arc<Self>) -> Dialed {
        let mut dialed = {
            let mut line = self.line.lock();
            match &*line {
                Line::Up(connection) if !connection.is_closed() => return Ok(connection.clone()),
                Line::Dialing(dialed) => dialed.clone(),
                Line::Up(_) | Line::Down => {
                    let is_again = matches!(*line, Line::Up(_));
                    let (result, dialed) = watch::channel(None);
                    *line = Line::Dialing(dialed.clone());
                    // A separate task: heartbeats time out before a slow peer is connected, and an attempt that was
                    // cancelled with each of them would never succeed.
                    let link = self.clone();
                    rt::spawn(async move {
                        let outcome = link.dial(is_again).await;
                        *link.line.lock() = outcome.clone().map_or(Line::Down, Line::Up);
                        result.send(Some(outcome));
                    });
                    dialed
                }
            }
        };
        if dialed.wait_for(Option::is_some).await.is_err() {
            // The dialing task has panicked; the next caller starts a new attempt.
            *self.line.lock() = Line::Down;
        }
        let outcome = dialed.borrow().clone();
        outcome.unwrap_or_else(|| Err(CallError::NotSent("dialing was interrupted".into())))
    }

    /// The addresses to dial, in this order; every attempt looks them up anew.
    fn addresses(&self) -> Vec<String> {
        let mut addresses = self.book.addresses(self.target);
        let written = self.acquaintance.written.lock().get(&self.target).map(|(_, address)| address.clone());
        addresses.extend(written.filter(|written| !addresses.contains(written)));
        addresses
    }

    fn name(&self) -> Option<String> {
        let written = self.acquaintance.written.lock().get(&self.target).map(|(name, _)| name.clone());
        written.or_else(|| self.book.member_name(self.target))
    }

    /// Whether the log reports this peer when it is unreachable: not if it is no member, nor if it came back under
    /// another id.
    fn is_missed(&self) -> bool {
        self.name().is_some_and(|name| !self.book.has_successor(self.target, &name))
    }

    async fn dial(&self, is_again: bool) -> Dialed {
        let name = self.name();
        let peer = Named(name.as_deref(), self.target);
        let mut is_refusal = false;
        let mut last = format!("no address is known for {peer}");
        for address in self.addresses() {
            match timeout(DIAL_TIMEOUT, self.dial_at(&address)).await {
                Ok(Ok(connection)) => {
                    if is_again && matches!(self.channel, Channel::Log) {
                        rt::sometimes("replication connection rebuilt");
                    }
                    tracing::debug!(%peer, address, channel = ?self.channel, "connected");
                    self.acquaintance.reach.reached(peer);
                    return Ok(Arc::new(connection));
                }
                Ok(Err(error)) => {
                    is_refusal |= !matches!(error, HandshakeError::Io(_));
                    last = format!("{address}: {error}");
                }
                Err(_) if self.resolver.awaits(&address) => {
                    last = format!("{address}: the name has not been resolved within {DIAL_TIMEOUT:?}");
                }
                Err(_) => last = format!("{address}: no answer within {DIAL_TIMEOUT:?}"),
            }
        }
        tracing::debug!(%peer, channel = ?self.channel, "cannot connect: {last}");
        self.acquaintance.reach.failed(peer, &last, is_refusal, self.is_missed());
        Err(CallError::NotSent(last))
    }

    async fn dial_at(&self, address: &str) -> Result<Connection, HandshakeError> {
        let mut stream = self.resolver.connect(address).await?;
        dial(&mut stream, &self.admission, self.target, self.channel).await?;
        Ok(Connection::start_tasks(stream))
    }
}

/// The requests that wait for answers. The permit bounds their number; it is released when the answer came or the
/// connection broke, even if the caller no longer waits.
type Waiting = BTreeMap<u64, (oneshot::Sender<response::Body>, OwnedSemaphorePermit)>;

struct State {
    waiting: Waiting,
    /// The reason, set once when the connection broke.
    broken: Option<String>,
}

struct Connection {
    outgoing: mpsc::Sender<raft::Request>,
    next_id: AtomicU64,
    in_flight: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
    _tasks: [TaskGuard<()>; 2],
}

impl Connection {
    fn start_tasks(stream: TcpStream) -> Connection {
        let (read, write) = tokio::io::split(stream);
        let (outgoing, to_send) = mpsc::channel(MAX_IN_FLIGHT);
        let state = Arc::new(Mutex::new(State { waiting: BTreeMap::new(), broken: None }));
        let (for_writer, for_reader, pings) = (state.clone(), state.clone(), outgoing.downgrade());
        let writer = spawn_guarded(async move {
            if let Err(error) = write_requests(write, to_send).await {
                break_off(&for_writer, &error.to_string());
            }
        });
        let reader = spawn_guarded(async move {
            let error = match read_answers(read, &for_reader, pings).await {
                Ok(()) => "the peer closed the connection".into(),
                Err(error) => error.to_string(),
            };
            break_off(&for_reader, &error);
        });
        Connection {
            outgoing,
            next_id: AtomicU64::new(1),
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            state,
            _tasks: [writer, reader],
        }
    }

    fn is_closed(&self) -> bool {
        self.state.lock().broken.is_some()
    }

    async fn start(
        self: Arc<Self>,
        body: request::Body,
    ) -> Result<impl Future<Output = Result<response::Body, CallError>> + Send + use<>, CallError> {
        let permit = self.in_flight.clone().acquire_owned().await.expect("the semaphore is never closed");
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if let Some(reason) = &state.broken {
                return Err(CallError::NotSent(reason.clone()));
            }
            state.waiting.insert(id, (answer, permit));
        }
        // From here the writer sends it, even if the caller gives up. The permits guarantee that there is room.
        if self.outgoing.try_send(raft::Request { id, body: Some(body) }).is_err() {
            self.state.lock().waiting.remove(&id);
            return Err(CallError::NotSent("the connection broke".into()));
        }
        Ok(async move {
            match answered.await {
                Ok(body) => Ok(body),
                Err(_) => {
                    let broken = self.state.lock().broken.clone();
                    Err(CallError::Unanswered(broken.unwrap_or_else(|| "the connection broke".into())))
                }
            }
        })
    }
}

/// Closes the connection for new requests and fails those that wait.
fn break_off(state: &Mutex<State>, reason: &str) {
    let mut state = state.lock();
    state.broken.get_or_insert_with(|| reason.to_string());
    state.waiting.clear();
}

async fn write_requests(
    mut write: WriteHalf<TcpStream>,
    mut to_send: mpsc::Receiver<raft::Request>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    while let Some(request) = to_send.recv().await {
        put_frame(&mut buffer, &request);
        // Requests that queued up meanwhile go with the same flush.
        while buffer.len() < WRITE_BATCH_BYTES
            && let Ok(request) = to_send.try_recv()
        {
            put_frame(&mut buffer, &request);
        }
        write.write_all(&buffer).await?;
        write.flush().await?;
        buffer.clear();
    }
    write.shutdown().await
}

async fn read_answers(
    read: ReadHalf<TcpStream>,
    state: &Mutex<State>,
    pings: mpsc::WeakSender<raft::Request>,
) -> io::Result<()> {
    let mut reader = FrameReader::new(read, MAX_FRAME_BYTES);
    let mut last_answer = rt::now();
    let mut asked = false;
    let mut check = rt::sleep(SILENCE / 2);
    loop {
        tokio::select! {
            biased;
            answer = reader.next::<raft::Response>() => {
                let Some(answer) = answer? else { return Ok(()) };
                (last_answer, asked) = (rt::now(), false);
                let waiting = state.lock().waiting.remove(&answer.id);
                if let (Some((waiting, _permit)), Some(body)) = (waiting, answer.body) {
                    // The caller may have stopped waiting.
                    let _ = waiting.send(body);
                }
            }
            () = &mut check => {
                let silent = rt::now() - last_answer;
                if state.lock().waiting.is_empty() {
                    (last_answer, asked) = (rt::now(), false);
                } else if silent >= SILENCE && asked {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer for {silent:?}")));
                } else if silent >= SILENCE / 2 && let Some(pings) = pings.upgrade() {
                    asked = pings.try_send(raft::Request { id: 0, body: None }).is_ok() || asked;
                }
                check = rt::sleep(SILENCE / 2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::join_all;

    use super::*;
    use crate::rt::net::TcpListener;

    struct OnePlace(String);

    impl AddressBook for OnePlace {
        fn addresses(&self, _node_id: NodeId) -> Vec<String> {
            vec![self.0.clone()]
        }

        fn member_name(&self, node_id: NodeId) -> Option<String> {
            (node_id < NodeId(9)).then(|| format!("n{}", node_id.0))
        }

        fn has_successor(&self, node_id: NodeId, name: &str) -> bool {
            node_id != NodeId(1) && name == "n1"
        }
    }

    fn peers_at(address: String) -> Arc<Peers> {
        peers_resolving(address, Resolver::default())
    }

    fn peers_resolving(address: String, resolver: Resolver) -> Arc<Peers> {
        let admission =
            PeerAdmission::new(LocalNode::example(1, None), BTreeMap::new(), Positions::default(), |_| false);
        Peers::new(Arc::new(admission), Arc::new(OnePlace(address)), resolver)
    }

    /// At its first start a node once reported that it had no address of nodes whose votes it was about to request.
    #[test]
    fn what_the_membership_says_is_dialed_last_and_only_while_the_peer_is_a_member() {
        let peers = peers_at("claimed:1".into());
        let link = peers.link(NodeId(2), Channel::Control);
        assert_eq!(link.addresses(), ["claimed:1"]);
        peers.introduce(NodeId(2), "n2", "written:1");
        assert_eq!(link.addresses(), ["claimed:1", "written:1"]);
        peers.introduce(NodeId(2), "n2", "claimed:1");
        assert_eq!(link.addresses(), ["claimed:1"]);
        peers.introduce(NodeId(2), "n2", "written:2");
        peers.retain(|id| id != NodeId(2));
        assert_eq!(link.addresses(), ["claimed:1"]);
    }

    #[test]
    fn a_follower_denies_only_what_it_acknowledged_in_the_same_term_and_that_is_news_once() {
        let peers = peers_at("127.0.0.1:1".into());
        let denied = |is_news| Some(Denied { is_news });
        peers.acknowledge(NodeId(2), 1, 5, 10);
        peers.acknowledge(NodeId(2), 1, 5, 8);
        assert_eq!(peers.denies(NodeId(2), 5, 11), None, "it never held that");
        assert_eq!(peers.denies(NodeId(2), 6, 3), None, "another leader's log");
        assert_eq!(peers.denies(NodeId(3), 5, 3), None, "no report about this node");
        assert_eq!(peers.denies(NodeId(2), 5, 10), denied(true));
        peers.acknowledge(NodeId(2), 1, 5, 12);
        assert_eq!(peers.denies(NodeId(2), 5, 12), denied(false));
        peers.acknowledge(NodeId(2), 1, 6, 9);
        assert_eq!(peers.denies(NodeId(2), 6, 10), None);
        assert_eq!(peers.denies(NodeId(2), 6, 9), denied(true), "a new term, a new report");
        peers.retain(|id| id != NodeId(2));
        assert_eq!(peers.denies(NodeId(2), 6, 9), None);
    }

    /// A voter that died with a full disk once blocked every write for ever.
    #[test]
    fn a_full_disk_counts_while_its_node_answers_and_under_the_leader_that_it_answered() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let peers = peers_at("127.0.0.1:1".into());
        let condition = |disk_full| FollowerState { disk_full, is_doubted: false };
        let full = |term, later| peers.full(term, rt::now() + later, PATIENCE, |id| id != NodeId(9));
        peers.report(NodeId(2), 5, condition(true));
        peers.report(NodeId(9), 5, condition(true));
        assert_eq!(full(5, Duration::ZERO), Some(NodeId(2)));
        assert_eq!(full(6, Duration::ZERO), None, "reported to another leader");
        assert_eq!(full(5, PATIENCE * 2), None, "its answer is too old");
        peers.report(NodeId(2), 5, condition(false));
        assert_eq!(full(5, Duration::ZERO), None, "it has room again");
        peers.report(NodeId(2), 6, condition(true));
        assert_eq!(full(6, Duration::ZERO), Some(NodeId(2)));
        peers.retain(|id| id != NodeId(2));
        assert_eq!(full(6, Duration::ZERO), None, "no member any more");
    }

    /// A node that had been removed and came back under another id once reported itself as unreachable.
    #[test]
    fn neither_a_node_that_came_back_as_another_nor_a_nonmember_is_missing() {
        let peers = peers_at("127.0.0.1:1".into());
        let is_missed = |peer| peers.link(NodeId(peer), Channel::Control).is_missed();
        assert!(is_missed(2), "a member by what was applied");
        assert!(!is_missed(9));
        peers.introduce(NodeId(9), "n9", "127.0.0.1:1");
        assert!(is_missed(9), "a member by Raft's newest membership");
        peers.introduce(NodeId(3), "n1", "127.0.0.1:1");
        assert!(!is_missed(3), "node 1 has its name");
    }

    /// A killed node was once reported as reachable until it was dialed again.
    #[tokio::test]
    async fn a_peer_is_in_contact_for_as_long_as_a_connection_lasts() {
        let peers = peers_at("127.0.0.1:1".into());
        let link = peers.link(NodeId(2), Channel::Control);
        assert_eq!(peers.contact(NodeId(2)), Contact::Untried);
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let stream = TcpStream::connect(&listener.local_addr().unwrap().to_string()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        *link.line.lock() = Line::Up(Arc::new(Connection::start_tasks(stream)));
        peers.acquaintance.reach.reached(Named(None, NodeId(2)));
        assert_eq!(peers.contact(NodeId(2)), Contact::Reached);
        drop(accepted);
        let gone = async {
            while peers.contact(NodeId(2)) == Contact::Reached {
                rt::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(60), gone).await.unwrap();
        assert_eq!(peers.contact(NodeId(2)), Contact::Untried);
        // Dialed again, without success.
        assert!(link.start(request::Body::Forward(raft::Forward::default())).await.is_err());
        assert!(matches!(peers.contact(NodeId(2)), Contact::Failing { is_refusal: false, .. }));
    }

    /// A peer that accepts connections and sends nothing, with the number of times it was dialed.
    async fn silent_peer() -> (String, Arc<AtomicUsize>, TaskGuard<()>) {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let dialed = Arc::new(AtomicUsize::new(0));
        let count = dialed.clone();
        let accepting = spawn_guarded(async move {
            let mut streams = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                streams.push(stream);
            }
        });
        (address, dialed, accepting)
    }

    /// Attempts once queued behind each other, and went on long after all their callers had given up.
    #[tokio::test]
    async fn callers_of_a_silent_peer_share_one_attempt() {
        let (address, dialed, _accepting) = silent_peer().await;
        let peers = peers_at(address);
        let link = peers.link(NodeId(2), Channel::Control);
        let ask = || link.start(request::Body::Forward(raft::Forward::default()));
        for refused in join_all((0..20).map(|_| ask())).await {
            let Err(CallError::NotSent(reason)) = refused else { panic!("no peer answers") };
            assert!(reason.contains("no answer within"), "{reason}");
        }
        assert_eq!(dialed.load(Ordering::Relaxed), 1);
    }

    /// A name lookup slower than an attempt was once restarted with each attempt, and never finished.
    #[tokio::test]
    async fn a_peer_whose_name_resolves_slower_than_an_attempt_lasts_is_reached_by_a_later_one() {
        let (address, dialed, _accepting) = silent_peer().await;
        let here: std::net::SocketAddr = address.parse().unwrap();
        let slow = Resolver::asking(move |_| async move {
            rt::sleep(DIAL_TIMEOUT * 5 / 2).await;
            Ok(vec![here])
        });
        let link = peers_resolving("peer.example:8400".into(), slow).link(NodeId(2), Channel::Control);
        let reached = async {
            let mut refusals = Vec::new();
            while dialed.load(Ordering::Relaxed) == 0 {
                let Err(CallError::NotSent(refusal)) =
                    link.start(request::Body::Forward(raft::Forward::default())).await
                else {
                    panic!("it accepts connections and sends nothing")
                };
                refusals.push(refusal);
            }
            refusals
        };
        let refusals = timeout(Duration::from_secs(60), reached).await.expect("it is dialed");
        assert!(refusals[0].contains("has not been resolved within"), "{refusals:?}");
    }
}
