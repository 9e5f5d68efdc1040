//! A cluster of whole nodes, each on a simulated host with a disk of its own.
//!
//! Nodes are started through the product's own entry point and reached through its own client; the harness controls
//! what a node cannot: its power, its disk, its links, its address. Every action is reported in the run's timeline, and
//! counted as a fault where it is one.

mod cause;
mod disks;
mod host;
mod links;
mod monitor;
pub mod network;
mod observer;
mod power;
pub mod tampering;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use madsim::runtime::Handle;
use madsim::task::NodeId;
use mokv::client::{Client, NodeStatus};
use mokv::config::NodeConfig;
use mokv::node::SUPPORTS;
use mokv::rt::clock;
use mokv::rt::disk::SimDisk;
use mokv::rt::net::link_faults;
use mokv::rt::task::TaskGuard;

use crate::evidence::history::{Nanos, Seconds};
use crate::record::Run;
use crate::world::World;
use crate::world::fault_budget::Missing;
use host::Host;
pub use host::Power;
pub use monitor::votes;
use network::{Network, dns_name};

/// UDP port of gossip on every host.
pub const GOSSIP_PORT: u16 = 8401;
/// TCP port of gRPC and Raft on every host.
pub const RPC_PORT: u16 = 8400;

/// Longest time until a leader has received a request to remove a node, paused nodes and slow links included.
const REMOVAL_HEARD: Duration = Duration::from_secs(15);

/// A cluster. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster(Arc<Shared>);

struct Shared {
    run: Arc<Run>,
    world: World,
    monitor: NodeId,
    monitor_client: Client,
    state: Mutex<State>,
}

struct State {
    network: Network,
    nodes: BTreeMap<String, Host>,
    statuses: BTreeMap<String, NodeStatus>,
    supervisors: Vec<TaskGuard<()>>,
    clients: u32,
    /// The one member that may be missing at a time.
    missing: Option<Missing>,
    /// The replicated bounds were made small.
    had_small_bounds: bool,
    /// How often all addresses changed.
    moves: u8,
}

impl State {
    /// The hosts through which the next node joins: the first nodes know each other, later ones the hosts that exist
    /// then.
    fn hosts_to_join(&self, world: &World) -> Vec<String> {
        let founders = (1..=world.nodes).map(|number| format!("n{number}"));
        let here = self.nodes.iter().filter(|(_, host)| !host.retired).map(|(name, _)| name.clone());
        match self.nodes.len() < world.nodes {
            true => founders.collect(),
            false => here.collect(),
        }
    }

    /// From their next start on, nodes that have addresses to join through have the newcomer's, too.
    fn tell_of_newcomer(&mut self, name: &str) {
        for host in self.nodes.values_mut().filter(|host| !host.retired) {
            let joins = &mut host.config.start_join_addrs;
            if !joins.is_empty() {
                joins.push(gossip_address(name));
            }
        }
    }
}

/// The configuration of a node by its world, without addresses to join through.
fn node_config(world: &World, name: &str, address: IpAddr) -> NodeConfig {
    let mut config = NodeConfig::local(name, (address, GOSSIP_PORT).into());
    config.rpc_port = RPC_PORT;
    config.advertise_host = advertised(world, name, address);
    config.heartbeat_interval = world.heartbeat;
    config.election_timeout = world.election;
    config.replace_silence = world.election * 6;
    config.storage.snapshot_log_bytes = world.snapshot_log_bytes.clone();
    config.storage.scrub_interval = world.scrub.unwrap_or_default();
    config.limits.max_value_bytes = 64 << 10;
    config.limits.max_request_bytes = 128 << 10;
    config.limits.max_in_flight_requests = world.limits.requests_in_flight;
    config.initial_max_sessions = world.workload.max_sessions.unwrap_or(world.limits.sessions);
    config.storage.log_segment_bytes = world.limits.log_segment_bytes;
    config.storage.log_cache_bytes = world.limits.log_cache_bytes;
    config.limits.drain_timeout = Duration::from_secs(3);
    config
}

/// The address of a host's gossip.
fn gossip_address(name: &str) -> String {
    format!("{}:{GOSSIP_PORT}", dns_name(name))
}

/// The host that a node advertises.
fn advertised(world: &World, name: &str, address: IpAddr) -> String {
    if world.numeric_addresses { address.to_string() } else { dns_name(name) }
}

impl Cluster {
    /// Hosts n1, n2, ... with empty disks, none of them started, that will form one cluster. Nobody polls them before
    /// [`Cluster::monitor`].
    pub fn new(run: &Arc<Run>, world: &World) -> Cluster {
        let names: Vec<String> = (1..=world.nodes).map(|number| format!("n{number}")).collect();
        link_faults::seed(run.seed);
        let mut network = Network::default();
        let monitor = network.add("monitor", [10, 0, 250, 1]);
        let monitor_client = Client::builder()
            .endpoints(["n1.sim:8400"])
            .timeout(Duration::from_millis(800))
            .build()
            .expect("the endpoint is well-formed");
        let state = State {
            network,
            nodes: BTreeMap::new(),
            statuses: BTreeMap::new(),
            supervisors: Vec::new(),
            clients: 0,
            missing: None,
            had_small_bounds: false,
            moves: 0,
        };
        let shared = Shared {
            run: run.clone(),
            world: world.clone(),
            monitor,
            monitor_client,
            state: Mutex::new(state),
        };
        let cluster = Cluster(Arc::new(shared));
        for name in &names {
            cluster.add(name, |config| config.bootstrap_expect = Some(names.len()));
        }
        cluster.set_datagrams(None);
        cluster
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no code panics while it holds this lock")
    }

    /// The run it belongs to.
    pub fn run(&self) -> &Arc<Run> {
        &self.0.run
    }

    /// The world of the run.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// Adds a host with an empty disk, not started. It joins through the hosts that exist now unless `change` changes
    /// that.
    pub fn add(&self, name: &str, change: impl FnOnce(&mut NodeConfig)) {
        let supports = self.newest_program();
        let mut state = self.state();
        let number = state.nodes.len() as u8 + 1;
        let world = &self.0.world;
        let drawn = world.clocks.get(usize::from(number) - 1).copied().unwrap_or(1_000);
        let id = state.network.add(name, [10, 0, 0, number]);
        clock::set_rate(id, drawn);
        self.0.run.host(id, name, true);
        let mut config = node_config(world, name, state.network.address(name));
        config.start_join_addrs =
            state.hosts_to_join(world).iter().map(|name| gossip_address(name)).collect();
        change(&mut config);
        if state.nodes.len() >= world.nodes {
            state.tell_of_newcomer(name);
        }
        let disk = SimDisk::new(self.0.run.seed ^ u64::from(number) << 48);
        state.nodes.insert(name.to_owned(), Host::new(disk, config, drawn, supports));
        drop(state);
        self.slow_disk(name, 1);
    }

    /// Declares that the node belongs to another cluster, or that its state was tampered with. From its next start on,
    /// the checkers ignore what it applies and whom it elects.
    pub fn set_outsider(&self, name: &str, outsider: bool) {
        self.host(&mut self.state(), name).outsider = outsider;
    }

    /// Records nothing that any node does until its next start as no outsider: disks are about to be restored to their
    /// present content.
    pub fn off_the_record(&self) {
        for host in self.state().nodes.values_mut() {
            host.outsider = true;
            host.record_is_over.store(true, Ordering::Relaxed);
        }
        self.0.run.tell("what the nodes do from now on is about to be lost");
    }

    /// Changes the configuration that the next start uses.
    pub fn configure(&self, name: &str, change: impl FnOnce(&mut NodeConfig)) {
        change(&mut self.host(&mut self.state(), name).config);
    }

    fn host<'a>(&self, state: &'a mut State, name: &str) -> &'a mut Host {
        state.nodes.get_mut(name).unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// All nodes' names.
    pub fn names(&self) -> Vec<String> {
        let state = self.state();
        state.nodes.iter().filter(|(_, host)| !host.retired).map(|(name, _)| name.clone()).collect()
    }

    /// The name of the next node; no name is used twice.
    pub fn next_name(&self) -> String {
        format!("n{}", self.state().nodes.len() + 1)
    }

    /// The simulator's id of a host.
    pub fn host_id(&self, name: &str) -> NodeId {
        self.state().network.id(name)
    }

    /// The configuration of a node's next start.
    pub fn config(&self, name: &str) -> NodeConfig {
        self.host(&mut self.state(), name).config.clone()
    }

    /// Undoes all faults: mends whatever is broken and starts whatever is down.
    pub fn repair(&self) {
        self.heal_network();
        let newest = self.newest_program();
        for name in self.names() {
            if self.configured_name(&name) != name {
                // A copy of another node does not belong to this cluster.
                self.retire(&name);
                continue;
            }
            if self.is_damaged(&name) || self.is_doubted(&name) {
                // Wiped at once, not when the node detects it.
                self.kill(&name);
                self.wipe(&name);
            }
            self.mend_disk(&name);
            self.slow_disk(&name, 1);
            self.set_clock_rate(&name, None);
            if self.power(&name) == Power::Paused {
                self.resume(&name);
            }
            if self.supports(&name) < newest {
                // An upgrade that was begun is finished: upgraded members do not accept an older program.
                self.upgrade(&name, newest);
                self.kill(&name);
            }
            if self.power(&name) == Power::On && self.is_stopping(&name) {
                // The task that asked it to stop is gone, and no other would start it again.
                self.kill(&name);
            }
            if self.power(&name) == Power::Off {
                self.start(&name);
            }
        }
        self.run().tell("all faults are undone");
    }

    fn configured_name(&self, host: &str) -> String {
        self.host(&mut self.state(), host).config.node_name.clone()
    }

    /// Replaces the program on a host by one that supports this cluster version; the next start runs it.
    pub fn upgrade(&self, name: &str, supports: u32) {
        self.host(&mut self.state(), name).supports = supports;
    }

    fn supports(&self, name: &str) -> u32 {
        self.host(&mut self.state(), name).supports
    }

    /// The highest cluster version that the program on any host supports.
    fn newest_program(&self) -> u32 {
        self.state().nodes.values().map(|host| host.supports).max().unwrap_or(SUPPORTS)
    }

    /// Whether a host of this name exists and is not retired.
    pub fn is_here(&self, name: &str) -> bool {
        self.state().nodes.get(name).is_some_and(|host| !host.retired)
    }

    /// A host is gone for good: its process dies and never comes back.
    pub fn retire(&self, name: &str) {
        self.kill(name);
        let mut state = self.state();
        self.host(&mut state, name).retired = true;
        let status = state.statuses.remove(name);
        state.missing.take_if(|missing| missing.is(name));
        drop(state);
        if let Some(status) = status {
            self.run().with_logs(|logs| logs.retired(status.node_id.0));
        }
        self.run().fault("retired node", format!("{name} is gone for good"));
    }

    /// Removes a host that runs nothing from the cluster.
    pub fn forget(&self, name: &str) {
        assert_eq!(self.power(name), Power::Off, "{name} still runs");
        self.state().nodes.remove(name);
    }

    /// Declares that the disk of a node that is off was rewritten: what the node had made durable before no longer
    /// binds it.
    pub fn tampered(&self, name: &str) {
        self.host(&mut self.state(), name).tampered = u64::MAX;
    }

    /// Declares that an operator asks for the removal of the node of this name. It may leave the members, and so may
    /// any node that joins under that name while a leader may still receive the request.
    pub fn removal_asked(&self, name: &str) {
        let until = self.run().now() + REMOVAL_HEARD.as_nanos() as Nanos;
        self.run().with_logs(|logs| logs.removal_asked(name, until));
    }

    /// Declares that the node was removed or its disk is lost: it may leave the members.
    pub fn may_go(&self, name: &str) {
        self.0.run.with_logs(|logs| logs.may_go(name));
    }

    /// Moves all hosts to addresses that they never had. No node may run.
    pub fn move_all(&self) {
        let moves = {
            let mut state = self.state();
            state.moves += 1;
            state.moves
        };
        self.change_all_addresses(moves);
    }

    /// Moves all hosts to other addresses; names stay. No node may run.
    pub fn change_all_addresses(&self, network: u8) {
        let mut state = self.state();
        assert!(
            state.nodes.values().all(|host| host.power == Power::Off),
            "a running node keeps its address"
        );
        state.network.heal();
        link_faults::clear_delays();
        let names: Vec<String> = state.nodes.keys().cloned().collect();
        for (number, name) in (1..).zip(&names) {
            state.network.move_to(name, [10, 0, network, number]);
            let address = state.network.address(name);
            let config = &mut self.host(&mut state, name).config;
            config.bind_addr = (address, GOSSIP_PORT).into();
            config.advertise_host = advertised(&self.0.world, name, address);
        }
        drop(state);
        self.0.run.fault("changed addresses", format!("all nodes move to 10.0.{network}.x"));
    }

    // ---- hosts ----

    /// Adds a host for a client. Returns its name and number.
    pub fn add_client_host(&self) -> (String, u32) {
        let mut state = self.state();
        state.clients += 1;
        let number = state.clients;
        let name = format!("c{number}");
        let address = [10, 0, 200 + (number / 250) as u8, (number % 250) as u8 + 1];
        let id = state.network.add(&name, address);
        self.0.run.host(id, &name, false);
        (name, number)
    }

    /// The number of tasks on each host.
    pub fn tasks(&self) -> BTreeMap<String, usize> {
        Handle::current().metrics().num_tasks_by_node()
    }

    /// The present address of a host.
    pub fn address(&self, host: &str) -> IpAddr {
        self.state().network.address(host)
    }

    /// Runs a future on a host that exists until the end of the run.
    pub async fn on<T: Send + 'static>(
        &self,
        host: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        self.try_on(host, future).await.expect("the host lives as long as the run")
    }

    /// Runs a future on a host. `None` if the host died before the future was done.
    pub async fn try_on<T: Send + 'static>(
        &self,
        host: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let id = self.state().network.id(host);
        let host = Handle::current().get_node(id).expect("the host exists");
        host.spawn(Box::pin(future)).await.ok()
    }

    /// Kills a client's machine with all its pending operations.
    pub fn kill_client(&self, host: &str) {
        let id = self.state().network.id(host);
        Handle::current().kill(id);
        self.0.run.fault("client crash", format!("{host} dies"));
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cluster at {}", Seconds(self.0.run.now()))
    }
}
