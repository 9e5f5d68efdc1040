//! Request counters by method and status, without a lock: every request of every connection updates them.
//!
//! The table has one row per method that the node serves, and one for all others; clients cannot make it grow. A scrape
//! may include a request in one of its two metrics and not yet in the other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use tonic::Code;

/// The number of latency buckets with an upper bound: 50 us, then each twice the one before, up to 6.6 s. One more
/// bucket holds slower requests.
const BUCKETS: usize = 18;
const FIRST_BUCKET: Duration = Duration::from_micros(50);

/// All gRPC codes; the index is the code's number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A method: the names of its service and itself, as in gRPC's paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MethodName {
    /// The service's name with its package.
    pub service: &'static str,
    /// The method's name without its service.
    pub method: &'static str,
}

/// The row for methods that this node does not serve.
const UNKNOWN: MethodName = MethodName { service: "unknown", method: "unknown" };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    service: &'static str,
    method: &'static str,
    code: &'static str,
}

/// The counters of all methods.
#[derive(Debug)]
pub(super) struct Requests(Vec<Row>);

#[derive(Debug)]
struct Row {
    name: MethodName,
    by_code: [AtomicU64; CODES.len()],
    by_latency: [AtomicU64; BUCKETS + 1],
    sum_nanos: AtomicU64,
}

impl Row {
    fn new(name: MethodName) -> Row {
        Row {
            name,
            by_code: Default::default(),
            by_latency: Default::default(),
            sum_nanos: AtomicU64::new(0),
        }
    }
}

impl Requests {
    pub(super) fn new(methods: impl IntoIterator<Item = MethodName>) -> Requests {
        // The last row is for all other methods.
        Requests(methods.into_iter().chain([UNKNOWN]).map(Row::new).collect())
    }

    /// Counts a request to the method at index `place` of the list; `None`: to any other method.
    pub(super) fn observe(&self, place: Option<usize>, code: Code, took: Duration) {
        let others = self.0.len() - 1;
        let row = &self.0[place.filter(|place| *place < others).unwrap_or(others)];
        let add = |counter: &AtomicU64, more| counter.fetch_add(more, Ordering::Relaxed);
        add(&row.by_code[code as usize], 1);
        let bucket = latency_bounds().position(|bound| took <= bound).unwrap_or(BUCKETS);
        add(&row.by_latency[bucket], 1);
        add(&row.sum_nanos, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// The upper bounds of the latency buckets.
pub(super) fn latency_bounds() -> impl Iterator<Item = Duration> {
    (0..BUCKETS).map(|bucket| FIRST_BUCKET * (1 << bucket))
}

/// Exports [`Requests`] at every scrape, without what is zero.
#[derive(Debug)]
pub(super) struct RequestsCollector(pub(super) Arc<Requests>);

impl Collector for RequestsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let help = "Requests by method and status code";
        let mut requests = encoder.encode_descriptor("grpc_requests", help, None, MetricType::Counter)?;
        for row in &self.0.0 {
            let MethodName { service, method } = row.name;
            for (count, code) in row.by_code.iter().map(get).zip(CODES).filter(|(count, _)| *count > 0) {
                let labels = RequestLabels { service, method, code };
                requests
                    .encode_family(&labels)?
                    .encode_counter(&count, None::<&Exemplar<NoLabelSet, u64>>)?;
            }
        }
        let (name, help) = ("grpc_request_duration_seconds", "Time from request to answer, by method");
        let mut durations = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for row in &self.0.0 {
            let limits = latency_bounds().map(|bound| bound.as_secs_f64()).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = limits.zip(row.by_latency.iter().map(get)).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            if count > 0 {
                let sum = Duration::from_nanos(get(&row.sum_nanos)).as_secs_f64();
                durations
                    .encode_family(&row.name)?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_at_the_places_of_their_numbers() {
        for (number, name) in CODES.iter().enumerate() {
            let code = Code::from(i32::try_from(number).unwrap());
            let expected: String = format!("{code:?}").to_uppercase();
            assert_eq!(expected, name.replace('_', ""), "{number}");
        }
    }

    #[test]
    fn latencies_fall_into_the_first_bucket_that_holds_them() {
        let requests = Requests::new([]);
        for micros in [10, 50, 51, 99_000_000] {
            requests.observe(None, Code::Ok, Duration::from_micros(micros));
        }
        let counts = requests.0[0].by_latency.each_ref().map(|count| count.load(Ordering::Relaxed));
        assert_eq!((counts[0], counts[1], counts[BUCKETS]), (2, 1, 1));
        assert_eq!(requests.0[0].by_code[0].load(Ordering::Relaxed), 4);
    }
}
