//! What all runs together covered, as a table, and the lines that separate pass from fail for people and programs.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use super::children::{Job, Outcome};
use super::determinism::Check;
use crate::record::markers;
use crate::record::report::{Report, Verdict};

/// The sums over all runs.
#[derive(Default)]
pub struct Summary {
    rows: Vec<Row>,
    failures: Vec<String>,
    worst: Option<Verdict>,
    passed: usize,
    hashes: Vec<(Job, u64, u64)>,
    faults: BTreeMap<String, u64>,
    operations: BTreeMap<String, u64>,
    markers: BTreeMap<String, u64>,
    fault_seconds: f64,
}

struct Row {
    name: String,
    runs: u64,
    failed: u64,
    simulated_seconds: f64,
    operations: u64,
    faults: u64,
    wall: Duration,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, job: &Job, outcome: &Outcome) {
        let report = &outcome.report;
        let failed = report.verdict != Verdict::Passed;
        if failed {
            self.failures.push(format!("{:<9} {}", report.verdict.word(), job.command()));
            self.worsen(report.verdict);
        } else {
            self.passed += 1;
            self.hashes.push((job.clone(), report.trace_hash, report.trace_events));
        }
        self.count(report);
        let index = match self.rows.iter().position(|row| row.name == job.scenario) {
            Some(index) => index,
            None => {
                self.rows.push(Row::new(job.scenario));
                self.rows.len() - 1
            }
        };
        let row = &mut self.rows[index];
        row.runs += 1;
        row.failed += u64::from(failed);
        row.simulated_seconds += report.simulated_seconds;
        row.operations += report.completed();
        row.faults += report.faults.values().sum::<u64>();
        row.wall += outcome.wall;
    }

    fn count(&mut self, report: &Report) {
        let add = |sum: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>| {
            for (name, count) in more {
                *sum.entry(name.clone()).or_default() += count;
            }
        };
        add(&mut self.faults, &report.faults);
        add(&mut self.operations, &report.operations);
        add(&mut self.markers, &report.markers);
        self.fault_seconds += report.fault_seconds;
    }

    /// Adds checks that are not runs.
    pub fn add_checks(&mut self, checks: Vec<Check>) {
        for check in checks {
            match check.failure {
                None => {
                    println!("ok        {}", check.name);
                    self.passed += 1;
                }
                Some(words) => {
                    println!("FAILED    {}: {words}", check.name);
                    self.failures.push(format!("FAILED    {}", check.name));
                    self.worsen(Verdict::Unsteady);
                }
            }
        }
    }

    fn worsen(&mut self, verdict: Verdict) {
        self.worst = Some(self.worst.map_or(verdict, |worst| worst.min(verdict)));
    }

    /// The runs that passed: job, trace hash, number of trace events.
    pub fn hashes(&self) -> &[(Job, u64, u64)] {
        &self.hashes
    }

    /// Prints everything; the very last line is "N passed, N failed".
    pub fn print(&self) {
        println!(
            "\n{:<24} {:>5} {:>7} {:>12} {:>11} {:>7} {:>8}",
            "scenario", "runs", "failed", "simulated s", "operations", "faults", "wall s"
        );
        for row in &self.rows {
            println!(
                "{:<24} {:>5} {:>7} {:>12.0} {:>11} {:>7} {:>8.1}",
                row.name,
                row.runs,
                row.failed,
                row.simulated_seconds,
                row.operations,
                row.faults,
                row.wall.as_secs_f64()
            );
        }
        let simulated: f64 = self.rows.iter().map(|row| row.simulated_seconds).sum();
        println!("\nsimulated seconds: {simulated:.0}, of them {:.0} under faults", self.fault_seconds);
        println!("faults: {}", listed(&self.faults));
        println!("client operations: {}", listed(&self.operations));
        println!("markers: {}", listed(&self.markers));
        let unreached: Vec<&str> =
            markers::unreached(&self.markers).iter().map(|marker| marker.name).collect();
        if !unreached.is_empty() {
            println!("not reached by these runs: {}", unreached.join(", "));
        }
        if !self.failures.is_empty() {
            println!("\nfailures:");
            self.failures.iter().for_each(|failure| println!("  {failure}"));
        }
        println!("\n{} passed, {} failed", self.passed, self.failures.len());
    }

    /// The worst verdict's exit code: see [`Verdict::exit_code`].
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.worst.map_or(0, Verdict::exit_code))
    }
}

impl Row {
    fn new(name: &str) -> Row {
        Row {
            name: name.to_owned(),
            runs: 0,
            failed: 0,
            simulated_seconds: 0.0,
            operations: 0,
            faults: 0,
            wall: Duration::ZERO,
        }
    }
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "none".into();
    }
    counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}
