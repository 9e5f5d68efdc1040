//! The runner: plays scenarios and chaos seeds, each in a process of its own, and sums up what they covered.
//!
//! The parent simulates nothing. A run that fails prints its seed, its world, what was violated in words, its last
//! events and the exact command that plays it again.

pub mod children;
mod determinism;
pub mod folders;
mod pages;
mod shrink;
mod summary;
mod sweep;
mod train;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use crate::bench;
use crate::child;
use crate::launcher;
use crate::options::{self, Command, Play};
use crate::report::{Report, Verdict};
use crate::scenarios;
use crate::second_opinion::{self, Opinion};
use children::{Job, Outcome};

use summary::Summary;

/// The `mokv-sim` command in the simulated world.
pub fn main() -> ExitCode {
    let is_known = |name: &str| scenarios::find(name).is_some();
    match options::read(std::env::args().skip(1), |name| std::env::var(name).ok(), is_known) {
        Ok(command) => carry_out(command),
        Err(words) => {
            let asked_for = !words.use_stderr();
            let _ = words.print();
            if asked_for { ExitCode::SUCCESS } else { ExitCode::from(2) }
        }
    }
}

fn carry_out(command: Command) -> ExitCode {
    match command {
        Command::List => {
            for scenario in scenarios::ALL {
                println!("{:<28} {}", scenario.name, scenario.about);
            }
            println!("{:<28} {}", determinism::NAME, determinism::ABOUT);
            println!("{:<28} {}", second_opinion::NAME, second_opinion::ABOUT);
            ExitCode::SUCCESS
        }
        Command::Child { scenario, seed, manner } => {
            let scenario = scenarios::find(&scenario).expect("the options know the scenarios");
            let report = child::play(scenario, seed, manner);
            println!("{}", report.to_line());
            let _ = std::io::stdout().flush();
            // Not even destructors run: half of a cluster is still in memory.
            std::process::exit(0)
        }
        Command::Bench(options) => bench::main(&options),
        Command::Train(options) => train::train(&options),
        Command::Play(options) => play(&options),
        Command::Sweep(options) => sweep::sweep(&options),
        Command::Report(options) => pages::report(&options),
        Command::Shrink(run) => shrink::shrink(&run),
        Command::Hunt(options) => crate::planted::hunt(&options),
    }
}

fn play(options: &Play) -> ExitCode {
    let jobs = plan(options);
    if jobs.is_empty() && !options.wants(determinism::NAME) && !options.wants(second_opinion::NAME) {
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
    if options.wants(determinism::NAME) && options.seed.is_none() {
        progress.note("determinism: the same seeds once more, in other processes");
        summary.add_checks(determinism::check(summary.hashes()));
    }
    if options.wants(second_opinion::NAME) && options.seed.is_none() {
        progress.note("second opinion: porcupine judges histories, too");
        let check = |name: String, failure| vec![determinism::Check { name, failure }];
        match second_opinion::check() {
            Opinion::Agrees(words) => {
                summary.add_checks(check(format!("{}: {words}", second_opinion::NAME), None))
            }
            Opinion::Differs(words) => summary.add_checks(check(second_opinion::NAME.into(), Some(words))),
            Opinion::Missing(words) => println!("skipped   {}: {words}", second_opinion::NAME),
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

fn print_failure(job: &Job, report: &Report, verbose: bool) {
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
