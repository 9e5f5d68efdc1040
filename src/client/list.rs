//! A listing: the keys and values of one revision, streamed in byte order of the keys. All entries of a [`Listing`] belong
//! to one revision, and each is returned once and in order, also when the node that streams them fails half way.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use mokv_proto::api;

use super::error::Error;
use super::options::wire_limit;
use super::resuming::{Opening, Rest, Resuming, connect};
use super::{Client, Consistency, KeyValue, ListOptions};
use crate::rt::Instant;

/// A listing in progress: a [`Stream`] of entries, which [`Listing::next`] takes one by one. Dropping it ends the listing.
///
/// The stream ends after the first error: [`Error::RevisionGone`] if the listing was interrupted and its revision is
/// compacted by now, [`Error::Unavailable`] if no node continued it in time.
///
/// ```no_run
/// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
/// use futures_util::TryStreamExt;
///
/// let users: Vec<_> = client.list("user/").await?.try_collect().await?;
/// # Ok(())
/// # }
/// ```
pub struct Listing(Resuming<Keys>);

/// The keys that are still to come.
struct Keys {
    request: api::ListRequest,
    /// At most this many; `None`: as many as there are.
    limit: Option<u64>,
    consistency: Consistency,
}

impl Rest for Keys {
    type Message = api::GetResponse;
    type Item = KeyValue;

    const WHAT: &'static str = "the listing";
    const AGAIN: &'static str = "list again from the start";

    fn open(&self, client: Client, end: Instant) -> Opening<api::GetResponse> {
        connect(client, self.request.clone(), self.consistency, end)
    }

    fn pin(&mut self, revision: u64) {
        self.request.limit = wire_limit(self.limit);
        self.request.at_revision = revision;
        self.request.min_revision = revision;
    }

    fn take(&mut self, entry: api::GetResponse) -> Option<KeyValue> {
        self.request.start_after.clone_from(&entry.key);
        self.limit = self.limit.map(|keys| keys - 1);
        Some(KeyValue::from_wire(entry))
    }

    fn is_over(&self) -> bool {
        self.limit == Some(0)
    }
}

impl Listing {
    pub(super) async fn open(client: Client, options: ListOptions) -> Result<Listing, Error> {
        let request = options.wire(client.min_revision(options.consistency))?;
        let keys = Keys { request, limit: options.limit, consistency: options.consistency };
        Ok(Listing(Resuming::open(client, keys).await?))
    }

    /// Returns the revision of the store that is listed; pass it to [`ListOptions::at_revision`] for the next page.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let listing = client.list("user/").await?;
    /// println!("the users at revision {}:", listing.revision());
    /// # Ok(())
    /// # }
    /// ```
    pub fn revision(&self) -> u64 {
        self.0.revision()
    }

    /// Returns the next entry; `None` at the end.
    ///
    /// Cancel safe: no entry is lost if the future is dropped.
    ///
    /// # Errors
    /// [`Error::RevisionGone`] if the listing was interrupted and its revision is compacted by now,
    /// [`Error::Unavailable`] if no node continued it in time. A listing that failed returns no more entries.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let mut listing = client.list("user/").await?;
    /// while let Some(entry) = listing.next().await? {
    ///     println!("{:?} = {:?}", entry.key, entry.value);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Result<Option<KeyValue>, Error> {
        self.0.next().await
    }
}

impl Stream for Listing {
    type Item = Result<KeyValue, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().0.poll_item(cx).map(Result::transpose)
    }
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing").field("revision", &self.revision()).finish_non_exhaustive()
    }
}
