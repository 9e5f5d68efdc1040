//! Stands in for the `base2histogram` of crates.io under openraft.
//!
//! That one fills tables for every precision it knows, 25 MB of them, before the first node of a process starts: more than
//! all else that an empty node holds, and in the simulation, where each run is a process of its own and lasts a third of a
//! second, an eighth of all time.
//! openraft keeps histograms for statistics that are not compiled in (its feature `runtime-stats`); nothing reads them.
//! This one counts by powers of two and has what openraft names.

use std::fmt;
use std::marker::PhantomData;

/// One bucket for 0 and one for each length of a `u64` in bits.
const BUCKETS: usize = 65;

/// How often values of each length in bits were recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    data: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty one.
    #[must_use]
    pub fn new() -> Histogram<T> {
        Histogram { counts: [0; BUCKETS], data: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value this often.
    pub fn record_n(&mut self, value: u64, times: u64) {
        self.counts[(u64::BITS - value.leading_zeros()) as usize] += times;
    }

    /// How many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// A lower bound of the value below which this share of all values lies, within a factor of two; 0 without values.
    #[must_use]
    pub fn percentile(&self, share: f64) -> u64 {
        let rank = (self.total() as f64 * share).ceil() as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen > 0 && seen >= rank
        });
        bucket.map_or(0, least)
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Histogram<T> {
        Histogram::new()
    }
}

/// The least value of a bucket.
fn least(bucket: usize) -> u64 {
    if bucket == 0 { 0 } else { 1 << (bucket - 1) }
}

/// Percentiles of a histogram, each a lower bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values counted.
    pub samples: u64,
    /// Below it lie 0.1 % of them.
    pub p0_1: u64,
    /// Below it lies 1 %.
    pub p1: u64,
    /// Below it lie 5 %.
    pub p5: u64,
    /// Below it lie 10 %.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// Below it lie 90 %.
    pub p90: u64,
    /// Below it lie 99 %.
    pub p99: u64,
    /// Below it lie 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p50, p90, p99, p99_9, .. } = self;
        write!(
            f,
            "{samples} samples, half below {p50}, 90% below {p90}, 99% below {p99}, 99.9% below {p99_9}"
        )
    }
}

/// Several histograms, a line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart(Vec<(String, PercentileStats)>);

impl AsciiChart {
    /// An empty one.
    #[must_use]
    pub fn new() -> AsciiChart {
        AsciiChart::default()
    }

    /// With one more.
    #[must_use]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> AsciiChart {
        self.0.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_lower_bounds_within_a_factor_of_two() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p50, 0);
        (0..1000).for_each(|value| histogram.record(value));
        histogram.record(u64::MAX);
        for (share, value) in [(0.5, 500), (0.9, 900), (0.99, 990)] {
            let bound = histogram.percentile(share);
            assert!(bound <= value && value < bound * 2, "{share}: {bound}");
        }
        assert_eq!(histogram.percentile(1.0), 1 << 63);
        assert_eq!(histogram.total(), 1001);
    }

    #[test]
    fn a_chart_has_a_line_for_each() {
        let chart = AsciiChart::new().add("one", Histogram::<()>::new()).add("two", Histogram::<()>::new());
        assert_eq!(chart.to_string().lines().count(), 2);
    }
}
