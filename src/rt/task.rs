//! Tasks.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

pub use tokio::task::{JoinError, JoinHandle};

/// Starts a task.
#[allow(clippy::disallowed_methods)] // The one place that starts tasks.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    // The simulator moves a future three times before it runs; of a boxed one it moves only the pointer. tokio boxes
    // large futures itself.
    #[cfg(madsim)]
    let future = Box::pin(future);
    tokio::spawn(future)
}

/// Starts a task that is aborted when the guard is dropped.
pub fn spawn_guarded<F>(future: F) -> TaskGuard<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    TaskGuard(spawn(future))
}

/// Aborts its task when dropped. Awaiting it awaits the task.
#[derive(Debug)]
pub struct TaskGuard<T>(JoinHandle<T>);

impl<T> Drop for TaskGuard<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for TaskGuard<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Runs `work`, which may block or compute for long, on a thread where it delays no tasks. In simulation it runs
/// inline: threads would not be deterministic.
pub async fn spawn_blocking<F, T>(work: F) -> io::Result<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    #[cfg(madsim)]
    return Ok(work());
    #[cfg(not(madsim))]
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// Lets other tasks run.
pub async fn yield_now() {
    tokio::task::yield_now().await;
}

/// hyper's executor over these tasks.
#[derive(Debug, Clone, Copy, Default)]
pub struct HyperExecutor;

impl<F> hyper::rt::Executor<F> for HyperExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        spawn(future);
    }
}
