//! The state machine: every node applies the same entries to it and holds the same map.
//!
//! Pure: [`Map::apply`] takes a log index and a [`Command`] and returns the answer and the change that it made. Beside
//! keys and values the state holds everything that decides answers: the store's revision, the sessions with their first
//! answers, the replicated settings, the tombstones of removed nodes, the cluster version and the key of the displayed
//! digests. The [digest](Map::digest) and the [snapshot](Map::blocks) cover all of it.
//!
//! Invariants:
//! - Equal entries make equal maps: a decision depends on nothing but the entry and the state. A node that rejects a
//!   request because of a flag of its own does so before the request becomes an entry.
//! - Each write that changes the store takes the next revision; nothing else does.
//! - A session's write changes the store once, however many entries repeat it.
//!
//! No IO, clock, task, randomness or Raft here: terms, votes and members are handled elsewhere.

mod answer;
mod audit;
mod command;
mod digest;
mod history;
#[cfg(test)]
mod model;
#[cfg(test)]
mod properties;
mod record;
mod sessions;
mod sizes;
mod snapshot;
#[cfg(test)]
mod tests;
mod txn;

pub use answer::{Answer, UnknownAnswer};
pub use audit::{Audit, BlockSum, Unsound};
pub use command::{Command, UnknownCommand};
pub use digest::{DigestKey, ShownDigest};
pub use history::Change;
pub use record::{ChangeAt, Record};
pub use snapshot::{Restore, RestoreError};
pub use txn::{OperationResult, Outcome, Results, ResultsMissing};

use crate::node_id::NodeId;
use bytes::Bytes;
use digest::{Digest, Item};
use history::{CannotCompact, History};
use imbl::OrdMap;
use mokv_proto::log::{self, SessionWrite};
use sessions::Sessions;
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Bound;
use std::sync::Arc;
use txn::{Plan, Planned};

use crate::replicated_settings::Settings;
use crate::transaction::{KeyRange, Transaction};

/// The replicated state. Cloning is O(1): the clone shares what later writes do not touch.
#[derive(Clone, PartialEq)]
pub struct Map {
    history: History,
    sessions: Sessions,
    settings: Settings,
    /// Node id to the node's last name.
    tombstones: OrdMap<NodeId, String>,
    cluster_version: u32,
    digest_key: Option<DigestKey>,
    /// Of `tombstones`; the other items are added on demand.
    digest: Digest,
}

/// The value and the revisions of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision that wrote this value.
    pub mod_revision: u64,
    /// Number of writes since the key was created, from 1.
    pub version: u64,
}

/// The result of applying a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The answer to the sender of the command.
    pub answer: Answer,
    /// The changes in the store, all of one revision, in order.
    pub changes: Vec<Change>,
}

impl Default for Map {
    fn default() -> Map {
        Map {
            history: History::at(Map::FIRST_REVISION),
            sessions: Sessions::default(),
            settings: Settings::default(),
            tombstones: OrdMap::new(),
            cluster_version: Map::FIRST_CLUSTER_VERSION,
            digest_key: None,
            digest: Digest::default(),
        }
    }
}

impl Map {
    /// The revision of an empty store; its first write makes the next one. So 0 is never a revision, and stands for the
    /// absence of a key where a condition names one.
    pub const FIRST_REVISION: u64 = 1;

    /// By so much the revision rises where a new cluster begins with the state of an old one: more than the old one can have
    /// made since, at a million a second for eleven days. In decimal, so that people recognise the old revision.
    pub const RENEWAL_GAP: u64 = 1_000_000_000_000;

    /// The steps of removal with each entry: more than a write adds, and few enough to take microseconds.
    const REMOVALS_PER_ENTRY: usize = 16;

    /// The steps of removal with [`Command::Prune`], and the most with an entry while the store is above its bound; they
    /// take about a millisecond.
    const REMOVALS_PER_PRUNE: usize = 1024;

    /// The cluster version before any entry has raised it.
    pub const FIRST_CLUSTER_VERSION: u32 = 1;

    /// The empty map, with which every node starts.
    pub fn new() -> Map {
        Map::default()
    }

    /// Applies the entry at a log index. The index becomes the id of a session that the entry opens, and is the time by
    /// which the age of sessions is measured.
    ///
    /// # Panics
    /// If the index shows that the entry was applied before.
    pub fn apply(&mut self, index: u64, command: &Command) -> Applied {
        let applied = self.execute(index, command);
        let steps = match command {
            Command::Prune => Map::REMOVALS_PER_PRUNE,
            // Twice as many as it adds, so that removal is never outrun.
            _ => Map::REMOVALS_PER_ENTRY + 2 * applied.changes.len(),
        };
        let _ = (0..steps).try_for_each(|_| self.history.remove_step().then_some(()));
        self.give_way();
        applied
    }

    /// Compacts the history of a store that is above its bound: first to the revisions that are kept whatever their age
    /// and size, then altogether.
    fn give_way(&mut self) {
        let Some(bound) = self.settings.max_store_bytes.map(NonZeroU64::get) else { return };
        let kept = self.revision().saturating_sub(self.settings.history_min_revisions);
        for _ in 0..Map::REMOVALS_PER_PRUNE {
            let can_give = self.size() + self.history_size() > bound
                && (self.history.remove_step()
                    || self.history.compact(kept).is_ok()
                    || self.history.compact(self.revision()).is_ok());
            if !can_give {
                break;
            }
        }
    }

    fn execute(&mut self, index: u64, command: &Command) -> Applied {
        let answer = match command {
            Command::Blank | Command::Membership(_) => Answer::Done,
            Command::Set(set) => return self.once(index, set.session.as_ref(), |map| map.set(set)),
            Command::Delete(delete) => {
                return self.once(index, delete.session.as_ref(), |map| map.delete(delete));
            }
            Command::OpenSession => {
                self.sessions.open(index, self.settings.max_sessions);
                Answer::SessionOpened { session: index }
            }
            Command::CloseSession { session } => {
                Answer::SessionClosed { existed: self.sessions.close(*session) }
            }
            Command::Configure(change) => {
                self.settings = change.applied_to(self.settings);
                self.sessions.evict_beyond(self.settings.max_sessions);
                Answer::Done
            }
            Command::Tombstone { node_id, name } => {
                self.tombstone(*node_id, name);
                Answer::Done
            }
            Command::ClusterVersion(version) => {
                // Never lowered: a late proposal of an older leader must not undo what other entries rely on.
                self.cluster_version = self.cluster_version.max(*version);
                Answer::Done
            }
            Command::WantedSize(voters) => {
                self.settings.wanted_size = NonZeroU32::new(*voters);
                Answer::Done
            }
            Command::DigestKey(key) => {
                // Two leaders may each have proposed one; the first stays.
                self.digest_key.get_or_insert(*key);
                Answer::Done
            }
            Command::Compact { revision } => match self.history.compact(*revision) {
                Ok(()) => Answer::Compacted { floor: *revision, raised: true },
                Err(CannotCompact::Compacted { floor }) => Answer::Compacted { floor, raised: false },
                Err(CannotCompact::Future { present }) => Answer::FutureRevision { present },
            },
            Command::Prune => Answer::Done,
            Command::Transaction { transaction, session } => {
                return self.once(index, session.as_ref(), |map| map.transact(transaction));
            }
        };
        Applied::unchanged(answer)
    }

    /// Applies a write unless its session has an answer to it. The session is checked before any condition or bound: a
    /// repeated write gets its first answer, even where the answer would differ today.
    fn once(
        &mut self,
        index: u64,
        session: Option<&SessionWrite>,
        write: impl FnOnce(&mut Map) -> Applied,
    ) -> Applied {
        let Some(session) = session else { return write(self) };
        if let Some(answer) = self.sessions.settled(index, session) {
            return Applied::unchanged(answer);
        }
        let applied = write(self);
        self.sessions.remember(session, applied.answer.clone());
        applied
    }

    fn set(&mut self, set: &log::Set) -> Applied {
        let present = self.get(&set.key);
        if let Some(refused) = condition_fails(set.if_revision, present) {
            return Applied::unchanged(refused);
        }
        let written = sizes::VERSION_BYTES + (set.key.len() + set.value.len()) as u64;
        let replaced = present.map_or(0, Record::size);
        if let Some(full) = self.too_full_for(written, replaced) {
            return Applied::unchanged(full);
        }

        let (old, at) = (present.cloned(), self.next_change());
        let change = self.history.write(old, &set.key, &set.value, at);
        Applied { answer: Answer::Written { revision: at.revision }, changes: vec![change] }
    }

    /// The rejection of a write that adds so many bytes and takes the place of so many, if the store is too full for it. One
    /// that does not grow the store is allowed even above a bound that was lowered.
    fn too_full_for(&self, written: u64, replaced: u64) -> Option<Answer> {
        let bound = self.settings.max_store_bytes.map(NonZeroU64::get)?;
        let is_full = written > replaced && self.size() + (written - replaced) > bound;
        is_full.then_some(Answer::StoreFull { max_store_bytes: bound })
    }

    fn delete(&mut self, delete: &log::Delete) -> Applied {
        let present = self.get(&delete.key);
        if let Some(refused) = condition_fails(delete.if_revision, present) {
            return Applied::unchanged(refused);
        }
        let Some(old) = present.cloned() else {
            return Applied::unchanged(Answer::Deleted { revision: self.revision(), existed: false });
        };
        let at = self.next_change();
        let change = self.history.delete(old, at);
        Applied { answer: Answer::Deleted { revision: at.revision, existed: true }, changes: vec![change] }
    }

    fn transact(&mut self, transaction: &Transaction) -> Applied {
        let plan = match Plan::of(self, transaction) {
            Ok(plan) => plan,
            Err(refused) => return Applied::unchanged(refused),
        };
        if let Some(full) = self.too_full_for(plan.added_bytes, plan.removed_bytes) {
            return Applied::unchanged(full);
        }

        let first = self.next_change();
        let changes = plan.changes.into_iter().zip(0..).map(|(planned, place)| {
            let at = ChangeAt { place, ..first };
            match planned {
                Planned::Set { key, value, old } => self.history.write(old, key, value, at),
                Planned::Delete { old } => self.history.delete(old, at),
            }
        });
        let changes: Vec<Change> = changes.collect();
        let outcome = Outcome { revision: self.revision(), branches: plan.branches, deleted: plan.deleted };
        Applied { answer: Answer::Transaction(Arc::new(outcome)), changes }
    }

    /// The place of a change that the present entry makes.
    fn next_change(&self) -> ChangeAt {
        ChangeAt { revision: self.revision() + 1, place: 0 }
    }

    /// Excludes a node id; the name of its first tombstone stays.
    fn tombstone(&mut self, node_id: NodeId, name: &str) {
        if !self.tombstones.contains_key(&node_id) {
            self.digest.add(Item::tombstone(node_id, name));
            self.tombstones.insert(node_id, name.to_owned());
        }
    }

    /// Makes this the first state of a new cluster: no revision that the old one made, known here or not, can be read, and
    /// none is made again.
    pub fn begin_anew(&mut self) {
        self.history.leap(Map::RENEWAL_GAP);
    }

    /// The present version of a key; `None` if the key does not exist.
    pub fn get(&self, key: &[u8]) -> Option<&Record> {
        self.history.get(key)
    }

    /// The version of a key at a revision from the floor to the present one; `None` if the key did not exist.
    pub fn get_at(&self, key: &[u8], revision: u64) -> Option<&Record> {
        self.history.get_before(key, ChangeAt::after(revision))
    }

    /// The keys of a range that come after `start_after` (empty: all), in byte order, each with its version at a revision from
    /// the floor to the present one; `None`: it did not exist then, and exists or existed at another revision.
    pub fn range_at<'a>(
        &'a self,
        range: &'a KeyRange,
        start_after: &'a [u8],
        revision: u64,
    ) -> impl Iterator<Item = (&'a [u8], Option<&'a Record>)> + use<'a> {
        let start = match start_after {
            [] => Bound::Included(&range.start[..]),
            _ if *start_after < *range.start => Bound::Included(&range.start[..]),
            _ => Bound::Excluded(start_after),
        };
        self.history.range_before(start, range.end.as_deref(), ChangeAt::after(revision))
    }

    /// The versions of a key that revisions from `from` on show, and its deletions from there on, in ascending order. Below
    /// the floor nothing is shown: what lies there is gone, whether it is removed yet or not.
    pub fn versions_of<'a>(&'a self, key: &'a [u8], from: u64) -> impl Iterator<Item = &'a Record> + use<'a> {
        self.history.versions_of(key, from)
    }

    /// All changes of all keys from a place on, in the order in which they were made; none below the floor. The first is
    /// found in O(log n).
    pub fn changes_from(&self, start: ChangeAt) -> impl Iterator<Item = &Record> {
        self.history.changes_from(start)
    }

    /// The store's revision: [`Map::FIRST_REVISION`], and one more for each write that has changed it.
    pub fn revision(&self) -> u64 {
        self.history.revision()
    }

    /// Number of keys.
    pub fn keys(&self) -> u64 {
        self.history.keys()
    }

    /// Size of the keys that exist and their values, in bytes.
    pub fn bytes(&self) -> u64 {
        self.history.present_bytes()
    }

    /// Size of the keys that exist, in bytes.
    pub fn key_bytes(&self) -> u64 {
        self.history.key_bytes()
    }

    /// Size of what must be kept, in bytes: the keys that exist, their values, the sessions and the outcomes of their
    /// transactions, each with a fixed amount for what it takes besides its content. The bound of the store is compared with
    /// it.
    pub fn size(&self) -> u64 {
        self.bytes() + self.keys() * sizes::VERSION_BYTES + self.sessions_size()
    }

    /// Size of the sessions and the outcomes of their transactions, in bytes, each with a fixed amount for what it takes
    /// besides its content.
    pub fn sessions_size(&self) -> u64 {
        self.sessions() * sizes::SESSION_BYTES + self.sessions.outcome_bytes()
    }

    /// Size of the keys that exist, in bytes, each with a fixed amount for what it takes besides its content and its value.
    pub fn keys_size(&self) -> u64 {
        self.key_bytes() + self.keys() * sizes::VERSION_BYTES
    }

    /// Size of keys and values of earlier versions, and of deleted keys, in bytes.
    pub fn history_bytes(&self) -> u64 {
        self.history.past_bytes()
    }

    /// Size of earlier versions and deletions, in bytes, each with a fixed amount for what it takes besides its content.
    pub fn history_size(&self) -> u64 {
        self.history_bytes() + (self.versions() - self.keys()) * sizes::VERSION_BYTES
    }

    /// Whether there are versions that no revision shows any more.
    pub fn has_removable(&self) -> bool {
        self.history.has_removable()
    }

    /// About the lowest revision to which the history has to be compacted until its size is at most `size` bytes: the
    /// versions that are kept count as if they were of one size.
    pub fn floor_for(&self, size: u64) -> u64 {
        self.history.floor_for(self.history_size(), size)
    }

    /// Number of versions that are kept, present ones and deletions included.
    pub fn versions(&self) -> u64 {
        self.history.versions_kept()
    }

    /// The earliest revision that can be read.
    pub fn floor(&self) -> u64 {
        self.history.floor()
    }

    /// Number of open sessions.
    pub fn sessions(&self) -> u64 {
        self.sessions.len()
    }

    /// The size of the sessions in a snapshot, at most, in bytes.
    pub fn session_bytes(&self) -> u64 {
        const PER_SESSION: u64 = 64;
        self.sessions() * PER_SESSION + self.sessions.answer_bytes()
    }

    /// Maximum number of unanswered writes of one session.
    pub fn session_window(&self) -> u64 {
        sessions::WINDOW
    }

    /// The replicated settings.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Ids and names of removed nodes, in ascending order of id.
    pub fn tombstones(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.tombstones.iter().map(|(node_id, name)| (*node_id, name.as_str()))
    }

    /// Whether a node id was removed and must never be admitted again.
    pub fn is_tombstoned(&self, node_id: NodeId) -> bool {
        self.tombstones.contains_key(&node_id)
    }

    /// The version that every member of the cluster supports.
    pub fn cluster_version(&self) -> u32 {
        self.cluster_version
    }

    /// The key with which digests are displayed; `None` if the cluster has none yet.
    pub fn digest_key(&self) -> Option<DigestKey> {
        self.digest_key
    }

    /// The digest of the whole state, equal on replicas that are equal. O(1). It reveals what was written: for nodes
    /// and snapshots only.
    pub fn digest(&self) -> u128 {
        let history = [self.history.digest(), self.sessions.digest()];
        self.digest.total(history, self.standing())
    }

    fn standing(&self) -> impl Iterator<Item = Item> + use<> {
        Item::standing(
            self.revision(),
            self.history.progress(),
            &self.settings,
            self.cluster_version,
            self.digest_key.as_ref(),
        )
    }

    /// The displayed form of [`Map::digest`]; `None` if the cluster has no key yet.
    pub fn shown_digest(&self) -> Option<ShownDigest> {
        self.digest_key.map(|key| key.show(self.digest()))
    }

    /// Starts to recompute the digest and the size, to compare them with those maintained incrementally.
    pub fn audit(&self) -> Audit<'_> {
        Audit::of(self)
    }

    /// Damages the state as failing memory does: flips one bit of a key's value and updates no digest. Returns `false`
    /// if the key does not exist or its value is empty. For tests and the simulation; nothing else may call it.
    #[cfg(any(test, feature = "sim"))]
    pub fn flip_bit(&mut self, key: &[u8], bit: usize) -> bool {
        self.history.flip_bit(key, bit)
    }

    /// The state as encoded snapshot blocks. [`Restore`] takes them back in this order.
    pub fn blocks(&self) -> impl Iterator<Item = Bytes> {
        snapshot::blocks(self)
    }
}

/// The rejection, if the condition of a write does not hold.
fn condition_fails(if_revision: Option<u64>, present: Option<&Record>) -> Option<Answer> {
    let present_revision = present.map_or(0, Record::revision);
    (if_revision? != present_revision).then_some(Answer::ConditionFailed { present_revision })
}

impl Applied {
    fn unchanged(answer: Answer) -> Applied {
        Applied { answer, changes: Vec::new() }
    }
}

// Written by hand, because a map is too large for any message.
impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("revision", &self.revision())
            .field("keys", &self.keys())
            .field("bytes", &self.bytes())
            .field("sessions", &self.sessions())
            .field("settings", &self.settings)
            .field("cluster_version", &self.cluster_version)
            .field("digest", &self.shown_digest())
            .finish_non_exhaustive()
    }
}

// Written by hand, because values must not appear in messages or logs.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("value_bytes", &self.value.len())
            .field("create_revision", &self.create_revision)
            .field("mod_revision", &self.mod_revision)
            .field("version", &self.version)
            .finish()
    }
}
