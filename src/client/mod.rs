//! The client library. The command line and all simulated clients reach a node only through it.
//!
//! ```no_run
//! # async fn example() -> Result<(), mokv::client::Error> {
//! use mokv::client::{Client, WriteOptions};
//!
//! let client = Client::builder().endpoints(["127.0.0.1:8400"]).build()?;
//! let written = client.set("greeting", "hello").await?;
//! let read = client.get("greeting").await?;
//! assert!(read.revision >= written.revision);
//! client.set_with("greeting", "hello again", WriteOptions::if_unchanged(&read)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The client tracks the members and the leader, sends writes to the leader and reads to the followers, retries what is
//! safe to retry until the deadline, and distinguishes what failed, what was never executed and what has an unknown
//! outcome. By default a write belongs to a session and is applied exactly once, however often it is sent. The stale
//! reads of one client never go back in time.
//!
//! Every call has a simple form and, where there is something to choose, one with options: [`Client::get`] and
//! [`Client::get_with`].
//!
//! Files: `builder` makes a client; `options` and `answers` are what calls take and return; `operators` has the calls
//! for operators, `members` and `node_status` what they return. `call` is the loop of one call; `retry` and `picker` make
//! its decisions, as pure functions; `topology` holds the known members and the leader; `connection` is a node's address
//! and the connection to it; `transaction` sends transactions; `tls` makes the TLS handshake; `opening` opens and closes sessions; `session` names writes;
//! `refresh` asks for the members again; `arriving` is a stream from a node, from which `backup` makes a backup of the
//! whole store; `resuming` is one that goes on elsewhere when it breaks off, from which `list` makes a listing and
//! `history` a reading of versions and changes.
//!
//! Depends only on `rt`, `node_id`, `replicated_settings`, `transaction` and the wire contract, not on nodes, logs or maps. Types of the
//! wire contract, and its 0 and "" for what is absent, do not leave this module.

mod answers;
mod arriving;
mod backup;
mod builder;
mod call;
mod connection;
mod error;
mod history;
mod list;
mod members;
mod node_status;
mod opening;
mod operators;
mod options;
mod picker;
mod refresh;
mod resuming;
mod retry;
mod session;
#[cfg(all(test, feature = "server"))]
mod tests;
#[cfg(feature = "tls")]
mod tls;
mod topology;
mod transaction;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use answers::{Change, Deleted, KeyValue, Position, Read, Written};
pub use backup::{Backup, BackupInfo};
pub use builder::Builder;
#[cfg(feature = "server")]
pub(crate) use builder::endpoint;
use bytes::Bytes;
pub use error::{Error, Why};
pub use history::Changes;
pub use list::Listing;
pub use members::{Member, MemberRole, Members};
use mokv_proto::api;
use mokv_proto::status;
use mokv_proto::tonic::Code;
use mokv_proto::tonic::metadata::AsciiMetadataValue;
pub use node_status::{Contradiction, DigestAt, GoneBack, NodeRef, NodeStatus, Role};
pub use options::{ChangesOptions, Consistency, ListOptions, ReadOptions, VersionsOptions, WriteOptions};
#[cfg(feature = "tls")]
pub use tls::Tls;

pub use transaction::{DeletedPrefix, GotMany, OperationResult, ResultsMissing, Transacted};

use call::Deadline;
use opening::SessionSlot;
use refresh::Refresher;
use topology::Topology;

pub use crate::node_id::NodeId;
pub use crate::replicated_settings::{Settings, SettingsChange};
use crate::rt;
use crate::rt::lock::Mutex;
pub use crate::transaction::{Comparison, Condition, KeyRange, Keys, Operation, Test, Transaction};

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
    ///
    /// ```no_run
    /// # use mokv::client::Client;
    /// # fn example() -> Result<(), mokv::client::Error> {
    /// let client = Client::builder().endpoints(["127.0.0.1:8400"]).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Returns the same client with another timeout per call.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let patient = client.with_timeout(std::time::Duration::from_secs(30));
    /// patient.set("greeting", "hello").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { timeout, ..self.clone() }
    }

    /// Returns the same client with one deadline for all its calls together: each call ends at its own timeout or when
    /// `total` has passed from now, whichever comes first.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let hasty = client.with_total_timeout(std::time::Duration::from_secs(1));
    /// let read = hasty.get("greeting").await?;
    /// hasty.set("farewell", "bye").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_total_timeout(&self, total: Duration) -> Client {
        let end = rt::time::after(total);
        Client { end: Some(self.end.map_or(end, |before| before.min(end))), ..self.clone() }
    }

    /// Reads one key; linearizable.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key that cannot exist, [`Error::Unavailable`] if no node could serve it in time.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// match client.get("greeting").await?.entry {
    ///     Some(entry) => println!("{:?}", entry.value),
    ///     None => println!("there is no such key"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Read, Error> {
        self.get_with(key, ReadOptions::default()).await
    }

    /// Like [`Client::get`], with options.
    ///
    /// # Errors
    /// As [`Client::get`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// use mokv::client::ReadOptions;
    ///
    /// let read = client.get_with("greeting", ReadOptions::stale()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_with(&self, key: impl AsRef<[u8]>, options: ReadOptions) -> Result<Read, Error> {
        let request = api::GetRequest {
            key: Bytes::copy_from_slice(key.as_ref()),
            consistency: options.consistency.wire(),
            min_revision: self.min_revision(options.consistency),
            at_revision: options.wire_revision()?,
        };
        self.inner.keep_informed();
        let deadline = self.deadline();
        match self.inner.read(&request, options.consistency.purpose(), deadline, None).await {
            Ok(response) => {
                let entry = response.into_inner();
                self.inner.saw(entry.revision);
                Ok(Read { revision: entry.revision, entry: Some(KeyValue::from_wire(entry)) })
            }
            Err(failure) => match failure.status {
                Some(status) if status.code() == Code::NotFound => {
                    Ok(Read { revision: status::revision_of(status.metadata()).unwrap_or(0), entry: None })
                }
                _ => Err(failure.error),
            },
        }
    }

    /// Writes one key, whatever it holds.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::ResourceExhausted`] are definite; after [`Error::NotExecuted`] it is safe to send
    /// the write again; after [`Error::Unknown`] it may have been executed.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let written = client.set("greeting", "hello").await?;
    /// println!("at revision {}", written.revision);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<Written, Error> {
        self.set_with(key, value, WriteOptions::default()).await
    }

    /// Like [`Client::set`], under a condition.
    ///
    /// # Errors
    /// As [`Client::set`]; [`Error::ConditionFailed`], which is definite, too.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// use mokv::client::WriteOptions;
    ///
    /// let read = client.get("greeting").await?;
    /// client.set_with("greeting", "hello", WriteOptions::if_unchanged(&read)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: WriteOptions,
    ) -> Result<Written, Error> {
        let request = api::SetRequest {
            key: Bytes::copy_from_slice(key.as_ref()),
            value: value.into(),
            if_revision: options.wire()?,
            session: None,
        };
        self.inner.keep_informed();
        let deadline = self.deadline();
        let reply = self.inner.named_write(request, deadline).await?;
        self.inner.saw(reply.revision);
        Ok(Written { revision: reply.revision })
    }

    /// Deletes one key, whatever it holds. Deleting an absent key is no error.
    ///
    /// # Errors
    /// As [`Client::set`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// if client.delete("greeting").await?.existed {
    ///     println!("gone");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Deleted, Error> {
        self.delete_with(key, WriteOptions::default()).await
    }

    /// Like [`Client::delete`], under a condition.
    ///
    /// # Errors
    /// As [`Client::set_with`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// use mokv::client::WriteOptions;
    ///
    /// let lock = client.set_with("lock", "me", WriteOptions::if_absent()).await?;
    /// client.delete_with("lock", WriteOptions::if_revision(lock.revision)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete_with(&self, key: impl AsRef<[u8]>, options: WriteOptions) -> Result<Deleted, Error> {
        let request = api::DeleteRequest {
            key: Bytes::copy_from_slice(key.as_ref()),
            if_revision: options.wire()?,
            session: None,
        };
        self.inner.keep_informed();
        let deadline = self.deadline();
        let reply = self.inner.named_write(request, deadline).await?;
        self.inner.saw(reply.revision);
        Ok(Deleted { revision: reply.revision, existed: reply.existed })
    }

    /// Lists the keys that begin with `prefix` (`""`: all) and their values, of one revision, in byte order of the keys;
    /// linearizable.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a prefix that cannot exist, [`Error::Unavailable`] if no node could serve it in time.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let mut users = client.list("user/").await?;
    /// while let Some(entry) = users.next().await? {
    ///     println!("{:?} = {:?}", entry.key, entry.value);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list(&self, prefix: impl AsRef<[u8]>) -> Result<Listing, Error> {
        self.list_with(ListOptions::prefix(prefix)).await
    }

    /// Like [`Client::list`], with options.
    ///
    /// # Errors
    /// As [`Client::list`]; [`Error::RevisionGone`] if the revision of [`ListOptions::at_revision`] is compacted.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// use mokv::client::ListOptions;
    ///
    /// let options = ListOptions::prefix("user/").limit(100).keys_only();
    /// let mut users = client.list_with(options).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_with(&self, options: ListOptions) -> Result<Listing, Error> {
        self.inner.keep_informed();
        Listing::open(self.clone(), options).await
    }

    /// Reads the versions of one key that the history has, deletions included, in the order in which they were made;
    /// linearizable. The first is the one that the earliest revision that can be read shows.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key that cannot exist, [`Error::Unavailable`] if no node could serve it in time.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let mut versions = client.versions("greeting").await?;
    /// while let Some(version) = versions.next().await? {
    ///     match version.entry {
    ///         Some(entry) => println!("revision {}: {:?}", entry.mod_revision, entry.value),
    ///         None => println!("revision {}: deleted", version.position.revision),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn versions(&self, key: impl AsRef<[u8]>) -> Result<Changes, Error> {
        self.versions_with(key, VersionsOptions::all()).await
    }

    /// Like [`Client::versions`], with options.
    ///
    /// # Errors
    /// As [`Client::versions`]; [`Error::RevisionGone`] if a revision of the options is compacted, [`Error::Invalid`] if
    /// one is not there yet.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// use mokv::client::VersionsOptions;
    ///
    /// let since = VersionsOptions::all().from_revision(8);
    /// let mut versions = client.versions_with("greeting", since).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn versions_with(
        &self,
        key: impl AsRef<[u8]>,
        options: VersionsOptions,
    ) -> Result<Changes, Error> {
        self.inner.keep_informed();
        Changes::of_key(self.clone(), key.as_ref(), options).await
    }

    /// Reads the changes of the keys that begin with `prefix` (`""`: all) that the history has, in the order in which they
    /// were made; linearizable.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no node could serve it in time.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let mut changes = client.changes("user/").await?;
    /// while let Some(change) = changes.next().await? {
    ///     println!("revision {}: {:?}", change.position.revision, change.key);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn changes(&self, prefix: impl AsRef<[u8]>) -> Result<Changes, Error> {
        self.changes_with(ChangesOptions::prefix(prefix)).await
    }

    /// Like [`Client::changes`], with options.
    ///
    /// # Errors
    /// As [`Client::changes`]; [`Error::RevisionGone`] if a revision of the options is compacted, [`Error::Invalid`] if
    /// one is not there yet.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// use mokv::client::ChangesOptions;
    ///
    /// let since = ChangesOptions::prefix("user/").from_revision(8).keys_only();
    /// let mut changes = client.changes_with(since).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn changes_with(&self, options: ChangesOptions) -> Result<Changes, Error> {
        self.inner.keep_informed();
        Changes::of_keys(self.clone(), options).await
    }

    /// Closes the session, so that the cluster can drop the answers it keeps for it. Call this when all writes have
    /// returned. The client remains usable and opens another session at its next write.
    ///
    /// # Errors
    /// If no node confirmed it in time; the cluster then evicts the session later by itself.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// client.set("greeting", "hello").await?;
    /// client.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(&self) -> Result<(), Error> {
        self.inner.close_session(self.deadline()).await
    }

    /// Returns the highest revision of the store that this client has seen; 0 at first.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let written = client.set("greeting", "hello").await?;
    /// assert!(client.seen_revision() >= written.revision);
    /// # Ok(())
    /// # }
    /// ```
    pub fn seen_revision(&self) -> u64 {
        self.inner.seen_revision.load(Ordering::Relaxed)
    }

    fn deadline(&self) -> Deadline {
        let deadline = Deadline::after(self.timeout);
        self.end.map_or(deadline, |end| deadline.no_later_than(end))
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
