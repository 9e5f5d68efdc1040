//! Looks up names in the background and caches the results.
//!
//! A silent name server makes the system's lookup take many seconds, longer than any caller waits for a connection. So
//! each lookup is a separate task that outlives its caller: its result, however late, is cached and used by the next
//! caller. There is at most one lookup of a name at a time, and the total number is bounded, because each may hold a
//! thread. A name is looked up anew at every request: nodes move. Choosing among the addresses is the task of the
//! [race](super::race).

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::TcpStream;
use super::race::race;
use crate::rt::lock::Mutex;
use crate::rt::{spawn, timeout, watch};

/// The cached addresses are used after a new lookup has taken this long: most name servers answer sooner, and this
/// leaves most of any limit on connecting to the connection itself.
const PREFER_NEW_FOR: Duration = Duration::from_millis(250);
/// Maximum number of lookups at a time: each may hold a thread of the pool that also reads and writes files.
const MAX_LOOKUPS: usize = 32;
/// Maximum number of cached names: far more than a cluster has nodes.
const MAX_NAMES: usize = 1024;

type Answer = Result<Vec<SocketAddr>, Failed>;
type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;
type Ask = Box<dyn Fn(String) -> Lookup + Send + Sync>;

/// An error that can be returned to all callers that wait for the same lookup.
#[derive(Debug, Clone)]
struct Failed {
    kind: io::ErrorKind,
    text: String,
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> io::Error {
        io::Error::new(failed.kind, failed.text)
    }
}

/// The names that one process has requested. Clones share the cache.
#[derive(Clone)]
pub struct Resolver(Arc<Shared>);

struct Shared {
    ask: Ask,
    places: Semaphore,
    names: Mutex<BTreeMap<String, Name>>,
}

#[derive(Default)]
struct Name {
    /// The addresses found by the last lookup that succeeded.
    kept: Option<Vec<SocketAddr>>,
    /// The lookup in progress.
    under_way: Option<watch::Receiver<Option<Answer>>>,
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver::asking(|name| async move { super::lookup(&name).await })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.names.lock().keys()).finish()
    }
}

impl Resolver {
    /// A resolver that calls `lookup` for `host:port` instead of the system.
    pub fn asking<F>(lookup: impl Fn(String) -> F + Send + Sync + 'static) -> Resolver
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Resolver(Arc::new(Shared {
            ask: Box::new(move |name| Box::pin(lookup(name))),
            places: Semaphore::new(MAX_LOOKUPS),
            names: Mutex::default(),
        }))
    }

    /// The addresses of `host:port` by a lookup that starts now or is in progress. If it takes long, returns those
    /// that an earlier one found. Without any, waits until the lookup ends: use a timeout. The lookup continues when
    /// this future is dropped.
    ///
    /// # Errors
    /// If the text has no port, or the name does not resolve now.
    pub async fn resolve(&self, host_port: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host_port.parse() {
            return Ok(vec![address]);
        }
        let (mut answer, kept) = self.look_up(host_port);
        let seen = match &kept {
            None => answer.wait_for(Option::is_some).await.is_ok(),
            // Late or failed: the addresses found before.
            Some(_) => {
                timeout(PREFER_NEW_FOR, answer.wait_for(Option::is_some)).await.is_ok_and(|seen| seen.is_ok())
            }
        };
        let found = if seen { answer.borrow().clone() } else { kept.map(Ok) };
        let abandoned = || Failed {
            kind: io::ErrorKind::Interrupted,
            text: format!("the lookup of '{host_port}' was abandoned"),
        };
        Ok(found.unwrap_or_else(|| Err(abandoned()))?)
    }

    /// Connects to `host:port`: all its addresses are tried, a little after one another, and the first that answers is
    /// used. If the name does not resolve now, the addresses found before are tried; the caller must check which node
    /// it has reached. Not bounded in time: use a timeout.
    ///
    /// # Errors
    /// If the name does not resolve, or no address answers; then the last address's error.
    pub async fn connect(&self, host_port: &str) -> io::Result<TcpStream> {
        let addresses = match self.resolve(host_port).await {
            Ok(addresses) => addresses,
            Err(error) => self.kept(host_port).ok_or(error)?,
        };
        race(addresses, super::connect_to).await
    }

    /// Whether the first lookup of `host:port` is still in progress.
    pub fn awaits(&self, host_port: &str) -> bool {
        let names = self.0.names.lock();
        names.get(host_port).is_some_and(|name| name.kept.is_none() && name.under_way.is_some())
    }

    fn kept(&self, host_port: &str) -> Option<Vec<SocketAddr>> {
        self.0.names.lock().get(host_port)?.kept.clone()
    }

    /// The lookup in progress, started if there is none, and the addresses found before.
    fn look_up(&self, host_port: &str) -> (watch::Receiver<Option<Answer>>, Option<Vec<SocketAddr>>) {
        let mut names = self.0.names.lock();
        if names.len() >= MAX_NAMES && !names.contains_key(host_port) {
            // A removed name that is still needed is looked up again.
            names.retain(|_, name| name.under_way.is_some());
        }
        let name = names.entry(host_port.to_owned()).or_default();
        let kept = name.kept.clone();
        if let Some(answer) = &name.under_way {
            return (answer.clone(), kept);
        }
        let (reply, answer) = watch::channel(None);
        name.under_way = Some(answer.clone());
        drop(names);
        let lookup = UnderWay { shared: self.0.clone(), host_port: host_port.to_owned() };
        spawn(async move {
            let found = lookup.run().await;
            drop(lookup);
            reply.send(Some(found));
        });
        (answer, kept)
    }
}

/// A lookup; it is no longer in progress when this is dropped, with its task or with the runtime.
struct UnderWay {
    shared: Arc<Shared>,
    host_port: String,
}

impl UnderWay {
    async fn run(&self) -> Answer {
        let _place = self.shared.places.acquire().await.expect("the semaphore is never closed");
        let found = (self.shared.ask)(self.host_port.clone()).await;
        let found = found.map_err(|error| Failed { kind: error.kind(), text: error.to_string() })?;
        if let Some(name) = self.shared.names.lock().get_mut(&self.host_port) {
            name.kept = Some(found.clone());
        }
        Ok(found)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(name) = self.shared.names.lock().get_mut(&self.host_port) {
            name.under_way = None;
        }
    }
}

impl Shared {}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
