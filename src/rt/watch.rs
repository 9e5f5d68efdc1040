//! A watch channel that wakes its receivers in the order in which they began to wait.
//!
//! tokio's own spreads its waiters over buckets in an order drawn from an unseeded generator, which a simulation
//! cannot replay.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};
use std::task::{Poll, Waker};

/// All senders are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the watched value has no sender any more")]
pub struct Closed;

/// A channel that holds one value.
pub fn channel<T>(initial: T) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        value: RwLock::new(initial),
        state: Mutex::new(State { version: 0, senders: 1, receivers: 1, waiting: Vec::new() }),
    });
    (Sender(shared.clone()), Receiver { shared, seen: 0 })
}

struct State {
    version: u64,
    senders: usize,
    receivers: usize,
    waiting: Vec<Waker>,
}

struct Shared<T> {
    value: RwLock<T>,
    state: Mutex<State>,
}

impl<T> Shared<T> {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn changed(&self) {
        let waiting = {
            let mut state = self.state();
            state.version += 1;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Writes the value.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// Replaces the value; receivers need not exist.
    pub fn send(&self, value: T) {
        *self.0.value.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = value;
        self.0.changed();
    }

    /// Changes the value in place; receivers are woken if `change` says true.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = change(&mut self.0.value.write().unwrap_or_else(|poisoned| poisoned.into_inner()));
        if modified {
            self.0.changed();
        }
        modified
    }

    /// The value now.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    /// A receiver that has seen the present value.
    pub fn subscribe(&self) -> Receiver<T> {
        let mut state = self.0.state();
        state.receivers += 1;
        Receiver { shared: self.0.clone(), seen: state.version }
    }

    /// Whether nobody listens.
    pub fn is_closed(&self) -> bool {
        self.0.state().receivers == 0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.0.state();
            state.senders -= 1;
            if state.senders == 0 { std::mem::take(&mut state.waiting) } else { Vec::new() }
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Reads the value and waits for it to change.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Receiver<T> {
    /// The value now; it does not count as seen.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.shared.read()
    }

    /// The value now, counted as seen.
    pub fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        self.seen = self.shared.state().version;
        self.shared.read()
    }

    /// Waits for a value not seen yet, and counts it as seen.
    ///
    /// # Errors
    /// [`Closed`] when all senders are gone and nothing unseen is left.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        let (shared, seen) = (&self.shared, self.seen);
        self.seen = poll_fn(|cx| {
            let mut state = shared.state();
            if state.version != seen {
                return Poll::Ready(Ok(state.version));
            }
            if state.senders == 0 {
                return Poll::Ready(Err(Closed));
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await?;
        Ok(())
    }

    /// Waits until the value satisfies `condition`.
    ///
    /// # Errors
    /// [`Closed`] when all senders are gone before it does.
    pub async fn wait_for(&mut self, mut condition: impl FnMut(&T) -> bool) -> Result<(), Closed> {
        loop {
            if condition(&self.borrow_and_update()) {
                return Ok(());
            }
            self.changed().await?;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.state().receivers += 1;
        Receiver { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.state().receivers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_seen_once_and_the_end_is_noticed() {
        let (sender, mut receiver) = channel(1);
        sender.send(2);
        receiver.changed().await.unwrap();
        assert_eq!(*receiver.borrow(), 2);
        assert!(!sender.send_if_modified(|_| false));
        drop(sender);
        assert_eq!(receiver.changed().await, Err(Closed));
    }

    #[tokio::test]
    async fn waiters_wake_in_the_order_they_came() {
        let (sender, receiver) = channel(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiters: Vec<_> = (0..20)
            .map(|number| {
                let (mut receiver, order) = (receiver.clone(), order.clone());
                crate::rt::spawn(async move {
                    receiver.changed().await.unwrap();
                    order.lock().unwrap().push(number);
                })
            })
            .collect();
        for _ in 0..40 {
            crate::rt::task::yield_now().await;
        }
        sender.send(1);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }
}
