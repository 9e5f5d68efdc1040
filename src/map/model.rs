//! The map compared with a model that is simple enough to be trusted: sorted maps, lists, and everything computed anew.

use super::digest::{Digest, Item};
use super::{Answer, Command, DigestKey, Entry, Map, Restore};
use crate::node_id::NodeId;
use crate::replicated_settings::{Settings, SettingsChange};
use bytes::Bytes;
use mokv_proto::log::{self, SessionWrite};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};

#[derive(Default)]
struct Model {
    entries: BTreeMap<Vec<u8>, Entry>,
    revision: u64,
    sessions: BTreeMap<u64, ModelSession>,
    settings: Settings,
    tombstones: BTreeMap<NodeId, String>,
    cluster_version: u32,
    digest_key: Option<DigestKey>,
}

struct ModelSession {
    last_applied: u64,
    lowest: u64,
    answers: BTreeMap<u64, Answer>,
}

impl Model {
    fn new() -> Model {
        Model { revision: 1, cluster_version: 1, ..Model::default() }
    }

    fn bytes(&self) -> u64 {
        self.entries.iter().map(|(key, entry)| (key.len() + entry.value.len()) as u64).sum()
    }

    fn present_revision(&self, key: &[u8]) -> u64 {
        self.entries.get(key).map_or(0, |entry| entry.mod_revision)
    }

    /// The digest of the whole state, computed from nothing.
    fn digest(&self) -> u128 {
        let mut items = Vec::new();
        items.extend(self.entries.iter().map(|(key, entry)| Item::entry(key, entry)));
        items.extend(self.tombstones.iter().map(|(id, name)| Item::tombstone(*id, name)));
        for (id, session) in &self.sessions {
            items.push(Item::session(*id, session.last_applied, session.lowest));
            items.extend(
                session.answers.iter().map(|(sequence, answer)| Item::answer(*id, *sequence, *answer)),
            );
        }
        let mut digest = Digest::default();
        items.into_iter().for_each(|item| digest.add(item));
        Item::wanted_size(self.settings.wanted_size).into_iter().for_each(|item| digest.add(item));
        Item::digest_key(self.digest_key.as_ref()).into_iter().for_each(|item| digest.add(item));
        digest.total(Digest::default(), [Item::state(self.revision, &self.settings, self.cluster_version)])
    }

    fn apply(&mut self, index: u64, command: &Command) -> Answer {
        let write = match command {
            Command::Set(set) => set.session,
            Command::Delete(delete) => delete.session,
            _ => None,
        };
        let Some(write) = write else { return self.apply_now(index, command) };
        let Some(session) = self.sessions.get_mut(&write.session) else { return Answer::SessionExpired };
        session.last_applied = index;
        session.lowest = session.lowest.max(write.lowest_unanswered);
        let lowest = session.lowest;
        session.answers.retain(|sequence, _| *sequence >= lowest);
        if write.sequence < lowest || u128::from(write.sequence) >= u128::from(lowest) + 1024 {
            return Answer::OutOfWindow { lowest };
        }
        if let Some(first) = session.answers.get(&write.sequence) {
            return *first;
        }
        let answer = self.apply_now(index, command);
        self.sessions.get_mut(&write.session).unwrap().answers.insert(write.sequence, answer);
        answer
    }

    fn apply_now(&mut self, index: u64, command: &Command) -> Answer {
        match command {
            Command::Blank | Command::Membership(_) => Answer::Done,
            Command::Set(log::Set { key, value, if_revision, .. }) => {
                let present_revision = self.present_revision(key);
                if if_revision.is_some_and(|expected| expected != present_revision) {
                    return Answer::ConditionFailed { present_revision };
                }
                let (before, old) = (self.bytes(), self.entries.get(&key[..]).cloned());
                let (create_revision, version) =
                    old.as_ref().map_or((self.revision + 1, 1), |old| (old.create_revision, old.version + 1));
                let mod_revision = self.revision + 1;
                let new = Entry { value: value.clone(), create_revision, mod_revision, version };
                self.entries.insert(key.to_vec(), new);
                let bound = self.settings.max_store_bytes.map_or(0, NonZeroU64::get);
                if bound != 0 && self.bytes() > bound && self.bytes() > before {
                    match old {
                        Some(old) => self.entries.insert(key.to_vec(), old),
                        None => self.entries.remove(&key[..]),
                    };
                    return Answer::StoreFull { max_store_bytes: bound };
                }
                self.revision += 1;
                Answer::Written { revision: self.revision }
            }
            Command::Delete(log::Delete { key, if_revision, .. }) => {
                let present_revision = self.present_revision(key);
                if if_revision.is_some_and(|expected| expected != present_revision) {
                    return Answer::ConditionFailed { present_revision };
                }
                let existed = self.entries.remove(&key[..]).is_some();
                self.revision += u64::from(existed);
                Answer::Deleted { revision: self.revision, existed }
            }
            Command::OpenSession => {
                let session = ModelSession { last_applied: index, lowest: 1, answers: BTreeMap::new() };
                self.sessions.insert(index, session);
                self.evict();
                Answer::SessionOpened { session: index }
            }
            Command::CloseSession { session } => {
                Answer::SessionClosed { existed: self.sessions.remove(session).is_some() }
            }
            Command::Configure(SettingsChange { max_sessions, max_store_bytes }) => {
                self.settings.max_sessions = max_sessions.unwrap_or(self.settings.max_sessions).max(1);
                self.settings.max_store_bytes = max_store_bytes.unwrap_or(self.settings.max_store_bytes);
                self.evict();
                let Settings { max_sessions, max_store_bytes, .. } = self.settings;
                let max_store_bytes = max_store_bytes.map_or(0, NonZeroU64::get);
                Answer::Configured { max_sessions, max_store_bytes }
            }
            Command::Tombstone { node_id, name } => {
                self.tombstones.entry(*node_id).or_insert_with(|| name.clone());
                Answer::Done
            }
            Command::ClusterVersion(version) => {
                self.cluster_version = self.cluster_version.max(*version);
                Answer::Done
            }
            Command::WantedSize(voters) => {
                self.settings.wanted_size = NonZeroU32::new(*voters);
                Answer::Done
            }
            Command::DigestKey(key) => {
                if self.digest_key.is_none() {
                    self.digest_key = Some(*key);
                }
                Answer::Done
            }
        }
    }

    fn evict(&mut self) {
        while self.sessions.len() as u64 > self.settings.max_sessions {
            let (&oldest, _) = self.sessions.iter().min_by_key(|(_, session)| session.last_applied).unwrap();
            self.sessions.remove(&oldest);
        }
    }
}

/// One step of a random run. Sessions and revisions are chosen relative to the state, so that they often match.
#[derive(Debug, Clone)]
enum Step {
    Set { key: Vec<u8>, value: Vec<u8>, condition: Condition, session: Option<Write> },
    Delete { key: Vec<u8>, condition: Condition, session: Option<Write> },
    OpenSession,
    CloseSession { nth: usize },
    Configure { max_sessions: Option<u64>, max_store_bytes: Option<u64> },
    Tombstone { node_id: NodeId, name: String },
    ClusterVersion(u32),
    WantedSize(u32),
    DigestKey(DigestKey),
    Blank,
    SnapshotAndRestore,
}

#[derive(Debug, Clone, Copy)]
enum Condition {
    None,
    Present,
    Revision(u64),
}

#[derive(Debug, Clone, Copy)]
struct Write {
    nth: usize,
    sequence: u64,
    lowest_unanswered: u64,
}

impl Step {
    fn command(&self, model: &Model, opened: &[u64]) -> Option<Command> {
        // The sessions opened last, closed or not; if there are not enough, an id that was never opened.
        let nth = |nth: usize| opened.iter().rev().nth(nth).copied().unwrap_or(u64::MAX);
        let session = |write: Option<Write>| {
            write.map(|Write { nth: number, sequence, lowest_unanswered }| SessionWrite {
                session: nth(number),
                sequence,
                lowest_unanswered,
            })
        };
        let if_revision = |condition, key: &[u8]| match condition {
            Condition::None => None,
            Condition::Present => Some(model.present_revision(key)),
            Condition::Revision(revision) => Some(revision),
        };
        Some(match self.clone() {
            Step::Set { key, value, condition, session: write } => Command::Set(log::Set {
                if_revision: if_revision(condition, &key),
                key: key.into(),
                value: value.into(),
                session: session(write),
            }),
            Step::Delete { key, condition, session: write } => Command::Delete(log::Delete {
                if_revision: if_revision(condition, &key),
                key: key.into(),
                session: session(write),
            }),
            Step::OpenSession => Command::OpenSession,
            Step::CloseSession { nth: number } => Command::CloseSession { session: nth(number) },
            Step::Configure { max_sessions, max_store_bytes } => {
                let max_store_bytes = max_store_bytes.map(NonZeroU64::new);
                Command::Configure(SettingsChange { max_sessions, max_store_bytes })
            }
            Step::Tombstone { node_id, name } => Command::Tombstone { node_id, name },
            Step::ClusterVersion(version) => Command::ClusterVersion(version),
            Step::WantedSize(voters) => Command::WantedSize(voters),
            Step::DigestKey(key) => Command::DigestKey(key),
            Step::Blank => Command::Blank,
            Step::SnapshotAndRestore => return None,
        })
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Short keys that collide and share prefixes, and a few too long to be stored inline.
    prop_oneof![4 => vec(b'a'..=b'c', 1..3), 1 => vec(b'a'..=b'b', 1..2).prop_map(|key| key.repeat(45))]
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        6 => Just(Condition::None),
        2 => Just(Condition::Present),
        1 => (0..20u64).prop_map(Condition::Revision),
    ]
}

fn write() -> impl Strategy<Value = Option<Write>> {
    let sequence = prop_oneof![8 => 0..8u64, 1 => 1022..1030u64, 1 => Just(u64::MAX)];
    let lowest_unanswered = prop_oneof![20 => 0..5u64, 1 => Just(u64::MAX)];
    let write = (0..4usize, sequence, lowest_unanswered)
        .prop_map(|(nth, sequence, lowest_unanswered)| Write { nth, sequence, lowest_unanswered });
    prop_oneof![1 => Just(None), 3 => write.prop_map(Some)]
}

fn step() -> impl Strategy<Value = Step> {
    let set = (key(), vec(any::<u8>(), 0..20), condition(), write());
    prop_oneof![
        12 => set.prop_map(|(key, value, condition, session)| Step::Set { key, value, condition, session }),
        6 => (key(), condition(), write())
            .prop_map(|(key, condition, session)| Step::Delete { key, condition, session }),
        3 => Just(Step::OpenSession),
        1 => (0..4usize).prop_map(|nth| Step::CloseSession { nth }),
        1 => (prop::option::of(0..5u64), prop::option::of(0..200u64))
            .prop_map(|(max_sessions, max_store_bytes)| Step::Configure { max_sessions, max_store_bytes }),
        1 => (0..3u64, "[a-z]{0,3}").prop_map(|(id, name)| Step::Tombstone { node_id: NodeId(id), name }),
        1 => (0..5u32).prop_map(Step::ClusterVersion),
        1 => (0..4u32).prop_map(Step::WantedSize),
        1 => any::<u8>().prop_map(|byte| Step::DigestKey(DigestKey::new([byte; DigestKey::BYTES]))),
        1 => Just(Step::Blank),
        1 => Just(Step::SnapshotAndRestore),
    ]
}

fn restored(map: &Map) -> Map {
    let mut restore = Restore::new();
    map.blocks().for_each(|block| restore.add_block(&block).unwrap());
    restore.finish(map.digest()).unwrap()
}

fn listed(map: &Map, prefix: &[u8], start_after: &[u8]) -> Vec<(Vec<u8>, Entry)> {
    map.range(prefix, start_after).map(|(key, entry)| (key.to_vec(), entry.clone())).collect()
}

proptest! {
    #[test]
    fn the_map_behaves_as_the_model_does(
        steps in vec(step(), 1..150),
        prefix in vec(b'a'..=b'c', 0..3),
        start_after in vec(b'a'..=b'c', 0..3),
    ) {
        let (mut map, mut model) = (Map::new(), Model::new());
        let mut opened = Vec::new();
        let mut kept: Vec<(Map, Vec<Bytes>)> = Vec::new();
        for (step, index) in steps.iter().zip(1..) {
            let Some(command) = step.command(&model, &opened) else {
                let again = restored(&map);
                prop_assert_eq!(&again, &map);
                kept.push((map.clone(), map.blocks().collect()));
                map = again;
                continue;
            };
            let before = model.entries.clone();
            let revision_before = model.revision;
            let applied = map.apply(index, &command);
            prop_assert_eq!(applied.answer, model.apply(index, &command), "{:?}", command);
            if let Answer::SessionOpened { session } = applied.answer {
                opened.push(session);
            }

            // The change is exactly the difference, and there is a change exactly when the revision rose.
            let mut after = before;
            if let Some(change) = &applied.change {
                prop_assert_eq!(change.revision, revision_before + 1);
                let old = match change.new.clone() {
                    Some(new) => after.insert(change.key.to_vec(), new),
                    None => after.remove(&change.key[..]),
                };
                prop_assert_eq!(&old, &change.old);
            }
            prop_assert_eq!(applied.change.is_some(), model.revision > revision_before);
            prop_assert_eq!(&after, &model.entries);

            prop_assert_eq!(map.digest(), model.digest(), "{:?}", command);
            prop_assert_eq!(map.revision(), model.revision);
            prop_assert_eq!(map.keys(), model.entries.len() as u64);
            prop_assert_eq!(map.bytes(), model.bytes());
            prop_assert_eq!(map.sessions(), model.sessions.len() as u64);
            prop_assert_eq!(map.settings(), model.settings);
            prop_assert_eq!(map.cluster_version(), model.cluster_version);
            prop_assert_eq!(map.digest_key(), model.digest_key);
        }

        prop_assert_eq!(listed(&map, b"", b""), model.entries.clone().into_iter().collect::<Vec<_>>());
        let page: Vec<_> = model
            .entries
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix) && (start_after.is_empty() || **key > start_after))
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        prop_assert_eq!(listed(&map, &prefix, &start_after), page);
        for (key, entry) in &model.entries {
            prop_assert_eq!(map.get(key), Some(entry));
        }
        prop_assert_eq!(
            map.tombstones().map(|(id, name)| (id, name.to_owned())).collect::<BTreeMap<_, _>>(),
            model.tombstones
        );
        // The clones taken on the way have not changed since.
        for (clone, blocks) in kept {
            prop_assert_eq!(clone.blocks().collect::<Vec<_>>(), blocks);
        }
    }
}
