//! The command `sweep`: many chaos seeds on all cores, kept as they end, so that it can be broken off and gone on with.
//!
//! The state belongs to one build of the program: results of another one say nothing about this one, so its file has
//! the hash of the program in its name. A share of all seeds is played again in another process, always.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use xxhash_rust::xxh3::xxh3_64;

use super::children::{self, How, Job, Outcome};
use super::{folders, pages, print_failure};
use crate::options::{CHAOS, Sweep};
use crate::report::Verdict;
use crate::sweep::record::{self, Line, Record};
use crate::sweep::totals::Totals;

/// How often a line is written where there is no terminal.
const REPORT_EVERY: Duration = Duration::from_secs(30);
/// Failures told in full; all of them are in the file.
const MOST_TOLD: usize = 10;

/// Sweeps. Ends with the worst verdict's exit code.
pub fn sweep(options: &Sweep) -> ExitCode {
    match State::open(options) {
        Ok(state) => RefCell::new(state).run(options),
        Err(words) => {
            eprintln!("{words}");
            ExitCode::from(Verdict::HarnessError.exit_code())
        }
    }
}

/// What is known of the seeds so far, in memory and on disk.
struct State {
    totals: Totals,
    path: PathBuf,
    file: File,
    /// Seeds to be played again.
    again: VecDeque<u64>,
    told: usize,
}

impl State {
    #[allow(clippy::disallowed_methods)] // The parent simulates nothing.
    fn open(options: &Sweep) -> Result<State, String> {
        let folder = options.state.as_deref().map_or_else(|| folders::in_target("sweep"), folders::of_user);
        let path = folder.join(format!("{}.jsonl", name_of_this_program()?));
        let cannot = |error: std::io::Error| format!("cannot keep results in {}: {error}", path.display());
        std::fs::create_dir_all(&folder).map_err(cannot)?;
        if options.fresh && path.exists() {
            std::fs::remove_file(&path).map_err(cannot)?;
        }
        let text =
            if path.exists() { std::fs::read_to_string(&path).map_err(cannot)? } else { String::new() };
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(cannot)?;
        if !text.is_empty() && !text.ends_with('\n') {
            // The line that a crash cut short ends here.
            file.write_all(b"\n").map_err(cannot)?;
        }
        let mut totals = Totals::default();
        let range = options.first_seed..options.first_seed + options.seeds;
        for line in record::read(&text) {
            let (Line::Run(Record { seed, .. }) | Line::Again { seed, .. }) = &line;
            if range.contains(seed) {
                totals.add(&line);
            }
        }
        let again = range
            .filter(|seed| totals.has(*seed) && !totals.is_checked(*seed) && is_checked(options, *seed))
            .collect();
        Ok(State { totals, path, file, again, told: 0 })
    }

    fn keep(&mut self, line: &Line) {
        self.totals.add(line);
        if let Err(error) = self.file.write_all(line.to_text().as_bytes()) {
            eprintln!("cannot keep results in {}: {error}", self.path.display());
        }
    }
}

fn is_checked(options: &Sweep, seed: u64) -> bool {
    seed.is_multiple_of(options.check_every)
}

/// Names the build and what changes its runs, so that results of different programs are never added up.
#[allow(clippy::disallowed_methods)] // The parent simulates nothing.
fn name_of_this_program() -> Result<String, String> {
    let program = std::env::current_exe().and_then(std::fs::read);
    let program = program.map_err(|error| format!("cannot read this program: {error}"))?;
    let mut name = format!("{CHAOS}-{:016x}", xxh3_64(&program));
    if let Ok(planted) = std::env::var("MOKV_PLANTED") {
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
    /// A run is over: the first of its seed, or the one that it is compared with.
    fn hear(&mut self, options: &Sweep, job: &Job, outcome: &Outcome, progress: &Progress) {
        let report = &outcome.report;
        if let Some(trace) = self.totals.trace(job.seed) {
            let same = trace == (report.trace_hash, report.trace_events);
            if !same {
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
        println!("results: {}", self.path.display());
        let failures = self.failures();
        if !failures.is_empty() {
            let file = self.path.with_extension("failures");
            println!("\n{} failing seeds, in {}:", failures.len(), file.display());
            failures.iter().take(20).for_each(|line| println!("  {line}"));
            if failures.len() > 20 {
                println!("  ... and {} more", failures.len() - 20);
            }
            if let Err(words) = folders::write(Path::new(&file), &(failures.join("\n") + "\n")) {
                eprintln!("{words}");
            }
        }
        let code = self.totals.exit_code();
        println!("\n{} counted, {} failed, exit code {code}", self.totals.counted(), failures.len());
        ExitCode::from(code)
    }

    /// One line for each failure: verdict, command, judges.
    fn failures(&self) -> Vec<String> {
        let line = |verdict: Verdict, seed, what: &str| {
            format!("{:<9} {}  # {what}", verdict.word(), Job::new(CHAOS, seed).command())
        };
        let failed =
            self.totals.failures().map(|(seed, verdict, judges)| line(verdict, seed, &judges.join(", ")));
        let unsteady = self.totals.unsteady().map(|seed| line(Verdict::Unsteady, seed, "two traces"));
        failed.chain(unsteady).collect()
    }
}

/// A bar on a terminal, a line now and then elsewhere.
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
