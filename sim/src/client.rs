//! A simulated client: the product's own client library on a host of its own, with every call put on record.
//!
//! It decides nothing about outcomes that the library did not say: certainly not executed is `Failed`, everything
//! doubtful is `Unknown`.

use std::sync::Arc;
use std::time::Duration;

use mokv::client::{Client, Consistency, Error, KeyValue, ListOptions, ReadOptions, WriteOptions};
use mokv::rt;

use crate::cluster::network::dns_name;
use crate::cluster::{Cluster, RPC_PORT};
use crate::history::{Answer, Call, Entry, Outcome};
use crate::judges::Finding;
use crate::run::Run;
use crate::values;

/// How much longer than it promised a call may take.
const GRACE: Duration = Duration::from_secs(5);

/// A client with its record. Clones are the same client.
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
    /// A client on a new host that knows the nodes of these names.
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

    /// Its host, for cutting its links.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Writes a new value; its number.
    pub async fn set(&self, key: &str, if_revision: Option<u64>, size: usize) -> (u64, Outcome) {
        let value = self.run.next_value();
        let (client, name) = (self.client.clone(), key.to_owned());
        let outcome = self.record(key, Call::Set { value, if_revision }, async move {
            let options = WriteOptions { if_revision };
            let written = client.set(name, values::encode(value, size), options).await;
            written.map(|written| Answer::Written { revision: written.revision })
        });
        (value, outcome.await)
    }

    /// Deletes a key.
    pub async fn delete(&self, key: &str, if_revision: Option<u64>) -> Outcome {
        let (client, name) = (self.client.clone(), key.to_owned());
        self.record(key, Call::Delete { if_revision }, async move {
            let deleted = client.delete(name, WriteOptions { if_revision }).await?;
            Ok(Answer::Deleted { revision: deleted.revision, existed: deleted.existed })
        })
        .await
    }

    /// Reads a key.
    pub async fn get(&self, key: &str, stale: bool) -> Outcome {
        let (client, name) = (self.client.clone(), key.to_owned());
        self.record(key, Call::Get { stale }, async move {
            let options = ReadOptions { consistency: consistency(stale) };
            let read = client.get(name, options).await?;
            Ok(Answer::Read { revision: read.revision, entry: read.entry.as_ref().map(entry) })
        })
        .await
    }

    /// Reads all keys of a prefix.
    pub async fn list(&self, prefix: &str, stale: bool) -> Outcome {
        let (client, name) = (self.client.clone(), prefix.to_owned());
        self.record(prefix, Call::List { stale }, async move {
            let options = ListOptions {
                prefix: name.into(),
                consistency: consistency(stale),
                ..ListOptions::default()
            };
            let mut listing = client.list(options).await?;
            let mut entries = Vec::new();
            while let Some(found) = listing.next().await? {
                entries.push((String::from_utf8_lossy(&found.key).into_owned(), entry(&found)));
            }
            Ok(Answer::Listed { revision: listing.revision(), entries })
        })
        .await
    }

    /// The library itself, for what is not on record.
    pub async fn with_library<T, F>(&self, call: impl FnOnce(Client) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.cluster.on(&self.host, call(self.client.clone())).await
    }

    async fn record(
        &self,
        key: &str,
        call: Call,
        work: impl Future<Output = Result<Answer, Error>> + Send + 'static,
    ) -> Outcome {
        let writes = matches!(call, Call::Set { .. } | Call::Delete { .. });
        let ticket = self.run.invoked(self.number, key, call);
        let bound = self.patience * 2 + GRACE;
        let outcome = match self.cluster.on(&self.host, rt::timeout(bound, work)).await {
            Ok(result) => outcome(result, writes),
            Err(_) => {
                let words = format!(
                    "a call of client {} about {key} has not returned after {bound:?}, it promised {:?}",
                    self.number, self.patience
                );
                self.run.find(Finding::liveness("calls return in time", words));
                Outcome::Unknown
            }
        };
        self.run.returned(ticket, outcome.clone());
        outcome
    }
}

fn consistency(stale: bool) -> Consistency {
    if stale { Consistency::Stale } else { Consistency::Linearizable }
}

fn entry(found: &KeyValue) -> Entry {
    Entry {
        // A value that nobody wrote is a value that no judge can explain.
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
            Outcome::Ok(Answer::ConditionFailed { present_revision })
        }
        Err(
            Error::NotExecuted(_)
            | Error::Invalid(_)
            | Error::ResourceExhausted(_)
            | Error::Refused(_)
            | Error::NotFound(_),
        ) => Outcome::Failed,
        Err(_) if writes => Outcome::Unknown,
        // A read that failed says nothing.
        Err(_) => Outcome::Failed,
    }
}
