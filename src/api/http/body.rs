//! Bodies of requests and answers, and the bounds on the bytes that they hold.
//!
//! A request is read whole before it takes a place among the requests being served. So a client that sends half of a
//! request holds bytes of a bound until its deadline, and nothing else. If a connection has used its share, a further
//! request on it is refused and gives its bytes back. It does not wait: it would block the others on its connection,
//! which share one window, and many requests that arrived in part would wait for each other.
//!
//! An answer holds the bytes that are encoded and that the client has not read. If a bound is reached, nothing more of
//! the answer is encoded.

use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, SizeHint};
use mokv_proto::status;
use mokv_proto::tonic::body::Body;
use tonic::Status;

use super::connection::{Call, SEND_BUFFER_BYTES};
use crate::bound::{Bound, Held, LOOK_AGAIN};
use crate::rt::{self, time::Sleep};

/// Bytes of the flag and the length that gRPC puts before each message.
const MESSAGE_HEADER_BYTES: usize = 5;

/// Waits for room in all bounds, by polling them.
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

/// Bytes counted in two bounds: that of a connection, and that of all connections.
pub(in crate::api) struct HeldBytes([Held; 2]);

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

/// Reads a request of one message whole. Returns its body, and the guard that counts its bytes in both bounds. Of a
/// request longer than `most_bytes` the body is only the beginning; it contains the length, for which tonic refuses the
/// request.
///
/// # Errors
/// `CANCELLED` if the client breaks the request off; the status of `overloaded` if its connection has used its share.
pub(in crate::api) async fn receive<B>(
    mut incoming: B,
    most_bytes: usize,
    bounds: [Arc<Bound>; 2],
) -> Result<(Body, HeldBytes), Status>
where
    B: hyper::body::Body<Data = Bytes, Error: Display> + Unpin,
{
    let mut held = HeldBytes::none(&bounds);
    let mut parts = BytesMut::new();
    let mut only = Bytes::new();
    while !incoming.is_end_stream() && parts.len() <= most_bytes + MESSAGE_HEADER_BYTES {
        let Some(frame) = incoming.frame().await else { break };
        let broken = |error| Status::cancelled(format!("the request was broken off: {error}"));
        // Trailers of a request have no meaning in gRPC.
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if !has_share(&bounds) {
            return Err(status::overloaded(
                "the requests under way on this node hold all the memory that is allowed; try again later",
            ));
        }
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
    Ok((Body::new(Full::new(whole)), held))
}

/// Returns whether a connection may hold more: it may hold as many bytes as are free. So a single connection gets at
/// most half, and however many connections hold their share, a connection that holds little still gets some.
fn has_share([of_connection, of_all]: &[Arc<Bound>; 2]) -> bool {
    of_connection.taken() < of_all.free()
}

/// The body of an answer, whose bytes are counted until the client has read them.
pub(in crate::api) struct Answer {
    body: Body,
    room: Room,
    held: HeldBytes,
    sent: usize,
    _call: Call,
    /// The place of a streamed answer.
    _place: Option<Held>,
}

impl Answer {
    pub(in crate::api) fn new(
        body: Body,
        call: Call,
        place: Option<Held>,
        bounds: [Arc<Bound>; 2],
    ) -> Answer {
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
        // hyper polls only when it has sent everything but its buffer.
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

#[cfg(test)]
mod tests {
    use futures_util::{future::join_all, stream};
    use http_body_util::StreamBody;
    use tonic::Code;

    use super::*;

    const FRAME_BYTES: usize = 1 << 10;
    const FRAMES: usize = 4;

    fn message() -> impl hyper::body::Body<Data = Bytes, Error = std::io::Error> + Unpin {
        let frames = (0..FRAMES).map(|_| Ok(Frame::data(Bytes::from(vec![7; FRAME_BYTES]))));
        // Each frame has to be waited for, so that all messages come at the same time.
        StreamBody::new(Box::pin(stream::unfold(frames, async |mut frames| {
            tokio::task::yield_now().await;
            frames.next().map(|frame| (frame, frames))
        })))
    }

    async fn received(of_connection: &Arc<Bound>, of_all: &Arc<Bound>) -> Result<HeldBytes, Status> {
        let (body, held) =
            receive(message(), usize::MAX / 2, [of_connection.clone(), of_all.clone()]).await?;
        assert_eq!(body.collect().await.unwrap().to_bytes(), vec![7; FRAMES * FRAME_BYTES]);
        Ok(held)
    }

    #[tokio::test]
    async fn of_requests_that_come_at_once_and_are_too_much_some_come_whole_and_some_are_refused() {
        let [of_connection, of_all] = [usize::MAX, 32 * FRAME_BYTES].map(Bound::new);
        let came = join_all((0..16).map(|_| received(&of_connection, &of_all))).await;
        let (whole, refused): (Vec<_>, Vec<_>) = came.into_iter().partition(Result::is_ok);
        assert!(!whole.is_empty() && !refused.is_empty());
        for refused in refused {
            assert_eq!(refused.err().expect("it was refused").code(), Code::ResourceExhausted);
        }
        // What is served counts, and what was refused does not.
        assert_eq!(of_all.taken(), whole.len() * FRAMES * FRAME_BYTES);
        drop(whole);
        assert_eq!((of_connection.taken(), of_all.taken()), (0, 0));
    }

    #[tokio::test]
    async fn connections_that_hold_all_they_may_leave_room_for_another() {
        let of_all = Bound::new(64 * FRAME_BYTES);
        let mut held = Vec::new();
        for _ in 0..8 {
            let of_connection = Bound::new(usize::MAX);
            while let Ok(more) = received(&of_connection, &of_all).await {
                held.push(more);
            }
        }
        let small = Bound::new(usize::MAX);
        let all = [small, of_all.clone()];
        assert!(has_share(&all), "{} of {} are taken", of_all.taken(), 64 * FRAME_BYTES);
    }
}
