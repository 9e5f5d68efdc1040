//! The command `sweep`: many chaos seeds on all cores. It keeps results as runs end, and can be resumed.
//!
//! A share of all seeds is always played again in another process.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // The parent simulates nothing.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use xxhash_rust::xxh3::xxh3_64;

use super::record::{Line, Record};
use super::totals::Totals;
use crate::launcher;
use crate::record::report::Verdict;
use crate::runner::children::{self, How, Job, Outcome};
use crate::runner::journal::{self, Journal};
use crate::runner::options::{CHAOS, Sweep};
use crate::runner::play::print_failure;
use crate::runner::{folders, pages};

/// Interval between lines where there is no terminal.
const REPORT_EVERY: Duration = Duration::from_secs(30);
/// The reason given for a seed that is not deterministic.
const TWO_TRACES: &str = "two traces";
/// Most failures that are printed in full; all of them are in the file.
const MOST_TOLD: usize = 10;

/// Runs a sweep. Returns the worst verdict's exit code.
pub fn sweep(options: &Sweep) -> ExitCode {
    match State::open(options) {
        Ok(state) => RefCell::new(state).run(options),
        Err(words) => {
            eprintln!("{words}");
            ExitCode::from(Verdict::HarnessError.exit_code())
        }
    }
}

/// The results so far, in memory and on disk.
struct State {
    totals: Totals,
    journal: Journal,
    /// Seeds that are still to be played again.
    again: VecDeque<u64>,
    told: usize,
}

impl State {
    fn open(options: &Sweep) -> Result<State, String> {
        let folder = options.state.as_deref().map_or_else(|| folders::in_target("sweep"), folders::of_user);
        let (journal, known) = Journal::open(&folder, &name_of_this_program()?, options.fresh)?;
        if options.fresh {
            let failures = journal.path().with_extension("failures");
            journal::remove(&failures)
                .map_err(|error| format!("cannot remove {}: {error}", failures.display()))?;
        }
        let mut totals = Totals::default();
        let range = options.first_seed..options.first_seed + options.seeds;
        for line in &known {
            let (Line::Run(Record { seed, .. }) | Line::Again { seed, .. }) = line;
            if range.contains(seed) {
                totals.add(line);
            }
        }
        let again = range
            .filter(|seed| totals.has(*seed) && !totals.is_checked(*seed) && is_checked(options, *seed))
            .collect();
        Ok(State { totals, journal, again, told: 0 })
    }

    fn keep(&mut self, line: &Line) {
        self.totals.add(line);
        if let Err(words) = self.journal.add(line) {
            eprintln!("{words}");
        }
    }

    /// Appends a failure to the file with the failures of all seed ranges that this program has swept.
    fn keep_failure(&self, failure: &str) {
        let path = self.journal.path().with_extension("failures");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{failure}")) {
            eprintln!("cannot keep failures in {}: {error}", path.display());
        }
    }
}

fn is_checked(options: &Sweep, seed: u64) -> bool {
    seed.is_multiple_of(options.check_every)
}

/// Identifies the build and what changes its runs, so that results of different programs are never added up.
fn name_of_this_program() -> Result<String, String> {
    let mut name = format!("{CHAOS}-{}", journal::build()?);
    if let Ok(planted) = std::env::var(launcher::PLANTED) {
        name.push_str(&format!("-{planted}"));
    }
    let reduction = Job::new(CHAOS, 0).reduction;
    if !reduction.is_empty() {
        name.push_str(&format!("-{:08x}", xxh3_64(reduction.as_bytes()) as u32));
    }
    Ok(name)
}

trait Run {
    fn run(self, options: &Sweep) -> ExitCode;
}

impl Run for RefCell<State> {
    fn run(self, options: &Sweep) -> ExitCode {
        let seeds = options.first_seed..options.first_seed + options.seeds;
        let known = seeds.clone().filter(|seed| self.borrow().totals.has(*seed)).count() as u64;
        if known > 0 {
            eprintln!("going on: {known} of {} seeds are known, by this program", options.seeds);
        }
        let progress = Progress::new(options.seeds, known);
        let mut fresh = seeds.filter(|seed| !self.borrow().totals.has(*seed)).collect::<VecDeque<_>>();
        let next = || {
            let again = self.borrow_mut().again.pop_front();
            again.or_else(|| fresh.pop_front()).map(|seed| Job::new(CHAOS, seed))
        };
        let at_a_time = options.jobs.unwrap_or_else(children::at_a_time).max(1);
        children::play(at_a_time, How::Quietly, next, |job, outcome| {
            self.borrow_mut().hear(options, &job, &outcome, &progress);
            progress.show(&self.borrow().totals);
        });
        progress.bar.finish_and_clear();
        self.into_inner().end()
    }
}

impl State {
    /// A run has ended: the first of its seed, or the second, which is compared with the first.
    fn hear(&mut self, options: &Sweep, job: &Job, outcome: &Outcome, progress: &Progress) {
        let report = &outcome.report;
        if let Some(trace) = self.totals.trace(job.seed) {
            let same = trace == (report.trace_hash, report.trace_events);
            if !same {
                self.keep_failure(&failure(Verdict::Unsteady, job.seed, TWO_TRACES));
                progress.tell(|| {
                    println!(
                        "UNSTEADY chaos seed {}: two runs left two traces; MOKV_TRACE=1 shows where they part: {}",
                        job.seed,
                        job.command()
                    );
                });
            }
            self.keep(&Line::Again { seed: job.seed, same });
            return;
        }
        self.keep(&Line::Run(Record::of(report, outcome.wall.as_secs_f64())));
        if is_checked(options, job.seed) {
            self.again.push_back(job.seed);
        }
        if report.verdict != Verdict::Passed {
            self.told += 1;
            self.keep_failure(&failure(report.verdict, job.seed, &report.checkers.join(", ")));
            progress.tell(|| {
                if self.told <= MOST_TOLD {
                    print_failure(job, report, false);
                }
                if let Some(folder) = &options.reports {
                    pages::write_into(folder, job);
                }
            });
        }
    }

    fn end(self) -> ExitCode {
        println!("{}", self.totals.to_text());
        println!("results: {}", self.journal.path().display());
        let failures = self.failures();
        if !failures.is_empty() {
            let file = self.journal.path().with_extension("failures");
            println!("\n{} failing seeds, kept in {}:", failures.len(), file.display());
            failures.iter().take(20).for_each(|line| println!("  {line}"));
            if failures.len() > 20 {
                println!("  ... and {} more", failures.len() - 20);
            }
        }
        let code = self.totals.exit_code();
        println!("\n{} counted, {} failed, exit code {code}", self.totals.counted(), failures.len());
        ExitCode::from(code)
    }

    fn failures(&self) -> Vec<String> {
        let failed = self
            .totals
            .failures()
            .map(|(seed, verdict, checkers)| failure(verdict, seed, &checkers.join(", ")));
        let unsteady = self.totals.unsteady().map(|seed| failure(Verdict::Unsteady, seed, TWO_TRACES));
        failed.chain(unsteady).collect()
    }
}

/// A failure as one line: verdict, command, checkers.
fn failure(verdict: Verdict, seed: u64, checkers: &str) -> String {
    format!("{:<9} {}  # {checkers}", verdict.word(), Job::new(CHAOS, seed).command())
}

/// Progress: a bar on a terminal, else a line at an interval.
struct Progress {
    bar: ProgressBar,
    moves: bool,
    known: u64,
    seeds: u64,
    began: Instant,
    said: RefCell<Instant>,
}

impl Progress {
    fn new(seeds: u64, known: u64) -> Progress {
        let moves = std::io::stderr().is_terminal();
        let bar = if moves { ProgressBar::new(seeds) } else { ProgressBar::hidden() };
        let template = "{bar:30} {pos}/{len} seeds, {msg}, {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is well-formed"));
        bar.set_position(known);
        bar.reset_eta();
        let now = Instant::now();
        Progress { bar, moves, known, seeds, began: now, said: RefCell::new(now) }
    }

    fn show(&self, totals: &Totals) {
        let done = totals.runs();
        let each_second = (done - self.known) as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let message = format!("{each_second:.2} seeds/s, {}", totals.progress());
        self.bar.set_position(done);
        if !self.moves && self.said.borrow().elapsed() >= REPORT_EVERY {
            *self.said.borrow_mut() = Instant::now();
            eprintln!("{done}/{} seeds, {message}", self.seeds);
        }
        self.bar.set_message(message);
    }

    fn tell(&self, words: impl FnOnce()) {
        self.bar.suspend(words);
    }
}
