//! Random transactions that collide.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::num::NonZeroU64;

use crate::transaction::{Comparison, Condition, KeyRange, Keys, Operation, Test, Transaction};
use bytes::Bytes;

/// A short key, so that keys collide and lie in ranges.
pub fn key() -> impl Strategy<Value = Bytes> {
    vec(b'a'..=b'c', 1..3).prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = KeyRange> {
    let end = option::weighted(0.8, vec(b'a'..=b'd', 0..3).prop_map(Bytes::from));
    (vec(b'a'..=b'c', 0..3), end).prop_map(|(start, end)| KeyRange { start: start.into(), end })
}

fn keys() -> impl Strategy<Value = Keys> {
    prop_oneof![3 => key().prop_map(Keys::One), 1 => range().prop_map(Keys::In)]
}

fn comparison() -> impl Strategy<Value = Comparison> {
    prop_oneof![
        3 => Just(Comparison::Equal),
        1 => Just(Comparison::NotEqual),
        2 => Just(Comparison::Less),
        2 => Just(Comparison::Greater),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    vec(0..3u8, 0..3).prop_map(Bytes::from)
}

fn test() -> impl Strategy<Value = Test> {
    prop_oneof![
        any::<bool>().prop_map(Test::Exists),
        (comparison(), value()).prop_map(|(comparison, value)| Test::Value(comparison, value)),
        (comparison(), 0..20u64)
            .prop_map(|(comparison, revision)| Test::CreateRevision(comparison, revision)),
        (comparison(), 0..20u64).prop_map(|(comparison, revision)| Test::ModRevision(comparison, revision)),
        (comparison(), 0..4u64).prop_map(|(comparison, version)| Test::Version(comparison, version)),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    (keys(), test()).prop_map(|(keys, test)| Condition { keys, test })
}

fn limit() -> impl Strategy<Value = Option<NonZeroU64>> {
    (0..5u64).prop_map(NonZeroU64::new)
}

fn operation() -> impl Strategy<Value = Operation> {
    let at_revision = || option::weighted(0.1, 0..20u64);
    prop_oneof![
        4 => (key(), value()).prop_map(|(key, value)| Operation::Set { key, value }),
        2 => key().prop_map(|key| Operation::Delete { key }),
        1 => (range(), limit()).prop_map(|(range, limit)| Operation::DeleteRange { range, limit }),
        2 => (key(), at_revision()).prop_map(|(key, at_revision)| Operation::Get { key, at_revision }),
        2 => (range(), limit(), any::<bool>(), at_revision()).prop_map(
            |(range, limit, keys_only, at_revision)| Operation::List { range, limit, keys_only, at_revision }
        ),
    ]
}

/// A transaction, also one that writes a key twice.
pub fn unchecked() -> impl Strategy<Value = Transaction> {
    let of = |operations: BoxedStrategy<Operation>| {
        let branch = || vec(operations.clone(), 0..5);
        let conditions = prop_oneof![3 => vec(condition(), 0..2), 1 => vec(condition(), 2..4)];
        (conditions, branch(), branch()).prop_map(|(conditions, then, otherwise)| Transaction {
            conditions,
            then,
            otherwise,
        })
    };
    let nested = of(operation().boxed()).prop_map(Operation::Nested);
    let nesting = of(prop_oneof![6 => operation(), 1 => nested].boxed());
    let twice = nesting.clone().prop_map(Operation::Nested);
    prop_oneof![6 => nesting, 1 => of(prop_oneof![3 => operation(), 1 => twice].boxed())]
}

/// A transaction.
pub fn transaction() -> impl Strategy<Value = Transaction> {
    unchecked().prop_map(|mut transaction| {
        // Few are refused: what writes a key again is left out.
        while transaction.check().is_err() {
            transaction.then.pop();
            if transaction.then.is_empty() {
                transaction.otherwise.pop();
            }
        }
        transaction
    })
}
