//! Clients that write all the time and remember which writes were acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mokv::client::{Client, Error};
use mokv::rt::task::JoinHandle;
use mokv::rt::{self, watch};

use super::cluster::{Cluster, PATIENCE};
use super::wait_for;

const WRITERS: usize = 4;
/// Time between two writes of a writer: nodes and writers share a small machine.
const PACE: Duration = Duration::from_millis(2);

/// The results that the writers received.
#[derive(Default)]
struct Journal {
    /// The newest acknowledged value of each key.
    acknowledged: BTreeMap<String, String>,
    /// Values of unknown outcome, by key.
    unknown: BTreeMap<String, Vec<String>>,
    /// Keys whose only write was certainly not executed.
    not_executed: BTreeSet<String>,
    /// Number of acknowledged writes of each key that is written repeatedly.
    turns: BTreeMap<String, u64>,
    writes: u64,
}

impl Journal {
    fn enter(&mut self, key: &str, value: &str, again: bool, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) => {
                self.writes += 1;
                self.acknowledged.insert(key.to_owned(), value.to_owned());
                if again {
                    *self.turns.entry(key.to_owned()).or_default() += 1;
                }
            }
            Err(Error::NotExecuted(_)) if again => {}
            Err(Error::NotExecuted(_)) => drop(self.not_executed.insert(key.to_owned())),
            Err(Error::Unknown(_)) => self.unknown.entry(key.to_owned()).or_default().push(value.to_owned()),
            Err(error) => panic!("a writer received an error: {error}"),
        }
    }
}

/// Running writers.
pub struct Load {
    prefix: String,
    journal: Arc<Mutex<Journal>>,
    stop: watch::Sender<bool>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts writers against all nodes of the cluster. Their keys begin with `prefix`.
    pub fn start(cluster: &Cluster, prefix: &str) -> Load {
        let journal = Arc::<Mutex<Journal>>::default();
        let (stop, stopped) = watch::channel(false);
        let writers = (0..WRITERS).map(|writer| {
            let client = Client::builder().endpoints(cluster.endpoints()).timeout(PATIENCE).build().unwrap();
            rt::spawn(write(client, format!("{prefix}/{writer}"), journal.clone(), stopped.clone()))
        });
        let writers = writers.collect();
        Load { prefix: prefix.to_owned(), journal, stop, writers }
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().expect("no writer panicked")
    }

    /// Waits until `count` more writes are acknowledged than there are now.
    pub async fn goes_on(&self, count: u64) {
        // Each writer may have one write under way that began before.
        let goal = self.journal().writes + count + WRITERS as u64;
        wait_for("writes go on", async || (self.journal().writes >= goal).then_some(())).await;
    }

    /// Waits until the writers have ended their writes under way. Returns what the store must hold.
    pub async fn stop(self) -> Promises {
        self.stop.send(true);
        for writer in self.writers {
            writer.await.expect("no writer panicked");
        }
        let journal = std::mem::take(&mut *self.journal.lock().expect("no writer panicked"));
        Promises { prefix: self.prefix, journal }
    }
}

async fn write(client: Client, prefix: String, journal: Arc<Mutex<Journal>>, stopped: watch::Receiver<bool>) {
    let again = format!("{prefix}/again");
    for number in 0u64.. {
        if *stopped.borrow() {
            break;
        }
        let (key, value) = match number % 2 {
            0 => (format!("{prefix}/once/{number:08}"), format!("value of {number}")),
            _ => (again.clone(), format!("turn {number}")),
        };
        let outcome = client.set(&key, value.clone()).await.map(drop);
        journal.lock().expect("no writer panicked").enter(&key, &value, key == again, outcome);
        rt::sleep(PACE).await;
    }
}

/// The guarantees of the acknowledged writes.
pub struct Promises {
    prefix: String,
    journal: Journal,
}

impl Promises {
    /// The number of acknowledged writes.
    pub fn writes(&self) -> u64 {
        self.journal.writes
    }

    /// Checks the store: no acknowledged write is lost or was applied twice, it holds nothing that no client wrote, and
    /// what was reported as not executed was not executed.
    pub async fn verify(&self, cluster: &Cluster) {
        let Promises { prefix, journal } = self;
        let client = cluster.client();
        let mut listing = client.list(format!("{prefix}/")).await.unwrap();
        let mut found = BTreeMap::new();
        while let Some(entry) = listing.next().await.unwrap() {
            let key = String::from_utf8(entry.key.to_vec()).unwrap();
            let value = String::from_utf8(entry.value.to_vec()).unwrap();
            found.insert(key, (value, entry.version));
        }
        for (key, value) in &journal.acknowledged {
            let (present, version) = found.get(key).unwrap_or_else(|| panic!("'{key}' is lost"));
            let unknown = journal.unknown.get(key).map_or(&[][..], Vec::as_slice);
            assert!(present == value || unknown.contains(present), "'{key}' is '{present}', not '{value}'");
            let turns = journal.turns.get(key).copied().unwrap_or(1);
            let most = turns + unknown.len() as u64;
            assert!(
                (turns..=most).contains(version),
                "'{key}': {version} writes applied of {turns}..={most}"
            );
        }
        for (key, (value, _)) in &found {
            let ours = journal.acknowledged.get(key) == Some(value)
                || journal.unknown.get(key).is_some_and(|values| values.contains(value));
            assert!(ours, "'{key}' holds '{value}', which was acknowledged to no client");
        }
        for key in &journal.not_executed {
            assert!(!found.contains_key(key), "'{key}' was called not executed and is there");
        }
    }
}
