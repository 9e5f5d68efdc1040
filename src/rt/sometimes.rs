//! Markers: rare branches that a long simulation must reach at least once. If it never reaches one, its faults are too
//! mild.
//!
//! Code sets a marker by a call: `rt::sometimes("torn tail recovered")`. In production the call does nothing. In
//! simulation it is counted for each run. The harness has a table of all markers (`sim/src/record/markers.rs`), reports those
//! that no run of a sweep reached, and can inject faults when one is reached. The call itself decides nothing and
//! changes nothing.

/// Records that this marker was reached.
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

    /// Places stored for each marker; further ones are only counted.
    const MOST_PLACES: usize = 40;

    /// How often a marker was reached, and where.
    #[derive(Debug, Clone, Default)]
    pub struct Reached {
        /// Number of times.
        pub count: u64,
        /// The first of them.
        pub places: Vec<Place>,
    }

    /// When and on which host a marker was reached.
    #[derive(Debug, Clone, Copy)]
    pub struct Place {
        /// Simulated time.
        pub at: Instant,
        /// The simulated host that reached it.
        pub host: NodeId,
    }

    thread_local!(static REACHED: RefCell<BTreeMap<&'static str, Reached>> = const { RefCell::new(BTreeMap::new()) });

    type Watcher = Box<dyn FnMut(&'static str, NodeId)>;

    thread_local! {
        static WATCHERS: RefCell<BTreeMap<u64, Watcher>> = const { RefCell::new(BTreeMap::new()) };
        static WATCHERS_SET: Cell<u64> = const { Cell::new(0) };
    }

    /// A watcher, active until this is dropped.
    pub struct Watch(u64);

    /// Calls `watcher` at the moment any marker is reached, from within the code that reaches it.
    #[must_use = "it watches until the result is dropped"]
    pub fn watch(watcher: impl FnMut(&'static str, NodeId) + 'static) -> Watch {
        let number = WATCHERS_SET.get();
        WATCHERS_SET.set(number + 1);
        WATCHERS.with_borrow_mut(|watchers| watchers.insert(number, Box::new(watcher)));
        Watch(number)
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            // At the end of a thread the watchers may be gone.
            let _ = WATCHERS.try_with(|watchers| watchers.borrow_mut().remove(&self.0));
        }
    }

    /// Records that this marker was reached.
    pub fn sometimes(situation: &'static str) {
        trace::record("sometimes", situation.as_bytes());
        // A watcher may reach markers itself; the other watchers are not called for those.
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

    /// The markers that this thread's simulation has reached so far.
    pub fn reached() -> BTreeMap<&'static str, Reached> {
        REACHED.with_borrow(Clone::clone)
    }
}
