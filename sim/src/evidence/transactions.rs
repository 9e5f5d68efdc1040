//! The clients' transactions: what they asked for and what they were told, with their times.
//!
//! They have keys of their own, which nothing else writes, because what a transaction writes depends on the state: the
//! search for a linearization of each key could not follow it.

use super::history::{KeyState, Nanos};

/// All keys that transactions write begin so.
pub const KEYS: &str = "txn/";

/// Whether only transactions write this key.
pub fn is_transacted(key: &str) -> bool {
    key.starts_with(KEYS)
}

/// What a client asked for. Values are numbers, and each is in one transaction only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// All have to hold for `then`.
    pub conditions: Vec<Condition>,
    /// What is done if they hold.
    pub then: Vec<Step>,
    /// What is done otherwise.
    pub otherwise: Vec<Step>,
}

/// A condition on the state before the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// One key, or all of a range.
    pub keys: Keys,
    /// What must hold.
    pub test: Test,
}

/// One key or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// This key, whether it exists or not.
    One(String),
    /// Those that exist in this range.
    In(Range),
}

/// A range of keys in byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The first key.
    pub start: String,
    /// The key before which it ends.
    pub end: String,
}

impl Range {
    /// Whether a key lies in it.
    pub fn contains(&self, key: &str) -> bool {
        key >= self.start.as_str() && key < self.end.as_str()
    }
}

/// What a condition tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Whether the key exists; of a range, whether any does.
    Exists(bool),
    /// The value. Values compare as their numbers do.
    Value(Comparison, u64),
    /// The revision that created the key.
    CreateRevision(Comparison, u64),
    /// The revision that wrote the value.
    ModRevision(Comparison, u64),
    /// Writes since the key was created.
    Version(Comparison, u64),
}

/// How what is there compares with what is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Greater.
    Greater,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Writes a value.
    Set {
        /// The key.
        key: String,
        /// The value.
        value: u64,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: String,
    },
    /// Deletes keys of a range.
    DeleteRange {
        /// The range.
        range: Range,
        /// The first ones only.
        limit: Option<u64>,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: String,
        /// As it was at this revision.
        at_revision: Option<u64>,
    },
    /// Reads keys of a range.
    List {
        /// The range.
        range: Range,
        /// The first ones only.
        limit: Option<u64>,
        /// As they were at this revision.
        at_revision: Option<u64>,
    },
    /// Another transaction.
    Nested(Asked),
}

impl Asked {
    /// Whether it depends on nothing but revisions that it names: its answer tells nothing about the present.
    pub fn is_of_the_past(&self) -> bool {
        let of = |step: &Step| match step {
            Step::Get { at_revision, .. } | Step::List { at_revision, .. } => at_revision.is_some(),
            Step::Nested(nested) => nested.is_of_the_past(),
            Step::Set { .. } | Step::Delete { .. } | Step::DeleteRange { .. } => false,
        };
        self.conditions.is_empty() && self.then.iter().chain(&self.otherwise).all(of)
    }

    /// The numbers of all values that it may write.
    pub fn values(&self) -> Vec<u64> {
        let of = |step: &Step| match step {
            Step::Set { value, .. } => vec![*value],
            Step::Nested(nested) => nested.values(),
            _ => Vec::new(),
        };
        self.then.iter().chain(&self.otherwise).flat_map(of).collect()
    }
}

/// One transaction of one client.
#[derive(Debug, Clone)]
pub struct Transacted {
    /// The client's number.
    pub client: u32,
    /// What was asked for.
    pub asked: Asked,
    /// When it was sent.
    pub invoked: Nanos,
    /// When it ended; `None`: the client received no answer.
    pub returned: Option<Nanos>,
    /// What the client was told.
    pub told: Told,
}

/// What a client was told of a transaction.
#[derive(Debug, Clone)]
pub enum Told {
    /// It was executed.
    Executed {
        /// The store's revision after it.
        revision: u64,
        /// Whether its conditions held.
        succeeded: bool,
        /// What it found; `None`: that was compacted before the answer was made.
        results: Option<Vec<Found>>,
    },
    /// It was certainly not executed and never will be.
    Failed,
    /// It may have been executed, or may yet be, or never.
    Unknown,
}

/// What an operation of a transaction did or found.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// It wrote.
    Set,
    /// It deleted so many keys.
    Deleted(u64),
    /// The state of a key.
    Got(Option<KeyState>),
    /// Keys and their states, and whether a limit left more out.
    Listed(Vec<(String, KeyState)>, bool),
    /// Whether the conditions of a nested transaction held, and what it did and found.
    Nested(bool, Vec<Found>),
}

/// All transactions of a run, in the order of their invocations.
#[derive(Debug, Default)]
pub struct Transactions(Vec<Transacted>);

/// Identifies a transaction under way.
#[derive(Debug, Clone, Copy)]
pub struct TransactionTicket(usize);

impl Transactions {
    /// A client sends a transaction. Until [`Transactions::end`] its outcome is unknown.
    pub fn begin(&mut self, client: u32, asked: Asked, now: Nanos) -> TransactionTicket {
        self.0.push(Transacted { client, asked, invoked: now, returned: None, told: Told::Unknown });
        TransactionTicket(self.0.len() - 1)
    }

    /// The transaction ended.
    ///
    /// # Panics
    /// If it had ended before.
    pub fn end(&mut self, ticket: TransactionTicket, told: Told, now: Nanos) -> &Transacted {
        let transacted = &mut self.0[ticket.0];
        assert_eq!(transacted.returned.replace(now), None, "a transaction ends once");
        transacted.told = told;
        transacted
    }

    /// All of them.
    pub fn all(&self) -> &[Transacted] {
        &self.0
    }
}
