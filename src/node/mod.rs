//! A node from start to stop: recover, find the cluster, serve, shut down.
//!
//! The same code runs in production and in the simulation: it takes a checked configuration and a disk, and depends on
//! neither kernel nor simulator. Any failure inside (a failed sync, a stopped Raft, a panic in a task of Raft) stops
//! the whole node: gRPC never keeps running on a stopped Raft.

pub mod backup;
mod copies;
mod digests;
mod health;
mod incarnations;
mod initial;
pub mod left;
mod lifecycle;
mod member_addresses;
mod reasons;
mod removal;
mod replacing;
mod sampler;
mod scrub;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};

use crate::api;
use crate::client::Client;
use crate::config::{NodeConfig, StorageConfig};
use crate::map::Command;
use crate::membership::claim::FORMAT;
use crate::membership::datagram::Key;
use crate::membership::formation::Waiting;
use crate::membership::identity::IdentityError;
use crate::membership::{Claim, Gossip, GossipConfig, Identity, Intent, Pace, State};
use crate::metrics::{self, Metrics};
use crate::mux::places::Room;
use crate::mux::{self, Routes};
use crate::node_id::{Named, NodeId};
use crate::raft::{Consensus, Observer};
use crate::rt::disk::DiskRef;
use crate::rt::net::{Resolver, TcpListener};
use crate::rt::process;
use crate::rt::task::{TaskGuard, spawn_guarded};
use crate::rt::{self, watch};
use crate::service::{AskedToLeave, Context, Diagnosis, Phase};
use crate::storage::{Log, LogConfig, StorageError};

use lifecycle::Lifecycle;
use sampler::NodeSampler;

/// The highest cluster version that this build supports.
pub const SUPPORTS: u32 = Command::DIGEST_KEY_VERSION;
/// At a stop, handing leadership over to one voter takes at most this long; then the next one is tried, or the others
/// elect a leader without help.
const HAND_OVER: Duration = Duration::from_secs(1);
/// A removed node answers requests in progress for at most this long.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Leaving permanently takes at most this long; then the node stops as a member.
const LEAVE: Duration = Duration::from_secs(20);

/// Why a node does not start, or stops.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    /// A port could not be bound.
    #[error(
        "cannot listen on {address} for {purpose} ({key}): {reason}; stop what uses the port, or choose another"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The port's purpose.
        purpose: &'static str,
        /// The setting that names the port.
        key: &'static str,
        /// The operating system's error.
        reason: String,
    },
    /// The node's identity cannot be used.
    #[error("{0}")]
    Identity(String),
    /// Log or snapshots cannot be opened.
    #[error("cannot open the data of this node: {0}")]
    Storage(#[from] StorageError),
    /// The node cannot become part of a cluster.
    #[error("{0}")]
    Form(String),
    /// There is a gap between the snapshots and the log, and the entries in it are lost.
    #[error("{0}")]
    Gap(String),
    /// Something that the node cannot go on without has failed.
    #[error("{0}")]
    Failed(String),
}

impl NodeError {
    /// Returns `true` if data of this node is damaged or lost.
    fn is_damage(&self) -> bool {
        matches!(
            self,
            NodeError::Storage(StorageError::Corrupt { .. } | StorageError::Missing { .. })
                | NodeError::Gap(_)
        )
    }
}

impl From<IdentityError> for NodeError {
    fn from(error: IdentityError) -> Self {
        NodeError::Identity(error.to_string())
    }
}

/// The parameters of a node besides its configuration.
#[derive(Clone)]
pub struct Options {
    /// Is called with every entry as it is applied.
    pub observer: Option<Arc<dyn Observer>>,
    /// The highest cluster version that this node claims to support: [`SUPPORTS`], or another build's in a simulated
    /// upgrade.
    pub supports: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { observer: None, supports: SUPPORTS }
    }
}

/// How a node ended without a shutdown.
#[derive(Debug, Clone)]
enum End {
    /// It has to stop.
    Failed(NodeError),
    /// The cluster has removed it: its data is set aside and it starts over as a new node.
    Removed,
    /// Its data is damaged and the cluster does not need it: as `Removed`.
    Replaced,
    /// It stops and starts again on the same data.
    Again,
}

/// Runs a node until `shutdown` resolves; then it hands leadership over, answers the requests in progress, syncs and
/// returns. A node that its cluster has removed sets its data aside and goes on under a new id.
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
    let mut node = Node::start(config.clone(), disk.clone(), options.clone(), StartMode::Joining).await?;
    loop {
        let end = tokio::select! {
            biased;
            end = node.ended() => end,
            () = &mut shutdown => return node.stop().await,
            tell = node.asked_to_leave() => match node.leave().await {
                Ok(()) => {
                    // The client may have disconnected.
                    let _ = tell.send(Ok(()));
                    return node.stop().await;
                }
                Err(reason) => {
                    let _ = tell.send(Err(reason));
                    continue;
                }
            },
        };
        match end {
            End::Failed(error) => return Err(error),
            End::Removed => {
                // A node removed before this start has been restarted since, so it may join.
                let mode = match config.rejoin || node.context.recovered().is_none() {
                    true => StartMode::Joining,
                    false => StartMode::Outside,
                };
                tracing::info!(
                    "the cluster has removed this node; its data is set aside and {}",
                    match mode {
                        StartMode::Joining => "it starts over as a new one",
                        StartMode::Outside => "it stays outside until it is started again (rejoin is off)",
                    }
                );
                let next = node.config_of_the_next_life(&config);
                node.set_aside().await?;
                node = start_again(&next, &disk, &options, mode).await?;
            }
            End::Replaced => {
                rt::sometimes("damaged node replaced itself");
                tracing::warn!(
                    "this node's data is damaged and the cluster can do without it: it is set aside, kept as left-..., and the \
                     node starts over as a new one"
                );
                let next = node.config_of_the_next_life(&config);
                node.set_aside().await?;
                node = start_again(&next, &disk, &options, StartMode::Joining).await?;
            }
            End::Again => {
                tracing::warn!("this node stops to ask whether it may start over as a new one");
                let next = node.config_of_the_next_life(&config);
                node.end_life().await?;
                node = start_again(&next, &disk, &options, StartMode::Joining).await?;
            }
        }
    }
}

/// What a node does about a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StartMode {
    /// It finds a cluster and joins or forms it.
    Joining,
    /// It was removed; it reports its status, but joins no cluster until it is restarted.
    Outside,
}

/// Starts the node again. The previous incarnation's ports are released shortly after its tasks are cancelled, so
/// binding is retried. Attempts are counted, not time: on a machine that was suspended, time has passed but the old
/// tasks have not run.
async fn start_again(
    config: &NodeConfig,
    disk: &DiskRef,
    options: &Options,
    mode: StartMode,
) -> Result<Node, NodeError> {
    const ATTEMPTS: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(50);
    for _ in 1..ATTEMPTS {
        match Node::start(config.clone(), disk.clone(), options.clone(), mode).await {
            Err(NodeError::Listen { .. }) => rt::sleep(PAUSE).await,
            started => return started,
        }
    }
    Node::start(config.clone(), disk.clone(), options.clone(), mode).await
}

/// A running node.
struct Node {
    config: NodeConfig,
    identity: Arc<Mutex<Option<Identity>>>,
    gossip: Arc<Gossip>,
    context: Arc<Context>,
    /// Raft and its log, once they are started.
    running: watch::Receiver<Option<(Consensus, Log)>>,
    phase: watch::Sender<Phase>,
    end: watch::Receiver<Option<End>>,
    leave_requests: Mutex<mpsc::Receiver<AskedToLeave>>,
    /// Declared last: everything else is dropped before the tasks are.
    _tasks: Vec<TaskGuard<()>>,
}

impl Node {
    /// Binds the ports, reads the identity and starts everything else in the background, so a node that still looks for
    /// its cluster can report its status.
    async fn start(
        config: NodeConfig,
        disk: DiskRef,
        options: Options,
        mode: StartMode,
    ) -> Result<Node, NodeError> {
        let room = room(config.limits.max_connections)?;
        let rpc = bind(config.rpc_bind(), "gRPC and Raft", "rpc-port").await?;
        let metrics_listener = bind(config.metrics_bind(), "metrics", "metrics-port").await?;
        let identity = Identity::load_or_create(disk.clone(), &config.node_name, Log::is_log_file).await?;
        copies::refuse_to_be_one(&identity, &config.advertised_rpc()).await?;
        tracing::info!(
            node = identity.name(),
            id = %NodeId(identity.node_id()),
            boot = identity.boot(),
            rpc = %config.rpc_bind(),
            gossip = %config.bind_addr,
            "starting"
        );
        // A node set aside is followed by a new node, perhaps after a crash between the two.
        if identity.boot() <= 2 {
            left::cut_unused(&disk).await?;
        }
        let left = left::measure(&disk).await?;
        if left.files > 0 {
            tracing::info!(
                files = left.files,
                bytes = left.bytes,
                "earlier nodes have left data in this directory; 'mokv left --remove' deletes it while the node is stopped"
            );
        }
        let resolver = Resolver::default();
        let gossip = Arc::new(start_gossip(&config, &identity, options.supports, resolver.clone()).await?);
        let sampler = Arc::new(NodeSampler::new(gossip.view(), left.bytes));
        let metrics = Metrics::new(sampler.clone(), api::methods());
        let (leave, leave_requests) = mpsc::channel(1);
        let context = Context::new(
            config.node_name.clone(),
            identity.node_id(),
            identity.boot(),
            config.advertised_rpc(),
            config.limits.clone(),
            metrics.clone(),
            leave,
        );
        // Until formation has reported.
        let looks = || match config.start_join_addrs.as_slice() {
            [] => Waiting::Cluster,
            joins => Waiting::Answers(joins.to_vec()),
        };
        let (waits, waits_seen) = watch::channel(identity.cluster_id().is_none().then(looks));
        let max_lag = config.ready_max_lag;
        let readiness = Arc::new(health::Readiness::new(context.clone(), max_lag, &gossip, waits_seen));
        let diagnosis: Arc<dyn Diagnosis> = readiness.clone();
        context.explained_by(Arc::downgrade(&diagnosis));
        sampler.look_at(&readiness);
        if identity.quarantined() {
            context.quarantine();
        }
        if let Some(found) = identity.contradiction() {
            context.contradict(found.into());
        }
        if mode == StartMode::Outside {
            context.stay_outside();
        }
        let (services, reporter) = api::Services::new(context.clone());
        health::begin(&reporter).await;
        let (phase, phase_seen) = watch::channel(Phase::Serving);
        let (peers, peers_seen) = watch::channel(None);
        let (running, running_seen) = watch::channel(None);
        let (end, end_seen) = watch::channel(None);
        let routes = Routes { peers: peers_seen, services, phase: phase_seen, metrics: metrics.clone() };
        let identity = Arc::new(Mutex::new(Some(identity)));
        let lifecycle = Lifecycle {
            resolver,
            config: config.clone(),
            disk,
            options,
            identity: identity.clone(),
            gossip: gossip.clone(),
            context: context.clone(),
            waits,
            peers,
            running,
            end,
        };
        let tasks = vec![
            spawn_guarded(mux::serve(rpc, routes, room)),
            spawn_guarded(metrics::http::serve(metrics_listener, metrics, readiness.clone(), room.metrics)),
            spawn_guarded(health::report(readiness, reporter)),
            spawn_guarded(copies::watch(gossip.other_self(), context.clone(), lifecycle.end.clone())),
            spawn_guarded(lifecycle.live()),
        ];
        Ok(Node {
            config,
            identity,
            gossip,
            context,
            running: running_seen,
            phase,
            end: end_seen,
            leave_requests: Mutex::new(leave_requests),
            _tasks: tasks,
        })
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

    /// Hands leadership over, lets clients' requests finish within the configured time, and syncs.
    async fn stop(self) -> Result<(), NodeError> {
        if self.config.leave_on_terminate
            && let Err(reason) = self.leave().await
        {
            let name = &self.config.node_name;
            tracing::warn!("this node stays a member: {reason}; 'mokv members remove {name}' takes it out");
        }
        if let Some(serving) = self.context.recovered() {
            hand_over(&serving.consensus).await;
        }
        self.phase.send(Phase::Draining);
        if self.context.admission.drain(self.config.limits.drain_timeout).await.is_err() {
            tracing::warn!(
                "requests were still under way after {:?} and are broken off",
                self.config.limits.drain_timeout
            );
        }
        self.quiesce().await?;
        tracing::info!("stopped");
        Ok(())
    }

    /// Stops Raft and closes the log, so that nothing is written any more and everything is synced.
    async fn quiesce(&self) -> Result<(), NodeError> {
        self.phase.send(Phase::Stopped);
        let running = self.running.borrow().clone();
        if let Some((consensus, log)) = running {
            // If Raft has stopped already, its error does not matter here.
            let _ = consensus.raft().shutdown().await;
            log.close().await?;
        }
        Ok(())
    }

    /// Resolves when a client asks this node to leave.
    async fn asked_to_leave(&self) -> AskedToLeave {
        match self.leave_requests.lock().await.recv().await {
            Some(tell) => tell,
            None => unreachable!("the context lives as long as the node, and can always ask"),
        }
    }

    /// Leaves the cluster permanently if the cluster allows it; otherwise the node stays a member and the error names
    /// the reason. Succeeds if the node has left already.
    async fn leave(&self) -> Result<(), String> {
        let serving = self.context.recovered().ok_or("it has not recovered yet, or belongs to no cluster")?;
        // No other task holds the identity for long once the node has recovered.
        let mut identity = self.identity.lock().await;
        let identity = identity.as_mut().expect("taken only when this node is set aside");
        if identity.has_left() {
            return Ok(());
        }
        let membership = serving.consensus.membership();
        let members = membership.nodes().map(|(id, member)| serving.address_of(*id, member));
        let client = Client::builder().endpoints(members).timeout(LEAVE).sessions(false).build();
        let left = match client {
            Ok(client) => client.replace_member(&self.config.node_name).await.map(|_| ()),
            Err(error) => Err(error),
        };
        left.map_err(|error| error.to_string())?;
        self.gossip.leave().await;
        // The next start on this directory is another node.
        identity.mark_left().await.map_err(|error| error.to_string())
    }

    /// The configuration with which this node starts over: its join addresses and those of the members it has learned
    /// of. The first node of a cluster may have no join addresses, and would never find its cluster again.
    fn config_of_the_next_life(&self, config: &NodeConfig) -> NodeConfig {
        let view = self.gossip.view();
        let view = view.borrow();
        let members = view.values().filter(|peer| peer.claim.state == State::Member);
        let members = members.filter(|peer| peer.claim.node_id != self.context.node_id);
        let mut config = config.clone();
        config.start_join_addrs.extend(members.map(|peer| peer.claim.gossip_addr.clone()));
        config
    }

    /// Sets a removed node's data aside after everything that uses it has stopped. A client that asked this node for
    /// the removal is answered first.
    async fn set_aside(self) -> Result<(), NodeError> {
        // Durable first: if the process is killed from here on, the next start completes it.
        if let Some(identity) = self.identity.lock().await.as_mut() {
            identity.mark_left().await?;
        }
        if let Some(identity) = self.end_life().await? {
            identity.set_aside().await?;
        }
        Ok(())
    }

    /// Stops everything that uses this node's data; returns its identity, or `None` if it was taken already.
    async fn end_life(self) -> Result<Option<Identity>, NodeError> {
        self.phase.send(Phase::Draining);
        let _ = self.context.admission.drain(LAST_ANSWERS.min(self.config.limits.drain_timeout)).await;
        self.quiesce().await?;
        self.gossip.end();
        Ok(self.identity.lock().await.take())
    }
}

/// The number of connections that the process's limit on open files allows.
fn room(clients: usize) -> Result<Room, NodeError> {
    let descriptors = process::raise_descriptor_limit().map_err(|error| {
        NodeError::Failed(format!("the limit on open files cannot be read or raised: {error}"))
    })?;
    let room = Room::within(descriptors, clients).map_err(|least| {
        NodeError::Failed(format!(
            "this process may open {} files at a time, and a node needs {least}; raise the limit (ulimit -n, LimitNOFILE=)",
            descriptors.unwrap_or_default()
        ))
    })?;
    if room.clients < clients {
        tracing::info!(
            "{} connections of clients are let in instead of max-connections ({clients}), as this process may open {} files",
            room.clients,
            descriptors.unwrap_or_default()
        );
    }
    Ok(room)
}

async fn bind(
    address: SocketAddr,
    purpose: &'static str,
    key: &'static str,
) -> Result<TcpListener, NodeError> {
    let failed = |error: io::Error| NodeError::Listen { address, purpose, key, reason: error.to_string() };
    TcpListener::bind(address).await.map_err(failed)
}

async fn start_gossip(
    config: &NodeConfig,
    identity: &Identity,
    supports: u32,
    resolver: Resolver,
) -> Result<Gossip, NodeError> {
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
        supports,
    };
    let key = config.cluster_key.as_ref().map_or_else(Key::open, |key| Key::secret(key.as_bytes()));
    let gossip = GossipConfig {
        bind: config.bind_addr,
        joins: config.start_join_addrs.clone(),
        pace: Pace::default(),
        resolver,
    };
    Gossip::start(gossip, claim, key).await.map_err(|error| NodeError::Listen {
        address: config.bind_addr,
        purpose: "gossip",
        key: "bind-addr",
        reason: error.to_string(),
    })
}

fn log_config(sizes: &StorageConfig) -> LogConfig {
    LogConfig {
        segment_bytes: sizes.log_segment_bytes,
        cache_bytes: sizes.log_cache_bytes,
        reserve_bytes: sizes.min_free_bytes,
        ..LogConfig::default()
    }
}

fn intent(config: &NodeConfig) -> Intent {
    match config.bootstrap_expect {
        Some(nodes) => Intent::Expect(nodes as u32),
        None if config.bootstrap => Intent::Bootstrap,
        None => Intent::Join,
    }
}

/// Hands leadership over if this node leads: each voter that may take over is tried in turn.
async fn hand_over(consensus: &Consensus) {
    let membership = consensus.membership();
    let named = |id| Named(membership.membership().get_node(&id).map(|member| member.name.as_str()), id);
    for successor in consensus.successors().into_iter().filter(|other| other.is_near) {
        if !consensus.is_leader() {
            return;
        }
        match consensus.transfer_leader(successor.node_id, HAND_OVER).await {
            Ok(()) => return tracing::info!("leadership handed over to {}", named(successor.node_id)),
            // The other voters elect a leader without help; if all nodes stop, there is none to do so.
            Err(reason) => {
                tracing::info!("leadership was not handed over to {}: {reason}", named(successor.node_id));
            }
        }
    }
}

/// Keeps the first reason.
fn finish(end: &watch::Sender<Option<End>>, reason: End) {
    end.send_if_modified(|end| {
        let first = end.is_none();
        end.get_or_insert(reason);
        first
    });
}
