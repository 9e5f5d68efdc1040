//! From an identity to serving: finds the cluster, opens the data, starts Raft, recovers, and detects when the node
//! must end.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use mokv_proto::raft::{Exclusion, Refusal};
use tokio::sync::Mutex;

use super::member_addresses::MemberAddresses;
use super::replacing::{self, Claimed};
use super::scrub::Scrub;
use super::{End, NodeError, Options, digests, finish, incarnations, initial, intent, log_config, removal};
use crate::config::NodeConfig;
use crate::leader::compaction;
use crate::membership::driver::{self, Driver};
use crate::membership::formation::{self, Waiting};
use crate::membership::identity::IdentityError;
use crate::membership::{Claim, FormError, Formed, Gossip, Identity, Liveness, State, View, form};
use crate::metrics::Damaged;
use crate::mux::PeerRoute;
use crate::node_id::NodeId;
use crate::positions::{Positions, Reach, Start};
use crate::raft::handler::PeerHandler;
use crate::raft::peers::{LocalNode, PeerAdmission, Peers};
use crate::raft::snapshotting::{SnapshotPolicy, take_snapshots_for_ever};
use crate::raft::wire::{Malformed, decode_vote};
use crate::raft::{self, Consensus, Contradiction, Member, Store, doubt, space};
use crate::replicated_settings::SettingsChange;
use crate::rt::disk::DiskRef;
use crate::rt::net::Resolver;
use crate::rt::task::{TaskGuard, spawn_guarded};
use crate::rt::{self, Instant, watch};
use crate::service::{Context, Serving};
use crate::storage::{Log, Owner, Snapshots};

/// A node whose data is damaged at start asks for at most this long whether it may start over, and then stops; each
/// restart asks again.
const DAMAGED_PATIENCE: Duration = Duration::from_secs(60);
/// A node in quarantine asks for at most this long before it goes on: it still votes, and its log may be needed.
const QUARANTINED_PATIENCE: Duration = Duration::from_secs(5);

/// Brings a node from its identity to serving, and detects when it cannot go on.
pub(super) struct Lifecycle {
    pub config: NodeConfig,
    pub disk: DiskRef,
    pub options: Options,
    pub identity: Arc<Mutex<Option<Identity>>>,
    pub gossip: Arc<Gossip>,
    pub resolver: Resolver,
    pub context: Arc<Context>,
    /// What the formation of the cluster waits for.
    pub waits: watch::Sender<Option<Waiting>>,
    pub peers: watch::Sender<Option<Arc<PeerRoute>>>,
    pub running: watch::Sender<Option<(Consensus, Log)>>,
    pub end: watch::Sender<Option<End>>,
}

impl Lifecycle {
    /// Runs until the node must not go on, and publishes the reason in `end`.
    pub async fn run(self) {
        let _end_on_panic = EndOnPanic(self.end.clone());
        let reason = match self.join_and_serve().await {
            Ok(end) => end,
            Err(error) => End::Failed(error),
        };
        finish(&self.end, reason);
    }

    /// Returns when the node must not go on.
    async fn join_and_serve(&self) -> Result<End, NodeError> {
        if self.context.is_outside() {
            std::future::pending::<()>().await;
        }
        let formed = self.find_cluster().await?;
        if self.may_replace_itself().await && self.context.is_quarantined() {
            let deadline = rt::now() + QUARANTINED_PATIENCE;
            if self.ask_to_start_over(deadline, |_| {}).await?.is_ok() {
                return Ok(End::Replaced);
            }
        }
        let (log, snapshots) = match self.open_storage().await {
            Err(error) if error.is_damage() && self.may_replace_itself().await => {
                return self.start_over_or_refuse(error).await;
            }
            opened => opened?,
        };
        let (consensus, book, admission) = self.start_raft(log.clone(), snapshots.clone()).await?;
        self.running.send(Some((consensus.clone(), log.clone())));
        let (mut failure, mut excluded) = (log.failure(), admission.excluded());
        let _asking =
            spawn_guarded(removal::ask_for_ever(consensus.clone(), self.gossip.view(), self.context.clone()));
        let _meeting = spawn_guarded(incarnations::meet_for_ever(
            consensus.clone(),
            self.gossip.view(),
            admission.incarnations(),
        ));
        let stopped = async {
            // The log outlives its watchers.
            let _ = failure.wait_for(Option::is_some).await;
            let error = failure.borrow().clone();
            error.map_or_else(|| "the log has stopped".to_string(), |error| error.to_string())
        };
        tokio::select! {
            biased;
            reason = stopped => Err(NodeError::Failed(format!("this node stops because its log did: {reason}"))),
            reason = raft_stopped(&consensus) => {
                Err(NodeError::Failed(format!("this node stops because its Raft did: {reason}")))
            }
            Ok(()) = excluded.wait_for(Option::is_some) => {
                let refusal = excluded.borrow().clone().expect("the wait ended on a value");
                end_of_excluded(refusal)
            }
            error = incarnations::remember(&self.identity, self.gossip.view(), &admission, &consensus) => Err(error.into()),
            error = self.record_contradiction(&consensus) => Err(error.into()),
            () = self.until_it_may_start_over(&consensus) => Ok(End::Again),
            end = self.serve(formed, consensus.clone(), book, log.clone(), snapshots) => end,
        }
    }

    async fn find_cluster(&self) -> Result<Formed, NodeError> {
        let mut identity = self.identity.lock().await;
        let identity = identity.as_mut().expect("the identity is taken only when this node ends");
        let joins = &self.config.start_join_addrs;
        match form(identity, &self.gossip, intent(&self.config), joins, &self.waits).await {
            Ok(formed) => Ok(formed),
            Err(FormError::Identity(error)) => Err(error.into()),
            Err(error) => Err(NodeError::Form(error.to_string())),
        }
    }

    async fn open_storage(&self) -> Result<(Log, Snapshots), NodeError> {
        let mut identity = self.identity.lock().await;
        let identity = identity.as_mut().expect("the identity is taken only when this node ends");
        let cluster_id = identity.cluster_id().expect("the formation has set the cluster id").0;
        let owner = Owner { node_id: identity.node_id(), cluster_id };
        let log_config = log_config(&self.config.storage);
        let (snapshots, _) = Snapshots::open(self.disk.clone()).await?;
        let log = Log::open(self.disk.clone(), log_config, owner).await?;
        identity.mark_formatted().await?;
        let reaches = snapshots.newest().map(|snapshot| snapshot.position);
        if let Some(purged) = log.state().purged
            && reaches.is_none_or(|position| position.index < purged.index)
        {
            // When this returns, nothing uses the directory.
            log.close().await?;
            return Err(NodeError::Gap(format!(
                "the log begins after index {} and no sound snapshot reaches so far; restore this node from its peers with 'mokv serve --wipe'",
                purged.index
            )));
        }
        Ok((log, snapshots))
    }

    /// Returns `true` if this node may start over as a new node should its data be damaged. If a leader has
    /// contradicted it, its data may be the correct one.
    async fn may_replace_itself(&self) -> bool {
        let identity = self.identity.lock().await;
        let identity = identity.as_ref().expect("the identity is taken only when this node ends");
        self.config.replace_damaged && identity.contradiction().is_none()
    }

    /// Log or snapshots are damaged: the node starts over if the cluster does not need its data.
    async fn start_over_or_refuse(&self, error: NodeError) -> Result<End, NodeError> {
        tracing::error!(
            "{error}; asking the leader whether this node may start over as a new one (replace-damaged)"
        );
        let report = |why: &str| {
            let description = format!(
                "{error}; this node asks the leader whether it may start over as a new one, and the leader does not \
                 allow it yet: {why}"
            );
            self.context.set_damage("data", Some(description));
        };
        match self.ask_to_start_over(rt::now() + DAMAGED_PATIENCE, report).await? {
            Ok(()) => Ok(End::Replaced),
            Err(why) => Err(NodeError::Failed(format!(
                "{error}. This node does not start over by itself (replace-damaged), because no leader allows it: {why}"
            ))),
        }
    }

    /// Asks until `deadline`; this node takes no part in the cluster meanwhile. The inner error is the reason why it
    /// may not.
    async fn ask_to_start_over(
        &self,
        deadline: Instant,
        report: impl Fn(&str),
    ) -> Result<Result<(), String>, NodeError> {
        let (me, incarnations) = {
            let identity = self.identity.lock().await;
            let identity = identity.as_ref().expect("the identity is taken only when this node ends");
            (self.local_node(identity), identity.incarnations().clone())
        };
        let admission = Arc::new(PeerAdmission::new(me, incarnations, Positions::default(), |_| false));
        let book = Arc::new(Claimed(self.gossip.clone()));
        let peers = Peers::new(admission.clone(), book, self.resolver.clone());
        let mut excluded = admission.excluded();
        tokio::select! {
            biased;
            Ok(()) = excluded.wait_for(Option::is_some) => {
                let refusal = excluded.borrow().clone().expect("the wait ended on a value");
                match end_of_excluded(refusal)? {
                    // The data of a removed node is not needed.
                    End::Removed => Ok(Ok(())),
                    _ => unreachable!("an excluded node was removed, or ends with an error"),
                }
            }
            answer = replacing::ask_all(&peers, &self.gossip, deadline, report) => Ok(answer),
        }
    }

    /// Returns when this node, which runs in quarantine, should stop and ask whether it may start over.
    async fn until_it_may_start_over(&self, consensus: &Consensus) {
        if !self.config.replace_damaged {
            std::future::pending::<()>().await;
        }
        loop {
            replacing::until_it_may(consensus).await;
            // The task that makes the quarantine durable holds this lock until it is done.
            let identity = self.identity.lock().await;
            let identity = identity.as_ref().expect("the identity is taken only when this node ends");
            if identity.quarantined() && identity.contradiction().is_none() {
                return;
            }
        }
    }

    /// This process as its peers identify it.
    fn local_node(&self, identity: &Identity) -> LocalNode {
        LocalNode {
            cluster_id: identity.cluster_id().expect("the formation has set the cluster id").0,
            node_id: identity.node_id(),
            name: identity.name().to_string(),
            boot: identity.boot(),
            incarnation: identity.incarnation(),
            past: identity.past().to_vec(),
            starts: identity.starts().to_vec(),
            supports: self.options.supports,
            key: self.config.cluster_key.clone(),
        }
    }

    async fn start_raft(
        &self,
        log: Log,
        snapshots: Snapshots,
    ) -> Result<(Consensus, Arc<MemberAddresses>, Arc<PeerAdmission>), NodeError> {
        let store = Store::new(self.options.observer.clone(), self.context.metrics.clone());
        let positions = recorded_positions(&log)?;
        let found = found(&log, &snapshots).map_err(|error| NodeError::Failed(error.to_string()))?;
        let (me, incarnations, contradiction) = {
            let mut identity = self.identity.lock().await;
            let identity = identity.as_mut().expect("the identity is taken only when this node ends");
            // Durable before this node votes, because the next start may then find more.
            let start = Start { boot: identity.boot(), found };
            identity.note_start(start, &self.config.advertised_rpc()).await?;
            let me = self.local_node(identity);
            (me, identity.incarnations().clone(), identity.contradiction().map(Contradiction::from))
        };
        let node_id = me.node_id;
        let removed = store.clone();
        let admission = Arc::new(PeerAdmission::new(me, incarnations, positions, move |id| {
            // Marked for removal is not removed: a leaving node votes until the change without it is committed.
            let state = removed.read();
            state.map.is_tombstoned(id) && state.membership.membership().get_node(&id).is_none()
        }));
        let book = Arc::new(MemberAddresses::new(self.gossip.clone(), store.clone()));
        let peers = Peers::new(admission.clone(), book.clone(), self.resolver.clone());
        let timing = raft::Timing {
            heartbeat: self.config.heartbeat_interval,
            election: self.config.election_timeout,
            request_timeout: self.config.limits.request_timeout,
        };
        let consensus =
            raft::start(node_id, &timing, log.clone(), snapshots.clone(), peers, store).await.map_err(
                |reason| NodeError::Failed(format!("cannot start Raft on this node's data: {reason}")),
            )?;
        note_joint_configuration(&consensus).await;
        if self.context.is_quarantined() {
            consensus.doubt();
        }
        if let Some(found) = contradiction {
            consensus.contradict(found);
        }
        self.context.take_part(consensus.clone(), book.clone());
        let handler = Arc::new(PeerHandler::new(consensus.clone(), snapshots));
        self.peers.send(Some(Arc::new(PeerRoute { admission: admission.clone(), handler })));
        Ok((consensus, book, admission))
    }

    /// Serves until this node must not go on.
    async fn serve(
        &self,
        formed: Formed,
        consensus: Consensus,
        book: Arc<MemberAddresses>,
        log: Log,
        snapshots: Snapshots,
    ) -> Result<End, NodeError> {
        let cluster_id = formed.cluster_id();
        if let Formed::Initialise { members, .. } = formed {
            initialise(&consensus, members).await;
        }
        // Started before recovery, which waits for a leader: this node may be the only one that can be elected.
        let _not_leading = consensus.is_doubted().then(|| keep_from_leading(&consensus));
        // Before recovery, too: a node that starts again and again before it serves receives entries each time.
        let snapshot_policy = SnapshotPolicy { log_bytes: self.config.storage.snapshot_log_bytes.clone() };
        let _bounded = [
            spawn_guarded(take_snapshots_for_ever(
                consensus.clone(),
                snapshots.clone(),
                snapshot_policy.clone(),
            )),
            spawn_guarded(space::make_room_for_ever(consensus.clone(), snapshots.clone())),
        ];
        self.recover(&consensus).await?;
        self.gossip.set_claim(Some(cluster_id), State::Member);
        let driver =
            Arc::new(Driver::new(consensus.clone(), self.gossip.clone(), driver::Policy::from(&self.config)));
        self.context.start_serving(Serving {
            consensus: consensus.clone(),
            book,
            log: log.clone(),
            snapshots: snapshots.clone(),
            snapshot_policy,
            operator: driver.clone(),
        });
        tracing::info!(
            applied = consensus.store().read().applied.map_or(0, |id| id.index),
            "recovered; this node serves"
        );
        let _upkeep = self.start_upkeep(&consensus, log, snapshots);
        tokio::select! {
            biased;
            () = driver.run() => Ok(End::Removed),
            why = self.doubtful(&consensus) => {
                self.quarantine(&consensus).await?;
                let _not_leading = keep_from_leading(&consensus);
                tracing::error!(
                    "{why}: this node serves nothing and does not lead any more; restore it with 'mokv serve --wipe'"
                );
                driver.run().await;
                Ok(End::Removed)
            }
        }
    }

    /// Waits until this node has applied what was committed before its start.
    async fn recover(&self, consensus: &Consensus) -> Result<(), NodeError> {
        let patience = self.config.replace_silence;
        let _namesakes = spawn_guarded(warn_of_namesakes(self.gossip.view(), consensus.node_id(), patience));
        let standing = consensus.clone();
        let _standing = spawn_guarded(async move { standing.stand_after_start().await });
        let recovered = consensus.raft().wait_for_recovery(None).await;
        recovered.map(|_| ()).map_err(|error| NodeError::Failed(error.to_string()))
    }

    /// Starts what keeps a serving node in order: the history, sound files, and the first settings of a new cluster.
    fn start_upkeep(&self, consensus: &Consensus, log: Log, snapshots: Snapshots) -> [TaskGuard<()>; 4] {
        let scrub = Scrub {
            consensus: consensus.clone(),
            log,
            snapshots,
            context: self.context.clone(),
            interval: self.config.storage.scrub_interval,
        };
        let bounds = SettingsChange::none()
            .max_sessions(self.config.initial_max_sessions)
            .max_store_bytes(NonZeroU64::new(self.config.initial_max_store_bytes));
        [
            spawn_guarded(compaction::compact_for_ever(consensus.clone())),
            spawn_guarded(scrub.scrub_for_ever()),
            spawn_guarded(initial::configure_a_new_cluster(consensus.clone(), bounds)),
            spawn_guarded(initial::draw_a_digest_key(consensus.clone())),
        ]
    }

    /// The state is not served from here on; this is durable, so that a restart does not forget it.
    async fn quarantine(&self, consensus: &Consensus) -> Result<(), NodeError> {
        self.context.quarantine();
        consensus.doubt();
        let mut identity = self.identity.lock().await;
        Ok(identity.as_mut().expect("the identity is taken only when this node ends").quarantine().await?)
    }

    /// Returns the reason once this node's state is doubted: a majority has another state, or a memory fault has
    /// changed it.
    async fn doubtful(&self, consensus: &Consensus) -> String {
        let mut rotten = consensus.store().rotten();
        tokio::select! {
            biased;
            // The store outlives its watchers.
            Ok(()) = rotten.wait_for(Option::is_some) => {
                let found = rotten.borrow().expect("the wait ended on a value");
                rt::sometimes("rotten state found");
                let reason = format!("this node's state in memory is not what was applied to it: {found}");
                self.context.metrics.damage_found(Damaged::Memory);
                self.context.set_damage("memory", Some(format!("{reason}. Have the memory of this machine checked")));
                reason
            }
            () = digests::compare_for_ever(consensus.clone(), self.context.clone()) => {
                "this node's state differs from the majority's".to_owned()
            }
        }
    }

    /// Once a leader's log has contradicted what this node knows to be committed, the node serves nothing and keeps its
    /// data: it may be the only one with writes that were acknowledged to clients. Returns only if the disk fails.
    async fn record_contradiction(&self, consensus: &Consensus) -> IdentityError {
        let mut contradiction = consensus.contradiction();
        // The consensus outlives its watchers.
        let _ = contradiction.wait_for(Option::is_some).await;
        let found = contradiction.borrow().expect("the wait ended on a value");
        self.context.contradict(found);
        tracing::error!(
            "this node takes no part in its cluster any more and serves nothing: {found}. One of the two histories is not \
             this cluster's: data directories were put back to an older state. Keep the data directories of all nodes, \
             wipe none before it is decided which history to keep; 'Two histories' in docs/operate.md says how"
        );
        // Durable, so that a restart does not forget what this node knew to be committed.
        if let Some(identity) = self.identity.lock().await.as_mut()
            && let Err(error) = identity.contradict(found.into()).await
        {
            return error;
        }
        std::future::pending().await
    }
}

/// Makes the founding members of a cluster its first membership. Rejected if that was done before, by this node or by
/// replicated entries.
async fn initialise(consensus: &Consensus, founders: BTreeMap<NodeId, formation::Member>) {
    let members: BTreeMap<NodeId, Member> = (founders.into_iter())
        .map(|(id, member)| (id, Member { name: member.name, rpc_addr: member.rpc_addr }))
        .collect();
    if let Err(error) = consensus.raft().initialize(members).await {
        tracing::debug!("not initialised: {error}");
    }
}

fn keep_from_leading(consensus: &Consensus) -> TaskGuard<()> {
    spawn_guarded(doubt::keep_from_leading(consensus.clone()))
}

/// How far log and snapshots reach, before Raft appends to them.
fn found(log: &Log, snapshots: &Snapshots) -> Result<Reach, Malformed> {
    let state = log.state();
    let vote = state.vote.map(|vote| decode_vote(&vote)).transpose()?;
    let snapshot = snapshots.newest().map(|snapshot| snapshot.position);
    let ends = [state.last, snapshot].into_iter().flatten().map(|position| position.index);
    Ok(Reach { term: vote.map_or(0, |vote| vote.leader_id.term), index: ends.max() })
}

/// How far members have acknowledged, by the records in the log.
fn recorded_positions(log: &Log) -> Result<Positions, NodeError> {
    let Some(recorded) = &log.state().acknowledged else { return Ok(Positions::default()) };
    Positions::decode(recorded).map_err(|error| {
        NodeError::Failed(format!(
            "the log holds a record of what members have acknowledged that cannot be read ({error}); use the version of \
             mokv that wrote it"
        ))
    })
}

async fn note_joint_configuration(consensus: &Consensus) {
    let is_joint = consensus.raft().with_raft_state(|state| {
        state.membership_state.effective().membership().get_joint_config().len() > 1
    });
    if let Ok(true) = is_joint.await {
        rt::sometimes("joint configuration crashed through");
    }
}

/// Ends the node if this task ends without a reason, which only a panic can cause.
struct EndOnPanic(watch::Sender<Option<End>>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        let reason = "this node stops because one of its tasks panicked, which is a bug of mokv";
        finish(&self.0, End::Failed(NodeError::Failed(reason.into())));
    }
}

/// Returns why Raft stopped, once it has. Its end is visible in a channel that changes rarely (the server's role in its
/// term); the channel of all metrics would wake this task with every entry.
async fn raft_stopped(consensus: &Consensus) -> String {
    use openraft::rt::WatchReceiver;
    let mut seldom = consensus.raft().server_metrics();
    while seldom.changed().await.is_ok() {}
    match consensus.metrics().running_state {
        Err(fatal) => fatal.to_string(),
        Ok(()) => "its task has ended".into(),
    }
}

/// A node that a peer excludes starts over as a new one if it was removed; only the operator may wipe one whose data
/// directory was rolled back, copied, or put back to an older state.
fn end_of_excluded(refusal: Refusal) -> Result<End, NodeError> {
    match refusal.exclusion() {
        Exclusion::Removed => Ok(End::Removed),
        Exclusion::Outlived | Exclusion::GoneBack | Exclusion::NotExcluded => {
            Err(NodeError::Identity(format!("a peer refuses this node: {}", refusal.reason)))
        }
    }
}

/// The leader does not admit a newcomer whose name is taken; this logs the reason on the newcomer. A node that replaces
/// its own earlier id is not admitted at once either, so the warning waits longer than that takes.
async fn warn_of_namesakes(mut view: watch::Receiver<View>, me: NodeId, patience: Duration) {
    rt::sleep(patience * 2).await;
    loop {
        if let Some(namesake) = namesake(&view.borrow_and_update(), me) {
            tracing::error!(
                "the name '{}' is in use by the node at {}, so this one is not admitted; give it another node-name",
                namesake.name,
                namesake.rpc_addr
            );
            return;
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// A live node with this node's name, if any. One at this node's own address does not count: it is this node's earlier
/// id.
pub(super) fn namesake(view: &View, me: NodeId) -> Option<Claim> {
    let own = &view.get(&me)?.claim;
    let is_another =
        |claim: &Claim| claim.node_id != me && claim.name == own.name && claim.rpc_addr != own.rpc_addr;
    let mut alive = view.values().filter(|peer| peer.liveness == Liveness::Alive);
    alive.find(|peer| is_another(&peer.claim)).map(|peer| peer.claim.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Peer;

    /// A node that was removed and started over once reported its own earlier id for as long as gossip remembered it.
    #[test]
    fn a_namesake_is_alive_at_another_address() {
        let claim = |node_id, rpc_addr: &str| Claim {
            rpc_addr: rpc_addr.into(),
            ..Claim::example("node-1", NodeId(node_id))
        };
        let peer = |claim: Claim, liveness| (claim.node_id, Peer { claim, liveness });
        let view = |liveness, other: &str| {
            View::from([peer(claim(1, other), liveness), peer(claim(2, "here:8400"), Liveness::Alive)])
        };
        let found =
            |liveness, other| namesake(&view(liveness, other), NodeId(2)).map(|claim| claim.node_id.0);
        assert_eq!(found(Liveness::Alive, "there:8400"), Some(1));
        assert_eq!(found(Liveness::Down, "there:8400"), None);
        assert_eq!(found(Liveness::Alive, "here:8400"), None, "this node's former self");
    }
}
