//! openraft's log over [`crate::storage::Log`].
//!
//! What openraft has purged and what is deleted from the disk differ on purpose: entries after the *older* of the two
//! kept snapshots stay on disk, so that a damaged newest snapshot costs nothing but time.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};

use super::observer::{Found, Observer};
use super::peers::Peers;
use super::types::{LogId, RaftEntry, TypeConfig, Vote};
use super::wire::{
    Malformed, decode_vote, encode_vote, entry_from_storage, entry_to_storage, log_id_at, position,
};
use crate::rt;
use crate::rt::lock::Mutex;
use crate::storage::{Log, Snapshots, StorageError};

/// Entries sent with one append, unless one alone is larger.
const MAX_APPEND_BYTES: u64 = 1 << 20;

/// The replicated log on disk. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    log: Log,
    snapshots: Snapshots,
    /// What openraft has purged; it is ahead of what is deleted from the disk.
    purged: Arc<Mutex<Option<LogId>>>,
    /// Records how far members have acknowledged; `None` if this node has no peers.
    peers: Option<Arc<Peers>>,
    observer: Option<Arc<dyn Observer>>,
    /// The last committed position that this process saved. What an earlier one saved may be ahead of a disk that has
    /// lost entries since.
    committed: Option<LogId>,
}

impl LogStore {
    /// openraft's view of an open log. The acknowledgements that `peers` has recorded are saved with the next append;
    /// `observer` is called at each step of the log.
    pub fn new(
        log: Log,
        snapshots: Snapshots,
        peers: Option<Arc<Peers>>,
        observer: Option<Arc<dyn Observer>>,
    ) -> LogStore {
        let purged = log.state().purged.map(log_id_at);
        LogStore { log, snapshots, purged: Arc::new(Mutex::new(purged)), peers, observer, committed: None }
    }

    /// What the log holds, for the observer.
    pub(super) fn found(&self) -> Result<Found, Malformed> {
        let state = self.log.state();
        let vote = state.vote.map(|vote| decode_vote(&vote)).transpose()?;
        Ok(Found { vote, purged: state.purged.map(log_id_at), last: state.last.map(log_id_at) })
    }

    fn observe(&self, step: impl FnOnce(&dyn Observer)) {
        if let Some(observer) = &self.observer {
            step(&**observer);
        }
    }

    fn purged(&self) -> Option<LogId> {
        *self.purged.lock()
    }

    async fn read(&self, start: u64, end: u64, max_bytes: u64) -> io::Result<Vec<RaftEntry>> {
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
    ) -> Result<Vec<RaftEntry>, io::Error> {
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

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
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
        let last_log_id = self.log.last().map(log_id_at).max(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let saved = self.read_vote().await?;
        // A vote that is taken back can elect two leaders in one term.
        assert!(
            saved.as_ref().is_none_or(|saved| vote >= saved),
            "the vote {vote} does not follow {saved:?}"
        );
        self.log.save_vote(encode_vote(vote)).await.map_err(io::Error::other)?;
        self.observe(|observer| observer.voted(vote));
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            let before = self.committed.replace(committed);
            assert!(before <= Some(committed), "committed up to {committed} after {before:?}");
            // Written with the next batch: a lost mark only means that a few entries are applied a little later.
            self.log.save_committed(position(committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.state().committed.map(log_id_at))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().map(|entry| entry_to_storage(&entry)).collect();
        // Terms never decrease along the log (Raft thesis, 3.5); that no index is left out is checked by the log.
        let last = self.log.last().map(|last| last.term);
        let terms = last.into_iter().chain(entries.iter().map(|entry| entry.term));
        assert!(terms.is_sorted(), "an entry has an earlier term than the one before it");
        // This bounds the memory for entries that wait to be written.
        self.log.ready().await.map_err(io::Error::other)?;
        self.observe(|observer| {
            entries.iter().for_each(|entry| observer.appended(log_id_at(entry.position()), &entry.payload));
        });
        if let Some(acknowledged) = self.peers.as_ref().and_then(|peers| peers.positions().unsaved()) {
            self.log.save_acknowledged(acknowledged);
        }
        let last = entries.last().map(|entry| log_id_at(entry.position()));
        let observer = self.observer.clone();
        let durable = move |result: Result<(), StorageError>| {
            if let (Ok(()), Some(last), Some(observer)) = (&result, last, observer) {
                observer.acknowledged(last);
            }
            callback.io_completed(result.map_err(io::Error::other));
        };
        self.log.append(entries, durable).map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        if self.log.last().is_some_and(|end| last.is_none_or(|last| last.index < end.index)) {
            rt::sometimes("log conflict truncated");
        }
        assert!(
            self.committed.map(|committed| committed.index) <= last.map(|last| last.index),
            "truncating after {last:?} what is committed up to {:?}",
            self.committed
        );
        self.observe(|observer| observer.truncating(last));
        self.log.truncate_after(last.map(|id| id.index)).await.map_err(io::Error::other)?;
        self.observe(|observer| observer.truncated(last));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut purged = self.purged.lock();
            *purged = (*purged).max(Some(upto));
        }
        let jumped_a_gap = self.log.last().is_none_or(|last| last.index < upto.index);
        if jumped_a_gap {
            rt::sometimes("snapshot jumped a gap in the log");
        }
        let keep_from = match self.snapshots.list().get(1) {
            _ if jumped_a_gap => Some(position(upto)),
            Some(older) => Some(older.position.min(position(upto))),
            None => None,
        };
        match keep_from {
            Some(position) => {
                self.log.purge(position).await.map_err(io::Error::other)?;
                self.observe(|observer| observer.purged(log_id_at(position)));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::node_id::NodeId;
    use crate::raft::types::log_id;
    use crate::rt::disk::SimDisk;
    use crate::storage::{LogConfig, Owner};

    /// A log of three entries, the first two of which are committed.
    async fn store() -> LogStore {
        let disk = SimDisk::new(1).mount();
        let owner = Owner { node_id: NodeId(1), cluster_id: [1; 16] };
        let log = Log::open(disk.clone(), LogConfig::default(), owner).await.unwrap();
        let mut store = LogStore::new(log, Snapshots::open(disk).await.unwrap().0, None, None);
        store.append((1..=3).map(|index| blank(2, index)), IOFlushed::noop()).await.unwrap();
        store.save_committed(Some(log_id(2, 2))).await.unwrap();
        store
    }

    fn blank(term: u64, index: u64) -> RaftEntry {
        RaftEntry { log_id: log_id(term, index), payload: EntryPayload::Blank }
    }

    #[tokio::test]
    #[should_panic(expected = "what is committed")]
    async fn a_committed_entry_is_never_truncated() {
        let mut store = store().await;
        store.truncate_after(Some(log_id(2, 2))).await.unwrap();
        store.truncate_after(Some(log_id(2, 1))).await.unwrap();
    }

    #[tokio::test]
    #[should_panic(expected = "does not follow")]
    async fn a_vote_is_never_taken_back() {
        let mut store = store().await;
        store.save_vote(&Vote::new(4, NodeId(1))).await.unwrap();
        store.save_vote(&Vote::new(3, NodeId(1))).await.unwrap();
    }

    #[tokio::test]
    #[should_panic(expected = "earlier term")]
    async fn terms_never_decrease_along_the_log() {
        let mut store = store().await;
        store.append([blank(1, 4)], IOFlushed::noop()).await.unwrap();
    }

    #[tokio::test]
    #[should_panic(expected = "after Some")]
    async fn what_is_committed_stays_committed() {
        store().await.save_committed(Some(log_id(2, 1))).await.unwrap();
    }
}
