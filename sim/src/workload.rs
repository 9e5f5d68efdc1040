//! What clients do all day: sets of unique values, deletes, conditional writes, reads of both kinds, lists; on a few
//! keys that everybody wants and on many that hardly anybody touches; one at a time or many at once. Some clients die
//! at it, and others take their place.
//!
//! The doubt on a key is bounded: writes under way and writes of unknown outcome together never exceed a few, and
//! then the key is retired and a fresh one takes its place, so that the checker never has to give up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mokv::rt;
use mokv::rt::task::JoinHandle;

use crate::client::SimClient;
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::direct::Direct;
use crate::history::{Answer, Outcome};
use crate::world::Doing;

/// Writes of unknown outcome on one key before it is retired, those under way included.
const MOST_DOUBT: u32 = 8;
/// Keys that are wanted begin with this, so that lists have something to find.
const WANTED: &str = "key/";
/// Keys that are seldom touched: most deletes find none, most lists find many.
const SELDOM: &str = "seldom/";
/// How many of those there may be.
const SELDOM_KEYS: u64 = 200;
/// Share of operations on them.
const SELDOM_SHARE: f64 = 0.06;
/// Share of operations that begin several at once, where the world has that.
const MANY_AT_ONCE: f64 = 0.15;
/// Share of sets with a value as long as may be, and of sets with one that is a byte too long.
const LONGEST: f64 = 0.004;
/// A reader of a long list takes so long over a page.
const READING: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(60);
/// Between two looks of those who have no library.
const WITNESSES: std::ops::Range<Duration> = Duration::from_millis(300)..Duration::from_millis(2_500);
/// How much longer they wait than they tell the node.
const PATIENT: Duration = Duration::from_secs(2);
/// So long after its last request a client dies.
const DYING: std::ops::Range<Duration> = Duration::ZERO..Duration::from_millis(30);

/// Clients at work.
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
    /// Writes under way and writes of unknown outcome.
    doubt: u32,
}

impl Workload {
    /// Sets the clients of the world to work; they know `nodes`.
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
                let seen = Arc::default();
                rt::spawn(Worker { client, dice, crashes, shared: shared.clone(), seen }.work())
            })
            .chain([rt::spawn(witness(shared.clone()))])
            .collect();
        Workload { shared, workers }
    }

    /// Lets everybody finish what is under way.
    pub async fn stop(self) {
        *self.shared.stop.lock().expect("no code panics while it holds this lock") = true;
        for worker in self.workers {
            worker.await.expect("clients do not panic");
        }
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        // Once something is wrong more of it only buries the evidence.
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

    /// A write to a key begins; false: there is too much doubt about it already.
    fn begin_write(&self, slot: usize) -> bool {
        let doubt = &mut self.keys()[slot].doubt;
        let admits = *doubt < MOST_DOUBT;
        *doubt += u32::from(admits);
        admits
    }

    /// It ended, and nobody knows how if it is `in_doubt`.
    fn end_write(&self, slot: usize, key: &str, in_doubt: bool) {
        if self.key(slot) != key {
            return;
        }
        let slot = &mut self.keys()[slot];
        if !in_doubt {
            slot.doubt -= 1;
        } else if slot.doubt >= MOST_DOUBT {
            // Those that are still under way belong to the key that is given up.
            *slot = Slot { generation: slot.generation + 1, doubt: 0 };
        }
    }
}

/// One operation, decided.
struct Task {
    doing: Doing,
    key: String,
    /// Of a key that is wanted: its slot, if this is a write.
    writes: Option<usize>,
    condition: u64,
    size: usize,
    page: u64,
    pause: Duration,
}

struct Worker {
    client: SimClient,
    dice: Dice,
    /// Draws of their own: whether clients die must not change what the others do.
    crashes: Dice,
    shared: Arc<Shared>,
    /// Mod revisions it has seen, for conditions.
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
            // Once something is wrong more of it only buries the evidence.
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
            for operation in under_way {
                operation.await.expect("operations do not panic");
            }
        }
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
        // A revision to ask for: mostly one that may hold.
        let seen = self.seen.lock().expect("no code panics while it holds this lock").get(&key).copied();
        let condition = if self.dice.chance(0.15) { 0 } else { seen.unwrap_or(0) };
        let size = match () {
            () if self.dice.chance(LONGEST) => shared.longest_value + usize::from(self.dice.chance(0.5)),
            () if doing == Doing::Set && self.dice.chance(mix.large_values) => mix.large_value,
            () => mix.small_value,
        };
        // What is seldom touched is a long list.
        let page = u64::from(mix.page) * if is_seldom { 16 } else { 1 };
        let pause = if is_list && page > 0 { self.dice.time(READING) } else { Duration::ZERO };
        Task { doing, key, writes, condition, size, page, pause }
    }
}

/// Now and then somebody without the library asks one node for a write, and somebody who has seen nothing then asks the same
/// node what it has; or only that.
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
        // What a node has not applied yet shows best at one that has trouble to keep up.
        let slow: Vec<&String> = here.iter().copied().filter(|node| cluster.has_slow_disk(node)).collect();
        let here = if slow.is_empty() || dice.chance(0.3) { here } else { slow };
        let Some(node) = (!here.is_empty()).then(|| *dice.one_of(&here)) else { continue };
        let key = format!("direct/{number}");
        if dice.chance(0.7) {
            Direct::new(cluster, node).set(&key, deadline, deadline + PATIENT).await;
        }
        if dice.chance(0.2) {
            // Across a restart, for example.
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
        Outcome::Ok(Answer::Listed { .. }) | Outcome::Failed | Outcome::Unknown => return,
    };
    seen.lock().expect("no code panics while it holds this lock").insert(key, revision);
}
