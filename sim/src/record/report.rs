//! The report of one run: its world, what happened in it, the verdict. A child process prints it as one line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checkers::{Class, Finding};

/// The report of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// A description of the world that the seed drew.
    pub world: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The checkers' findings, in words.
    pub findings: Vec<String>,
    /// The checkers with findings.
    pub checkers: Vec<String>,
    /// For a failure: the events that matter.
    pub last_events: Vec<String>,
    /// Length of the run, in simulated seconds.
    pub simulated_seconds: f64,
    /// Simulated seconds during which faults were injected.
    pub fault_seconds: f64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Client operations by outcome.
    pub operations: BTreeMap<String, u64>,
    /// How often each marker was reached.
    #[serde(rename = "situations")]
    pub markers: BTreeMap<String, u64>,
    /// How often each encounter took place: see [`crate::world::encounters`].
    #[serde(default)]
    pub encounters: BTreeMap<String, u64>,
    /// Hash of all trace events.
    pub trace_hash: u64,
    /// Number of trace events.
    pub trace_events: u64,
}

/// How a run ended, from the worst to the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// The program under test panicked, or the run never ended.
    Crashed,
    /// A safety property does not hold.
    Violated,
    /// The same seed left two different traces.
    Unsteady,
    /// A liveness property does not hold.
    NotLive,
    /// The harness panicked, or a checker could not decide.
    HarnessError,
    /// All properties hold.
    Passed,
}

impl Verdict {
    /// As a word.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Crashed => "CRASHED",
            Verdict::Violated => "VIOLATED",
            Verdict::Unsteady => "UNSTEADY",
            Verdict::NotLive => "NOT LIVE",
            Verdict::HarnessError => "UNDECIDED",
            Verdict::Passed => "ok",
        }
    }

    /// As a sentence, for a reader who is new to it.
    pub fn meaning(self) -> &'static str {
        match self {
            Verdict::Crashed => "the program panicked, or the run never ended",
            Verdict::Violated => "a safety property does not hold",
            Verdict::Unsteady => "the same seed left two different traces",
            Verdict::NotLive => "what had to happen within a bound did not",
            Verdict::HarnessError => "the harness itself failed, or a checker could not decide",
            Verdict::Passed => "all properties hold",
        }
    }

    /// The runner's exit code if this is the worst verdict. 1 is never used, 2 is a command that was not understood.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Passed => 0,
            Verdict::Crashed => 3,
            Verdict::Violated => 4,
            Verdict::HarnessError => 5,
            Verdict::NotLive => 6,
            Verdict::Unsteady => 7,
        }
    }

    /// The verdict over findings: the worst of their classes.
    pub fn over(findings: &[Finding]) -> Verdict {
        let of = |finding: &Finding| match finding.class {
            Class::Safety => Verdict::Violated,
            Class::Liveness => Verdict::NotLive,
            Class::Undecided => Verdict::HarnessError,
        };
        findings.iter().map(of).min().unwrap_or(Verdict::Passed)
    }

    /// The verdict over a panic at a location in the source, such as `sim/src/clients/client.rs:12:5`: bugs of the harness are
    /// no evidence against the program under test.
    pub fn over_panic(place: &str) -> Verdict {
        let of_harness = place.contains("sim/src/") && !place.contains(".cargo/");
        if of_harness { Verdict::HarnessError } else { Verdict::Crashed }
    }
}

/// Prefix of the line that carries a report.
const MARK: &str = "mokv-sim-report ";

impl Report {
    /// The report as one line.
    pub fn to_line(&self) -> String {
        format!("{MARK}{}", serde_json::to_string(self).expect("a report is plain data"))
    }

    /// Finds the report in the output of a child process.
    pub fn from_output(output: &str) -> Option<Report> {
        output.lines().rev().find_map(|line| serde_json::from_str(line.strip_prefix(MARK)?).ok())
    }

    /// The report for a child process that printed none.
    pub fn crashed(scenario: &str, seed: u64, words: String, last_events: Vec<String>) -> Report {
        Report {
            scenario: scenario.to_owned(),
            seed,
            world: String::new(),
            verdict: Verdict::Crashed,
            findings: vec![words],
            checkers: vec!["no report".into()],
            last_events,
            simulated_seconds: 0.0,
            fault_seconds: 0.0,
            faults: BTreeMap::new(),
            operations: BTreeMap::new(),
            markers: BTreeMap::new(),
            encounters: BTreeMap::new(),
            trace_hash: 0,
            trace_events: 0,
        }
    }

    /// Number of operations that were answered.
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

    #[test]
    fn each_way_to_fail_has_an_exit_code_and_the_worst_one_counts() {
        let finding = |class| Finding { class, checker: "a property", words: "it does not hold".into() };
        let over = |classes: &[Class]| {
            let findings: Vec<Finding> = classes.iter().map(|class| finding(*class)).collect();
            Verdict::over(&findings).exit_code()
        };
        assert_eq!(over(&[]), 0);
        assert_eq!(over(&[Class::Undecided]), 5);
        assert_eq!(over(&[Class::Undecided, Class::Liveness]), 6);
        assert_eq!(over(&[Class::Liveness, Class::Safety, Class::Undecided]), 4);
    }

    #[test]
    fn a_panic_of_the_harness_is_not_the_programs() {
        assert_eq!(Verdict::over_panic("sim/src/clients/client.rs:12:5").exit_code(), 5);
        assert_eq!(Verdict::over_panic("src/storage/log.rs:12:5").exit_code(), 3);
        let madsim = "/home/u/.cargo/registry/src/index/madsim-0.2.34/src/sim/src/x.rs:1:1";
        assert_eq!(Verdict::over_panic(madsim).exit_code(), 3);
    }
}
