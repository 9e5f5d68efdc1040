//! Transactions: conditions, and one list of operations or the other, all of it in one entry and one revision.
//!
//! The conditions, those of nested transactions too, are tested against the state before the transaction, and so are all
//! bounds: then everything is done, or nothing. Operations are executed in their order, and a read among them sees the
//! writes before it. No key is set twice, and none is both set and deleted; so the state before decides what each write
//! replaces.
//!
//! The state remembers an [`Outcome`]: the revision, the branches taken and the numbers of deleted keys, never data. What
//! the reads found is derived from it and the history ([`Map::results_of`]), now or later, on any node.

mod encoding;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::ops::Bound;

use bytes::Bytes;

use super::record::{ChangeAt, Record};
use super::{Answer, Entry, Map};
use crate::transaction::{Condition, Keys, Operation, Test, Transaction};

/// What a result takes besides keys and values, in bytes, in memory and in an answer.
const RESULT_BYTES: u64 = 128;

/// What a transaction did. Together with its operations and the history, it gives the results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The store's revision after it: its own if it changed anything.
    pub revision: u64,
    /// Whether the conditions held, for each transaction that was executed, nested ones after the one around them.
    pub branches: Vec<bool>,
    /// How many keys each deletion deleted, in order.
    pub deleted: Vec<u64>,
}

/// The results of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Results {
    /// Whether the conditions held.
    pub succeeded: bool,
    /// One for each operation of the branch that was executed.
    pub operations: Vec<OperationResult>,
}

/// The result of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationResult {
    /// The value was written.
    Set,
    /// So many keys were deleted.
    Deleted(u64),
    /// What a key held; `None`: it did not exist.
    Got(Option<Entry>),
    /// Keys and what they held, in byte order.
    Listed {
        /// The keys.
        entries: Vec<(Bytes, Entry)>,
        /// Whether the limit has left some out.
        more: bool,
    },
    /// Of a nested transaction.
    Nested(Results),
}

/// Why a transaction that was executed has no results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultsMissing {
    /// The history begins after what they show.
    Compacted {
        /// The earliest revision that can be read.
        floor: u64,
    },
    /// They have more bytes than are allowed.
    TooLarge {
        /// The bytes that are allowed.
        max_bytes: u64,
    },
    /// The outcome is that of another transaction.
    Foreign,
}

/// Whether the present version of a key passes a test; `None`: it does not exist.
fn passes(test: &Test, present: Option<&Record>) -> bool {
    let number = |of: fn(&Record) -> u64| present.map_or(0, of);
    match test {
        Test::Exists(exists) => present.is_some() == *exists,
        Test::Value(comparison, value) => {
            present.is_some_and(|present| comparison.holds(present.value(), value))
        }
        Test::CreateRevision(comparison, named) => comparison.holds(&number(Record::create_revision), named),
        Test::ModRevision(comparison, named) => comparison.holds(&number(Record::revision), named),
        Test::Version(comparison, named) => comparison.holds(&number(Record::version), named),
    }
}

/// A change that a transaction is about to make.
pub(super) enum Planned<'a> {
    Set { key: &'a [u8], value: &'a [u8], old: Option<Record> },
    Delete { old: Record },
}

/// What a transaction is about to do.
pub(super) struct Plan<'a> {
    /// In the order in which they are made; no key is there twice.
    pub changes: Vec<Planned<'a>>,
    pub branches: Vec<bool>,
    pub deleted: Vec<u64>,
    /// What it adds to the size of the store, and what it takes from it.
    pub added_bytes: u64,
    pub removed_bytes: u64,
}

struct Planner<'a, 'm> {
    map: &'m Map,
    plan: Plan<'a>,
    /// Keys that are deleted already, if several operations delete.
    deleted: BTreeSet<&'m [u8]>,
    bytes_left: u64,
}

impl<'a> Plan<'a> {
    /// Tests all conditions and bounds against the present state.
    ///
    /// # Errors
    /// The answer, if a bound is exceeded or a revision cannot be read.
    pub(super) fn of(map: &Map, transaction: &'a Transaction) -> Result<Plan<'a>, Answer> {
        let plan = Plan {
            changes: Vec::new(),
            branches: Vec::new(),
            deleted: Vec::new(),
            added_bytes: 0,
            removed_bytes: 0,
        };
        let bytes_left = map.settings().max_transaction_bytes;
        let mut planner = Planner { map, plan, deleted: BTreeSet::new(), bytes_left };
        planner.transaction(transaction)?;
        Ok(planner.plan)
    }
}

impl<'a, 'm> Planner<'a, 'm> {
    fn transaction(&mut self, transaction: &'a Transaction) -> Result<(), Answer> {
        let mut holds = true;
        for condition in &transaction.conditions {
            // Later conditions cost nothing once one does not hold.
            holds = holds && self.holds(condition)?;
        }
        self.plan.branches.push(holds);
        let branch = if holds { &transaction.then } else { &transaction.otherwise };
        branch.iter().try_for_each(|operation| self.operation(operation))
    }

    fn holds(&mut self, condition: &Condition) -> Result<bool, Answer> {
        let range = match &condition.keys {
            Keys::One(key) => return Ok(passes(&condition.test, self.map.get(key))),
            Keys::In(range) => range,
        };
        let mut present = self.map.history.range(Bound::Included(&range.start), range.end.as_deref());
        if let Test::Exists(exists) = condition.test {
            return Ok(present.next().is_some() == exists);
        }
        for record in present {
            self.scan(record)?;
            if !passes(&condition.test, Some(record)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn operation(&mut self, operation: &'a Operation) -> Result<(), Answer> {
        match operation {
            Operation::Set { key, value } => {
                let old = self.map.get(key).cloned();
                self.plan.added_bytes += super::sizes::VERSION_BYTES + (key.len() + value.len()) as u64;
                self.plan.removed_bytes += old.as_ref().map_or(0, Record::size);
                self.change(Planned::Set { key, value, old })
            }
            Operation::Delete { key } => {
                let mut count = 0;
                if let Some(present) = self.map.get(key) {
                    count += u64::from(self.delete(present)?);
                }
                self.plan.deleted.push(count);
                Ok(())
            }
            Operation::DeleteRange { range, limit } => {
                let limit = limit.map_or(u64::MAX, NonZeroU64::get);
                let mut count = 0;
                for present in self.map.history.range(Bound::Included(&range.start), range.end.as_deref()) {
                    if count == limit {
                        break;
                    }
                    self.scan(present)?;
                    count += u64::from(self.delete(present)?);
                }
                self.plan.deleted.push(count);
                Ok(())
            }
            Operation::Get { at_revision, .. } | Operation::List { at_revision, .. } => {
                self.can_read(*at_revision)
            }
            Operation::Nested(nested) => self.transaction(nested),
        }
    }

    /// Plans to delete a key. `false`: it is deleted already.
    fn delete(&mut self, present: &'m Record) -> Result<bool, Answer> {
        let is_first = self.deleted.insert(present.key());
        if is_first {
            self.plan.removed_bytes += present.size();
            self.change(Planned::Delete { old: present.clone() })?;
        }
        Ok(is_first)
    }

    fn change(&mut self, change: Planned<'a>) -> Result<(), Answer> {
        let max_changes = self.map.settings().max_transaction_changes;
        if self.plan.changes.len() as u64 >= max_changes {
            return Err(Answer::TooManyChanges { max_changes });
        }
        self.plan.changes.push(change);
        Ok(())
    }

    fn scan(&mut self, record: &Record) -> Result<(), Answer> {
        let max_bytes = self.map.settings().max_transaction_bytes;
        let left = self.bytes_left.checked_sub(record.size());
        self.bytes_left = left.ok_or(Answer::TooManyBytes { max_bytes })?;
        Ok(())
    }

    fn can_read(&self, at_revision: Option<u64>) -> Result<(), Answer> {
        let (floor, present) = (self.map.floor(), self.map.revision());
        match at_revision {
            Some(revision) if revision < floor => Err(Answer::BelowFloor { floor }),
            Some(revision) if revision > present => Err(Answer::FutureRevision { present }),
            _ => Ok(()),
        }
    }
}

impl Map {
    /// What a transaction that writes nothing does now.
    ///
    /// # Errors
    /// The answer, if a bound is exceeded or a revision cannot be read.
    ///
    /// # Panics
    /// If it may write.
    pub fn read_only(&self, transaction: &Transaction) -> Result<Outcome, Answer> {
        let Plan { changes, branches, deleted, .. } = Plan::of(self, transaction)?;
        assert!(changes.is_empty() && deleted.is_empty(), "a transaction that only reads");
        Ok(Outcome { revision: self.revision(), branches, deleted })
    }

    /// The results of a transaction that had this outcome, with at most `max_bytes` of keys and values, of keys that are passed
    /// over, and of what each of them takes besides.
    ///
    /// # Errors
    /// [`ResultsMissing`].
    pub fn results_of(
        &self,
        transaction: &Transaction,
        outcome: &Outcome,
        max_bytes: u64,
    ) -> Result<Results, ResultsMissing> {
        // A place within the transaction's revision is known by how many changes precede it.
        let mut counted = Walk::new(outcome);
        counted.changes(transaction)?;
        let mut reader =
            Reader { map: self, changes: counted.made, walk: Walk::new(outcome), max_bytes, bytes: 0 };
        let results = reader.transaction(transaction)?;
        reader.walk.end()?;
        Ok(results)
    }
}

/// A walk through the executed operations of a transaction.
struct Walk<'o> {
    revision: u64,
    branches: std::slice::Iter<'o, bool>,
    deleted: std::slice::Iter<'o, u64>,
    /// How many changes were made so far.
    made: u64,
}

impl<'o> Walk<'o> {
    fn new(outcome: &'o Outcome) -> Walk<'o> {
        Walk {
            revision: outcome.revision,
            branches: outcome.branches.iter(),
            deleted: outcome.deleted.iter(),
            made: 0,
        }
    }

    fn branch<'t>(
        &mut self,
        transaction: &'t Transaction,
    ) -> Result<(bool, &'t [Operation]), ResultsMissing> {
        let holds = *self.branches.next().ok_or(ResultsMissing::Foreign)?;
        Ok((holds, if holds { &transaction.then } else { &transaction.otherwise }))
    }

    fn deletion(&mut self) -> Result<u64, ResultsMissing> {
        let deleted = *self.deleted.next().ok_or(ResultsMissing::Foreign)?;
        self.made = self.made.checked_add(deleted).ok_or(ResultsMissing::Foreign)?;
        Ok(deleted)
    }

    /// Counts the changes of all operations.
    fn changes(&mut self, transaction: &Transaction) -> Result<(), ResultsMissing> {
        let (_, branch) = self.branch(transaction)?;
        for operation in branch {
            match operation {
                Operation::Set { .. } => self.made += 1,
                Operation::Delete { .. } | Operation::DeleteRange { .. } => {
                    self.deletion()?;
                }
                Operation::Get { .. } | Operation::List { .. } => {}
                Operation::Nested(nested) => self.changes(nested)?,
            }
        }
        Ok(())
    }

    fn end(mut self) -> Result<(), ResultsMissing> {
        let is_over = self.branches.next().is_none() && self.deleted.next().is_none();
        if is_over { Ok(()) } else { Err(ResultsMissing::Foreign) }
    }
}

struct Reader<'m, 'o> {
    map: &'m Map,
    /// How many changes the transaction made.
    changes: u64,
    walk: Walk<'o>,
    max_bytes: u64,
    bytes: u64,
}

impl Reader<'_, '_> {
    fn transaction(&mut self, transaction: &Transaction) -> Result<Results, ResultsMissing> {
        let (succeeded, branch) = self.walk.branch(transaction)?;
        let operations =
            branch.iter().map(|operation| self.operation(operation)).collect::<Result<_, _>>()?;
        Ok(Results { succeeded, operations })
    }

    fn operation(&mut self, operation: &Operation) -> Result<OperationResult, ResultsMissing> {
        Ok(match operation {
            Operation::Set { .. } => {
                self.walk.made += 1;
                OperationResult::Set
            }
            Operation::Delete { .. } | Operation::DeleteRange { .. } => {
                OperationResult::Deleted(self.walk.deletion()?)
            }
            Operation::Get { key, at_revision } => {
                let before = self.readable(*at_revision)?;
                let entry = self.map.history.get_before(key, before).and_then(Record::entry);
                self.count(entry.as_ref().map_or(0, |entry| entry.value.len()) + key.len())?;
                OperationResult::Got(entry)
            }
            Operation::List { range, limit, keys_only, at_revision } => {
                let before = self.readable(*at_revision)?;
                let limit = limit.map_or(usize::MAX, |limit| limit.get().try_into().unwrap_or(usize::MAX));
                let (mut entries, mut more) = (Vec::new(), false);
                let map = self.map;
                let (start, end) = (Bound::Included(&range.start[..]), range.end.as_deref());
                for (key, record) in map.history.range_before(start, end, before) {
                    // What is passed over takes time.
                    self.count(key.len())?;
                    let Some(record) = record else { continue };
                    more = entries.len() == limit;
                    if more {
                        break;
                    }
                    let entry = if *keys_only { record.entry_without_value() } else { record.entry() };
                    let entry = entry.expect("no deletion is listed");
                    self.count(entry.value.len())?;
                    entries.push((Bytes::copy_from_slice(key), entry));
                }
                OperationResult::Listed { entries, more }
            }
            Operation::Nested(nested) => OperationResult::Nested(self.transaction(nested)?),
        })
    }

    /// The change before which a read at this point sees the store.
    fn readable(&self, at_revision: Option<u64>) -> Result<ChangeAt, ResultsMissing> {
        let revision = self.walk.revision;
        let before = match at_revision {
            Some(revision) => ChangeAt::after(revision),
            None if self.walk.made == self.changes => ChangeAt::after(revision),
            // A transaction makes fewer changes than that: its bound is an entry's.
            None => ChangeAt { revision, place: u32::try_from(self.walk.made).unwrap_or(u32::MAX) },
        };
        let earliest = if before.place == 0 { before.revision - 1 } else { before.revision };
        // Compaction to a revision removes what this revision replaced.
        let is_there = match before.place {
            0 => self.map.floor() <= earliest,
            _ => self.map.floor() < earliest,
        };
        if is_there { Ok(before) } else { Err(ResultsMissing::Compacted { floor: self.map.floor() }) }
    }

    /// Counts what is found or passed over.
    fn count(&mut self, bytes: usize) -> Result<(), ResultsMissing> {
        self.bytes += bytes as u64 + RESULT_BYTES;
        let max_bytes = self.max_bytes;
        if self.bytes <= max_bytes { Ok(()) } else { Err(ResultsMissing::TooLarge { max_bytes }) }
    }
}
