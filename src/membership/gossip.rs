//! Gossip: the task that sends and receives, and the handle to it.
//!
//! One task owns the socket; a second one resolves names, which may take long. The node sets its own claim through the
//! handle and reads everything else from watched values: the [`View`] of its cluster, the answers of its join
//! addresses, and alarms. Join addresses and Raft's members are asked periodically, for ever. Nothing is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::alarm::Alarm;
use super::claim::{Claim, ClusterId, State};
use super::conversation::{Conversation, Due, Resolved};
use super::datagram::{Key, MAX_BYTES};
use super::joins::JoinAnswers;
use super::swim::Pace;
use super::view::{Liveness, OtherSelf, UnreadableSenders, View};
use crate::node_id::NodeId;
use crate::rt::lock::Mutex;
use crate::rt::net::{Resolver, UdpSocket};
use crate::rt::task::{TaskGuard, spawn_guarded};
use crate::rt::{Instant, now, sleep, sleep_until, timeout, watch};

/// The configuration of gossip.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// The UDP address to bind.
    pub bind: SocketAddr,
    /// `start-join-addrs`: `host:port` of gossip, resolved anew at every attempt.
    pub joins: Vec<String>,
    /// How fast failures are detected.
    pub pace: Pace,
    /// Resolves the names.
    pub resolver: Resolver,
}

/// What the node publishes about itself.
#[derive(Debug, Clone)]
struct Wanted {
    cluster_id: Option<ClusterId>,
    state: State,
    members: BTreeMap<NodeId, String>,
}

/// The running gossip of one node; it ends when this is dropped, or by [`Gossip::end`].
pub struct Gossip {
    wanted: watch::Sender<Wanted>,
    view: watch::Receiver<View>,
    answers: watch::Receiver<JoinAnswers>,
    alarms: watch::Receiver<BTreeSet<Alarm>>,
    unreadable: watch::Receiver<UnreadableSenders>,
    other_self: watch::Receiver<Option<OtherSelf>>,
    node_id: NodeId,
    local: SocketAddr,
    keyed: bool,
    tasks: Mutex<Option<[TaskGuard<()>; 2]>>,
}

/// The first pause between two attempts; each pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause while the node belongs to no cluster.
const LONGEST_PAUSE_PRISTINE: Duration = Duration::from_secs(1);
/// The longest pause of a member.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// A name that does not resolve in this time counts as silent in this attempt; its lookup goes on for the next.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause before a socket that failed is tried again.
const SOCKET_PAUSE: Duration = Duration::from_millis(100);
/// How long a leaving node waits for its farewell to be sent.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

impl Gossip {
    /// Binds the socket and starts gossiping. `claim` is the node's first claim; port 0 in its gossip address is
    /// replaced by the bound port.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start(config: GossipConfig, mut claim: Claim, key: Key) -> io::Result<Gossip> {
        let socket = UdpSocket::bind(config.bind).await?;
        let local = socket.local_addr()?;
        if let Some(host) = claim.gossip_addr.strip_suffix(":0") {
            claim.gossip_addr = format!("{host}:{}", local.port());
        }
        let node_id = claim.node_id;
        let keyed = key.is_secret();
        let wanted =
            Wanted { cluster_id: claim.cluster_id, state: claim.state.clone(), members: BTreeMap::new() };
        let mut conversation = Conversation::new(claim, local, config.joins, Arc::new(key), config.pace);
        let (wanted, wanted_seen) = watch::channel(wanted);
        let (view_out, view) = watch::channel(conversation.view());
        let (answers_out, answers) = watch::channel(JoinAnswers::default());
        let (alarms_out, alarms) = watch::channel(BTreeSet::new());
        let (unreadable_out, unreadable) = watch::channel(UnreadableSenders::new());
        let (other_self_out, other_self) = watch::channel(None);
        let (names_out, names) = watch::channel(conversation.names());
        // One attempt at a time: the resolver waits until the last one has been received.
        let (attempts_out, attempts) = mpsc::channel(1);
        let out = Published {
            view: view_out,
            answers: answers_out,
            alarms: alarms_out,
            unreadable: unreadable_out,
            other_self: other_self_out,
            names: names_out,
        };
        let talker = Talker { socket, conversation, timers: BTreeMap::new(), timers_set: 0, out };
        let tasks = [
            spawn_guarded(talker.run(wanted_seen, attempts)),
            spawn_guarded(resolve_for_ever(config.resolver, names, wanted.subscribe(), attempts_out)),
        ];
        let tasks = Mutex::new(Some(tasks));
        Ok(Gossip { wanted, view, answers, alarms, unreadable, other_self, node_id, local, keyed, tasks })
    }

    /// Ends gossip and closes its socket, even if others, such as a request in progress, still hold this handle.
    pub fn end(&self) {
        drop(self.tasks.lock().take());
    }

    /// All nodes in this node's cluster.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// The answers of the join addresses, attempt by attempt.
    pub fn answers(&self) -> watch::Receiver<JoinAnswers> {
        self.answers.clone()
    }

    /// Alarms for the operator.
    pub fn alarms(&self) -> watch::Receiver<BTreeSet<Alarm>> {
        self.alarms.clone()
    }

    /// Senders of unreadable datagrams, each for some time after its last datagram.
    pub fn unreadable(&self) -> watch::Receiver<UnreadableSenders> {
        self.unreadable.clone()
    }

    /// Another process that runs under this node's id; `None` until one was detected.
    pub fn other_self(&self) -> watch::Receiver<Option<OtherSelf>> {
        self.other_self.clone()
    }

    /// The UDP address that is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Returns `true` if datagrams prove that their sender has the cluster's key.
    pub fn is_keyed(&self) -> bool {
        self.keyed
    }

    /// Publishes the node's cluster and state. Call it only once both are durable.
    ///
    /// # Panics
    /// If a pristine node has a cluster id, or another one has none.
    pub fn set_claim(&self, cluster_id: Option<ClusterId>, state: State) {
        assert_eq!(
            matches!(state, State::Pristine { .. }),
            cluster_id.is_none(),
            "exactly the pristine know no cluster"
        );
        self.wanted.send_if_modified(|wanted| {
            wanted.cluster_id = cluster_id;
            wanted.state = state;
            true
        });
    }

    /// Sets Raft's members and their addresses in the Raft membership; gossip asks them for ever. A member whose claim
    /// is known is asked at the gossip address it claims, any other at its RPC host and this node's own gossip port.
    pub fn set_members(&self, members: BTreeMap<NodeId, String>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.members != members;
            wanted.members = members;
            changed
        });
    }

    /// Announces that this node leaves permanently, and returns when the announcement was sent, or after a timeout.
    pub async fn leave(&self) {
        self.wanted.send_if_modified(|wanted| {
            // A node without a cluster has nothing to leave.
            let changed = wanted.cluster_id.is_some();
            if changed {
                wanted.state = State::Left;
            }
            changed
        });
        let mut view = self.view.clone();
        let gone = |view: &View| {
            view.get(&self.node_id)
                .is_none_or(|own| own.liveness == Liveness::Left || own.claim.cluster_id.is_none())
        };
        // If no node receives the farewell, the others only take longer to notice.
        let _ = timeout(FAREWELL_TIMEOUT, view.wait_for(gone)).await;
    }

    /// The RPC address of a node in its newest claim; `None` if no claim is known.
    pub fn address_of(&self, node_id: NodeId) -> Option<String> {
        self.view.borrow().get(&node_id).map(|peer| peer.claim.rpc_addr.clone())
    }

    /// Returns `true` if another node with this name is alive.
    pub fn has_successor(&self, node_id: NodeId, name: &str) -> bool {
        self.view.borrow().values().any(|peer| {
            let claim = &peer.claim;
            claim.node_id != node_id && claim.name == name && peer.liveness == Liveness::Alive
        })
    }
}

/// Resolves all names, sends the result, pauses, and repeats for ever.
async fn resolve_for_ever(
    resolver: Resolver,
    names: watch::Receiver<Vec<String>>,
    wanted: watch::Receiver<Wanted>,
    attempts: mpsc::Sender<Resolved>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let asked = names.borrow().clone();
        let found = join_all(asked.iter().map(|name| timeout(RESOLVE_TIMEOUT, resolver.resolve(name)))).await;
        let resolved = asked.into_iter().zip(found).filter_map(|(name, found)| match found {
            Ok(Ok(addresses)) => Some((name, addresses)),
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "a name does not resolve now");
                None
            }
            Err(_) => None,
        });
        if attempts.send(Resolved(resolved.collect())).await.is_err() {
            return;
        }
        sleep(pause).await;
        let pristine = wanted.borrow().cluster_id.is_none();
        pause = (pause * 2).min(if pristine { LONGEST_PAUSE_PRISTINE } else { LONGEST_PAUSE });
    }
}

struct Published {
    view: watch::Sender<View>,
    answers: watch::Sender<JoinAnswers>,
    alarms: watch::Sender<BTreeSet<Alarm>>,
    unreadable: watch::Sender<UnreadableSenders>,
    other_self: watch::Sender<Option<OtherSelf>>,
    names: watch::Sender<Vec<String>>,
}

struct Talker {
    socket: UdpSocket,
    conversation: Conversation,
    /// By due time; the number keeps timers of equal time in order.
    timers: BTreeMap<(Instant, u64), Due>,
    timers_set: u64,
    out: Published,
}

impl Talker {
    async fn run(mut self, mut wanted: watch::Receiver<Wanted>, mut attempts: mpsc::Receiver<Resolved>) {
        let mut buffer = vec![0; MAX_BYTES];
        self.settle().await;
        let mut clock = sleep_until(self.next_due());
        loop {
            if clock.deadline() != self.next_due() {
                clock = sleep_until(self.next_due());
            }
            // Datagrams come last, so a flood of them cannot starve the rest.
            tokio::select! {
                biased;
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let Wanted { cluster_id, state, members } = wanted.borrow_and_update().clone();
                    self.conversation.set_members(members);
                    self.conversation.state(cluster_id, state);
                }
                Some(resolved) = attempts.recv() => self.conversation.attempt(resolved, now()),
                () = &mut clock => {
                    if let Some((_, due)) = self.timers.pop_first() {
                        self.conversation.due(due);
                    }
                }
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => self.conversation.receive(from, &buffer[..length], now()),
                    Err(error) => {
                        tracing::debug!(%error, "the gossip socket failed");
                        sleep(SOCKET_PAUSE).await;
                    }
                },
            }
            self.settle().await;
        }
    }

    fn next_due(&self) -> Instant {
        self.timers.first_key_value().map(|((at, _), _)| *at).expect("the next exchange is always scheduled")
    }

    /// Sets timers, sends datagrams, publishes what changed.
    async fn settle(&mut self) {
        let now = now();
        for (after, due) in self.conversation.take_schedule() {
            self.timers_set += 1;
            self.timers.insert((now + after, self.timers_set), due);
        }
        for (to, datagram) in self.conversation.take_outbox() {
            // A datagram that cannot be sent is lost, as any datagram may be.
            let _ = self.socket.send_to(&datagram, to).await;
        }
        replace(&self.out.view, self.conversation.view());
        replace(&self.out.answers, self.conversation.answers().clone());
        replace(&self.out.alarms, self.conversation.alarms().all().clone());
        replace(&self.out.unreadable, self.conversation.unreadable().clone());
        replace(&self.out.other_self, self.conversation.other_self());
        replace(&self.out.names, self.conversation.names());
    }
}

fn replace<T: PartialEq>(out: &watch::Sender<T>, value: T) {
    if *out.borrow() != value {
        out.send(value);
    }
}

#[cfg(test)]
#[path = "gossip_tests.rs"]
mod tests;
