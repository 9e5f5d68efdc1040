//! A cluster of whole nodes, each on a simulated host with a disk of its own.
//!
//! Nodes are started through the product's own entry and reached through its own client; the harness holds what a
//! node cannot touch: its power, its disk, its links, its address. Every deed is told in the run's story and counted
//! as a fault where it is one.

pub mod network;
mod observer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use madsim::runtime::Handle;
use madsim::task::NodeId;
use mokv::client::{Client, NodeStatus};
use mokv::config::NodeConfig;
use mokv::node::{self, Options};
use mokv::raft::Observer;
use mokv::rt;
use mokv::rt::disk::{DiskCall, Fault, Latency, Operation, SimDisk};
use mokv::rt::task::TaskGuard;
use tokio::sync::oneshot;

use crate::history::Seconds;
use crate::judges::Finding;
use crate::judges::stops::Stop;
use crate::run::Run;
use crate::timeline;
use crate::world::World;
use network::{Network, dns_name};
use observer::NodeObserver;

/// UDP port of gossip on every host.
pub const GOSSIP_PORT: u16 = 8401;
/// TCP port of gRPC and Raft on every host.
pub const RPC_PORT: u16 = 8400;
/// How often the monitor asks every node how it is.
const MONITOR_PAUSE: Duration = Duration::from_millis(200);
/// How long an operator waits for an answer.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(5);
/// A graceful stop takes less, or something hangs.
const STOP_BOUND: Duration = Duration::from_secs(30);

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
    /// Nodes whose disk was lost in this run.
    lost_disks: u32,
}

/// A host that runs a node, or could.
struct Host {
    disk: SimDisk,
    /// Rises with every disk that is lost.
    disks: u64,
    /// How often the disk had been tampered with when the node was started last.
    tampered: u64,
    config: NodeConfig,
    power: Power,
    /// It runs a node of another cluster, which is not judged with this one.
    outsider: bool,
    /// Rises with every start.
    life: u64,
    stop: Option<oneshot::Sender<()>>,
    /// What was done to the node that may make it end by itself.
    cause: Option<Cause>,
}

struct Cause {
    words: String,
    /// EIO answers before; `None`: it holds whatever the disk says.
    errors: Option<u64>,
}

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// No process runs.
    Off,
    /// The node runs.
    On,
    /// The node stands still.
    Paused,
}

/// How a node's process ended by itself.
type End = Result<(), String>;

impl Cluster {
    /// Hosts n1, n2, ... with empty disks, none of them started, that will form one cluster.
    pub fn new(run: &Arc<Run>, world: &World) -> Cluster {
        let names: Vec<String> = (1..=world.nodes).map(|number| format!("n{number}")).collect();
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
            lost_disks: 0,
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
        cluster.0.watch(cluster.clone());
        cluster
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no code panics while it holds this lock")
    }

    /// The run it belongs to.
    pub fn run(&self) -> &Arc<Run> {
        &self.0.run
    }

    /// The world it lives in.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// Adds a host with an empty disk, not started. It joins through the first hosts unless `change` says otherwise.
    pub fn add(&self, name: &str, change: impl FnOnce(&mut NodeConfig)) {
        let mut state = self.state();
        let number = state.nodes.len() as u8 + 1;
        let world = &self.0.world;
        let id = state.network.add(name, [10, 0, 0, number]);
        self.0.run.host(id, name, true);
        let mut config = NodeConfig::local(name, (state.network.address(name), GOSSIP_PORT).into());
        config.rpc_port = RPC_PORT;
        config.advertise_host = dns_name(name);
        config.start_join_addrs =
            (1..=world.nodes).map(|number| format!("n{number}.sim:{GOSSIP_PORT}")).collect();
        config.heartbeat_interval = world.heartbeat;
        config.election_timeout = world.election;
        config.replace_silence = world.election * 6;
        config.storage.snapshot_log_entries = world.snapshot_entries;
        config.limits.max_value_bytes = 64 << 10;
        config.limits.max_request_bytes = 128 << 10;
        config.storage.log_segment_bytes = 256 << 10;
        config.storage.log_cache_bytes = 64 << 10;
        config.limits.drain_timeout = Duration::from_secs(3);
        if let Some(most) = world.workload.max_sessions {
            config.initial_max_sessions = most;
        }
        change(&mut config);
        let disk = SimDisk::new(self.0.run.seed ^ u64::from(number) << 48);
        disk.set_latency(Some(Latency {
            read: Duration::ZERO..Duration::ZERO,
            write: world.write_latency.clone(),
            sync: world.sync_latency.clone(),
        }));
        let host = Host {
            disk,
            disks: 1,
            tampered: 0,
            config,
            power: Power::Off,
            outsider: false,
            life: 0,
            stop: None,
            cause: None,
        };
        state.nodes.insert(name.to_owned(), host);
    }

    /// Whether the node is of another cluster, or its state was tampered with: from its next start on, what it applies
    /// and whom it elects says nothing about this cluster.
    pub fn set_outsider(&self, name: &str, outsider: bool) {
        self.host(&mut self.state(), name).outsider = outsider;
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
        self.state().nodes.keys().cloned().collect()
    }

    /// What a host does.
    pub fn power(&self, name: &str) -> Power {
        self.host(&mut self.state(), name).power
    }

    /// Nodes whose process runs, paused ones included.
    pub fn running(&self) -> Vec<String> {
        let state = self.state();
        let on = |host: &Host| host.power != Power::Off;
        state.nodes.iter().filter(|(_, host)| on(host)).map(|(name, _)| name.clone()).collect()
    }

    /// The configuration of a node's next start.
    pub fn config(&self, name: &str) -> NodeConfig {
        self.host(&mut self.state(), name).config.clone()
    }

    /// What a node said of itself last.
    pub fn last_status(&self, name: &str) -> Option<NodeStatus> {
        self.state().statuses.get(name).cloned()
    }

    /// The disk of a node, for faults that are aimed.
    pub fn disk(&self, name: &str) -> SimDisk {
        self.host(&mut self.state(), name).disk.clone()
    }

    // ---- power ----

    /// Starts all nodes that do not run.
    pub fn start_all(&self) {
        for name in self.names() {
            if self.power(&name) == Power::Off {
                self.start(&name);
            }
        }
    }

    /// Starts a node on its disk as it is. Always a fresh process.
    pub fn start(&self, name: &str) {
        let mut state = self.state();
        let id = state.network.id(name);
        let host = self.host(&mut state, name);
        assert_eq!(host.power, Power::Off, "{name} runs already");
        host.power = Power::On;
        host.life += 1;
        let is_over = |cause: &Cause| cause.errors.is_some() && cause.has_struck(&host.disk);
        if host.cause.as_ref().is_some_and(is_over) {
            // It struck while the node went down anyway.
            host.cause = None;
            host.disk.on_call(None);
        }
        let (stop, stopped) = oneshot::channel();
        host.stop = Some(stop);
        let (life, config, disk) = (host.life, host.config.clone(), host.disk.mount());
        let tampered = host.disk.counts().tampered;
        let is_tampered = std::mem::replace(&mut host.tampered, tampered) != tampered;
        let disk_name = format!("{name}'s disk {}", host.disks);
        let observer = NodeObserver::new(name, disk_name, is_tampered, self.0.run.clone());
        let observer = (!host.outsider).then(|| Arc::new(observer) as Arc<dyn Observer>);
        let options = Options { observer };
        // A restart makes a fresh host: everything of the old process is gone.
        Handle::current().restart(id);
        let process = Handle::current().get_node(id).expect("the host exists").spawn(async move {
            let asked_to_stop = async {
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            node::run(config, disk, options, asked_to_stop).await.map_err(|error| error.to_string())
        });
        let (cluster, name) = (self.clone(), name.to_owned());
        self.0.run.power(&name, timeline::Power::Up);
        self.0.run.tell(format!("{name} starts (life {life})"));
        state.supervisors.push(rt::task::spawn_guarded(async move {
            // A killed process does not report.
            if let Ok(end) = process.await {
                cluster.ended(&name, life, end);
            }
        }));
    }

    fn ended(&self, name: &str, life: u64, end: End) {
        let mut state = self.state();
        let id = state.network.id(name);
        let host = self.host(&mut state, name);
        if host.life != life || host.power == Power::Off {
            return;
        }
        host.power = Power::Off;
        let was_asked = host.stop.is_none();
        host.stop = None;
        let cause = host.cause.take_if(|cause| cause.has_struck(&host.disk)).map(|cause| cause.words);
        if cause.is_some() {
            host.disk.on_call(None);
        }
        host.disk.kill();
        Handle::current().kill(id);
        self.0.run.with_logs(|logs| logs.ended(name));
        drop(state);
        self.0.run.power(name, timeline::Power::Down);
        match end {
            Ok(()) if was_asked => self.0.run.tell(format!("{name} has stopped")),
            end => {
                let reason = end.err().unwrap_or_else(|| "it said nothing".into());
                self.0.run.tell(format!("{name} ends by itself: {reason}"));
                let stop = Stop { node: name.to_owned(), at: self.0.run.now(), reason, cause };
                if stop.cause.is_none() {
                    crate::judges::stops::judge(std::slice::from_ref(&stop))
                        .into_iter()
                        .for_each(|finding| self.0.run.find(finding));
                }
                self.0.run.stopped(stop);
            }
        }
    }

    /// What follows may make the node end by itself, whatever its disk says.
    pub fn excuse(&self, name: &str, words: &str) {
        self.host(&mut self.state(), name).cause = Some(Cause { words: words.to_owned(), errors: None });
    }

    /// Undoes what was prepared against a node's disk.
    pub fn mend_disk(&self, name: &str) {
        let mut state = self.state();
        let host = self.host(&mut state, name);
        host.disk.on_call(None);
        host.disk.set_capacity(None);
        // A sync that failed already may still make the node end.
        host.cause.take_if(|cause| cause.errors.is_none() || !cause.has_struck(&host.disk));
    }

    /// Takes a host that runs nothing out of the cluster's story.
    pub fn forget(&self, name: &str) {
        assert_eq!(self.power(name), Power::Off, "{name} still runs");
        self.state().nodes.remove(name);
    }

    /// The process dies: kill -9. What it wrote stays in the page cache.
    pub fn kill(&self, name: &str) {
        if self.switch_off(name, SimDisk::kill) {
            self.0.run.fault("kill", format!("{name} is killed"));
        }
    }

    /// Power fails on one machine: what was not synced is lost, torn or kept.
    pub fn power_loss(&self, name: &str) {
        let unsynced = self.disk(name).counts().unsynced_writes;
        if self.switch_off(name, SimDisk::power_loss) {
            if unsynced > 0 {
                self.0.run.situation("power lost with unsynced writes");
            }
            self.0.run.fault("power loss", format!("{name} loses power, {unsynced} writes were not synced"));
        }
    }

    fn switch_off(&self, name: &str, what: impl FnOnce(&SimDisk)) -> bool {
        let mut state = self.state();
        let id = state.network.id(name);
        let host = self.host(&mut state, name);
        let was_running = host.power != Power::Off;
        // The disk first: whatever the dying process still says reaches nothing.
        what(&host.disk);
        if host.power == Power::Paused {
            Handle::current().resume(id);
        }
        host.power = Power::Off;
        host.stop = None;
        Handle::current().kill(id);
        self.0.run.with_logs(|logs| logs.ended(name));
        if was_running {
            self.0.run.power(name, timeline::Power::Down);
        }
        was_running
    }

    /// One of the next syncs of the node's disk fails, and everything after it until the node is started again; the
    /// node must stop by it.
    pub fn fail_sync(&self, name: &str, nth: u64) {
        {
            let mut state = self.state();
            let host = self.host(&mut state, name);
            let mut left = nth;
            host.disk.on_call(Some(Box::new(move |call| {
                left -= u64::from(left > 0 && call.operation == Operation::Sync);
                match left {
                    0 => Fault::Error,
                    _ => Fault::None,
                }
            })));
            let errors = Some(host.disk.counts().errors);
            host.cause = Some(Cause { words: "a sync of its disk failed".into(), errors });
        }
        self.0.run.fault("failed sync", format!("the sync number {nth} from now on {name}'s disk will fail"));
    }

    /// Power fails on a node's machine just before one of its next syncs. Resolves when it has.
    pub async fn power_loss_at_sync(&self, name: &str, nth: u64) {
        let (sender, struck) = oneshot::channel();
        let mut sender = Some(sender);
        let mut left = nth;
        let hook = move |call: &DiskCall| {
            left -= u64::from(left > 0 && call.operation == Operation::Sync);
            let strikes = left == 0 && sender.take().is_some_and(|sender| sender.send(()).is_ok());
            if strikes { Fault::PowerLossBefore } else { Fault::None }
        };
        self.disk(name).on_call(Some(Box::new(hook)));
        // Whoever waits may be gone by then; the process must go with its disk all the same.
        let (cluster, name) = (self.clone(), name.to_owned());
        let finished = rt::spawn(async move {
            // A hook that is replaced strikes no more.
            if struck.await.is_ok() {
                cluster.run().situation("power lost just before a sync");
                cluster.power_loss(&name);
            }
        });
        // It ends with the run at the latest.
        let _ = finished.await;
    }

    /// Makes a node's disk slower by this factor; 1: as fast as the world says.
    pub fn slow_disk(&self, name: &str, factor: u32) {
        let world = &self.0.world;
        let times = |range: &std::ops::Range<Duration>| range.start * factor..range.end * factor;
        self.disk(name).set_latency(Some(Latency {
            read: Duration::ZERO..Duration::ZERO,
            write: world.write_latency.clone(),
            sync: times(&world.sync_latency),
        }));
        if factor > 1 {
            self.0.run.fault("slow disk", format!("{name}'s disk is {factor} times slower"));
        }
    }

    /// Asks a node to stop, as SIGTERM does, and waits until it has.
    pub async fn stop(&self, name: &str) {
        let Some(stop) = self.host(&mut self.state(), name).stop.take() else { return };
        self.0.run.fault("stop", format!("{name} is asked to stop"));
        let _ = stop.send(());
        let before = rt::now();
        while self.power(name) == Power::On {
            if rt::now() - before > STOP_BOUND {
                let words = format!("{name} did not stop within {STOP_BOUND:?} of being asked");
                self.0.run.find(Finding::liveness("graceful stop", words));
                self.kill(name);
                return;
            }
            rt::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The node stands still: nothing in it runs, its connections stay.
    pub fn pause(&self, name: &str) {
        let mut state = self.state();
        let id = state.network.id(name);
        let host = self.host(&mut state, name);
        if host.power == Power::On {
            host.power = Power::Paused;
            Handle::current().pause(id);
            drop(state);
            self.0.run.power(name, timeline::Power::Paused);
            self.0.run.fault("pause", format!("{name} stands still"));
        }
    }

    /// The node goes on.
    pub fn resume(&self, name: &str) {
        let mut state = self.state();
        let id = state.network.id(name);
        let host = self.host(&mut state, name);
        if host.power == Power::Paused {
            host.power = Power::On;
            Handle::current().resume(id);
            drop(state);
            self.0.run.power(name, timeline::Power::Up);
            self.0.run.tell(format!("{name} goes on"));
        }
    }

    /// The disk comes back empty. The node must not run.
    pub fn wipe(&self, name: &str) {
        assert_eq!(self.power(name), Power::Off, "{name} still uses its disk");
        self.disk(name).wipe();
        let mut state = self.state();
        self.host(&mut state, name).disks += 1;
        state.lost_disks += 1;
        drop(state);
        self.may_go(name);
        self.0.run.fault("wiped disk", format!("{name}'s disk is empty"));
    }

    /// Somebody rewrote what lies on the disk of a node that is off: what the node promised before binds it no more.
    pub fn tampered(&self, name: &str) {
        self.host(&mut self.state(), name).tampered = u64::MAX;
    }

    /// An operator removes the node, or its disk is lost: it may leave the members.
    pub fn may_go(&self, name: &str) {
        self.0.run.with_logs(|logs| logs.may_go(name));
    }

    /// Nodes whose disk was lost so far: more than a minority is more than any cluster can bear.
    pub fn lost_disks(&self) -> u32 {
        self.state().lost_disks
    }

    /// All hosts get other addresses under their old names. No node may run.
    pub fn change_all_addresses(&self, network: u8) {
        let mut state = self.state();
        assert!(
            state.nodes.values().all(|host| host.power == Power::Off),
            "a running node keeps its address"
        );
        state.network.heal();
        let names: Vec<String> = state.nodes.keys().cloned().collect();
        for (number, name) in (1..).zip(&names) {
            state.network.move_to(name, [10, 0, network, number]);
            let address = state.network.address(name);
            self.host(&mut state, name).config.bind_addr = (address, GOSSIP_PORT).into();
        }
        drop(state);
        self.0.run.fault("changed addresses", format!("all nodes move to 10.0.{network}.x"));
    }

    // ---- links ----

    /// Cuts one direction.
    pub fn cut(&self, from: &str, to: &str) {
        if self.state().network.set_cut(from, to, true) {
            self.0.run.link(from, to, true, &format!("nothing arrives from {from} at {to}"));
        }
    }

    /// Makes one direction whole.
    pub fn mend(&self, from: &str, to: &str) {
        if self.state().network.set_cut(from, to, false) {
            self.0.run.link(from, to, false, &format!("{from} reaches {to} again"));
        }
    }

    /// Cuts both directions between a node and each of the others.
    pub fn isolate(&self, name: &str) {
        let others: Vec<String> = self.names().into_iter().filter(|other| other != name).collect();
        self.split(&[name.to_owned()], &others);
    }

    /// Cuts both directions between two groups.
    pub fn split(&self, one: &[String], other: &[String]) {
        {
            let mut state = self.state();
            for (from, to) in one.iter().flat_map(|from| other.iter().map(move |to| (from, to))) {
                for (from, to) in [(from, to), (to, from)] {
                    if state.network.set_cut(from, to, true) {
                        self.0.run.link(from, to, true, "");
                    }
                }
            }
        }
        self.0.run.tell(format!("{} cut off from {}", one.join(", "), other.join(", ")));
    }

    /// Makes all links whole.
    pub fn heal_network(&self) {
        for (from, to) in self.state().network.heal() {
            self.0.run.link(&from, &to, false, "");
        }
        self.0.run.tell("all links are whole");
    }

    // ---- what the nodes say of themselves ----

    /// Adds a host for a client: its name and its number.
    pub fn add_client_host(&self) -> (String, u32) {
        let mut state = self.state();
        state.clients += 1;
        let number = state.clients;
        let name = format!("c{number}");
        let [.., high, low] = number.to_be_bytes();
        let id = state.network.add(&name, [10, 0, 240 + high, low]);
        self.0.run.host(id, &name, false);
        (name, number)
    }

    /// Where a host is now.
    pub fn address(&self, host: &str) -> std::net::IpAddr {
        self.state().network.address(host)
    }

    /// Runs a future on a host that lives as long as the run.
    pub async fn on<T: Send + 'static>(
        &self,
        host: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        self.try_on(host, future).await.expect("the host lives as long as the run")
    }

    /// Runs a future on a host. `None`: the host died before it was done.
    pub async fn try_on<T: Send + 'static>(
        &self,
        host: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let id = self.state().network.id(host);
        let host = Handle::current().get_node(id).expect("the host exists");
        host.spawn(Box::pin(future)).await.ok()
    }

    /// A client's machine dies, with everything that it has under way.
    pub fn kill_client(&self, host: &str) {
        let id = self.state().network.id(host);
        Handle::current().kill(id);
        self.0.run.fault("client crash", format!("{host} dies"));
    }

    /// Asks a node how it is. `None`: it does not answer.
    pub async fn status(&self, name: &str) -> Option<NodeStatus> {
        let client = self.0.monitor_client.clone();
        let address = format!("{}:{RPC_PORT}", dns_name(name));
        let monitor = Handle::current().get_node(self.0.monitor).expect("the monitor exists");
        let status = monitor.spawn(Box::pin(async move { client.status(&address).await.ok() })).await;
        let status = status.expect("the monitor lives as long as the run")?;
        self.0.run.status(name, &status.role, status.term, status.committed_index, status.applied_index);
        let outsider = self.state().nodes.get(name).is_none_or(|host| host.outsider);
        if status.role == "leader" && !outsider {
            let now = self.0.run.now();
            self.0.run.with_logs(|logs| logs.said_to_lead(status.term, &status.name, status.node_id, now));
        }
        self.state().statuses.insert(name.to_owned(), status.clone());
        Some(status)
    }

    /// Asks for something as an operator does; how it ended is told in the story and matters to nobody else.
    pub async fn operate<T, F>(&self, what: &str, ask: impl FnOnce(Client) -> F)
    where
        T: Send + std::fmt::Debug + 'static,
        F: Future<Output = Result<T, mokv::client::Error>> + Send + 'static,
    {
        let monitor = Handle::current().get_node(self.0.monitor).expect("the monitor exists");
        let answer = monitor.spawn(ask(self.0.monitor_client.with_timeout(OPERATOR_PATIENCE))).await;
        let answer = answer.expect("the monitor lives as long as the run");
        self.0.run.tell(format!("{what}: {answer:?}"));
    }

    /// The node that last said it leads, in the highest term, as far as the monitor knows.
    pub fn last_known_leader(&self) -> Option<String> {
        let state = self.state();
        let leads = state.statuses.values().filter(|status| status.role == "leader");
        leads.max_by_key(|status| status.term).map(|status| status.name.clone())
    }

    /// Waits until a majority of the running nodes agree on a leader that is one of `among`; its name.
    ///
    /// # Errors
    /// In words, if there is none within the bound.
    pub async fn wait_for_leader(&self, among: &[String], within: Duration) -> Result<String, String> {
        let before = rt::now();
        loop {
            let mut votes: BTreeMap<(u64, String), usize> = BTreeMap::new();
            let mut said_so = None;
            for name in among {
                let Some(status) = self.status(name).await else { continue };
                if status.role == "leader" {
                    said_so = Some((status.term, status.name.clone())).max(said_so);
                }
                *votes.entry((status.term, status.leader_name)).or_default() += 1;
            }
            if let Some(leader) = said_so
                && votes.get(&leader).is_some_and(|votes| *votes > among.len() / 2)
            {
                return Ok(leader.1);
            }
            if rt::now() - before > within {
                return Err(format!("{} have no leader after {within:?}", among.join(", ")));
            }
            rt::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Shared {
    /// Asks every running node how it is, for ever.
    fn watch(&self, cluster: Cluster) {
        let cluster_to_watch = cluster.clone();
        let guard = rt::task::spawn_guarded(async move {
            loop {
                for name in cluster.running() {
                    if cluster.power(&name) == Power::On {
                        let cluster = cluster.clone();
                        rt::spawn(async move {
                            cluster.status(&name).await;
                        });
                    }
                }
                rt::sleep(MONITOR_PAUSE).await;
            }
        });
        let looking = rt::task::spawn_guarded(crate::watch::watch(cluster_to_watch));
        let supervisors =
            &mut self.state.lock().expect("no code panics while it holds this lock").supervisors;
        supervisors.extend([guard, looking]);
    }
}

impl Cause {
    fn has_struck(&self, disk: &SimDisk) -> bool {
        self.errors.is_none_or(|before| disk.counts().errors > before)
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cluster at {}", Seconds(self.0.run.now()))
    }
}
