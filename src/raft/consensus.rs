//! The interface to Raft for the rest of the node: propose a command, obtain a read index, change the membership.
//!
//! Waits are bounded, except in [`Consensus::take_snapshot`]. A command that was certainly not executed and one that
//! may have been are different errors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mokv_proto::raft::{self as wire, Channel, forward_answer::Outcome, request, response};
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::{ClientWriteResponse, Precondition};
use openraft::{ChangeMembers, ServerState};

use super::consistency::{Claim, Contradiction};
use super::doubt::Doubt;
use super::peers::{CallError, FollowerState, Peers};
use super::reads::{ReadIndexError, Reads};
use super::store::Store;
use super::types::{LogId, Member, Payload, StoredMembership, TypeConfig, log_id};
use super::wire::{decode_vote, leader_from_wire, log_id_from_wire};
use super::{Raft, Timing};
use crate::map::{Answer, Command};
use crate::node_id::{Named, NodeId};
use crate::rt::lock::Mutex;
use crate::rt::{self, Instant, watch};
use crate::storage::Log;

/// The pause before a read retries, if it found no leader or the leader could not confirm itself.
const READ_RETRY: Duration = Duration::from_millis(50);

/// The interval at which a caller that waits for a snapshot checks for it.
const SNAPSHOT_POLL: Duration = Duration::from_millis(10);
/// After so many checks it asks for one again.
const SNAPSHOT_POLLS: u32 = 100;

/// Why a requested snapshot was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Raft has stopped.
    #[error("{0}")]
    Stopped(String),
    /// There is no room for it, or the state in memory is corrupt.
    #[error("no snapshot is taken: {0}")]
    Declined(String),
}

type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

/// Why a command has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not executed: this node does not lead. Holds the leader's node id, if one is known.
    #[error("this node is not the leader")]
    NotLeader(Option<NodeId>),
    /// Certainly not executed.
    #[error("{0}")]
    NotExecuted(String),
    /// Certainly not executed: a voter's disk has no room for more values.
    #[error("{0}")]
    Full(String),
    /// Outcome unknown: the command was executed, was not, or may still be.
    #[error("{0}")]
    Unknown(String),
}

/// A command that was executed.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// The state machine's answer.
    pub answer: Answer,
    /// The store's revision after it.
    pub revision: u64,
    /// Its position in the log.
    pub log_id: LogId,
}

/// A voter that could take over leadership from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Successor {
    /// Its node id.
    pub node_id: NodeId,
    /// Its last answer is less than two election timeouts old.
    pub is_near: bool,
    /// Moreover, its log has every entry of this node's log.
    pub is_level: bool,
}

/// A handle to this node's part in the consensus. Clones share its state.
#[derive(Clone)]
pub struct Consensus {
    raft: Raft,
    store: Arc<Store>,
    peers: Arc<Peers>,
    log: Log,
    reads: Reads,
    request_timeout: Duration,
    /// When this node last received a message from its leader, and the leader's commit index in it; `None` if it has
    /// received none since this process started.
    leader_contact: Arc<Mutex<Option<(Instant, u64)>>>,
    /// A leader that sends nothing for longer counts as absent.
    leader_patience: Duration,
    /// The interval between a leader's heartbeats.
    heartbeat: Duration,
    /// The shortest time for which a follower waits for its leader.
    election: Duration,
    /// Set once a leader has contradicted this node's committed log.
    contradiction: watch::Sender<Option<Contradiction>>,
    /// Set once the state of a majority differs from this node's.
    doubt: Doubt,
    /// While this node leads: the nodes that it does not admit, each with the reason.
    refused: Arc<Mutex<BTreeMap<NodeId, String>>>,
}

impl Consensus {
    /// Puts the parts together and starts the confirmation rounds for reads.
    pub fn new(
        raft: Raft,
        store: Arc<Store>,
        peers: Arc<Peers>,
        log: Log,
        doubt: Doubt,
        timing: &Timing,
    ) -> Consensus {
        let reads = Reads::start(raft.clone(), peers.clone());
        Consensus {
            raft,
            store,
            peers,
            log,
            reads,
            request_timeout: timing.request_timeout,
            leader_contact: Arc::default(),
            // The longest election timeout: by then this node starts an election itself.
            leader_patience: timing.election * 2,
            heartbeat: timing.heartbeat,
            election: timing.election,
            doubt,
            contradiction: watch::channel(None).0,
            refused: Arc::default(),
        }
    }

    /// Replaces the set of nodes that are not admitted, each with the reason that it receives when it asks.
    pub fn refuse(&self, refused: BTreeMap<NodeId, String>) {
        *self.refused.lock() = refused;
    }

    /// Returns why this node does not admit `node_id`; empty if it has no objection, or does not lead.
    pub fn refusal(&self, node_id: NodeId) -> String {
        let refused = self.refused.lock();
        refused.get(&node_id).cloned().unwrap_or_default()
    }

    /// openraft itself.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// This node's copy of the state.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The links to peers.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// This node's log.
    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The time limit of a request whose client sets none.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// This node's id.
    pub fn node_id(&self) -> NodeId {
        *self.raft.node_id()
    }

    /// Returns the node that leads, to this node's knowledge: itself, if a quorum answered it recently, or a leader
    /// that sent it a message recently.
    ///
    /// openraft reports the winner of the last vote, and with pre-votes a node without a quorum never votes again: it
    /// would report that leader for ever. So would a leader that has lost all its followers.
    pub fn leader(&self) -> Option<NodeId> {
        use openraft::rt::WatchReceiver;
        let leader = self.raft.server_metrics().borrow_watched().current_leader?;
        let is_near = |at: Instant| rt::now().saturating_duration_since(at) <= self.leader_patience;
        let is_known = match leader == self.node_id() {
            // Called for every write: the membership is read only if needed.
            true => self.quorum_answered().is_some_and(is_near) || self.membership().voter_ids().count() == 1,
            false => self.leader_contact().is_some_and(|(at, _)| is_near(at)),
        };
        is_known.then_some(leader)
    }

    /// When the newest message that a quorum has answered was sent; `None` if this node does not lead.
    fn quorum_answered(&self) -> Option<Instant> {
        use openraft::rt::WatchReceiver;
        let metrics = self.raft.data_metrics();
        let answered = metrics.borrow_watched().last_quorum_acked;
        answered.map(|at| (*at).into())
    }

    fn leader_contact(&self) -> Option<(Instant, u64)> {
        *self.leader_contact.lock()
    }

    /// Records that the leader of this node's term sent an append, and its commit index.
    pub(super) fn leader_spoke(&self, committed: u64) {
        let contact = Some((rt::now(), committed));
        *self.leader_contact.lock() = contact;
    }

    /// Asks the other voters whether they would elect this node, again and again until it knows a leader, instead of
    /// waiting for an election timeout: when all nodes of a cluster start, there is no leader to wait for. A live leader is
    /// not disturbed, since a pre-vote changes nothing and is refused by those that hear from one. Pauses are random, so that
    /// nodes that start together do not split the votes for ever; after an election timeout, openraft's own timers go on.
    pub async fn stand_after_start(&self) {
        let until = rt::now() + self.election;
        while self.leader().is_none() && rt::now() < until {
            let may_lead = !self.is_doubted() && self.uncontradicted().is_ok();
            if may_lead && self.raft.trigger().elect(true).await.is_err() {
                // Raft has stopped, which ends the node.
                return;
            }
            let heartbeat = (self.heartbeat.as_micros() as u64).max(1);
            rt::sleep(Duration::from_micros(heartbeat / 4 + rt::random::below(heartbeat))).await;
        }
    }

    /// Records how far members have acknowledged, as the leader of this node's term reports it.
    pub(super) fn record_acknowledged(&self, acknowledged: Vec<wire::Acknowledgement>) {
        if acknowledged.is_empty() {
            return;
        }
        let membership = self.membership();
        let mut positions = self.peers.positions();
        for reported in acknowledged {
            // Only members are recorded: nothing else bounds the number of node ids that a leader may send.
            if membership.membership().get_node(&NodeId(reported.node_id)).is_some() {
                positions.record(reported);
            }
        }
    }

    /// Compares a leader's claim about its log with this node's committed log.
    ///
    /// # Errors
    /// A message, if they contradict each other, now or at an earlier call: from then on this node acknowledges
    /// nothing.
    pub(super) fn check(&self, claim: &Claim) -> Result<(), String> {
        use openraft::rt::WatchReceiver;
        let committed = self.raft.data_metrics().borrow_watched().local_committed;
        // Read after `committed`, so that the vote's term is not below that of the leader that committed it: an
        // append of an earlier leader is then not taken for a contradiction.
        let vote = self.log.state().vote.map(|vote| decode_vote(&vote)).transpose();
        let vote = vote.map_err(|error| error.to_string())?;
        if let (Some(committed), Some(vote)) = (committed, vote)
            && let Some(found) = claim.contradicts(&self.log, committed, vote)
        {
            self.contradict(found);
        }
        self.uncontradicted()
    }

    /// Returns `true` if this node's log has other entries in the place of those that a leader sent.
    pub(super) fn denies(&self, claim: &Claim) -> bool {
        claim.is_denied_by(&self.log)
    }

    /// Records that a leader contradicts this node's committed log: one of the two logs is not of this cluster's
    /// history, and no node can determine which. Until an operator decides, this node takes no part: it does not
    /// vote, start an election, acknowledge, or answer.
    pub fn contradict(&self, found: Contradiction) {
        self.raft.runtime_config().elect(false);
        self.contradiction.send_if_modified(|contradiction| {
            let is_first = contradiction.is_none();
            if is_first {
                rt::sometimes("leader contradicts what is committed");
            }
            contradiction.get_or_insert(found);
            is_first
        });
    }

    /// Set once a leader has contradicted this node's committed log.
    pub fn contradiction(&self) -> watch::Receiver<Option<Contradiction>> {
        self.contradiction.subscribe()
    }

    /// # Errors
    /// A message, if a leader has contradicted this node's committed log.
    pub(super) fn uncontradicted(&self) -> Result<(), String> {
        match &*self.contradiction.borrow() {
            None => Ok(()),
            Some(found) => Err(format!("this node takes no part any more: {found}")),
        }
    }

    /// Marks this node's state as doubted, because a majority's differs: from now on it is never served. The caller
    /// also has to keep the node from leading ([`super::doubt::keep_from_leading`]).
    pub fn doubt(&self) {
        self.doubt.begin();
        self.raft.runtime_config().elect(false);
    }

    /// Whether the state of a majority differs from this node's.
    pub fn is_doubted(&self) -> bool {
        self.doubt.is_there()
    }

    /// A peer that is silent for longer counts as absent.
    pub(super) fn leader_patience(&self) -> Duration {
        self.leader_patience
    }

    /// The shortest time for which a follower waits for its leader.
    pub(super) fn election_timeout(&self) -> Duration {
        self.election
    }

    /// This node's condition, as it reports it to its leader.
    pub(super) fn condition(&self) -> FollowerState {
        FollowerState { disk_full: self.is_disk_full(), is_doubted: self.is_doubted() }
    }

    /// The number of entries that the leader has committed, by its last message, and that this node has not applied
    /// yet; `None` while no leader is known.
    pub fn lag(&self) -> Option<u64> {
        use openraft::rt::WatchReceiver;
        let committed = match self.leader()? {
            leader if leader == self.node_id() => {
                let metrics = self.raft.data_metrics();
                let committed = metrics.borrow_watched().local_committed;
                committed.map_or(0, |id| id.index)
            }
            _ => self.leader_contact()?.1,
        };
        let applied = self.store.read().applied.map_or(0, |id| id.index);
        Some(committed.saturating_sub(applied))
    }

    /// Whether this node belongs to the membership in force, voting or not.
    pub fn is_member(&self) -> bool {
        self.membership().membership().get_node(&self.node_id()).is_some()
    }

    /// Whether this node votes, by the membership in force.
    pub fn is_voter(&self) -> bool {
        self.membership().voter_ids().any(|voter| voter == self.node_id())
    }

    /// This node's role in its term, as far as it knows.
    pub fn state(&self) -> ServerState {
        use openraft::rt::WatchReceiver;
        self.raft.server_metrics().borrow_watched().state
    }

    /// Whether this node leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.state() == ServerState::Leader
    }

    /// The term in which this node leads, as far as it knows; `None` if it does not lead.
    pub fn term_led(&self) -> Option<u64> {
        use openraft::rt::WatchReceiver;
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader).then_some(metrics.vote.leader_id.term)
    }

    /// The membership in force, committed or not.
    pub fn membership(&self) -> Arc<StoredMembership> {
        use openraft::rt::WatchReceiver;
        self.raft.server_metrics().borrow_watched().membership_config.clone()
    }

    /// Executes a command: here if this node leads, otherwise on the leader, to which it is forwarded once. Returns
    /// when this node has applied it.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, payload: Bytes, deadline: Instant) -> Result<Committed, ProposeError> {
        let leader = match self.leader() {
            Some(leader) if leader != self.node_id() => leader,
            _ => match self.propose_here(payload.clone(), deadline).await {
                Err(ProposeError::NotLeader(Some(leader))) if leader != self.node_id() => leader,
                other => return other,
            },
        };
        let committed = self.forward(leader, payload, deadline).await?;
        match rt::time::timeout_at(deadline, self.store.wait_applied(committed.log_id.index)).await {
            Ok(()) => Ok(committed),
            Err(_) => {
                Err(ProposeError::Unknown("committed, but not applied here before the deadline".into()))
            }
        }
    }

    /// Executes a command if this node leads.
    pub(super) async fn propose_here(
        &self,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Committed, ProposeError> {
        self.undoubted()?;
        // Every voter has to store the value, so the leader checks the space of all of them, whichever node the
        // client asked.
        if Command::carries_a_value(&payload)
            && let Some(full) = self.full_voter()
        {
            rt::sometimes("write refused for a full disk");
            return Err(ProposeError::Full(self.why_full(full)));
        }
        self.written(self.raft.client_write(Payload(payload)), deadline).await
    }

    /// Executes a command if this node leads in `term`. It is never forwarded, and not executed in any other term,
    /// even if this node leads again. When this returns, every earlier entry of this node's log is applied here. Not
    /// for commands that carry a value: free space is not checked.
    ///
    /// # Errors
    /// See [`ProposeError`]. A command of unknown outcome is in this node's log, or will never be executed.
    pub async fn propose_in(
        &self,
        term: u64,
        command: &Command,
        deadline: Instant,
    ) -> Result<Committed, ProposeError> {
        self.undoubted()?;
        let write = async {
            let (responder, written) = ProgressResponder::complete_only();
            let request = self.raft.write(Payload(command.encode())).responder(responder);
            request.with_leader(log_id(term, 0).leader_id).await?;
            written.await.map_err(|_| Fatal::<TypeConfig>::Stopped)?.map_err(WriteError::APIError)
        };
        self.written(write, deadline).await
    }

    /// # Errors
    /// If this node's state is doubted: it then decides nothing.
    fn undoubted(&self) -> Result<(), ProposeError> {
        if !self.is_doubted() {
            return Ok(());
        }
        rt::sometimes("doubted leader proposed nothing");
        let reason = "the leader's state is doubted, and another voter is about to lead";
        Err(ProposeError::NotExecuted(reason.into()))
    }

    /// The outcome of a write to this node's own Raft.
    async fn written(
        &self,
        write: impl Future<Output = Result<ClientWriteResponse<TypeConfig>, WriteError>>,
        deadline: Instant,
    ) -> Result<Committed, ProposeError> {
        match rt::time::timeout_at(deadline, write).await {
            // The answer of a doubted state must not reach a client.
            Ok(Ok(_)) if self.is_doubted() => {
                Err(ProposeError::Unknown("executed, but the state of this leader is doubted".into()))
            }
            Ok(Ok(response)) => Ok(Committed {
                answer: response.data.answer,
                revision: response.data.revision,
                log_id: response.log_id,
            }),
            Ok(Err(error)) => Err(match error.api_error() {
                Some(ClientWriteError::ForwardToLeader(forward)) => {
                    ProposeError::NotLeader(forward.leader_id)
                }
                Some(ClientWriteError::LogEntryDiscarded(_)) => {
                    rt::sometimes("leader changed with uncommitted entries");
                    ProposeError::Unknown("the leader changed while the entry was under way".into())
                }
                _ => ProposeError::Unknown(format!("this node's Raft stopped: {error}")),
            }),
            Err(_) => {
                rt::sometimes("write without a quorum until its deadline");
                Err(ProposeError::Unknown("no quorum answered before the deadline".into()))
            }
        }
    }

    async fn forward(
        &self,
        leader: NodeId,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Committed, ProposeError> {
        let link = self.peers.link(leader, Channel::Forward);
        let answer = match rt::time::timeout_at(
            deadline,
            link.call(request::Body::Forward(wire::Forward { payload })),
        )
        .await
        {
            Ok(Ok(response::Body::Forward(answer))) => answer,
            Ok(Ok(response::Body::Failed(reason))) => return Err(ProposeError::Unknown(reason)),
            Ok(Ok(_)) => {
                return Err(ProposeError::Unknown(
                    "the leader's answer is to another kind of request".into(),
                ));
            }
            Ok(Err(CallError::NotSent(reason))) => {
                rt::sometimes("forwarded write not sent");
                return Err(ProposeError::NotExecuted(format!("the leader cannot be reached: {reason}")));
            }
            Ok(Err(CallError::Unanswered(reason))) => {
                rt::sometimes("forwarded write of unknown outcome");
                return Err(ProposeError::Unknown(format!("the leader did not answer: {reason}")));
            }
            Err(_) => {
                return Err(ProposeError::Unknown("the leader did not answer before the deadline".into()));
            }
        };
        match answer.outcome {
            Some(Outcome::Forwarded(forwarded)) => {
                let answer = forwarded.answer.and_then(|answer| Answer::try_from(answer).ok());
                match (answer, forwarded.log_id) {
                    (Some(answer), Some(log_id)) => Ok(Committed {
                        answer,
                        revision: forwarded.revision,
                        log_id: log_id_from_wire(log_id),
                    }),
                    _ => Err(ProposeError::Unknown("the leader's answer is malformed".into())),
                }
            }
            Some(Outcome::NotLeader(leader)) => Err(ProposeError::NotLeader(leader_from_wire(leader))),
            Some(Outcome::Refused(reason)) => Err(ProposeError::NotExecuted(reason)),
            Some(Outcome::Full(wire::Full { reason })) => Err(ProposeError::Full(reason)),
            Some(Outcome::Unknown(reason)) => Err(ProposeError::Unknown(reason)),
            None => Err(ProposeError::Unknown("the leader's answer is empty".into())),
        }
    }

    /// Waits until this node's copy holds every write that was answered before the call.
    ///
    /// # Errors
    /// If no leader confirmed itself, or this node did not catch up, before the deadline.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<(), ReadIndexError> {
        let mut last = ReadIndexError::Unconfirmed("the deadline had passed".into());
        let caught_up = async {
            loop {
                match self.reads.read_index().await {
                    Ok(read_index) => {
                        rt::sometimes("read index known");
                        return self.store.wait_applied(read_index.index).await;
                    }
                    Err(error) => last = error,
                }
                rt::sometimes("read index retried");
                rt::sleep(READ_RETRY).await;
            }
        };
        rt::time::timeout_at(deadline, caught_up).await.map_err(|_| last)
    }

    /// Changes the membership, through a joint configuration to a uniform one, if the current one is the one that
    /// `expected` names.
    ///
    /// # Errors
    /// A message. The change may be half done; the next leader makes a joint configuration uniform.
    pub async fn change_membership(
        &self,
        change: ChangeMembers<NodeId, Member>,
        expected: Option<LogId>,
        within: Duration,
    ) -> Result<(), String> {
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: expected };
        match rt::timeout(within, self.raft.change_membership_if(change, false, [unchanged])).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("not committed within {within:?}")),
        }
    }

    /// Hands leadership to `to` and waits until it leads or `within` has passed.
    ///
    /// # Errors
    /// A message, if `to` does not lead by then.
    pub async fn transfer_leader(&self, to: NodeId, within: Duration) -> Result<(), String> {
        if self.peers.is_doubted(to) {
            return Err("its state differs from the majority's, so it must not lead".into());
        }
        if self.membership().voter_ids().count() < 2 {
            return Err("there is no other voter to hand leadership to".into());
        }
        self.raft.trigger().transfer_leader(to).await.map_err(|error| error.to_string())?;
        let moved = async {
            loop {
                match self.leader() {
                    Some(leader) if leader != self.node_id() => return leader,
                    _ => rt::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        match rt::timeout(within, moved).await {
            Ok(leader) if leader == to => {
                rt::sometimes("leadership handed over");
                Ok(())
            }
            Ok(leader) => Err(format!("{} leads instead", Named(None, leader))),
            Err(_) => {
                rt::sometimes("leadership not handed over");
                Err(format!("no hand-over within {within:?}"))
            }
        }
    }

    /// Returns the other voters whose state is not doubted, best successor first: voters that answered recently
    /// before the others, and among them the one whose log is known to reach furthest. A voter that stopped a moment
    /// ago may well have the longest log. Empty if this node does not lead.
    pub fn successors(&self) -> Vec<Successor> {
        use openraft::{Instant, rt::WatchReceiver};
        let voters: BTreeSet<NodeId> = self.membership().voter_ids().collect();
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let (Some(matched), Some(answered)) = (metrics.replication.as_ref(), metrics.heartbeat.as_ref())
        else {
            return Vec::new();
        };
        let fit = |id: &NodeId| *id != self.node_id() && !self.peers.is_doubted(*id);
        let mut others: Vec<_> = (voters.into_iter().filter(fit))
            .map(|id| {
                let answered = answered.get(&id).copied().flatten();
                let lately = answered.is_some_and(|at| at.elapsed() < self.leader_patience);
                let matched = matched.get(&id).copied().flatten();
                let is_level = lately && matched >= metrics.last_log;
                (
                    (lately, matched, answered.map(|at| at.into_inner())),
                    Successor { node_id: id, is_near: lately, is_level },
                )
            })
            .collect();
        others.sort_by(|(left, _), (right, _)| right.cmp(left));
        others.into_iter().map(|(_, successor)| successor).collect()
    }

    /// Writes a snapshot of everything that this node has applied; returns its index. Has no time limit.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn take_snapshot(&self) -> Result<u64, SnapshotError> {
        let wanted = self.store.read().applied.map_or(0, |id| id.index);
        let mut declined = self.store.snapshot_declined();
        drop(declined.borrow_and_update());
        let newest = || self.metrics().snapshot.map(|snapshot| snapshot.index);
        let taken = async {
            let mut polls: u32 = 0;
            loop {
                // Looked at before each trigger: once it is there, another one would begin the next.
                if let Some(index) = newest().filter(|index| *index >= wanted) {
                    return Ok(index);
                }
                if polls.is_multiple_of(SNAPSHOT_POLLS) {
                    // Ignored while an earlier snapshot is being written.
                    let triggered = self.raft.trigger().snapshot().await;
                    triggered.map_err(|error| SnapshotError::Stopped(error.to_string()))?;
                }
                polls += 1;
                rt::sleep(SNAPSHOT_POLL).await;
            }
        };
        tokio::select! {
            biased;
            taken = taken => taken,
            Ok(()) = declined.changed() => Err(SnapshotError::Declined(declined.borrow().clone())),
        }
    }

    /// The bytes of this node's log after `index`; `None` if the log does not reach back so far.
    pub fn log_bytes_after(&self, index: u64) -> Option<u64> {
        self.log.bytes_after(index)
    }

    /// openraft's current metrics.
    pub fn metrics(&self) -> openraft::RaftMetrics<TypeConfig> {
        use openraft::rt::WatchReceiver;
        self.raft.metrics().borrow_watched().clone()
    }

    /// Whether this node's disk is so full that it takes no more values.
    pub(super) fn is_disk_full(&self) -> bool {
        !self.log.has_room()
    }

    /// Returns a node whose disk is too full for more values: this one, or a voter that recently reported so to this
    /// leader.
    pub fn full_voter(&self) -> Option<NodeId> {
        if self.is_disk_full() {
            return Some(self.node_id());
        }
        let membership = self.membership();
        self.full_peer(|id| membership.voter_ids().any(|voter| voter == id))
    }

    /// Returns the first peer that `counts` accepts and that recently reported, to this node as the leader of this
    /// term, that its disk is nearly full.
    pub fn full_peer(&self, counts: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        use openraft::rt::WatchReceiver;
        let term = self.raft.server_metrics().borrow_watched().vote.leader_id.term;
        self.peers.full(term, rt::now(), self.leader_patience, counts)
    }

    /// The error message for a client whose value is rejected because the disk of `node_id` is nearly full.
    fn why_full(&self, node_id: NodeId) -> String {
        let membership = self.membership();
        let member = membership.membership().get_node(&node_id);
        let node = Named(member.map(|member| member.name.as_str()), node_id);
        format!(
            "the disk of {node} is nearly full (min-free-bytes), so the cluster takes no more values; free space in the file \
             system of its data directory, or delete keys: within seconds the node then writes a snapshot and gives up old \
             log, if there is room for the snapshot (the node's log says so)"
        )
    }
}
