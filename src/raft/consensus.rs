//! What the rest of the node sees of Raft: propose a command, learn how far to read, change the membership.
//!
//! Every wait here is bounded. What certainly did not happen and what may have happened are kept apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
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
use super::wire::{decode_vote, log_id_from_wire};
use super::{Raft, Timing};
use crate::map::{Answer, Command};
use crate::node_id::Named;
use crate::rt::{self, Instant, watch};
use crate::storage::Log;

/// A read that finds no leader, or one that cannot confirm itself, asks again this much later.
const READ_RETRY: Duration = Duration::from_millis(50);

/// How often somebody who waits for a snapshot looks whether it is there.
const SNAPSHOT_POLL: Duration = Duration::from_millis(10);

/// Why a snapshot that was asked for is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Raft runs no more.
    #[error("{0}")]
    Stopped(String),
    /// There is no room for it.
    #[error("no snapshot is taken: {0}")]
    Declined(String),
}

type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

/// Why a command was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not executed: this node does not lead; the leader, if one is known.
    #[error("this node is not the leader")]
    NotLeader(Option<u64>),
    /// Certainly not executed.
    #[error("{0}")]
    NotExecuted(String),
    /// Certainly not executed: a voter's disk has no room for more values.
    #[error("{0}")]
    Full(String),
    /// Executed, or not, or still to be executed.
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
    /// Where it stands in the log.
    pub log_id: LogId,
}

/// A voter that may lead after this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Successor {
    /// Its node id.
    pub node_id: u64,
    /// It answered lately.
    pub is_near: bool,
    /// It answered lately, and its log has all that this node's has.
    pub is_level: bool,
}

/// A node's share of the consensus. Clones share it.
#[derive(Clone)]
pub struct Consensus {
    raft: Raft,
    store: Arc<Store>,
    peers: Arc<Peers>,
    log: Log,
    reads: Reads,
    request_timeout: Duration,
    /// When the leader was last heard, and up to which entry it said that the cluster has committed; `None`: not since
    /// this process began.
    leader_heard: Arc<Mutex<Option<(Instant, u64)>>>,
    /// A leader that is silent for longer counts as none.
    leader_patience: Duration,
    /// The time in which a follower waits for its leader, at least.
    election: Duration,
    /// Set once a leader has contradicted what this node knows to be committed.
    contradiction: watch::Sender<Option<Contradiction>>,
    /// Whether a majority has another state than this node.
    doubt: Doubt,
    /// While this node leads: whom it does not admit, and why.
    refused: Arc<Mutex<BTreeMap<u64, String>>>,
}

impl Consensus {
    /// Puts the parts together and starts the rounds for reads.
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
            leader_heard: Arc::default(),
            // The longest election timeout: by then this node stands for election itself.
            leader_patience: timing.election * 2,
            election: timing.election,
            doubt,
            contradiction: watch::channel(None).0,
            refused: Arc::default(),
        }
    }

    /// From now on these nodes, and no others, are told by this one why they are not admitted.
    pub fn refuse(&self, refused: BTreeMap<u64, String>) {
        *self.refused.lock().expect("no code panics while it holds this lock") = refused;
    }

    /// Why this node does not admit that one; empty if it leads nobody, or has no objection.
    pub fn refusal(&self, node_id: u64) -> String {
        let refused = self.refused.lock().expect("no code panics while it holds this lock");
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

    /// Links to peers.
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

    /// How long a request may take when its client does not say.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// This node's id.
    pub fn node_id(&self) -> u64 {
        *self.raft.node_id()
    }

    /// The node that leads, as far as this one knows: itself, if a quorum answered it of late, or one that it has heard
    /// of late.
    ///
    /// openraft names whoever won the last vote, and with pre-votes a node without a quorum never votes again: it
    /// would know a leader for ever. So would a leader whom everybody has left.
    pub fn leader(&self) -> Option<u64> {
        use openraft::rt::WatchReceiver;
        let leader = self.raft.server_metrics().borrow_watched().current_leader?;
        let is_near = |at: Instant| rt::now().saturating_duration_since(at) <= self.leader_patience;
        let is_known = match leader == self.node_id() {
            // Asked with every write: the membership only where it must be.
            true => self.quorum_answered().is_some_and(is_near) || self.membership().voter_ids().count() == 1,
            false => self.leader_heard().is_some_and(|(at, _)| is_near(at)),
        };
        is_known.then_some(leader)
    }

    /// When what a quorum has answered was sent, if this node leads.
    fn quorum_answered(&self) -> Option<Instant> {
        use openraft::rt::WatchReceiver;
        let metrics = self.raft.data_metrics();
        let answered = metrics.borrow_watched().last_quorum_acked;
        answered.map(|at| (*at).into())
    }

    fn leader_heard(&self) -> Option<(Instant, u64)> {
        *self.leader_heard.lock().expect("no code panics while it holds this lock")
    }

    /// The leader of this node's term has spoken, and has committed entries up to this index.
    pub(super) fn leader_spoke(&self, committed: u64) {
        let heard = Some((rt::now(), committed));
        *self.leader_heard.lock().expect("no code panics while it holds this lock") = heard;
    }

    /// The leader of this node's term tells how far members have acknowledged.
    pub(super) fn hear_of_acknowledged(&self, acknowledged: Vec<wire::Acknowledgement>) {
        if acknowledged.is_empty() {
            return;
        }
        let membership = self.membership();
        let mut positions = self.peers.positions();
        for told in acknowledged {
            // Whoever is no member, or not yet, is not remembered: a leader bounds nothing.
            if membership.membership().get_node(&told.node_id).is_some() {
                positions.hear(told);
            }
        }
    }

    /// Compares what a leader says of its log with what this node knows to be committed.
    ///
    /// # Errors
    /// In words if they contradict each other, now or before: from then on this node acknowledges nothing.
    pub(super) fn check(&self, claim: &Claim) -> Result<(), String> {
        use openraft::rt::WatchReceiver;
        let committed = self.raft.data_metrics().borrow_watched().local_committed;
        // Read afterwards: a leader of an earlier term than the one that committed it is told from one that contradicts it.
        let vote = self.log.state().vote.map(|vote| decode_vote(&vote)).transpose();
        let vote = vote.map_err(|error| error.to_string())?;
        if let (Some(committed), Some(vote)) = (committed, vote)
            && let Some(found) = claim.contradicts(&self.log, committed, vote)
        {
            self.contradict(found);
        }
        self.uncontradicted()
    }

    /// Whether this node's log has other entries in the place of those that a leader sent.
    pub(super) fn denies(&self, claim: &Claim) -> bool {
        claim.is_denied_by(&self.log)
    }

    /// A leader contradicts what this node knows to be committed: one of the two is not of this cluster's history, and no
    /// node can tell which one. This node takes no part until a person has decided: it does not vote, stand for election,
    /// acknowledge, or answer.
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

    /// Set once a leader has contradicted what this node knows to be committed.
    pub fn contradiction(&self) -> watch::Receiver<Option<Contradiction>> {
        self.contradiction.subscribe()
    }

    /// # Errors
    /// In words, if a leader has contradicted what this node knows to be committed.
    pub(super) fn uncontradicted(&self) -> Result<(), String> {
        match &*self.contradiction.borrow() {
            None => Ok(()),
            Some(found) => Err(format!("this node takes no part any more: {found}")),
        }
    }

    /// A majority has another state than this node: from now on its own is never shown. Keep it from leading besides
    /// ([`super::doubt::keep_from_leading`]).
    pub fn doubt(&self) {
        self.doubt.begin();
        self.raft.runtime_config().elect(false);
    }

    /// Whether a majority has another state than this node.
    pub fn is_doubted(&self) -> bool {
        self.doubt.is_there()
    }

    /// Who is silent for longer counts as gone.
    pub(super) fn leader_patience(&self) -> Duration {
        self.leader_patience
    }

    /// The time in which a follower waits for its leader, at least.
    pub(super) fn election_timeout(&self) -> Duration {
        self.election
    }

    /// How this node is, for its leader.
    pub(super) fn condition(&self) -> FollowerState {
        FollowerState { disk_full: self.is_disk_full(), is_doubted: self.is_doubted() }
    }

    /// How many entries this node has still to apply of what its leader, by its last word, has committed; `None` while
    /// no leader is known.
    pub fn lag(&self) -> Option<u64> {
        use openraft::rt::WatchReceiver;
        let committed = match self.leader()? {
            leader if leader == self.node_id() => {
                let metrics = self.raft.data_metrics();
                let committed = metrics.borrow_watched().local_committed;
                committed.map_or(0, |id| id.index)
            }
            _ => self.leader_heard()?.1,
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

    /// What this node is in its term, as far as it knows.
    pub fn state(&self) -> ServerState {
        use openraft::rt::WatchReceiver;
        self.raft.server_metrics().borrow_watched().state
    }

    /// Whether this node leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.state() == ServerState::Leader
    }

    /// The term in which this node leads, as far as it knows.
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

    /// Executes a command, here or, forwarded once, on the leader. Returns when this node has applied it.
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
        // What every voter has to store is for the leader to admit, whoever of them the client asked.
        if Command::carries_a_value(&payload)
            && let Some(full) = self.full_voter()
        {
            rt::sometimes("write refused for a full disk");
            return Err(ProposeError::Full(self.why_full(full)));
        }
        self.written(self.raft.client_write(Payload(payload)), deadline).await
    }

    /// Executes a command if this node leads in `term`: never forwarded, and void in any other term, though this node leads
    /// again. Everything that stood in this node's log before it is applied here when this returns. Not for what carries a
    /// value: nobody asks whether there is room for it.
    ///
    /// # Errors
    /// See [`ProposeError`]. What is unknown stands in this node's log, or will never be executed.
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
    /// If a majority has another state than this node, which decides nothing then.
    fn undoubted(&self) -> Result<(), ProposeError> {
        if !self.is_doubted() {
            return Ok(());
        }
        rt::sometimes("doubted leader proposed nothing");
        let reason = "the leader's state is doubted, and another voter is about to lead";
        Err(ProposeError::NotExecuted(reason.into()))
    }

    /// What has become of a write to this node's own Raft.
    async fn written(
        &self,
        write: impl Future<Output = Result<ClientWriteResponse<TypeConfig>, WriteError>>,
        deadline: Instant,
    ) -> Result<Committed, ProposeError> {
        match rt::time::timeout_at(deadline, write).await {
            // What its state answers is not to be believed.
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
        leader: u64,
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
            Ok(Ok(_)) => return Err(ProposeError::Unknown("the leader answered another question".into())),
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
            Some(Outcome::NotLeader(leader)) => Err(ProposeError::NotLeader((leader != 0).then_some(leader))),
            Some(Outcome::Refused(reason)) => Err(ProposeError::NotExecuted(reason)),
            Some(Outcome::Full(wire::Full { reason })) => Err(ProposeError::Full(reason)),
            Some(Outcome::Unknown(reason)) => Err(ProposeError::Unknown(reason)),
            None => Err(ProposeError::Unknown("the leader's answer is empty".into())),
        }
    }

    /// Waits until this node's copy holds every write that was answered before the call.
    ///
    /// # Errors
    /// If until the deadline no leader confirmed itself, or this node did not catch up.
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

    /// Changes the membership, if it still is the one that `expected` names, in one change: joint and uniform.
    ///
    /// # Errors
    /// In words; the change may be half done, and the next leader flattens what is joint.
    pub async fn change_membership(
        &self,
        change: ChangeMembers<u64, Member>,
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
    /// In words, if another node did not take over.
    pub async fn transfer_leader(&self, to: u64, within: Duration) -> Result<(), String> {
        if self.peers.is_doubted(to) {
            return Err("its state differs from the majority's, so it must not lead".into());
        }
        if self.membership().voter_ids().count() < 2 {
            return Err("the only voter has nobody to hand leadership to".into());
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

    /// The other voters, the fittest to lead first: those that answered lately, of them those whose logs are known to reach
    /// furthest. A voter that stopped a moment ago may well have the longest log. None whose state is doubted. Empty if this
    /// node does not lead.
    pub fn successors(&self) -> Vec<Successor> {
        use openraft::{Instant, rt::WatchReceiver};
        let voters: BTreeSet<u64> = self.membership().voter_ids().collect();
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let (Some(matched), Some(answered)) = (metrics.replication.as_ref(), metrics.heartbeat.as_ref())
        else {
            return Vec::new();
        };
        let fit = |id: &u64| *id != self.node_id() && !self.peers.is_doubted(*id);
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

    /// Lets this node write a snapshot of all that it has applied; returns its index. Unbounded in time.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn take_snapshot(&self) -> Result<u64, SnapshotError> {
        let wanted = self.store.read().applied.map_or(0, |id| id.index);
        let mut declined = self.store.snapshot_declined();
        drop(declined.borrow_and_update());
        let trigger = self.raft.trigger();
        trigger.snapshot().await.map_err(|error| SnapshotError::Stopped(error.to_string()))?;
        let taken = async {
            loop {
                match self.metrics().snapshot {
                    Some(snapshot) if snapshot.index >= wanted => return snapshot.index,
                    _ => rt::sleep(SNAPSHOT_POLL).await,
                }
            }
        };
        tokio::select! {
            biased;
            index = taken => Ok(index),
            Ok(()) = declined.changed() => Err(SnapshotError::Declined(declined.borrow().clone())),
        }
    }

    /// The bytes of this node's log behind `index`; `None`: its log does not reach back so far.
    pub fn log_bytes_after(&self, index: u64) -> Option<u64> {
        self.log.bytes_after(index)
    }

    /// openraft's own figures, now.
    pub fn metrics(&self) -> openraft::RaftMetrics<TypeConfig> {
        use openraft::rt::WatchReceiver;
        self.raft.metrics().borrow_watched().clone()
    }

    /// Whether this node's disk is so full that it takes no more values.
    pub(super) fn is_disk_full(&self) -> bool {
        !self.log.has_room()
    }

    /// A node whose disk is too full for more values: this one, or a voter that said so to this leader and is heard.
    pub fn full_voter(&self) -> Option<u64> {
        if self.is_disk_full() {
            return Some(self.node_id());
        }
        let membership = self.membership();
        self.full_peer(|id| membership.voter_ids().any(|voter| voter == id))
    }

    /// The first peer that `counts` and that has said of late, to this node as the leader of this term, that its disk is
    /// nearly full.
    pub fn full_peer(&self, counts: impl Fn(u64) -> bool) -> Option<u64> {
        use openraft::rt::WatchReceiver;
        let term = self.raft.server_metrics().borrow_watched().vote.leader_id.term;
        self.peers.full(term, rt::now(), self.leader_patience, counts)
    }

    /// What a client hears whose value is refused because of this node's disk.
    fn why_full(&self, node_id: u64) -> String {
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
