//! Situations that must be reached sometimes: rare branches whose absence from a long simulation means that the
//! simulation is too tame.
//!
//! Code marks one by a call where it happens: `rt::sometimes("torn tail recovered")`. In production that is nothing
//! at all. In simulation it is counted for each run, and the harness, which has a table of all of them
//! (`sim/src/markers.rs`), names those that a whole sweep never reached. It decides nothing and changes nothing.

/// This situation was reached.
#[cfg(not(madsim))]
#[inline(always)]
pub const fn sometimes(_situation: &'static str) {}

#[cfg(madsim)]
pub use simulated::{Place, Reached, reached, sometimes};

#[cfg(madsim)]
mod simulated {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use madsim::task::NodeId;

    use crate::rt::clock::true_now;
    use crate::rt::{Instant, trace};

    /// Places kept of each situation; more are only counted.
    const MOST_PLACES: usize = 40;

    /// A situation and how often it was reached.
    #[derive(Debug, Clone, Default)]
    pub struct Reached {
        /// How often.
        pub count: u64,
        /// The first times.
        pub places: Vec<Place>,
    }

    /// Where and when a situation was reached.
    #[derive(Debug, Clone, Copy)]
    pub struct Place {
        /// Simulated time.
        pub at: Instant,
        /// The simulated host.
        pub host: NodeId,
    }

    thread_local!(static REACHED: RefCell<BTreeMap<&'static str, Reached>> = const { RefCell::new(BTreeMap::new()) });

    /// This situation was reached.
    pub fn sometimes(situation: &'static str) {
        trace::record("sometimes", situation.as_bytes());
        REACHED.with_borrow_mut(|all| {
            let reached = all.entry(situation).or_default();
            reached.count += 1;
            if reached.places.len() < MOST_PLACES {
                reached.places.push(Place { at: true_now(), host: madsim::plugin::node() });
            }
        });
    }

    /// What this thread's simulation has reached so far.
    pub fn reached() -> BTreeMap<&'static str, Reached> {
        REACHED.with_borrow(Clone::clone)
    }
}
