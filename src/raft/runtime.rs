//! openraft's runtime over [`crate::rt`], the same in production and in the simulation.

use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use openraft_rt::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft_rt::{AsyncRuntime, OptionalSend, OptionalSync};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot};

use crate::rt::{self, Instant};

/// Tells openraft how to start tasks, wait, and draw random numbers.
#[derive(Debug)]
pub struct Runtime;

impl AsyncRuntime for Runtime {
    type JoinError = rt::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = rt::task::JoinHandle<T>;
    type Sleep = rt::time::Sleep;
    type Instant = Moment;
    type TimeoutError = rt::time::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = rt::time::Timeout<T>;
    type ThreadLocalRng = rt::random::Rng;
    type Mpsc = TokioMpsc;
    type Watch = OrderedWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        rt::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        rt::sleep(duration)
    }

    fn sleep_until(deadline: Moment) -> Self::Sleep {
        rt::sleep_until(deadline.0)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        rt::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Moment,
        future: F,
    ) -> Self::Timeout<R, F> {
        rt::time::timeout_at(deadline.0, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        rt::random::rng()
    }

    fn new(_threads: usize) -> Self {
        Runtime
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        rt::process::block_on(future).expect("the operating system gives threads")
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        rt::spawn_blocking(work)
    }
}

/// An instant of [`rt::now`], which is the node's own clock: openraft must not read another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Instant);

impl openraft_rt::Instant for Moment {
    fn now() -> Self {
        Moment(rt::now())
    }
}

impl From<Moment> for Instant {
    fn from(moment: Moment) -> Instant {
        moment.0
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, time: Duration) -> Moment {
        Moment(rt::time::later(self.0, time))
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;

    fn sub(self, time: Duration) -> Moment {
        Moment(self.0 - time)
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Moment) -> Duration {
        self.0 - earlier.0
    }
}

impl SubAssign<Duration> for Moment {
    fn sub_assign(&mut self, time: Duration) {
        self.0 -= time;
    }
}

/// [`rt::watch`] behind openraft's watch traits.
pub struct OrderedWatch;

/// Writes a watched value.
pub struct Sender<T>(rt::watch::Sender<T>);

/// Reads a watched value.
pub struct Receiver<T>(rt::watch::Receiver<T>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver(self.0.clone())
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = rt::watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(initial: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = rt::watch::channel(initial);
        (Sender(sender), Receiver(receiver))
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.is_closed() {
            return Err(SendError(value));
        }
        self.0.send(value);
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        self.0.send_if_modified(modify)
    }

    fn borrow_watched(&self) -> rt::watch::Ref<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver(self.0.subscribe())
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        self.0.changed().await.map_err(|_| RecvError(()))
    }

    fn borrow_watched(&self) -> rt::watch::Ref<'_, T> {
        self.0.borrow()
    }

    fn borrow_and_update(&mut self) -> rt::watch::Ref<'_, T> {
        self.0.borrow_and_update()
    }
}
