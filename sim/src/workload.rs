//! What clients do all day: sets of unique values, deletes, conditional writes, reads of both kinds, lists, on few keys.
//!
//! The doubt on a key is bounded: when too many writes of unknown outcome are on record the key is retired and a fresh
//! one takes its place, so that the checker never has to give up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use mokv::rt;
use mokv::rt::task::JoinHandle;

use crate::client::SimClient;
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::history::{Answer, Outcome};

/// Writes of unknown outcome on one key before it is retired. Those under way may add one for each client.
const MOST_DOUBT: u32 = 6;
/// Most keys begin with this, so that lists have something to find.
const PREFIX: &str = "key/";

/// Clients at work.
pub struct Workload {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    keys: Mutex<Vec<Slot>>,
    stop: Mutex<bool>,
}

/// A key and its successors.
#[derive(Default)]
struct Slot {
    generation: u32,
    doubt: u32,
}

impl Workload {
    /// Sets the clients of the world to work; they know `nodes`.
    pub fn start(cluster: &Cluster, nodes: &[String]) -> Workload {
        let world = cluster.world();
        let keys = (0..world.keys).map(|_| Slot::default()).collect();
        let shared = Arc::new(Shared { keys: Mutex::new(keys), stop: Mutex::new(false) });
        let workers = (0..world.clients)
            .map(|number| {
                let mut dice = Dice::new(cluster.run().seed, &format!("client {number}"));
                let sessions = dice.chance(world.workload.sessions);
                let client = SimClient::new(cluster, nodes, world.patience, sessions);
                let worker = Worker {
                    client,
                    dice,
                    shared: shared.clone(),
                    cluster: cluster.clone(),
                    seen: BTreeMap::new(),
                };
                rt::spawn(worker.work())
            })
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

struct Worker {
    client: SimClient,
    dice: Dice,
    shared: Arc<Shared>,
    cluster: Cluster,
    /// Mod revisions it has seen, for conditions.
    seen: BTreeMap<String, u64>,
}

impl Worker {
    async fn work(mut self) {
        while !*self.shared.stop.lock().expect("no code panics while it holds this lock") {
            let pause = self.dice.time(self.cluster.world().think_time.clone());
            rt::sleep(pause).await;
            // Once something is wrong more of it only buries the evidence.
            if self.cluster.run().is_broken() {
                return;
            }
            self.one_operation().await;
        }
    }

    async fn one_operation(&mut self) {
        // Half of everything happens on one hot key.
        let slots = self.cluster.world().keys;
        let slot = if self.dice.chance(0.4) { 0 } else { self.dice.within(0..slots) as usize };
        let key = self.key(slot);
        let outcome = match self.dice.within(0..100) {
            0..35 => {
                let size = if self.dice.chance(0.05) { 4_000 } else { 16 };
                self.client.set(&key, None, size).await.1
            }
            35..48 => {
                let at = self.condition(&key);
                self.client.set(&key, Some(at), 16).await.1
            }
            48..53 => self.client.delete(&key, None).await,
            53..56 => {
                let at = self.condition(&key);
                self.client.delete(&key, Some(at)).await
            }
            56..82 => self.client.get(&key, false).await,
            82..95 => self.client.get(&key, true).await,
            95..98 => self.client.list(PREFIX, false).await,
            _ => self.client.list(PREFIX, true).await,
        };
        self.learn(slot, &key, &outcome);
    }

    /// A revision to ask for: mostly one that may hold.
    fn condition(&mut self, key: &str) -> u64 {
        if self.dice.chance(0.15) { 0 } else { self.seen.get(key).copied().unwrap_or(0) }
    }

    fn learn(&mut self, slot: usize, key: &str, outcome: &Outcome) {
        let revision = match outcome {
            Outcome::Ok(Answer::Written { revision }) => *revision,
            Outcome::Ok(Answer::Deleted { .. } | Answer::Read { entry: None, .. }) => 0,
            Outcome::Ok(Answer::ConditionFailed { present_revision }) => *present_revision,
            Outcome::Ok(Answer::Read { entry: Some(entry), .. }) => entry.mod_revision,
            Outcome::Ok(Answer::Listed { .. }) | Outcome::Failed => return,
            Outcome::Unknown => {
                self.doubt(slot, key);
                return;
            }
        };
        self.seen.insert(key.to_owned(), revision);
    }

    fn key(&self, slot: usize) -> String {
        let keys = self.shared.keys.lock().expect("no code panics while it holds this lock");
        format!("{PREFIX}{slot:02}.{}", keys[slot].generation)
    }

    fn doubt(&self, slot: usize, key: &str) {
        if self.key(slot) != key {
            return;
        }
        let mut keys = self.shared.keys.lock().expect("no code panics while it holds this lock");
        keys[slot].doubt += 1;
        if keys[slot].doubt >= MOST_DOUBT {
            keys[slot] = Slot { generation: keys[slot].generation + 1, doubt: 0 };
        }
    }
}
