//! Bodies of requests and answers on their way, and what they may hold meanwhile.
//!
//! A request is read whole before it takes a place among the requests being served: whoever sends half of one holds
//! bytes of a bound, for as long as its deadline, and nothing else. An answer holds what of it was encoded and not taken.
//! Where a bound is reached nothing more is read or encoded; HTTP/2's flow control then stops the client.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use mokv_proto::tonic::body::Body;
use tonic::Status;

use super::connection::{Call, SEND_BUFFER_BYTES};
use crate::bound::{Bound, Held, LOOK_AGAIN};
use crate::rt::{self, time::Sleep};

/// gRPC puts a flag and a length before each message.
const MESSAGE_HEADER_BYTES: usize = 5;

/// Waits, by being polled, for room in all bounds.
struct Room {
    bounds: [Arc<Bound>; 2],
    pause: Option<Sleep>,
}

impl Room {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.bounds.iter().all(|bound| bound.has_room()) {
            let pause = self.pause.get_or_insert_with(|| rt::sleep(LOOK_AGAIN));
            std::task::ready!(std::future::Future::poll(Pin::new(pause), cx));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

/// Bytes counted in two bounds: of a connection, and of all.
struct HeldBytes([Held; 2]);

impl HeldBytes {
    fn none(bounds: &[Arc<Bound>; 2]) -> HeldBytes {
        HeldBytes(bounds.each_ref().map(|bound| bound.none()))
    }

    fn add(&mut self, bytes: usize) {
        self.0.iter_mut().for_each(|held| held.add(bytes));
    }

    fn keep(&mut self, bytes: usize) {
        self.0.iter_mut().for_each(|held| held.keep(bytes));
    }
}

/// Reads a request of one message whole. Of one that is longer than `most_bytes` the beginning comes back, which tells
/// its length and is refused for it.
///
/// # Errors
/// If the client breaks it off.
pub(super) async fn receive(
    mut incoming: Incoming,
    most_bytes: usize,
    bounds: [Arc<Bound>; 2],
) -> Result<Body, Status> {
    let mut held = HeldBytes::none(&bounds);
    let mut room = Room { bounds, pause: None };
    let mut parts = BytesMut::new();
    let mut only = Bytes::new();
    while !incoming.is_end_stream() && parts.len() <= most_bytes + MESSAGE_HEADER_BYTES {
        let frame = poll_fn(|cx| {
            std::task::ready!(room.poll(cx));
            Pin::new(&mut incoming).poll_frame(cx)
        });
        let Some(frame) = frame.await else { break };
        let broken = |error| Status::cancelled(format!("the request was broken off: {error}"));
        // Trailers of a request say nothing.
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        held.add(data.len());
        // Most requests are one frame, which is not copied.
        if only.is_empty() && parts.is_empty() {
            only = data;
        } else {
            parts.extend_from_slice(&std::mem::take(&mut only));
            parts.extend_from_slice(&data);
        }
    }
    let whole = if parts.is_empty() { only } else { parts.freeze() };
    Ok(Body::new(Full::new(whole)))
}

/// An answer on its way.
pub(super) struct Answer {
    body: Body,
    room: Room,
    held: HeldBytes,
    sent: usize,
    _call: Call,
    /// The place of an answer that is a stream.
    _place: Option<Held>,
}

impl Answer {
    pub(super) fn new(body: Body, call: Call, place: Option<Held>, bounds: [Arc<Bound>; 2]) -> Answer {
        let held = HeldBytes::none(&bounds);
        Answer { body, room: Room { bounds, pause: None }, held, sent: 0, _call: call, _place: place }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        // Asked for more, HTTP/2 has sent all of what it had but as much as it buffers.
        this.held.keep(this.sent.min(SEND_BUFFER_BYTES));
        std::task::ready!(this.room.poll(cx));
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.sent = this.sent.saturating_add(data.len());
            this.held.add(data.len());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
