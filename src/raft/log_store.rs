//! openraft's log over [`crate::storage::Log`].
//!
//! What openraft has purged and what is gone from the disk differ on purpose: entries after the *older* of the two
//! kept snapshots stay, so that a damaged newest snapshot costs nothing but time.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex};

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};

use super::types::{Entry, LogId, TypeConfig, Vote};
use super::wire::{decode_vote, encode_vote, entry_from_storage, entry_to_storage, log_id_at, position};
use crate::planted;
use crate::rt;
use crate::storage::{Log, Snapshots};

/// Entries sent with one append, unless one alone is larger.
const MAX_APPEND_BYTES: u64 = 1 << 20;

/// The replicated log on disk. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    log: Log,
    snapshots: Snapshots,
    /// What openraft was told is purged, ahead of what is gone from the disk.
    purged: Arc<Mutex<Option<LogId>>>,
}

impl LogStore {
    /// openraft's view of an open log.
    pub fn new(log: Log, snapshots: Snapshots) -> LogStore {
        let purged = log.state().purged.map(log_id_at);
        LogStore { log, snapshots, purged: Arc::new(Mutex::new(purged)) }
    }

    fn purged(&self) -> Option<LogId> {
        *self.purged.lock().expect("no code panics while it holds this lock")
    }

    async fn read(&self, start: u64, end: u64, max_bytes: u64) -> io::Result<Vec<Entry>> {
        let start = start.max(self.purged().map_or(0, |id| id.index + 1));
        if start >= end {
            return Ok(Vec::new());
        }
        let entries = self.log.read(start..end, max_bytes).await.map_err(io::Error::other)?;
        entries.into_iter().map(|entry| entry_from_storage(entry).map_err(io::Error::other)).collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, u64::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, MAX_APPEND_BYTES).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.log.state().vote.map(|vote| decode_vote(&vote)).transpose().map_err(io::Error::other)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id = self.purged();
        let last_log_id = self.log.state().last.map(log_id_at).max(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.log.save_vote(encode_vote(vote)).await.map_err(io::Error::other)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            // Rides in the next batch: a mark that is lost costs a few entries applied a little later.
            self.log.save_committed(position(committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.state().committed.map(log_id_at))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| entry_to_storage(&entry)).collect();
        // Memory for what waits to be written is bounded here.
        self.log.ready().await.map_err(io::Error::other)?;
        if planted::is("ack-before-fsync") {
            callback.io_completed(Ok(()));
            return self.log.append(entries, |_| {}).map_err(io::Error::other);
        }
        let durable = move |result: Result<(), _>| callback.io_completed(result.map_err(io::Error::other));
        self.log.append(entries, durable).map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        if self.log.state().last.is_some_and(|end| last.is_none_or(|last| last.index < end.index)) {
            rt::sometimes("log conflict truncated");
        }
        self.log.truncate_after(last.map(|id| id.index)).await.map_err(io::Error::other)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut purged = self.purged.lock().expect("no code panics while it holds this lock");
            *purged = (*purged).max(Some(upto));
        }
        let jumped_a_gap = self.log.state().last.is_none_or(|last| last.index < upto.index);
        if jumped_a_gap {
            rt::sometimes("snapshot jumped a gap in the log");
        }
        let keep_from = match self.snapshots.list().get(1) {
            _ if jumped_a_gap => Some(position(upto)),
            Some(older) => Some(older.position.min(position(upto))),
            None => None,
        };
        match keep_from {
            Some(position) => self.log.purge(position).await.map_err(io::Error::other),
            None => Ok(()),
        }
    }
}
