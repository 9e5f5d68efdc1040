//! Transactions: each one that was executed did, and found, what its revision says, all of it or nothing.
//!
//! The applied log has the state at every revision, and an answer has its revision: so a transaction is executed again, by
//! a few lines of its own, on the state before it, and must make the changes that the log has, branch for branch and in
//! order, and find what the client was told. No search. A transaction that failed changed nothing; one of unknown outcome
//! may have been executed, but then once, and whole. Real time is checked together with all other answers (`revisions`).

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Findings};
use crate::evidence::applied_log::{AppliedLog, KeyChange};
use crate::evidence::history::KeyState;
use crate::evidence::past::Past;
use crate::evidence::transactions::{
    Asked, Comparison, Condition, Found, KEYS, Keys, Step, Test, Told, Transacted, is_transacted,
};

const NAME: &str = "transactions";

/// Checks all transactions against the applied log.
pub fn check(transactions: &[Transacted], applied_log: &AppliedLog) -> Findings {
    let mut findings = Findings::new();
    let past = Past::of(applied_log);
    let mut made: BTreeMap<u64, Vec<&KeyChange>> = BTreeMap::new();
    let mut written: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (_, change) in applied_log.changes().filter(|(_, change)| is_transacted(&change.key)) {
        made.entry(change.revision).or_default().push(change);
        if let Some(new) = change.new {
            written.entry(new.value).or_default().push(change.revision);
        }
    }
    let mut makers: BTreeMap<u64, &Transacted> = BTreeMap::new();
    for transacted in transactions {
        let applied: Vec<u64> = transacted
            .asked
            .values()
            .into_iter()
            .flat_map(|value| written.remove(&value).unwrap_or_default())
            .collect();
        let complaint = judge(transacted, &applied, &past, &made, &mut makers);
        if let Some(complaint) = complaint {
            findings.push(Finding::violation(NAME, format!("{complaint}\n    {}", shown(transacted))));
        }
    }
    let unexplained = made.iter().filter(|(revision, _)| !makers.contains_key(revision));
    let unexplained: Vec<(u64, &Vec<&KeyChange>)> =
        unexplained.map(|(revision, changes)| (*revision, changes)).collect();
    for (revision, changes) in without_a_maker(&unexplained, transactions, &past) {
        let words = format!("no transaction made revision {revision}, and it changes {changes:?}");
        findings.push(Finding::violation(NAME, words));
    }
    for (value, revisions) in written {
        let words = format!("v{value}, which is of no transaction, was applied at revision {revisions:?}");
        findings.push(Finding::violation(NAME, words));
    }
    findings
}

fn judge<'a>(
    transacted: &'a Transacted,
    applied: &[u64],
    past: &Past,
    made: &BTreeMap<u64, Vec<&KeyChange>>,
    makers: &mut BTreeMap<u64, &'a Transacted>,
) -> Option<String> {
    let first = applied.first().copied();
    if applied.iter().any(|revision| Some(*revision) != first) {
        return Some(format!("its values were applied at several revisions: {applied:?}"));
    }
    let (revision, told) = match (&transacted.told, first) {
        (Told::Failed, Some(revision)) => {
            return Some(format!("it was reported as not executed and was applied at revision {revision}"));
        }
        (Told::Failed | Told::Unknown, None) => return None,
        // Whether anything was told or not: it was executed, and whole.
        (Told::Unknown, Some(revision)) => (revision, None),
        (Told::Executed { revision, .. }, Some(applied)) if applied != *revision => {
            return Some(format!("it was answered with revision {revision} and applied at {applied}"));
        }
        (Told::Executed { revision, succeeded, results }, _) => (*revision, Some((*succeeded, results))),
    };
    // One that changed something made its revision; any other was executed at it. What an answer says of the one does not
    // fit the other.
    let differs = |run: &Run<'_>| told.and_then(|told| run.differs(told));
    let reading = Run::of(&transacted.asked, past, revision, revision + 1);
    let changed_nothing = first.is_none() && reading.changes.is_empty();
    if changed_nothing && differs(&reading).is_none() {
        return None;
    }
    let none = Vec::new();
    let changes = made.get(&revision).unwrap_or(&none);
    let changing = Run::of(&transacted.asked, past, revision - 1, revision);
    let made_it = !changing.changes.is_empty() && changing.is(changes);
    if made_it && differs(&changing).is_none() {
        let other = makers.insert(revision, transacted)?;
        return Some(format!("another transaction made revision {revision}, too\n    {}", shown(other)));
    }
    let complaint = match (made_it, changed_nothing) {
        (true, _) => differs(&changing),
        (false, true) => differs(&reading),
        (false, false) => None,
    };
    Some(complaint.unwrap_or_else(|| {
        let expected = &changing.changes;
        format!("executed before revision {revision} it makes {expected:?}, and the log has {changes:?}")
    }))
}

/// The revisions that no transaction can have made. One of unknown outcome that only deletes leaves no value behind, and made
/// one of them at most; so did one whose answer told a revision and nothing else.
fn without_a_maker<'c, 'a>(
    unexplained: &[(u64, &'c Vec<&'a KeyChange>)],
    transactions: &[Transacted],
    past: &Past,
) -> Vec<(u64, &'c Vec<&'a KeyChange>)> {
    let may_make = |transacted: &Transacted, revision: u64, changes: &[&KeyChange]| {
        let is_left = match &transacted.told {
            Told::Unknown => true,
            Told::Executed { revision: told, results: None, .. } => *told == revision,
            Told::Executed { .. } | Told::Failed => false,
        };
        is_left && Run::of(&transacted.asked, past, revision - 1, revision).is(changes)
    };
    let candidates: Vec<Vec<usize>> = unexplained
        .iter()
        .map(|(revision, changes)| {
            let fits = |index: &usize| may_make(&transactions[*index], *revision, changes);
            (0..transactions.len()).filter(fits).collect()
        })
        .collect();
    // Each transaction makes one revision at most: a matching, by augmenting paths.
    let mut maker_of: BTreeMap<usize, usize> = BTreeMap::new();
    let mut left = Vec::new();
    for (place, revision) in unexplained.iter().enumerate() {
        let mut tried = BTreeSet::new();
        if !find_maker(place, &candidates, &mut maker_of, &mut tried) {
            left.push(*revision);
        }
    }
    left
}

fn find_maker(
    place: usize,
    candidates: &[Vec<usize>],
    maker_of: &mut BTreeMap<usize, usize>,
    tried: &mut BTreeSet<usize>,
) -> bool {
    for transaction in &candidates[place] {
        if !tried.insert(*transaction) {
            continue;
        }
        let taken_by = maker_of.get(transaction).copied();
        if taken_by.is_none_or(|other| find_maker(other, candidates, maker_of, tried)) {
            maker_of.insert(*transaction, place);
            return true;
        }
    }
    false
}

/// A transaction that is executed again.
struct Run<'a> {
    past: &'a Past,
    /// The revision before it.
    before: u64,
    /// The revision that its changes have.
    revision: u64,
    state: BTreeMap<String, KeyState>,
    changes: Vec<(String, Option<KeyState>)>,
    succeeded: bool,
    found: Vec<Found>,
}

impl<'a> Run<'a> {
    fn of(transaction: &Asked, past: &'a Past, before: u64, revision: u64) -> Run<'a> {
        let state = past.prefix(KEYS, before).into_iter().collect();
        let mut run =
            Run { past, before, revision, state, changes: Vec::new(), succeeded: false, found: Vec::new() };
        let state = run.state.clone();
        (run.succeeded, run.found) = run.execute(transaction, &state);
        run
    }

    /// Conditions see `state`, which stays as it was before the outermost transaction.
    fn execute(&mut self, transaction: &Asked, state: &BTreeMap<String, KeyState>) -> (bool, Vec<Found>) {
        let succeeded = transaction.conditions.iter().all(|condition| holds(condition, state));
        let branch = if succeeded { &transaction.then } else { &transaction.otherwise };
        let found = branch.iter().map(|operation| self.operation(operation, state)).collect();
        (succeeded, found)
    }

    fn operation(&mut self, step: &Step, state: &BTreeMap<String, KeyState>) -> Found {
        match step {
            Step::Set { key, value } => {
                let old = self.state.get(key).copied();
                let new = KeyState {
                    value: *value,
                    create_revision: old.map_or(self.revision, |old| old.create_revision),
                    mod_revision: self.revision,
                    version: old.map_or(1, |old| old.version + 1),
                };
                self.state.insert(key.clone(), new);
                self.changes.push((key.clone(), Some(new)));
                Found::Set
            }
            Step::Delete { key } => Found::Deleted(self.delete([key.clone()])),
            Step::DeleteRange { range, limit } => {
                let keys: Vec<String> =
                    self.state.keys().filter(|key| range.contains(key)).cloned().collect();
                Found::Deleted(self.delete(keys.into_iter().take(most(*limit))))
            }
            Step::Get { key, at_revision: Some(revision) } => Found::Got(self.past.key(key, *revision)),
            Step::Get { key, at_revision: None } => Found::Got(self.state.get(key).copied()),
            Step::List { range, limit, at_revision } => {
                let all: Vec<(String, KeyState)> = match at_revision {
                    Some(revision) => self.past.prefix(KEYS, *revision),
                    None => self.state.clone().into_iter().collect(),
                };
                let mut listed: Vec<_> = all.into_iter().filter(|(key, _)| range.contains(key)).collect();
                let more = listed.len() > most(*limit);
                listed.truncate(most(*limit));
                Found::Listed(listed, more)
            }
            Step::Nested(nested) => {
                let (succeeded, found) = self.execute(nested, state);
                Found::Nested(succeeded, found)
            }
        }
    }

    fn delete(&mut self, keys: impl IntoIterator<Item = String>) -> u64 {
        let mut deleted = 0;
        for key in keys {
            if self.state.remove(&key).is_some() {
                self.changes.push((key, None));
                deleted += 1;
            }
        }
        deleted
    }

    /// Whether these are its changes.
    fn is(&self, changes: &[&KeyChange]) -> bool {
        let made = self.changes.iter().map(|(key, new)| (key, *new));
        made.eq(changes.iter().map(|change| (&change.key, change.new)))
    }

    /// How an answer differs from what it found.
    fn differs(&self, told: (bool, &Option<Vec<Found>>)) -> Option<String> {
        let (succeeded, results) = told;
        if succeeded != self.succeeded {
            let before = self.before;
            return Some(format!("its conditions are {} at revision {before}", self.succeeded));
        }
        let results = results.as_ref()?;
        (*results != self.found).then(|| format!("it was told {results:?}, and there was {:?}", self.found))
    }
}

fn most(limit: Option<u64>) -> usize {
    limit.map_or(usize::MAX, |limit| limit as usize)
}

fn holds(condition: &Condition, state: &BTreeMap<String, KeyState>) -> bool {
    match &condition.keys {
        Keys::One(key) => passes(&condition.test, state.get(key)),
        Keys::In(range) => {
            let mut within = state.iter().filter(|(key, _)| range.contains(key)).map(|(_, found)| found);
            match condition.test {
                Test::Exists(exists) => within.next().is_some() == exists,
                _ => within.all(|found| passes(&condition.test, Some(found))),
            }
        }
    }
}

fn passes(test: &Test, found: Option<&KeyState>) -> bool {
    let compares = |comparison: &Comparison, there: u64, named: u64| match comparison {
        Comparison::Equal => there == named,
        Comparison::NotEqual => there != named,
        Comparison::Less => there < named,
        Comparison::Greater => there > named,
    };
    match test {
        Test::Exists(exists) => found.is_some() == *exists,
        Test::Value(comparison, named) => {
            found.is_some_and(|found| compares(comparison, found.value, *named))
        }
        Test::CreateRevision(comparison, named) => {
            compares(comparison, found.map_or(0, |found| found.create_revision), *named)
        }
        Test::ModRevision(comparison, named) => {
            compares(comparison, found.map_or(0, |found| found.mod_revision), *named)
        }
        Test::Version(comparison, named) => {
            compares(comparison, found.map_or(0, |found| found.version), *named)
        }
    }
}

/// One line for people.
pub fn shown(transacted: &Transacted) -> String {
    let Transacted { client, asked, invoked, returned, told } = transacted;
    let told = match told {
        Told::Executed { revision, succeeded, results: Some(_) } => {
            format!("executed at revision {revision}, conditions {succeeded}")
        }
        Told::Executed { revision, succeeded, results: None } => {
            format!("executed at revision {revision}, conditions {succeeded}, results compacted")
        }
        Told::Failed => "failed, not executed".to_owned(),
        Told::Unknown => "unknown".to_owned(),
    };
    format!("{invoked} to {returned:?}  client {client} asks {asked:?}: {told}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::applied_log::Applied;
    use crate::evidence::transactions::Range;

    fn state(value: u64, create_revision: u64, mod_revision: u64, version: u64) -> KeyState {
        KeyState { value, create_revision, mod_revision, version }
    }

    /// Revision 2 writes txn/a and txn/b, 3 writes txn/a again, 4 deletes txn/b.
    fn log() -> AppliedLog {
        let revisions = [
            (2, vec![("txn/a", Some(state(1, 2, 2, 1))), ("txn/b", Some(state(2, 2, 2, 1)))]),
            (3, vec![("txn/a", Some(state(3, 2, 3, 2)))]),
            (4, vec![("txn/b", None)]),
        ];
        let mut log = AppliedLog::default();
        for (revision, changes) in revisions {
            let change = |(place, (key, new)): (u32, (&str, _))| KeyChange {
                revision,
                place,
                key: key.to_owned(),
                new,
            };
            let changes = (0..).zip(changes).map(change).collect();
            log.applied("n1", revision, Applied { term: 1, payload: revision, digest: 0, changes });
        }
        log
    }

    fn set(key: &str, value: u64) -> Step {
        Step::Set { key: key.into(), value }
    }

    fn get(key: &str) -> Step {
        Step::Get { key: key.into(), at_revision: None }
    }

    fn all() -> Range {
        Range { start: "txn/".into(), end: "txn0".into() }
    }

    fn list() -> Step {
        Step::List { range: all(), limit: None, at_revision: None }
    }

    fn of(key: &str, test: Test) -> Condition {
        Condition { keys: Keys::One(key.into()), test }
    }

    fn both() -> Asked {
        Asked {
            conditions: vec![of("txn/a", Test::Exists(false))],
            then: vec![set("txn/a", 1), set("txn/b", 2)],
            otherwise: vec![get("txn/a")],
        }
    }

    fn again() -> Asked {
        Asked {
            conditions: vec![of("txn/a", Test::Version(Comparison::Equal, 1))],
            then: vec![get("txn/a"), set("txn/a", 3), list()],
            otherwise: Vec::new(),
        }
    }

    fn again_found() -> Vec<Found> {
        let listed = [("txn/a", state(3, 2, 3, 2)), ("txn/b", state(2, 2, 2, 1))];
        vec![
            Found::Got(Some(state(1, 2, 2, 1))),
            Found::Set,
            Found::Listed(listed.map(|(key, state)| (key.to_owned(), state)).to_vec(), false),
        ]
    }

    fn transacted(asked: Asked, told: Told) -> Transacted {
        Transacted { client: 1, asked, invoked: 0, returned: Some(9), told }
    }

    fn executed(revision: u64, succeeded: bool, results: impl Into<Option<Vec<Found>>>) -> Told {
        Told::Executed { revision, succeeded, results: results.into() }
    }

    fn delete() -> Transacted {
        let range = Range { start: "txn/b".into(), end: "txn/c".into() };
        let asked = Asked { then: vec![Step::DeleteRange { range, limit: None }], ..Asked::default() };
        transacted(asked, executed(4, true, vec![Found::Deleted(1)]))
    }

    fn complaint(changed: impl IntoIterator<Item = Transacted>) -> String {
        let findings = check(&changed.into_iter().collect::<Vec<_>>(), &log());
        findings.first().map_or_else(String::new, ToString::to_string)
    }

    fn sound() -> [Transacted; 3] {
        let sets = vec![Found::Set, Found::Set];
        let first = transacted(both(), executed(2, true, sets));
        [first, transacted(again(), executed(3, true, again_found())), delete()]
    }

    #[test]
    fn what_the_log_says_is_fine_known_or_not() {
        assert_eq!(complaint(sound()), "");
        let [first, second, third] = sound();
        let unknown = Transacted { told: Told::Unknown, returned: None, ..first };
        let compacted = Transacted { told: executed(3, true, None), ..second };
        assert_eq!(complaint([unknown, compacted, third]), "");
    }

    /// One deletes the key, and the other finds it deleted.
    #[test]
    fn of_two_deletions_of_one_key_one_made_the_revision() {
        let deleted = |count| {
            let asked = Asked { then: vec![Step::Delete { key: "txn/b".into() }], ..Asked::default() };
            transacted(asked, executed(4, true, vec![Found::Deleted(count)]))
        };
        let [first, second, _] = sound();
        let with = |one, other| complaint([first.clone(), second.clone(), deleted(one), deleted(other)]);
        assert_eq!(with(1, 0), "");
        assert_eq!(with(0, 1), "");
        assert!(with(1, 1).contains("another transaction made revision 4"));
        assert!(with(2, 0).contains("was told"));
    }

    #[test]
    fn a_read_is_of_the_revision_that_it_names() {
        let read = |revision, found: &[(&str, u64, u64, u64, u64)]| {
            let entries = found.iter().map(|(key, n, c, m, v)| (key.to_string(), state(*n, *c, *m, *v)));
            let results = vec![Found::Listed(entries.collect(), false)];
            let asked = Asked { then: vec![list()], ..Asked::default() };
            transacted(asked, executed(revision, true, results))
        };
        let at_two = [("txn/a", 1, 2, 2, 1), ("txn/b", 2, 2, 2, 1)];
        let with = |read: Transacted| sound().into_iter().chain([read]);
        assert_eq!(complaint(with(read(2, &at_two))), "");
        assert_eq!(complaint(with(read(4, &[("txn/a", 3, 2, 3, 2)]))), "");
        assert!(complaint(with(read(3, &at_two))).contains("was told"));
    }

    #[test]
    fn every_way_to_be_wrong_is_noticed() {
        let with = |changed: Transacted| {
            let [first, _, third] = sound();
            complaint([first, changed, third])
        };
        let second = |told| transacted(again(), told);
        assert!(with(second(Told::Failed)).contains("reported as not executed"));
        assert!(with(second(executed(4, true, again_found()))).contains("applied at 3"));
        assert!(with(second(executed(3, false, None))).contains("its conditions are true"));
        let mut other = again_found();
        other[0] = Found::Got(Some(state(3, 2, 3, 2)));
        assert!(with(second(executed(3, true, other))).contains("was told"), "a read saw a later write");
        let missing = sound().into_iter().skip(1);
        assert!(complaint(missing).contains("no transaction made revision 2"));
        let [first, second, third] = sound();
        assert!(complaint([first.clone(), second.clone()]).contains("no transaction made revision 4"));
        let failed = Transacted { told: Told::Failed, ..third.clone() };
        assert!(
            complaint([first.clone(), second.clone(), failed]).contains("no transaction made revision 4")
        );
        let unknown = Transacted { told: Told::Unknown, ..third };
        assert_eq!(complaint([first, second, unknown]), "", "it may have");
        let both = [vec![0, 1], vec![0]];
        let mut makers = BTreeMap::new();
        let found = |place, makers: &mut _| find_maker(place, &both, makers, &mut BTreeSet::new());
        assert!(found(0, &mut makers) && found(1, &mut makers), "the first one gives way");
        let one = [vec![0], vec![0]];
        let mut makers = BTreeMap::new();
        let found = |place, makers: &mut _| find_maker(place, &one, makers, &mut BTreeSet::new());
        assert!(found(0, &mut makers) && !found(1, &mut makers), "one transaction makes one revision");
        // The log has less than the transaction does.
        let mut more = again();
        more.then.push(Step::Delete { key: "txn/b".into() });
        assert!(with(transacted(more, Told::Unknown)).contains("the log has"));
        // It wrote where its condition did not hold.
        let mut conditional = again();
        conditional.conditions.push(of("txn/b", Test::Exists(false)));
        assert!(with(transacted(conditional, Told::Unknown)).contains("the log has"));
        // What it set is in two revisions.
        let then = vec![set("txn/a", 1), set("txn/a", 3), set("txn/b", 2)];
        let twice = Asked { then, ..Asked::default() };
        assert!(complaint([transacted(twice, Told::Unknown)]).contains("several revisions"));
    }

    #[test]
    fn a_nested_condition_sees_the_state_before() {
        let inner = Asked {
            conditions: vec![of("txn/a", Test::Exists(true))],
            then: vec![Step::Delete { key: "txn/b".into() }],
            otherwise: vec![set("txn/b", 2)],
        };
        let then = vec![set("txn/a", 1), Step::Nested(inner)];
        let asked = Asked { then, ..Asked::default() };
        let told = |succeeded| {
            let nested = Found::Nested(succeeded, vec![Found::Set]);
            executed(2, true, vec![Found::Set, nested])
        };
        let [_, second, third] = sound();
        let with = |told| complaint([transacted(asked.clone(), told), second.clone(), third.clone()]);
        assert_eq!(with(told(false)), "");
        assert!(with(told(true)).contains("was told"));
    }
}
