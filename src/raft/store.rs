//! The node's copy of the replicated state: reads use it, and callers wait here until an entry is applied.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use openraft::EntryPayload;
use tokio::sync::oneshot;
use xxhash_rust::xxh3::xxh3_128;

use super::observer::Observer;
use super::types::{LogId, RaftEntry, Reply, SnapshotMeta, StoredMembership};
use super::wire::{entry_to_storage, membership_to_wire};
use crate::map::{Answer, Applied, Command, Map, UnknownCommand, Unsound};
use crate::metrics::Metrics;
use crate::rt::lock::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::rt::{self, watch};

/// Digests are recorded at log indexes that are multiples of this.
pub const DIGEST_INTERVAL: u64 = 256;
/// How many recorded digests are kept for comparison with other nodes.
const DIGESTS_KEPT: usize = 64;

/// The state and its position, swapped together.
#[derive(Default)]
pub struct State {
    /// Keys, values, sessions, settings.
    pub map: Map,
    /// The last applied entry.
    pub applied: Option<LogId>,
    /// The newest membership that was applied.
    pub membership: StoredMembership,
}

impl State {
    /// Applies one entry.
    ///
    /// # Errors
    /// If this build does not know the command: nothing may be applied after it.
    pub(super) fn apply(&mut self, entry: &RaftEntry) -> Result<Applied, UnknownCommand> {
        let command = match &entry.payload {
            EntryPayload::Blank => Command::Blank,
            EntryPayload::Normal(payload) => Command::decode(&payload.0)?,
            EntryPayload::Membership(membership) => Command::Membership(membership_to_wire(membership)),
        };
        if let Some(applied) = self.applied {
            assert_eq!(entry.log_id.index, applied.index + 1, "an entry was left out, or is applied twice");
            assert!(entry.log_id >= applied, "entry {} has an earlier term than {applied}", entry.log_id);
        }
        let revision = self.map.revision();
        let applied = self.map.apply(entry.log_id.index, &command);
        let expected = revision + u64::from(!applied.changes.is_empty());
        assert_eq!(self.map.revision(), expected, "changes take one revision, and nothing else does");
        assert!(
            applied.changes.iter().all(|change| change.new.revision() == expected),
            "a change has the store's revision"
        );
        self.applied = Some(entry.log_id);
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
        }
        Ok(applied)
    }

    /// A clone of the map (O(1)) and the metadata of a snapshot of it.
    pub fn frozen(&self) -> (Map, SnapshotMeta) {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        (self.map.clone(), meta)
    }

    /// A digest of the membership and its log id: equal on equal replicas.
    fn members_digest(&self) -> u128 {
        let at = self.membership.log_id().map_or([0; 2], |at| [at.leader_id.term, at.index]);
        let mut bytes: Vec<u8> = at.into_iter().flat_map(u64::to_le_bytes).collect();
        let members = Command::Membership(membership_to_wire(self.membership.membership()));
        bytes.extend_from_slice(&members.encode());
        xxh3_128(&bytes)
    }
}

/// The replicated state of this node.
pub struct Store {
    state: RwLock<State>,
    waiting: Mutex<Waiting>,
    digests: Mutex<VecDeque<(u64, u128)>>,
    revision: watch::Sender<u64>,
    /// Why the last requested snapshot was not taken.
    snapshot_declined: watch::Sender<String>,
    /// Set once the state in memory was found not to be what was applied to it.
    rotten: watch::Sender<Option<Unsound>>,
    observer: Option<Arc<dyn Observer>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Waiting {
    applied: u64,
    by_index: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
}

impl Store {
    /// An empty state.
    pub fn new(observer: Option<Arc<dyn Observer>>, metrics: Arc<Metrics>) -> Arc<Store> {
        Arc::new(Store {
            state: RwLock::default(),
            waiting: Mutex::default(),
            digests: Mutex::default(),
            revision: watch::channel(Map::FIRST_REVISION).0,
            snapshot_declined: watch::channel(String::new()).0,
            rotten: watch::channel(None).0,
            observer,
            metrics,
        })
    }

    /// The observer of this node.
    pub(super) fn observer(&self) -> Option<Arc<dyn Observer>> {
        self.observer.clone()
    }

    /// Locks the state for reading. Hold the lock briefly: applying waits for it.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    /// Waits until the entry at `index` is applied.
    pub async fn wait_applied(&self, index: u64) {
        let done = {
            let mut waiting = self.waiting.lock();
            if waiting.applied >= index {
                return;
            }
            let (sender, done) = oneshot::channel();
            waiting.by_index.entry(index).or_default().push(sender);
            done
        };
        // The sender is kept until it is used.
        let _ = done.await;
    }

    /// Waits until the store's revision is at least `revision`.
    pub async fn wait_revision(&self, revision: u64) {
        // The sender exists as long as the store.
        let _ = self.revision.subscribe().wait_for(|now| *now >= revision).await;
    }

    /// Changes, to the reason, whenever a requested snapshot is not begun.
    pub fn snapshot_declined(&self) -> watch::Receiver<String> {
        self.snapshot_declined.subscribe()
    }

    /// Records why a requested snapshot is not begun.
    pub(super) fn decline_snapshot(&self, reason: String) {
        self.snapshot_declined.send(reason);
    }

    /// Records that the state in memory is not what was applied to it: from now on no snapshot is made of it. The
    /// caller has to stop serving it. The first finding is kept.
    pub fn find_rotten(&self, found: Unsound) {
        self.rotten.send_if_modified(|rotten| {
            let is_first = rotten.is_none();
            rotten.get_or_insert(found);
            is_first
        });
    }

    /// Set once the state in memory was found not to be what was applied to it.
    pub fn rotten(&self) -> watch::Receiver<Option<Unsound>> {
        self.rotten.subscribe()
    }

    /// Damages the state as failing memory does (see [`Map::flip_bit`]).
    #[cfg(any(test, feature = "sim"))]
    pub fn flip_bit(&self, key: &[u8], bit: usize) -> bool {
        self.write().map.flip_bit(key, bit)
    }

    /// Recorded digests, oldest first.
    pub fn digests(&self) -> Vec<(u64, u128)> {
        self.digests.lock().iter().copied().collect()
    }

    /// Applies one committed entry.
    ///
    /// # Errors
    /// If this node does not know the command: it must stop before it applies anything else.
    pub(super) fn apply(&self, entry: &RaftEntry) -> Result<Reply, UnknownCommand> {
        let started = rt::now();
        let (answer, revision) = {
            let mut state = self.write();
            (self.apply_to(&mut state, entry)?, state.map.revision())
        };
        self.advance(entry.log_id.index, revision);
        self.metrics.observe_apply(rt::now() - started);
        Ok(Reply { answer, revision })
    }

    /// Applies entries that were committed before this node started; no caller waits for them.
    ///
    /// # Errors
    /// As [`Store::apply`], with the entry.
    pub(super) fn replay<'a>(&self, entries: &'a [RaftEntry]) -> Result<(), (&'a RaftEntry, UnknownCommand)> {
        let mut state = self.write();
        for entry in entries {
            self.apply_to(&mut state, entry).map_err(|error| (entry, error))?;
        }
        let (applied, revision) = (state.applied, state.map.revision());
        drop(state);
        self.advance(applied.map_or(0, |applied| applied.index), revision);
        Ok(())
    }

    fn apply_to(&self, state: &mut State, entry: &RaftEntry) -> Result<Answer, UnknownCommand> {
        let sessions_before = state.map.sessions();
        let applied = state.apply(entry)?;
        mark(&applied, state.map.sessions() <= sessions_before);
        if let Some(observer) = &self.observer {
            let payload = entry_to_storage(entry).payload;
            observer.applied(entry.log_id, &payload, &applied.changes, state.map.digest());
            observer.members(entry.log_id, state.members_digest());
            observer.readable_from(entry.log_id, state.map.floor());
        }
        if entry.log_id.index.is_multiple_of(DIGEST_INTERVAL) {
            let mut digests = self.digests.lock();
            digests.push_back((entry.log_id.index, state.map.digest()));
            if digests.len() > DIGESTS_KEPT {
                digests.pop_front();
            }
        }
        Ok(applied.answer)
    }

    /// Replaces the state by a snapshot's.
    pub(super) fn install(&self, state: State) {
        let (at, revision) = (state.applied, state.map.revision());
        if let (Some(observer), Some(at)) = (&self.observer, at) {
            observer.installed(at, state.map.digest());
            observer.members(at, state.members_digest());
        }
        // The recorded digests are those of the replaced state, which may be the reason for the snapshot: they no
        // longer represent this node.
        self.digests.lock().clear();
        *self.write() = state;
        self.advance(at.map_or(0, |at| at.index), revision);
    }

    fn advance(&self, index: u64, revision: u64) {
        let ready = {
            let mut waiting = self.waiting.lock();
            assert!(waiting.applied <= index, "the state goes back from {} to {index}", waiting.applied);
            waiting.applied = index;
            let later = waiting.by_index.split_off(&(index + 1));
            std::mem::replace(&mut waiting.by_index, later)
        };
        for waiting in ready.into_values().flatten() {
            // The caller may have given up.
            let _ = waiting.send(());
        }
        self.revision.send_if_modified(|now| {
            assert!(*now <= revision, "the store's revision goes back from {now} to {revision}");
            let moved = *now != revision;
            *now = revision;
            moved
        });
    }
}

/// Emits the markers about sessions.
fn mark(applied: &Applied, no_session_more: bool) {
    match applied.answer {
        Answer::SessionOpened { .. } if no_session_more => rt::sometimes("session evicted"),
        Answer::SessionExpired => rt::sometimes("write of an ended session refused"),
        Answer::Written { .. } | Answer::Deleted { existed: true, .. } if applied.changes.is_empty() => {
            rt::sometimes("session deduplicated a retry");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Sample, Sampler};
    use crate::raft::types::log_id;

    struct Nothing;

    impl Sampler for Nothing {
        fn sample(&self) -> Sample {
            Sample::default()
        }
    }

    fn apply(store: &Store, indexes: std::ops::RangeInclusive<u64>) {
        for index in indexes {
            store.apply(&RaftEntry { log_id: log_id(1, index), payload: EntryPayload::Blank }).unwrap();
        }
    }

    #[test]
    fn digests_of_a_state_that_a_snapshot_replaced_are_forgotten() {
        let store = Store::new(None, Metrics::new(Arc::new(Nothing), []));
        apply(&store, 1..=DIGEST_INTERVAL * 2);
        let recorded = |store: &Store| store.digests().into_iter().map(|at| at.0).collect::<Vec<_>>();
        assert_eq!(recorded(&store), [DIGEST_INTERVAL, DIGEST_INTERVAL * 2]);
        let at = DIGEST_INTERVAL * 2 + 7;
        store.install(State { applied: Some(log_id(1, at)), ..State::default() });
        assert_eq!(recorded(&store), Vec::<u64>::new(), "they may be why a snapshot was needed");
        apply(&store, at + 1..=DIGEST_INTERVAL * 3);
        assert_eq!(recorded(&store), [DIGEST_INTERVAL * 3]);
    }

    #[test]
    #[should_panic(expected = "left out")]
    fn no_entry_is_left_out() {
        let store = Store::new(None, Metrics::new(Arc::new(Nothing), []));
        apply(&store, 1..=3);
        apply(&store, 5..=5);
    }
}
