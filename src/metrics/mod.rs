//! A node's metrics, and the port where Prometheus and probes request them.
//!
//! Request counters are kept here; positions, sizes and states are sampled at every scrape ([`Sampler`]), so that
//! nothing is counted twice. Independent of Raft.

pub mod http;
mod requests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use tonic::Code;

pub use requests::MethodName;
use requests::{Requests, RequestsCollector, latency_bounds};

use crate::storage::{LATENCY_BOUNDS, LatencyHistogram};

/// All metrics of one node.
pub struct Metrics {
    registry: Registry,
    requests: Arc<Requests>,
    connections: Gauge,
    turned_away: Family<TurnedLabels, Counter>,
    damage: Family<DamageLabels, Counter>,
    apply: Histogram,
}

/// The part of a node's data in which damage was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Damaged {
    /// In a segment of the log.
    Log,
    /// In a snapshot.
    Snapshot,
    /// In the state in memory.
    Memory,
}

impl Damaged {
    const ALL: [Damaged; 3] = [Damaged::Log, Damaged::Snapshot, Damaged::Memory];

    fn labels(self) -> DamageLabels {
        let what = match self {
            Damaged::Log => "log",
            Damaged::Snapshot => "snapshot",
            Damaged::Memory => "memory",
        };
        DamageLabels { what }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DamageLabels {
    what: &'static str,
}

/// The reason why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Turned {
    /// Not yet identified as a client or a peer, and closed in favour of newer connections.
    Arrival,
    /// A Raft peer.
    Peer,
    /// A client.
    Client,
    /// Its first bytes are neither gRPC nor Raft.
    Protocol,
}

impl Turned {
    const ALL: [Turned; 4] = [Turned::Arrival, Turned::Peer, Turned::Client, Turned::Protocol];

    fn labels(self) -> TurnedLabels {
        let kind = match self {
            Turned::Arrival => "arrival",
            Turned::Peer => "peer",
            Turned::Client => "client",
            Turned::Protocol => "protocol",
        };
        TurnedLabels { kind }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnedLabels {
    kind: &'static str,
}

impl Metrics {
    /// Returns metrics whose counters are zero. Requests are counted for `methods`; `sampler` is called at every scrape.
    pub fn new(sampler: Arc<dyn Sampler>, methods: impl IntoIterator<Item = MethodName>) -> Arc<Metrics> {
        let mut registry = Registry::with_prefix("mokv");
        let requests = Arc::new(Requests::new(methods));
        registry.register_collector(Box::new(RequestsCollector(requests.clone())));
        let connections = Gauge::default();
        registry.register("grpc_connections", "Open client connections", connections.clone());
        let turned_away = Family::<TurnedLabels, Counter>::default();
        // Exported from the start, so that the first event is visible as an increase.
        Turned::ALL.iter().for_each(|turned| drop(turned_away.get_or_create(&turned.labels())));
        registry.register(
            "connections_refused",
            "Connections refused, by kind: for want of a place, or because their first bytes are neither gRPC nor Raft",
            turned_away.clone(),
        );
        let damage = Family::<DamageLabels, Counter>::default();
        Damaged::ALL.iter().for_each(|damaged| drop(damage.get_or_create(&damaged.labels())));
        registry.register(
            "damage_found",
            "Damage found in this node's data, by part: a segment of the log, a snapshot, the state in memory",
            damage.clone(),
        );
        let apply = Histogram::new(latency_bounds().map(|bound| bound.as_secs_f64()));
        registry.register("apply_duration_seconds", "Time to apply one entry to the map", apply.clone());
        registry.register_collector(Box::new(SamplerCollector(sampler)));
        Arc::new(Metrics { registry, requests, connections, turned_away, damage, apply })
    }

    /// Counts a request to the method at index `place` of the list; `None`: to any other method, all in one row,
    /// because clients must not make the table grow.
    pub fn observe_request(&self, place: Option<usize>, code: Code, took: Duration) {
        self.requests.observe(place, code, took);
    }

    /// Counts an open connection until the guard is dropped.
    pub fn connection(&self) -> ConnectionGuard {
        self.connections.inc();
        ConnectionGuard(self.connections.clone())
    }

    /// Counts a connection that was refused.
    pub fn turned_away(&self, turned: Turned) {
        self.turned_away.get_or_create(&turned.labels()).inc();
    }

    /// Counts damage found in a file or in the state in memory.
    pub fn damage_found(&self, damaged: Damaged) {
        self.damage.get_or_create(&damaged.labels()).inc();
    }

    /// Records the time it took to apply an entry.
    pub fn observe_apply(&self, took: Duration) {
        self.apply.observe(took.as_secs_f64());
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a `String` never fails.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

/// See [`Metrics::connection`].
pub struct ConnectionGuard(Gauge);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The source of values that are sampled at every scrape.
pub trait Sampler: Send + Sync + 'static {
    /// Returns the current values.
    fn sample(&self) -> Sample;
}

/// The values that a [`Sampler`] returns.
#[derive(Default)]
pub struct Sample {
    /// Name, help and value of each gauge.
    pub gauges: Vec<(&'static str, &'static str, f64)>,
    /// Name, help and value of each counter.
    pub counters: Vec<(&'static str, &'static str, u64)>,
    /// Name, help and latencies of each histogram.
    pub histograms: Vec<(&'static str, &'static str, LatencyHistogram)>,
    /// The node's role, one of [`ROLES`].
    pub role: &'static str,
}

/// All roles of a node.
pub const ROLES: [&str; 9] = [
    "leader",
    "follower",
    "candidate",
    "learner",
    "waiting",
    "recovering",
    "quarantined",
    "removed",
    "stopping",
];

struct SamplerCollector(Arc<dyn Sampler>);

impl fmt::Debug for SamplerCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SamplerCollector")
    }
}

impl Collector for SamplerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let sample = self.0.sample();
        for (name, help, value) in sample.gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        for (name, help, value) in sample.counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        for (name, help, latencies) in sample.histograms {
            encode_latencies(
                encoder.encode_descriptor(name, help, None, MetricType::Histogram)?,
                &latencies,
            )?;
        }
        let role = Family::<RoleLabels, Gauge<i64, std::sync::atomic::AtomicI64>>::default();
        for name in ROLES {
            role.get_or_create(&RoleLabels { role: name }).set(i64::from(name == sample.role));
        }
        let help = "1 for this node's present role, 0 for every other role";
        role.encode(encoder.encode_descriptor("role", help, None, <Gauge as TypedMetric>::TYPE)?)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabels {
    role: &'static str,
}

fn encode_latencies(mut encoder: MetricEncoder<'_>, latencies: &LatencyHistogram) -> fmt::Result {
    let bounds = LATENCY_BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(latencies.buckets).collect();
    encoder.encode_histogram::<NoLabelSet>(latencies.sum.as_secs_f64(), latencies.count(), &buckets, None)
}

/// A counter shared between the code that increments it and the code that exports it.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Sampler for Fixed {
        fn sample(&self) -> Sample {
            let mut latencies = LatencyHistogram::default();
            latencies.buckets[0] = 3;
            Sample {
                gauges: vec![("raft_term", "The term", 7.0)],
                counters: vec![("log_batches", "Batches", 9)],
                histograms: vec![("fsync_duration_seconds", "Sync", latencies)],
                role: "leader",
            }
        }
    }

    #[test]
    fn what_was_counted_and_sampled_is_shown_once() {
        let metrics = Metrics::new(Arc::new(Fixed), [MethodName { service: "api.KV", method: "Get" }]);
        metrics.observe_request(Some(0), Code::Ok, Duration::from_millis(1));
        metrics.observe_request(None, Code::Unimplemented, Duration::from_millis(1));
        let open = metrics.connection();
        let text = metrics.render();
        for line in [
            "mokv_raft_term 7.0",
            "log_batches_total 9",
            "fsync_duration_seconds_count 3",
            // Without exactly this label Prometheus computes no quantile.
            "fsync_duration_seconds_bucket{le=\"+Inf\"} 3",
            "mokv_grpc_requests_total{service=\"api.KV\",method=\"Get\",code=\"OK\"} 1",
            "mokv_grpc_request_duration_seconds_bucket{le=\"0.0016\",service=\"api.KV\",method=\"Get\"} 1",
            "mokv_grpc_requests_total{service=\"unknown\",method=\"unknown\",code=\"UNIMPLEMENTED\"} 1",
            "mokv_grpc_connections 1",
            "role{role=\"leader\"} 1",
            "role{role=\"follower\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing from\n{text}");
        }
        drop(open);
        assert!(metrics.render().contains("mokv_grpc_connections 0"));
    }
}
