//! A simulated client: the product's own client library on a host of its own, with every call recorded.
//!
//! It takes outcomes only from the library: certainly not executed is `Failed`, everything doubtful is `Unknown`, and
//! an operation that was under way when its client crashed has no end in the record.

use std::sync::Arc;
use std::time::Duration;

use mokv::client::{
    Changes, ChangesOptions, Client, Consistency, Error, KeyValue, ListOptions, Listing, OperationResult,
    Position, ReadOptions, VersionsOptions, WriteOptions,
};
use mokv::rt;

use crate::checkers::Finding;
use crate::cluster::network::dns_name;
use crate::cluster::{Cluster, RPC_PORT};
use crate::evidence::applied_log::KeyChange;
use crate::evidence::history::{Answer, Call, KeyState, Outcome, Span};
use crate::evidence::transactions::{Asked, Found, Told, is_transacted};
use crate::evidence::values;
use crate::record::Run;

use super::transactor::transaction;

/// How much longer than its own time limit a call may take.
const GRACE: Duration = Duration::from_secs(5);
/// Most pages of a list or of changes.
const MOST_PAGES: u32 = 8;

/// A client and its record. Clones are the same client.
#[derive(Clone)]
pub struct SimClient {
    run: Arc<Run>,
    cluster: Cluster,
    host: String,
    number: u32,
    client: Client,
    patience: Duration,
}

impl SimClient {
    /// A client on a new host, with these nodes as its addresses.
    pub fn new(cluster: &Cluster, nodes: &[String], patience: Duration, sessions: bool) -> SimClient {
        let (host, number) = cluster.add_client_host();
        let client = Client::builder()
            .endpoints(nodes.iter().map(|name| format!("{}:{RPC_PORT}", dns_name(name))))
            .timeout(patience)
            .list_timeout(patience * 2)
            .sessions(sessions)
            .build()
            .expect("the endpoints are well-formed");
        SimClient { run: cluster.run().clone(), cluster: cluster.clone(), host, number, client, patience }
    }

    /// The name of its host, for cutting its links.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its host crashes. Operations under way never end, and no other call may be made on this client.
    pub fn crash(&self) {
        self.cluster.kill_client(&self.host);
    }

    /// Writes a new value. Returns its number and the outcome.
    pub async fn set(&self, key: &str, if_revision: Option<u64>, size: usize) -> (u64, Outcome) {
        let value = self.run.next_value();
        let (client, name) = (self.client.clone(), key.to_owned());
        let outcome = self.record(key, Call::Set { value, if_revision }, 1, async move {
            let written = client.set_with(name, values::encode(value, size), condition(if_revision)).await;
            written.map(|written| Answer::Written { revision: written.revision })
        });
        (value, outcome.await)
    }

    /// Writes a new value that may be lost when disks are set back to an older state: its recorded outcome is unknown,
    /// whatever it was. Returns what the library returned.
    pub async fn set_in_vain(&self, key: &str, size: usize) -> Result<(), Error> {
        let value = self.run.next_value();
        let ticket = self.run.invoked(self.number, key, Call::Set { value, if_revision: None });
        let (client, name) = (self.client.clone(), key.to_owned());
        let write = async move { client.set(name, values::encode(value, size)).await };
        let written = self.cluster.on(&self.host, write).await;
        self.run.returned(ticket, Outcome::Unknown);
        written.map(|_| ())
    }

    /// Deletes a key.
    pub async fn delete(&self, key: &str, if_revision: Option<u64>) -> Outcome {
        let (client, name) = (self.client.clone(), key.to_owned());
        self.record(key, Call::Delete { if_revision }, 1, async move {
            let deleted = client.delete_with(name, condition(if_revision)).await?;
            Ok(Answer::Deleted { revision: deleted.revision, existed: deleted.existed })
        })
        .await
    }

    /// Reads a key.
    pub async fn get(&self, key: &str, stale: bool) -> Outcome {
        let (client, name) = (self.client.clone(), key.to_owned());
        self.record(key, Call::Get { stale }, 1, async move {
            let read = client.get_with(name, consistency(stale).into()).await?;
            Ok(Answer::Read { revision: read.revision, entry: read.entry.as_ref().map(entry) })
        })
        .await
    }

    /// Reads a key as it was at a revision.
    pub async fn get_at(&self, key: &str, revision: u64) -> Outcome {
        let (client, name) = (self.client.clone(), key.to_owned());
        self.record(key, Call::GetAt { revision }, 1, async move {
            let read = client.get_with(name, ReadOptions::linearizable().at_revision(revision)).await?;
            Ok(Answer::Read { revision: read.revision, entry: read.entry.as_ref().map(entry) })
        })
        .await
    }

    /// Reads all keys with a prefix as they were at a revision.
    pub async fn list_at(&self, prefix: &str, revision: u64) -> Outcome {
        let (client, name) = (self.client.clone(), prefix.to_owned());
        self.record(prefix, Call::ListAt { revision }, 1, async move {
            let mut listing = client.list_with(ListOptions::prefix(name).at_revision(revision)).await?;
            let entries = rest_of(&mut listing).await?;
            Ok(Answer::Listed { revision: listing.revision(), entries })
        })
        .await
    }

    /// Reads the versions of a key.
    pub async fn versions(&self, key: &str, span: Span) -> Outcome {
        let (client, name) = (self.client.clone(), key.to_owned());
        self.record(key, Call::Versions(span), 1, async move {
            let options = VersionsOptions::all().from_revision(span.from).to_revision(span.to);
            let options = options.limit(span.limit).consistency(consistency(span.stale));
            let mut versions = client.versions_with(name, options).await?;
            let (page, _) = rest_of_changes(&mut versions).await?;
            Ok(Answer::Changed { revision: versions.revision(), pages: vec![page] })
        })
        .await
    }

    /// Reads the changes of all keys with a prefix, the first ones only if there are too many pages.
    pub async fn changes(&self, prefix: &str, span: Span) -> Outcome {
        let (client, run, name) = (self.client.clone(), self.run.clone(), prefix.to_owned());
        let calls = if span.limit.is_some() { MOST_PAGES } else { 1 };
        self.record(prefix, Call::Changes(span), calls, async move {
            let options = ChangesOptions::prefix(name).from_revision(span.from).to_revision(span.to);
            let mut options = options.limit(span.limit).consistency(consistency(span.stale));
            let mut pages: Vec<Vec<KeyChange>> = Vec::new();
            loop {
                let mut changes = client.changes_with(options.clone()).await?;
                let ((page, last), revision) = (rest_of_changes(&mut changes).await?, changes.revision());
                let (size, limit) = (page.len() as u64, span.limit.unwrap_or(u64::MAX));
                if size > limit {
                    run.marker("transaction kept whole at the end of a page");
                }
                pages.push(page);
                match last {
                    Some(last) if size >= limit && pages.len() < calls as usize => {
                        options = options.start_after(last).to_revision(revision);
                    }
                    _ => return Ok(Answer::Changed { revision, pages }),
                }
            }
        })
        .await
    }

    /// Executes a transaction, whose keys are [those of transactions](is_transacted). Returns what the client was told.
    pub async fn transact(&self, asked: Asked) -> Told {
        let transaction = transaction(&asked);
        let ticket = self.run.transaction_invoked(self.number, asked);
        let (client, bound) = (self.client.clone(), self.patience * 2 + GRACE);
        let work = async move { client.transact(transaction).await };
        let told = match self.cluster.try_on(&self.host, rt::timeout(bound, work)).await {
            Some(Ok(Ok(done))) => Told::Executed {
                revision: done.revision,
                succeeded: done.succeeded,
                results: done.results.ok().map(|results| results.iter().map(found).collect()),
            },
            Some(Ok(Err(error))) if was_refused(&error) => Told::Failed,
            Some(Ok(Err(_))) => Told::Unknown,
            Some(Err(_)) => {
                let words = format!(
                    "a transaction of client {} has not returned after {bound:?}, it promised {:?}",
                    self.number, self.patience
                );
                self.run.find(Finding::liveness("calls return in time", words));
                Told::Unknown
            }
            // The client has crashed: nothing receives the outcome.
            None => return Told::Unknown,
        };
        self.run.transaction_returned(ticket, told.clone());
        told
    }

    /// Gives up the past before a revision that the client has seen.
    pub async fn compact(&self, revision: u64) {
        let (client, run) = (self.client.clone(), self.run.clone());
        let compact = async move {
            match client.compact(revision).await {
                Ok(floor) if floor < revision => {
                    let words = format!("a compaction to revision {revision} left {floor} readable");
                    run.find(Finding::violation("a compaction holds", words));
                }
                // What it asks for is harmless whenever it takes place.
                Ok(_) | Err(_) => {}
            }
        };
        self.cluster.try_on(&self.host, compact).await;
    }

    /// The highest revision that the client has seen.
    pub fn seen_revision(&self) -> u64 {
        self.client.seen_revision()
    }

    /// Reads all keys with a prefix.
    pub async fn list(&self, prefix: &str, stale: bool) -> Outcome {
        self.list_in_pages(prefix, stale, 0, Duration::ZERO).await
    }

    /// Reads all keys with a prefix at one revision, with `page` keys per request (0: all) and a pause in between.
    pub async fn list_in_pages(&self, prefix: &str, stale: bool, page: u64, pause: Duration) -> Outcome {
        let (client, run, name) = (self.client.clone(), self.run.clone(), prefix.to_owned());
        let calls = if page > 0 { MOST_PAGES } else { 1 };
        self.record(prefix, Call::List { stale }, calls, async move {
            let mut entries: Vec<(String, KeyState)> = Vec::new();
            let mut at_revision = 0;
            for number in 1..=calls {
                let mut options = ListOptions::prefix(&name).consistency(consistency(stale));
                // The last page has no limit, so that it returns all the rest: longer lists have larger pages.
                let limit = (number < calls).then_some(page);
                if let Some(keys) = limit {
                    options = options.limit(keys);
                }
                if let Some((last, _)) = entries.last() {
                    options = options.start_after(last).at_revision(at_revision);
                }
                let mut listing = client.list_with(options).await?;
                let found = rest_of(&mut listing).await?;
                let count = found.len() as u64;
                entries.extend(found);
                if at_revision != 0 && listing.revision() != at_revision {
                    let words = format!(
                        "page {number} of a list at revision {at_revision} came at revision {}",
                        listing.revision()
                    );
                    run.find(Finding::violation("a list is one revision", words));
                }
                at_revision = listing.revision();
                if limit.is_none_or(|keys| count < keys) {
                    break;
                }
                rt::sleep(pause).await;
            }
            // Transactions are checked by themselves.
            entries.retain(|(key, _)| !is_transacted(key));
            Ok(Answer::Listed { revision: at_revision, entries })
        })
        .await
    }

    /// The library itself, for calls that are not recorded.
    ///
    /// # Panics
    /// If the client has crashed.
    pub async fn with_library<T, F>(&self, call: impl FnOnce(Client) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.cluster.on(&self.host, call(self.client.clone())).await
    }

    /// Records an operation that makes this many calls of the library.
    async fn record(
        &self,
        key: &str,
        call: Call,
        calls: u32,
        work: impl Future<Output = Result<Answer, Error>> + Send + 'static,
    ) -> Outcome {
        let writes = matches!(call, Call::Set { .. } | Call::Delete { .. });
        let ticket = self.run.invoked(self.number, key, call);
        let bound = self.patience * 2 * calls + GRACE;
        let outcome = match self.cluster.try_on(&self.host, rt::timeout(bound, work)).await {
            Some(Ok(result)) => outcome(result, writes),
            Some(Err(_)) => {
                let words = format!(
                    "a call of client {} about {key} has not returned after {bound:?}, it promised {:?}",
                    self.number, self.patience
                );
                self.run.find(Finding::liveness("calls return in time", words));
                Outcome::Unknown
            }
            // The client has crashed: nothing receives the outcome.
            None => return Outcome::Unknown,
        };
        self.run.returned(ticket, outcome.clone());
        outcome
    }
}

/// The condition that a recorded call names; 0: the key must not exist.
fn condition(if_revision: Option<u64>) -> WriteOptions {
    match if_revision {
        None => WriteOptions::unconditional(),
        Some(0) => WriteOptions::if_absent(),
        Some(revision) => WriteOptions::if_revision(revision),
    }
}

fn consistency(stale: bool) -> Consistency {
    if stale { Consistency::Stale } else { Consistency::Linearizable }
}

/// Reads a listing to its end.
async fn rest_of(listing: &mut Listing) -> Result<Vec<(String, KeyState)>, Error> {
    let mut entries = Vec::new();
    while let Some(found) = listing.next().await? {
        entries.push((String::from_utf8_lossy(&found.key).into_owned(), entry(&found)));
    }
    Ok(entries)
}

/// Reads versions or changes to their end. Returns them and the position of the last one.
async fn rest_of_changes(changes: &mut Changes) -> Result<(Vec<KeyChange>, Option<Position>), Error> {
    let (mut found, mut last) = (Vec::new(), None);
    while let Some(change) = changes.next().await? {
        let Position { revision, place, .. } = change.position;
        last = Some(change.position);
        let key = String::from_utf8_lossy(&change.key).into_owned();
        found.push(KeyChange { revision, place, key, new: change.entry.as_ref().map(entry) });
    }
    Ok((found, last))
}

fn entry(found: &KeyValue) -> KeyState {
    KeyState {
        // No checker can explain a value that no client wrote.
        value: values::decode(&found.value).unwrap_or(u64::MAX),
        create_revision: found.create_revision,
        mod_revision: found.mod_revision,
        version: found.version,
    }
}

fn outcome(result: Result<Answer, Error>, writes: bool) -> Outcome {
    match result {
        Ok(answer) => Outcome::Ok(answer),
        Err(Error::ConditionFailed { present_revision }) => {
            Outcome::Ok(Answer::ConditionFailed { present_revision: present_revision.unwrap_or(0) })
        }
        Err(Error::RevisionGone(_)) => Outcome::Ok(Answer::Compacted),
        Err(error) if was_refused(&error) => Outcome::Failed,
        Err(_) if writes => Outcome::Unknown,
        // A failed read gives no information.
        Err(_) => Outcome::Failed,
    }
}

fn found(result: &OperationResult) -> Found {
    match result {
        OperationResult::Set => Found::Set,
        OperationResult::Deleted(deleted) => Found::Deleted(*deleted),
        OperationResult::Got(read) => Found::Got(read.as_ref().map(entry)),
        OperationResult::Listed { entries, more } => {
            let key = |read: &KeyValue| String::from_utf8_lossy(&read.key).into_owned();
            Found::Listed(entries.iter().map(|read| (key(read), entry(read))).collect(), *more)
        }
        OperationResult::Nested { succeeded, results } => {
            Found::Nested(*succeeded, results.iter().map(found).collect())
        }
        other => unreachable!("the library knows no {other:?}"),
    }
}

/// Whether what failed with this error was certainly not executed.
fn was_refused(error: &Error) -> bool {
    matches!(
        error,
        Error::NotExecuted(_)
            | Error::Invalid(_)
            | Error::ResourceExhausted(_)
            | Error::Refused(_)
            | Error::NotFound(_)
            | Error::RevisionGone(_)
    )
}
