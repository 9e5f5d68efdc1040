//! The log of a served node: lines on stderr, which a thread of its own writes.
//!
//! A line may take as long as whoever reads stderr likes: a pipe is full, a file lies on a disk that stalls. None of
//! the node's own threads waits for that, or the leader would lose its followers over a line. Lines wait in a queue;
//! what does not fit into it is dropped, counted, and told of as soon as lines go through again.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, NodeConfig};
use crate::rt;
use crate::rt::task::TaskGuard;

/// How many lines wait at most: some megabytes, and more than a node says in a minute at the level `info`.
const LINES_WAITING_MAX: usize = 16_384;
/// How often it is looked whether lines were dropped.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The log, while it is written.
#[derive(Clone, Debug)]
pub struct Logging {
    writer: Arc<Mutex<Option<WorkerGuard>>>,
    dropped: ErrorCounter,
}

impl Logging {
    /// Starts the process's log, at the level and in the format that the configuration asks for, in colour on a
    /// terminal only.
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

    /// Tells of dropped lines, in the log itself, until the guard is dropped.
    pub fn tell_of_dropped(&self) -> TaskGuard<()> {
        let dropped = self.dropped.clone();
        rt::task::spawn_guarded(async move {
            let mut told = 0;
            loop {
                rt::sleep(LOOK_EVERY).await;
                let lines = dropped.dropped_lines();
                if lines > told {
                    tracing::warn!(
                        lines,
                        "this log misses lines, so many since the start: stderr takes them too slowly"
                    );
                    told = lines;
                }
            }
        })
    }

    /// Writes what waits, for about a second at most, and ends the log: what is said later goes nowhere. To be called
    /// before whatever ends the process.
    pub fn end(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Not under the lock: a panic here would wait for it.
        drop(writer);
    }
}
