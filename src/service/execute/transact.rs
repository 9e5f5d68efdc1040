//! Transactions.

use crate::config::Limits;
use crate::map::{Answer, Command, Outcome, Results, ResultsMissing};
use crate::rt::Instant;
use crate::service::{Class, Freshness, Operation, Refused, Service, Serving, Transact, Transacted};
use crate::transaction::{self, Keys, Transaction};

use super::write::session_write;
use super::{check_key, refused};

/// Most bytes of keys and values in the results, and of keys that are passed over to find them, each with a fixed amount for
/// what it takes besides: they are one message.
const MAX_RESULT_BYTES: u64 = 16 << 20;

impl Operation for Transact {
    type Reply = Transacted;
    const CLASS: Class = Class::Client;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<Transacted, Refused> {
        let Transact { transaction, name, freshness } = self;
        transaction.check().map_err(|malformed| Refused::Invalid(malformed.to_string()))?;
        check(&transaction, &service.context.limits)?;
        if !transaction.may_write() {
            let serving = service.ready_for(&transaction, freshness, deadline).await?;
            // The clone, which is O(1), keeps the revision readable.
            let map = serving.consensus.store().read().map.clone();
            let outcome = map.read_only(&transaction);
            let mut outcome = outcome.map_err(|answer| not_executed(&transaction, answer))?;
            if reads_the_past_only(&transaction) {
                // It says nothing of the present, which this node may not know.
                outcome.revision =
                    asked_revisions(&transaction).into_iter().max().unwrap_or(outcome.revision);
            }
            return transacted(&outcome, map.results_of(&transaction, &outcome, MAX_RESULT_BYTES));
        }
        if let Freshness::Stale { .. } = freshness {
            return Err(Refused::Invalid("a transaction that may write cannot be a stale read".into()));
        }
        let session = name.map(session_write);
        let command = Command::Transaction { transaction: transaction.clone(), session };
        match service.propose(command, deadline).await?.answer {
            Answer::Transaction(outcome) => {
                // It was executed, whatever became of this node since.
                let serving = service.context.serving();
                let serving =
                    serving.map_err(|_| Refused::unknown("executed, but this node answers no more"))?;
                transacted(&outcome, results(serving, &transaction, &outcome))
            }
            other => Err(not_executed(&transaction, other)),
        }
    }
}

impl Service {
    /// Waits until this node may answer a transaction that only reads. As with one key, any node answers what it was at a
    /// revision that is there, and only the leader knows whether a later one is.
    async fn ready_for(
        &self,
        transaction: &Transaction,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<&Serving, Refused> {
        let asked = asked_revisions(transaction);
        let serving = self.context.serving()?;
        let present = serving.consensus.store().read().map.revision();
        match asked.iter().max() {
            Some(latest) if *latest > present => self.ready_to_read(Freshness::Linearizable, deadline).await,
            Some(_) if reads_the_past_only(transaction) => Ok(serving),
            _ => self.ready_to_read(freshness, deadline).await,
        }
    }
}

/// Whether a transaction depends on nothing but revisions that it names.
fn reads_the_past_only(transaction: &Transaction) -> bool {
    use transaction::Operation;
    let of = |operation: &Operation| match operation {
        Operation::Get { at_revision, .. } | Operation::List { at_revision, .. } => at_revision.is_some(),
        Operation::Nested(nested) => reads_the_past_only(nested),
        Operation::Set { .. } | Operation::Delete { .. } | Operation::DeleteRange { .. } => false,
    };
    transaction.conditions.is_empty() && transaction.operations().all(of)
}

fn results(
    serving: &Serving,
    transaction: &Transaction,
    outcome: &Outcome,
) -> Result<Results, ResultsMissing> {
    let reads = |operation: &transaction::Operation| {
        use transaction::Operation::{Get, List, Nested};
        matches!(operation, Get { .. } | List { .. } | Nested(_))
    };
    let store = serving.consensus.store();
    if transaction.operations().any(reads) {
        // Not under the lock, for which applying waits.
        let map = store.read().map.clone();
        return map.results_of(transaction, outcome, MAX_RESULT_BYTES);
    }
    store.read().map.results_of(transaction, outcome, MAX_RESULT_BYTES)
}

fn transacted(outcome: &Outcome, results: Result<Results, ResultsMissing>) -> Result<Transacted, Refused> {
    // The outermost transaction comes first.
    let succeeded = outcome.branches.first().copied().unwrap_or_default();
    let results = match results {
        Ok(results) => Ok(results.operations),
        Err(ResultsMissing::Foreign) => return Err(super::sequence_of_another_write()),
        Err(missing) => Err(missing),
    };
    Ok(Transacted { revision: outcome.revision, succeeded, results })
}

/// Checks keys and values against the bounds of this node.
fn check(transaction: &Transaction, limits: &Limits) -> Result<(), Refused> {
    use transaction::Operation;
    for condition in &transaction.conditions {
        if let Keys::One(key) = &condition.keys {
            check_key(key)?;
        }
    }
    for operation in transaction.operations() {
        match operation {
            Operation::Set { key, value } => {
                check_key(key)?;
                let (bytes, most) = (value.len(), limits.max_value_bytes);
                if bytes > most {
                    return Err(Refused::LongValue { bytes, most });
                }
            }
            Operation::Delete { key } | Operation::Get { key, .. } => check_key(key)?,
            Operation::DeleteRange { .. } | Operation::List { .. } => {}
            Operation::Nested(nested) => check(nested, limits)?,
        }
    }
    Ok(())
}

/// Maps the answer to a transaction that was not executed.
fn not_executed(transaction: &Transaction, answer: Answer) -> Refused {
    let revisions = asked_revisions(transaction);
    match answer {
        Answer::BelowFloor { floor } => {
            Refused::Compacted { revision: revisions.iter().copied().min().unwrap_or(0), floor }
        }
        Answer::FutureRevision { present } => {
            Refused::FutureRevision { revision: revisions.iter().copied().max().unwrap_or(0), present }
        }
        Answer::TooManyChanges { max_changes } => Refused::TransactionTooLarge(format!(
            "the transaction would change more than {max_changes} keys (max-transaction-changes); delete ranges in parts"
        )),
        Answer::TooManyBytes { max_bytes } => Refused::TransactionTooLarge(format!(
            "the transaction would look at more than {max_bytes} bytes to test conditions on ranges and to delete ranges \
             (max-transaction-bytes); delete ranges in parts"
        )),
        other => refused(other),
    }
}

/// The revisions at which a transaction reads.
fn asked_revisions(transaction: &Transaction) -> Vec<u64> {
    use transaction::Operation;
    let of = |operation: &Operation| match operation {
        Operation::Get { at_revision, .. } | Operation::List { at_revision, .. } => {
            at_revision.iter().copied().collect()
        }
        Operation::Nested(nested) => asked_revisions(nested),
        Operation::Set { .. } | Operation::Delete { .. } | Operation::DeleteRange { .. } => Vec::new(),
    };
    transaction.operations().flat_map(of).collect()
}
