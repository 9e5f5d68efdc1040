//! The state machine: every node applies the same entries to it and holds the same map.
//!
//! Data in, data out: [`Map::apply`] takes a log index and a [`Command`] and yields the answer and the change
//! it made. Beside keys and values the state has what decides answers: the store's revision, the sessions
//! with their first answers, the replicated settings, the tombstones of removed nodes, the cluster
//! version and the key of the digests that are shown. All of it is in the [digest](Map::digest) and in the [snapshot](Map::blocks).
//!
//! What holds at all times:
//! - Equal entries make equal maps: no decision depends on anything but the entry and the state. A node that
//!   refuses a request by a flag of its own does so before the request becomes an entry.
//! - Each write that changes the store takes the next revision, and nothing else does.
//! - A write of a session changes the store once, however many entries repeat it.
//!
//! There is no IO here, no clock, no task, no randomness, and no Raft: terms, votes and members are not its
//! business.

mod answer;
mod audit;
mod command;
mod digest;
mod key;
#[cfg(test)]
mod model;
mod sessions;
mod snapshot;
#[cfg(test)]
mod tests;

pub use answer::{Answer, UnknownAnswer};
pub use audit::{Audit, BlockSum, Unsound};
pub use command::{Command, UnknownCommand};
pub use digest::{DigestKey, ShownDigest};
pub use key::Key;
pub use snapshot::{Restore, RestoreError};

use bytes::Bytes;
use digest::{Digest, Item};
use imbl::OrdMap;
use mokv_proto::log::{self, SessionWrite};
use sessions::Sessions;
use std::fmt;
use std::ops::{Bound, RangeInclusive};

/// The replicated state. Cloning it is O(1): the copy shares what later writes do not touch.
#[derive(Clone, PartialEq)]
pub struct Map {
    entries: OrdMap<Key, Entry>,
    /// Keys and values together, in bytes.
    bytes: u64,
    /// Of the last write that changed the store.
    revision: u64,
    sessions: Sessions,
    settings: Settings,
    /// Node id to the name it had.
    tombstones: OrdMap<u64, String>,
    cluster_version: u32,
    digest_key: Option<DigestKey>,
    /// Of `entries` and `tombstones`; the rest is added when it is asked for.
    digest: Digest,
}

/// What a key holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision that wrote this value.
    pub mod_revision: u64,
    /// How often the key was written since it was created, from 1.
    pub version: u64,
}

/// What [`Settings::max_sessions`] may be set to. An entry of the log that says something else is older than this bound.
pub const MAX_SESSIONS: RangeInclusive<u64> = 1..=1_000_000;

/// What all nodes have to agree on, and is therefore changed by log entries alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Most sessions kept at a time, at least 1.
    pub max_sessions: u64,
    /// Most bytes of keys and values; 0: no bound. The store may be over it after the bound was lowered.
    pub max_store_bytes: u64,
    /// So many voters the cluster is to have; 0: as many as come. Decides no answer, but who is admitted.
    pub wanted_size: u32,
}

/// What applying a command did.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// What to tell whoever sent the command.
    pub answer: Answer,
    /// What changed in the store; no command changes more than one key.
    pub change: Option<Change>,
}

/// One key's step from one revision to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The store's revision by this change.
    pub revision: u64,
    /// The key.
    pub key: Key,
    /// What it held before; `None`: it did not exist.
    pub old: Option<Entry>,
    /// What it holds now; `None`: it was deleted.
    pub new: Option<Entry>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { max_sessions: 10_000, max_store_bytes: 0, wanted_size: 0 }
    }
}

impl Default for Map {
    fn default() -> Map {
        Map {
            entries: OrdMap::new(),
            bytes: 0,
            revision: 0,
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
    /// The cluster version before any entry has raised it.
    pub const FIRST_CLUSTER_VERSION: u32 = 1;

    /// The empty map, from which every node starts.
    pub fn new() -> Map {
        Map::default()
    }

    /// Applies the entry at a log index. The index becomes the id of a session that the entry opens, and is
    /// the time by which sessions are old or young.
    ///
    /// # Panics
    /// If the index shows that an entry is applied for the second time.
    pub fn apply(&mut self, index: u64, command: &Command) -> Applied {
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
            Command::Configure { max_sessions, max_store_bytes } => {
                self.configure(*max_sessions, *max_store_bytes)
            }
            Command::Tombstone { node_id, name } => {
                self.tombstone(*node_id, name);
                Answer::Done
            }
            Command::ClusterVersion(version) => {
                // It only rises: a late proposal of an older leader must not undo what entries rely on.
                self.cluster_version = self.cluster_version.max(*version);
                Answer::Done
            }
            Command::WantedSize(voters) => {
                self.settings.wanted_size = *voters;
                Answer::Done
            }
            Command::DigestKey(key) => {
                // Two leaders may each have drawn one.
                self.digest_key.get_or_insert(*key);
                Answer::Done
            }
        };
        Applied::unchanged(answer)
    }

    /// Applies a write unless its session has settled it. The session is asked first, before any condition or
    /// bound: a repeated write gets its first answer even where today's would be another.
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
        self.sessions.remember(session, applied.answer);
        applied
    }

    fn set(&mut self, set: &log::Set) -> Applied {
        let present = self.get(&set.key);
        if let Some(refused) = condition_fails(set.if_revision, present) {
            return Applied::unchanged(refused);
        }
        let bytes = match present {
            Some(old) => self.bytes - old.value.len() as u64 + set.value.len() as u64,
            None => self.bytes + (set.key.len() + set.value.len()) as u64,
        };
        // A write that does not grow the store is fine even above a bound that was lowered.
        let Settings { max_store_bytes, .. } = self.settings;
        if max_store_bytes != 0 && bytes > max_store_bytes && bytes > self.bytes {
            return Applied::unchanged(Answer::StoreFull { max_store_bytes });
        }

        let revision = self.revision + 1;
        let new = Entry {
            value: set.value.clone(),
            create_revision: present.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: present.map_or(1, |old| old.version + 1),
        };
        let key = Key::from(&*set.key);
        let old = self.insert(&key, new.clone());
        self.revision = revision;
        Applied {
            answer: Answer::Written { revision },
            change: Some(Change { revision, key, old, new: Some(new) }),
        }
    }

    fn delete(&mut self, delete: &log::Delete) -> Applied {
        if let Some(refused) = condition_fails(delete.if_revision, self.get(&delete.key)) {
            return Applied::unchanged(refused);
        }
        let Some((key, old)) = self.remove(&delete.key) else {
            return Applied::unchanged(Answer::Deleted { revision: self.revision, existed: false });
        };
        self.revision += 1;
        let revision = self.revision;
        Applied {
            answer: Answer::Deleted { revision, existed: true },
            change: Some(Change { revision, key, old: Some(old), new: None }),
        }
    }

    fn configure(&mut self, max_sessions: Option<u64>, max_store_bytes: Option<u64>) -> Answer {
        if let Some(max_sessions) = max_sessions {
            // At least one, or a session would be evicted by its own opening.
            self.settings.max_sessions = max_sessions.max(1);
            self.sessions.evict_beyond(self.settings.max_sessions);
        }
        if let Some(max_store_bytes) = max_store_bytes {
            self.settings.max_store_bytes = max_store_bytes;
        }
        let Settings { max_sessions, max_store_bytes, .. } = self.settings;
        Answer::Configured { max_sessions, max_store_bytes }
    }

    /// Bars a node id; the name of its first burial stays.
    fn tombstone(&mut self, node_id: u64, name: &str) {
        if !self.tombstones.contains_key(&node_id) {
            self.digest.add(Item::tombstone(node_id, name));
            self.tombstones.insert(node_id, name.to_owned());
        }
    }

    // The two doors to `entries`, which keep bytes and digest true.

    fn insert(&mut self, key: &Key, new: Entry) -> Option<Entry> {
        self.digest.add(Item::entry(key, &new));
        self.bytes += (key.len() + new.value.len()) as u64;
        let old = self.entries.insert(key.clone(), new)?;
        self.digest.remove(Item::entry(key, &old));
        self.bytes -= (key.len() + old.value.len()) as u64;
        Some(old)
    }

    fn remove(&mut self, key: &[u8]) -> Option<(Key, Entry)> {
        let (key, old) = self.entries.remove_with_key(key)?;
        self.digest.remove(Item::entry(&key, &old));
        self.bytes -= (key.len() + old.value.len()) as u64;
        Some((key, old))
    }

    /// What a key holds.
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Keys that begin with `prefix` and come after `start_after`, in byte order. Empty: all, from the first.
    pub fn range<'a>(
        &'a self,
        prefix: &'a [u8],
        start_after: &[u8],
    ) -> impl Iterator<Item = (&'a Key, &'a Entry)> + use<'a> {
        let start = match start_after {
            [] => Bound::Included(prefix),
            _ if start_after < prefix => Bound::Included(prefix),
            _ => Bound::Excluded(start_after),
        };
        self.entries
            .range::<_, [u8]>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// The store's revision: how many writes have changed it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Keys and values together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> u64 {
        self.sessions.len()
    }

    /// How many writes of one session may be unanswered at a time.
    pub fn session_window(&self) -> u64 {
        sessions::WINDOW
    }

    /// The replicated settings.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Ids and names of removed nodes, by rising id.
    pub fn tombstones(&self) -> impl Iterator<Item = (u64, &str)> {
        self.tombstones.iter().map(|(node_id, name)| (*node_id, name.as_str()))
    }

    /// Whether a node id was removed and must never be admitted again.
    pub fn is_tombstoned(&self, node_id: u64) -> bool {
        self.tombstones.contains_key(&node_id)
    }

    /// What every member of the cluster supports.
    pub fn cluster_version(&self) -> u32 {
        self.cluster_version
    }

    /// The key by which digests are shown. `None`: the cluster has none yet.
    pub fn digest_key(&self) -> Option<DigestKey> {
        self.digest_key
    }

    /// One number for the whole state, equal on replicas that are equal. O(1). It tells what was written: for nodes and
    /// snapshots only.
    pub fn digest(&self) -> u128 {
        self.digest.total(self.sessions.digest(), self.standing())
    }

    fn standing(&self) -> impl Iterator<Item = Item> + use<> {
        Item::standing(self.revision, &self.settings, self.cluster_version, self.digest_key.as_ref())
    }

    /// What people and clients see of [`Map::digest`]. `None`: the cluster has no key for it yet.
    pub fn shown_digest(&self) -> Option<ShownDigest> {
        self.digest_key.map(|key| key.show(self.digest()))
    }

    /// Sums the state up anew, to compare it with what is carried along.
    pub fn audit(&self) -> Audit<'_> {
        Audit::of(self)
    }

    /// Damages the state as failing memory does: one bit of a key's value is another one, and nobody is told. False if there
    /// is no such key, or its value is empty. For tests and the simulation; nothing else may call it.
    #[cfg(any(test, feature = "sim"))]
    pub fn flip_bit(&mut self, key: &[u8], bit: usize) -> bool {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| !entry.value.is_empty()) else {
            return false;
        };
        let mut value = entry.value.to_vec();
        let at = bit / 8 % value.len();
        value[at] ^= 1 << (bit % 8);
        entry.value = value.into();
        true
    }

    /// The state in encoded blocks, for a snapshot. [`Restore`] takes them back, in this order.
    pub fn blocks(&self) -> impl Iterator<Item = Bytes> {
        snapshot::blocks(self)
    }
}

/// The refusal, if the condition of a write does not hold.
fn condition_fails(if_revision: Option<u64>, present: Option<&Entry>) -> Option<Answer> {
    let present_revision = present.map_or(0, |entry| entry.mod_revision);
    (if_revision? != present_revision).then_some(Answer::ConditionFailed { present_revision })
}

impl Applied {
    fn unchanged(answer: Answer) -> Applied {
        Applied { answer, change: None }
    }
}

// Written by hand, because a map is too long for any message.
impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("revision", &self.revision)
            .field("keys", &self.keys())
            .field("bytes", &self.bytes)
            .field("sessions", &self.sessions())
            .field("settings", &self.settings)
            .field("cluster_version", &self.cluster_version)
            .field("digest", &self.shown_digest())
            .finish_non_exhaustive()
    }
}

// Written by hand, because values never appear in messages or logs.
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
