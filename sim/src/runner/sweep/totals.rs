//! The totals of a sweep: sums, distributions, markers that were reached, failures.
//!
//! A seed counts only if it passed, faults were injected for [`FEWEST_FAULT_SECONDS`], at least one of them took
//! effect, and [`FEWEST_OPERATIONS`] were completed: a run in which nothing could go wrong proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::record::{Line, Record};
use crate::record::markers::{self, SEEDS_THAT_REACH_ALL};
use crate::record::report::Verdict;
use crate::world::encounters;

/// Simulated seconds with faults below which a seed does not count.
pub const FEWEST_FAULT_SECONDS: f64 = 30.0;
/// Completed operations below which a seed does not count.
pub const FEWEST_OPERATIONS: u64 = 200;
/// The exit code of a sweep that passed and never reached some marker.
pub const UNREACHED: u8 = 8;

/// The sums over all runs.
#[derive(Debug, Default)]
pub struct Totals {
    runs: BTreeMap<u64, Numbers>,
    failures: BTreeMap<u64, (Verdict, Vec<String>)>,
    uncounted: BTreeSet<u64>,
    checked: BTreeMap<u64, bool>,
    faults: BTreeMap<String, u64>,
    operations: BTreeMap<String, u64>,
    markers: BTreeMap<String, u64>,
    encounters: BTreeMap<String, u64>,
    worst: Option<Verdict>,
    wall: f64,
}

/// The numbers of one run that distributions are made from.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    simulated: f64,
    faulty: f64,
    completed: u64,
    asked: u64,
    faults: u64,
    trace: (u64, u64),
}

impl Numbers {
    fn of(record: &Record) -> Numbers {
        let completed =
            record.operations.iter().filter(|(outcome, _)| outcome.starts_with("ok")).map(|(_, count)| count);
        Numbers {
            simulated: record.simulated,
            faulty: record.faulty,
            completed: completed.sum(),
            asked: record.operations.values().sum(),
            faults: record.faults.values().sum(),
            trace: record.trace,
        }
    }

    fn says_something(&self) -> bool {
        self.faults > 0 && self.faulty >= FEWEST_FAULT_SECONDS && self.completed >= FEWEST_OPERATIONS
    }
}

impl Totals {
    /// Adds a line of the journal.
    pub fn add(&mut self, line: &Line) {
        match line {
            Line::Run(record) => self.add_run(record),
            Line::Again { seed, same } => {
                self.checked.insert(*seed, *same);
                if !same {
                    self.worsen(Verdict::Unsteady);
                }
            }
        }
    }

    fn add_run(&mut self, record: &Record) {
        let numbers = Numbers::of(record);
        if self.runs.insert(record.seed, numbers).is_some() {
            return;
        }
        let sum = |sums: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>| {
            for (name, count) in more {
                *sums.entry(name.clone()).or_default() += count;
            }
        };
        sum(&mut self.faults, &record.faults);
        sum(&mut self.operations, &record.operations);
        sum(&mut self.markers, &record.markers);
        sum(&mut self.encounters, &record.encounters);
        self.wall += record.wall;
        if record.verdict != Verdict::Passed {
            self.failures.insert(record.seed, (record.verdict, record.checkers.clone()));
            self.worsen(record.verdict);
        } else if !numbers.says_something() {
            self.uncounted.insert(record.seed);
        }
    }

    fn worsen(&mut self, verdict: Verdict) {
        self.worst = Some(self.worst.map_or(verdict, |worst| worst.min(verdict)));
    }

    /// How many seeds were played.
    pub fn runs(&self) -> u64 {
        self.runs.len() as u64
    }

    /// Whether this seed was played.
    pub fn has(&self, seed: u64) -> bool {
        self.runs.contains_key(&seed)
    }

    /// Whether this seed was played again.
    pub fn is_checked(&self, seed: u64) -> bool {
        self.checked.contains_key(&seed)
    }

    /// The trace hash and number of events of a seed.
    pub fn trace(&self, seed: u64) -> Option<(u64, u64)> {
        self.runs.get(&seed).map(|numbers| numbers.trace)
    }

    /// Seeds that failed, with verdict and checkers.
    pub fn failures(&self) -> impl Iterator<Item = (u64, Verdict, &[String])> {
        self.failures.iter().map(|(seed, (verdict, checkers))| (*seed, *verdict, checkers.as_slice()))
    }

    /// Seeds whose two runs left different traces.
    pub fn unsteady(&self) -> impl Iterator<Item = u64> {
        self.checked.iter().filter(|(_, same)| !**same).map(|(seed, _)| *seed)
    }

    /// Number of seeds that count.
    pub fn counted(&self) -> u64 {
        (self.runs.len() - self.failures.len() - self.uncounted.len()) as u64
    }

    /// One line about the progress.
    pub fn progress(&self) -> String {
        let hours = self.sum(|numbers| numbers.simulated) / 3_600.0;
        let (reached, all) = markers::coverage(&self.markers);
        format!(
            "{hours:.2} h simulated, {} faults, {reached} of {all} markers, {} checked twice, {} failed",
            self.faults.values().sum::<u64>(),
            self.checked.len(),
            self.failures.len() + self.unsteady().count()
        )
    }

    fn sum(&self, of: impl Fn(&Numbers) -> f64) -> f64 {
        self.runs.values().map(of).sum()
    }

    /// Whether the sweep is long enough to reach every marker that it must, and some were not reached.
    pub fn is_too_tame(&self) -> bool {
        self.counted() >= SEEDS_THAT_REACH_ALL && !markers::unreached(&self.markers).is_empty()
    }

    /// The worst verdict's exit code; [`UNREACHED`] if all passed but some marker was not reached.
    pub fn exit_code(&self) -> u8 {
        match self.worst {
            Some(worst) => worst.exit_code(),
            None if self.is_too_tame() => UNREACHED,
            None => 0,
        }
    }

    /// The totals as text.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:<24} {:>10} {:>10} {:>10} {:>10}",
            "for each seed", "min", "median", "p90", "max"
        );
        self.row(&mut text, "simulated seconds", 1, |numbers| numbers.simulated);
        self.row(&mut text, "seconds under faults", 1, |numbers| numbers.faulty);
        self.row(&mut text, "operations", 0, |numbers| numbers.asked as f64);
        self.row(&mut text, "completed operations", 0, |numbers| numbers.completed as f64);
        self.row(&mut text, "share of successes, %", 1, |numbers| {
            100.0 * numbers.completed as f64 / numbers.asked.max(1) as f64
        });
        self.row(&mut text, "faults", 0, |numbers| numbers.faults as f64);
        let hours = |seconds: f64| seconds / 3_600.0;
        let _ = writeln!(
            text,
            "\nsimulated hours: {:.2}, of them {:.2} under faults, in {:.2} hours of one core",
            hours(self.sum(|numbers| numbers.simulated)),
            hours(self.sum(|numbers| numbers.faulty)),
            hours(self.wall)
        );
        let _ = writeln!(text, "faults: {}", listed(&self.faults));
        let _ = writeln!(text, "client operations: {}", listed(&self.operations));
        self.markers_to(&mut text);
        let _ = writeln!(
            text,
            "\nwhich fault struck which role in which situation:\n{}",
            encounters::table(&self.encounters)
        );
        let (same, different) = (self.checked.len() - self.unsteady().count(), self.unsteady().count());
        let _ = writeln!(
            text,
            "\ndeterminism: {} seeds were played again in another process, {same} left the same trace, {different} did not",
            self.checked.len()
        );
        let _ = writeln!(
            text,
            "{} of {} seeds count: they passed, with a fault at least, {FEWEST_FAULT_SECONDS} simulated seconds under faults \
             and {FEWEST_OPERATIONS} completed operations",
            self.counted(),
            self.runs.len()
        );
        if !self.uncounted.is_empty() {
            let seeds: Vec<String> = self.uncounted.iter().take(20).map(u64::to_string).collect();
            let more = if self.uncounted.len() > 20 { ", ..." } else { "" };
            let _ = writeln!(text, "passed, but do not count: {}{more}", seeds.join(", "));
        }
        text
    }

    fn markers_to(&self, text: &mut String) {
        let (reached, all) = markers::coverage(&self.markers);
        let _ = writeln!(text, "markers reached: {reached} of {all}");
        for marker in markers::ALL {
            if let Some(count) = self.markers.get(marker.name) {
                let _ = writeln!(text, "  {count:>9}  {}", marker.name);
            }
        }
        let unreached = markers::unreached(&self.markers);
        if !unreached.is_empty() {
            let verdict = if self.is_too_tame() { "FAILED: never reached" } else { "not reached (yet)" };
            let _ = writeln!(text, "{verdict}:");
            for marker in unreached {
                let _ = writeln!(text, "             {}: {}", marker.name, marker.meaning);
            }
        }
    }

    fn row(&self, text: &mut String, name: &str, digits: usize, of: impl Fn(&Numbers) -> f64) {
        let mut values: Vec<f64> = self.runs.values().map(of).collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&values, share);
        let _ = writeln!(
            text,
            "{name:<24} {:>10.digits$} {:>10.digits$} {:>10.digits$} {:>10.digits$}",
            at(0.0),
            at(0.5),
            at(0.9),
            at(1.0)
        );
    }
}

/// The value below which this share of the sorted values lies, by the nearest rank.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "none".into();
    }
    counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::report::Report;

    fn run(seed: u64, faulty: f64, completed: u64) -> Line {
        with_faults(1, seed, faulty, completed)
    }

    fn with_faults(faults: u64, seed: u64, faulty: f64, completed: u64) -> Line {
        let mut report = Report::crashed("chaos", seed, String::new(), vec![]);
        report.verdict = Verdict::Passed;
        report.checkers.clear();
        report.fault_seconds = faulty;
        report.faults = [("kill".to_owned(), faults)].into();
        report.operations = [("ok".to_owned(), completed), ("failed".to_owned(), 50)].into();
        report.markers = [("vote refused".to_owned(), 1)].into();
        Line::Run(Record::of(&report, 1.0))
    }

    #[test]
    fn a_seed_without_faults_or_operations_does_not_count() {
        let mut totals = Totals::default();
        for line in [run(1, 35.0, 300), run(2, 29.9, 300), run(3, 35.0, 199), with_faults(0, 4, 35.0, 300)] {
            totals.add(&line);
        }
        assert_eq!((totals.counted(), totals.exit_code()), (1, 0));
        let text = totals.to_text();
        assert!(text.contains("1 of 4 seeds count") && text.contains("do not count: 2, 3, 4"), "{text}");
        assert!(text.contains("not reached (yet)"), "{text}");
    }

    #[test]
    fn a_long_sweep_that_never_reached_something_fails_and_names_it() {
        let mut totals = Totals::default();
        (0..SEEDS_THAT_REACH_ALL).for_each(|seed| totals.add(&run(seed, 35.0, 300)));
        assert_eq!(totals.exit_code(), UNREACHED);
        assert!(totals.to_text().contains("FAILED: never reached:\n             torn tail recovered"));
    }

    #[test]
    fn a_seed_with_two_traces_and_a_crash_are_told_apart() {
        let mut totals = Totals::default();
        totals.add(&run(1, 35.0, 300));
        totals.add(&Line::Again { seed: 1, same: false });
        assert_eq!(totals.exit_code(), Verdict::Unsteady.exit_code());
        assert_eq!(totals.unsteady().collect::<Vec<_>>(), [1]);
        let crashed = Report::crashed("chaos", 2, "boom".into(), vec![]);
        totals.add(&Line::Run(Record::of(&crashed, 1.0)));
        assert_eq!(totals.exit_code(), Verdict::Crashed.exit_code());
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=10).map(f64::from).collect();
        let at = |share| quantile(&values, share);
        assert_eq!((at(0.0), at(0.5), at(0.9), at(1.0)), (1.0, 5.0, 9.0, 10.0));
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
