//! The simulation's own speed, on a world that never changes (`scenarios::bench`): simulated seconds, client operations
//! and trace events per second of one core.
//!
//! Runs are played one after the other, each in a process of its own; against another build (`--against`) the two take
//! turns, so that other load on the machine affects both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::children;
use super::options::Bench;
use crate::scenarios::bench::{NAME, SEEDS};

/// The results of one repetition: all seeds, one after the other.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Repetition {
    simulated_seconds: f64,
    operations: u64,
    trace_events: u64,
    /// Hash over the traces of all seeds, in order.
    trace_hash: u64,
    wall_seconds: f64,
    /// User and system time of the child processes.
    cpu_seconds: f64,
}

/// A build and its measurements.
#[derive(Debug, Serialize)]
struct Measured {
    program: PathBuf,
    repetitions: Vec<Repetition>,
}

/// A rate, computed for each repetition.
type Rate = (&'static str, fn(&Repetition) -> f64);

const RATES: [Rate; 8] = [
    ("simulated seconds per wall second", |one| one.simulated_seconds / one.wall_seconds),
    ("simulated seconds per CPU second", |one| one.simulated_seconds / one.cpu_seconds),
    ("client operations per wall second", |one| one.operations as f64 / one.wall_seconds),
    ("client operations per CPU second", |one| one.operations as f64 / one.cpu_seconds),
    ("trace events per wall second", |one| one.trace_events as f64 / one.wall_seconds),
    ("trace events per CPU second", |one| one.trace_events as f64 / one.cpu_seconds),
    ("wall seconds per repetition", |one| one.wall_seconds),
    ("CPU seconds per repetition", |one| one.cpu_seconds),
];

/// The `bench` command.
pub fn main(options: &Bench) -> ExitCode {
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            eprintln!("{words}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Bench) -> Result<(), String> {
    let here = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let programs = options.against.clone().into_iter().chain([here]);
    let mut builds: Vec<Measured> =
        programs.map(|program| Measured { program, repetitions: Vec::new() }).collect();
    for _ in 0..options.repeat {
        for build in &mut builds {
            build.repetitions.push(repetition(&build.program)?);
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&builds).expect("numbers are plain data"));
    } else {
        print_table(&builds);
    }
    Ok(())
}

/// The parts of a child's report that are read: the rest may differ in another build.
#[derive(Deserialize)]
struct Told {
    verdict: String,
    findings: Vec<String>,
    simulated_seconds: f64,
    operations: BTreeMap<String, u64>,
    trace_hash: u64,
    trace_events: u64,
}

/// Plays all seeds once with `program`.
#[allow(clippy::disallowed_methods)] // The parent simulates nothing: its clock is the real one.
fn repetition(program: &Path) -> Result<Repetition, String> {
    let name = program.display();
    let mut all = Repetition::default();
    let cpu_before = cpu_of_children()?;
    let before = Instant::now();
    for seed in SEEDS {
        let output = children::command(program, NAME, seed)
            .output()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let told = stdout.lines().rev().find_map(|line| serde_json::from_str(line.split_once(' ')?.1).ok());
        let told: Told =
            told.ok_or_else(|| format!("{name} left no report of seed {seed}: {}", output.status))?;
        if told.verdict != "Passed" {
            return Err(format!("seed {seed} of {name} did not pass: {}", told.findings.join("; ")));
        }
        let answered = told.operations.iter().filter(|(outcome, _)| outcome.starts_with("ok"));
        all.simulated_seconds += told.simulated_seconds;
        all.operations += answered.map(|(_, count)| count).sum::<u64>();
        all.trace_events += told.trace_events;
        all.trace_hash = all.trace_hash.rotate_left(1) ^ told.trace_hash;
    }
    all.wall_seconds = before.elapsed().as_secs_f64();
    all.cpu_seconds = cpu_of_children()? - cpu_before;
    Ok(all)
}

/// User and system time, in seconds, of all child processes that have ended.
fn cpu_of_children() -> Result<f64, String> {
    // Fields 16 and 17 of proc(5)'s stat, in ticks of 10 ms; the name before them may hold spaces.
    let stat =
        std::fs::read_to_string("/proc/self/stat").map_err(|error| format!("/proc/self/stat: {error}"))?;
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/self/stat has no name")?;
    let ticks = fields.split_whitespace().skip(13).take(2).filter_map(|field| field.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() / 100.0)
}

fn print_table(builds: &[Measured]) {
    let first = |build: &Measured| build.repetitions[0];
    for build in builds {
        let one = first(build);
        println!(
            "{}: {} repetitions of {} seeds: {:.1} simulated seconds, {} operations, {} trace events, trace {:016x}",
            build.program.display(),
            build.repetitions.len(),
            SEEDS.len(),
            one.simulated_seconds,
            one.operations,
            one.trace_events,
            one.trace_hash
        );
    }
    println!(
        "\n{:<36}{}",
        "median (lowest to highest)",
        if builds.len() > 1 { "before, after, times" } else { "" }
    );
    for (name, rate) in RATES {
        let spreads: Vec<Spread> = builds.iter().map(|build| Spread::of(&build.repetitions, rate)).collect();
        let columns: Vec<String> = spreads.iter().map(ToString::to_string).collect();
        let times = match spreads.as_slice() {
            [before, after] => format!("{:>8.2}x", after.median / before.median),
            _ => String::new(),
        };
        println!("{name:<36}{}{times}", columns.join(""));
    }
}

/// The spread of a number over all repetitions.
struct Spread {
    lowest: f64,
    median: f64,
    highest: f64,
}

impl Spread {
    fn of(repetitions: &[Repetition], rate: fn(&Repetition) -> f64) -> Spread {
        let mut numbers: Vec<f64> = repetitions.iter().map(rate).collect();
        numbers.sort_by(f64::total_cmp);
        let median = (numbers[(numbers.len() - 1) / 2] + numbers[numbers.len() / 2]) / 2.0;
        Spread { lowest: numbers[0], median, highest: numbers[numbers.len() - 1] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.highest < 100.0 { 2 } else { 0 };
        let text =
            format!("{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.lowest, self.highest);
        write!(f, "{text:>30}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_between_lowest_and_highest() {
        let one = |wall_seconds| Repetition { wall_seconds, ..Repetition::default() };
        let spread = Spread::of(&[one(4.0), one(1.0), one(2.0), one(3.0)], |one| one.wall_seconds);
        assert_eq!((spread.lowest, spread.median, spread.highest), (1.0, 2.5, 4.0));
    }
}
