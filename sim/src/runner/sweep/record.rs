//! The lines of a sweep's journal, which keeps the results of its runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::record::report::{Report, Verdict};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A seed was played.
    Run(Record),
    /// A seed was played once more, in another process.
    Again {
        /// The seed.
        seed: u64,
        /// Whether it left the same trace.
        same: bool,
    },
}

/// The result of a run, with only what [`Totals`](super::totals::Totals) needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The seed.
    pub seed: u64,
    /// The verdict.
    pub verdict: Verdict,
    /// The checkers with findings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkers: Vec<String>,
    /// Length of the run, in simulated seconds.
    pub simulated: f64,
    /// Simulated seconds during which faults were injected.
    pub faulty: f64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Client operations by outcome.
    pub operations: BTreeMap<String, u64>,
    /// How often each marker was reached.
    #[serde(rename = "situations")]
    pub markers: BTreeMap<String, u64>,
    /// How often each encounter took place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub encounters: BTreeMap<String, u64>,
    /// Hash of the trace, and number of its events.
    pub trace: (u64, u64),
    /// Real seconds that the run took.
    pub wall: f64,
}

impl Record {
    /// The record of a run that is over; `wall` in real seconds.
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
            markers: report.markers.clone(),
            encounters: report.encounters.clone(),
            trace: (report.trace_hash, report.trace_events),
            wall: rounded(wall),
        }
    }
}
