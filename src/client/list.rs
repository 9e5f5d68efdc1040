//! A listing: the keys and values of one revision, streamed in byte order of the keys.
//!
//! Invariants: all entries of a [`Listing`] belong to one revision; each is returned once and in order, also when the
//! node that streams them fails half way: the client then requests the rest from another node at the same revision, or
//! the listing fails. No more entries are held than the connection has received.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use mokv_proto::api;
use mokv_proto::status;
use mokv_proto::tonic::{Status, Streaming};

use super::arriving::Arriving;
use super::error::Error;
use super::options::wire_limit;
use super::{Client, Consistency, KeyValue, ListOptions, retry};
use crate::rt::{self, Instant};

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
pub struct Listing {
    client: Client,
    /// What is still to come.
    request: api::ListRequest,
    /// The keys that are still to come; `None`: as many as there are.
    limit: Option<u64>,
    consistency: Consistency,
    revision: u64,
    end: Instant,
    state: State,
}

enum State {
    Arriving(Box<Arriving<api::GetResponse>>),
    /// Another node is asked for the rest.
    Resuming(Opening),
    Ended,
}

type Opening = Pin<Box<dyn Future<Output = Result<Opened, Error>> + Send>>;

struct Opened {
    revision: u64,
    stream: Streaming<api::GetResponse>,
}

impl Listing {
    pub(super) async fn open(client: Client, options: ListOptions) -> Result<Listing, Error> {
        let request = options.wire(client.min_revision(options.consistency))?;
        let end = rt::time::after(client.list_timeout);
        let end = client.end.map_or(end, |before| before.min(end));
        let (limit, consistency) = (options.limit, options.consistency);
        let opened = connect(client.clone(), request.clone(), consistency, end).await?;
        let state = match limit {
            Some(0) => State::Ended,
            _ => State::Arriving(Box::new(Arriving::new(opened.stream))),
        };
        Ok(Listing { client, request, limit, consistency, revision: opened.revision, end, state })
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
        self.revision
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
        std::future::poll_fn(|cx| self.poll_entry(cx)).await
    }

    fn poll_entry(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<KeyValue>, Error>> {
        loop {
            let next = match &mut self.state {
                State::Ended => return Poll::Ready(Ok(None)),
                State::Resuming(opening) => {
                    let opened = ready!(opening.as_mut().poll(cx));
                    opened.and_then(|opened| self.resumed(opened))
                }
                State::Arriving(arriving) => {
                    let (end, timeout) = (self.end, self.client.timeout);
                    let arrived = ready!(arriving.poll_message(cx, || end.min(rt::time::after(timeout))));
                    let stalled = |rt::time::Elapsed| Err(status::unknown("the listing stalled"));
                    match arrived.unwrap_or_else(stalled) {
                        Ok(Some(entry)) => return Poll::Ready(Ok(Some(self.deliver(entry)))),
                        Ok(None) => Ok(State::Ended),
                        Err(status) => self.resume(&status),
                    }
                }
            };
            match next {
                Ok(state) => self.state = state,
                Err(error) => {
                    self.state = State::Ended;
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    fn deliver(&mut self, entry: api::GetResponse) -> KeyValue {
        self.request.start_after.clone_from(&entry.key);
        self.limit = self.limit.map(|keys| keys - 1);
        if self.limit == Some(0) {
            self.state = State::Ended;
        }
        KeyValue::from_wire(entry)
    }

    /// Continues after the last entry, at the same revision, on any node.
    fn resume(&mut self, status: &Status) -> Result<State, Error> {
        if let Some(error) = retry::after_read(status) {
            return Err(error);
        }
        if rt::now() >= self.end {
            let within = self.client.list_timeout;
            return Err(Error::Unavailable(format!("the listing was not complete within {within:?}").into()));
        }
        if self.revision == 0 {
            // It cannot be requested.
            return Err(Error::RevisionGone("the node did not say which revision it listed".into()));
        }
        self.request.limit = wire_limit(self.limit);
        self.request.at_revision = self.revision;
        self.request.min_revision = self.revision;
        let opening = connect(self.client.clone(), self.request.clone(), self.consistency, self.end);
        Ok(State::Resuming(Box::pin(opening)))
    }

    fn resumed(&self, opened: Opened) -> Result<State, Error> {
        match opened.revision == self.revision {
            true => Ok(State::Arriving(Box::new(Arriving::new(opened.stream)))),
            false => Err(gone()),
        }
    }
}

impl Stream for Listing {
    type Item = Result<KeyValue, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_entry(cx).map(Result::transpose)
    }
}

/// Opens a stream of the entries that `request` names.
async fn connect(
    client: Client,
    request: api::ListRequest,
    consistency: Consistency,
    end: Instant,
) -> Result<Opened, Error> {
    let deadline = client.deadline().no_later_than(end);
    let response = client.inner.read(&request, consistency.purpose(), deadline, Some(end)).await;
    let response = response.map_err(|failure| failure.error)?;
    let revision = status::revision_of(response.metadata()).unwrap_or(0);
    Ok(Opened { revision, stream: response.into_inner() })
}

fn gone() -> Error {
    let message = "the listing was interrupted and its revision is gone; list again from the start";
    Error::RevisionGone(message.into())
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing").field("revision", &self.revision).finish_non_exhaustive()
    }
}
