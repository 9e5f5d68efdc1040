//! Builds a node's state from its files: the newest snapshot, and the entries of the log after it.
//!
//! A start does this before Raft begins, so that entries are read in large pieces and applied many at a time; openraft
//! then finds nothing left to apply.

use std::io;

use super::snapshot::load;
use super::store::{State, Store};
use super::types::RaftEntry;
use super::wire::entry_from_storage;
use crate::map::UnknownCommand;
use crate::rt;
use crate::storage::{Log, Snapshots};

/// Bytes of entries that are in memory at a time, unless one alone is larger; they are applied in a few milliseconds.
const READ_BYTES: u64 = 1 << 20;

/// Brings an empty store to the last entry that the log knows to be committed.
///
/// # Errors
/// If a file cannot be read, entries are missing, or one was written by a newer build.
pub(super) async fn committed(store: &Store, log: &Log, snapshots: &Snapshots) -> io::Result<()> {
    if let Some(state) = newest(snapshots).await? {
        store.install(state);
    }
    let applied = store.read().applied.map(|applied| applied.index);
    let end = log.state().committed.map_or(0, |committed| committed.index + 1);
    replay(log, applied, end, |entries| store.replay(entries)).await
}

/// Returns the state of the newest snapshot with every later entry of the log applied, **committed or not**: without a
/// quorum, for a node whose cluster no longer exists, the two cannot be distinguished, and an acknowledged entry must not
/// be lost.
///
/// # Errors
/// If a file cannot be read, entries are missing, or one was written by a newer build.
pub async fn everything(log: &Log, snapshots: &Snapshots) -> io::Result<State> {
    let mut state = newest(snapshots).await?.unwrap_or_default();
    let applied = state.applied.map(|applied| applied.index);
    let end = log.state().last.map_or(0, |last| last.index + 1);
    replay(log, applied, end, |entries| {
        entries.iter().try_for_each(|entry| state.apply(entry).map(|_| ()).map_err(|error| (entry, error)))
    })
    .await?;
    Ok(state)
}

async fn newest(snapshots: &Snapshots) -> io::Result<Option<State>> {
    let Some(newest) = snapshots.newest() else { return Ok(None) };
    load(snapshots.reader(&newest).await.map_err(io::Error::other)?).await.map(Some)
}

/// An entry that this build does not know.
pub(super) type Unknown<'a> = (&'a RaftEntry, UnknownCommand);

/// Passes the entries after `applied` and before `end` to `apply`, in order and many at a time.
async fn replay(
    log: &Log,
    applied: Option<u64>,
    end: u64,
    mut apply: impl FnMut(&[RaftEntry]) -> Result<(), Unknown<'_>>,
) -> io::Result<()> {
    let mut next = applied.map_or(0, |applied| applied + 1);
    if let Some(purged) = log.purged().filter(|purged| purged.index >= next && end > next) {
        return Err(io::Error::other(format!(
            "the log begins after index {} and no sound snapshot reaches so far",
            purged.index
        )));
    }
    while next < end {
        let entries = log.read(next..end, READ_BYTES).await.map_err(io::Error::other)?;
        let entries = entries.into_iter().map(|entry| entry_from_storage(entry).map_err(io::Error::other));
        let entries: Vec<RaftEntry> = entries.collect::<io::Result<_>>()?;
        let is_next = entries.first().is_some_and(|first| first.log_id.index == next);
        let Some(last) = entries.last().filter(|_| is_next) else {
            return Err(io::Error::other(format!("entry {next} is not in the log")));
        };
        next = last.log_id.index + 1;
        apply(&entries).map_err(|(entry, error)| {
            io::Error::other(format!(
                "entry {} cannot be applied: {error}; this version of mokv is too old for the cluster: upgrade this \
                 node",
                entry.log_id
            ))
        })?;
        // Heartbeats and gossip are answered in between.
        rt::task::yield_now().await;
    }
    Ok(())
}
