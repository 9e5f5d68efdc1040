//! The load generator: clients that send requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};

use super::keys::Keys;
use super::report::{Measured, Operation};
use crate::cli::failure::Failure;
use crate::client::{Client, Error, ReadOptions};
use crate::rt;
use crate::rt::process::StopSignals;
use crate::rt::random;
use crate::rt::task::spawn_guarded;
use crate::rt::time::later;

/// The mix of requests.
#[derive(Debug, Clone)]
pub struct Mix {
    /// The share of reads in all requests, from 0 to 1.
    share_of_reads: f64,
    reads: ReadOptions,
}

impl Mix {
    /// Only writes.
    pub fn puts() -> Mix {
        Mix { share_of_reads: 0.0, reads: ReadOptions::linearizable() }
    }

    /// Only reads.
    pub fn gets(stale: bool) -> Mix {
        Mix { share_of_reads: 1.0, reads: crate::cli::get::read_options(stale) }
    }

    /// `ratio` reads per write.
    pub fn mixed(ratio: f64, stale: bool) -> Mix {
        Mix { share_of_reads: ratio / (ratio + 1.0), reads: crate::cli::get::read_options(stale) }
    }

    fn draw(&self) -> Operation {
        const STEPS: u64 = 1 << 32;
        match (random::below(STEPS) as f64) < self.share_of_reads * STEPS as f64 {
            true => Operation::Get,
            false => Operation::Put,
        }
    }
}

/// When the load ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After this many requests were started.
    Requests(u64),
    /// After this time.
    Elapsed(Duration),
}

/// The clients and their concurrency.
pub struct Load {
    /// One client per connection.
    pub clients: Vec<Client>,
    /// The number of concurrent workers.
    pub tasks: u32,
    /// Length of every value, in bytes.
    pub value_bytes: usize,
}

/// What the workers share.
struct Work {
    mix: Mix,
    keys: Keys,
    value: Bytes,
    until: Until,
    rate: u32,
    began: Instant,
    begun: AtomicU64,
    /// Whether any request has succeeded.
    succeeded: AtomicBool,
    progress: ProgressBar,
}

impl Load {
    /// Runs all workers and adds up their results. Ends early if a request fails before any has succeeded: then there
    /// is nothing to measure.
    ///
    /// # Errors
    /// If the handler for Ctrl-C cannot be installed.
    pub async fn run(
        &self,
        what: &'static str,
        mix: &Mix,
        keys: Keys,
        until: Until,
        rate: u32,
    ) -> Result<Measured, Failure> {
        let work = Arc::new(Work {
            mix: mix.clone(),
            keys,
            value: random_bytes(self.value_bytes),
            until,
            rate,
            began: rt::now(),
            begun: AtomicU64::new(0),
            succeeded: AtomicBool::new(false),
            progress: progress(what, until),
        });
        let mut signals = StopSignals::listen()
            .map_err(|error| Failure::error(format!("cannot listen for Ctrl-C: {error}"), "try again"))?;
        let mut tasks = Vec::new();
        for number in 0..self.tasks as usize {
            let client = self.clients[number % self.clients.len()].clone();
            tasks.push(spawn_guarded(work.clone().worker(client)));
        }
        let mut measured = Measured::default();
        for mut task in tasks {
            let part = tokio::select! {
                biased;
                part = &mut task => part,
                () = signals.next() => {
                    work.begun.store(STOPPED, Ordering::Relaxed);
                    task.await
                }
            };
            measured.add(&part.expect("no worker panics"));
        }
        measured.took = rt::now().duration_since(work.began);
        work.progress.finish_and_clear();
        Ok(measured)
    }
}

/// Above any real number of requests, so that no worker starts another one.
const STOPPED: u64 = u64::MAX / 2;

impl Work {
    /// Sends requests until none are left.
    async fn worker(self: Arc<Self>, client: Client) -> Measured {
        let mut measured = Measured::default();
        while let Some((number, due)) = self.next() {
            let since = match due {
                Some(due) => {
                    rt::sleep_until(due).await;
                    due
                }
                None => rt::now(),
            };
            let operation = self.mix.draw();
            let result = self.ask(&client, operation, number).await;
            if result.is_ok() {
                self.succeeded.store(true, Ordering::Relaxed);
            } else if !self.succeeded.load(Ordering::Relaxed) {
                self.begun.store(STOPPED, Ordering::Relaxed);
            }
            measured.record(operation, rt::now().duration_since(since), result);
            self.show_progress();
        }
        measured
    }

    /// Returns the number of the next request, and when it is due if there is a rate; `None` at the end.
    fn next(&self) -> Option<(u64, Option<Instant>)> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let due = (self.rate > 0)
            .then(|| later(self.began, Duration::from_secs_f64(number as f64 / f64::from(self.rate))));
        let goes_on = match self.until {
            Until::Requests(total) => number < total,
            Until::Elapsed(time) => {
                number < STOPPED && due.unwrap_or_else(rt::now).duration_since(self.began) < time
            }
        };
        goes_on.then_some((number, due))
    }

    async fn ask(&self, client: &Client, operation: Operation, number: u64) -> Result<bool, Error> {
        let key = self.keys.key(number);
        match operation {
            Operation::Put => client.set(key, self.value.clone()).await.map(|_| true),
            Operation::Get => client.get_with(key, self.mix.reads).await.map(|read| read.entry.is_some()),
        }
    }

    fn show_progress(&self) {
        match self.until {
            Until::Requests(_) => self.progress.inc(1),
            Until::Elapsed(_) => {
                self.progress.set_position(rt::now().duration_since(self.began).as_millis() as u64);
            }
        }
    }
}

/// Returns a progress bar, which is shown on a terminal only.
fn progress(what: &'static str, until: Until) -> ProgressBar {
    let (length, template) = match until {
        Until::Requests(total) => (total, "{prefix} {wide_bar} {pos}/{len} ({per_sec}, {eta} left)"),
        Until::Elapsed(time) => (time.as_millis() as u64, "{prefix} {wide_bar} {elapsed} ({eta} left)"),
    };
    let style = ProgressStyle::with_template(template).expect("the template is our own");
    ProgressBar::new(length).with_style(style).with_prefix(what)
}

fn random_bytes(length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    rand::Rng::fill_bytes(&mut random::rng(), &mut bytes);
    bytes.into()
}
