//! The client library. The command line and all simulated clients reach a node only through it.
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
//! The client tracks the members and the leader, sends writes to the leader and reads to the followers, retries what is
//! safe to retry until the deadline, and distinguishes what failed, what was never executed and what has an unknown
//! outcome. By default a write belongs to a session and is applied exactly once, however often it is sent. The stale
//! reads of one client never go back in time.
//!
//! Files: `call` is the loop of one call; `retry` and `picker` make its decisions, as pure functions; `topology` holds
//! the known members and the leader; `connection` is a node's address and the connection to it; `tls` makes the TLS
//! handshake; `opening` opens and closes sessions; `session` names writes; `refresh` asks for the members again; `list`
//! pages through a listing; `backup` receives the whole store.
//!
//! Depends only on `rt` and the wire contract, not on nodes, logs or maps.

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

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
/// The current replicated settings.
pub use mokv_proto::api::ConfigureResponse as Settings;
/// The digest of a node's state at an earlier position of the log.
pub use mokv_proto::api::DigestAt;
/// The members of the cluster.
pub use mokv_proto::api::GetServersResponse as Members;
/// A member of the cluster: name, gRPC address, role.
pub use mokv_proto::api::Server;
/// The state of one node, as the node reports it.
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
use crate::rt::lock::Mutex;
use crate::rt::net::Resolver;

/// How recent the result of a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// The read sees every write that was acknowledged before the read was sent.
    #[default]
    Linearizable,
    /// One node answers at once from its memory. The result may be arbitrarily old, but never older than what this
    /// client has seen before.
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
    /// Linearizable by default.
    pub consistency: Consistency,
}

impl ReadOptions {
    /// Sets how recent the result must be.
    pub fn consistency(mut self, consistency: Consistency) -> ReadOptions {
        self.consistency = consistency;
        self
    }
}

/// How to write one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// Write only if the key's mod revision equals this; 0: only if the key does not exist; `None`: unconditionally.
    pub if_revision: Option<u64>,
}

impl WriteOptions {
    /// Write only if the key's mod revision equals this; 0: only if the key does not exist; `None`: unconditionally.
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
    /// The number of writes to the key since its creation, starting at 1.
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
    /// The store's revision that this write created; also the key's new mod revision.
    pub revision: u64,
}

/// The answer to a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted {
    /// The store's revision after the delete. Deleting an absent key does not advance it.
    pub revision: u64,
    /// Whether the key existed.
    pub existed: bool,
}

/// Builds a [`Client`].
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

// Implemented by hand: a token must never appear in messages or logs.
impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Builder {
    /// The initial addresses, as `host:port`; one node that answers is enough. Names are resolved again for every
    /// connection.
    pub fn endpoints<I>(mut self, endpoints: I) -> Builder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// The longest time of one call, retries included; 5 s by default. Also the longest silence within a listing.
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = timeout;
        self
    }

    /// The longest time of a whole listing; 60 s by default.
    pub fn list_timeout(mut self, timeout: Duration) -> Builder {
        self.list_timeout = timeout;
        self
    }

    /// Whether writes belong to a session and are applied exactly once; true by default. If false, a write is sent
    /// once, and [`Error::Unknown`] is more frequent.
    pub fn sessions(mut self, sessions: bool) -> Builder {
        self.sessions = sessions;
        self
    }

    /// The token for `authorization: Bearer TOKEN`, sent with every request, in plain text unless TLS is used. It is
    /// for a proxy in front of the nodes; the nodes ignore it.
    pub fn token(mut self, token: impl Into<String>) -> Builder {
        self.token = Some(token.into());
        self
    }

    /// Uses TLS for every connection. Nodes themselves serve plain text only: this is for a proxy in front of each
    /// node, at the address that the node advertises.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Builder {
        self.tls = Some(tls);
        self
    }

    /// Builds the client. Does not connect yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] without an endpoint, if one is not `host:port`, for a token that no header can carry, and for
    /// invalid certificates and keys.
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

/// A client of one cluster. Clones are cheap and share connections, the session and everything learned.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    timeout: Duration,
    list_timeout: Duration,
    /// All calls end by this instant, whatever their own timeouts.
    end: Option<Instant>,
}

/// The state that clones share.
struct Inner {
    /// The `authorization` header of every request.
    authorization: Option<AsciiMetadataValue>,
    topology: Topology,
    seen_revision: AtomicU64,
    use_sessions: bool,
    sessions: Mutex<SessionSlot>,
    refresher: Refresher,
}

impl Client {
    /// Returns a builder with the default settings.
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

    /// Returns the same client with another timeout per call.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { timeout, ..self.clone() }
    }

    /// Returns the same client with one deadline for all its calls together: each call ends at its own timeout or when
    /// `total` has passed from now, whichever comes first.
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
    /// [`Error::ConditionFailed`], [`Error::Invalid`] and [`Error::ResourceExhausted`] are definite; after
    /// [`Error::NotExecuted`] it is safe to send the write again; after [`Error::Unknown`] it may have been executed.
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

    /// Deletes one key. Deleting an absent key is no error.
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

    /// Returns the members of the cluster and its wanted size. With [`Consistency::Stale`] any node answers from its
    /// own state, also without a leader.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no node answered in time.
    pub async fn members(&self, consistency: Consistency) -> Result<Members, Error> {
        self.inner.keep_informed();
        self.inner.ask_for_members(consistency, self.deadline()).await
    }

    /// Returns the state of the node at `address` (`host:port`), as that node reports it. Never retries.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it did not answer in time.
    pub async fn status(&self, address: &str) -> Result<NodeStatus, Error> {
        self.inner.ask(address, api::StatusRequest {}, self.deadline()).await
    }

    /// Makes the node at `address` (`host:port`) write a snapshot now. Returns the log index that it covers. Never
    /// retries.
    ///
    /// # Errors
    /// As [`Client::set`]; [`Error::Unknown`] if the node did not answer in time: it may still write the snapshot.
    pub async fn snapshot(&self, address: &str) -> Result<u64, Error> {
        let reply = self.inner.order(address, api::SnapshotRequest {}, self.deadline()).await?;
        Ok(reply.index)
    }

    /// Returns the whole store as it is now, sessions and settings included: the bytes of a snapshot file.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no node begins to send it in time.
    pub async fn backup(&self) -> Result<Backup, Error> {
        self.inner.keep_informed();
        Backup::open(self).await
    }

    /// Transfers leadership to the member `to`; `None`: to the most up-to-date voter. Returns the new leader's name.
    ///
    /// # Errors
    /// As [`Client::set`]; [`Error::NotFound`] if there is no such member.
    pub async fn transfer_leader(&self, to: Option<&str>) -> Result<String, Error> {
        let request = api::TransferLeaderRequest { to: to.unwrap_or_default().to_owned() };
        Ok(self.command(request, Resend::Never).await?.leader)
    }

    /// Removes the member `name` from the cluster for good. Returns its node id, which is never admitted again. The
    /// cluster's wanted size becomes the number of remaining members, and the node stays out, even while it runs, until
    /// [`Client::configure`] raises the wanted size.
    ///
    /// # Errors
    /// As [`Client::set`]; [`Error::NotFound`] if there is no such member.
    pub async fn remove_member(&self, name: &str) -> Result<u64, Error> {
        let request = api::RemoveMemberRequest { name: name.to_owned(), place_stays_open: false };
        Ok(self.command(request, Resend::Never).await?.node_id)
    }

    /// Like [`Client::remove_member`], but the place stays open: the node, if it runs, joins again under a new id with
    /// an empty store, or another node joins in its place.
    ///
    /// # Errors
    /// As [`Client::remove_member`].
    pub async fn replace_member(&self, name: &str) -> Result<u64, Error> {
        let request = api::RemoveMemberRequest { name: name.to_owned(), place_stays_open: true };
        Ok(self.command(request, Resend::Never).await?.node_id)
    }

    /// Removes the node at `address` (`host:port`) from its cluster for good and ends its process. Never retries.
    ///
    /// # Errors
    /// [`Error::Refused`] if the cluster cannot do without the node, which then stays; otherwise as [`Client::set`].
    pub async fn leave(&self, address: &str) -> Result<(), Error> {
        self.inner.order(address, api::LeaveRequest {}, self.deadline()).await.map(|_| ())
    }

    /// Changes replicated settings. Returns the settings after the change.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub async fn configure(&self, change: SettingsChange) -> Result<Settings, Error> {
        self.command(change, Resend::Never).await
    }

    /// Closes the session, so that the cluster can drop the answers it keeps for it. Call this when all writes have
    /// returned. The client remains usable and opens another session at its next write.
    ///
    /// # Errors
    /// If no node confirmed it in time; the cluster then evicts the session later by itself.
    pub async fn close(&self) -> Result<(), Error> {
        self.inner.close_session(self.deadline()).await
    }

    /// Returns the highest revision of the store that this client has seen.
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

/// Returns the endpoint as given, without surrounding blanks.
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

/// Keys are bytes in the store; `api.KV` requires UTF-8.
fn text(what: &str, bytes: &[u8]) -> Result<String, Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Error::Invalid(format!("{what} is not UTF-8, which api.KV asks for").into())),
    }
}
