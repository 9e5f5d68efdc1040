//! The state that the services of a node share: the node's name and id, whether it serves, and the reasons if it does
//! not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use openraft::ServerState;
use tokio::sync::{mpsc, oneshot};

use super::admission::Admission;
use super::outcome::Refused;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::node_id::NodeId;
use crate::positions::GoneBack;
use crate::raft::peers::AddressBook;
use crate::raft::snapshotting::SnapshotPolicy;
use crate::raft::{Consensus, Contradiction, Member, ProposeError, ReadIndexError};
use crate::rt::lock::Mutex;
use crate::storage::{Log, Snapshots};

/// What happens to the place of a member that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The cluster is smaller from then on. The removed node stays out, also while it runs.
    Closes,
    /// The removed node may join again under a new id, or another node may take its place.
    StaysOpen,
}

/// Requests of operators to a node that is part of a cluster.
#[async_trait]
pub trait Operator: Send + Sync + 'static {
    /// Removes a member from the cluster for good. Only the leader does so. Returns the member's node id.
    async fn remove_member(&self, name: &str, place: Place) -> Result<NodeId, Refused>;
}

/// The reply channel of a request to leave the cluster for good and to end. The node sends whether it has left.
pub type AskedToLeave = oneshot::Sender<Result<(), String>>;

/// The reasons why a node does not serve, and its warnings for operators.
pub trait Diagnosis: Send + Sync + 'static {
    /// Returns the reasons as sentences; those that keep the node from serving come first. Empty: the node is well.
    fn reasons(&self) -> Vec<String>;

    /// Returns whether the node belongs to no cluster yet, and waits for one.
    fn is_forming(&self) -> bool;
}

/// A node that is part of a cluster and has recovered.
pub struct Serving {
    /// This node's handle of Raft.
    pub consensus: Consensus,
    /// The addresses of the members.
    pub book: Arc<dyn AddressBook>,
    /// Its log, for space and positions.
    pub log: Log,
    /// Its snapshots, for their sizes.
    pub snapshots: Snapshots,
    /// When it takes snapshots.
    pub snapshot_policy: SnapshotPolicy,
    /// The requests of operators.
    pub operator: Arc<dyn Operator>,
}

/// Shared by all services of a node.
pub struct Context {
    /// The node's name.
    pub name: String,
    /// The node's id.
    pub node_id: NodeId,
    /// The boot counter of its data directory.
    pub boot: u64,
    /// Its own rpc address, as other nodes and clients should use it.
    pub rpc_addr: String,
    /// The bounds of a request.
    pub limits: Limits,
    /// The node's counters.
    pub metrics: Arc<Metrics>,
    /// The places for requests, streams and connections.
    pub admission: Admission,
    leave: mpsc::Sender<AskedToLeave>,
    raft: OnceLock<(Consensus, Arc<dyn AddressBook>)>,
    serving: OnceLock<Serving>,
    diagnosis: OnceLock<Weak<dyn Diagnosis>>,
    outside: AtomicBool,
    quarantined: AtomicBool,
    contradiction: OnceLock<Contradiction>,
    digest_alarm: AtomicBool,
    not_admitted: Mutex<Option<String>>,
    /// The parts of this node that are damaged, each with a sentence that says how the damage was found.
    damage: Mutex<BTreeMap<String, String>>,
}

impl Context {
    /// Returns the context of a node that serves nothing yet.
    pub fn new(
        name: String,
        node_id: NodeId,
        boot: u64,
        rpc_addr: String,
        limits: Limits,
        metrics: Arc<Metrics>,
        leave: mpsc::Sender<AskedToLeave>,
    ) -> Arc<Context> {
        Arc::new(Context {
            admission: Admission::new(&limits),
            name,
            node_id,
            boot,
            rpc_addr,
            limits,
            metrics,
            leave,
            raft: OnceLock::new(),
            serving: OnceLock::new(),
            diagnosis: OnceLock::new(),
            outside: AtomicBool::new(false),
            quarantined: AtomicBool::new(false),
            contradiction: OnceLock::new(),
            digest_alarm: AtomicBool::new(false),
            not_admitted: Mutex::default(),
            damage: Mutex::default(),
        })
    }

    /// Sets the source of [`Context::reasons`]. Only the first call has an effect.
    pub fn explained_by(&self, diagnosis: Weak<dyn Diagnosis>) {
        self.diagnosis.get_or_init(|| diagnosis);
    }

    /// Returns the reasons why this node does not serve, and its warnings, as sentences.
    pub fn reasons(&self) -> Vec<String> {
        self.diagnosis().map(|diagnosis| diagnosis.reasons()).unwrap_or_default()
    }

    fn diagnosis(&self) -> Option<Arc<dyn Diagnosis>> {
        self.diagnosis.get().and_then(Weak::upgrade)
    }

    /// Notes that the node takes part in Raft from now on. It may not have recovered yet.
    ///
    /// # Panics
    /// If it was called before.
    pub fn take_part(&self, consensus: Consensus, book: Arc<dyn AddressBook>) {
        assert!(self.raft.set((consensus, book)).is_ok(), "a node starts its Raft once");
    }

    /// Returns the node's handle of Raft and the members' addresses, once Raft runs, also before the node has recovered.
    pub fn raft(&self) -> Option<&(Consensus, Arc<dyn AddressBook>)> {
        self.raft.get()
    }

    /// Returns the node's handle of Raft, once Raft runs, also before the node has recovered.
    pub fn consensus(&self) -> Option<&Consensus> {
        self.raft().map(|(consensus, _)| consensus)
    }

    /// Notes that the node serves from now on.
    ///
    /// # Panics
    /// If it was called before.
    pub fn start_serving(&self, serving: Serving) {
        assert!(self.serving.set(serving).is_ok(), "a node starts serving once");
    }

    /// Returns the parts of a node that has recovered, even if it is quarantined.
    pub fn recovered(&self) -> Option<&Serving> {
        self.serving.get()
    }

    /// Returns the parts of a node that may answer clients.
    ///
    /// # Errors
    /// [`Refused::NotExecuted`], with the reasons.
    pub fn serving(&self) -> Result<&Serving, Refused> {
        let serving = self.serving.get().filter(|_| !self.is_quarantined());
        serving.ok_or_else(|| {
            let reasons = self.reasons();
            let reason = match reasons.is_empty() {
                true => "this node is about to serve".to_owned(),
                false => reasons.join("; "),
            };
            Refused::not_executed(reason)
        })
    }

    /// Asks the node to leave its cluster and to end, and waits until it has left.
    ///
    /// # Errors
    /// The reason why the node stays a member.
    pub async fn ask_to_leave(&self) -> Result<(), String> {
        let (reply, left) = oneshot::channel();
        // A second request while the node leaves already waits for the same end.
        let _ = self.leave.send(reply).await;
        left.await.unwrap_or_else(|_| Err("it is stopping".to_owned()))
    }

    /// Returns this node's present role, one of [`crate::metrics::ROLES`].
    pub fn role(&self) -> &'static str {
        if self.is_quarantined() && (self.recovered().is_some() || self.contradiction().is_some()) {
            return "quarantined";
        }
        let Some(serving) = self.recovered() else {
            return match self.consensus() {
                _ if self.is_outside() => "removed",
                Some(consensus) if !consensus.is_member() => "waiting",
                None if self.diagnosis().is_some_and(|diagnosis| diagnosis.is_forming()) => "waiting",
                _ => "recovering",
            };
        };
        match serving.consensus.state() {
            ServerState::Leader => "leader",
            ServerState::Follower => "follower",
            ServerState::Candidate => "candidate",
            ServerState::Learner => "learner",
            ServerState::Shutdown => "stopping",
        }
    }

    /// Returns whether this node was removed from its cluster and waits to be stopped.
    pub fn is_outside(&self) -> bool {
        self.outside.load(Ordering::Relaxed)
    }

    /// Notes that this node belongs to no cluster until its process ends.
    pub fn stay_outside(&self) {
        self.outside.store(true, Ordering::Relaxed);
    }

    /// Returns whether a majority has outvoted this node's state, or a leader's log contradicts this node's.
    pub fn is_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Relaxed) || self.contradiction().is_some()
    }

    /// Returns the position where a leader's log contradicts an entry that this node knows to be committed.
    pub fn contradiction(&self) -> Option<&Contradiction> {
        self.contradiction.get()
    }

    /// Stops serving, because a leader's log contradicts an entry that this node knows to be committed. Only the first
    /// contradiction is kept.
    pub fn contradict(&self, found: Contradiction) {
        self.contradiction.get_or_init(|| found);
    }

    /// Returns the members that this node refuses, because they have gone back behind what they had acknowledged.
    pub fn gone_back(&self) -> BTreeMap<NodeId, GoneBack> {
        self.consensus().map(|consensus| consensus.peers().positions().refused().clone()).unwrap_or_default()
    }

    /// Returns a member's name. Empty: no member has this id, or this node does not take part in Raft yet.
    pub(super) fn member_name(&self, node_id: NodeId) -> String {
        let membership = self.consensus().map(Consensus::membership);
        let member = membership.and_then(|members| members.membership().get_node(&node_id).cloned());
        member.map(|member| member.name).unwrap_or_default()
    }

    /// Stops serving until the process ends.
    pub fn quarantine(&self) {
        self.quarantined.store(true, Ordering::Relaxed);
    }

    /// Returns the reason why the leader does not admit this node, if the leader sent one.
    pub fn not_admitted(&self) -> Option<String> {
        self.not_admitted.lock().clone()
    }

    /// Sets the reason why the leader does not admit this node; `None`: it has no objection. Logs the first reason after
    /// `None`.
    pub fn set_not_admitted(&self, reason: Option<String>) {
        let mut known = self.not_admitted.lock();
        if let (Some(reason), None) = (&reason, &*known) {
            tracing::info!("the cluster does not admit this node: {reason}");
        }
        *known = reason;
    }

    /// Returns a sentence for each part of this node that is damaged.
    pub fn damage(&self) -> Vec<String> {
        let damage = self.damage.lock();
        damage.values().cloned().collect()
    }

    /// Sets the sentence that describes the damage of `what`; `None`: `what` is no longer damaged. Returns whether `what`
    /// was known to be damaged before.
    pub fn set_damage(&self, what: &str, description: Option<String>) -> bool {
        let mut damage = self.damage.lock();
        match description {
            Some(description) => damage.insert(what.to_owned(), description),
            None => damage.remove(what),
        }
        .is_some()
    }

    /// Returns whether digests of the members disagree.
    pub fn digest_alarm(&self) -> bool {
        self.digest_alarm.load(Ordering::Relaxed)
    }

    /// Sets whether digests of the members disagree.
    pub fn set_digest_alarm(&self, disagree: bool) {
        self.digest_alarm.store(disagree, Ordering::Relaxed);
    }
}

impl Serving {
    /// Returns a member's address as `host:port`: of its newest claim, else of the membership.
    pub fn address_of(&self, node_id: NodeId, member: &Member) -> String {
        self.book.addresses(node_id).into_iter().next().unwrap_or_else(|| member.rpc_addr.clone())
    }

    /// Returns the leader's address as `host:port`, if the leader is known and a member.
    pub fn leader_address(&self, leader: Option<NodeId>) -> Option<String> {
        let leader = leader?;
        let membership = self.consensus.membership();
        membership.membership().get_node(&leader).map(|member| self.address_of(leader, member))
    }
}

impl Context {
    /// Returns the error for the client of a read that was not confirmed.
    pub(super) fn read_failed(&self, error: ReadIndexError) -> Refused {
        let reason = self.with_reasons(format!("no leader confirmed this read: {error}"));
        Refused::NotExecuted { reason, leader: self.leader_address(None) }
    }

    /// Returns the error for the client of a command that was not answered.
    pub(super) fn propose_failed(&self, error: ProposeError, deadline_passed: bool) -> Refused {
        match error {
            ProposeError::NotLeader(leader) => Refused::NotExecuted {
                reason: self.with_reasons("this node is not the leader".into()),
                leader: self.leader_address(leader),
            },
            ProposeError::NotExecuted(reason) => {
                Refused::NotExecuted { reason: self.with_reasons(reason), leader: self.leader_address(None) }
            }
            ProposeError::Full(reason) => Refused::NoRoom(reason),
            ProposeError::Unknown(reason) => {
                Refused::Unknown { reason: self.with_reasons(reason), is_late: deadline_passed }
            }
        }
    }

    /// Returns the failure, followed by what this node knows of its cause.
    fn with_reasons(&self, failure: String) -> String {
        [failure].into_iter().chain(self.reasons()).collect::<Vec<_>>().join("; ")
    }

    /// Returns the address of this leader, or else of the leader that this node knows.
    fn leader_address(&self, leader: Option<NodeId>) -> Option<String> {
        let serving = self.recovered()?;
        serving.leader_address(leader.or_else(|| serving.consensus.leader()))
    }
}
