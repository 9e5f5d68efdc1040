//! A node's life: recover, find its cluster, serve, stop.
//!
//! The same code in both worlds: it takes a checked configuration and a disk, and knows neither kernel nor simulator.
//! Whatever goes wrong in its depths (a failed sync, a dead Raft, a panic in a task of Raft) stops the whole node: gRPC
//! never lives on over a dead Raft.

mod book;
mod digests;
mod health;
mod sampler;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::client::Client;
use crate::config::NodeConfig;
use crate::grpc::{self, Serving};
use crate::membership::claim::FORMAT;
use crate::membership::datagram::Key;
use crate::membership::driver::{self, Driver};
use crate::membership::identity::IdentityError;
use crate::membership::{
    Alarm, Claim, FormError, Formed, Gossip, GossipConfig, Identity, Intent, Liveness, Pace, State, View,
    form,
};
use crate::metrics::{self, Metrics};
use crate::mux::{self, Entrances, PeerEntrance, Phase};
use crate::raft::handler::PeerHandler;
use crate::raft::peers::{Gate, Me, Peers};
use crate::raft::{self, Consensus, Member, Observer, Store};
use crate::rt::disk::DiskRef;
use crate::rt::net::TcpListener;
use crate::rt::task::{TaskGuard, spawn_guarded};
use crate::rt::{self, watch};
use crate::storage::{Log, LogConfig, Owner, Snapshots, StorageError};

use book::Book;
use sampler::NodeSampler;

/// The highest cluster version this build supports.
pub const SUPPORTS: u32 = 1;
/// Handing leadership over at a stop takes at most this long; then another is elected without help.
const HAND_OVER: Duration = Duration::from_secs(2);
/// Leaving for good takes at most this long; then the node stops as a member.
const LEAVE: Duration = Duration::from_secs(20);

/// Why a node does not run (any more).
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    /// A port could not be bound.
    #[error(
        "cannot listen on {address} for {purpose} ({key}): {reason}; stop what uses the port, or choose another"
    )]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// The setting that names it.
        key: &'static str,
        /// What the operating system said.
        reason: String,
    },
    /// The node's identity is not what it should be.
    #[error("{0}")]
    Identity(String),
    /// Log or snapshots are not what they should be.
    #[error("cannot open the data of this node: {0}")]
    Storage(#[from] StorageError),
    /// The node cannot become part of a cluster.
    #[error("{0}")]
    Form(String),
    /// Something failed that nothing can go on without.
    #[error("{0}")]
    Failed(String),
}

impl From<IdentityError> for NodeError {
    fn from(error: IdentityError) -> Self {
        NodeError::Identity(error.to_string())
    }
}

/// What a node is given besides its configuration.
#[derive(Clone, Default)]
pub struct Options {
    /// Hears of every entry as it is applied.
    pub observer: Option<Arc<dyn Observer>>,
}

/// How a node's life ended by itself.
#[derive(Debug, Clone)]
enum End {
    /// It has to stop.
    Failed(NodeError),
    /// The cluster has removed it: its data is set aside and it starts over as a newcomer.
    Removed,
}

/// Runs a node until `shutdown` resolves: then it hands leadership over, answers what it was asked, syncs and returns.
/// A node that its cluster has removed sets its data aside and goes on under a new id.
///
/// # Errors
/// If the node cannot start or must stop.
pub async fn run(
    config: NodeConfig,
    disk: DiskRef,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    let mut shutdown = std::pin::pin!(shutdown);
    let mut node = Node::start(config.clone(), disk.clone(), options.clone()).await?;
    loop {
        let end = tokio::select! {
            biased;
            end = node.ended() => end,
            () = &mut shutdown => return node.stop().await,
        };
        match end {
            End::Failed(error) => return Err(error),
            End::Removed => {
                tracing::warn!(
                    "the cluster has removed this node; its data is set aside and it starts over as a new one"
                );
                node.set_aside().await?;
                node = start_again(&config, &disk, &options).await?;
            }
        }
    }
}

/// The ports of the life before are let go of a moment after its tasks are told to end.
async fn start_again(config: &NodeConfig, disk: &DiskRef, options: &Options) -> Result<Node, NodeError> {
    const PATIENCE: Duration = Duration::from_secs(5);
    const PAUSE: Duration = Duration::from_millis(50);
    let patience = rt::now() + PATIENCE;
    loop {
        match Node::start(config.clone(), disk.clone(), options.clone()).await {
            Err(NodeError::Listen { .. }) if rt::now() < patience => rt::sleep(PAUSE).await,
            started => return started,
        }
    }
}

/// A running node.
struct Node {
    config: NodeConfig,
    identity: Arc<Mutex<Option<Identity>>>,
    gossip: Arc<Gossip>,
    context: Arc<grpc::Context>,
    log: watch::Receiver<Option<Log>>,
    phase: watch::Sender<Phase>,
    end: watch::Receiver<Option<End>>,
    /// Declared last: dropping the node ends everything else first.
    _tasks: Vec<TaskGuard<()>>,
}

impl Node {
    /// Binds the ports, reads the identity and starts everything else in the background: while a node looks for its
    /// cluster it can be asked how it is.
    async fn start(config: NodeConfig, disk: DiskRef, options: Options) -> Result<Node, NodeError> {
        let rpc = bind(config.rpc_bind(), "gRPC and Raft", "rpc-port").await?;
        let metrics_listener = bind(config.metrics_bind(), "metrics", "metrics-port").await?;
        let identity = Identity::load_or_create(disk.clone(), &config.node_name, Log::is_log_file).await?;
        tracing::info!(
            node = identity.name(),
            id = %format_args!("{:016x}", identity.node_id()),
            boot = identity.boot(),
            rpc = %config.rpc_bind(),
            gossip = %config.bind_addr,
            "starting"
        );
        let gossip = Arc::new(start_gossip(&config, &identity).await?);
        let sampler = Arc::new(NodeSampler::new(gossip.view()));
        let metrics = Metrics::new(sampler.clone());
        let context = grpc::Context::new(
            config.node_name.clone(),
            identity.node_id(),
            identity.boot(),
            config.advertised_rpc(),
            config.limits.clone(),
            metrics.clone(),
        );
        sampler.look_at(&context);
        if identity.quarantined() {
            context.quarantine();
        }
        let (services, health) = grpc::Services::new(context.clone());
        let (phase, phase_seen) = watch::channel(Phase::Serving);
        let (peers, peers_seen) = watch::channel(None);
        let (log, log_seen) = watch::channel(None);
        let (end, end_seen) = watch::channel(None);
        let entrances = Entrances { peers: peers_seen, services, phase: phase_seen };
        let identity = Arc::new(Mutex::new(Some(identity)));
        let life = Life {
            config: config.clone(),
            disk,
            options,
            identity: identity.clone(),
            gossip: gossip.clone(),
            context: context.clone(),
            peers,
            log,
            end,
        };
        let tasks = vec![
            spawn_guarded(mux::serve(rpc, entrances)),
            spawn_guarded(metrics::http::serve(
                metrics_listener,
                metrics,
                Arc::new(health::Readiness(context.clone())),
            )),
            spawn_guarded(health::report(context.clone(), health)),
            spawn_guarded(watch_alarms(gossip.alarms(), life.end.clone())),
            spawn_guarded(life.live()),
        ];
        Ok(Node { config, identity, gossip, context, log: log_seen, phase, end: end_seen, _tasks: tasks })
    }

    /// Resolves when the node cannot or must not go on.
    async fn ended(&self) -> End {
        let mut end = self.end.clone();
        let gone =
            || End::Failed(NodeError::Failed("the tasks of this node have ended without a word".into()));
        match end.wait_for(Option::is_some).await {
            Ok(()) => end.borrow().clone().unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }

    /// Hands leadership over, lets clients' requests finish within the configured bound, and syncs.
    async fn stop(self) -> Result<(), NodeError> {
        if let Some(serving) = self.context.recovered() {
            if self.config.leave_on_terminate {
                self.leave(serving).await;
            }
            hand_over(&serving.consensus).await;
        }
        self.phase.send(Phase::Draining);
        if self.context.drain(self.config.limits.drain_timeout).await.is_err() {
            tracing::warn!(
                "requests were still under way after {:?} and are broken off",
                self.config.limits.drain_timeout
            );
        }
        self.phase.send(Phase::Stopped);
        if let Some(serving) = self.context.recovered() {
            // A Raft that has stopped already has nothing to say here.
            let _ = serving.consensus.raft().shutdown().await;
        }
        let log = self.log.borrow().clone();
        if let Some(log) = log {
            log.close().await?;
        }
        tracing::info!("stopped");
        Ok(())
    }

    /// Leaves the cluster for good, if it lets this node go; a node that cannot be done without stays a member.
    async fn leave(&self, serving: &Serving) {
        let membership = serving.consensus.membership();
        let members = membership.nodes().map(|(id, member)| serving.address_of(*id, member));
        let client = Client::builder().endpoints(members).timeout(LEAVE).sessions(false).build();
        let left = match client {
            Ok(client) => client.remove_member(&self.config.node_name).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match left {
            Ok(()) => self.gossip.leave().await,
            Err(error) => tracing::warn!(
                "this node stays a member: {error}; 'mokv members remove {}' takes it out",
                self.config.node_name
            ),
        }
    }

    /// Puts the data of a removed node aside, after everything that uses it has ended.
    async fn set_aside(self) -> Result<(), NodeError> {
        self.phase.send(Phase::Stopped);
        if let Some(serving) = self.context.recovered() {
            let _ = serving.consensus.raft().shutdown().await;
        }
        let log = self.log.borrow().clone();
        if let Some(log) = log {
            log.close().await?;
        }
        let identity = self.identity.lock().await.take();
        if let Some(identity) = identity {
            identity.set_aside().await?;
        }
        Ok(())
    }
}

async fn bind(
    address: SocketAddr,
    purpose: &'static str,
    key: &'static str,
) -> Result<TcpListener, NodeError> {
    let failed = |error: io::Error| NodeError::Listen { address, purpose, key, reason: error.to_string() };
    TcpListener::bind(address).await.map_err(failed)
}

async fn start_gossip(config: &NodeConfig, identity: &Identity) -> Result<Gossip, NodeError> {
    let state = match identity.cluster_id() {
        None => State::Pristine { intent: intent(config), pledge: identity.pledge().cloned() },
        Some(_) if identity.log_formatted() => State::Member,
        Some(_) => State::Joining,
    };
    let claim = Claim {
        name: identity.name().to_string(),
        node_id: identity.node_id(),
        boot: identity.boot(),
        sequence: 0,
        cluster_id: identity.cluster_id(),
        rpc_addr: config.advertised_rpc(),
        gossip_addr: config.advertised_gossip(),
        state,
        format: FORMAT,
        supports: SUPPORTS,
    };
    let key = config.cluster_key.as_ref().map_or_else(Key::open, |key| Key::secret(key.as_bytes()));
    let gossip = GossipConfig {
        bind: config.bind_addr,
        joins: config.start_join_addrs.clone(),
        pace: Pace::default(),
    };
    Gossip::start(gossip, claim, key).await.map_err(|error| NodeError::Listen {
        address: config.bind_addr,
        purpose: "gossip",
        key: "bind-addr",
        reason: error.to_string(),
    })
}

fn intent(config: &NodeConfig) -> Intent {
    match config.bootstrap_expect {
        Some(nodes) => Intent::Expect(nodes as u32),
        None if config.bootstrap => Intent::Bootstrap,
        None => Intent::Join,
    }
}

async fn hand_over(consensus: &Consensus) {
    if !consensus.is_leader() {
        return;
    }
    let Some(to) = consensus.most_up_to_date_voter() else { return };
    match consensus.transfer_leader(to, HAND_OVER).await {
        Ok(()) => tracing::info!(to = %format_args!("{to:016x}"), "leadership handed over"),
        Err(reason) => tracing::warn!("leadership was not handed over: {reason}"),
    }
}

/// An identity that is in use elsewhere ends the node.
async fn watch_alarms(
    mut alarms: watch::Receiver<std::collections::BTreeSet<Alarm>>,
    end: watch::Sender<Option<End>>,
) {
    let mut told = std::collections::BTreeSet::new();
    loop {
        let now = alarms.borrow_and_update().clone();
        for alarm in now.difference(&told) {
            if matches!(alarm, Alarm::OwnIdentityElsewhere { .. }) {
                finish(&end, End::Failed(NodeError::Identity(alarm.to_string())));
            }
        }
        told = now;
        if alarms.changed().await.is_err() {
            return;
        }
    }
}

/// A newcomer whose name is taken is not admitted by the leader; here it is told why nothing happens. A node that takes
/// its own old place has to wait so long, too, and is not frightened.
async fn warn_of_namesakes(mut view: watch::Receiver<View>, me: u64, patience: Duration) {
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

fn namesake(view: &View, me: u64) -> Option<Claim> {
    let own = &view.get(&me)?.claim.name;
    let mut others =
        view.values().filter(|peer| peer.claim.node_id != me && peer.liveness == Liveness::Alive);
    others.find(|peer| peer.claim.name == *own).map(|peer| peer.claim.clone())
}

/// The first reason stands.
fn finish(end: &watch::Sender<Option<End>>, reason: End) {
    end.send_if_modified(|end| {
        let first = end.is_none();
        end.get_or_insert(reason);
        first
    });
}

/// What it takes to bring a node from its identity to serving, and to notice that it cannot go on.
struct Life {
    config: NodeConfig,
    disk: DiskRef,
    options: Options,
    identity: Arc<Mutex<Option<Identity>>>,
    gossip: Arc<Gossip>,
    context: Arc<grpc::Context>,
    peers: watch::Sender<Option<Arc<PeerEntrance>>>,
    log: watch::Sender<Option<Log>>,
    end: watch::Sender<Option<End>>,
}

impl Life {
    async fn live(self) {
        let reason = match self.join_and_serve().await {
            Ok(end) => end,
            Err(error) => End::Failed(error),
        };
        finish(&self.end, reason);
    }

    /// Returns when the node must not go on.
    async fn join_and_serve(&self) -> Result<End, NodeError> {
        let formed = self.find_cluster().await?;
        let (log, snapshots) = self.open_storage().await?;
        self.log.send(Some(log.clone()));
        let (consensus, book, gate) = self.start_raft(log.clone(), snapshots.clone()).await?;
        let (mut failure, mut removed) = (log.failure(), gate.removed());
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
            Ok(()) = removed.wait_for(|removed| *removed) => Ok(End::Removed),
            end = self.serve(formed, consensus.clone(), book, log.clone()) => end,
        }
    }

    async fn find_cluster(&self) -> Result<Formed, NodeError> {
        let mut identity = self.identity.lock().await;
        let identity = identity.as_mut().expect("taken only at the end of this life");
        let joins = &self.config.start_join_addrs;
        match form(identity, &self.gossip, intent(&self.config), joins).await {
            Ok(formed) => Ok(formed),
            Err(FormError::Identity(error)) => Err(error.into()),
            Err(error) => Err(NodeError::Form(error.to_string())),
        }
    }

    async fn open_storage(&self) -> Result<(Log, Snapshots), NodeError> {
        let mut identity = self.identity.lock().await;
        let identity = identity.as_mut().expect("taken only at the end of this life");
        let cluster_id = identity.cluster_id().expect("a cluster was found").0;
        let owner = Owner { node_id: identity.node_id(), cluster_id };
        let sizes = &self.config.storage;
        let log_config = LogConfig {
            segment_bytes: sizes.log_segment_bytes,
            cache_bytes: sizes.log_cache_bytes,
            reserve_bytes: sizes.min_free_bytes,
            ..LogConfig::default()
        };
        let (snapshots, _) = Snapshots::open(self.disk.clone()).await?;
        let log = Log::open(self.disk.clone(), log_config, owner).await?;
        identity.mark_formatted().await?;
        let reaches = snapshots.newest().map(|snapshot| snapshot.position);
        if let Some(purged) = log.state().purged
            && reaches.is_none_or(|position| position.index < purged.index)
        {
            return Err(NodeError::Failed(format!(
                "the log begins after index {} and no sound snapshot reaches so far; restore this node from its peers with 'mokv serve --wipe'",
                purged.index
            )));
        }
        Ok((log, snapshots))
    }

    async fn start_raft(
        &self,
        log: Log,
        snapshots: Snapshots,
    ) -> Result<(Consensus, Arc<Book>, Arc<Gate>), NodeError> {
        let (node_id, name, boot, cluster_id) = {
            let identity = self.identity.lock().await;
            let identity = identity.as_ref().expect("taken only at the end of this life");
            let cluster_id = identity.cluster_id().expect("a cluster was found").0;
            (identity.node_id(), identity.name().to_string(), identity.boot(), cluster_id)
        };
        let store = Store::new(self.options.observer.clone(), self.context.metrics.clone());
        let me = Me {
            cluster_id,
            node_id,
            name,
            boot,
            incarnation: rt::random::random_nonzero_u64(),
            supports: SUPPORTS,
            key: self.config.cluster_key.clone(),
        };
        let removed = store.clone();
        let gate = Arc::new(Gate::new(me, move |id| {
            // Marked for removal is not removed: a leaver votes until the change without it is committed.
            let state = removed.read();
            state.map.is_tombstoned(id) && state.membership.membership().get_node(&id).is_none()
        }));
        let book = Arc::new(Book::new(self.gossip.clone(), store.clone()));
        let peers = Peers::new(gate.clone(), book.clone());
        let timing = raft::Timing {
            heartbeat: self.config.heartbeat_interval,
            election: self.config.election_timeout,
            snapshot_entries: self.config.storage.snapshot_log_entries,
            request_timeout: self.config.limits.request_timeout,
        };
        let consensus =
            raft::start(node_id, &timing, log.clone(), snapshots.clone(), peers, store).await.map_err(
                |reason| NodeError::Failed(format!("cannot start Raft on this node's data: {reason}")),
            )?;
        if self.context.is_quarantined() {
            consensus.raft().runtime_config().elect(false);
        }
        let handler = Arc::new(PeerHandler { consensus: consensus.clone(), snapshots, log });
        self.peers.send(Some(Arc::new(PeerEntrance { gate: gate.clone(), handler })));
        Ok((consensus, book, gate))
    }

    async fn serve(
        &self,
        formed: Formed,
        consensus: Consensus,
        book: Arc<Book>,
        log: Log,
    ) -> Result<End, NodeError> {
        let cluster_id = formed.cluster_id();
        if let Formed::Initialise { members, .. } = formed {
            let members: BTreeMap<u64, Member> = (members.into_iter())
                .map(|(id, member)| (id, Member { name: member.name, rpc_addr: member.rpc_addr }))
                .collect();
            // Refused where it was done before, by this node or by another one's entries.
            if let Err(error) = consensus.raft().initialize(members).await {
                tracing::debug!("not initialised: {error}");
            }
        }
        let patience = self.config.replace_silence;
        let namesakes = spawn_guarded(warn_of_namesakes(self.gossip.view(), consensus.node_id(), patience));
        let raft = consensus.raft();
        raft.wait_for_recovery(None).await.map_err(|error| NodeError::Failed(error.to_string()))?;
        drop(namesakes);
        self.gossip.set_claim(Some(cluster_id), State::Member);
        let driver =
            Arc::new(Driver::new(consensus.clone(), self.gossip.clone(), driver::Policy::from(&self.config)));
        self.context.start_serving(Serving {
            consensus: consensus.clone(),
            book,
            log,
            operator: driver.clone(),
        });
        tracing::info!(
            applied = consensus.store().read().applied.map_or(0, |id| id.index),
            "recovered; this node serves"
        );
        self.configure_a_new_cluster(&consensus).await;
        tokio::select! {
            biased;
            () = driver.run() => Ok(End::Removed),
            () = digests::compare_for_ever(consensus.clone(), self.context.clone()) => {
                // Outvoted by a majority: durable first, so that a restart does not forget it.
                let mut identity = self.identity.lock().await;
                identity.as_mut().expect("taken only at the end of this life").quarantine().await?;
                self.context.quarantine();
                consensus.raft().runtime_config().elect(false);
                drop(identity);
                hand_over(&consensus).await;
                tracing::error!(
                    "this node's state differs from the majority's: it serves nothing and does not lead any more; restore it with 'mokv serve --wipe'"
                );
                driver.run().await;
                Ok(End::Removed)
            }
        }
    }

    /// A node that was told other bounds than the built-in ones says so once, while the store is empty.
    async fn configure_a_new_cluster(&self, consensus: &Consensus) {
        let wanted = (self.config.initial_max_sessions, self.config.initial_max_store_bytes);
        let (settings, untouched) = {
            let state = consensus.store().read();
            (state.map.settings(), state.map.revision() == 0 && state.map.sessions() == 0)
        };
        if !untouched || wanted == (settings.max_sessions, settings.max_store_bytes) || !consensus.is_leader()
        {
            return;
        }
        let command =
            crate::map::Command::Configure { max_sessions: Some(wanted.0), max_store_bytes: Some(wanted.1) };
        let deadline = rt::now() + consensus.request_timeout();
        if let Err(error) = consensus.propose(command.encode(), deadline).await {
            tracing::warn!("the initial bounds were not written down: {error}; use 'mokv configure'");
        }
    }
}

async fn raft_stopped(consensus: &Consensus) -> String {
    use openraft::rt::WatchReceiver;
    let mut metrics = consensus.raft().metrics();
    loop {
        if let Err(fatal) = &metrics.borrow_and_update().running_state {
            return fatal.to_string();
        }
        if metrics.changed().await.is_err() {
            return "its task has ended".into();
        }
    }
}
