//! How a node starts: it binds its ports, reads its identity, and starts everything else in the background.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

use super::lifecycle::Lifecycle;
use super::sampler::NodeSampler;
use super::{Node, NodeError, Options, StartMode, copies, health, intent, left};
use crate::api;
use crate::config::NodeConfig;
use crate::membership::claim::FORMAT;
use crate::membership::datagram::Key;
use crate::membership::formation::Waiting;
use crate::membership::{Claim, Gossip, GossipConfig, Identity, Pace, State};
use crate::metrics::{self, Metrics};
use crate::mux::places::Room;
use crate::mux::{self, Routes};
use crate::rt::disk::DiskRef;
use crate::rt::net::{Resolver, TcpListener};
use crate::rt::task::spawn_guarded;
use crate::rt::{process, watch};
use crate::service::{Context, Diagnosis, Phase};
use crate::storage::Log;

impl Node {
    /// Binds the ports, reads the identity and starts everything else in the background, so a node that still looks for
    /// its cluster can report its status.
    pub(super) async fn start(
        config: NodeConfig,
        disk: DiskRef,
        options: Options,
        mode: StartMode,
    ) -> Result<Node, NodeError> {
        let ports = Ports::bind(&config).await?;
        let identity = open_identity(&config, &disk).await?;
        let left = look_at_left(&identity, &disk).await?;
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
        recall(&context, &identity, mode);
        let (waits, waits_seen) = watch::channel(first_wait(&config, &identity));
        let max_lag = config.ready_max_lag;
        let readiness = Arc::new(health::Readiness::new(context.clone(), max_lag, &gossip, waits_seen));
        let diagnosis: Arc<dyn Diagnosis> = readiness.clone();
        context.explained_by(Arc::downgrade(&diagnosis));
        sampler.look_at(&readiness);
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
        let Ports { rpc, metrics: metrics_port, room } = ports;
        let tasks = vec![
            spawn_guarded(mux::serve(rpc, routes, room)),
            spawn_guarded(metrics::http::serve(metrics_port, metrics, readiness.clone(), room.metrics)),
            spawn_guarded(health::report(readiness, reporter)),
            spawn_guarded(copies::watch(gossip.other_self(), context.clone(), lifecycle.end.clone())),
            spawn_guarded(lifecycle.run()),
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
}

/// The TCP ports of a node, bound, and how many connections they may have.
struct Ports {
    rpc: TcpListener,
    metrics: TcpListener,
    room: Room,
}

impl Ports {
    async fn bind(config: &NodeConfig) -> Result<Ports, NodeError> {
        let room = room(config.limits.max_connections)?;
        let rpc = bind(config.rpc_bind(), "gRPC and Raft", "rpc-port").await?;
        let metrics = bind(config.metrics_bind(), "metrics", "metrics-port").await?;
        Ok(Ports { rpc, metrics, room })
    }
}

async fn open_identity(config: &NodeConfig, disk: &DiskRef) -> Result<Identity, NodeError> {
    let identity = Identity::load_or_create(disk.clone(), &config.node_name, Log::is_log_file).await?;
    copies::refuse_to_be_one(&identity, &config.advertised_rpc()).await?;
    tracing::info!(
        node = identity.name(),
        id = %identity.node_id(),
        boot = identity.boot(),
        rpc = %config.rpc_bind(),
        gossip = %config.bind_addr,
        "starting"
    );
    Ok(identity)
}

/// Measures what earlier nodes have left in the data directory.
async fn look_at_left(identity: &Identity, disk: &DiskRef) -> Result<left::Left, NodeError> {
    // A node set aside is followed by a new node, perhaps after a crash between the two.
    if identity.boot() <= 2 {
        left::cut_unused(disk).await?;
    }
    let left = left::measure(disk).await?;
    if left.files > 0 {
        tracing::info!(
            files = left.files,
            bytes = left.bytes,
            "earlier nodes have left data in this directory; 'mokv left --remove' deletes it while the node is stopped"
        );
    }
    Ok(left)
}

/// Restores what earlier starts have found out about this node.
fn recall(context: &Context, identity: &Identity, mode: StartMode) {
    if identity.quarantined() {
        context.quarantine();
    }
    if let Some(found) = identity.contradiction() {
        context.contradict(found.into());
    }
    if mode == StartMode::Outside {
        context.stay_outside();
    }
}

/// What the formation of the cluster waits for until it reports that itself; `None` if the node belongs to one.
fn first_wait(config: &NodeConfig, identity: &Identity) -> Option<Waiting> {
    match (identity.cluster_id(), config.start_join_addrs.as_slice()) {
        (Some(_), _) => None,
        (None, []) => Some(Waiting::Cluster),
        (None, joins) => Some(Waiting::Answers(joins.to_vec())),
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
            "clients get {} connections instead of max-connections ({clients}), because this process may open only \
             {} files",
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
