//! Time: the monotonic clock, sleeping, deadlines.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub use std::time::Instant;

use super::lock::Mutex;

/// The monotonic clock. In simulation the simulated time, as shown by the present node's own clock.
pub fn now() -> Instant {
    world::now()
}

/// The longest wait, some thirty years. A longer one ends after this time: the clock's range is finite, and an addition
/// beyond its end panics.
pub const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The time `duration` from now. Every deadline that follows from a duration chosen by a user, a program or a peer must
/// be computed by this function or [`later`]: they never panic, however long the duration.
pub fn after(duration: Duration) -> Instant {
    later(now(), duration)
}

/// The time `duration` after `since`, bounded as in [`after`]; `since` is an instant of this clock.
pub fn later(since: Instant, duration: Duration) -> Instant {
    since + duration.min(LONGEST)
}

/// Waits for `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(after(duration))
}

/// Waits until `deadline`.
#[allow(clippy::useless_conversion)] // tokio has its own instant type, the simulator has not.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { inner: Box::pin(tokio::time::sleep_until(world::truth(deadline).into())), deadline, armed: None }
}

/// A sleep that can be named, moved and polled by any task.
///
/// The simulator registers a timer at every poll and cannot remove it, so a poll with the waker that is already
/// registered does nothing.
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    inner: Pin<Box<tokio::time::Sleep>>,
    deadline: Instant,
    armed: Option<Waker>,
}

impl Sleep {
    /// The time at which it ends.
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
            // The node's clock was slowed down meanwhile.
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

/// The deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline has elapsed")]
pub struct Elapsed;

/// Runs `future` for at most `duration`.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    timeout_at(after(duration), future)
}

/// Runs `future` until `deadline`.
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    Timeout { future, deadline, sleep: None }
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
    /// The future of [`timeout`]; unlike the simulator's it is a named type.
    #[must_use = "futures do nothing unless polled"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        deadline: Instant,
        // Most futures are ready at once and need no timer.
        sleep: Option<Sleep>,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let sleep = this.sleep.get_or_insert_with(|| sleep_until(*this.deadline));
        Pin::new(sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

/// A deadline that is extended again and again, with a single timer that checks the deadline when it fires.
pub struct InactivityTimer {
    most: Duration,
    since: Instant,
    sleep: Option<Sleep>,
}

impl InactivityTimer {
    /// A timer that expires `most` after the last [`InactivityTimer::reset`], or after this call.
    pub fn new(most: Duration) -> InactivityTimer {
        InactivityTimer { most, since: now(), sleep: None }
    }

    /// Extends the deadline to `most` from now.
    pub fn reset(&mut self) {
        self.since = now();
    }

    /// Waits until the timer has expired. May be dropped and called again.
    pub async fn expired(&mut self) {
        loop {
            let deadline = later(self.since, self.most);
            if now() >= deadline {
                return;
            }
            self.sleep.get_or_insert_with(|| sleep_until(deadline)).await;
            self.sleep = None;
        }
    }
}

/// Limits how often something is logged, so that a flood of causes does not become a flood of log lines.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Option<Said>>);

#[derive(Debug)]
struct Said {
    at: Instant,
    kept_quiet: u64,
}

impl Seldom {
    /// The shortest time between two log lines.
    pub const INTERVAL: Duration = Duration::from_secs(60);

    /// `Some` if it may be logged now, with the number of times it was suppressed since the last line; otherwise
    /// `None`.
    pub fn now(&self) -> Option<u64> {
        let mut said = self.0.lock();
        match &mut *said {
            Some(said) if now().saturating_duration_since(said.at) < Self::INTERVAL => {
                said.kept_quiet += 1;
                None
            }
            said => {
                said.replace(Said { at: now(), kept_quiet: 0 }).map_or(Some(0), |said| Some(said.kept_quiet))
            }
        }
    }
}

/// hyper's timer, by this clock.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::process::block_on;

    const SOON: Duration = Duration::from_millis(20);

    #[test]
    fn what_is_ready_is_never_too_late_and_what_never_comes_is() {
        block_on(async {
            assert_eq!(timeout(Duration::ZERO, async { 7 }).await, Ok(7));
            assert_eq!(timeout(SOON, std::future::pending::<()>()).await, Err(Elapsed));
        })
        .unwrap();
    }

    proptest::proptest! {
        #[test]
        fn no_length_of_time_is_too_long_to_wait_for(seconds: u64, nanos in 0u32..1_000_000_000) {
            block_on(async {
                let ready = std::future::ready(());
                for duration in [Duration::new(seconds, nanos), Duration::MAX] {
                    assert!(after(duration) >= now().min(after(LONGEST / 2)));
                    assert_eq!(timeout(duration, ready.clone()).await, Ok(()));
                    // Polled once: the timer is created and accepts the duration.
                    let _ = futures_util::poll!(sleep(duration.max(SOON)));
                    let _ = futures_util::poll!(std::pin::pin!(InactivityTimer::new(duration).expired()));
                }
            })
            .unwrap();
        }
    }

    #[test]
    fn what_happens_often_is_said_once() {
        block_on(async {
            let seldom = Seldom::default();
            assert_eq!([seldom.now(), seldom.now(), seldom.now()], [Some(0), None, None]);
        })
        .unwrap();
    }

    #[test]
    fn patience_runs_out_so_long_after_it_was_renewed_last() {
        block_on(async {
            let mut inactivity = InactivityTimer::new(SOON);
            for _ in 0..3 {
                // Usually dropped half-way: the awaited event came.
                let _ = timeout(SOON / 2, inactivity.expired()).await;
                inactivity.reset();
            }
            let renewed = now();
            inactivity.expired().await;
            assert!(now() >= renewed + SOON);
        })
        .unwrap();
    }
}
