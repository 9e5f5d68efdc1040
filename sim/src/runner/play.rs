//! The command without a name: plays scenarios and chaos seeds, one process each.
//!
//! A run that fails prints its seed, its world, what was violated in words, its last events and the exact command that
//! plays it again.

use std::io::IsTerminal;
use std::process::ExitCode;

use super::children::{self, Job, Outcome};
use super::options::{DETERMINISM, Play, SECOND_OPINION};
use super::summary::Summary;
use super::{determinism, pages};
use crate::checkers::second_opinion::{self, Opinion};
use crate::launcher;
use crate::record::report::{Report, Verdict};
use crate::scenarios;

/// Plays scenarios and chaos seeds, and prints what they covered.
pub fn play(options: &Play) -> ExitCode {
    let jobs = plan(options);
    if jobs.is_empty() && !options.wants(DETERMINISM) && !options.wants(SECOND_OPINION) {
        eprintln!("nothing matches; `list` shows what there is");
        return ExitCode::from(2);
    }
    if let Ok(name) = std::env::var(launcher::PLANTED) {
        eprintln!("with the planted bug '{name}': it shall be caught");
    }
    let verbose = options.seed.is_some() && jobs.len() == 1;
    let mut summary = Summary::default();
    let progress = Progress::new(jobs.len());
    children::play_all(jobs, verbose, |done, job, outcome| {
        progress.show(done, &job, &outcome);
        if outcome.report.verdict != Verdict::Passed {
            progress.clear();
            print_failure(&job, &outcome.report, verbose);
            if let Some(folder) = &options.reports {
                pages::write_into(folder, &job);
            }
        }
        summary.add(&job, &outcome);
    });
    if options.wants(DETERMINISM) && options.seed.is_none() {
        progress.note("determinism: the same seeds once more, in other processes");
        summary.add_checks(determinism::check(summary.hashes()));
    }
    if options.wants(SECOND_OPINION) && options.seed.is_none() {
        progress.note("second opinion: porcupine checks histories, too");
        let check = |name: String, failure| vec![determinism::Check { name, failure }];
        match second_opinion::check(children::record_history) {
            Opinion::Agrees(words) => summary.add_checks(check(format!("{}: {words}", SECOND_OPINION), None)),
            Opinion::Differs(words) => summary.add_checks(check(SECOND_OPINION.into(), Some(words))),
            Opinion::Missing(words) => println!("skipped   {}: {words}", SECOND_OPINION),
        }
    }
    progress.clear();
    summary.print();
    summary.exit_code()
}

fn plan(options: &Play) -> Vec<Job> {
    let mut jobs = Vec::new();
    for scenario in scenarios::ALL.iter().filter(|scenario| options.wants(scenario.name)) {
        let seeds = match (options.seed, scenario.seeds) {
            (Some(seed), _) => seed..seed + 1,
            (None, 0) => options.chaos_seeds(),
            (None, seeds) => 1..seeds + 1,
        };
        jobs.extend(seeds.map(|seed| Job::new(scenario.name, seed)));
    }
    jobs
}

/// Prints a failed run: its seed, its world, its findings, and the command that plays it again.
pub fn print_failure(job: &Job, report: &Report, verbose: bool) {
    println!("\n{} {} with seed {}", report.verdict.word(), job.scenario, job.seed);
    if !report.world.is_empty() {
        println!("world: {}", report.world.replace('\n', "\n       "));
    }
    if !verbose && !report.last_events.is_empty() {
        println!("what happened, as far as it matters:");
        report.last_events.iter().for_each(|event| println!("  {event}"));
    }
    report.findings.iter().take(5).for_each(|finding| println!("{finding}"));
    if report.findings.len() > 5 {
        println!("... and {} more findings", report.findings.len() - 5);
    }
    println!("play it again: {}\n", job.command());
}

/// Progress: a moving line on a terminal, else a line at an interval.
struct Progress {
    total: usize,
    moves: bool,
}

impl Progress {
    fn new(total: usize) -> Progress {
        Progress { total, moves: std::io::stderr().is_terminal() }
    }

    fn show(&self, done: usize, job: &Job, outcome: &Outcome) {
        let line = format!(
            "[{done}/{}] {} seed {}: {}, {:.0} s simulated in {:.1} s, {} operations, {} faults",
            self.total,
            job.scenario,
            job.seed,
            outcome.report.verdict.word(),
            outcome.report.simulated_seconds,
            outcome.wall.as_secs_f64(),
            outcome.report.completed(),
            outcome.report.faults.values().sum::<u64>()
        );
        if self.moves {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    }

    fn note(&self, words: &str) {
        if self.moves {
            eprint!("\r\x1b[K{words}");
        } else {
            eprintln!("{words}");
        }
    }

    fn clear(&self) {
        if self.moves {
            eprint!("\r\x1b[K");
        }
    }
}
