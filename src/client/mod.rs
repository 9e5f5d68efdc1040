//! The client library: the only way into a node for the command line and for every simulated client.
//!
//! ```no_run
//! # async fn example() -> Result<(), mokv::client::Error> {
//! use mokv::client::{Client, ReadOptions, WriteOptions};
//!
//! let client = Client::builder().endpoints(["127.0.0.1:8400"]).build()?;
//! let written = client.set("greeting", "hello", WriteOptions::default()).await?;
//! let read = client.get("greeting", ReadOptions::default()).await?;
//! assert!(read.revision >= written.revision);
//! # Ok(())
//! # }
//! ```
//!
//! It knows the members and the leader, sends writes to the leader and reads to the followers, tries again what
//! is safe to try again until the deadline, and tells apart what failed, what was never executed and what is
//! unknown. By default writes belong to a session and are applied exactly once, however often they had
//! to be sent. One client's stale reads never go back in time.
//!
//! A file an idea: `call` is the loop of one call, `retry` and `picker` are its decisions, pure; `topology` is
//! what is known of the cluster, `connection` a node's address and the connection to it, `tls` what may be spoken there;
//! `session` names writes; `refresh` asks for news of the cluster; `list` pages through a listing; `backup` brings the
//! whole store.
//!
//! Stands on `rt` and the wire contract alone: it knows nothing of nodes, logs or maps.

mod backup;
mod call;
mod connection;
mod error;
mod list;
mod opening;
mod picker;
mod refresh;
mod retry;
mod session;
#[cfg(all(test, feature = "server"))]
mod tests;
#[cfg(feature = "tls")]
mod tls;
mod topology;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use backup::Backup;
use bytes::Bytes;
pub use error::{Error, Why};
pub use list::{ListOptions, Listing};
use mokv_proto::api;
use mokv_proto::status;
use mokv_proto::tonic::Code;
use mokv_proto::tonic::metadata::AsciiMetadataValue;

/// What a backup holds.
pub use mokv_proto::api::BackupInfo;
/// A change of replicated settings; absent fields stay as they are.
pub use mokv_proto::api::ConfigureRequest as SettingsChange;
/// Replicated settings, as they stand.
pub use mokv_proto::api::ConfigureResponse as Settings;
/// The digest of a node's state at an earlier position of the log.
pub use mokv_proto::api::DigestAt;
/// Who belongs to the cluster.
pub use mokv_proto::api::GetServersResponse as Members;
/// A member of the cluster: name, gRPC address, role.
pub use mokv_proto::api::Server;
/// How one node is, seen from itself.
pub use mokv_proto::api::StatusResponse as NodeStatus;

use call::Deadline;
use connection::Transport;
use opening::SessionSlot;
use picker::Purpose;
use refresh::Refresher;
use retry::Resend;
#[cfg(feature = "tls")]
pub use tls::Tls;
use topology::Topology;

use crate::rt;
use crate::rt::net::Resolver;

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Sees every write that was answered before the read was sent.
    #[default]
    Linearizable,
    /// Answered at once from one node's memory: may be old, without bound, but never older than what this client
    /// has seen before.
    Stale,
}

impl Consistency {
    fn purpose(self) -> Purpose {
        match self {
            Consistency::Linearizable => Purpose::LinearizableRead,
            Consistency::Stale => Purpose::StaleRead,
        }
    }

    fn wire(self) -> i32 {
        match self {
            Consistency::Linearizable => api::Consistency::Linearizable as i32,
            Consistency::Stale => api::Consistency::Stale as i32,
        }
    }
}

/// How to read one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReadOptions {
    /// How fresh; linearizable by default.
    pub consistency: Consistency,
}

impl ReadOptions {
    /// How fresh the read has to be.
    pub fn consistency(mut self, consistency: Consistency) -> ReadOptions {
        self.consistency = consistency;
        self
    }
}

/// How to write one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// Write only if the key's mod revision is this; 0: only if the key does not exist. `None`: whatever is there.
    pub if_revision: Option<u64>,
}

impl WriteOptions {
    /// Write only if the key's mod revision is this; 0: only if the key does not exist. `None`: whatever is there.
    pub fn if_revision(mut self, revision: impl Into<Option<u64>>) -> WriteOptions {
        self.if_revision = revision.into();
        self
    }
}

/// A key with its value and its history.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyValue {
    /// 1 to 4,096 bytes.
    pub key: Bytes,
    /// Empty in a listing of keys only.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision that wrote this value; what `if_revision` is compared with.
    pub mod_revision: u64,
    /// How often the key was written since it was created, starting at 1.
    pub version: u64,
}

impl From<api::GetResponse> for KeyValue {
    fn from(entry: api::GetResponse) -> KeyValue {
        KeyValue {
            key: entry.key.into(),
            value: entry.value,
            create_revision: entry.create_revision,
            mod_revision: entry.mod_revision,
            version: entry.version,
        }
    }
}

/// The answer to a read of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Read {
    /// The store's revision the read was made at.
    pub revision: u64,
    /// `None`: the key does not exist.
    pub entry: Option<KeyValue>,
}

/// The answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The store's revision that this write made; the key's new mod revision.
    pub revision: u64,
}

/// The answer to a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted {
    /// The store's revision after it; deleting an absent key takes none.
    pub revision: u64,
    /// Whether a key was there to be deleted.
    pub existed: bool,
}

/// Makes a [`Client`].
#[derive(Clone)]
pub struct Builder {
    endpoints: Vec<String>,
    timeout: Duration,
    list_timeout: Duration,
    sessions: bool,
    token: Option<String>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

// Written by hand, because a token never appears in messages or logs.
impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Builder {
    /// Addresses to begin with, `host:port`; one node that answers is enough. Names are resolved anew at every
    /// connection.
    pub fn endpoints<I>(mut self, endpoints: I) -> Builder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// How long one call may take in all, retries included; 5 s by default. A listing may be silent for as long.
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = timeout;
        self
    }

    /// How long a whole listing may take; 60 s by default.
    pub fn list_timeout(mut self, timeout: Duration) -> Builder {
        self.list_timeout = timeout;
        self
    }

    /// Whether writes belong to a session and are applied exactly once; true by default. Without, a write is sent
    /// once, and [`Error::Unknown`] is more frequent.
    pub fn sessions(mut self, sessions: bool) -> Builder {
        self.sessions = sessions;
        self
    }

    /// Sent with every request as `authorization: Bearer TOKEN`, in plain text unless TLS is spoken: for a proxy in front
    /// of the nodes, which do not look at it.
    pub fn token(mut self, token: impl Into<String>) -> Builder {
        self.token = Some(token.into());
        self
    }

    /// Speaks TLS with every node. Nodes speak plain text themselves: this is for a proxy in front of each, under the
    /// address that the node advertises.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Builder {
        self.tls = Some(tls);
        self
    }

    /// The client. Connects to nobody yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] without an endpoint, if one is not `host:port`, for a token that no header can carry, and for
    /// certificates and keys that are none.
    pub fn build(self) -> Result<Client, Error> {
        if self.endpoints.is_empty() {
            return Err(Error::Invalid("a client needs at least one endpoint, as host:port".into()));
        }
        let endpoints = self.endpoints.iter().map(|given| endpoint(given).map(str::to_owned));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        let authorization = self.token.map(|token| format!("Bearer {token}").parse());
        let authorization = authorization
            .transpose()
            .map_err(|_| Error::Invalid("the token has characters that no header can carry".into()))?;
        let transport = Transport {
            resolver: Resolver::default(),
            #[cfg(feature = "tls")]
            tls: self.tls.map(tls::Handshake::new).transpose().map_err(|why| Error::Invalid(why.into()))?,
        };
        let inner = Inner {
            authorization,
            topology: Topology::new(endpoints, transport),
            seen_revision: AtomicU64::new(0),
            use_sessions: self.sessions,
            sessions: Mutex::new(SessionSlot::default()),
            refresher: Refresher::default(),
        };
        let (timeout, list_timeout) = (self.timeout, self.list_timeout);
        Ok(Client { inner: Arc::new(inner), timeout, list_timeout, end: None })
    }
}

/// A client of one cluster. Clones share connections, session and everything learned; they are cheap.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    timeout: Duration,
    list_timeout: Duration,
    /// When every call ends at the latest, however long each may take.
    end: Option<Instant>,
}

/// What clones share.
struct Inner {
    /// Of every request.
    authorization: Option<AsciiMetadataValue>,
    topology: Topology,
    seen_revision: AtomicU64,
    use_sessions: bool,
    sessions: Mutex<SessionSlot>,
    refresher: Refresher,
}

impl Client {
    /// Begins to describe a client.
    pub fn builder() -> Builder {
        Builder {
            endpoints: Vec::new(),
            timeout: Duration::from_secs(5),
            list_timeout: Duration::from_secs(60),
            sessions: true,
            token: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// The same client with another deadline per call.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { timeout, ..self.clone() }
    }

    /// The same client, with one deadline for all of its calls together: each ends when its own time is up or this has
    /// passed since now, whichever comes first.
    pub fn with_total_timeout(&self, total: Duration) -> Client {
        let end = rt::time::after(total);
        Client { end: Some(self.end.map_or(end, |before| before.min(end))), ..self.clone() }
    }

    fn deadline(&self) -> Deadline {
        let deadline = Deadline::after(self.timeout);
        self.end.map_or(deadline, |end| deadline.no_later_than(end))
    }

    /// Reads one key.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key that cannot exist, [`Error::Unavailable`] if no node could serve it in time.
    pub async fn get(&self, key: impl AsRef<[u8]>, options: ReadOptions) -> Result<Read, Error> {
        let request = api::GetRequest {
            key: text("the key", key.as_ref())?,
            consistency: options.consistency.wire(),
            min_revision: self.min_revision(options.consistency),
        };
        self.inner.keep_informed();
        let deadline = self.deadline();
        match self.inner.read(&request, options.consistency.purpose(), deadline, None).await {
            Ok(response) => {
                let entry = response.into_inner();
                self.inner.saw(entry.revision);
                Ok(Read { revision: entry.revision, entry: Some(entry.into()) })
            }
            Err(failure) => match failure.status {
                Some(status) if status.code() == Code::NotFound => {
                    Ok(Read { revision: status::revision_of(status.metadata()).unwrap_or(0), entry: None })
                }
                _ => Err(failure.error),
            },
        }
    }

    /// Writes one key.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`], [`Error::Invalid`] and [`Error::ResourceExhausted`] are definite;
    /// [`Error::NotExecuted`] is safe to send again; [`Error::Unknown`] may have been executed.
    pub async fn set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: WriteOptions,
    ) -> Result<Written, Error> {
        let request = api::SetRequest {
            key: text("the key", key.as_ref())?,
            value: value.into(),
            if_revision: options.if_revision,
            session: None,
        };
        self.inner.keep_informed();
        let deadline = self.deadline();
        let reply = self.inner.named_write(request, deadline).await?;
        self.inner.saw(reply.revision);
        Ok(Written { revision: reply.revision })
    }

    /// Deletes one key; deleting an absent key is fine.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub async fn delete(&self, key: impl AsRef<[u8]>, options: WriteOptions) -> Result<Deleted, Error> {
        let request = api::DeleteRequest {
            key: text("the key", key.as_ref())?,
            if_revision: options.if_revision,
            session: None,
        };
        self.inner.keep_informed();
        let deadline = self.deadline();
        let reply = self.inner.named_write(request, deadline).await?;
        self.inner.saw(reply.revision);
        Ok(Deleted { revision: reply.revision, existed: reply.existed })
    }

    /// Lists keys and values of one revision, in byte order of the keys.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a prefix that cannot exist, [`Error::RevisionGone`] if `at_revision` is no longer
    /// retained, [`Error::Unavailable`] if no node could serve it in time.
    pub async fn list(&self, options: ListOptions) -> Result<Listing, Error> {
        self.inner.keep_informed();
        Listing::open(self.clone(), options).await
    }

    /// The members of the cluster, and how many there are to be. With [`Consistency::Stale`] as the first node that answers
    /// knows them, also without a leader.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no node answered in time.
    pub async fn members(&self, consistency: Consistency) -> Result<Members, Error> {
        self.inner.keep_informed();
        self.inner.ask_for_members(consistency, self.deadline()).await
    }

    /// How the node at `address` (`host:port`) is, seen from itself. Asked once.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it did not answer in time.
    pub async fn status(&self, address: &str) -> Result<NodeStatus, Error> {
        self.inner.ask(address, api::StatusRequest {}, self.deadline()).await
    }

    /// Lets the node at `address` (`host:port`) write a snapshot now; the log index it covers. Asked once.
    ///
    /// # Errors
    /// As [`Client::set`]; [`Error::Unknown`] if it did not answer in time: it may be writing it all the same.
    pub async fn snapshot(&self, address: &str) -> Result<u64, Error> {
        let reply = self.inner.order(address, api::SnapshotRequest {}, self.deadline()).await?;
        Ok(reply.index)
    }

    /// The whole store as it is now, sessions and settings included: the bytes of a snapshot file.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no node begins to send it in time.
    pub async fn backup(&self) -> Result<Backup, Error> {
        self.inner.keep_informed();
        Backup::open(self).await
    }

    /// Hands leadership to the member named `to`, or to the most up-to-date voter; the new leader's name.
    ///
    /// # Errors
    /// As [`Client::set`]; [`Error::NotFound`] if there is no such member.
    pub async fn transfer_leader(&self, to: Option<&str>) -> Result<String, Error> {
        let request = api::TransferLeaderRequest { to: to.unwrap_or_default().to_owned() };
        Ok(self.command(request, Resend::Never).await?.leader)
    }

    /// Takes the member `name` out of the cluster for good; its node id, which is never admitted again. The cluster is
    /// smaller by one from then on: its wanted size becomes what remains, and the node stays out, also while it runs, until
    /// [`Client::configure`] makes the wanted size larger.
    ///
    /// # Errors
    /// As [`Client::set`]; [`Error::NotFound`] if there is no such member.
    pub async fn remove_member(&self, name: &str) -> Result<u64, Error> {
        let request = api::RemoveMemberRequest { name: name.to_owned(), place_stays_open: false };
        Ok(self.command(request, Resend::Never).await?.node_id)
    }

    /// As [`Client::remove_member`], but the place stays open: the node comes back as another, with an empty store, if it
    /// runs, or any other node joins in its stead.
    ///
    /// # Errors
    /// As [`Client::remove_member`].
    pub async fn replace_member(&self, name: &str) -> Result<u64, Error> {
        let request = api::RemoveMemberRequest { name: name.to_owned(), place_stays_open: true };
        Ok(self.command(request, Resend::Never).await?.node_id)
    }

    /// Takes the node at `address` (`host:port`) out of its cluster for good and ends its process. Asked once.
    ///
    /// # Errors
    /// [`Error::Refused`] if it cannot be done without and stays; otherwise as [`Client::set`].
    pub async fn leave(&self, address: &str) -> Result<(), Error> {
        self.inner.order(address, api::LeaveRequest {}, self.deadline()).await.map(|_| ())
    }

    /// Changes replicated settings; as they stand afterwards.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub async fn configure(&self, change: SettingsChange) -> Result<Settings, Error> {
        self.command(change, Resend::Never).await
    }

    /// Closes the session, so that the cluster need not remember its answers. Call it when all writes have
    /// returned; the client can still be used, and opens another session at its next write.
    ///
    /// # Errors
    /// If no node confirmed it in time: the cluster will forget the session by itself, later.
    pub async fn close(&self) -> Result<(), Error> {
        self.inner.close_session(self.deadline()).await
    }

    /// The highest revision of the store this client has seen.
    pub fn seen_revision(&self) -> u64 {
        self.inner.seen_revision.load(Ordering::Relaxed)
    }

    async fn command<C: call::Call>(&self, request: C, resend: Resend) -> Result<C::Reply, Error> {
        self.inner.keep_informed();
        self.inner.command(&request, resend, self.deadline()).await
    }

    fn min_revision(&self, consistency: Consistency) -> u64 {
        match consistency {
            Consistency::Linearizable => 0,
            Consistency::Stale => self.seen_revision(),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// An endpoint as it was given, without blanks around it.
///
/// # Errors
/// [`Error::Invalid`] if it is not `host:port`.
pub(crate) fn endpoint(given: &str) -> Result<&str, Error> {
    let endpoint = given.trim();
    let is_host = |host: &str| !host.is_empty() && !host.contains(|c: char| c == '/' || c.is_whitespace());
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    match endpoint.rsplit_once(':') {
        Some((host, port)) if is_host(host) && is_port(port) => Ok(endpoint),
        _ => Err(Error::Invalid(format!("'{endpoint}' is no endpoint: write host:port").into())),
    }
}

/// Keys are bytes in the store; UTF-8 is a rule of `api.KV`.
fn text(what: &str, bytes: &[u8]) -> Result<String, Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Error::Invalid(format!("{what} is not UTF-8, which api.KV asks for").into())),
    }
}
