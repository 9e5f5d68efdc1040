//! Situations that must be reached sometimes: rare branches whose absence from a long simulation means that the
//! simulation is too tame.
//!
//! Code marks one by a call where it happens: `rt::sometimes("torn tail recovered")`. In production that is nothing
//! at all. In simulation it is counted for each run, and the harness, which has a table of all of them
//! (`sim/src/markers.rs`), names those that a whole sweep never reached, and lets faults lie in wait at them. It decides
//! nothing and changes nothing.

/// This situation was reached.
#[cfg(not(madsim))]
#[inline(always)]
pub const fn sometimes(_situation: &'static str) {}

#[cfg(madsim)]
pub use simulated::{Place, Reached, Watch, reached, sometimes, watch};

#[cfg(madsim)]
mod simulated {
    use std::cell::{Cell, RefCell};
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

    type Watcher = Box<dyn FnMut(&'static str, NodeId)>;

    thread_local! {
        static WATCHERS: RefCell<BTreeMap<u64, Watcher>> = const { RefCell::new(BTreeMap::new()) };
        static WATCHERS_SET: Cell<u64> = const { Cell::new(0) };
    }

    /// A watcher that watches until this is dropped.
    pub struct Watch(u64);

    /// Tells a watcher of every situation at the moment it is reached, in the midst of the code that reaches it.
    #[must_use = "it watches until the result is dropped"]
    pub fn watch(watcher: impl FnMut(&'static str, NodeId) + 'static) -> Watch {
        let number = WATCHERS_SET.get();
        WATCHERS_SET.set(number + 1);
        WATCHERS.with_borrow_mut(|watchers| watchers.insert(number, Box::new(watcher)));
        Watch(number)
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            // Nobody watches at the end of a thread.
            let _ = WATCHERS.try_with(|watchers| watchers.borrow_mut().remove(&self.0));
        }
    }

    /// This situation was reached.
    pub fn sometimes(situation: &'static str) {
        trace::record("sometimes", situation.as_bytes());
        // A watcher may reach situations itself; of those the others do not hear.
        let mut watchers = WATCHERS.take();
        watchers.values_mut().for_each(|watcher| watcher(situation, madsim::plugin::node()));
        WATCHERS.with_borrow_mut(|all| all.append(&mut watchers));
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
