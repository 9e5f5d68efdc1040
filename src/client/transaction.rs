//! Transactions, and the calls that are made of them: reads of several keys, deletions by prefix.

use std::num::NonZeroU64;

use bytes::Bytes;
use mokv_proto::api::{self, condition, operation, operation_result};

use super::error::Error;
use super::{Client, Consistency, KeyValue, ReadOptions};
use crate::transaction::{
    Comparison, Condition, KeyRange, Keys, MAX_OPERATIONS, Operation, Test, Transaction,
};

/// The keys that one transaction of [`Client::delete_prefix`] deletes, at most.
const DELETED_AT_ONCE: u64 = 1_000;

/// The answer to a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transacted {
    /// The store's revision after it: its own if it changed anything.
    pub revision: u64,
    /// Whether the conditions held, so that [`Transaction::then`] was executed.
    pub succeeded: bool,
    /// One result for each operation of the branch that was executed. An error: it was executed all the same, and what it
    /// found cannot be had.
    pub results: Result<Vec<OperationResult>, ResultsMissing>,
}

/// What an operation of a transaction did or found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperationResult {
    /// The value was written.
    Set,
    /// So many keys were deleted.
    Deleted(u64),
    /// What a key held; `None`: it did not exist.
    Got(Option<KeyValue>),
    /// The keys of a range.
    Listed {
        /// In byte order of the keys.
        entries: Vec<KeyValue>,
        /// Whether the limit has left some out.
        more: bool,
    },
    /// Of a nested transaction.
    Nested {
        /// Whether its conditions held.
        succeeded: bool,
        /// One result for each operation of its branch.
        results: Vec<OperationResult>,
    },
}

/// Why a transaction that was executed has no results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResultsMissing {
    /// They are compacted: the transaction was sent again long after it was executed.
    #[error(
        "the transaction was executed, and what it found is compacted; the earliest revision that can be read is {floor}"
    )]
    Compacted {
        /// The earliest revision that can be read.
        floor: u64,
    },
    /// They are larger than one answer may be.
    #[error(
        "the transaction was executed, and what it found has more than {max_bytes} bytes; read it at its revision"
    )]
    TooLarge {
        /// The bytes that are allowed.
        max_bytes: u64,
    },
}

/// Several keys at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GotMany {
    /// The store's revision the read was made at.
    pub revision: u64,
    /// One for each key, in the order asked for; `None`: the key does not exist.
    pub entries: Vec<Option<KeyValue>>,
}

/// The answer to [`Client::delete_prefix`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeletedPrefix {
    /// The store's revision after the last deletion.
    pub revision: u64,
    /// How many keys were deleted.
    pub deleted: u64,
}

impl Client {
    /// Tests conditions and executes one list of operations or the other, all of it in one revision, or nothing. As other
    /// writes of this client it is executed exactly once, however often it is sent. One that cannot write is a linearizable
    /// read.
    ///
    /// # Errors
    /// As [`Client::set`]; [`Error::Invalid`] if it writes a key twice or has too many parts, [`Error::ResourceExhausted`] if
    /// it would change or look at too much, [`Error::RevisionGone`] if it reads a revision that is compacted.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// use mokv::client::{Comparison, Condition, Operation, Transaction};
    ///
    /// let account = client.get("account/a").await?.entry.unwrap();
    /// let transfer = Transaction::new()
    ///     .when(Condition::mod_revision("account/a", Comparison::Equal, account.mod_revision))
    ///     .then(Operation::set("account/a", "90"))
    ///     .then(Operation::set("account/b", "110"))
    ///     .otherwise(Operation::get("account/a"));
    /// if !client.transact(transfer).await?.succeeded {
    ///     println!("another client has changed it");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn transact(&self, transaction: Transaction) -> Result<Transacted, Error> {
        self.transact_with(transaction, Consistency::Linearizable).await
    }

    /// Like [`Client::transact`], with the consistency of a transaction that only reads.
    ///
    /// # Errors
    /// As [`Client::transact`]; [`Error::Invalid`] for a stale transaction that may write.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// use mokv::client::{Consistency, KeyRange, Operation, Transaction};
    ///
    /// let read = Transaction::new()
    ///     .then(Operation::get("config/version"))
    ///     .then(Operation::list(KeyRange::prefix("config/")));
    /// let config = client.transact_with(read, Consistency::Stale).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn transact_with(
        &self,
        transaction: Transaction,
        consistency: Consistency,
    ) -> Result<Transacted, Error> {
        transaction.check().map_err(|malformed| Error::Invalid(malformed.to_string().into()))?;
        let (conditions, then, otherwise) = to_wire(&transaction)?;
        let request = api::TransactRequest {
            conditions,
            then,
            otherwise,
            session: None,
            consistency: consistency.wire(),
            min_revision: self.min_revision(consistency),
        };
        self.inner.keep_informed();
        let deadline = self.deadline();
        let response = if transaction.may_write() {
            self.inner.named_write(request, deadline).await?
        } else {
            let read = self.inner.read(&request, consistency.purpose(), deadline, None).await;
            read.map_err(|failure| failure.error)?.into_inner()
        };
        self.inner.saw(response.revision);
        let api::TransactResponse { revision, succeeded, results, missing } = response;
        let results = match missing {
            Some(missing) => Err(missing_from_wire(&missing)),
            None => Ok(results_from_wire(&transaction, succeeded, results).ok_or_else(malformed)?),
        };
        Ok(Transacted { revision, succeeded, results })
    }

    /// Reads several keys at one revision; linearizable.
    ///
    /// # Errors
    /// As [`Client::get`]; [`Error::RevisionGone`] if there are more than 128 keys, which takes several requests, and the
    /// revision of the first is compacted meanwhile.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let read = client.get_many(["config/a", "config/b"]).await?;
    /// assert_eq!(read.entries.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<GotMany, Error> {
        self.get_many_with(keys, ReadOptions::default()).await
    }

    /// Like [`Client::get_many`], with options.
    ///
    /// # Errors
    /// As [`Client::get_many`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// use mokv::client::ReadOptions;
    ///
    /// let read = client.get_many_with(["config/a", "config/b"], ReadOptions::stale()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_many_with<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        options: ReadOptions,
    ) -> Result<GotMany, Error> {
        let keys: Vec<Bytes> = keys.into_iter().map(|key| Bytes::copy_from_slice(key.as_ref())).collect();
        let mut at_revision = Some(options.wire_revision()?).filter(|revision| *revision != 0);
        let mut many = GotMany { revision: 0, entries: Vec::with_capacity(keys.len()) };
        // Without any key, the present revision is read all the same.
        let pages = keys.chunks(MAX_OPERATIONS).chain(keys.is_empty().then_some(&keys[..]));
        for page in pages {
            let get = |key: &Bytes| Operation::Get { key: key.clone(), at_revision };
            let read = Transaction { then: page.iter().map(get).collect(), ..Transaction::default() };
            let read = self.transact_with(read, options.consistency).await?;
            // The other keys are of the revision of the first.
            many.revision = *at_revision.get_or_insert(read.revision);
            let results =
                read.results.map_err(|missing| Error::ResourceExhausted(missing.to_string().into()))?;
            for result in results {
                match result {
                    OperationResult::Got(entry) => many.entries.push(entry),
                    _ => return Err(malformed()),
                }
            }
        }
        Ok(many)
    }

    /// Deletes all keys that begin with `prefix`, in transactions of at most 1,000 keys: not all at one revision, so that the
    /// store does not stand still for it; while others write such keys it goes on. For few keys, a transaction with
    /// [`Operation::delete_range`] deletes all of them at one revision.
    ///
    /// # Errors
    /// As [`Client::set`]; keys may have been deleted before.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let deleted = client.delete_prefix("session/").await?.deleted;
    /// println!("{deleted} sessions are gone");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<DeletedPrefix, Error> {
        let range = KeyRange::prefix(prefix);
        let mut all = DeletedPrefix { revision: 0, deleted: 0 };
        let mut at_once = DELETED_AT_ONCE;
        loop {
            let page = match self.delete_first(range.clone(), at_once).await {
                // The values are large, or the cluster changes fewer keys at a time.
                Err(Error::ResourceExhausted(_)) if at_once > 1 => {
                    at_once /= 2;
                    continue;
                }
                page => page?,
            };
            all = DeletedPrefix { revision: page.revision, deleted: all.deleted + page.deleted };
            if page.deleted < at_once {
                return Ok(all);
            }
        }
    }

    /// Deletes the first `keys` keys of a range, all at one revision.
    async fn delete_first(&self, range: KeyRange, keys: u64) -> Result<DeletedPrefix, Error> {
        let delete = Operation::DeleteRange { range, limit: NonZeroU64::new(keys) };
        let done = self.transact(Transaction::new().then(delete)).await?;
        match done.results.as_deref() {
            Ok([OperationResult::Deleted(deleted)]) => {
                Ok(DeletedPrefix { revision: done.revision, deleted: *deleted })
            }
            _ => Err(malformed()),
        }
    }
}

fn malformed() -> Error {
    Error::Unknown("the node's answer does not fit the transaction".into())
}

type Wire = (Vec<api::Condition>, Vec<api::Operation>, Vec<api::Operation>);

fn to_wire(transaction: &Transaction) -> Result<Wire, Error> {
    let branch = |operations: &[Operation]| operations.iter().map(operation_to_wire).collect();
    let conditions = transaction.conditions.iter().map(condition_to_wire).collect();
    let then: Result<_, Error> = branch(&transaction.then);
    let otherwise: Result<_, Error> = branch(&transaction.otherwise);
    Ok((conditions, then?, otherwise?))
}

fn condition_to_wire(condition: &Condition) -> api::Condition {
    use condition::{Comparison as Wire, Keys as WireKeys, Operand};
    let keys = match &condition.keys {
        Keys::One(key) => WireKeys::Key(key.clone()),
        Keys::In(range) => WireKeys::Range(range_to_wire(range)),
    };
    let (comparison, operand) = match &condition.test {
        Test::Exists(exists) => (Comparison::Equal, Operand::Exists(*exists)),
        Test::Value(comparison, value) => (*comparison, Operand::Value(value.clone())),
        Test::CreateRevision(comparison, revision) => (*comparison, Operand::CreateRevision(*revision)),
        Test::ModRevision(comparison, revision) => (*comparison, Operand::ModRevision(*revision)),
        Test::Version(comparison, version) => (*comparison, Operand::Version(*version)),
    };
    let comparison = match comparison {
        Comparison::Equal => Wire::Equal,
        Comparison::NotEqual => Wire::NotEqual,
        Comparison::Less => Wire::Less,
        Comparison::Greater => Wire::Greater,
    };
    api::Condition { keys: Some(keys), comparison: comparison.into(), operand: Some(operand) }
}

fn range_to_wire(range: &KeyRange) -> api::KeyRange {
    api::KeyRange { start: range.start.clone(), end: range.end.clone() }
}

fn operation_to_wire(operation: &Operation) -> Result<api::Operation, Error> {
    use operation::Operation as Wire;
    let limit = |limit: Option<NonZeroU64>| limit.map_or(0, NonZeroU64::get);
    let at_revision = |revision: Option<u64>| ReadOptions::of_revision(revision).wire_revision();
    let wire = match operation.clone() {
        Operation::Set { key, value } => Wire::Set(api::SetOperation { key, value }),
        Operation::Delete { key } => Wire::Delete(api::DeleteOperation { key }),
        Operation::DeleteRange { range, limit: most } => Wire::DeleteRange(api::DeleteRangeOperation {
            range: Some(range_to_wire(&range)),
            limit: limit(most),
        }),
        Operation::Get { key, at_revision: revision } => {
            Wire::Get(api::GetOperation { key, at_revision: at_revision(revision)? })
        }
        Operation::List { range, limit: most, keys_only, at_revision: revision } => {
            Wire::List(api::ListOperation {
                range: Some(range_to_wire(&range)),
                limit: limit(most),
                keys_only,
                at_revision: at_revision(revision)?,
            })
        }
        Operation::Nested(nested) => {
            let (conditions, then, otherwise) = to_wire(&nested)?;
            Wire::Nested(api::NestedTransaction { conditions, then, otherwise })
        }
    };
    Ok(api::Operation { operation: Some(wire) })
}

fn missing_from_wire(missing: &api::MissingResults) -> ResultsMissing {
    use api::missing_results::Reason;
    match missing.reason {
        Some(Reason::TooLarge(max_bytes)) => ResultsMissing::TooLarge { max_bytes },
        Some(Reason::CompactedFloor(floor)) => ResultsMissing::Compacted { floor },
        None => ResultsMissing::Compacted { floor: 0 },
    }
}

/// `None`: they do not fit the operations.
fn results_from_wire(
    transaction: &Transaction,
    succeeded: bool,
    results: Vec<api::OperationResult>,
) -> Option<Vec<OperationResult>> {
    use operation_result::Result as Wire;
    let branch = if succeeded { &transaction.then } else { &transaction.otherwise };
    if results.len() != branch.len() {
        return None;
    }
    let of = |(operation, result): (&Operation, api::OperationResult)| {
        Some(match (operation, result.result?) {
            (Operation::Set { .. }, Wire::Set(api::SetResult {})) => OperationResult::Set,
            (Operation::Delete { .. } | Operation::DeleteRange { .. }, Wire::Delete(deleted)) => {
                OperationResult::Deleted(deleted.deleted)
            }
            (Operation::Get { key, .. }, Wire::Get(api::GetResult { entry })) => {
                let entry = entry.map(|entry| KeyValue { key: key.clone(), ..KeyValue::from_wire(entry) });
                OperationResult::Got(entry)
            }
            (Operation::List { .. }, Wire::List(api::ListResult { entries, more })) => {
                let entries = entries.into_iter().map(KeyValue::from_wire).collect();
                OperationResult::Listed { entries, more }
            }
            (Operation::Nested(nested), Wire::Nested(api::NestedResult { succeeded, results })) => {
                let results = results_from_wire(nested, succeeded, results)?;
                OperationResult::Nested { succeeded, results }
            }
            _ => return None,
        })
    };
    branch.iter().zip(results).map(of).collect()
}
