//! A bound under which the new one is let in and the oldest gives way.
//!
//! For what is short when it is meant well: a connection that has not said yet what it is. Whoever floods such places
//! drives out its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

/// Places of which a new one is always let in: the one that came first gives way.
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
    /// Nobody has come yet.
    pub fn new(most: usize) -> Arc<Arrivals> {
        Arc::new(Arrivals { most, here: Mutex::default() })
    }

    /// A place, perhaps that of the one who came first. The second is true if somebody had to give way.
    pub fn enter(self: &Arc<Self>) -> (Arrival, bool) {
        let (leave, gives_way) = oneshot::channel();
        let mut here = self.here();
        here.next += 1;
        let number = here.next;
        here.leave.insert(number, leave);
        // Its sender is dropped, which it hears.
        let somebody_left = here.leave.len() > self.most && here.leave.pop_first().is_some();
        (Arrival { arrivals: self.clone(), number, gives_way }, somebody_left)
    }

    fn here(&self) -> MutexGuard<'_, Here> {
        self.here.lock().expect("no code panics while it holds this lock")
    }
}

/// A place among [`Arrivals`], for as long as it lives.
pub struct Arrival {
    arrivals: Arc<Arrivals>,
    number: u64,
    gives_way: oneshot::Receiver<()>,
}

impl Arrival {
    /// Resolves when another has taken its place.
    pub async fn gives_way(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.gives_way).await;
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.arrivals.here().leave.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_arrival_is_let_in_and_the_oldest_gives_way() {
        let arrivals = Arrivals::new(2);
        let (mut first, _) = arrivals.enter();
        let (second, nobody) = arrivals.enter();
        assert!(!nobody);
        let (_third, somebody) = arrivals.enter();
        assert!(somebody);
        first.gives_way().await;
        drop((first, second));
        assert_eq!(arrivals.here().leave.len(), 1);
    }
}
