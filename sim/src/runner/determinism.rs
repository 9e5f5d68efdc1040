//! The determinism check: a seed is played again in another process and must leave the same trace; a run that is made
//! non-deterministic on purpose must not.

use super::children::{self, How, Job};
use super::options::{CHAOS, DETERMINISM};

/// A description of the check.
pub const ABOUT: &str = "the same seed leaves the same trace in two processes, and an unsteady run does not";

/// How many runs are played again.
const REPEATED: usize = 5;

/// A check and its result.
pub struct Check {
    /// What was checked.
    pub name: String,
    /// The reason of the failure; `None`: the check passed.
    pub failure: Option<String>,
}

/// Checks a share of the runs that were played, evenly spaced: job, trace hash, number of trace events.
pub fn check(played: &[(Job, u64, u64)]) -> Vec<Check> {
    let mut fresh = Vec::new();
    let played = if played.is_empty() {
        // No run was played: two chaos seeds are played for the first time.
        fresh.extend((1..3).map(|seed| {
            let job = Job::new(CHAOS, seed);
            let report = children::play_one(job.clone(), How::Quietly).report;
            (job, report.trace_hash, report.trace_events)
        }));
        &fresh
    } else {
        played
    };
    let step = played.len().div_ceil(REPEATED).max(1);
    let mut checks: Vec<Check> = played.iter().rev().step_by(step).map(|run| again(run, false)).collect();
    checks.extend(played.last().map(|run| again(run, true)));
    checks
}

fn again((job, hash, events): &(Job, u64, u64), unsteady: bool) -> Check {
    let how = if unsteady { How::Unsteadily } else { How::Quietly };
    let report = children::play_one(job.clone(), how).report;
    let same = (report.trace_hash, report.trace_events) == (*hash, *events);
    let found = format!(
        "trace {hash:016x} of {events} events, then {:016x} of {}; find where they part with MOKV_TRACE=1 {}",
        report.trace_hash,
        report.trace_events,
        job.command()
    );
    if unsteady {
        let name = format!("{DETERMINISM}: {} seed {}, made unsteady, is noticed", job.scenario, job.seed);
        let failure = (report.trace_hash == *hash).then(|| "the trace does not see it".to_owned());
        return Check { name, failure };
    }
    Check {
        name: format!("{DETERMINISM}: {} seed {}", job.scenario, job.seed),
        failure: (!same).then_some(found),
    }
}
