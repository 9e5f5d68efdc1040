//! The state of a sweep as JSON lines, one for each run, so that it can be broken off at any moment and gone on with.
//!
//! A line that was cut short by a crash is as if it were not there: its seed is played again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::{Report, Verdict};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A seed was played.
    Run(Record),
    /// A seed was played once more, in another process.
    Again {
        /// Which.
        seed: u64,
        /// It left the same trace.
        same: bool,
    },
}

/// A run, as compact as it can be counted from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Which seed.
    pub seed: u64,
    /// How it ended.
    pub verdict: Verdict,
    /// Which judges complained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judges: Vec<String>,
    /// Simulated seconds.
    pub simulated: f64,
    /// Of them under faults.
    pub faulty: f64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Client operations by outcome.
    pub operations: BTreeMap<String, u64>,
    /// Situations, and how often each was reached.
    pub situations: BTreeMap<String, u64>,
    /// The trace.
    pub trace: (u64, u64),
    /// Real seconds.
    pub wall: f64,
}

impl Record {
    /// Of a run that is over.
    pub fn of(report: &Report, wall: f64) -> Record {
        let rounded = |seconds: f64| (seconds * 1e3).round() / 1e3;
        Record {
            seed: report.seed,
            verdict: report.verdict,
            judges: report.judges.clone(),
            simulated: rounded(report.simulated_seconds),
            faulty: rounded(report.fault_seconds),
            faults: report.faults.clone(),
            operations: report.operations.clone(),
            situations: report.situations.clone(),
            trace: (report.trace_hash, report.trace_events),
            wall: rounded(wall),
        }
    }
}

impl Line {
    /// As it stands in the file, with its end.
    pub fn to_text(&self) -> String {
        format!("{}\n", serde_json::to_string(self).expect("a record is plain data"))
    }
}

/// All whole lines of a state file.
pub fn read(text: &str) -> Vec<Line> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_was_cut_short_is_read_up_to_there() {
        let report = Report::crashed("chaos", 7, "boom".into(), vec![]);
        let lines = [Line::Run(Record::of(&report, 1.23456)), Line::Again { seed: 7, same: true }];
        let text: String = lines.iter().map(Line::to_text).collect();
        assert_eq!(read(&text), lines);
        assert_eq!(read(&text[..text.len() - 5]), lines[..1]);
    }
}
