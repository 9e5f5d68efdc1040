//! The rules of transactions, one test each.

use super::testing::{transaction, unchecked};
use super::*;
use crate::map::Command;
use crate::map::txn::encoding::Unreadable;
use crate::transaction::{Comparison, KeyRange, MAX_NESTING};
use mokv_proto::log;
use proptest::prelude::*;

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
    let range = range(start, end);
    Operation::List { range, limit: None, keys_only: true, at_revision: None }
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

/// A map with a log.
#[derive(Default)]
struct Replica {
    map: Map,
    index: u64,
}

impl Replica {
    fn apply(&mut self, command: Command) -> Answer {
        self.index += 1;
        self.map.apply(self.index, &command).answer
    }

    fn try_to(&mut self, transaction: &Transaction) -> Answer {
        transaction.check().unwrap();
        self.apply(Command::Transaction { transaction: transaction.clone(), session: None })
    }

    fn execute(&mut self, transaction: &Transaction) -> (Outcome, Results) {
        match self.try_to(transaction) {
            Answer::Transaction(outcome) => {
                let results = self.map.results_of(transaction, &outcome, u64::MAX).unwrap();
                ((*outcome).clone(), results)
            }
            other => panic!("a transaction is executed, not {other:?}"),
        }
    }

    fn keys(&self) -> Vec<&str> {
        let records = self.map.history.present();
        records.map(|record| str::from_utf8(record.key()).unwrap()).collect()
    }
}

fn listed(result: &OperationResult) -> Vec<&str> {
    match result {
        OperationResult::Listed { entries, .. } => {
            entries.iter().map(|(key, _)| str::from_utf8(key).unwrap()).collect()
        }
        other => panic!("a list, not {other:?}"),
    }
}

fn value(result: &OperationResult) -> Option<&[u8]> {
    match result {
        OperationResult::Got(entry) => entry.as_ref().map(|entry| &entry.value[..]),
        other => panic!("a read, not {other:?}"),
    }
}

#[test]
fn all_changes_are_of_one_revision_and_reads_see_the_writes_before_them() {
    let mut store = Replica::default();
    store.execute(&then([set("a", "old"), set("z", "old")]));
    let steps = [
        get("a"),
        set("a", "new"),
        get("a"),
        list("a", "c"),
        set("b", "1"),
        list("a", "c"),
        delete("z"),
        get("z"),
    ];
    let (outcome, results) = store.execute(&then(steps));
    assert_eq!(outcome, Outcome { revision: 3, branches: vec![true], deleted: vec![1] });
    let found = results.operations;
    assert_eq!((value(&found[0]), value(&found[2])), (Some(&b"old"[..]), Some(&b"new"[..])));
    assert_eq!((listed(&found[3]), listed(&found[5])), (vec!["a"], vec!["a", "b"]));
    assert_eq!((&found[6], value(&found[7])), (&OperationResult::Deleted(1), None));
    let a = store.map.get(b"a").unwrap();
    assert_eq!((a.create_revision(), a.revision(), a.version()), (2, 3, 2));
    let places = ["a", "b"].map(|key| store.map.get(key.as_bytes()).unwrap().at().place);
    assert_eq!(places, [0, 1], "in the order of the operations");
}

#[test]
fn a_nested_condition_does_not_see_the_writes_around_it() {
    let mut store = Replica::default();
    let inner = nested(vec![exists("a")], vec![set("seen", "1")], vec![set("unseen", "1")]);
    let (outcome, results) = store.execute(&then([set("a", "1"), inner.clone(), get("a")]));
    assert_eq!(outcome.branches, [true, false]);
    assert_eq!(store.keys(), ["a", "unseen"]);
    assert_eq!(value(&results.operations[2]), Some(&b"1"[..]));
    store.execute(&then([inner]));
    assert_eq!(store.keys(), ["a", "seen", "unseen"]);
}

#[test]
fn nothing_is_done_if_anything_is_refused() {
    let mut store = Replica::default();
    store.execute(&then([set("a", "1"), set("b", "1")]));
    store.apply(Command::Configure(
        crate::replicated_settings::SettingsChange::none().max_transaction_changes(2),
    ));
    let before = store.map.digest();
    assert_eq!(
        store.try_to(&then([delete("a"), delete("b"), set("c", "1")])),
        Answer::TooManyChanges { max_changes: 2 }
    );
    let future = Operation::Get { key: "a".into(), at_revision: Some(9) };
    assert_eq!(store.try_to(&then([set("a", "2"), future])), Answer::FutureRevision { present: 2 });
    store.apply(Command::Compact { revision: 2 });
    let past = Operation::Get { key: "a".into(), at_revision: Some(1) };
    assert_eq!(store.try_to(&then([set("a", "2"), past])), Answer::BelowFloor { floor: 2 });
    assert_eq!((store.map.revision(), store.keys()), (2, vec!["a", "b"]));
    assert_ne!(store.map.digest(), before, "of the compaction");
}

#[test]
fn what_is_looked_at_is_bounded_and_what_is_written_must_fit() {
    let mut store = Replica::default();
    store.execute(&then([set("a", "1"), set("b", "1"), set("c", "1")]));
    let bounds = crate::replicated_settings::SettingsChange::none();
    store.apply(Command::Configure(bounds.max_transaction_bytes(200)));
    let every = |test| Condition { keys: Keys::In(range("a", "z")), test };
    let version = |number| every(Test::Version(Comparison::Equal, number));
    let asking = |condition| Transaction { conditions: vec![condition], ..Transaction::default() };
    assert_eq!(store.try_to(&asking(version(1))), Answer::TooManyBytes { max_bytes: 200 });
    assert_eq!(store.execute(&asking(version(2))).0.branches, [false], "the first key decides");
    assert_eq!(store.execute(&asking(every(Test::Exists(true)))).0.branches, [true], "one key decides");
    assert_eq!(store.try_to(&then([delete_range("a", "z")])), Answer::TooManyBytes { max_bytes: 200 });

    store.apply(Command::Configure(bounds.max_store_bytes(NonZeroU64::new(3 * 82))));
    assert_eq!(store.try_to(&then([set("d", "1")])), Answer::StoreFull { max_store_bytes: 246 });
    store.execute(&then([delete("a"), set("d", "1")]));
    assert_eq!(store.keys(), ["b", "c", "d"], "it takes the place of what is deleted");
}

#[test]
fn a_limit_deletes_the_first_keys_and_no_key_is_deleted_twice() {
    let mut store = Replica::default();
    store.execute(&then(["a", "b", "c", "d", "e"].map(|key| set(key, "1"))));
    let first = Operation::DeleteRange { range: range("a", "z"), limit: NonZeroU64::new(2) };
    let (outcome, _) = store.execute(&then([delete("b"), first, delete("a"), delete_range("d", "e")]));
    assert_eq!(outcome.deleted, [1, 2, 0, 1]);
    assert_eq!(store.keys(), ["e"]);
    let (outcome, _) = store.execute(&then([delete_range("x", "y")]));
    assert_eq!((outcome.revision, outcome.deleted), (3, vec![0]), "it changed nothing and took no revision");
}

#[test]
fn results_are_made_again_until_they_are_compacted() {
    let mut store = Replica::default();
    store.execute(&then([set("a", "1")]));
    let change = then([get("a"), set("a", "2"), get("a")]);
    let (outcome, results) = store.execute(&change);
    store.execute(&then([set("a", "3")]));
    let again = |store: &Replica, change: &Transaction, outcome: &Outcome| {
        store.map.results_of(change, outcome, u64::MAX)
    };
    assert_eq!(again(&store, &change, &outcome).as_ref(), Ok(&results));
    store.apply(Command::Compact { revision: 2 });
    assert_eq!(again(&store, &change, &outcome).as_ref(), Ok(&results));
    store.apply(Command::Compact { revision: 3 });
    assert_eq!(again(&store, &change, &outcome), Err(ResultsMissing::Compacted { floor: 3 }));
    let after = then([set("a", "2"), get("a")]);
    assert!(again(&store, &after, &outcome).is_ok(), "its read is of the revision itself");
    store.apply(Command::Compact { revision: 4 });
    assert_eq!(again(&store, &after, &outcome), Err(ResultsMissing::Compacted { floor: 4 }));
    assert_eq!(
        again(&store, &then([set("a", "2")]), &outcome),
        Ok(Results { succeeded: true, operations: vec![OperationResult::Set] }),
        "it read nothing"
    );
}

/// Keys that did not exist at the revision take time, too.
#[test]
fn what_is_passed_over_counts() {
    let mut store = Replica::default();
    store.execute(&then([set("z", "1")]));
    for number in 0..100 {
        let key: Bytes = format!("a{number}").into();
        store.execute(&then([Operation::Set { key, value: "1".into() }]));
    }
    let everything = KeyRange { start: Bytes::new(), end: None };
    let list = |at_revision| {
        then([Operation::List { range: everything.clone(), limit: None, keys_only: true, at_revision }])
    };
    let outcome = store.map.read_only(&list(Some(2))).unwrap();
    let results = |max_bytes| store.map.results_of(&list(Some(2)), &outcome, max_bytes);
    assert_eq!(results(10_000), Err(ResultsMissing::TooLarge { max_bytes: 10_000 }));
    assert_eq!(listed(&results(20_000).unwrap().operations[0]), ["z"]);
}

#[test]
fn results_are_bounded_and_those_of_another_transaction_are_none() {
    let mut store = Replica::default();
    let change = then([set("a", "12345"), get("a"), delete("b")]);
    let (outcome, _) = store.execute(&change);
    assert_eq!(
        store.map.results_of(&change, &outcome, 133),
        Err(ResultsMissing::TooLarge { max_bytes: 133 })
    );
    assert!(store.map.results_of(&change, &outcome, 134).is_ok());
    let others = [
        then([set("a", "12345"), get("a")]),
        then([delete("a"), delete("b")]),
        then([set("a", "1"), delete("b"), nested(vec![], vec![], vec![])]),
    ];
    for other in others {
        assert_eq!(store.map.results_of(&other, &outcome, 10_000), Err(ResultsMissing::Foreign), "{other:?}");
    }
}

/// An entry that its writer can encode can be decoded by all: the encoding has a bound on nesting as well.
#[test]
fn the_deepest_transaction_survives_its_bytes() {
    let condition = Condition { keys: Keys::In(range("a", "z")), test: Test::Exists(true) };
    let leaf =
        Transaction { conditions: vec![condition], then: vec![list("a", "z")], ..Transaction::default() };
    let deepest = (1..MAX_NESTING).fold(leaf, |inner, _| then([Operation::Nested(inner)]));
    deepest.check().unwrap();
    let command = Command::Transaction { transaction: deepest, session: None };
    assert_eq!(Command::decode(&command.encode()), Ok(command));
}

proptest! {
    #[test]
    fn a_transaction_survives_its_encoding(transaction in transaction()) {
        prop_assert_eq!(Transaction::decode(transaction.encode()), Ok(transaction));
    }

    /// Also one that is refused where it is sent is refused where it would be applied.
    #[test]
    fn what_is_malformed_is_unreadable(transaction in unchecked()) {
        let is_sound = transaction.check().is_ok();
        prop_assert_eq!(Transaction::decode(transaction.encode()).is_ok(), is_sound);
    }
}

#[test]
fn what_no_version_would_write_is_unreadable() {
    let unreadable = |choice| assert_eq!(Transaction::decode(choice), Err(Unreadable));
    let condition = exists("a");
    let sound = Transaction { conditions: vec![condition], then: vec![get("a")], ..Transaction::default() };
    let altered = |alter: fn(&mut log::Choice)| {
        let mut choice = sound.encode();
        alter(&mut choice);
        choice
    };
    unreadable(altered(|choice| choice.conditions[0].comparison = 9));
    unreadable(altered(|choice| choice.conditions[0].comparison = 1));
    unreadable(altered(|choice| choice.conditions[0].keys = None));
    unreadable(altered(|choice| choice.conditions[0].operand = None));
    unreadable(altered(|choice| choice.then[0].operation = None));
}
