//! A transaction as plain values: conditions, and what is done if all of them hold, or otherwise.
//!
//! One type for the state, the core, the command line and the client. What can be checked without the state is checked here:
//! how many operations there are, how deep they are nested, and that no key is written twice. No IO, no wire format.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU64;
use std::ops::Bound;

use bytes::Bytes;

/// Conditions, and what is done if all of them hold, or otherwise.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All have to hold for `then` to be executed; none: it is.
    pub conditions: Vec<Condition>,
    /// What is done if they hold.
    pub then: Vec<Operation>,
    /// What is done if one does not hold.
    pub otherwise: Vec<Operation>,
}

/// A condition on the state before the transaction.
#[derive(Clone, PartialEq, Eq)]
pub struct Condition {
    /// The keys that it is about. Of a range, all that exist must pass the test.
    pub keys: Keys,
    /// What must hold.
    pub test: Test,
}

/// One key or several.
#[derive(Clone, PartialEq, Eq)]
pub enum Keys {
    /// This key, whether it exists or not.
    One(Bytes),
    /// Those that exist in this range.
    In(KeyRange),
}

/// A range of keys in byte order.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key. Empty: from the first key of the store on.
    pub start: Bytes,
    /// The key before which it ends; `None`: with the last key of the store.
    pub end: Option<Bytes>,
}

/// What a condition tests. A key that does not exist has revisions and version 0, and no value: a test of its value fails,
/// whatever is compared.
#[derive(Clone, PartialEq, Eq)]
pub enum Test {
    /// Whether the key exists; of a range, whether any key does.
    Exists(bool),
    /// The value, in byte order.
    Value(Comparison, Bytes),
    /// The revision that created the key.
    CreateRevision(Comparison, u64),
    /// The revision that wrote the value.
    ModRevision(Comparison, u64),
    /// The number of writes since the key was created.
    Version(Comparison, u64),
}

/// How what is there compares with what a condition names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// They are equal.
    Equal,
    /// They are not.
    NotEqual,
    /// What is there is less.
    Less,
    /// What is there is greater.
    Greater,
}

/// One step of a transaction.
#[derive(Clone, PartialEq, Eq)]
pub enum Operation {
    /// Writes a value.
    Set {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Deletes a key, if it exists.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Deletes the keys of a range.
    DeleteRange {
        /// The range.
        range: KeyRange,
        /// At most this many, the first ones; `None`: all.
        limit: Option<NonZeroU64>,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: Bytes,
        /// As it was at this revision, before the transaction.
        at_revision: Option<u64>,
    },
    /// Reads the keys of a range.
    List {
        /// The range.
        range: KeyRange,
        /// At most this many, the first ones; `None`: all.
        limit: Option<NonZeroU64>,
        /// Whether values are left out.
        keys_only: bool,
        /// As they were at this revision, before the transaction.
        at_revision: Option<u64>,
    },
    /// Another transaction. Its conditions, too, are tested against the state before the outermost one.
    Nested(Transaction),
}

/// No transaction: it is refused before it becomes an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// There are too many conditions.
    #[error("a transaction has at most {MAX_CONDITIONS} conditions, nested ones included; this one has {0}")]
    Conditions(usize),
    /// A branch has too many operations.
    #[error(
        "a transaction has at most {MAX_OPERATIONS} operations in a branch, nested ones included; this one has {0}"
    )]
    Operations(usize),
    /// Transactions are nested too deeply.
    #[error("transactions are nested at most {MAX_NESTING} deep")]
    Nesting,
    /// A key is empty.
    #[error("a key of the transaction is empty; a key has 1 to 4096 bytes")]
    EmptyKey,
    /// A key would be written twice.
    #[error("the transaction sets the key '{}' twice, or sets and deletes it", .0.escape_ascii())]
    WrittenTwice(Bytes),
}

/// Most conditions of a transaction, those of nested ones included.
pub const MAX_CONDITIONS: usize = 128;
/// Most operations of a branch, those of both branches of nested transactions included.
pub const MAX_OPERATIONS: usize = 128;
/// Most levels of transactions in one. The encoding of an entry allows some times as many.
pub const MAX_NESTING: usize = 8;

impl Transaction {
    /// A transaction without conditions and operations.
    pub fn new() -> Transaction {
        Transaction::default()
    }

    /// Adds a condition.
    pub fn when(mut self, condition: Condition) -> Transaction {
        self.conditions.push(condition);
        self
    }

    /// Adds an operation to what is done if all conditions hold.
    pub fn then(mut self, operation: Operation) -> Transaction {
        self.then.push(operation);
        self
    }

    /// Adds an operation to what is done if a condition does not hold.
    pub fn otherwise(mut self, operation: Operation) -> Transaction {
        self.otherwise.push(operation);
        self
    }

    /// Checks what can be checked without the state.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn check(&self) -> Result<(), Malformed> {
        self.check_level(MAX_NESTING)?;
        let conditions = self.conditions();
        if conditions > MAX_CONDITIONS {
            return Err(Malformed::Conditions(conditions));
        }
        for branch in [&self.then, &self.otherwise] {
            let operations = count(branch);
            if operations > MAX_OPERATIONS {
                return Err(Malformed::Operations(operations));
            }
            Writes::of(branch)?;
        }
        Ok(())
    }

    fn check_level(&self, levels_left: usize) -> Result<(), Malformed> {
        let levels_left = levels_left.checked_sub(1).ok_or(Malformed::Nesting)?;
        for condition in &self.conditions {
            condition.keys.check()?;
        }
        for operation in self.operations() {
            match operation {
                Operation::Set { key, .. } | Operation::Delete { key } | Operation::Get { key, .. } => {
                    not_empty(key)?;
                }
                Operation::DeleteRange { .. } | Operation::List { .. } => {}
                Operation::Nested(nested) => nested.check_level(levels_left)?,
            }
        }
        Ok(())
    }

    /// Number of conditions, nested ones included.
    fn conditions(&self) -> usize {
        self.conditions.len() + self.nested().map(Transaction::conditions).sum::<usize>()
    }

    /// The operations of both branches.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.then.iter().chain(&self.otherwise)
    }

    fn nested(&self) -> impl Iterator<Item = &Transaction> {
        self.operations().filter_map(|operation| match operation {
            Operation::Nested(nested) => Some(nested),
            _ => None,
        })
    }

    /// Whether any branch may change the store.
    pub fn may_write(&self) -> bool {
        self.operations().any(|operation| match operation {
            Operation::Set { .. } | Operation::Delete { .. } | Operation::DeleteRange { .. } => true,
            Operation::Get { .. } | Operation::List { .. } => false,
            Operation::Nested(nested) => nested.may_write(),
        })
    }

    /// Whether any branch writes a value.
    pub fn may_set(&self) -> bool {
        self.operations().any(|operation| match operation {
            Operation::Set { .. } => true,
            Operation::Nested(nested) => nested.may_set(),
            _ => false,
        })
    }
}

fn count(operations: &[Operation]) -> usize {
    let of = |operation: &Operation| match operation {
        Operation::Nested(nested) => 1 + count(&nested.then) + count(&nested.otherwise),
        _ => 1,
    };
    operations.iter().map(of).sum()
}

fn not_empty(key: &Bytes) -> Result<(), Malformed> {
    if key.is_empty() { Err(Malformed::EmptyKey) } else { Ok(()) }
}

impl Keys {
    fn check(&self) -> Result<(), Malformed> {
        match self {
            Keys::One(key) => not_empty(key),
            Keys::In(_) => Ok(()),
        }
    }
}

impl Condition {
    /// The key exists; of a range, any key does.
    pub fn exists(keys: impl Into<Keys>) -> Condition {
        Condition { keys: keys.into(), test: Test::Exists(true) }
    }

    /// The key does not exist; of a range, none does.
    pub fn absent(keys: impl Into<Keys>) -> Condition {
        Condition { keys: keys.into(), test: Test::Exists(false) }
    }

    /// The value compares with this one. It fails if the key does not exist.
    pub fn value(keys: impl Into<Keys>, comparison: Comparison, value: impl Into<Bytes>) -> Condition {
        Condition { keys: keys.into(), test: Test::Value(comparison, value.into()) }
    }

    /// The revision that created the key compares with this one; 0: it does not exist.
    pub fn create_revision(keys: impl Into<Keys>, comparison: Comparison, revision: u64) -> Condition {
        Condition { keys: keys.into(), test: Test::CreateRevision(comparison, revision) }
    }

    /// The revision that wrote the value compares with this one; 0: the key does not exist.
    pub fn mod_revision(keys: impl Into<Keys>, comparison: Comparison, revision: u64) -> Condition {
        Condition { keys: keys.into(), test: Test::ModRevision(comparison, revision) }
    }

    /// The number of writes since the key was created compares with this one; 0: it does not exist.
    pub fn version(keys: impl Into<Keys>, comparison: Comparison, version: u64) -> Condition {
        Condition { keys: keys.into(), test: Test::Version(comparison, version) }
    }
}

impl Operation {
    /// Writes a value.
    pub fn set(key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Operation {
        Operation::Set { key: copied(key), value: value.into() }
    }

    /// Deletes a key, if it exists.
    pub fn delete(key: impl AsRef<[u8]>) -> Operation {
        Operation::Delete { key: copied(key) }
    }

    /// Deletes all keys of a range.
    pub fn delete_range(range: KeyRange) -> Operation {
        Operation::DeleteRange { range, limit: None }
    }

    /// Reads a key.
    pub fn get(key: impl AsRef<[u8]>) -> Operation {
        Operation::Get { key: copied(key), at_revision: None }
    }

    /// Reads all keys of a range and their values.
    pub fn list(range: KeyRange) -> Operation {
        Operation::List { range, limit: None, keys_only: false, at_revision: None }
    }
}

fn copied(key: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(key.as_ref())
}

impl From<KeyRange> for Keys {
    fn from(range: KeyRange) -> Keys {
        Keys::In(range)
    }
}

macro_rules! one_key {
    ($($key:ty)*) => {$(
        impl From<$key> for Keys {
            fn from(key: $key) -> Keys {
                Keys::One(copied(key))
            }
        }
    )*};
}

one_key!(&str &String String &[u8] Vec<u8> Bytes);

impl KeyRange {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> KeyRange {
        let start = copied(prefix);
        KeyRange { end: prefix_end(&start), start }
    }

    /// The keys from `start` on and before `end`.
    pub fn new(start: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> KeyRange {
        KeyRange { start: copied(start), end: Some(copied(end)) }
    }

    /// Whether a key lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// The keys from `start` on.
    pub fn from_key(start: impl AsRef<[u8]>) -> KeyRange {
        KeyRange { start: copied(start), end: None }
    }
}

/// The first key in byte order after all that begin with `prefix`; `None`: there is none.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// The keys that a branch may write.
#[derive(Default)]
struct Writes<'a> {
    sets: BTreeSet<&'a [u8]>,
    deletes: Vec<(&'a [u8], Bound<&'a [u8]>)>,
}

impl<'a> Writes<'a> {
    /// Checks that no two operations of a branch may write one key, except that several may delete it. Of a nested
    /// transaction only one branch is executed: each may write what the other does.
    fn of(branch: &'a [Operation]) -> Result<Writes<'a>, Malformed> {
        let mut all = Writes::default();
        for operation in branch {
            match operation {
                Operation::Set { key, .. } => all.add(Writes::set(key))?,
                Operation::Delete { key } => all.add(Writes::deletes(key, Bound::Included(&key[..])))?,
                Operation::DeleteRange { range, .. } => {
                    let end = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                    all.add(Writes::deletes(&range.start, end))?;
                }
                Operation::Get { .. } | Operation::List { .. } => {}
                Operation::Nested(nested) => {
                    let [mut either, otherwise] = [Writes::of(&nested.then)?, Writes::of(&nested.otherwise)?];
                    either.sets.extend(otherwise.sets);
                    either.deletes.extend(otherwise.deletes);
                    all.add(either)?;
                }
            }
        }
        Ok(all)
    }

    fn set(key: &'a [u8]) -> Writes<'a> {
        Writes { sets: BTreeSet::from([key]), deletes: Vec::new() }
    }

    fn deletes(start: &'a [u8], end: Bound<&'a [u8]>) -> Writes<'a> {
        Writes { sets: BTreeSet::new(), deletes: vec![(start, end)] }
    }

    fn add(&mut self, more: Writes<'a>) -> Result<(), Malformed> {
        let twice = self.sets.intersection(&more.sets).next().copied();
        let twice = twice.or_else(|| self.deletes_any(&more)).or_else(|| more.deletes_any(self));
        if let Some(key) = twice {
            return Err(Malformed::WrittenTwice(Bytes::copy_from_slice(key)));
        }
        self.sets.extend(more.sets);
        self.deletes.extend(more.deletes);
        Ok(())
    }

    /// A key that this deletes and the other sets.
    fn deletes_any(&self, other: &Writes<'a>) -> Option<&'a [u8]> {
        self.deletes.iter().find_map(|(start, end)| {
            let first = other.sets.range::<[u8], _>((Bound::Included(*start), Bound::Unbounded)).next()?;
            let is_within = match end {
                Bound::Included(end) => first <= end,
                Bound::Excluded(end) => first < end,
                Bound::Unbounded => true,
            };
            is_within.then_some(*first)
        })
    }
}

impl Comparison {
    /// Whether `there` compares with `named` in this way.
    pub fn holds<T: Ord + ?Sized>(self, there: &T, named: &T) -> bool {
        let order = there.cmp(named);
        match self {
            Comparison::Equal => order == Ordering::Equal,
            Comparison::NotEqual => order != Ordering::Equal,
            Comparison::Less => order == Ordering::Less,
            Comparison::Greater => order == Ordering::Greater,
        }
    }
}

// Written by hand, because values must not appear in messages or logs.

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("conditions", &self.conditions)
            .field("then", &self.then)
            .field("otherwise", &self.otherwise)
            .finish()
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.keys, self.test)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keys::One(key) => write!(f, "{}", key.escape_ascii()),
            Keys::In(range) => write!(f, "{range:?}"),
        }
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", self.start.escape_ascii())?;
        self.end.iter().try_for_each(|end| write!(f, "{}", end.escape_ascii()))
    }
}

impl fmt::Debug for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Exists(exists) => write!(f, "exists: {exists}"),
            Test::Value(comparison, value) => write!(f, "value {comparison:?} {} bytes", value.len()),
            Test::CreateRevision(comparison, revision) => {
                write!(f, "create revision {comparison:?} {revision}")
            }
            Test::ModRevision(comparison, revision) => write!(f, "mod revision {comparison:?} {revision}"),
            Test::Version(comparison, version) => write!(f, "version {comparison:?} {version}"),
        }
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |f: &mut fmt::Formatter<'_>, at_revision: &Option<u64>| {
            at_revision.iter().try_for_each(|revision| write!(f, " at {revision}"))
        };
        match self {
            Operation::Set { key, value } => {
                write!(f, "set {} to {} bytes", key.escape_ascii(), value.len())
            }
            Operation::Delete { key } => write!(f, "delete {}", key.escape_ascii()),
            Operation::DeleteRange { range, limit } => write!(f, "delete {range:?}, limit {limit:?}"),
            Operation::Get { key, at_revision } => {
                write!(f, "get {}", key.escape_ascii())?;
                at(f, at_revision)
            }
            Operation::List { range, limit, keys_only, at_revision } => {
                write!(f, "list {range:?}, limit {limit:?}, keys only: {keys_only}")?;
                at(f, at_revision)
            }
            Operation::Nested(nested) => nested.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &'static str, value: &'static str) -> Operation {
        Operation::Set { key: key.into(), value: value.into() }
    }

    fn get(key: &'static str) -> Operation {
        Operation::Get { key: key.into(), at_revision: None }
    }

    fn delete(key: &'static str) -> Operation {
        Operation::Delete { key: key.into() }
    }

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange { start: start.into(), end: Some(end.into()) }
    }

    fn delete_range(start: &'static str, end: &'static str) -> Operation {
        Operation::DeleteRange { range: range(start, end), limit: None }
    }

    fn list(start: &'static str, end: &'static str) -> Operation {
        Operation::List { range: range(start, end), limit: None, keys_only: true, at_revision: None }
    }

    fn exists(key: &'static str) -> Condition {
        Condition { keys: Keys::One(key.into()), test: Test::Exists(true) }
    }

    fn then(operations: impl IntoIterator<Item = Operation>) -> Transaction {
        Transaction { then: operations.into_iter().collect(), ..Transaction::default() }
    }

    fn nested(conditions: Vec<Condition>, then: Vec<Operation>, otherwise: Vec<Operation>) -> Operation {
        Operation::Nested(Transaction { conditions, then, otherwise })
    }

    #[test]
    fn no_key_is_written_twice_in_any_branch_that_can_be_executed() {
        let twice = |operations: Vec<Operation>| {
            let found = then(operations.clone()).check();
            let reversed = then(operations.into_iter().rev()).check();
            assert_eq!(found.is_err(), reversed.is_err(), "the order does not matter");
            matches!(found, Err(Malformed::WrittenTwice(_)))
        };
        assert!(twice(vec![set("a", "1"), set("a", "2")]));
        assert!(twice(vec![set("a", "1"), delete("a")]));
        assert!(twice(vec![set("b", "1"), delete_range("a", "c")]));
        assert!(!twice(vec![set("c", "1"), delete_range("a", "c")]));
        assert!(!twice(vec![delete("b"), delete_range("a", "c"), delete("b")]));
        assert!(!twice(vec![set("a", "1"), get("a"), list("a", "c")]));
        let inner = |then, otherwise| nested(vec![exists("x")], then, otherwise);
        assert!(twice(vec![set("a", "1"), inner(vec![set("a", "2")], vec![])]));
        assert!(twice(vec![delete_range("a", "b"), inner(vec![], vec![set("a", "2")])]));
        assert!(!twice(vec![inner(vec![set("a", "1")], vec![delete("a")])]), "one of the two");
        assert!(twice(vec![inner(vec![set("a", "1")], vec![]), inner(vec![], vec![set("a", "2")])]));
        let everything =
            Operation::DeleteRange { range: KeyRange { start: "b".into(), end: None }, limit: None };
        assert!(twice(vec![everything.clone(), set("x", "1")]) && !twice(vec![everything, set("a", "1")]));
        let either = Transaction {
            then: vec![set("a", "1")],
            otherwise: vec![set("a", "2")],
            ..Transaction::default()
        };
        assert_eq!(either.check(), Ok(()));
    }

    #[test]
    fn a_transaction_is_bounded_in_width_and_depth() {
        let sets = |count: usize| {
            (0..count).map(|number| Operation::Set { key: number.to_string().into(), value: Bytes::new() })
        };
        assert_eq!(then(sets(128)).check(), Ok(()));
        assert_eq!(then(sets(129)).check(), Err(Malformed::Operations(129)));
        let inner = |count| nested(vec![], (0..count).map(|_| get("a")).collect(), vec![]);
        assert_eq!(then(sets(63).chain([inner(64)])).check(), Ok(()));
        assert_eq!(then(sets(63).chain([inner(65)])).check(), Err(Malformed::Operations(129)));
        let asking = |count| Transaction { conditions: vec![exists("a"); count], ..Transaction::default() };
        assert_eq!(asking(128).check(), Ok(()));
        assert_eq!(asking(129).check(), Err(Malformed::Conditions(129)));
        let deep =
            |levels: usize| (1..levels).fold(then([get("a")]), |inner, _| then([Operation::Nested(inner)]));
        assert_eq!(deep(MAX_NESTING).check(), Ok(()));
        assert_eq!(deep(MAX_NESTING + 1).check(), Err(Malformed::Nesting));
        assert_eq!(then([delete("")]).check(), Err(Malformed::EmptyKey));
    }

    #[test]
    fn a_range_contains_what_lies_between_its_ends() {
        let prefix = KeyRange::prefix(b"a\xff");
        let within = |range: &KeyRange| -> Vec<&[u8]> {
            let keys: [&[u8]; 6] = [b"a", b"a\xff", b"a\xff\xff\xff", b"b", b"\xff", b"\xff\xff"];
            keys.into_iter().filter(|key| range.contains(key)).collect()
        };
        assert_eq!(within(&prefix), [&b"a\xff"[..], b"a\xff\xff\xff"]);
        assert_eq!(within(&KeyRange::prefix(b"\xff")), [&b"\xff"[..], b"\xff\xff"], "nothing comes after it");
        assert_eq!(within(&KeyRange::prefix("")).len(), 6);
        assert_eq!(within(&KeyRange::new("b", "a")).len(), 0);
        assert_eq!(within(&KeyRange::new("a", "b")).len(), 3, "the end is not within");
    }

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_behind_it() {
        let end = |prefix: &[u8]| prefix_end(prefix).map(|end| end.to_vec());
        assert_eq!(end(b"a"), Some(b"b".to_vec()));
        assert_eq!(end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(end(b"a\xfe"), Some(b"a\xff".to_vec()));
        assert_eq!((end(b""), end(b"\xff\xff")), (None, None));
    }

    #[test]
    fn values_never_show() {
        let transaction = Transaction {
            conditions: vec![Condition {
                keys: Keys::One("key".into()),
                test: Test::Value(Comparison::Equal, "secret".into()),
            }],
            then: vec![set("key", "secret")],
            otherwise: vec![nested(vec![], vec![set("other", "secret")], vec![])],
        };
        let shown = format!("{transaction:?}");
        assert!(shown.contains("other") && !shown.contains("secret"), "{shown}");
    }
}
