//! Transactions in log entries, and outcomes in answers.
//!
//! Strict, as all of the log is: what `encode` would not write is refused.

use mokv_proto::log::{self, condition, operation};
use std::num::NonZeroU64;

use super::Outcome;
use crate::transaction::{Comparison, Condition, KeyRange, Keys, Operation, Test, Transaction};

/// The message is none that `encode` writes, or what it says is no transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::map) struct Unreadable;

impl Transaction {
    pub(in crate::map) fn encode(&self) -> log::Choice {
        let operations = |branch: &[Operation]| branch.iter().map(Operation::encode).collect();
        log::Choice {
            conditions: self.conditions.iter().map(Condition::encode).collect(),
            then: operations(&self.then),
            otherwise: operations(&self.otherwise),
        }
    }

    pub(in crate::map) fn decode(choice: log::Choice) -> Result<Transaction, Unreadable> {
        let transaction = Transaction::decode_unchecked(choice)?;
        transaction.check().map_err(|_| Unreadable)?;
        Ok(transaction)
    }

    fn decode_unchecked(choice: log::Choice) -> Result<Transaction, Unreadable> {
        let log::Choice { conditions, then, otherwise } = choice;
        let operations = |branch: Vec<log::Operation>| {
            branch.into_iter().map(Operation::decode).collect::<Result<Vec<_>, _>>()
        };
        Ok(Transaction {
            conditions: conditions.into_iter().map(Condition::decode).collect::<Result<_, _>>()?,
            then: operations(then)?,
            otherwise: operations(otherwise)?,
        })
    }
}

impl Condition {
    fn encode(&self) -> log::Condition {
        let keys = match &self.keys {
            Keys::One(key) => condition::Keys::Key(key.clone()),
            Keys::In(range) => condition::Keys::Range(range.encode()),
        };
        let (comparison, operand) = match &self.test {
            Test::Exists(exists) => (Comparison::Equal, condition::Operand::Exists(*exists)),
            Test::Value(comparison, value) => (*comparison, condition::Operand::Value(value.clone())),
            Test::CreateRevision(comparison, revision) => {
                (*comparison, condition::Operand::CreateRevision(*revision))
            }
            Test::ModRevision(comparison, revision) => {
                (*comparison, condition::Operand::ModRevision(*revision))
            }
            Test::Version(comparison, version) => (*comparison, condition::Operand::Version(*version)),
        };
        let comparison: log::Comparison = comparison.into();
        log::Condition { keys: Some(keys), comparison: comparison.into(), operand: Some(operand) }
    }

    fn decode(condition: log::Condition) -> Result<Condition, Unreadable> {
        let comparison = log::Comparison::try_from(condition.comparison).map_err(|_| Unreadable)?.into();
        let keys = match condition.keys.ok_or(Unreadable)? {
            condition::Keys::Key(key) => Keys::One(key),
            condition::Keys::Range(range) => Keys::In(KeyRange::decode(range)),
        };
        let test = match condition.operand.ok_or(Unreadable)? {
            condition::Operand::Exists(exists) if comparison == Comparison::Equal => Test::Exists(exists),
            condition::Operand::Exists(_) => return Err(Unreadable),
            condition::Operand::Value(value) => Test::Value(comparison, value),
            condition::Operand::CreateRevision(revision) => Test::CreateRevision(comparison, revision),
            condition::Operand::ModRevision(revision) => Test::ModRevision(comparison, revision),
            condition::Operand::Version(version) => Test::Version(comparison, version),
        };
        Ok(Condition { keys, test })
    }
}

impl KeyRange {
    fn encode(&self) -> log::KeyRange {
        log::KeyRange { start: self.start.clone(), end: self.end.clone() }
    }

    fn decode(range: log::KeyRange) -> KeyRange {
        KeyRange { start: range.start, end: range.end }
    }
}

// In entries, a limit of 0 stands for the absence of one.

fn limit_to_wire(limit: Option<NonZeroU64>) -> u64 {
    limit.map_or(0, NonZeroU64::get)
}

impl Operation {
    fn encode(&self) -> log::Operation {
        let operation = match self.clone() {
            Operation::Set { key, value } => operation::Operation::Set(log::SetOperation { key, value }),
            Operation::Delete { key } => operation::Operation::Delete(log::DeleteOperation { key }),
            Operation::DeleteRange { range, limit } => {
                let (range, limit) = (Some(range.encode()), limit_to_wire(limit));
                operation::Operation::DeleteRange(log::DeleteRangeOperation { range, limit })
            }
            Operation::Get { key, at_revision } => {
                operation::Operation::Get(log::GetOperation { key, at_revision })
            }
            Operation::List { range, limit, keys_only, at_revision } => {
                let (range, limit) = (Some(range.encode()), limit_to_wire(limit));
                operation::Operation::List(log::ListOperation { range, limit, keys_only, at_revision })
            }
            Operation::Nested(nested) => operation::Operation::Nested(nested.encode()),
        };
        log::Operation { operation: Some(operation) }
    }

    fn decode(operation: log::Operation) -> Result<Operation, Unreadable> {
        let range = |range: Option<log::KeyRange>| range.map(KeyRange::decode).ok_or(Unreadable);
        Ok(match operation.operation.ok_or(Unreadable)? {
            operation::Operation::Set(log::SetOperation { key, value }) => Operation::Set { key, value },
            operation::Operation::Delete(log::DeleteOperation { key }) => Operation::Delete { key },
            operation::Operation::DeleteRange(delete) => {
                Operation::DeleteRange { range: range(delete.range)?, limit: NonZeroU64::new(delete.limit) }
            }
            operation::Operation::Get(log::GetOperation { key, at_revision }) => {
                Operation::Get { key, at_revision }
            }
            operation::Operation::List(list) => Operation::List {
                range: range(list.range)?,
                limit: NonZeroU64::new(list.limit),
                keys_only: list.keys_only,
                at_revision: list.at_revision,
            },
            operation::Operation::Nested(nested) => Operation::Nested(Transaction::decode_unchecked(nested)?),
        })
    }
}

impl From<Comparison> for log::Comparison {
    fn from(comparison: Comparison) -> log::Comparison {
        match comparison {
            Comparison::Equal => log::Comparison::Equal,
            Comparison::NotEqual => log::Comparison::NotEqual,
            Comparison::Less => log::Comparison::Less,
            Comparison::Greater => log::Comparison::Greater,
        }
    }
}

impl From<log::Comparison> for Comparison {
    fn from(comparison: log::Comparison) -> Comparison {
        match comparison {
            log::Comparison::Equal => Comparison::Equal,
            log::Comparison::NotEqual => Comparison::NotEqual,
            log::Comparison::Less => Comparison::Less,
            log::Comparison::Greater => Comparison::Greater,
        }
    }
}

impl From<&Outcome> for log::TransactionOutcome {
    fn from(outcome: &Outcome) -> log::TransactionOutcome {
        let Outcome { revision, branches, deleted } = outcome.clone();
        log::TransactionOutcome { revision, branches, deleted }
    }
}

impl From<log::TransactionOutcome> for Outcome {
    fn from(outcome: log::TransactionOutcome) -> Outcome {
        let log::TransactionOutcome { revision, branches, deleted } = outcome;
        Outcome { revision, branches, deleted }
    }
}
