//! A streamed answer of one revision that goes on when it breaks off: the client then requests the rest from another node,
//! at the same revision.
//!
//! Invariants: each item is returned once and in order; all belong to an answer at one revision, or the answer fails. No
//! more items are held than the connection has received.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use mokv_proto::status;
use mokv_proto::tonic::{Status, Streaming};

use super::arriving::Arriving;
use super::call::Call;
use super::error::Error;
use super::{Client, Consistency, retry};
use crate::rt::{self, Instant};

/// What is still to come of an answer.
pub(super) trait Rest: Send {
    /// A message of the answer.
    type Message: Send + 'static;
    /// What the caller gets of a message.
    type Item;

    /// Names the answer in errors, such as "the listing".
    const WHAT: &'static str;
    /// What to do when it cannot go on.
    const AGAIN: &'static str;

    /// Requests the rest.
    fn open(&self, client: Client, end: Instant) -> Opening<Self::Message>;

    /// Sets the revision at which the rest is requested from now on.
    fn pin(&mut self, revision: u64);

    /// Takes the next message; `None`: it is beyond the end.
    fn take(&mut self, message: Self::Message) -> Option<Self::Item>;

    /// Whether nothing is to come, whatever the node would send.
    fn is_over(&self) -> bool;
}

/// The request of a stream, and its response.
pub(super) type Opening<T> = Pin<Box<dyn Future<Output = Result<Opened<T>, Error>> + Send>>;

/// A stream that a node has begun.
pub(super) struct Opened<T> {
    revision: u64,
    stream: Streaming<T>,
}

/// An answer in progress.
pub(super) struct Resuming<R: Rest> {
    client: Client,
    rest: R,
    revision: u64,
    end: Instant,
    state: State<R::Message>,
}

enum State<T> {
    Arriving(Box<Arriving<T>>),
    /// Another node is asked for the rest.
    Resuming(Opening<T>),
    Ended,
}

impl<R: Rest> Resuming<R> {
    /// Requests an answer.
    pub(super) async fn open(client: Client, rest: R) -> Result<Resuming<R>, Error> {
        let end = rt::time::after(client.list_timeout);
        let end = client.end.map_or(end, |before| before.min(end));
        let opened = rest.open(client.clone(), end).await?;
        let state = match rest.is_over() {
            true => State::Ended,
            false => State::Arriving(Box::new(Arriving::new(opened.stream))),
        };
        Ok(Resuming { client, rest, revision: opened.revision, end, state })
    }

    /// Returns the revision of the answer.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns the next item; `None` at the end. After an error nothing follows.
    pub(super) async fn next(&mut self) -> Result<Option<R::Item>, Error> {
        std::future::poll_fn(|cx| self.poll_item(cx)).await
    }

    pub(super) fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<R::Item>, Error>> {
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
                    let stalled = |rt::time::Elapsed| Err(status::unknown(format!("{} stalled", R::WHAT)));
                    match arrived.unwrap_or_else(stalled) {
                        Ok(Some(message)) => {
                            let item = self.rest.take(message);
                            if item.is_none() || self.rest.is_over() {
                                self.state = State::Ended;
                            }
                            return Poll::Ready(Ok(item));
                        }
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

    /// Continues after the last item, at the same revision, on any node.
    fn resume(&mut self, status: &Status) -> Result<State<R::Message>, Error> {
        if let Some(error) = retry::after_read(status) {
            return Err(error);
        }
        if rt::now() >= self.end {
            let (what, within) = (R::WHAT, self.client.list_timeout);
            return Err(Error::Unavailable(format!("{what} was not complete within {within:?}").into()));
        }
        if self.revision == 0 {
            // It cannot be requested.
            return Err(Error::RevisionGone(
                format!("the node did not say the revision of {}", R::WHAT).into(),
            ));
        }
        self.rest.pin(self.revision);
        Ok(State::Resuming(self.rest.open(self.client.clone(), self.end)))
    }

    fn resumed(&self, opened: Opened<R::Message>) -> Result<State<R::Message>, Error> {
        match opened.revision == self.revision {
            true => Ok(State::Arriving(Box::new(Arriving::new(opened.stream)))),
            false => {
                let (what, again) = (R::WHAT, R::AGAIN);
                let message = format!("{what} was interrupted and its revision is gone; {again}");
                Err(Error::RevisionGone(message.into()))
            }
        }
    }
}

/// Opens a stream of what `request` names.
pub(super) fn connect<C, T>(client: Client, request: C, consistency: Consistency, end: Instant) -> Opening<T>
where
    C: Call<Reply = Streaming<T>>,
    T: Send + 'static,
{
    Box::pin(async move {
        let deadline = client.deadline().no_later_than(end);
        let response = client.inner.read(&request, consistency.purpose(), deadline, Some(end)).await;
        let response = response.map_err(|failure| failure.error)?;
        let revision = status::revision_of(response.metadata()).unwrap_or(0);
        Ok(Opened { revision, stream: response.into_inner() })
    })
}
