//! Time: the monotonic clock, sleeping, deadlines.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub use std::time::Instant;

/// The monotonic clock. Simulated time in simulation, as the present node's own clock shows it.
pub fn now() -> Instant {
    world::now()
}

/// Nobody waits longer than this, some thirty years. What is asked to take longer ends then: the clock ends somewhere,
/// and an addition beyond its end panics.
pub const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The time `duration` from now. The only way to a deadline from a length of time that a user, a program or a peer
/// chose: never panics, however long it is.
pub fn after(duration: Duration) -> Instant {
    later(now(), duration)
}

/// The time `duration` after `since`, as [`after`]; `since` is an instant of this clock.
pub fn later(since: Instant, duration: Duration) -> Instant {
    since + duration.min(LONGEST)
}

/// Waits for `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(after(duration))
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
    timeout_at(after(duration), future)
}

/// Lets `future` run until `deadline`.
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
    /// The future of [`timeout`]; it has a name, unlike the simulator's.
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

/// A deadline that is put off again and again: one timer that looks again when it goes off, not one each time.
pub struct InactivityTimer {
    most: Duration,
    since: Instant,
    sleep: Option<Sleep>,
}

impl InactivityTimer {
    /// From now on at most so long without [`InactivityTimer::reset`].
    pub fn new(most: Duration) -> InactivityTimer {
        InactivityTimer { most, since: now(), sleep: None }
    }

    /// From now on as long again.
    pub fn reset(&mut self) {
        self.since = now();
    }

    /// Waits until it has run out. May be dropped and called again.
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

/// What may be said only now and then, so that a flood of causes is no flood of log lines.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Option<Said>>);

#[derive(Debug)]
struct Said {
    at: Instant,
    kept_quiet: u64,
}

impl Seldom {
    /// It is said at most once in this time.
    pub const INTERVAL: Duration = Duration::from_secs(60);

    /// Whether to say it now, and how often it was not said since the last time.
    pub fn now(&self) -> Option<u64> {
        let mut said = self.0.lock().expect("no code panics while it holds this lock");
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
                    // Looked at once: the timer is made, and takes what it was given.
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
                // Given up half-way, most likely: what was waited for came.
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
