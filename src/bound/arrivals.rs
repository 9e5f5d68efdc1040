//! A bound under which a new arrival is always admitted and the oldest one loses its place.
//!
//! Its units are short-lived in normal use: connections that have not sent their first bytes yet. A client that floods
//! the places displaces its own connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::rt::lock::Mutex;

/// A fixed number of places. A new arrival always gets one; if none is free, the oldest arrival loses its place.
pub struct Arrivals {
    most: usize,
    here: Mutex<Here>,
}

#[derive(Default)]
struct Here {
    next: u64,
    leave: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Arrivals {
    /// Returns `most` places, none of them taken.
    pub fn new(most: usize) -> Arc<Arrivals> {
        Arc::new(Arrivals { most, here: Mutex::default() })
    }

    /// Takes a place. The second value is `true` if the oldest arrival lost its place for it.
    pub fn enter(self: &Arc<Self>) -> (Arrival, bool) {
        let (leave, gives_way) = oneshot::channel();
        let mut here = self.here.lock();
        here.next += 1;
        let number = here.next;
        here.leave.insert(number, leave);
        // Dropping the sender notifies the oldest arrival.
        let has_displaced = here.leave.len() > self.most && here.leave.pop_first().is_some();
        (Arrival { arrivals: self.clone(), number, gives_way }, has_displaced)
    }
}

/// A place among [`Arrivals`], held until this is dropped.
pub struct Arrival {
    arrivals: Arc<Arrivals>,
    number: u64,
    gives_way: oneshot::Receiver<()>,
}

impl Arrival {
    /// Resolves when this arrival has lost its place.
    pub async fn gives_way(&mut self) {
        // Nothing is ever sent: the sender is dropped.
        let _ = (&mut self.gives_way).await;
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.arrivals.here.lock().leave.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_arrival_is_let_in_and_the_oldest_gives_way() {
        let arrivals = Arrivals::new(2);
        let (mut first, _) = arrivals.enter();
        let (second, has_displaced) = arrivals.enter();
        assert!(!has_displaced);
        let (_third, has_displaced) = arrivals.enter();
        assert!(has_displaced);
        first.gives_way().await;
        drop((first, second));
        assert_eq!(arrivals.here.lock().leave.len(), 1);
    }
}
