//! What the services of a node share: who it is, whether it serves, and why not.

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
use crate::raft::{Consensus, Contradiction, Member, ProposeError, ReadIndexError};
use crate::rt::lock::Mutex;
use crate::storage::{Log, Snapshots};

/// What becomes of the place of a member that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The cluster is smaller from then on: the node stays out, also while it runs.
    Closes,
    /// The node may come back as another, or any other node may join in its stead.
    StaysOpen,
}

/// What operators may ask of a node that is part of a cluster.
#[async_trait]
pub trait Operator: Send + Sync + 'static {
    /// Takes a member out of the cluster for good; the leader's work.
    async fn remove_member(&self, name: &str, place: Place) -> Result<NodeId, Refused>;
}

/// Asks a node to leave its cluster for good and to end; hears whether it has left.
pub type AskedToLeave = oneshot::Sender<Result<(), String>>;

/// Knows why a node does not serve, and what else a person should know of it.
pub trait Diagnosis: Send + Sync + 'static {
    /// In words, what keeps the node from serving first. None: it is well.
    fn reasons(&self) -> Vec<String>;

    /// Whether the node belongs to no cluster yet, and waits for one.
    fn is_forming(&self) -> bool;
}

/// A node that is part of a cluster and has recovered.
pub struct Serving {
    /// Its share of the consensus.
    pub consensus: Consensus,
    /// Where the other members are.
    pub book: Arc<dyn AddressBook>,
    /// Its log, for space and positions.
    pub log: Log,
    /// Its snapshots, for their sizes.
    pub snapshots: Snapshots,
    /// What operators may ask of it.
    pub operator: Arc<dyn Operator>,
}

/// Shared by all services of a node.
pub struct Context {
    /// The node's name.
    pub name: String,
    /// The node's id.
    pub node_id: NodeId,
    /// How often its data directory was started.
    pub boot: u64,
    /// Its own rpc address, as others should use it.
    pub rpc_addr: String,
    /// What a request may cost.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who is served at a time.
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
    /// What is damaged on this node, and how that is known, in words.
    damage: Mutex<BTreeMap<String, String>>,
}

impl Context {
    /// The context of a node that serves nothing yet.
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

    /// From now on this is asked why the node does not serve. The first one counts.
    pub fn explained_by(&self, diagnosis: Weak<dyn Diagnosis>) {
        self.diagnosis.get_or_init(|| diagnosis);
    }

    /// What a person should know of this node, in words.
    pub fn reasons(&self) -> Vec<String> {
        self.diagnosis().map(|diagnosis| diagnosis.reasons()).unwrap_or_default()
    }

    fn diagnosis(&self) -> Option<Arc<dyn Diagnosis>> {
        self.diagnosis.get().and_then(Weak::upgrade)
    }

    /// From now on the node takes part in Raft, though it may not have recovered yet.
    ///
    /// # Panics
    /// If it did before.
    pub fn take_part(&self, consensus: Consensus, book: Arc<dyn AddressBook>) {
        assert!(self.raft.set((consensus, book)).is_ok(), "a node starts its Raft once");
    }

    /// The node's share of the consensus and where the others are, from before it has recovered on.
    pub fn raft(&self) -> Option<&(Consensus, Arc<dyn AddressBook>)> {
        self.raft.get()
    }

    /// The node's share of the consensus, from before it has recovered on.
    pub fn consensus(&self) -> Option<&Consensus> {
        self.raft().map(|(consensus, _)| consensus)
    }

    /// From now on the node serves.
    ///
    /// # Panics
    /// If it served before.
    pub fn start_serving(&self, serving: Serving) {
        assert!(self.serving.set(serving).is_ok(), "a node starts serving once");
    }

    /// The node's inner life, if it has recovered; whatever its state.
    pub fn recovered(&self) -> Option<&Serving> {
        self.serving.get()
    }

    /// The node's inner life, if it may answer clients.
    ///
    /// # Errors
    /// [`Refused::NotExecuted`], with the reasons.
    pub fn serving(&self) -> Result<&Serving, Refused> {
        let serving = self.serving.get().filter(|_| !self.is_quarantined());
        serving.ok_or_else(|| {
            let reasons = self.reasons();
            let words = match reasons.is_empty() {
                true => "this node is about to serve".to_owned(),
                false => reasons.join("; "),
            };
            Refused::not_executed(words)
        })
    }

    /// Asks the node to leave and to end; resolves when it has left, or says why it stays.
    pub async fn ask_to_leave(&self) -> Result<(), String> {
        let (tell, told) = oneshot::channel();
        // Whoever asks while the node leaves already waits for the same end.
        let _ = self.leave.send(tell).await;
        told.await.unwrap_or_else(|_| Err("it is stopping".to_owned()))
    }

    /// What this node is now, in one word of [`crate::metrics::ROLES`].
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

    /// Whether this node was removed from its cluster and waits to be stopped.
    pub fn is_outside(&self) -> bool {
        self.outside.load(Ordering::Relaxed)
    }

    /// Belong to no cluster until the process ends.
    pub fn stay_outside(&self) {
        self.outside.store(true, Ordering::Relaxed);
    }

    /// Whether this node was outvoted by a majority over its state, or contradicted by a leader over its log.
    pub fn is_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Relaxed) || self.contradiction().is_some()
    }

    /// Where a leader's log contradicts what this node knows to be committed.
    pub fn contradiction(&self) -> Option<&Contradiction> {
        self.contradiction.get()
    }

    /// Serve nothing any more, because a leader's log contradicts what this node knows to be committed. The first time
    /// counts.
    pub fn contradict(&self, found: Contradiction) {
        self.contradiction.get_or_init(|| found);
    }

    /// The members that this node refuses, because they have gone back behind what they had acknowledged.
    pub fn gone_back(&self) -> BTreeMap<NodeId, GoneBack> {
        self.consensus().map(|consensus| consensus.peers().positions().refused().clone()).unwrap_or_default()
    }

    /// A member's name. Empty: no member has this id, or this node does not take part in Raft yet.
    pub(super) fn member_name(&self, node_id: NodeId) -> String {
        let membership = self.consensus().map(Consensus::membership);
        let member = membership.and_then(|members| members.membership().get_node(&node_id).cloned());
        member.map(|member| member.name).unwrap_or_default()
    }

    /// Serve nothing any more.
    pub fn quarantine(&self) {
        self.quarantined.store(true, Ordering::Relaxed);
    }

    /// Why the leader does not admit this node, if it said so.
    pub fn not_admitted(&self) -> Option<String> {
        self.not_admitted.lock().clone()
    }

    /// Says why the leader does not admit this node, or that nothing is known against it. The log tells it once.
    pub fn set_not_admitted(&self, reason: Option<String>) {
        let mut known = self.not_admitted.lock();
        if let (Some(reason), None) = (&reason, &*known) {
            tracing::info!("the cluster does not admit this node: {reason}");
        }
        *known = reason;
    }

    /// What is damaged on this node, in words.
    pub fn damage(&self) -> Vec<String> {
        let damage = self.damage.lock();
        damage.values().cloned().collect()
    }

    /// Notes that `what` is damaged, in `words`, or (`None`) no more. Whether it was known to be damaged before.
    pub fn set_damage(&self, what: &str, words: Option<String>) -> bool {
        let mut damage = self.damage.lock();
        match words {
            Some(words) => damage.insert(what.to_owned(), words),
            None => damage.remove(what),
        }
        .is_some()
    }

    /// Whether digests of the members disagree.
    pub fn digest_alarm(&self) -> bool {
        self.digest_alarm.load(Ordering::Relaxed)
    }

    /// Says whether digests of the members disagree.
    pub fn set_digest_alarm(&self, disagree: bool) {
        self.digest_alarm.store(disagree, Ordering::Relaxed);
    }
}

impl Serving {
    /// Where a member is: its newest claim, or what the membership says.
    pub fn address_of(&self, node_id: NodeId, member: &Member) -> String {
        self.book.addresses(node_id).into_iter().next().unwrap_or_else(|| member.rpc_addr.clone())
    }

    /// Where the leader is.
    pub fn leader_address(&self, leader: Option<NodeId>) -> Option<String> {
        let leader = leader?;
        let membership = self.consensus.membership();
        membership.membership().get_node(&leader).map(|member| self.address_of(leader, member))
    }
}

impl Context {
    /// Why a read was not answered, for its client.
    pub(super) fn read_failed(&self, error: ReadIndexError) -> Refused {
        let reason = self.with_reasons(format!("no leader confirmed this read: {error}"));
        Refused::NotExecuted { reason, leader: self.leader_address(None) }
    }

    /// Why a command was not answered, for its client.
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

    /// What went wrong, and what this node knows of the cause.
    fn with_reasons(&self, words: String) -> String {
        [words].into_iter().chain(self.reasons()).collect::<Vec<_>>().join("; ")
    }

    /// Where this leader is, or the one that this node knows.
    fn leader_address(&self, leader: Option<NodeId>) -> Option<String> {
        let serving = self.recovered()?;
        serving.leader_address(leader.or_else(|| serving.consensus.leader()))
    }
}
