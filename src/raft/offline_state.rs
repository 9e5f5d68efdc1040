//! Restores the state from a node's files without Raft, for a node whose cluster no longer exists.

use std::io;

use super::snapshot::load;
use super::store::State;
use super::wire::entry_from_storage;
use crate::storage::{Log, Snapshots};

/// Bytes of entries that are in memory at a time, unless one alone is larger.
const READ_BYTES: u64 = 4 << 20;

/// Returns the state of the newest intact snapshot with every later entry of the log applied, **committed or not**:
/// without a quorum the two cannot be distinguished, and an acknowledged entry must not be lost.
///
/// # Errors
/// If a file cannot be read, there is a gap between the snapshot and the log, or an entry was written by a newer build.
pub async fn state(log: &Log, snapshots: &Snapshots) -> io::Result<State> {
    let mut state = match snapshots.newest() {
        Some(newest) => load(snapshots.reader(&newest).await.map_err(io::Error::other)?).await?,
        None => State::default(),
    };
    let bounds = log.state();
    let end = bounds.last.map_or(0, |last| last.index + 1);
    let mut next = state.applied.map_or(0, |applied| applied.index + 1);
    if let Some(purged) = bounds.purged.filter(|purged| purged.index >= next && end > next) {
        return Err(io::Error::other(format!(
            "the log begins after index {} and no sound snapshot reaches so far",
            purged.index
        )));
    }
    while next < end {
        let entries = log.read(next..end, READ_BYTES).await.map_err(io::Error::other)?;
        if entries.first().is_none_or(|first| first.index != next && state.applied.is_some()) {
            return Err(io::Error::other(format!("entry {next} is not in the log")));
        }
        for entry in entries {
            let entry = entry_from_storage(entry).map_err(io::Error::other)?;
            state.apply(&entry).map_err(|error| {
                io::Error::other(format!(
                    "entry {} cannot be applied: {error}; use a newer build",
                    entry.log_id
                ))
            })?;
            next = entry.log_id.index + 1;
        }
    }
    Ok(state)
}
