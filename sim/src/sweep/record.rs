//! What a sweep keeps of its runs: the lines of its journal.

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
    pub checkers: Vec<String>,
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
    /// What met what, and how often.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub encounters: BTreeMap<String, u64>,
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
            checkers: report.checkers.clone(),
            simulated: rounded(report.simulated_seconds),
            faulty: rounded(report.fault_seconds),
            faults: report.faults.clone(),
            operations: report.operations.clone(),
            situations: report.situations.clone(),
            encounters: report.encounters.clone(),
            trace: (report.trace_hash, report.trace_events),
            wall: rounded(wall),
        }
    }
}
