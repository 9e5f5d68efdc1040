//! The specification of the map: sorted maps, lists, and everything computed anew, simple enough to be trusted. Properties
//! compare the map with it.

use super::digest::{Digest, Item};
use super::history::Progress;
use super::{Answer, ChangeAt, Command, DigestKey, Entry, OperationResult, Outcome, Record, Results};
use crate::node_id::NodeId;
use crate::replicated_settings::{Settings, SettingsChange};
use crate::transaction::{Comparison, Condition, KeyRange, Keys, Operation, Test, Transaction};
use bytes::Bytes;
use mokv_proto::log;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

#[derive(Clone, Default)]
pub(super) struct Model {
    /// All that ever were, in order.
    pub(super) changes: Vec<ModelChange>,
    /// The earliest revision that can be read.
    pub(super) floor: u64,
    /// The first change that is not dropped.
    start: usize,
    /// The first change that is not settled.
    settled_until: usize,
    pub(super) revision: u64,
    pub(super) sessions: BTreeMap<u64, ModelSession>,
    pub(super) settings: Settings,
    pub(super) tombstones: BTreeMap<NodeId, String>,
    pub(super) cluster_version: u32,
    pub(super) digest_key: Option<DigestKey>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelChange {
    pub(super) key: Vec<u8>,
    pub(super) at: ChangeAt,
    /// `None`: the key was deleted.
    pub(super) entry: Option<Entry>,
}

impl ModelChange {
    pub(super) fn record(&self) -> Record {
        match &self.entry {
            Some(Entry { value, create_revision, version, .. }) => {
                Record::written(&self.key, value, self.at, *create_revision, *version)
            }
            None => Record::deletion(&self.key, self.at),
        }
    }
}

#[derive(Clone)]
pub(super) struct ModelSession {
    last_applied: u64,
    lowest: u64,
    answers: BTreeMap<u64, Answer>,
}

impl Model {
    pub(super) fn new() -> Model {
        Model { revision: 1, floor: 1, cluster_version: 1, ..Model::default() }
    }

    /// A key at a revision.
    pub(super) fn get_at(&self, key: &[u8], revision: u64) -> Option<&Entry> {
        let last = self.changes.iter().rfind(|change| change.key == key && change.at.revision <= revision);
        last?.entry.as_ref()
    }

    /// All keys at a revision.
    pub(super) fn entries_at(&self, revision: u64) -> BTreeMap<Vec<u8>, Entry> {
        let mut entries = BTreeMap::new();
        for change in self.changes.iter().filter(|change| change.at.revision <= revision) {
            match &change.entry {
                Some(entry) => entries.insert(change.key.clone(), entry.clone()),
                None => entries.remove(&change.key),
            };
        }
        entries
    }

    pub(super) fn entries(&self) -> BTreeMap<Vec<u8>, Entry> {
        self.entries_at(self.revision)
    }

    /// The versions of a key that a revision from `from` to `to` shows, and its deletions among these, in order.
    pub(super) fn versions_of(&self, key: &[u8], from: u64, to: u64) -> Vec<Record> {
        let shown_first = self.get_at(key, from);
        let is_shown = |change: &&ModelChange| {
            let is_made_within = (from..=to).contains(&change.at.revision);
            change.key == key
                && (is_made_within || change.entry.is_some() && change.entry.as_ref() == shown_first)
        };
        self.changes.iter().filter(is_shown).map(ModelChange::record).collect()
    }

    /// The changes that revisions from `from` to `to` made, in order.
    pub(super) fn changes_of(&self, range: &KeyRange, from: u64, to: u64) -> Vec<Record> {
        let is_of = |change: &&ModelChange| {
            (from..=to).contains(&change.at.revision) && is_within(range, &change.key)
        };
        self.changes.iter().filter(is_of).map(ModelChange::record).collect()
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
    pub(super) fn records(&self) -> Vec<Record> {
        let kept = (0..self.changes.len()).filter(|index| self.is_kept(*index));
        let mut records: Vec<Record> = kept.map(|index| self.changes[index].record()).collect();
        records.sort_by(|a, b| (a.key(), a.at()).cmp(&(b.key(), b.at())));
        records
    }

    fn revision_of(&self, index: usize) -> u64 {
        self.changes.get(index).map_or(u64::MAX, |change| change.at.revision)
    }

    pub(super) fn remove_step(&mut self) -> bool {
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

    /// What must be kept.
    pub(super) fn size(&self) -> u64 {
        self.present_bytes() + 80 * self.entries().len() as u64 + self.session_size()
    }

    fn session_size(&self) -> u64 {
        let answers = self.sessions.values().flat_map(|session| session.answers.values());
        let outcomes = answers.filter_map(|answer| match answer {
            Answer::Transaction(outcome) => Some(120 + outcome.branches.len() + 8 * outcome.deleted.len()),
            _ => None,
        });
        512 * self.sessions.len() as u64 + outcomes.sum::<usize>() as u64
    }

    /// What is kept besides.
    pub(super) fn history_size(&self) -> u64 {
        self.bytes() + 80 * self.records().len() as u64 + self.session_size() - self.size()
    }

    /// While the store is above its bound, its history gives way: the revisions that are not kept by all means, then all.
    fn give_way(&mut self) {
        let bound = self.settings.max_store_bytes.map_or(u64::MAX, NonZeroU64::get);
        let kept = self.revision.saturating_sub(self.settings.history_min_revisions);
        for _ in 0..1024 {
            if self.size() + self.history_size() <= bound {
                return;
            }
            if !self.remove_step() {
                let higher = [kept, self.revision].into_iter().find(|revision| *revision > self.floor);
                let Some(higher) = higher else { return };
                self.floor = higher;
            }
        }
    }

    pub(super) fn progress(&self) -> Progress {
        let next = ChangeAt { revision: self.revision + 1, place: 0 };
        let at = |index: usize| self.changes.get(index).map_or(next, |change| change.at);
        Progress { floor: self.floor, start: at(self.start), settled_until: at(self.settled_until) }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.records().iter().map(Record::payload_bytes).sum()
    }

    pub(super) fn present_bytes(&self) -> u64 {
        self.entries().iter().map(|(key, entry)| (key.len() + entry.value.len()) as u64).sum()
    }

    pub(super) fn present_revision(&self, key: &[u8]) -> u64 {
        self.get_at(key, self.revision).map_or(0, |entry| entry.mod_revision)
    }

    /// The digest of the whole state, computed from nothing.
    pub(super) fn digest(&self) -> u128 {
        let mut items = Vec::new();
        items.extend(self.records().iter().map(Item::record));
        items.extend(self.tombstones.iter().map(|(id, name)| Item::tombstone(*id, name)));
        for (id, session) in &self.sessions {
            items.push(Item::session(*id, session.last_applied, session.lowest));
            items.extend(
                session.answers.iter().map(|(sequence, answer)| Item::answer(*id, *sequence, answer)),
            );
        }
        let mut digest = Digest::default();
        items.into_iter().for_each(|item| digest.add(item));
        Item::wanted_size(self.settings.wanted_size).into_iter().for_each(|item| digest.add(item));
        Item::digest_key(self.digest_key.as_ref()).into_iter().for_each(|item| digest.add(item));
        let state = Item::state(self.revision, &self.settings, self.cluster_version);
        digest.total([], [state, Item::compaction(self.progress())])
    }

    pub(super) fn apply(&mut self, index: u64, command: &Command) -> Answer {
        let before = self.changes.len();
        let answer = self.apply_once(index, command);
        let made = self.changes.len() - before;
        let steps = if *command == Command::Prune { 1024 } else { 16 + 2 * made };
        (0..steps).for_each(|_| {
            self.remove_step();
        });
        self.give_way();
        answer
    }

    fn apply_once(&mut self, index: u64, command: &Command) -> Answer {
        let write = match command {
            Command::Set(set) => set.session,
            Command::Delete(delete) => delete.session,
            Command::Transaction { session, .. } => *session,
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
            return first.clone();
        }
        let answer = self.apply_now(index, command);
        self.sessions.get_mut(&write.session).unwrap().answers.insert(write.sequence, answer.clone());
        answer
    }

    fn apply_now(&mut self, index: u64, command: &Command) -> Answer {
        match command {
            Command::Blank | Command::Membership(_) => Answer::Done,
            Command::Set(log::Set { key, value, if_revision, .. }) => {
                let set = Operation::Set { key: key.clone(), value: value.clone() };
                self.write_one(key, *if_revision, set)
            }
            Command::Delete(log::Delete { key, if_revision, .. }) => {
                self.write_one(key, *if_revision, Operation::Delete { key: key.clone() })
            }
            Command::Transaction { transaction, .. } => match self.transact(transaction) {
                Ok((outcome, _)) => Answer::Transaction(Arc::new(outcome)),
                Err(refused) => refused,
            },
            Command::OpenSession => {
                let session = ModelSession { last_applied: index, lowest: 1, answers: BTreeMap::new() };
                self.sessions.insert(index, session);
                self.evict();
                Answer::SessionOpened { session: index }
            }
            Command::CloseSession { session } => {
                Answer::SessionClosed { existed: self.sessions.remove(session).is_some() }
            }
            Command::Configure(change) => {
                let SettingsChange {
                    max_sessions,
                    max_store_bytes,
                    history_max_age,
                    history_max_bytes,
                    history_min_revisions,
                    max_transaction_changes,
                    max_transaction_bytes,
                } = *change;
                let settings = &mut self.settings;
                settings.max_sessions = max_sessions.unwrap_or(settings.max_sessions).max(1);
                settings.max_store_bytes = max_store_bytes.unwrap_or(settings.max_store_bytes);
                settings.history_max_age = history_max_age.unwrap_or(settings.history_max_age);
                settings.history_max_bytes = history_max_bytes.unwrap_or(settings.history_max_bytes);
                settings.history_min_revisions =
                    history_min_revisions.unwrap_or(settings.history_min_revisions);
                settings.max_transaction_changes =
                    max_transaction_changes.unwrap_or(settings.max_transaction_changes).max(1);
                settings.max_transaction_bytes =
                    max_transaction_bytes.unwrap_or(settings.max_transaction_bytes);
                self.evict();
                Answer::Done
            }
            Command::Compact { revision } => {
                if *revision > self.revision {
                    return Answer::FutureRevision { present: self.revision };
                }
                let raised = *revision > self.floor;
                self.floor = self.floor.max(*revision);
                Answer::Compacted { floor: self.floor, raised }
            }
            Command::Prune => Answer::Done,
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

    /// A write of one key is a transaction of one operation.
    fn write_one(&mut self, key: &Bytes, if_revision: Option<u64>, operation: Operation) -> Answer {
        let is_set = matches!(operation, Operation::Set { .. });
        let at_revision = |revision| Condition {
            keys: Keys::One(key.clone()),
            test: Test::ModRevision(Comparison::Equal, revision),
        };
        let present_revision = self.present_revision(key);
        let transaction = Transaction {
            conditions: if_revision.map(at_revision).into_iter().collect(),
            then: vec![operation],
            otherwise: Vec::new(),
        };
        match self.transact(&transaction) {
            Ok((outcome, _)) if !outcome.branches[0] => Answer::ConditionFailed { present_revision },
            Ok((outcome, _)) if is_set => Answer::Written { revision: outcome.revision },
            Ok((outcome, _)) => {
                Answer::Deleted { revision: outcome.revision, existed: outcome.deleted[0] == 1 }
            }
            Err(refused) => refused,
        }
    }

    /// Executes a transaction on a copy of what is there, one operation after the other, and keeps the copy if nothing is
    /// refused. The results are what the reads find on the way.
    pub(super) fn transact(&mut self, transaction: &Transaction) -> Result<(Outcome, Results), Answer> {
        let mut run = Run {
            before: self,
            after: self.clone(),
            looked_at: 0,
            grown: 0,
            outcome: Outcome { revision: 0, branches: Vec::new(), deleted: Vec::new() },
        };
        let results = run.transaction(transaction)?;
        let Run { mut after, mut outcome, grown, .. } = run;
        let bound = self.settings.max_store_bytes.map_or(u64::MAX, NonZeroU64::get);
        if grown > 0 && self.size() as i64 + grown > bound.min(i64::MAX as u64) as i64 {
            return Err(Answer::StoreFull { max_store_bytes: bound });
        }
        after.revision += u64::from(after.changes.len() > self.changes.len());
        outcome.revision = after.revision;
        *self = after;
        Ok((outcome, results))
    }

    fn evict(&mut self) {
        while self.sessions.len() as u64 > self.settings.max_sessions {
            let (&oldest, _) = self.sessions.iter().min_by_key(|(_, session)| session.last_applied).unwrap();
            self.sessions.remove(&oldest);
        }
    }

    /// Makes one revision of several changes, those that change anything. Returns what each change replaced.
    pub(super) fn change_all(
        &mut self,
        changes: &[(Vec<u8>, Option<Vec<u8>>)],
    ) -> Vec<(Vec<u8>, Option<Entry>)> {
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

/// A transaction under way.
struct Run<'a> {
    before: &'a Model,
    after: Model,
    looked_at: u64,
    grown: i64,
    outcome: Outcome,
}

impl Run<'_> {
    fn transaction(&mut self, transaction: &Transaction) -> Result<Results, Answer> {
        let mut succeeded = true;
        for condition in &transaction.conditions {
            succeeded = succeeded && self.holds(condition)?;
        }
        self.outcome.branches.push(succeeded);
        let branch = if succeeded { &transaction.then } else { &transaction.otherwise };
        let operations =
            branch.iter().map(|operation| self.operation(operation)).collect::<Result<_, _>>()?;
        Ok(Results { succeeded, operations })
    }

    /// Conditions see the state before, whatever was written since.
    fn holds(&mut self, condition: &Condition) -> Result<bool, Answer> {
        let entries = self.before.entries();
        let within: Vec<_> = match &condition.keys {
            Keys::One(key) => {
                let entry = entries.get(&key[..]);
                return Ok(passes(&condition.test, entry));
            }
            Keys::In(range) => entries.iter().filter(|(key, _)| is_within(range, key)).collect(),
        };
        if let Test::Exists(exists) = condition.test {
            return Ok(within.is_empty() != exists);
        }
        for (key, entry) in within {
            self.look_at(key, entry)?;
            if !passes(&condition.test, Some(entry)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn look_at(&mut self, key: &[u8], entry: &Entry) -> Result<(), Answer> {
        self.looked_at += (key.len() + entry.value.len() + 80) as u64;
        let max_bytes = self.before.settings.max_transaction_bytes;
        if self.looked_at <= max_bytes { Ok(()) } else { Err(Answer::TooManyBytes { max_bytes }) }
    }

    /// What is there now, the writes of this transaction included.
    fn now(&self) -> BTreeMap<Vec<u8>, Entry> {
        self.after.entries_at(self.before.revision + 1)
    }

    fn read_at(&self, at_revision: Option<u64>) -> Result<BTreeMap<Vec<u8>, Entry>, Answer> {
        match at_revision {
            Some(revision) if revision < self.before.floor => {
                Err(Answer::BelowFloor { floor: self.before.floor })
            }
            Some(revision) if revision > self.before.revision => {
                Err(Answer::FutureRevision { present: self.before.revision })
            }
            Some(revision) => Ok(self.before.entries_at(revision)),
            None => Ok(self.now()),
        }
    }

    fn change(&mut self, key: &[u8], entry: Option<Entry>) -> Result<(), Answer> {
        let max_changes = self.before.settings.max_transaction_changes;
        let place = self.after.changes.len() - self.before.changes.len();
        if place as u64 == max_changes {
            return Err(Answer::TooManyChanges { max_changes });
        }
        let size = |entry: &Entry| (key.len() + entry.value.len() + 80) as i64;
        self.grown += entry.as_ref().map_or(0, size) - self.now().get(key).map_or(0, size);
        let at = ChangeAt { revision: self.before.revision + 1, place: place as u32 };
        self.after.changes.push(ModelChange { key: key.to_vec(), at, entry });
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<u64, Answer> {
        let exists = self.now().contains_key(key);
        if exists {
            self.change(key, None)?;
        }
        Ok(exists.into())
    }

    fn delete_all(&mut self, range: &KeyRange, limit: u64) -> Result<u64, Answer> {
        let mut deleted = 0;
        // A key that is deleted already is looked at again, as what it was.
        for (key, entry) in self.before.entries().iter().filter(|(key, _)| is_within(range, key)) {
            if deleted == limit {
                break;
            }
            self.look_at(key, entry)?;
            deleted += self.delete(key)?;
        }
        Ok(deleted)
    }

    fn operation(&mut self, operation: &Operation) -> Result<OperationResult, Answer> {
        match operation {
            Operation::Set { key, value } => {
                let mod_revision = self.before.revision + 1;
                let (create_revision, version) = self
                    .now()
                    .get(&key[..])
                    .map_or((mod_revision, 1), |old| (old.create_revision, old.version + 1));
                let entry = Entry { value: value.clone(), create_revision, mod_revision, version };
                self.change(key, Some(entry))?;
                Ok(OperationResult::Set)
            }
            Operation::Delete { key } => {
                let deleted = self.delete(key)?;
                self.outcome.deleted.push(deleted);
                Ok(OperationResult::Deleted(deleted))
            }
            Operation::DeleteRange { range, limit } => {
                let deleted = self.delete_all(range, limit.map_or(u64::MAX, NonZeroU64::get))?;
                self.outcome.deleted.push(deleted);
                Ok(OperationResult::Deleted(deleted))
            }
            Operation::Get { key, at_revision } => {
                Ok(OperationResult::Got(self.read_at(*at_revision)?.remove(&key[..])))
            }
            Operation::List { range, limit, keys_only, at_revision } => {
                let found = self.read_at(*at_revision)?.into_iter();
                let mut entries: Vec<(Bytes, Entry)> = found
                    .filter(|(key, _)| is_within(range, key))
                    .map(|(key, entry)| {
                        let value = if *keys_only { Bytes::new() } else { entry.value.clone() };
                        (key.into(), Entry { value, ..entry })
                    })
                    .collect();
                let limit = limit.map_or(usize::MAX, |limit| limit.get() as usize);
                let more = entries.len() > limit;
                entries.truncate(limit);
                Ok(OperationResult::Listed { entries, more })
            }
            Operation::Nested(nested) => Ok(OperationResult::Nested(self.transaction(nested)?)),
        }
    }
}

fn is_within(range: &KeyRange, key: &[u8]) -> bool {
    key >= &range.start[..] && range.end.as_ref().is_none_or(|end| key < &end[..])
}

fn passes(test: &Test, entry: Option<&Entry>) -> bool {
    let compares = |comparison: &Comparison, order: Ordering| match comparison {
        Comparison::Equal => order == Ordering::Equal,
        Comparison::NotEqual => order != Ordering::Equal,
        Comparison::Less => order == Ordering::Less,
        Comparison::Greater => order == Ordering::Greater,
    };
    let zero = Entry { value: Bytes::new(), create_revision: 0, mod_revision: 0, version: 0 };
    let there = entry.unwrap_or(&zero);
    match test {
        Test::Exists(exists) => entry.is_some() == *exists,
        Test::Value(comparison, value) => {
            entry.is_some_and(|entry| compares(comparison, entry.value.cmp(value)))
        }
        Test::CreateRevision(comparison, revision) => {
            compares(comparison, there.create_revision.cmp(revision))
        }
        Test::ModRevision(comparison, revision) => compares(comparison, there.mod_revision.cmp(revision)),
        Test::Version(comparison, version) => compares(comparison, there.version.cmp(version)),
    }
}
