//! The hunt: chaos, or the scenario that is aimed at the bug, with one planted bug at a time, seed after seed, until a
//! checker has a finding or the range is over.
//!
//! A catch is a crash or a violated property. A checker that gave up is none, and neither is a bug of the harness.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use super::record::{Catch, Hunted, Record};
use super::table::{self, Row};
use crate::launcher::planted::{all, bug::Bug};
use crate::record::report::{Report, Verdict};
use crate::runner::children::{How, Job, at_a_time, play};
use crate::runner::folders;
use crate::runner::journal;
use crate::runner::options::{CHAOS, Hunt};
use crate::scenarios::calm;

/// Distance between the first seeds of two ranges.
const RANGES_APART: u64 = 1_000_000;

/// Runs a hunt and prints its results. Fails if a bug was not caught, or was caught in the calm world.
pub fn hunt(options: &Hunt) -> ExitCode {
    if !cfg!(feature = "planted") {
        eprintln!("this build has no planted bugs; next: cargo run --manifest-path sim/Cargo.toml -- hunt");
        return ExitCode::from(2);
    }
    let bugs: Vec<&'static Bug> = match all() {
        Ok(all) => {
            all.iter().filter(|bug| options.bugs.is_empty() || options.bugs.contains(&bug.name)).collect()
        }
        Err(words) => {
            eprintln!("{words}");
            return ExitCode::from(Verdict::HarnessError.exit_code());
        }
    };
    if let Some(unknown) = options.bugs.iter().find(|name| bugs.iter().all(|bug| bug.name != **name)) {
        eprintln!("there is no planted bug '{unknown}'; `hunt --list` shows them");
        return ExitCode::from(2);
    }
    let done = if options.list {
        list(&bugs);
        Ok(true)
    } else if options.check {
        Ok(check(&bugs))
    } else {
        hunt_all(&bugs, options)
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(words) => {
            eprintln!("{words}");
            ExitCode::from(Verdict::HarnessError.exit_code())
        }
    }
}

fn list(bugs: &[&Bug]) {
    for bug in bugs {
        println!("{:<32} {:<10} {}: {}", bug.name, bug.area, bug.origin, bug.breaks);
    }
}

fn hunt_all(bugs: &[&'static Bug], options: &Hunt) -> Result<bool, String> {
    let folder = options.state.as_deref().map_or_else(|| folders::in_target("hunt"), folders::of_user);
    let mut record = Record::open(&folder, &journal::build()?, options.fresh)?;
    let mut rows = Vec::new();
    for bug in bugs {
        let mut ranges = Vec::new();
        for range in 0..options.ranges {
            let first_seed = 1 + range * RANGES_APART;
            let hunted = match record.of(&bug.name, first_seed) {
                Some(known) if known.caught.is_some() || known.seeds >= options.seeds_max => known.clone(),
                known => {
                    let hunted = hunt_one(bug, first_seed, known.cloned(), options.seeds_max);
                    record.add(hunted.clone())?;
                    hunted
                }
            };
            tell(&hunted);
            ranges.push(hunted);
        }
        rows.push(Row { bug: &bug.name, area: &bug.area, rare: bug.rare, ranges });
    }
    table::print(&rows);
    Ok(rows.iter().all(|row| table::is_caught(&row.ranges)))
}

fn job(scenario: &'static str, seed: u64, planted: Option<&'static str>) -> Job {
    Job { planted, ..Job::new(scenario, seed) }
}

/// Continues a range where it was interrupted, until the bug is caught or the range is over.
#[allow(clippy::disallowed_methods)] // The parent simulates nothing.
fn hunt_one(bug: &'static Bug, first_seed: u64, known: Option<Hunted>, seeds_max: u64) -> Hunted {
    let started = Instant::now();
    let (before, wall_before) = known.map_or((0, 0.0), |known| (known.seeds, known.wall_seconds));
    let is_over = Cell::new(false);
    let catches = RefCell::new(BTreeMap::new());
    let mut seeds = (first_seed + before..first_seed + seeds_max).take_while(|_| !is_over.get());
    let scenario = bug.scenario.as_deref().unwrap_or(CHAOS);
    let next = || seeds.next().map(|seed| job(scenario, seed, Some(&bug.name)));
    play(at_a_time(), How::Quietly, next, |job, outcome| {
        if let Some(catch) = catch(job.seed, &outcome.report) {
            is_over.set(true);
            catches.borrow_mut().insert(job.seed, catch);
        }
    });
    // Seeds that were played at the same time as the first catch do not count.
    let caught = catches.into_inner().into_values().next();
    Hunted {
        bug: bug.name.clone(),
        first_seed,
        seeds: caught.as_ref().map_or(seeds_max.max(before), |catch| catch.seed - first_seed + 1),
        wall_seconds: wall_before + started.elapsed().as_secs_f64(),
        caught,
    }
}

fn tell(hunted: &Hunted) {
    match &hunted.caught {
        Some(Catch { seed, checker, words }) => {
            let first_line = words.lines().next().unwrap_or_default();
            println!(
                "{}: caught by seed {seed} after {} seeds: {checker}: {first_line}",
                hunted.bug, hunted.seeds
            );
        }
        None => println!("{}: not caught by {} seeds from {}", hunted.bug, hunted.seeds, hunted.first_seed),
    }
}

/// The catch in a report, if there is one.
fn catch(seed: u64, report: &Report) -> Option<Catch> {
    if !matches!(report.verdict, Verdict::Crashed | Verdict::Violated | Verdict::NotLive) {
        return None;
    }
    let mut findings = report.findings.iter().filter(|finding| !finding.starts_with("undecided: "));
    let finding = findings.next().map_or("it left no words", String::as_str);
    let of_a_checker = finding.strip_prefix("violated: ").or_else(|| finding.strip_prefix("not live: "));
    let (checker, words) = match of_a_checker.and_then(|finding| finding.split_once(": ")) {
        Some((checker, words)) if report.verdict != Verdict::Crashed => (checker, words),
        _ => ("crash", finding),
    };
    Some(Catch { seed, checker: checker.into(), words: words.into() })
}

/// Plays the calm world with each bug. Returns `true` if none is caught there.
fn check(bugs: &[&'static Bug]) -> bool {
    let planted = std::iter::once(None).chain(bugs.iter().map(|bug| Some(&*bug.name)));
    let seeds = 1..calm::SCENARIO.seeds + 1;
    let mut jobs = planted.flat_map(|planted| seeds.clone().map(move |seed| job(calm::NAME, seed, planted)));
    let mut noticed: BTreeMap<&str, String> = BTreeMap::new();
    play(
        at_a_time(),
        How::Quietly,
        || jobs.next(),
        |job, outcome| {
            if outcome.report.verdict != Verdict::Passed {
                let words = outcome.report.findings.first().cloned().unwrap_or_default();
                println!("{} seed {}: {words}", job.planted.unwrap_or("no bug"), job.seed);
                noticed.insert(job.planted.unwrap_or("no bug"), words);
            }
        },
    );
    println!("{} of {} planted bugs pass a calm day", bugs.len() - noticed.len().min(bugs.len()), bugs.len());
    noticed.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Verdict, findings: &[&str]) -> Report {
        let findings = findings.iter().map(ToString::to_string).collect();
        Report { verdict, findings, ..Report::crashed("chaos", 7, String::new(), Vec::new()) }
    }

    #[test]
    fn a_catch_names_its_judge_and_a_judge_that_gave_up_is_none() {
        assert_eq!(catch(7, &report(Verdict::Passed, &[])), None);
        assert_eq!(catch(7, &report(Verdict::HarnessError, &["undecided: linearizability: too long"])), None);
        let violated = ["undecided: linearizability: too long", "violated: durability: gone: all"];
        let caught = catch(7, &report(Verdict::Violated, &violated)).unwrap();
        assert_eq!((caught.checker.as_str(), caught.words.as_str()), ("durability", "gone: all"));
        let caught = catch(7, &report(Verdict::Crashed, &["panicked at src/map.rs:1: oh"])).unwrap();
        assert_eq!((caught.seed, caught.checker.as_str()), (7, "crash"));
    }
}
