//! The process: its runtime and the signals that request it to stop.
//!
//! In simulation a process is a simulated node, and the simulator sends the signal.

use std::future::Future;
use std::io;
use std::time::Duration;

/// How long a process that ends by a panic may take to report it.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(5);

/// Runs `future` to its end on the calling thread, with worker threads for the tasks it starts.
///
/// # Errors
/// If the operating system provides no threads.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    world::block_on(future)
}

/// As [`block_on`], for a process that ends afterwards: does not wait for other threads. The operating system's lookup
/// of a name cannot be cancelled and takes as long as a silent name server lets it, while the command's own time is
/// over.
///
/// # Errors
/// If the operating system provides no threads.
pub fn block_on_and_leave<F: Future>(future: F) -> io::Result<F::Output> {
    world::block_on_and_leave(future)
}

/// Receives requests to stop: SIGINT (Ctrl-C) and SIGTERM. While it exists, neither signal ends the process by itself.
pub struct StopSignals(world::Signals);

impl StopSignals {
    /// Starts to listen.
    ///
    /// # Errors
    /// If the operating system does not allow it.
    pub fn listen() -> io::Result<StopSignals> {
        world::Signals::listen().map(StopSignals)
    }

    /// Waits for the next signal. Dropping the future loses none.
    pub async fn next(&mut self) {
        self.0.next().await;
    }
}

/// Makes the process ignore the loss of its terminal (SIGHUP).
///
/// # Errors
/// If the operating system does not allow it.
pub fn outlive_terminal() -> io::Result<()> {
    world::outlive_terminal()
}

/// Requests the kernel to send SIGTERM to this process when the process `parent`, which started it, ends for any
/// reason. Returns `false` if `parent` has already ended.
///
/// On systems other than Linux only the check is made, and this process survives a parent that is killed.
///
/// # Errors
/// If the kernel refuses.
pub fn end_with_parent(parent: u32) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    // Checked after the request: a parent that ended before it is no longer our parent.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    Ok(now == Some(parent))
}

/// Resident memory of this process, in bytes; `None` where the kernel does not report it, and in simulation.
pub fn resident_bytes() -> Option<u64> {
    world::resident_bytes()
}

/// Raises the limit on open files to the highest that this process may set. Returns the limit; `None` if there is none,
/// and in simulation.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    world::raise_descriptor_limit()
}

/// Makes a panic anywhere end the process: a node that has met its own bug in one task must not continue with the
/// others. The kernel cleans up, and the log's recovery relies on nothing that was not synced.
///
/// `before_report` is called before the panic is reported on stderr. Neither delays the end for long: stderr may be a
/// pipe that is not read.
pub fn end_on_panic(before_report: impl Fn() + Send + Sync + 'static) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        world::abort_after(LAST_WORDS_PATIENCE);
        before_report();
        report(panic);
        std::process::abort();
    }));
}

#[cfg(not(madsim))]
mod world {
    use std::future::Future;
    use std::io;
    use std::time::Duration;

    use tokio::signal::unix::{Signal, SignalKind, signal};

    pub(super) fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
        Ok(runtime()?.block_on(future))
    }

    pub(super) fn block_on_and_leave<F: Future>(future: F) -> io::Result<F::Output> {
        let runtime = runtime()?;
        let output = runtime.block_on(future);
        runtime.shutdown_background();
        Ok(output)
    }

    fn runtime() -> io::Result<tokio::runtime::Runtime> {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()
    }

    pub(super) fn outlive_terminal() -> io::Result<()> {
        // The handler stays until the process ends, whether a listener exists or not.
        signal(SignalKind::hangup()).map(drop)
    }

    /// The second field of `/proc/self/statm` (proc(5)), in pages.
    pub(super) fn resident_bytes() -> Option<u64> {
        let figures = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = figures.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }

    pub(super) fn raise_descriptor_limit() -> io::Result<Option<u64>> {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            limit.current = limit.maximum;
            setrlimit(Resource::Nofile, limit)?;
        }
        Ok(limit.current)
    }

    #[allow(clippy::disallowed_methods)] // The process must end even if the runtime does not run.
    pub(super) fn abort_after(patience: Duration) {
        std::thread::spawn(move || {
            std::thread::sleep(patience);
            std::process::abort();
        });
    }

    pub(super) struct Signals {
        interrupt: Signal,
        terminate: Signal,
    }

    impl Signals {
        pub(super) fn listen() -> io::Result<Signals> {
            Ok(Signals {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            })
        }

        pub(super) async fn next(&mut self) {
            tokio::select! {
                biased;
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        }
    }
}

#[cfg(madsim)]
mod world {
    use std::future::Future;
    use std::io;
    use std::time::Duration;

    pub(super) fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
        Ok(madsim::runtime::Runtime::new().block_on(future))
    }

    /// In simulation no lookup takes real time.
    pub(super) fn block_on_and_leave<F: Future>(future: F) -> io::Result<F::Output> {
        block_on(future)
    }

    /// Simulated processes have no terminal.
    pub(super) fn outlive_terminal() -> io::Result<()> {
        Ok(())
    }

    pub(super) fn resident_bytes() -> Option<u64> {
        None
    }

    pub(super) fn raise_descriptor_limit() -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Simulated processes share one real process, whose stderr is read.
    pub(super) fn abort_after(_patience: Duration) {}

    pub(super) struct Signals;

    impl Signals {
        pub(super) fn listen() -> io::Result<Signals> {
            Ok(Signals)
        }

        pub(super) async fn next(&mut self) {
            // Never fails: the simulated kernel always delivers.
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ends_does_not_wait_for_a_name_that_is_still_looked_up() {
        let (release, released) = std::sync::mpsc::channel();
        let (outcome, ended) = std::sync::mpsc::channel();
        block_on_and_leave(async {
            let (started, starts) = tokio::sync::oneshot::channel();
            crate::rt::spawn(crate::rt::spawn_blocking(move || {
                let _ = started.send(());
                let _ = outcome.send(released.recv_timeout(Duration::from_secs(10)));
            }));
            starts.await.unwrap();
        })
        .unwrap();
        release.send(()).expect("the look-up was waited for");
        assert_eq!(ended.recv().unwrap(), Ok(()));
    }
}
