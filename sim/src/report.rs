//! What one run tells: its world, what happened in it, the verdict. Travels from a child process as one line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One run of one seed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// What was played.
    pub scenario: String,
    /// With which seed.
    pub seed: u64,
    /// The world the seed drew, for people.
    pub world: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What judges found, in words.
    pub findings: Vec<String>,
    /// The last things that happened, for a failure.
    pub last_events: Vec<String>,
    /// Simulated seconds in all.
    pub simulated_seconds: f64,
    /// Simulated seconds under faults.
    pub fault_seconds: f64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Client operations by outcome.
    pub operations: BTreeMap<String, u64>,
    /// Situations that were reached, and how often.
    pub situations: BTreeMap<String, u64>,
    /// Hash over everything that crossed the seam.
    pub trace_hash: u64,
    /// How many events that was.
    pub trace_events: u64,
}

/// How a run ended, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// The program under test or the harness panicked, or the run never ended.
    Crashed,
    /// A property does not hold.
    Violated,
    /// A judge could not decide: an error of the harness.
    Undecided,
    /// All properties hold.
    Passed,
}

impl Verdict {
    /// As a word.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Crashed => "CRASHED",
            Verdict::Violated => "VIOLATED",
            Verdict::Undecided => "UNDECIDED",
            Verdict::Passed => "ok",
        }
    }
}

/// Begins the line that carries a report.
const MARK: &str = "mokv-sim-report ";

impl Report {
    /// As one line.
    pub fn to_line(&self) -> String {
        format!("{MARK}{}", serde_json::to_string(self).expect("a report is plain data"))
    }

    /// From the output of a child process.
    pub fn from_output(output: &str) -> Option<Report> {
        output.lines().rev().find_map(|line| serde_json::from_str(line.strip_prefix(MARK)?).ok())
    }

    /// A report of a run that left none.
    pub fn crashed(scenario: &str, seed: u64, words: String, last_events: Vec<String>) -> Report {
        Report {
            scenario: scenario.to_owned(),
            seed,
            world: String::new(),
            verdict: Verdict::Crashed,
            findings: vec![words],
            last_events,
            simulated_seconds: 0.0,
            fault_seconds: 0.0,
            faults: BTreeMap::new(),
            operations: BTreeMap::new(),
            situations: BTreeMap::new(),
            trace_hash: 0,
            trace_events: 0,
        }
    }

    /// Operations that were answered.
    pub fn completed(&self) -> u64 {
        self.operations.iter().filter(|(outcome, _)| outcome.starts_with("ok")).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_found_in_the_noise_of_its_process() {
        let mut report = Report::crashed("chaos", 7, "boom".into(), vec!["a".into()]);
        report.verdict = Verdict::Passed;
        let output = format!("noise\n{}\nmore noise", report.to_line());
        let read = Report::from_output(&output).unwrap();
        assert_eq!((read.seed, read.verdict, read.findings), (7, Verdict::Passed, vec!["boom".to_owned()]));
        assert!(Report::from_output("nothing").is_none());
    }
}
