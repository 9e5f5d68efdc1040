//! Draws the transactions of a client: small ones, on a few keys that all clients fight for, with conditions that often
//! hold.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use mokv::client as library;

use crate::evidence::transactions::{
    Asked, Comparison, Condition, Found, KEYS, Keys, Range, Step, Test, Told,
};
use crate::evidence::values;
use crate::record::Run;
use crate::world::dice::Dice;

/// Number of keys.
pub const NUMBER_OF_KEYS: u64 = 8;
/// Bytes of a value.
const VALUE_BYTES: usize = 40;

/// The transactions of one client.
pub struct Transactor {
    run: Arc<Run>,
    dice: Dice,
    /// The last mod revision and the last value seen of each key, for conditions.
    seen: BTreeMap<String, (u64, u64)>,
    revision: u64,
}

impl Transactor {
    /// Those of a client.
    pub fn new(run: &Arc<Run>, client: u32) -> Transactor {
        let dice = Dice::new(run.seed, &format!("transactions of client {client}"));
        Transactor { run: run.clone(), dice, seen: BTreeMap::new(), revision: 1 }
    }

    /// The next one.
    pub fn draw(&mut self) -> Asked {
        let mut asked = self.level(2);
        // What writes a key again is left out.
        while transaction(&asked).check().is_err() {
            asked.then.pop();
            asked.otherwise.pop();
        }
        asked
    }

    fn level(&mut self, levels_left: u64) -> Asked {
        let (conditions, then, otherwise) =
            (self.dice.within(0..3), self.dice.within(1..6), self.dice.within(0..4));
        Asked {
            conditions: (0..conditions).map(|_| self.condition()).collect(),
            then: (0..then).map(|_| self.step(levels_left)).collect(),
            otherwise: (0..otherwise).map(|_| self.step(levels_left)).collect(),
        }
    }

    fn key(&mut self) -> String {
        format!("{KEYS}{}", self.dice.within(0..NUMBER_OF_KEYS))
    }

    fn range(&mut self) -> Range {
        if self.dice.chance(0.3) {
            return Range { start: KEYS.into(), end: format!("{KEYS}~") };
        }
        let [one, other] = [self.key(), self.key()];
        Range { start: one.clone().min(other.clone()), end: one.max(other) }
    }

    fn condition(&mut self) -> Condition {
        if self.dice.chance(0.2) {
            let keys = Keys::In(self.range());
            let comparison = *self.dice.one_of(&[Comparison::Less, Comparison::Greater]);
            let test = match self.dice.within(0..3) {
                0 => Test::Exists(self.dice.chance(0.5)),
                1 => Test::Version(comparison, self.dice.within(0..5)),
                _ => Test::ModRevision(comparison, self.revision),
            };
            return Condition { keys, test };
        }
        let key = self.key();
        let (revision, value) = self.seen.get(&key).copied().unwrap_or_default();
        let comparison = *self.dice.one_of(&[
            Comparison::Equal,
            Comparison::Equal,
            Comparison::NotEqual,
            Comparison::Less,
            Comparison::Greater,
        ]);
        let test = match self.dice.within(0..6) {
            0 => Test::Exists(self.dice.chance(0.5)),
            1 => Test::Value(comparison, value),
            2 => Test::CreateRevision(comparison, revision),
            3 => Test::Version(comparison, self.dice.within(0..5)),
            _ => Test::ModRevision(comparison, revision),
        };
        Condition { keys: Keys::One(key), test }
    }

    fn step(&mut self, levels_left: u64) -> Step {
        let limit = Some(self.dice.within(0..4)).filter(|limit| *limit > 0);
        let at_revision = self.dice.chance(0.1).then(|| self.past());
        match self.dice.within(0..20) {
            0..8 => Step::Set { key: self.key(), value: self.run.next_value() },
            8..11 => Step::Delete { key: self.key() },
            11 => Step::DeleteRange { range: self.range(), limit },
            12..15 => Step::Get { key: self.key(), at_revision },
            15..18 => Step::List { range: self.range(), limit, at_revision },
            _ if levels_left > 1 => Step::Nested(self.level(levels_left - 1)),
            _ => Step::Get { key: self.key(), at_revision: None },
        }
    }

    /// A revision a little before the last one that was seen.
    fn past(&mut self) -> u64 {
        self.revision.saturating_sub(self.dice.within(0..20)).max(1)
    }

    /// Remembers what an answer reveals.
    pub fn learn(&mut self, told: &Told) {
        if let Told::Executed { revision, results, .. } = told {
            self.revision = self.revision.max(*revision);
            results.iter().for_each(|found| self.learn_from(found));
        }
    }

    fn learn_from(&mut self, found: &[Found]) {
        for found in found {
            match found {
                Found::Listed(entries, _) => {
                    for (key, state) in entries {
                        self.seen.insert(key.clone(), (state.mod_revision, state.value));
                    }
                }
                Found::Nested(_, found) => self.learn_from(found),
                Found::Set | Found::Deleted(_) | Found::Got(_) => {}
            }
        }
    }
}

/// A transaction in the words of the library.
pub fn transaction(asked: &Asked) -> library::Transaction {
    let Asked { conditions, then, otherwise } = asked;
    library::Transaction {
        conditions: conditions.iter().map(condition).collect(),
        then: then.iter().map(operation).collect(),
        otherwise: otherwise.iter().map(operation).collect(),
    }
}

fn range(range: &Range) -> library::KeyRange {
    library::KeyRange::new(&range.start, &range.end)
}

fn condition(condition: &Condition) -> library::Condition {
    let comparison = |comparison| match comparison {
        Comparison::Equal => library::Comparison::Equal,
        Comparison::NotEqual => library::Comparison::NotEqual,
        Comparison::Less => library::Comparison::Less,
        Comparison::Greater => library::Comparison::Greater,
    };
    let keys = match &condition.keys {
        Keys::One(key) => key.into(),
        Keys::In(keys) => range(keys).into(),
    };
    let test = match condition.test {
        Test::Exists(exists) => library::Test::Exists(exists),
        Test::Value(how, value) => library::Test::Value(comparison(how), values::encode(value, VALUE_BYTES)),
        Test::CreateRevision(how, revision) => library::Test::CreateRevision(comparison(how), revision),
        Test::ModRevision(how, revision) => library::Test::ModRevision(comparison(how), revision),
        Test::Version(how, version) => library::Test::Version(comparison(how), version),
    };
    library::Condition { keys, test }
}

fn operation(step: &Step) -> library::Operation {
    let limited = |limit: &Option<u64>| limit.and_then(NonZeroU64::new);
    match step {
        Step::Set { key, value } => library::Operation::set(key, values::encode(*value, VALUE_BYTES)),
        Step::Delete { key } => library::Operation::delete(key),
        Step::DeleteRange { range: keys, limit } => {
            library::Operation::DeleteRange { range: range(keys), limit: limited(limit) }
        }
        Step::Get { key, at_revision } => {
            library::Operation::Get { key: key.clone().into(), at_revision: *at_revision }
        }
        Step::List { range: keys, limit, at_revision } => library::Operation::List {
            range: range(keys),
            limit: limited(limit),
            keys_only: false,
            at_revision: *at_revision,
        },
        Step::Nested(nested) => library::Operation::Nested(transaction(nested)),
    }
}
