//! A time limit on a stream that holds a state of the store.
//!
//! HTTP/2 does not poll the stream of a client that reads nothing. So a timer of the node's own drops the state.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;

use crate::rt::lock::Mutex;
use crate::rt::task::{TaskGuard, spawn_guarded};
use crate::rt::{self, Instant};

/// The items of `S` until a deadline, then one error.
pub(super) struct Timed<S, E> {
    inner: Arc<Mutex<Option<S>>>,
    late: Option<E>,
    _timer: TaskGuard<()>,
}

impl<S: Send + 'static, E> Timed<S, E> {
    /// Returns `stream` with a deadline. A timer drops `stream` at `until`, even if it is not polled. The next poll then
    /// returns the error `late`.
    pub(super) fn new(stream: S, until: Instant, late: E) -> Timed<S, E> {
        let inner = Arc::new(Mutex::new(Some(stream)));
        let timed = inner.clone();
        let timer = spawn_guarded(async move {
            rt::sleep_until(until).await;
            let dropped = timed.lock().take();
            drop(dropped);
        });
        Timed { inner, late: Some(late), _timer: timer }
    }
}

impl<T, E: Unpin, S: Stream<Item = Result<T, E>> + Unpin> Stream for Timed<S, E> {
    type Item = Result<T, E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        match &mut *this.inner.lock() {
            Some(stream) => Pin::new(stream).poll_next(cx),
            None => Poll::Ready(this.late.take().map(Err)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{StreamExt, stream};

    use super::*;

    #[tokio::test]
    async fn a_stream_is_dropped_at_its_deadline_without_being_polled() {
        let state = Arc::new(());
        let held = state.clone();
        let endless = stream::repeat_with(move || Ok::<_, &str>(held.clone()));
        let until = rt::now() + Duration::from_millis(50);
        let mut timed = Timed::new(endless, until, "late");
        drop(timed.next().await.unwrap().unwrap());
        assert_eq!(Arc::strong_count(&state), 2);
        while Arc::strong_count(&state) > 1 {
            rt::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(timed.next().await.unwrap().unwrap_err(), "late");
        assert!(timed.next().await.is_none());
    }
}
