//! The command `shrink`: leaves out of a failing chaos run whatever it can while the same failure stays.
//!
//! First time, because that saves the most; then faults, by delta debugging; then clients and keys; then time again.
//! Every attempt is a whole run in a process of its own, and the run that is printed at the end has been played.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::minimise::{least, minimise};
use crate::chaos::reduction::Reduction;
use crate::chaos::schedule::{self, Planned};
use crate::record::report::{Report, Verdict};
use crate::runner::children::{self, How, Job};
use crate::runner::options::{CHAOS, One};
use crate::world::World;

/// Granularity to which times are shrunk.
const STEP: Duration = Duration::from_millis(250);

/// Shrinks a run. Returns the exit code of the failure, or 2 if there is none.
pub fn shrink(run: &One) -> ExitCode {
    if run.scenario != CHAOS {
        eprintln!("only {CHAOS} has a schedule that can be shrunk; '{}' is another scenario", run.scenario);
        return ExitCode::from(2);
    }
    let base = match Reduction::from_environment() {
        Ok(base) => base,
        Err(words) => {
            eprintln!("{words}");
            return ExitCode::from(2);
        }
    };
    let first = play(run.seed, &base);
    let Some(failure) = Failure::of(&first) else {
        eprintln!("chaos seed {} passes: there is nothing to shrink", run.seed);
        return ExitCode::from(2);
    };
    println!("{} chaos seed {}: {}", first.verdict.word(), run.seed, failure.words);
    let mut attempts = Attempts::new(run.seed, failure, base, first);
    attempts.shrink();
    attempts.progress.finish_and_clear();
    attempts.print();
    ExitCode::from(attempts.report.verdict.exit_code())
}

fn play(seed: u64, reduction: &Reduction) -> Report {
    let job = Job { reduction: reduction.to_string(), ..Job::new(CHAOS, seed) };
    children::play_one(job, How::Quietly).report
}

/// What identifies a failure: the first checker with a finding, or the location of the panic.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    verdict: Verdict,
    words: String,
}

impl Failure {
    /// `None`: the run passed.
    fn of(report: &Report) -> Option<Failure> {
        let words = match report.findings.first() {
            Some(panic) if panic.starts_with("panicked at ") => {
                panic.split(": ").next().unwrap_or_default().to_owned()
            }
            _ => report.checkers.first().cloned().unwrap_or_default(),
        };
        (report.verdict != Verdict::Passed).then_some(Failure { verdict: report.verdict, words })
    }

    /// Whether a run failed in this way, perhaps among others.
    fn is_in(&self, report: &Report) -> bool {
        report.verdict == self.verdict
            && (Failure::of(report).as_ref() == Some(self) || report.checkers.contains(&self.words))
    }
}

struct Attempts {
    seed: u64,
    failure: Failure,
    /// The smallest failing run so far; `report` is its report.
    best: Reduction,
    report: Report,
    played: u64,
    progress: ProgressBar,
}

impl Attempts {
    fn new(seed: u64, failure: Failure, best: Reduction, report: Report) -> Attempts {
        let progress = ProgressBar::new_spinner();
        progress.set_style(
            ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("the template is well-formed"),
        );
        progress.enable_steady_tick(Duration::from_millis(200));
        Attempts { seed, failure, best, report, played: 1, progress }
    }

    fn shrink(&mut self) {
        let world = World::draw(self.seed);
        self.shrink_time(&world);
        let all: Vec<Planned> = self.injections();
        let numbers: Vec<u32> = all.iter().map(|injection| injection.number).collect();
        let everything: BTreeSet<u32> = self.best.without.iter().copied().chain(numbers.clone()).collect();
        minimise(numbers, |kept| {
            let without = everything.iter().filter(|number| !kept.contains(number)).copied().collect();
            let reduction = Reduction { without, ..self.best.clone() };
            self.fails(&reduction, "faults")
        });
        let clients = self.best.clients.unwrap_or(world.clients);
        least(clients.into(), |clients| {
            let clients = Some(u32::try_from(clients).expect("there were more"));
            let reduction = Reduction { clients, ..self.best.clone() };
            self.fails(&reduction, "clients")
        });
        let keys = self.best.keys.unwrap_or(world.keys);
        least(keys, |keys| {
            let reduction = Reduction { keys: Some(keys), ..self.best.clone() };
            self.fails(&reduction, "keys")
        });
        self.shrink_time(&world);
        // Injections after the end of the run need not be listed.
        let numbers: BTreeSet<u32> = schedule::draw(&world, self.seed)
            .iter()
            .filter(|injection| self.best.until.is_none_or(|until| injection.after < until))
            .map(|injection| injection.number)
            .collect();
        self.best.without.retain(|number| numbers.contains(number));
    }

    fn shrink_time(&mut self, world: &World) {
        let longest = self.best.until.unwrap_or(world.faults_last + schedule::LONGER);
        let steps = longest.as_nanos().div_ceil(STEP.as_nanos()) as u64;
        least(steps, |steps| {
            let reduction = Reduction { until: Some(STEP * steps as u32), ..self.best.clone() };
            self.fails(&reduction, "time")
        });
    }

    /// Plays a smaller run. If it fails in the same way, it becomes the best so far. Returns whether it does.
    fn fails(&mut self, reduction: &Reduction, what: &str) -> bool {
        let injections = self.injections().len();
        self.progress.set_message(format!(
            "{} runs; trying less {what}; so far {injections} faults, {}",
            self.played, self.best
        ));
        self.played += 1;
        let report = play(self.seed, reduction);
        let fails = self.failure.is_in(&report);
        if fails {
            (self.best, self.report) = (reduction.clone(), report);
        }
        fails
    }

    /// The injections that are left.
    fn injections(&self) -> Vec<Planned> {
        let mut world = World::draw(self.seed);
        self.best.shrink(&mut world);
        let mut injections = schedule::draw(&World::draw(self.seed), self.seed);
        injections.retain(|injection| self.best.keeps(injection));
        injections
    }

    fn print(&self) {
        let world = World::draw(self.seed);
        let injections = self.injections();
        println!("\nafter {} runs this is left:", self.played);
        println!(
            "  {} of {} clients on {} of {} keys, faults for {:?} of {:?}",
            self.best.clients.unwrap_or(world.clients),
            world.clients,
            self.best.keys.unwrap_or(world.keys),
            world.keys,
            self.best.until.unwrap_or(world.faults_last),
            world.faults_last
        );
        if injections.is_empty() {
            println!("  no fault at all");
        }
        for injection in &injections {
            println!(
                "  fault #{:<3} {:.3} s after the first could strike: {}, for up to {:?}",
                injection.number,
                injection.after.as_secs_f64(),
                injection.kind.name(),
                injection.length
            );
        }
        println!("\nwhat happens then:");
        self.report.last_events.iter().for_each(|event| println!("  {event}"));
        self.report.findings.iter().take(3).for_each(|finding| println!("{finding}"));
        let job = Job { reduction: self.best.to_string(), ..Job::new(CHAOS, self.seed) };
        println!("play it: {}", job.command());
    }
}
