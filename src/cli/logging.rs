//! The log of `mokv serve`: lines on stderr, written by a separate thread.
//!
//! Writing a line may block for any time: a pipe is full, a disk stalls. None of the node's own threads waits for it;
//! otherwise a leader could lose its followers over a line. Lines wait in a queue; lines that do not fit are dropped,
//! counted, and reported once lines can be written again.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, NodeConfig};
use crate::rt;
use crate::rt::task::TaskGuard;

/// The most lines that wait: some megabytes, and more than a node logs in a minute at level `info`.
const LINES_WAITING_MAX: usize = 16_384;
/// Interval of the check for dropped lines.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The running log.
#[derive(Clone, Debug)]
pub struct Logging {
    writer: Arc<Mutex<Option<WorkerGuard>>>,
    dropped: ErrorCounter,
}

impl Logging {
    /// Starts the process's log, at the configured level and in the configured format, coloured on a terminal only.
    pub fn start(config: &NodeConfig) -> Logging {
        let filter = EnvFilter::builder().parse(&config.log_level).expect("the configuration checked it");
        let queue = NonBlockingBuilder::default().buffered_lines_limit(LINES_WAITING_MAX).thread_name("log");
        let (queue, writer) = queue.finish(std::io::stderr());
        let dropped = queue.error_counter();
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue);
        match config.log_format {
            LogFormat::Json => lines.json().init(),
            LogFormat::Text => {
                let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
                lines.with_ansi(colour).init();
            }
        }
        Logging { writer: Arc::new(Mutex::new(Some(writer))), dropped }
    }

    /// Reports dropped lines in the log itself until the guard is dropped.
    pub fn report_dropped(&self) -> TaskGuard<()> {
        let dropped = self.dropped.clone();
        rt::task::spawn_guarded(async move {
            let mut reported = 0;
            loop {
                rt::sleep(LOOK_EVERY).await;
                let lines = dropped.dropped_lines();
                if lines > reported {
                    tracing::warn!(
                        lines,
                        "this log misses lines (lines: their number since the start), because stderr is read too slowly"
                    );
                    reported = lines;
                }
            }
        })
    }

    /// Writes the waiting lines, for about a second at most, and closes the log: later lines are discarded. Call it
    /// before any code that ends the process.
    pub fn end(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Not under the lock: the handler of a panic in here would wait for it.
        drop(writer);
    }
}
