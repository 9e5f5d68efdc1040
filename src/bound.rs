//! Bounds on units that exist at a time: calls, streams, connections, bytes.
//!
//! Taking and giving back are one atomic step each, because every request does both. There is no lock and no queue. A
//! caller that may wait for a free unit polls.

mod arrivals;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use arrivals::{Arrival, Arrivals};

use crate::rt;

/// The interval at which a caller polls that waits for units to be given back.
pub const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A bound on units taken at a time. Clones of the `Arc` share it.
#[derive(Debug)]
pub struct Bound {
    most: usize,
    taken: AtomicUsize,
}

impl Bound {
    /// Returns a bound of which nothing is taken. [`Bound::take`] never exceeds `most`.
    pub fn new(most: usize) -> Arc<Bound> {
        Arc::new(Bound { most, taken: AtomicUsize::new(0) })
    }

    /// Takes one unit; `None` if none is free.
    pub fn take(self: &Arc<Self>) -> Option<Held> {
        let one_more = |taken: usize| (taken < self.most).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.is_ok().then(|| Held { bound: self.clone(), units: 1 })
    }

    /// Returns a guard that holds no units yet; [`Held::add`] takes some.
    pub fn none(self: &Arc<Self>) -> Held {
        Held { bound: self.clone(), units: 0 }
    }

    /// Returns whether any unit is free.
    pub fn has_room(&self) -> bool {
        self.taken() < self.most
    }

    /// Returns the number of free units.
    pub fn free(&self) -> usize {
        self.most.saturating_sub(self.taken())
    }

    /// Returns the number of units taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// Resolves when no unit is taken.
    pub async fn all_given_back(&self) {
        while self.taken() > 0 {
            rt::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Units taken of a [`Bound`]; given back when dropped.
#[derive(Debug)]
pub struct Held {
    bound: Arc<Bound>,
    units: usize,
}

impl Held {
    /// Takes more units, beyond the bound if necessary, for something that exists already. Check [`Bound::has_room`]
    /// before it exists.
    pub fn add(&mut self, units: usize) {
        self.bound.taken.fetch_add(units, Ordering::AcqRel);
        self.units += units;
    }

    /// Gives back all units that exceed `units`.
    pub fn keep(&mut self, units: usize) {
        let surplus = self.units.saturating_sub(units);
        let taken = self.bound.taken.fetch_sub(surplus, Ordering::AcqRel);
        assert!(taken >= surplus, "more is given back than was taken");
        self.units -= surplus;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.keep(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_bound_is_taken_and_what_is_dropped_comes_back() {
        let bound = Bound::new(2);
        let (first, second) = (bound.take().unwrap(), bound.take().unwrap());
        assert!(bound.take().is_none() && !bound.has_room());
        drop(first);
        assert!(bound.take().is_some());
        drop(second);
        assert_eq!(bound.taken(), 0);
    }

    #[test]
    fn what_came_already_is_counted_beyond_the_bound() {
        let bound = Bound::new(10);
        let mut held = bound.none();
        held.add(25);
        assert!(!bound.has_room());
        assert_eq!(bound.free(), 0);
        held.keep(9);
        assert_eq!((bound.taken(), bound.free()), (9, 1));
        held.keep(20);
        assert_eq!(bound.taken(), 9, "there was no surplus");
        drop(held);
        assert_eq!(bound.taken(), 0);
    }
}
