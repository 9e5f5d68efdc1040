//! Tests of the log and the snapshots under simulated faults, and of the same behaviour on real files.

mod aimed;
mod basics;
mod crashes;
mod damage;
mod model;
mod scrub;
mod snapshots;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Log, LogConfig, LogEntry, Owner, Position};
use crate::node_id::NodeId;

const OWNER: Owner = Owner { node_id: NodeId(0xabcd), cluster_id: [7; 16] };

/// Small segments, so that everything happens often. No mark is written merely because the log is idle.
fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 4096,
        cache_bytes: 2000,
        max_batch_bytes: 3000,
        idle_mark_delay: Duration::from_secs(3600),
        recycled_segments: 2,
        reserve_bytes: 0,
        space_check_interval: Duration::from_secs(3600),
        ..LogConfig::default()
    }
}

fn at(term: u64, index: u64) -> Position {
    Position { term, index }
}

fn entry(term: u64, index: u64, length: usize) -> LogEntry {
    let payload: Vec<u8> = (0..length).map(|byte| (byte as u64 * 31 + index * 7 + term) as u8).collect();
    LogEntry { term, index, payload: payload.into() }
}

/// Appends entries and waits until they are durable.
async fn append(log: &Log, entries: Vec<LogEntry>) {
    let (done, durable) = tokio::sync::oneshot::channel();
    log.append(entries, move |result| drop(done.send(result))).unwrap();
    durable.await.unwrap().unwrap();
}

async fn read_all(log: &Log) -> Vec<LogEntry> {
    log.read(0..u64::MAX, u64::MAX).await.unwrap()
}

fn vote(number: u8) -> Bytes {
    Bytes::from(vec![number; 20])
}

/// Waits until the log has stopped, for any reason.
async fn stopped(log: &Log) {
    log.failure().wait_for(|failure| failure.is_some()).await.unwrap();
}

/// The highest number of an operation whose callback received `Ok`.
#[derive(Clone, Default)]
struct Acknowledged(Arc<std::sync::atomic::AtomicUsize>);

impl Acknowledged {
    fn up_to(&self, operation: usize) {
        self.0.fetch_max(operation, std::sync::atomic::Ordering::SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}
