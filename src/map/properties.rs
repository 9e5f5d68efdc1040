//! Properties of the map and of the history: both are what the [model](super::model) says, after any steps.

use super::digest::{Digest, Item};
use super::history::{CannotCompact, History, Rebuild};
use super::model::{Model, ModelChange};
use super::txn::testing::transaction;
use super::{Answer, ChangeAt, Command, DigestKey, Entry, Map, Record, Restore};
use super::{Outcome, Results, ResultsMissing};
use crate::node_id::NodeId;
use crate::replicated_settings::SettingsChange;
use crate::transaction::{KeyRange, Operation, Transaction};
use bytes::Bytes;
use mokv_proto::log::{self, SessionWrite};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::ops::Bound;
use std::time::Duration;

/// One step of a random run. Sessions and revisions are chosen relative to the state, so that they often match.
#[derive(Debug, Clone)]
enum Step {
    Set {
        key: Vec<u8>,
        value: Vec<u8>,
        condition: Condition,
        session: Option<Write>,
    },
    Delete {
        key: Vec<u8>,
        condition: Condition,
        session: Option<Write>,
    },
    Transaction {
        transaction: Transaction,
        session: Option<Write>,
    },
    OpenSession,
    CloseSession {
        nth: usize,
    },
    Configure(SettingsChange),
    /// To a revision from the floor to beyond the present one, in 16 parts.
    Compact(u64),
    Prune,
    Tombstone {
        node_id: NodeId,
        name: String,
    },
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
            Step::Transaction { transaction, session: write } => {
                Command::Transaction { transaction, session: session(write) }
            }
            Step::OpenSession => Command::OpenSession,
            Step::CloseSession { nth: number } => Command::CloseSession { session: nth(number) },
            Step::Configure(change) => Command::Configure(change),
            Step::Compact(part) => {
                Command::Compact { revision: model.floor + (model.revision - model.floor + 2) * part / 16 }
            }
            Step::Prune => Command::Prune,
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

fn settings_change() -> impl Strategy<Value = SettingsChange> {
    let bounds = (option::of(0..5u64), option::of(0..4_000u64), option::of(0..10u64));
    let transactions = (option::of(0..20u64), option::of(0..2_000u64));
    let history = (option::of(0..10u64), option::of(any::<u64>()));
    (bounds, transactions, history).prop_map(|(bounds, transactions, (age, history_max_bytes))| {
        SettingsChange {
            max_sessions: bounds.0,
            max_store_bytes: bounds.1.map(NonZeroU64::new),
            history_min_revisions: bounds.2,
            history_max_age: age.map(|age| Some(Duration::from_secs(age)).filter(|age| !age.is_zero())),
            history_max_bytes: history_max_bytes.map(NonZeroU64::new),
            max_transaction_changes: transactions.0,
            max_transaction_bytes: transactions.1,
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let set = (key(), vec(any::<u8>(), 0..20), condition(), write());
    prop_oneof![
        12 => set.prop_map(|(key, value, condition, session)| Step::Set { key, value, condition, session }),
        6 => (key(), condition(), write())
            .prop_map(|(key, condition, session)| Step::Delete { key, condition, session }),
        12 => (transaction(), write())
            .prop_map(|(transaction, session)| Step::Transaction { transaction, session }),
        3 => Just(Step::OpenSession),
        1 => (0..4usize).prop_map(|nth| Step::CloseSession { nth }),
        1 => settings_change().prop_map(Step::Configure),
        3 => (0..=16u64).prop_map(Step::Compact),
        1 => Just(Step::Prune),
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

fn reads_the_past(transaction: &Transaction) -> bool {
    transaction.operations().any(|operation| match operation {
        Operation::Get { at_revision, .. } | Operation::List { at_revision, .. } => at_revision.is_some(),
        Operation::Nested(nested) => reads_the_past(nested),
        Operation::Set { .. } | Operation::Delete { .. } | Operation::DeleteRange { .. } => false,
    })
}

fn listed(map: &Map, prefix: &[u8], start_after: &[u8], revision: u64) -> Vec<(Vec<u8>, Entry)> {
    let range = KeyRange::prefix(Bytes::copy_from_slice(prefix));
    map.range_at(&range, start_after, revision)
        .filter_map(|(_, record)| record)
        .map(|record| (record.key().to_vec(), record.entry().unwrap()))
        .collect()
}

fn versions(map: &Map, key: &[u8], from: u64, to: u64) -> Vec<Record> {
    map.versions_of(key, from).take_while(|record| record.revision() <= to).cloned().collect()
}

fn changes(map: &Map, range: &KeyRange, from: u64, to: u64) -> Vec<Record> {
    let changes = map.changes_from(ChangeAt { revision: from, place: 0 });
    let changes = changes.take_while(|record| record.revision() <= to);
    changes.filter(|record| range.contains(record.key())).cloned().collect()
}

proptest! {
    #[test]
    fn the_map_behaves_as_the_model_does(
        steps in vec(step(), 1..150),
        prefix in vec(b'a'..=b'c', 0..3),
        start_after in vec(b'a'..=b'c', 0..3),
        part in 0..=16u64,
    ) {
        let (mut map, mut model) = (Map::new(), Model::new());
        let mut opened = Vec::new();
        let mut kept: Vec<(Map, Vec<Bytes>)> = Vec::new();
        let mut transacted: Vec<(Transaction, Outcome, Results)> = Vec::new();
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
            let (mut executed, before_it) = (model.clone(), map.clone());
            let applied = map.apply(index, &command);
            prop_assert_eq!(&applied.answer, &model.apply(index, &command), "{:?}", command);
            if let Answer::SessionOpened { session } = applied.answer {
                opened.push(session);
            }
            // What was read, now and for as long as the history reaches.
            if let (Command::Transaction { transaction, .. }, Answer::Transaction(outcome)) = (&command, &applied.answer)
                && let Ok((same, results)) = executed.transact(transaction)
                && same == **outcome
            {
                if !transaction.may_write() {
                    prop_assert_eq!(&results, &before_it.results_of(transaction, outcome, u64::MAX).unwrap());
                    prop_assert_eq!(Ok(same.clone()), before_it.read_only(transaction));
                }
                transacted.push((transaction.clone(), same, results));
            }
            for (transaction, outcome, results) in &transacted {
                match map.results_of(transaction, outcome, u64::MAX) {
                    Ok(found) => prop_assert_eq!(&found, results),
                    Err(missing) => prop_assert_eq!(missing, ResultsMissing::Compacted { floor: map.floor() }),
                }
                if map.floor() < outcome.revision && !reads_the_past(transaction) {
                    prop_assert!(map.results_of(transaction, outcome, u64::MAX).is_ok());
                }
            }

            // The changes are exactly the difference, and there are changes exactly when the revision rose.
            let mut after = before;
            for (change, place) in applied.changes.iter().zip(0..) {
                prop_assert_eq!(change.new.at(), ChangeAt { revision: revision_before + 1, place });
                let old = match change.new.entry() {
                    Some(new) => after.insert(change.new.key().to_vec(), new),
                    None => after.remove(change.new.key()),
                };
                prop_assert_eq!(&old, &change.old.as_ref().and_then(Record::entry));
            }
            prop_assert_eq!(!applied.changes.is_empty(), model.revision > revision_before);
            prop_assert_eq!(&after, &model.entries());

            prop_assert_eq!(map.digest(), model.digest(), "{:?}", command);
            prop_assert_eq!(map.revision(), model.revision);
            prop_assert_eq!(map.keys(), model.entries().len() as u64);
            prop_assert_eq!(map.bytes(), model.present_bytes());
            prop_assert_eq!(map.bytes() + map.history_bytes(), model.bytes());
            prop_assert_eq!(map.versions(), model.records().len() as u64);
            prop_assert_eq!((map.size(), map.history_size()), (model.size(), model.history_size()));
            prop_assert_eq!(map.floor(), model.floor);
            prop_assert_eq!(map.sessions(), model.sessions.len() as u64);
            prop_assert_eq!(map.settings(), model.settings);
            prop_assert_eq!(map.cluster_version(), model.cluster_version);
            prop_assert_eq!(map.digest_key(), model.digest_key);

            // What is still to be removed does not show.
            let to = model.floor + (model.revision - model.floor) * part / 16;
            prop_assert_eq!(versions(&map, &prefix, map.floor(), to), model.versions_of(&prefix, model.floor, to));
            let range = KeyRange::prefix(prefix.clone());
            prop_assert_eq!(changes(&map, &range, map.floor(), to), model.changes_of(&range, model.floor, to));
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
            for key in model.changes.iter().map(|change| &change.key) {
                let expected = model.versions_of(key, revision, model.revision);
                prop_assert_eq!(versions(&map, key, revision, model.revision), expected);
            }
            for range in [KeyRange::from_key(&start_after), KeyRange::new(&prefix, &start_after)] {
                let expected = model.changes_of(&range, revision, model.revision);
                prop_assert_eq!(changes(&map, &range, revision, model.revision), expected);
            }
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
    /// Makes a copy from the versions.
    Rebuild,
}

fn event() -> impl Strategy<Value = Event> {
    let value = prop_oneof![3 => vec(any::<u8>(), 0..4).prop_map(Some), 2 => Just(None)];
    prop_oneof![
        8 => vec((key(), value), 1..5).prop_map(Event::Change),
        3 => (0..6u64).prop_map(Event::Compact),
        3 => (0..12usize).prop_map(Event::Remove),
        1 => Just(Event::Rebuild),
    ]
}

fn rebuilt(history: &History) -> History {
    let mut rebuild = Rebuild::new(history.revision(), history.progress()).unwrap();
    history.records().for_each(|record| rebuild.add(record.clone()).unwrap());
    rebuild.finish()
}

/// All that can be read from a history.
fn readable(history: &History) -> Vec<Vec<(Vec<u8>, Entry)>> {
    let range_at = |revision| history.range_before(Bound::Unbounded, None, ChangeAt::after(revision));
    let at = |revision| {
        range_at(revision)
            .filter_map(|(_, record)| record)
            .map(|record| (record.key().to_vec(), record.entry().unwrap()))
            .collect()
    };
    (history.floor()..=history.revision()).map(at).collect()
}

proptest! {
    #[test]
    fn a_history_shows_every_revision_from_its_floor_on(
        events in vec(event(), 1..60),
        start in vec(b'a'..=b'c', 0..3),
        end in option::of(vec(b'a'..=b'c', 0..3)),
    ) {
        let mut model = Model::new();
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

            // However far removal has come, the history shows all from the floor on and nothing below.
            let all = KeyRange::prefix("");
            let made = model.changes_of(&all, model.floor, model.revision);
            for (number, change) in made.iter().enumerate() {
                prop_assert!(history.changes_from(change.at()).eq(&made[number..]));
                prop_assert!(history.changes_from(change.at().next()).eq(&made[number + 1..]));
            }
            prop_assert!(history.changes_from(ChangeAt::default()).eq(&made), "as from the floor");
            prop_assert_eq!(history.changes_from(ChangeAt::after(model.revision)).next(), None);
            let keys: BTreeSet<&[u8]> = model.changes.iter().map(|change| &change.key[..]).collect();
            for key in keys {
                for from in [model.floor, (model.floor + model.revision) / 2, model.revision] {
                    let expected = model.versions_of(key, from, model.revision);
                    prop_assert_eq!(history.versions_of(key, from).cloned().collect::<Vec<_>>(), expected);
                }
                prop_assert!(history.versions_of(key, 0).eq(history.versions_of(key, model.floor)), "as from the floor");
            }
        }

        for revision in model.floor..=model.revision {
            let entries = model.entries_at(revision);
            let is_within = |key: &[u8]| key >= &start[..] && end.as_ref().is_none_or(|end| key < &end[..]);
            let expected: Vec<_> = entries.iter().filter(|(key, _)| is_within(key)).map(|(key, entry)| (key.clone(), entry.clone())).collect();
            let listed: Vec<_> = history
                .range_before(Bound::Included(&start), end.as_deref(), ChangeAt::after(revision))
                .filter_map(|(_, record)| record)
                .map(|record| (record.key().to_vec(), record.entry().unwrap()))
                .collect();
            prop_assert_eq!(listed, expected);
            for change in &model.changes {
                let read = history.get_before(&change.key, ChangeAt::after(revision)).and_then(Record::entry);
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
