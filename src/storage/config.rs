//! The log's use of disk and memory.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The sizes that a segment may have, in bytes. A smaller one would hold few records beside its checkpoint; offsets in
/// a segment are 32 bits, and a batch may reach beyond its end.
pub const SEGMENT_BYTES: RangeInclusive<u64> = 64 << 10..=1 << 30;

/// The log's use of disk and memory.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Size of a segment. A larger one means fewer rotations, a longer start (the last segment is rewritten), and more
    /// space held by entries that are purged already.
    pub segment_bytes: u64,
    /// Payload bytes of the newest entries kept in memory, for followers that lag only a little.
    pub cache_bytes: u64,
    /// Requests are added to a batch until its payloads reach this, or half a segment.
    pub max_batch_bytes: u64,
    /// [`Log::ready`](super::Log::ready) waits while more payload than this is queued.
    pub max_queued_bytes: u64,
    /// After this idle time an empty batch marks the last batch as durable.
    pub idle_mark_delay: Duration,
    /// Segments prepared ahead, at least one. As long as there is one, Raft can write even if the disk is full.
    pub spare_segments: usize,
    /// Purged segments kept for reuse, beyond those prepared ahead; more if the log has more segments.
    pub recycled_segments: usize,
    /// [`Log::has_room`](super::Log::has_room) returns `false` while the file system has less free space than this.
    pub reserve_bytes: u64,
    /// The interval at which the free space is checked, and preparing a segment is retried after the disk was full.
    pub space_check_interval: Duration,
}

impl LogConfig {
    /// Maximum size of a batch: together with the checkpoint that begins a segment it fits into a prepared segment, and
    /// so needs no more space even if the disk is full. Only a single entry that is larger exceeds it.
    pub(super) fn batch_bytes(&self) -> u64 {
        self.max_batch_bytes.min(self.segment_bytes / 2)
    }

    /// The bytes of a segment for which the index knows one place: as much is read in vain where an entry is looked for.
    pub(super) fn run_bytes(&self) -> u64 {
        const RUN_BYTES: u64 = 8 << 10;
        RUN_BYTES.min(self.segment_bytes / 8)
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            segment_bytes: 32 << 20,
            cache_bytes: 32 << 20,
            max_batch_bytes: 4 << 20,
            max_queued_bytes: 16 << 20,
            idle_mark_delay: Duration::from_millis(50),
            spare_segments: 2,
            recycled_segments: 4,
            reserve_bytes: 64 << 20,
            space_check_interval: Duration::from_secs(1),
        }
    }
}
