//! A stream of messages from a node, of which the silence is bounded.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use mokv_proto::tonic::{Status, Streaming};

use crate::rt::Instant;
use crate::rt::time::{Elapsed, Sleep, sleep_until};

/// The messages that a node streams.
pub(super) struct Arriving<T> {
    stream: Streaming<T>,
    /// The end of the current silence; `None`: the last poll returned a message.
    silence: Option<Sleep>,
}

impl<T> Arriving<T> {
    /// The stream of a response.
    pub(super) fn new(stream: Streaming<T>) -> Arriving<T> {
        Arriving { stream, silence: None }
    }

    /// Returns the next message, `None` at the end, or the status with which the node ended the stream; [`Elapsed`] if
    /// nothing came by `until`, which is asked for when a silence begins.
    pub(super) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        until: impl FnOnce() -> Instant,
    ) -> Poll<Result<Result<Option<T>, Status>, Elapsed>> {
        if let Poll::Ready(message) = Pin::new(&mut self.stream).poll_next(cx) {
            self.silence = None;
            return Poll::Ready(Ok(message.transpose()));
        }
        let silence = self.silence.get_or_insert_with(|| sleep_until(until()));
        ready!(Pin::new(silence).poll(cx));
        Poll::Ready(Err(Elapsed))
    }
}
