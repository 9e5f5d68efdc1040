//! The map compared with a model that is simple enough to be trusted: sorted maps, lists, and everything computed anew.

use super::digest::{Digest, Item};
use super::history::{CannotCompact, History, Progress, Rebuild};
use super::{Answer, ChangeAt, Command, DigestKey, Entry, Map, Record, Restore};
use crate::node_id::NodeId;
use crate::replicated_settings::{Settings, SettingsChange};
use bytes::Bytes;
use mokv_proto::log::{self, SessionWrite};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Bound;

#[derive(Clone, Default)]
struct Model {
    /// All that ever were, in order.
    changes: Vec<ModelChange>,
    /// The earliest revision that can be read.
    floor: u64,
    /// The first change that is not dropped.
    start: usize,
    /// The first change that is not settled.
    settled_until: usize,
    revision: u64,
    sessions: BTreeMap<u64, ModelSession>,
    settings: Settings,
    tombstones: BTreeMap<NodeId, String>,
    cluster_version: u32,
    digest_key: Option<DigestKey>,
}

#[derive(Debug, Clone, PartialEq)]
struct ModelChange {
    key: Vec<u8>,
    at: ChangeAt,
    /// `None`: the key was deleted.
    entry: Option<Entry>,
}

impl ModelChange {
    fn record(&self) -> Record {
        match &self.entry {
            Some(Entry { value, create_revision, version, .. }) => {
                Record::written(&self.key, value, self.at, *create_revision, *version)
            }
            None => Record::deletion(&self.key, self.at),
        }
    }
}

#[derive(Clone)]
struct ModelSession {
    last_applied: u64,
    lowest: u64,
    answers: BTreeMap<u64, Answer>,
}

impl Model {
    fn new() -> Model {
        Model { revision: 1, floor: 1, cluster_version: 1, ..Model::default() }
    }

    /// A key at a revision.
    fn get_at(&self, key: &[u8], revision: u64) -> Option<&Entry> {
        let last = self.changes.iter().rfind(|change| change.key == key && change.at.revision <= revision);
        last?.entry.as_ref()
    }

    /// All keys at a revision.
    fn entries_at(&self, revision: u64) -> BTreeMap<Vec<u8>, Entry> {
        let mut entries = BTreeMap::new();
        for change in self.changes.iter().filter(|change| change.at.revision <= revision) {
            match &change.entry {
                Some(entry) => entries.insert(change.key.clone(), entry.clone()),
                None => entries.remove(&change.key),
            };
        }
        entries
    }

    fn entries(&self) -> BTreeMap<Vec<u8>, Entry> {
        self.entries_at(self.revision)
    }

    /// Whether the version that a change made is kept: a deletion until it is dropped, another one until a change that
    /// replaced it is settled.
    fn is_kept(&self, index: usize) -> bool {
        let change = &self.changes[index];
        match change.entry {
            None => index >= self.start,
            Some(_) => {
                let later = self.changes[..self.settled_until].iter().skip(index + 1);
                later.into_iter().all(|later| later.key != change.key)
            }
        }
    }

    /// The versions that are kept, by key and revision.
    fn records(&self) -> Vec<Record> {
        let kept = (0..self.changes.len()).filter(|index| self.is_kept(*index));
        let mut records: Vec<Record> = kept.map(|index| self.changes[index].record()).collect();
        records.sort_by(|a, b| (a.key(), a.at()).cmp(&(b.key(), b.at())));
        records
    }

    fn revision_of(&self, index: usize) -> u64 {
        self.changes.get(index).map_or(u64::MAX, |change| change.at.revision)
    }

    fn remove_step(&mut self) -> bool {
        let is_settled_below_the_floor =
            self.start < self.settled_until && self.revision_of(self.start) < self.floor;
        if !is_settled_below_the_floor {
            if self.revision_of(self.settled_until) > self.floor {
                return false;
            }
            self.settled_until += 1;
        }
        self.start += usize::from(self.revision_of(self.start) < self.floor);
        true
    }

    fn keep_within(&mut self, revisions: u64, bytes: u64, steps: usize) {
        self.floor = self.floor.max(self.revision.saturating_sub(revisions));
        let mut left = steps;
        loop {
            let is_over = self.bytes() - self.present_bytes() > bytes;
            if !is_over && left == 0 {
                break;
            }
            left -= usize::from(!is_over);
            if is_over && !self.clone().remove_step() {
                self.floor = self.floor.max(self.revision_of(self.settled_until).min(self.revision));
            }
            if !self.remove_step() {
                break;
            }
        }
    }

    fn progress(&self) -> Progress {
        let next = ChangeAt { revision: self.revision + 1, place: 0 };
        let at = |index: usize| self.changes.get(index).map_or(next, |change| change.at);
        Progress { floor: self.floor, start: at(self.start), settled_until: at(self.settled_until) }
    }

    fn bytes(&self) -> u64 {
        self.records().iter().map(Record::payload_bytes).sum()
    }

    fn present_bytes(&self) -> u64 {
        self.entries().iter().map(|(key, entry)| (key.len() + entry.value.len()) as u64).sum()
    }

    fn present_revision(&self, key: &[u8]) -> u64 {
        self.get_at(key, self.revision).map_or(0, |entry| entry.mod_revision)
    }

    /// The digest of the whole state, computed from nothing.
    fn digest(&self) -> u128 {
        let mut items = Vec::new();
        items.extend(self.records().iter().map(Item::record));
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
        let state = Item::state(self.revision, &self.settings, self.cluster_version);
        digest.total([], [state, Item::compaction(self.progress())])
    }

    fn apply(&mut self, index: u64, command: &Command) -> Answer {
        let answer = self.apply_once(index, command);
        self.keep_within(10_000, self.present_bytes().clamp(256 << 10, 64 << 20), 16);
        answer
    }

    fn apply_once(&mut self, index: u64, command: &Command) -> Answer {
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
                let old = self.get_at(key, self.revision).cloned();
                let replaced = old.as_ref().map_or(0, |old| key.len() + old.value.len());
                let grows = key.len() + value.len() > replaced;
                let bytes = self.present_bytes() + (key.len() + value.len()) as u64 - replaced as u64;
                let bound = self.settings.max_store_bytes.map_or(0, NonZeroU64::get);
                if bound != 0 && bytes > bound && grows {
                    return Answer::StoreFull { max_store_bytes: bound };
                }
                let mod_revision = self.revision + 1;
                let (create_revision, version) =
                    old.map_or((mod_revision, 1), |old| (old.create_revision, old.version + 1));
                let entry = Entry { value: value.clone(), create_revision, mod_revision, version };
                self.change(key, Some(entry));
                Answer::Written { revision: self.revision }
            }
            Command::Delete(log::Delete { key, if_revision, .. }) => {
                let present_revision = self.present_revision(key);
                if if_revision.is_some_and(|expected| expected != present_revision) {
                    return Answer::ConditionFailed { present_revision };
                }
                let existed = present_revision != 0;
                if existed {
                    self.change(key, None);
                }
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

    fn change(&mut self, key: &[u8], entry: Option<Entry>) {
        self.revision += 1;
        let at = ChangeAt { revision: self.revision, place: 0 };
        self.changes.push(ModelChange { key: key.to_vec(), at, entry });
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

fn listed(map: &Map, prefix: &[u8], start_after: &[u8], revision: u64) -> Vec<(Vec<u8>, Entry)> {
    map.range_at(prefix, start_after, revision)
        .map(|record| (record.key().to_vec(), record.entry().unwrap()))
        .collect()
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
            let before = model.entries();
            let revision_before = model.revision;
            let applied = map.apply(index, &command);
            prop_assert_eq!(applied.answer, model.apply(index, &command), "{:?}", command);
            if let Answer::SessionOpened { session } = applied.answer {
                opened.push(session);
            }

            // The change is exactly the difference, and there is a change exactly when the revision rose.
            let mut after = before;
            if let Some(change) = &applied.change {
                prop_assert_eq!(change.new.at(), ChangeAt { revision: revision_before + 1, place: 0 });
                let old = match change.new.entry() {
                    Some(new) => after.insert(change.new.key().to_vec(), new),
                    None => after.remove(change.new.key()),
                };
                prop_assert_eq!(&old, &change.old.as_ref().and_then(Record::entry));
            }
            prop_assert_eq!(applied.change.is_some(), model.revision > revision_before);
            prop_assert_eq!(&after, &model.entries());

            prop_assert_eq!(map.digest(), model.digest(), "{:?}", command);
            prop_assert_eq!(map.revision(), model.revision);
            prop_assert_eq!(map.keys(), model.entries().len() as u64);
            prop_assert_eq!(map.bytes(), model.present_bytes());
            prop_assert_eq!(map.bytes() + map.history_bytes(), model.bytes());
            prop_assert_eq!(map.versions(), model.records().len() as u64);
            prop_assert_eq!(map.floor(), model.floor);
            prop_assert_eq!(map.sessions(), model.sessions.len() as u64);
            prop_assert_eq!(map.settings(), model.settings);
            prop_assert_eq!(map.cluster_version(), model.cluster_version);
            prop_assert_eq!(map.digest_key(), model.digest_key);
        }

        prop_assert_eq!(listed(&map, b"", b"", map.revision()), model.entries().into_iter().collect::<Vec<_>>());
        for revision in map.floor()..=map.revision() {
            let entries = model.entries_at(revision);
            for change in &model.changes {
                let read = map.get_at(&change.key, revision).and_then(Record::entry);
                prop_assert_eq!(read.as_ref(), entries.get(&change.key));
            }
            let page: Vec<_> = entries
                .into_iter()
                .filter(|(key, _)| key.starts_with(&prefix) && (start_after.is_empty() || *key > start_after))
                .collect();
            prop_assert_eq!(listed(&map, &prefix, &start_after, revision), page);
        }
        for (key, entry) in &model.entries() {
            prop_assert_eq!(map.get(key).and_then(Record::entry), Some(entry.clone()));
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

/// One step of a history of several changes a revision.
#[derive(Debug, Clone)]
enum Event {
    /// One revision. Of several changes of one key the first counts; `None` deletes.
    Change(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    /// Raises the floor by so much.
    Compact(u64),
    /// Makes so many steps of removal.
    Remove(usize),
    /// Keeps the history within so many revisions and bytes, with so many steps.
    Keep(u64, u64, usize),
    /// Makes a copy from the versions.
    Rebuild,
}

fn event() -> impl Strategy<Value = Event> {
    let value = prop_oneof![3 => vec(any::<u8>(), 0..4).prop_map(Some), 2 => Just(None)];
    prop_oneof![
        8 => vec((key(), value), 1..5).prop_map(Event::Change),
        3 => (0..6u64).prop_map(Event::Compact),
        3 => (0..12usize).prop_map(Event::Remove),
        2 => (0..20u64, 0..40u64, 0..9usize).prop_map(|(revisions, bytes, steps)| Event::Keep(revisions, bytes, steps)),
        1 => Just(Event::Rebuild),
    ]
}

impl Model {
    /// Makes one revision of several changes, those that change anything. Returns what each change replaced.
    fn change_all(&mut self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Vec<(Vec<u8>, Option<Entry>)> {
        let before = self.revision;
        let mut replaced = Vec::new();
        for (key, value) in changes {
            let old = self.get_at(key, before).cloned();
            let is_again = replaced.iter().any(|(earlier, _)| earlier == key);
            if is_again || value.is_none() && old.is_none() {
                continue;
            }
            let at = ChangeAt { revision: before + 1, place: replaced.len() as u32 };
            let (create_revision, version) =
                old.as_ref().map_or((at.revision, 1), |old| (old.create_revision, old.version + 1));
            let entry = value.clone().map(|value| Entry {
                value: value.into(),
                create_revision,
                mod_revision: at.revision,
                version,
            });
            self.changes.push(ModelChange { key: key.clone(), at, entry });
            replaced.push((key.clone(), old));
        }
        self.revision += u64::from(!replaced.is_empty());
        replaced
    }
}

fn rebuilt(history: &History) -> History {
    let mut rebuild = Rebuild::new(history.revision(), history.progress()).unwrap();
    history.records().for_each(|record| rebuild.add(record.clone()).unwrap());
    rebuild.finish()
}

/// All that can be read from a history.
fn readable(history: &History) -> Vec<Vec<(Vec<u8>, Entry)>> {
    let range_at = |revision| history.range_at(Bound::Unbounded, None, revision);
    let at = |revision| {
        range_at(revision).map(|record| (record.key().to_vec(), record.entry().unwrap())).collect()
    };
    (history.floor()..=history.revision()).map(at).collect()
}

proptest! {
    #[test]
    fn a_history_shows_every_revision_from_its_floor_on(
        events in vec(event(), 1..60),
        start in vec(b'a'..=b'c', 0..3),
        end in prop::option::of(vec(b'a'..=b'c', 0..3)),
    ) {
        let mut model = Model { revision: 1, floor: 1, ..Model::default() };
        let mut history = History::at(1);
        let mut clones = Vec::new();
        for event in &events {
            match event {
                Event::Change(changes) => {
                    let replaced = model.change_all(changes);
                    for ((key, old), made) in replaced.iter().zip(&model.changes[model.changes.len() - replaced.len()..]) {
                        let change = match &made.entry {
                            Some(entry) => history.write(history.get(key).cloned(), key, &entry.value, made.at),
                            None => history.delete(history.get(key).unwrap().clone(), made.at),
                        };
                        prop_assert_eq!(change.new, made.record());
                        prop_assert_eq!(&change.old.as_ref().and_then(Record::entry), old);
                    }
                }
                Event::Compact(up) => {
                    let floor = model.floor + up;
                    let expected = match () {
                        () if *up == 0 => Err(CannotCompact::Compacted { floor }),
                        () if floor > model.revision => Err(CannotCompact::Future { present: model.revision }),
                        () => Ok(()),
                    };
                    prop_assert_eq!(history.compact(floor), expected);
                    if expected.is_ok() {
                        model.floor = floor;
                    }
                }
                Event::Remove(steps) => {
                    for _ in 0..*steps {
                        prop_assert_eq!(history.has_removable(), model.clone().remove_step());
                        prop_assert_eq!(history.remove_step(), model.remove_step());
                    }
                }
                Event::Keep(revisions, bytes, steps) => {
                    history.keep_within(*revisions, *bytes, *steps);
                    model.keep_within(*revisions, *bytes, *steps);
                }
                Event::Rebuild => {
                    clones.push((history.clone(), readable(&history), history.records().cloned().collect::<Vec<_>>()));
                    let copy = rebuilt(&history);
                    prop_assert_eq!(&copy, &history);
                    history = copy;
                }
            }
            let records = model.records();
            prop_assert_eq!(history.records().cloned().collect::<Vec<_>>(), records.clone());
            prop_assert_eq!(history.progress(), model.progress());
            prop_assert_eq!((history.revision(), history.floor()), (model.revision, model.floor));
            prop_assert_eq!(history.versions_kept(), records.len() as u64);
            prop_assert_eq!(history.present_bytes(), model.present_bytes());
            prop_assert_eq!(history.past_bytes(), model.bytes() - model.present_bytes());
            prop_assert_eq!(history.keys(), model.entries().len() as u64);
            let mut digest = Digest::default();
            records.iter().for_each(|record| digest.add(Item::record(record)));
            prop_assert_eq!(history.digest(), digest);
        }

        for revision in model.floor..=model.revision {
            let entries = model.entries_at(revision);
            let is_within = |key: &[u8]| key >= &start[..] && end.as_ref().is_none_or(|end| key < &end[..]);
            let expected: Vec<_> = entries.iter().filter(|(key, _)| is_within(key)).map(|(key, entry)| (key.clone(), entry.clone())).collect();
            let listed: Vec<_> = history
                .range_at(Bound::Included(&start), end.as_deref(), revision)
                .map(|record| (record.key().to_vec(), record.entry().unwrap()))
                .collect();
            prop_assert_eq!(listed, expected);
            for change in &model.changes {
                let read = history.get_at(&change.key, revision).and_then(Record::entry);
                prop_assert_eq!(read.as_ref(), model.get_at(&change.key, revision));
            }
        }

        // Nothing more than what the floor asks for is left in the end.
        while history.remove_step() {}
        let floor = history.floor();
        for key in model.changes.iter().map(|change| &change.key) {
            let mut of_key = model.changes.iter().filter(|change| change.key == *key).rev().map(ModelChange::record);
            let mut expected: Vec<Record> = of_key.by_ref().take_while(|record| record.revision() > floor).collect();
            let newest = model.changes.iter().rfind(|change| change.key == *key && change.at.revision <= floor);
            let newest = newest.map(ModelChange::record);
            expected.extend(newest.filter(|record| !record.is_deletion() || record.revision() == floor));
            expected.reverse();
            let kept = history.records().filter(|record| record.key() == &key[..]).cloned();
            prop_assert_eq!(kept.collect::<Vec<_>>(), expected);
        }
        // The clones taken on the way have not changed since.
        for (clone, shown, records) in clones {
            prop_assert_eq!(readable(&clone), shown);
            prop_assert_eq!(clone.records().cloned().collect::<Vec<_>>(), records);
        }
    }
}
