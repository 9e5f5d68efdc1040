//! Clocks of simulated nodes that disagree: each may run fast or slow, and may jump ahead as the clock of a virtual
//! machine does after a suspension.
//!
//! The simulator has one clock for all nodes. This module transforms it per node, for the whole of [`super::time`]:
//! what a node measures and how long it waits follow its own clock. The harness uses the true time.

use std::time::{Duration, Instant};

#[cfg(madsim)]
pub use world::{leap, set_rate, true_now};
#[cfg(madsim)]
pub(super) use world::{now, truth};

const TRUE_RATE: u32 = 1_000;

/// A node's clock since it was last changed: the local and the true time of that change, and the rate since then.
#[derive(Clone, Copy)]
struct Clock {
    truth: Instant,
    local: Instant,
    per_mille: u32,
}

impl Clock {
    fn local(&self, truth: Instant) -> Instant {
        let passed = truth.saturating_duration_since(self.truth);
        self.local + scale(passed, self.per_mille, TRUE_RATE)
    }

    /// The first true time at which the node's clock shows `local`.
    fn truth(&self, local: Instant) -> Instant {
        let left = local.saturating_duration_since(self.local);
        let left = scale(left, TRUE_RATE, self.per_mille) + Duration::from_nanos(2);
        self.truth.checked_add(left).unwrap_or(local)
    }
}

fn scale(time: Duration, times: u32, by: u32) -> Duration {
    let nanos = time.as_nanos() * u128::from(times) / u128::from(by);
    Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32)
}

#[cfg(madsim)]
mod world {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use madsim::task::NodeId;

    use super::*;

    thread_local!(static CLOCKS: RefCell<BTreeMap<NodeId, Clock>> = const { RefCell::new(BTreeMap::new()) });

    /// The true time, on any node.
    #[allow(clippy::disallowed_methods)] // It is the simulator's clock.
    pub fn true_now() -> Instant {
        Instant::now()
    }

    /// Sets the rate of a node's clock, in thousandths of the true rate.
    ///
    /// # Panics
    /// If the rate is zero.
    pub fn set_rate(node: NodeId, per_mille: u32) {
        assert!(per_mille > 0, "a clock that stands still is no clock");
        set(node, |clock| clock.per_mille = per_mille);
    }

    /// Makes a node's clock jump ahead: this much time has passed while no code of the node could run.
    pub fn leap(node: NodeId, by: Duration) {
        set(node, |clock| clock.local += by);
    }

    fn set(node: NodeId, change: impl FnOnce(&mut Clock)) {
        let truth = true_now();
        CLOCKS.with_borrow_mut(|clocks| {
            let before = clocks.get(&node);
            let mut clock = Clock {
                truth,
                local: before.map_or(truth, |clock| clock.local(truth)),
                per_mille: before.map_or(TRUE_RATE, |clock| clock.per_mille),
            };
            change(&mut clock);
            // Most clocks are right, and clocks are read all the time.
            if clock.per_mille == TRUE_RATE && clock.local == truth {
                clocks.remove(&node);
            } else {
                clocks.insert(node, clock);
            }
        });
    }

    fn here() -> Option<Clock> {
        CLOCKS.with_borrow(|clocks| {
            if clocks.is_empty() { None } else { clocks.get(&madsim::plugin::node()).copied() }
        })
    }

    /// The time on the present node's clock.
    pub fn now() -> Instant {
        let truth = true_now();
        here().map_or(truth, |clock| clock.local(truth))
    }

    /// The true time at which the present node's clock will show `local`.
    pub fn truth(local: Instant) -> Instant {
        here().map_or(local, |clock| clock.truth(local))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // Any instant will do.
    fn a_wait_until_a_time_ends_when_the_clock_shows_it_and_hardly_later() {
        let begin = Instant::now();
        for per_mille in [250, 800, 999, 1_000, 1_001, 1_250, 4_000] {
            let clock = Clock { truth: begin, local: begin + Duration::from_secs(3), per_mille };
            for nanos in [0, 1, 2, 999, 1_000_003, 7_000_000_011] {
                let deadline = clock.local + Duration::from_nanos(nanos);
                let shown = clock.local(clock.truth(deadline));
                let late = shown.checked_duration_since(deadline).expect("no waiter wakes too early");
                assert!(late <= Duration::from_nanos(9), "{late:?} late at {per_mille}");
            }
        }
    }
}
