//! The log's counters.

use std::time::Duration;

/// Upper bounds of the buckets of a [`LatencyHistogram`]; one more bucket holds longer times.
pub const LATENCY_BOUNDS: [Duration; 14] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(200),
    Duration::from_micros(400),
    Duration::from_micros(800),
    Duration::from_micros(1_600),
    Duration::from_micros(3_200),
    Duration::from_micros(6_400),
    Duration::from_micros(12_800),
    Duration::from_micros(25_600),
    Duration::from_micros(51_200),
    Duration::from_micros(204_800),
    Duration::from_micros(819_200),
    Duration::from_micros(3_276_800),
];

/// A histogram of durations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// Number of observations in each bucket; not cumulative.
    pub buckets: [u64; LATENCY_BOUNDS.len() + 1],
    /// The sum of all observations.
    pub sum: Duration,
}

impl LatencyHistogram {
    pub(super) fn observe(&mut self, took: Duration) {
        let bucket = LATENCY_BOUNDS.iter().position(|bound| took <= *bound).unwrap_or(LATENCY_BOUNDS.len());
        self.buckets[bucket] += 1;
        self.sum += took;
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Counters since the log was opened, and its present state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogMetrics {
    /// Batches made durable.
    pub batches: u64,
    /// Of those, empty batches that only mark the previous batch as durable.
    pub marks: u64,
    /// Entries made durable.
    pub entries: u64,
    /// Bytes written to segments.
    pub bytes_written: u64,
    /// Segments that became the active one.
    pub rotations: u64,
    /// Time that the write and sync of a batch took.
    pub write_and_sync: LatencyHistogram,
    /// Segments on disk that hold state, including the active one.
    pub segments: u64,
    /// Segments prepared for use.
    pub spares: u64,
    /// Payload bytes that wait to be written.
    pub queued_bytes: u64,
    /// What recent entries take in memory, in bytes.
    pub cached_bytes: u64,
    /// What the places of all entries take in memory, in bytes.
    pub index_bytes: u64,
    /// Free space in the file system, in bytes, at the last check.
    pub free_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_lands_in_the_first_bucket_that_holds_it() {
        let mut histogram = LatencyHistogram::default();
        for micros in [10, 50, 51, 10_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        assert_eq!((histogram.buckets[0], histogram.buckets[1], histogram.buckets[14]), (2, 1, 1));
        assert_eq!(histogram.count(), 4);
        assert!(LATENCY_BOUNDS.is_sorted());
    }
}
