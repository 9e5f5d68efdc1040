//! A listing: the keys and values of one revision, streamed in byte order of the keys.
//!
//! Invariants: all entries of a [`Listing`] belong to one revision; each is returned once and in order, also when the
//! node that streams them fails half way: the client then requests the rest from another node at the same revision, or
//! the listing fails.

use std::time::Instant;

use mokv_proto::api;
use mokv_proto::status;
use mokv_proto::tonic::Streaming;

use super::error::Error;
use super::{Client, Consistency, KeyValue, retry, text};
use crate::rt;
use crate::rt::time::timeout_at;

/// What to list; everything by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ListOptions {
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
    /// Only keys after this one, in byte order: the last key of the page before.
    pub start_after: Vec<u8>,
    /// At most this many keys; 0: no limit.
    pub limit: u64,
    /// Leave the values out.
    pub keys_only: bool,
    /// How recent the listing must be; linearizable by default.
    pub consistency: Consistency,
    /// The revision of an earlier page to continue with; 0: the newest.
    pub at_revision: u64,
}

impl ListOptions {
    /// Only keys that begin with this.
    pub fn prefix(mut self, prefix: impl Into<Vec<u8>>) -> ListOptions {
        self.prefix = prefix.into();
        self
    }

    /// Only keys after this one, in byte order: the last key of the page before.
    pub fn start_after(mut self, key: impl Into<Vec<u8>>) -> ListOptions {
        self.start_after = key.into();
        self
    }

    /// At most this many keys; 0: no limit.
    pub fn limit(mut self, keys: u64) -> ListOptions {
        self.limit = keys;
        self
    }

    /// Whether to leave the values out.
    pub fn keys_only(mut self, keys_only: bool) -> ListOptions {
        self.keys_only = keys_only;
        self
    }

    /// Sets how recent the listing must be.
    pub fn consistency(mut self, consistency: Consistency) -> ListOptions {
        self.consistency = consistency;
        self
    }

    /// The revision of an earlier page to continue with; 0: the newest.
    pub fn at_revision(mut self, revision: u64) -> ListOptions {
        self.at_revision = revision;
        self
    }
}

/// A listing in progress. Dropping it ends the stream.
pub struct Listing {
    client: Client,
    request: api::ListRequest,
    consistency: Consistency,
    revision: u64,
    end: Instant,
    /// `None`: the end was reached.
    stream: Option<Streaming<api::GetResponse>>,
}

impl Listing {
    pub(super) async fn open(client: Client, options: ListOptions) -> Result<Listing, Error> {
        let request = api::ListRequest {
            prefix: text("the prefix", &options.prefix)?,
            start_after: text("the key to start after", &options.start_after)?,
            limit: options.limit,
            keys_only: options.keys_only,
            consistency: options.consistency.wire(),
            min_revision: client.min_revision(options.consistency),
            at_revision: options.at_revision,
        };
        let end = rt::time::after(client.list_timeout);
        let end = client.end.map_or(end, |before| before.min(end));
        let consistency = options.consistency;
        let mut listing = Listing { client, request, consistency, revision: 0, end, stream: None };
        listing.revision = listing.connect().await?;
        Ok(listing)
    }

    /// Returns the revision of the store that is listed; pass it as `at_revision` for the next page.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns the next entry; `None` at the end.
    ///
    /// # Errors
    /// [`Error::RevisionGone`] if the listing was interrupted and no node retains its revision any more,
    /// [`Error::Unavailable`] if no node continued it in time. A listing that failed returns no more entries.
    pub async fn next(&mut self) -> Result<Option<KeyValue>, Error> {
        loop {
            let Some(stream) = &mut self.stream else { return Ok(None) };
            let until = self.end.min(rt::time::after(self.client.timeout));
            let status = match timeout_at(until, stream.message()).await {
                Ok(Ok(Some(entry))) => return Ok(Some(self.deliver(entry))),
                Ok(Ok(None)) => {
                    self.stream = None;
                    return Ok(None);
                }
                Ok(Err(status)) => status,
                Err(rt::time::Elapsed) => status::unknown("the listing stalled"),
            };
            self.stream = None;
            if let Some(error) = retry::after_read(&status) {
                return Err(error);
            }
            if rt::now() >= self.end {
                let within = self.client.list_timeout;
                return Err(Error::Unavailable(
                    format!("the listing was not complete within {within:?}").into(),
                ));
            }
            self.resume().await?;
        }
    }

    fn deliver(&mut self, entry: api::GetResponse) -> KeyValue {
        self.request.start_after.clone_from(&entry.key);
        if self.request.limit > 0 {
            self.request.limit -= 1;
            if self.request.limit == 0 {
                self.stream = None; // A limit of 0 would mean no limit.
            }
        }
        entry.into()
    }

    /// Continues after the last entry, at the same revision, on any node that still retains it.
    async fn resume(&mut self) -> Result<(), Error> {
        self.request.at_revision = self.revision;
        self.request.min_revision = self.revision;
        // Revision 0 cannot be requested: the store was empty, and may no longer be.
        if self.revision == 0 || self.connect().await? != self.revision {
            self.stream = None;
            let message = "the listing was interrupted and its revision is gone; list again from the start";
            return Err(Error::RevisionGone(message.into()));
        }
        Ok(())
    }

    /// Opens a stream of the remaining entries. Returns its revision.
    async fn connect(&mut self) -> Result<u64, Error> {
        let inner = &self.client.inner;
        let deadline = self.client.deadline().no_later_than(self.end);
        let response = inner
            .read(&self.request, self.consistency.purpose(), deadline, Some(self.end))
            .await
            .map_err(|failure| failure.error)?;
        let revision = status::revision_of(response.metadata()).unwrap_or(0);
        self.stream = Some(response.into_inner());
        Ok(revision)
    }
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing").field("revision", &self.revision).finish_non_exhaustive()
    }
}
