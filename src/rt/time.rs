//! Time: the monotonic clock, sleeping, deadlines.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub use std::time::Instant;

/// The monotonic clock. Simulated time in simulation, as the present node's own clock shows it.
pub fn now() -> Instant {
    world::now()
}

/// Waits for `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Waits until `deadline`.
#[allow(clippy::useless_conversion)] // tokio has an instant of its own, the simulator has not.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { inner: Box::pin(tokio::time::sleep_until(world::truth(deadline).into())), deadline, armed: None }
}

/// A sleep that can be named, moved and polled by anybody.
///
/// The simulator registers a timer at every poll and cannot take it back, so a poll by the waker that is
/// armed already does nothing.
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    inner: Pin<Box<tokio::time::Sleep>>,
    deadline: Instant,
    armed: Option<Waker>,
}

impl Sleep {
    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.inner.is_elapsed() {
            if !cfg!(madsim) || now() >= self.deadline {
                return Poll::Ready(());
            }
            // The node's clock became slower meanwhile.
            *self = sleep_until(self.deadline);
        }
        if cfg!(madsim) {
            if self.armed.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            self.armed = Some(cx.waker().clone());
        }
        self.inner.as_mut().poll(cx)
    }
}

impl hyper::rt::Sleep for Sleep {}

/// A deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline has elapsed")]
pub struct Elapsed;

/// Lets `future` run for at most `duration`.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep(duration) }
}

/// Lets `future` run until `deadline`.
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep_until(deadline) }
}

#[cfg(not(madsim))]
mod world {
    use super::Instant;

    #[allow(clippy::disallowed_methods)] // The one place that reads the clock.
    pub(super) fn now() -> Instant {
        Instant::now()
    }

    pub(super) fn truth(local: Instant) -> Instant {
        local
    }
}

#[cfg(madsim)]
use super::clock as world;

pin_project_lite::pin_project! {
    /// The future of [`timeout`]; it has a name, unlike the simulator's.
    #[must_use = "futures do nothing unless polled"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(this.sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

/// hyper's timer over this clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct HyperTimer;

impl hyper::rt::Timer for HyperTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(sleep(duration))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(sleep_until(deadline))
    }

    fn now(&self) -> Instant {
        now()
    }
}
