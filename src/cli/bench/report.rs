//! Adds up and shows the measurements.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::format::Format;
use crate::cli::output::{Output, Row};
use crate::client::Error;

/// The kinds of requests that are reported separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A write.
    Put,
    /// A read.
    Get,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Get => "get",
        }
    }
}

/// The results of a number of requests.
#[derive(Debug, Default)]
pub struct Measured {
    /// Time from the first request to the last answer.
    pub took: Duration,
    operations: BTreeMap<Operation, Answers>,
}

/// The results of the requests of one kind.
#[derive(Debug)]
struct Answers {
    /// Latencies of the requests that succeeded, in microseconds.
    latency: Histogram<u64>,
    /// Successful reads of absent keys.
    absent: u64,
    /// By kind: the number of errors and the first one.
    errors: BTreeMap<&'static str, (u64, Error)>,
}

const SLOWEST: Duration = Duration::from_secs(3600);

impl Answers {
    fn new() -> Answers {
        let bounds = Histogram::new_with_bounds(1, SLOWEST.as_micros() as u64, 3);
        Answers { latency: bounds.expect("the bounds are sound"), absent: 0, errors: BTreeMap::new() }
    }

    fn failed(&self) -> u64 {
        self.errors.values().map(|(count, _)| count).sum()
    }
}

impl Measured {
    /// Records one result: `Ok` with whether the key existed, or an error.
    pub fn record(&mut self, operation: Operation, latency: Duration, result: Result<bool, Error>) {
        let answers = self.operations.entry(operation).or_insert_with(Answers::new);
        match result {
            Ok(found) => {
                answers.latency.saturating_record(latency.as_micros() as u64);
                answers.absent += u64::from(!found);
            }
            Err(error) => answers.errors.entry(kind(&error)).or_insert((0, error)).0 += 1,
        }
    }

    /// Adds the results of another client.
    pub fn add(&mut self, other: &Measured) {
        for (operation, part) in &other.operations {
            let answers = self.operations.entry(*operation).or_insert_with(Answers::new);
            answers.latency.add(&part.latency).expect("all have the same bounds");
            answers.absent += part.absent;
            for (kind, (count, first)) in &part.errors {
                answers.errors.entry(kind).or_insert_with(|| (0, first.clone())).0 += count;
            }
        }
    }

    /// Whether no request succeeded.
    pub fn all_failed(&self) -> bool {
        self.operations.values().all(|answers| answers.latency.is_empty())
    }

    /// Returns one of the errors and its kind.
    pub fn first_error(&self) -> Option<(&'static str, Error)> {
        let mut errors = self.operations.values().flat_map(|answers| &answers.errors);
        errors.next().map(|(kind, (_, error))| (*kind, error.clone()))
    }
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::NotFound(_) => "not found",
        Error::ConditionFailed { .. } => "condition failed",
        Error::NotExecuted(_) => "not executed",
        Error::Unknown(_) => "unknown outcome",
        Error::Invalid(_) => "invalid",
        Error::ResourceExhausted(_) => "resource exhausted",
        Error::RevisionGone(_) => "revision gone",
        Error::Unavailable(_) => "unavailable",
        Error::Refused(_) => "refused",
    }
}

const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// Writes the figures.
///
/// # Errors
/// If stdout cannot be written to.
pub fn show(output: &mut Output, measured: &Measured) -> Result<(), Failure> {
    let took = measured.took.as_secs_f64();
    let row = |(operation, answers): (&Operation, &Answers)| {
        let per_second = answers.latency.len() as f64 / took;
        let latencies =
            PERCENTILES.iter().map(|(name, at)| (*name, answers.latency.value_at_percentile(*at)));
        let latencies: Vec<(&str, u64)> = latencies.chain([("max", answers.latency.max())]).collect();
        let mut cells = vec![
            operation.name().to_owned(),
            answers.latency.len().to_string(),
            answers.failed().to_string(),
            format!("{per_second:.0}"),
            milliseconds(answers.latency.mean()),
        ];
        cells.extend(latencies.iter().map(|(_, micros)| milliseconds(*micros as f64)));
        let errors: BTreeMap<_, _> = answers.errors.iter().map(|(kind, (count, _))| (kind, count)).collect();
        let micros: BTreeMap<_, _> = latencies.into_iter().collect();
        Row {
            cells,
            json: json!({
                "operation": operation.name(),
                "succeeded": answers.latency.len(),
                "failed": answers.failed(),
                "errors": errors,
                "absent": answers.absent,
                "seconds": took,
                "per_second": per_second,
                "mean_us": answers.latency.mean(),
                "latency_us": micros,
            }),
        }
    };
    output.rows(
        &["OPERATION", "OK", "FAILED", "PER SECOND", "MEAN MS", "P50", "P90", "P99", "P99.9", "MAX"],
        measured.operations.iter().map(row),
    )?;
    if output.format() != Format::Table {
        return Ok(());
    }
    output.line(format!("(in {took:.2} s)"))?;
    for (operation, answers) in &measured.operations {
        if answers.absent > 0 {
            output.line(format!("{} {}s found no such key", answers.absent, operation.name()))?;
        }
        for (kind, (count, first)) in &answers.errors {
            output.line(format!("{count} {}s failed, {kind}; the first: {first}", operation.name()))?;
        }
    }
    Ok(())
}

fn milliseconds(micros: f64) -> String {
    format!("{:.2}", micros / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        let mut all = Measured::default();
        for offset in [0, 50] {
            let mut part = Measured::default();
            for latency in 1..=50 {
                part.record(Operation::Put, Duration::from_millis(offset + latency), Ok(true));
            }
            part.record(Operation::Put, Duration::ZERO, Err(Error::Unknown("late".into())));
            part.record(Operation::Get, Duration::from_millis(1), Ok(false));
            all.add(&part);
        }
        let puts = &all.operations[&Operation::Put];
        assert_eq!((puts.latency.len(), puts.failed(), puts.errors["unknown outcome"].0), (100, 2, 2));
        let median = puts.latency.value_at_percentile(50.0);
        assert!((49_900..=50_100).contains(&median), "{median}");
        assert_eq!(all.operations[&Operation::Get].absent, 2);
        assert!(!all.all_failed());
    }

    #[test]
    fn nothing_but_errors_is_a_failure() {
        let mut measured = Measured::default();
        measured.record(Operation::Get, Duration::ZERO, Err(Error::Unavailable("nobody".into())));
        assert!(measured.all_failed());
        assert_eq!(measured.first_error().unwrap().0, "unavailable");
    }
}
