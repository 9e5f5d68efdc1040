//! The clients' workload: sets of unique values, deletes, conditional writes, reads of both kinds and of the past, lists,
//! reads of versions and changes, and transactions; on a few contended keys and on many rarely used ones; one at a time or
//! many at once. Some clients crash at it, and others take their place.
//!
//! The doubt on a key is bounded: writes under way and writes of unknown outcome together never exceed a few, and then
//! the key is retired and a new one takes its place, so that the checker never has to give up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mokv::rt;
use mokv::rt::task::JoinHandle;

use super::client::SimClient;
use super::direct::Direct;
use super::transactor::{NUMBER_OF_KEYS, Transactor};
use crate::cluster::Cluster;
use crate::evidence::history::{Answer, Outcome, Span};
use crate::evidence::transactions::KEYS;
use crate::world::Doing;
use crate::world::dice::Dice;

/// Most writes of unknown outcome on one key before it is retired, including those under way.
const MOST_DOUBT: u32 = 8;
/// Prefix of the contended keys, so that lists have something to find.
const WANTED: &str = "key/";
/// Prefix of the rarely used keys: most deletes find none, most lists find many.
const SELDOM: &str = "seldom/";
/// Number of rarely used keys.
const SELDOM_KEYS: u64 = 200;
/// Share of operations on rarely used keys.
const SELDOM_SHARE: f64 = 0.06;
/// Share of operations that begin several at once, if the world has that.
const MANY_AT_ONCE: f64 = 0.15;
/// Share of sets whose value has the maximum length, or is one byte longer.
const LONGEST: f64 = 0.004;
/// Share of the rounds of a client in which it reads the past.
const PAST: f64 = 0.1;
/// Share of these rounds in which it gives up the past before the revision that it would read.
const COMPACTS: f64 = 0.1;
/// Share of the rounds of a client in which it reads versions or changes.
const CHANGES: f64 = 0.04;
/// Share of the rounds of a client in which it executes a transaction.
const TRANSACTS: f64 = 0.15;
/// Pause of a reader between two pages of a long list.
const READING: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(60);
/// Time between two requests of clients without the library.
const WITNESSES: std::ops::Range<Duration> = Duration::from_millis(300)..Duration::from_millis(2_500);
/// How much longer these clients wait than the deadline that they send to the node.
const PATIENT: Duration = Duration::from_secs(2);
/// Time from the last request of a client to its crash.
const DYING: std::ops::Range<Duration> = Duration::ZERO..Duration::from_millis(30);

/// The running clients.
pub struct Workload {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    cluster: Cluster,
    nodes: Vec<String>,
    longest_value: usize,
    keys: Mutex<Vec<Slot>>,
    stop: Mutex<bool>,
}

/// A key and its successors.
#[derive(Default)]
struct Slot {
    generation: u32,
    /// Number of writes under way or of unknown outcome.
    doubt: u32,
}

impl Workload {
    /// Starts the clients of the world; `nodes` are their addresses.
    pub fn start(cluster: &Cluster, nodes: &[String]) -> Workload {
        let world = cluster.world();
        let shared = Arc::new(Shared {
            cluster: cluster.clone(),
            nodes: nodes.to_vec(),
            longest_value: cluster.config(&nodes[0]).limits.max_value_bytes,
            keys: Mutex::new((0..world.keys).map(|_| Slot::default()).collect()),
            stop: Mutex::new(false),
        });
        let workers = (0..world.clients)
            .map(|number| {
                let mut dice = Dice::new(cluster.run().seed, &format!("client {number}"));
                let client = shared.new_client(&mut dice);
                let crashes = Dice::new(cluster.run().seed, &format!("crashes of client {number}"));
                let past = Dice::new(cluster.run().seed, &format!("past of client {number}"));
                let changes = Dice::new(cluster.run().seed, &format!("changes for client {number}"));
                let transactor = Transactor::new(cluster.run(), number);
                let seen = Arc::default();
                let shared = shared.clone();
                rt::spawn(Worker { client, dice, crashes, past, changes, transactor, shared, seen }.work())
            })
            .chain([rt::spawn(witness(shared.clone()))])
            .collect();
        Workload { shared, workers }
    }

    /// Waits until all operations under way have ended.
    pub async fn stop(self) {
        *self.shared.stop.lock().expect("no code panics while it holds this lock") = true;
        for worker in self.workers {
            worker.await.expect("clients do not panic");
        }
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        // After a violation, more operations would only hide the evidence.
        *self.stop.lock().expect("no code panics while it holds this lock") || self.cluster.run().is_broken()
    }

    fn new_client(&self, dice: &mut Dice) -> SimClient {
        let (world, cluster) = (self.cluster.world(), &self.cluster);
        let sessions = dice.chance(world.workload.sessions);
        let client = SimClient::new(cluster, &self.nodes, world.patience, sessions);
        let only = dice.one_of(&self.nodes);
        if dice.chance(world.workload.one_node) {
            for node in self.nodes.iter().filter(|node| *node != only) {
                cluster.cut(client.host(), node);
                cluster.cut(node, client.host());
            }
        }
        client
    }

    fn keys(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.keys.lock().expect("no code panics while it holds this lock")
    }

    fn key(&self, slot: usize) -> String {
        format!("{WANTED}{slot:02}.{}", self.keys()[slot].generation)
    }

    /// Begins a write to a key. Returns `false` if the key has too many writes in doubt already.
    fn begin_write(&self, slot: usize) -> bool {
        let doubt = &mut self.keys()[slot].doubt;
        let admits = *doubt < MOST_DOUBT;
        *doubt += u32::from(admits);
        admits
    }

    /// A write ended; `in_doubt`: its outcome is unknown.
    fn end_write(&self, slot: usize, key: &str, in_doubt: bool) {
        if self.key(slot) != key {
            return;
        }
        let slot = &mut self.keys()[slot];
        if !in_doubt {
            slot.doubt -= 1;
        } else if slot.doubt >= MOST_DOUBT {
            // Writes that are still under way belong to the retired key.
            *slot = Slot { generation: slot.generation + 1, doubt: 0 };
        }
    }
}

/// One operation, with all its parameters drawn.
struct Task {
    doing: Doing,
    key: String,
    /// For a write to a contended key: the key's slot.
    writes: Option<usize>,
    condition: u64,
    size: usize,
    page: u64,
    pause: Duration,
}

struct Worker {
    client: SimClient,
    dice: Dice,
    /// A generator of its own: whether clients crash must not change what the others do.
    crashes: Dice,
    /// The same for reads of the past.
    past: Dice,
    /// The same for reads of versions and changes.
    changes: Dice,
    /// The same for transactions.
    transactor: Transactor,
    shared: Arc<Shared>,
    /// The last mod revision seen of each key, for conditions.
    seen: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Worker {
    async fn work(mut self) {
        let shared = self.shared.clone();
        let world = shared.cluster.world();
        let mix = &world.workload;
        while !*shared.stop.lock().expect("no code panics while it holds this lock") {
            let pause = self.dice.time(world.think_time.clone());
            rt::sleep(pause).await;
            // After a violation, more operations would only hide the evidence.
            if shared.cluster.run().is_broken() {
                return;
            }
            let many = mix.in_flight > 1 && self.dice.chance(MANY_AT_ONCE);
            let count = if many { self.dice.within(2..mix.in_flight + 1) } else { 1 };
            let under_way: Vec<JoinHandle<()>> = (0..count)
                .map(|_| {
                    let task = self.decide();
                    rt::spawn(carry_out(self.client.clone(), task, shared.clone(), self.seen.clone()))
                })
                .collect();
            if self.crashes.chance(mix.client_crashes) {
                rt::sleep(self.crashes.time(DYING)).await;
                self.client.crash();
                self.client = shared.new_client(&mut self.crashes);
            }
            if self.past.chance(PAST) {
                self.read_the_past().await;
            }
            if self.changes.chance(CHANGES) {
                self.read_changes().await;
            }
            if self.past.chance(TRANSACTS) {
                let asked = self.transactor.draw();
                self.transactor.learn(&self.client.transact(asked).await);
            }
            for operation in under_way {
                operation.await.expect("operations do not panic");
            }
        }
    }

    /// Reads a key, or several, at a revision that the client has seen.
    async fn read_the_past(&mut self) {
        let revision = past_revision(&self.client, &mut self.past);
        if self.past.chance(COMPACTS) {
            self.client.compact(revision).await;
        }
        let slot = self.past.within(0..self.shared.cluster.world().keys) as usize;
        let seldom = self.past.chance(0.3);
        if self.past.chance(0.3) {
            self.client.list_at(if seldom { SELDOM } else { WANTED }, revision).await;
        } else if seldom {
            let key = format!("{SELDOM}{:03}", self.past.within(0..SELDOM_KEYS));
            self.client.get_at(&key, revision).await;
        } else {
            self.client.get_at(&self.shared.key(slot), revision).await;
        }
    }

    /// Reads the versions of a key, or the changes of several, from a revision that the client has seen, or from the
    /// earliest one.
    async fn read_changes(&mut self) {
        let (client, dice) = (&self.client, &mut self.changes);
        let from = past_revision(client, dice);
        let to = dice.chance(0.3).then(|| (from + dice.within(0..30)).min(client.seen_revision().max(from)));
        let is_named = dice.chance(0.7);
        // All that there is would often be long.
        let limit = (!is_named || dice.chance(0.5)).then(|| dice.within(1..20));
        let (from, to) = (is_named.then_some(from), to.filter(|_| is_named));
        let span = Span { from, to, limit, stale: dice.chance(0.3) };
        if dice.chance(0.5) {
            let prefix = *dice.one_of(&[WANTED, SELDOM, KEYS, ""]);
            client.changes(prefix, span).await;
            return;
        }
        let key = match dice.within(0..4) {
            0 => format!("{SELDOM}{:03}", dice.within(0..SELDOM_KEYS)),
            1 => format!("{KEYS}{}", dice.within(0..NUMBER_OF_KEYS)),
            _ => self.shared.key(dice.within(0..self.shared.cluster.world().keys) as usize),
        };
        client.versions(&key, span).await;
    }

    fn decide(&mut self) -> Task {
        let shared = self.shared.clone();
        let mix = &shared.cluster.world().workload;
        let doing = *self.dice.weighted(&mix.operations);
        let is_write = matches!(doing, Doing::Set | Doing::SetIf | Doing::Delete | Doing::DeleteIf);
        let is_list = matches!(doing, Doing::List | Doing::StaleList);
        let slots = shared.cluster.world().keys;
        let hot = mix.hot_keys > 0 && self.dice.chance(mix.hot);
        let slot = self.dice.within(0..if hot { mix.hot_keys.min(slots) } else { slots }) as usize;
        let seldom = format!("{SELDOM}{:03}", self.dice.within(0..SELDOM_KEYS));
        let is_seldom = self.dice.chance(SELDOM_SHARE);
        let (key, writes) = match is_list {
            true => ((if is_seldom { SELDOM } else { WANTED }).to_owned(), None),
            false if is_seldom || (is_write && !shared.begin_write(slot)) => (seldom, None),
            false => (shared.key(slot), is_write.then_some(slot)),
        };
        // The revision for a condition: mostly one that may hold.
        let seen = self.seen.lock().expect("no code panics while it holds this lock").get(&key).copied();
        let condition = if self.dice.chance(0.15) { 0 } else { seen.unwrap_or(0) };
        let size = match () {
            () if self.dice.chance(LONGEST) => shared.longest_value + usize::from(self.dice.chance(0.5)),
            () if doing == Doing::Set && self.dice.chance(mix.large_values) => mix.large_value,
            () => mix.small_value,
        };
        // A list of the rarely used keys is long.
        let page = u64::from(mix.page) * if is_seldom { 16 } else { 1 };
        let pause = if is_list && page > 0 { self.dice.time(READING) } else { Duration::ZERO };
        Task { doing, key, writes, condition, size, page, pause }
    }
}

/// A revision that a client has seen: often a recent one.
fn past_revision(client: &SimClient, dice: &mut Dice) -> u64 {
    let back = if dice.chance(0.7) { 1..30 } else { 1..2_000 };
    client.seen_revision().saturating_sub(dice.within(back)).max(1)
}

/// At random times, a client without the library sends a write to one node, and a new one, which has seen no revision,
/// then reads from the same node; or only the read is sent.
async fn witness(shared: Arc<Shared>) {
    let cluster = &shared.cluster;
    let mut dice = Dice::new(cluster.run().seed, "witnesses");
    let deadline = cluster.world().patience;
    for number in 0.. {
        rt::sleep(dice.time(WITNESSES)).await;
        if shared.is_over() {
            return;
        }
        let here: Vec<&String> = shared.nodes.iter().filter(|node| cluster.is_here(node)).collect();
        // Answers from before a write was applied are likeliest from a node that lags.
        let slow: Vec<&String> = here.iter().copied().filter(|node| cluster.has_slow_disk(node)).collect();
        let here = if slow.is_empty() || dice.chance(0.3) { here } else { slow };
        let Some(node) = (!here.is_empty()).then(|| *dice.one_of(&here)) else { continue };
        let key = format!("direct/{number}");
        if dice.chance(0.7) {
            Direct::new(cluster, node).set(&key, deadline, deadline + PATIENT).await;
        }
        if dice.chance(0.2) {
            // So that a restart, for example, may lie in between.
            rt::sleep(dice.time(WITNESSES)).await;
        }
        Direct::new(cluster, node).get(&key, true, deadline, deadline + PATIENT).await;
    }
}

async fn carry_out(
    client: SimClient,
    task: Task,
    shared: Arc<Shared>,
    seen: Arc<Mutex<BTreeMap<String, u64>>>,
) {
    let Task { doing, key, writes, condition, size, page, pause } = task;
    let outcome = match doing {
        Doing::Set => client.set(&key, None, size).await.1,
        Doing::SetIf => client.set(&key, Some(condition), size).await.1,
        Doing::Delete => client.delete(&key, None).await,
        Doing::DeleteIf => client.delete(&key, Some(condition)).await,
        Doing::Get => client.get(&key, false).await,
        Doing::StaleGet => client.get(&key, true).await,
        Doing::List => client.list_in_pages(&key, false, page, pause).await,
        Doing::StaleList => client.list_in_pages(&key, true, page, pause).await,
    };
    if let Some(slot) = writes {
        shared.end_write(slot, &key, outcome == Outcome::Unknown);
    }
    let revision = match outcome {
        Outcome::Ok(Answer::Written { revision }) => revision,
        Outcome::Ok(Answer::Deleted { .. } | Answer::Read { entry: None, .. }) => 0,
        Outcome::Ok(Answer::ConditionFailed { present_revision }) => present_revision,
        Outcome::Ok(Answer::Read { entry: Some(entry), .. }) => entry.mod_revision,
        Outcome::Ok(Answer::Listed { .. } | Answer::Changed { .. } | Answer::Compacted)
        | Outcome::Failed
        | Outcome::Unknown => return,
    };
    seen.lock().expect("no code panics while it holds this lock").insert(key, revision);
}
