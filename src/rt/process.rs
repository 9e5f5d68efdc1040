//! The process: its runtime and the signals that ask it to stop.
//!
//! In simulation a process is a node of the simulated world, and the signal is the one the world sends.

use std::future::Future;
use std::io;
use std::time::Duration;

/// A process that ends by a panic has so long to say why.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(5);

/// Runs `future` to its end on the calling thread, with worker threads for the tasks it starts.
///
/// # Errors
/// If the operating system gives no threads.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    world::block_on(future)
}

/// As [`block_on`], for a process that ends then: waits for nobody else. The operating system's look-up of a name
/// cannot be called off, and takes as long as a silent name server lets it, while the command's own time is over.
///
/// # Errors
/// If the operating system gives no threads.
pub fn block_on_and_leave<F: Future>(future: F) -> io::Result<F::Output> {
    world::block_on_and_leave(future)
}

/// Hears requests to stop: SIGINT (Ctrl-C) and SIGTERM. While it lives, neither ends the process by itself.
pub struct StopSignals(world::Signals);

impl StopSignals {
    /// Starts to listen.
    ///
    /// # Errors
    /// If the operating system does not let it.
    pub fn listen() -> io::Result<StopSignals> {
        world::Signals::listen().map(StopSignals)
    }

    /// The next signal. Dropping the future loses none.
    pub async fn next(&mut self) {
        self.0.next().await;
    }
}

/// Whether a process of this machine has this number; one that nobody can tell of has not ended.
pub fn is_running(process: u32) -> bool {
    world::is_running(process)
}

/// From now on the loss of the terminal (SIGHUP) does not end this process.
///
/// # Errors
/// If the operating system does not let it.
pub fn outlive_terminal() -> io::Result<()> {
    world::outlive_terminal()
}

/// Asks the kernel to end this process by SIGTERM when the process `parent`, which started it, ends in whatever
/// way. False if `parent` has ended already.
///
/// On systems other than Linux only the check is made, and a parent that is killed leaves the process behind.
///
/// # Errors
/// If the kernel refuses.
pub fn end_with_parent(parent: u32) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    // Checked after the kernel was asked: a parent that ended before it no longer is our parent.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    Ok(now == Some(parent))
}

/// How much of this process lies in RAM, in bytes; `None` where the kernel does not tell, and in simulation.
pub fn resident_bytes() -> Option<u64> {
    world::resident_bytes()
}

/// Raises the bound on files that this process may have open to what it may raise it to. Returns the bound; `None`:
/// there is none, or the world has no such thing.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    world::raise_descriptor_limit()
}

/// From now on a panic anywhere ends the process: a node that has met its own bug in one task must not go on with the
/// others. The kernel cleans up, and the log's recovery trusts nothing that was not synced.
///
/// `last_words` is called before the panic is reported on stderr. Neither holds up the end for long: stderr may be a
/// pipe that nobody empties.
pub fn end_on_panic(last_words: impl Fn() + Send + Sync + 'static) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        world::abort_after(LAST_WORDS_PATIENCE);
        last_words();
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

    pub(super) fn is_running(process: u32) -> bool {
        let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
        process.is_some_and(|process| {
            rustix::process::test_kill_process(process) != Err(rustix::io::Errno::SRCH)
        })
    }

    pub(super) fn outlive_terminal() -> io::Result<()> {
        // The handler stays for as long as the process does, listened to or not.
        signal(SignalKind::hangup()).map(drop)
    }

    /// The second figure of `/proc/self/statm` (proc(5)), which counts pages.
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

    #[allow(clippy::disallowed_methods)] // The end of a process is the kernel's business, not the runtime's.
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

    /// In simulation nothing takes time that is not simulated.
    pub(super) fn block_on_and_leave<F: Future>(future: F) -> io::Result<F::Output> {
        block_on(future)
    }

    pub(super) fn is_running(_process: u32) -> bool {
        true
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

    /// Simulated processes share one real one, whose stderr is read.
    pub(super) fn abort_after(_patience: Duration) {}

    pub(super) struct Signals;

    impl Signals {
        pub(super) fn listen() -> io::Result<Signals> {
            Ok(Signals)
        }

        pub(super) async fn next(&mut self) {
            // Fails never: the simulated kernel always delivers.
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
        let (tell, told) = std::sync::mpsc::channel();
        block_on_and_leave(async {
            let (started, starts) = tokio::sync::oneshot::channel();
            crate::rt::spawn(crate::rt::spawn_blocking(move || {
                let _ = started.send(());
                let _ = tell.send(released.recv_timeout(Duration::from_secs(10)));
            }));
            starts.await.unwrap();
        })
        .unwrap();
        release.send(()).expect("the look-up was waited for");
        assert_eq!(told.recv().unwrap(), Ok(()));
    }
}
