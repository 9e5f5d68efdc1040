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
mod start;
mod stop;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};

use crate::config::{NodeConfig, StorageConfig};
use crate::map::Command;
use crate::membership::identity::IdentityError;
use crate::membership::{Gossip, Identity, Intent, State};
use crate::raft::{Consensus, Observer};
use crate::rt::disk::DiskRef;
use crate::rt::task::TaskGuard;
use crate::rt::{self, watch};
use crate::service::{AskedToLeave, Context, Phase};
use crate::storage::{Log, LogConfig, StorageError};

/// The highest cluster version that this build supports.
pub const SUPPORTS: u32 = Command::DIGEST_KEY_VERSION;
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
            reply = node.asked_to_leave() => match node.leave().await {
                Ok(()) => {
                    // The client may have disconnected.
                    let _ = reply.send(Ok(()));
                    return node.stop().await;
                }
                Err(reason) => {
                    let _ = reply.send(Err(reason));
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
                let next = node.config_for_the_next_start(&config);
                node.set_aside().await?;
                node = start_again(&next, &disk, &options, mode).await?;
            }
            End::Replaced => {
                rt::sometimes("damaged node replaced itself");
                tracing::warn!(
                    "this node's data is damaged and the cluster does not need it: it is set aside, kept as \
                     left-..., and the node starts over as a new one"
                );
                let next = node.config_for_the_next_start(&config);
                node.set_aside().await?;
                node = start_again(&next, &disk, &options, StartMode::Joining).await?;
            }
            End::Again => {
                tracing::warn!("this node stops to ask whether it may start over as a new one");
                let next = node.config_for_the_next_start(&config);
                node.shut_down().await?;
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
    /// Resolves when the node cannot or must not go on.
    async fn ended(&self) -> End {
        let mut end = self.end.clone();
        let gone = || {
            End::Failed(NodeError::Failed(
                "the tasks of this node ended without giving a reason, which is a bug \
                                              of mokv"
                    .into(),
            ))
        };
        match end.wait_for(Option::is_some).await {
            Ok(()) => end.borrow().clone().unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }

    /// Resolves when a client asks this node to leave.
    async fn asked_to_leave(&self) -> AskedToLeave {
        match self.leave_requests.lock().await.recv().await {
            Some(reply) => reply,
            None => unreachable!("the context keeps the sender for as long as the node runs"),
        }
    }

    /// Returns the configuration with which this node starts over: its join addresses and those of the members that it
    /// knows. The first node of a cluster may have no join addresses, and would never find its cluster again.
    fn config_for_the_next_start(&self, config: &NodeConfig) -> NodeConfig {
        let view = self.gossip.view();
        let view = view.borrow();
        let members = view.values().filter(|peer| peer.claim.state == State::Member);
        let members = members.filter(|peer| peer.claim.node_id != self.context.node_id);
        let mut config = config.clone();
        config.start_join_addrs.extend(members.map(|peer| peer.claim.gossip_addr.clone()));
        config
    }
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

/// Keeps the first reason.
fn finish(end: &watch::Sender<Option<End>>, reason: End) {
    end.send_if_modified(|end| {
        let first = end.is_none();
        end.get_or_insert(reason);
        first
    });
}
