//! Transactions and their results as messages.

use std::num::NonZeroU64;

use bytes::Bytes;
use mokv_proto::api::{self, condition, operation, operation_result};
use tonic::Status;

use super::kv::to_response;
use crate::map::{OperationResult, Results, ResultsMissing};
use crate::service::Transacted;
use crate::transaction::{
    Comparison, Condition, KeyRange, Keys, MAX_CONDITIONS, MAX_NESTING, MAX_OPERATIONS, Malformed, Operation,
    Test, Transaction,
};

/// Decodes a transaction.
///
/// # Errors
/// `INVALID_ARGUMENT` if a part is missing or of an unknown kind, or nested too deeply.
pub fn transaction(
    conditions: Vec<api::Condition>,
    then: Vec<api::Operation>,
    otherwise: Vec<api::Operation>,
) -> Result<Transaction, Status> {
    level(conditions, then, otherwise, MAX_NESTING)
}

fn level(
    conditions: Vec<api::Condition>,
    then: Vec<api::Operation>,
    otherwise: Vec<api::Operation>,
    levels_left: usize,
) -> Result<Transaction, Status> {
    let malformed = |malformed: Malformed| Status::invalid_argument(malformed.to_string());
    let levels_left = levels_left.checked_sub(1).ok_or_else(|| malformed(Malformed::Nesting))?;
    // Nested ones are counted later; what is too much by itself would take memory here.
    let operations = then.len().max(otherwise.len());
    if conditions.len() > MAX_CONDITIONS {
        return Err(malformed(Malformed::Conditions(conditions.len())));
    }
    if operations > MAX_OPERATIONS {
        return Err(malformed(Malformed::Operations(operations)));
    }
    let branch = |operations: Vec<api::Operation>| {
        operations.into_iter().map(|one| operation(one, levels_left)).collect::<Result<_, _>>()
    };
    Ok(Transaction {
        conditions: conditions.into_iter().map(condition).collect::<Result<_, _>>()?,
        then: branch(then)?,
        otherwise: branch(otherwise)?,
    })
}

fn invalid(reason: &'static str) -> Status {
    Status::invalid_argument(reason)
}

fn condition(condition: api::Condition) -> Result<Condition, Status> {
    use condition::Comparison as Wire;
    let comparison = match Wire::try_from(condition.comparison) {
        Ok(Wire::Equal) => Comparison::Equal,
        Ok(Wire::NotEqual) => Comparison::NotEqual,
        Ok(Wire::Less) => Comparison::Less,
        Ok(Wire::Greater) => Comparison::Greater,
        Err(_) => return Err(invalid("a condition compares in an unknown way")),
    };
    let keys = match condition.keys.ok_or_else(|| invalid("a condition names no key and no range"))? {
        condition::Keys::Key(key) => Keys::One(key),
        condition::Keys::Range(range) => Keys::In(key_range(range)),
    };
    let test = match condition.operand.ok_or_else(|| invalid("a condition has nothing to compare with"))? {
        condition::Operand::Exists(exists) if comparison == Comparison::Equal => Test::Exists(exists),
        condition::Operand::Exists(_) => return Err(invalid("existence is compared with EQUAL only")),
        condition::Operand::Value(value) => Test::Value(comparison, value),
        condition::Operand::CreateRevision(revision) => Test::CreateRevision(comparison, revision),
        condition::Operand::ModRevision(revision) => Test::ModRevision(comparison, revision),
        condition::Operand::Version(version) => Test::Version(comparison, version),
    };
    Ok(Condition { keys, test })
}

/// Decodes a range.
pub fn key_range(api::KeyRange { start, end }: api::KeyRange) -> KeyRange {
    KeyRange { start, end }
}

fn operation(operation: api::Operation, levels_left: usize) -> Result<Operation, Status> {
    let range = |range: Option<api::KeyRange>| {
        range.map(key_range).ok_or_else(|| invalid("an operation names no range"))
    };
    let at_revision = |revision| NonZeroU64::new(revision).map(NonZeroU64::get);
    let unknown = || invalid("an operation is of an unknown kind");
    Ok(match operation.operation.ok_or_else(unknown)? {
        operation::Operation::Set(api::SetOperation { key, value }) => Operation::Set { key, value },
        operation::Operation::Delete(api::DeleteOperation { key }) => Operation::Delete { key },
        operation::Operation::DeleteRange(delete) => {
            Operation::DeleteRange { range: range(delete.range)?, limit: NonZeroU64::new(delete.limit) }
        }
        operation::Operation::Get(get) => {
            Operation::Get { key: get.key, at_revision: at_revision(get.at_revision) }
        }
        operation::Operation::List(list) => Operation::List {
            range: range(list.range)?,
            limit: NonZeroU64::new(list.limit),
            keys_only: list.keys_only,
            at_revision: at_revision(list.at_revision),
        },
        operation::Operation::Nested(api::NestedTransaction { conditions, then, otherwise }) => {
            Operation::Nested(level(conditions, then, otherwise, levels_left)?)
        }
    })
}

/// Encodes what a transaction did.
pub fn response(transacted: Transacted) -> api::TransactResponse {
    let Transacted { revision, succeeded, results } = transacted;
    let (results, missing) = match results {
        Ok(operations) => (operation_results(operations, revision), None),
        Err(missing) => (Vec::new(), Some(missing_results(missing))),
    };
    api::TransactResponse { revision, succeeded, results, missing }
}

fn missing_results(missing: ResultsMissing) -> api::MissingResults {
    use api::missing_results::Reason;
    let reason = match missing {
        ResultsMissing::Compacted { floor } => Some(Reason::CompactedFloor(floor)),
        ResultsMissing::TooLarge { max_bytes } => Some(Reason::TooLarge(max_bytes)),
        // Refused before.
        ResultsMissing::Foreign => None,
    };
    api::MissingResults { reason }
}

fn operation_results(operations: Vec<OperationResult>, revision: u64) -> Vec<api::OperationResult> {
    use operation_result::Result as Wire;
    let of = |result: OperationResult| match result {
        OperationResult::Set => Wire::Set(api::SetResult {}),
        OperationResult::Deleted(deleted) => Wire::Delete(api::DeleteResult { deleted }),
        OperationResult::Got(entry) => {
            let entry = entry.map(|entry| to_response(Bytes::new(), entry, revision));
            Wire::Get(api::GetResult { entry })
        }
        OperationResult::Listed { entries, more } => {
            let entries = entries.into_iter().map(|(key, entry)| to_response(key, entry, revision)).collect();
            Wire::List(api::ListResult { entries, more })
        }
        OperationResult::Nested(Results { succeeded, operations }) => {
            Wire::Nested(api::NestedResult { succeeded, results: operation_results(operations, revision) })
        }
    };
    operations.into_iter().map(|result| api::OperationResult { result: Some(of(result)) }).collect()
}
