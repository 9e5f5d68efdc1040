//! A watch channel that wakes its receivers in the order in which they began to wait.
//!
//! tokio's own channel distributes its waiters over buckets in an order drawn from an unseeded generator, which a
//! simulation cannot replay. A dropped wait leaves nothing in the channel. A wait that is polled again takes no lock; a
//! connection polls its wait with every request.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll, Waker};

use crate::rt::lock::Mutex;

/// All senders are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the watched value has no sender any more")]
pub struct Closed;

/// A channel that holds one value.
pub fn channel<T>(initial: T) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        value: RwLock::new(initial),
        news: AtomicU64::new(0),
        state: Mutex::new(State {
            version: 0,
            senders: 1,
            receivers: 1,
            next_ticket: 0,
            waiting: BTreeMap::new(),
        }),
    });
    (Sender(shared.clone()), Receiver { shared, seen: 0 })
}

struct State {
    version: u64,
    senders: usize,
    receivers: usize,
    next_ticket: u64,
    /// The waiters by ticket; tickets are numbered in the order in which the waits began.
    waiting: BTreeMap<u64, Waker>,
}

struct Shared<T> {
    value: RwLock<T>,
    /// Incremented whenever waiters are woken: while it is unchanged, a waiter need not take the lock.
    news: AtomicU64,
    state: Mutex<State>,
}

impl<T> Shared<T> {
    fn read(&self) -> Ref<'_, T> {
        let borrowed = Borrowed::here(self);
        Ref { value: self.value.read().unwrap_or_else(|poisoned| poisoned.into_inner()), _borrowed: borrowed }
    }

    fn write(&self) -> RwLockWriteGuard<'_, T> {
        drop(Borrowed::here(self));
        self.value.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes the state; if `change` returns `true`, wakes all waiters.
    fn update(&self, change: impl FnOnce(&mut State) -> bool) {
        let woken = {
            let mut state = self.state.lock();
            if !change(&mut state) {
                return;
            }
            self.news.fetch_add(1, Ordering::Release);
            std::mem::take(&mut state.waiting)
        };
        woken.into_values().for_each(Waker::wake);
    }

    fn changed(&self) {
        self.update(|state| {
            state.version += 1;
            true
        });
    }
}

/// The borrowed value; writers wait until it is dropped.
pub struct Ref<'a, T> {
    value: RwLockReadGuard<'a, T>,
    _borrowed: Borrowed,
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Marks one value as borrowed by this thread. A second borrow of the same value would wait for a writer that waits for
/// the first one. Such a writer is rarely there in a test, so builds with debug assertions always reject a second
/// borrow.
struct Borrowed {
    #[cfg(debug_assertions)]
    value: usize,
}

#[cfg(debug_assertions)]
thread_local! {
    static BORROWED: std::cell::RefCell<Vec<usize>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Borrowed {
    /// # Panics
    /// With debug assertions, if this thread has already borrowed it.
    #[cfg(debug_assertions)]
    fn here<T>(shared: &Shared<T>) -> Borrowed {
        let value = std::ptr::from_ref(&shared.value).addr();
        BORROWED.with_borrow_mut(|borrowed| {
            assert!(!borrowed.contains(&value), "a watched value is borrowed twice at once");
            borrowed.push(value);
        });
        Borrowed { value }
    }

    #[cfg(not(debug_assertions))]
    fn here<T>(_: &Shared<T>) -> Borrowed {
        Borrowed {}
    }
}

#[cfg(debug_assertions)]
impl Drop for Borrowed {
    fn drop(&mut self) {
        // The list may already be gone when a thread ends.
        let _ = BORROWED.try_with(|borrowed| borrowed.borrow_mut().retain(|other| *other != self.value));
    }
}

/// Writes the value.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// Replaces the value; works without receivers too.
    pub fn send(&self, value: T) {
        *self.0.write() = value;
        self.0.changed();
    }

    /// Changes the value in place. Wakes receivers if `change` returns `true`, and returns its result.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = change(&mut self.0.write());
        if modified {
            self.0.changed();
        }
        modified
    }

    /// The present value.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.read()
    }

    /// A receiver that has seen the present value.
    pub fn subscribe(&self) -> Receiver<T> {
        let mut state = self.0.state.lock();
        state.receivers += 1;
        Receiver { shared: self.0.clone(), seen: state.version }
    }

    /// Whether there is no receiver.
    pub fn is_closed(&self) -> bool {
        self.0.state.lock().receivers == 0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.update(|state| {
            state.senders -= 1;
            state.senders == 0
        });
    }
}

/// Reads the value and waits for it to change.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Receiver<T> {
    /// The present value, not counted as seen. Hold it only briefly and do not borrow it a second time meanwhile: the
    /// second borrow would wait for a writer that waits for the first.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    /// The present value, counted as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.state.lock().version;
        self.shared.read()
    }

    /// Waits for a value not seen yet, and counts it as seen.
    ///
    /// # Errors
    /// [`Closed`] if all senders are gone and there is no unseen value.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        let waiter = Waiter { shared: &self.shared, seen: self.seen, place: None };
        self.seen = waiter.await?;
        Ok(())
    }

    /// Waits until the value satisfies `condition`.
    ///
    /// # Errors
    /// [`Closed`] if all senders are gone before it does.
    pub async fn wait_for(&mut self, mut condition: impl FnMut(&T) -> bool) -> Result<(), Closed> {
        loop {
            if condition(&self.borrow_and_update()) {
                return Ok(());
            }
            self.changed().await?;
        }
    }
}

/// One wait for a version other than `seen`. Dropping it removes it from the channel, and polling it again takes no
/// lock.
struct Waiter<'a, T> {
    shared: &'a Shared<T>,
    seen: u64,
    place: Option<Place>,
}

/// A waiter's registration.
struct Place {
    ticket: u64,
    waker: Waker,
    /// [`Shared::news`] at the time of the registration.
    news: u64,
}

impl<T> Future for Waiter<'_, T> {
    type Output = Result<u64, Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = self.shared;
        if let Some(place) = &self.place
            && place.news == shared.news.load(Ordering::Acquire)
            && place.waker.will_wake(cx.waker())
        {
            return Poll::Pending;
        }
        let mut state = shared.state.lock();
        if state.version != self.seen {
            return Poll::Ready(Ok(state.version));
        }
        if state.senders == 0 {
            return Poll::Ready(Err(Closed));
        }
        let ticket = match &self.place {
            Some(place) => place.ticket,
            None => {
                state.next_ticket += 1;
                state.next_ticket
            }
        };
        let waker = cx.waker().clone();
        state.waiting.insert(ticket, waker.clone());
        self.place = Some(Place { ticket, waker, news: shared.news.load(Ordering::Acquire) });
        Poll::Pending
    }
}

impl<T> Drop for Waiter<'_, T> {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            self.shared.state.lock().waiting.remove(&place.ticket);
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.state.lock().receivers += 1;
        Receiver { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.state.lock().receivers -= 1;
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

    /// `/readyz` borrowed the gossip's value and called a function that borrowed it again: the node hung for ever.
    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "borrowed twice"))]
    fn a_value_cannot_be_borrowed_twice_at_once() {
        let (_sender, receiver) = channel(0);
        drop(receiver.borrow());
        let _held = receiver.borrow();
        drop(receiver.clone().borrow());
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_is_removed() {
        let (sender, receiver) = channel(0);
        for _ in 0..1000 {
            let mut receiver = receiver.clone();
            let gave_up = crate::rt::timeout(std::time::Duration::ZERO, receiver.changed()).await;
            assert!(gave_up.is_err(), "nothing was sent");
        }
        assert_eq!(receiver.shared.state.lock().waiting.len(), 0);
        let mut waits = receiver.clone();
        let woken = crate::rt::spawn(async move { waits.changed().await });
        crate::rt::task::yield_now().await;
        assert_eq!(receiver.shared.state.lock().waiting.len(), 1);
        sender.send(1);
        woken.await.unwrap().unwrap();
        assert_eq!(receiver.shared.state.lock().waiting.len(), 0);
    }

    /// A connection polls its wait for the node's shutdown with every request.
    #[tokio::test]
    async fn being_polled_again_takes_no_lock_and_another_waker_is_kept() {
        let (sender, receiver) = channel(0);
        let mut waits = receiver.clone();
        let mut waiting = std::pin::pin!(waits.changed());
        let first = Arc::new(Woken::default());
        let second = Arc::new(Woken::default());
        let poll = |waiting: Pin<&mut _>, woken: &Arc<Woken>| {
            Future::poll(waiting, &mut Context::from_waker(&Waker::from(woken.clone())))
        };
        assert!(poll(waiting.as_mut(), &first).is_pending());
        {
            let _held = receiver.shared.state.lock();
            assert!(poll(waiting.as_mut(), &first).is_pending(), "it would wait here for ever");
        }
        assert!(poll(waiting.as_mut(), &second).is_pending());
        assert_eq!(receiver.shared.state.lock().waiting.len(), 1);
        sender.send(1);
        assert_eq!((first.times(), second.times()), (0, 1));
        assert_eq!(poll(waiting.as_mut(), &second), Poll::Ready(Ok(())));
    }

    #[derive(Default)]
    struct Woken(AtomicU64);

    impl Woken {
        fn times(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
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
                    order.lock().push(number);
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
        assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
    }
}
