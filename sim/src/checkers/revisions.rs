//! Revision order: the revisions in answers form one history of the whole store, and real time agrees with it.
//!
//! Stronger than linearizability of each key, and cheap: every answer has the revision it belongs to, so the order need
//! not be searched for. Three things must hold. A linearizable operation never has a lower revision than one that was
//! answered before it was sent. A read or list, stale or not, returns what the store held at its revision: no change
//! that any client has seen lies between, and the applied log agrees. The revisions that one client sees never go back,
//! stale reads included, reads of the past not (Terry et al., "Session guarantees for weakly consistent replicated data",
//! 1994: monotonic reads, read your writes).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;

use super::{Finding, Findings, transactions};
use crate::evidence::applied_log::AppliedLog;
use crate::evidence::history::{Answer, Call, KeyState, Nanos, Operation, Outcome};
use crate::evidence::past::Past;
use crate::evidence::transactions::{Found, Told, Transacted, is_transacted};

const ORDER: &str = "revision order";
const CONTENT: &str = "reads show one revision";
const SESSION: &str = "one client's reads never go back";

/// Checks all answers that have a revision.
pub fn check(operations: &[Operation], transactions: &[Transacted], applied_log: &AppliedLog) -> Findings {
    let mut findings = Findings::new();
    asked_for(operations, &mut findings);
    real_time_order(operations, transactions, &mut findings);
    told(operations, &mut findings);
    // The applied log has more detail, but would only repeat the same findings.
    if findings.is_empty() {
        content(operations, &Past::of(applied_log), &mut findings);
    }
    monotonic_reads(operations, &mut findings);
    findings
}

/// The revision of an answer, and whether the operation created that revision. A read of the past tells nothing about the
/// present.
fn revision_of(operation: &Operation) -> Option<(u64, bool)> {
    match &operation.outcome {
        _ if operation.call.at_revision().is_some() => None,
        Outcome::Ok(Answer::Written { revision }) => Some((*revision, true)),
        Outcome::Ok(Answer::Deleted { revision, existed }) => Some((*revision, *existed)),
        Outcome::Ok(
            Answer::Read { revision, .. }
            | Answer::Listed { revision, .. }
            | Answer::Changed { revision, .. },
        ) => Some((*revision, false)),
        _ => None,
    }
}

/// Checks that reads of the past are answered at their revision.
fn asked_for(operations: &[Operation], findings: &mut Findings) {
    for operation in operations {
        if let Some(asked) = operation.call.at_revision()
            && let Outcome::Ok(
                Answer::Read { revision, .. }
                | Answer::Listed { revision, .. }
                | Answer::Changed { revision, .. },
            ) = &operation.outcome
            && *revision != asked
        {
            findings.push(Finding::violation(
                CONTENT,
                format!("an answer is of another revision\n    {operation}"),
            ));
        }
    }
}

fn real_time_order(operations: &[Operation], transactions: &[Transacted], findings: &mut Findings) {
    let operations =
        operations.iter().filter(|operation| !operation.call.is_stale()).filter_map(|operation| {
            let (revision, made) = revision_of(operation)?;
            let returned = operation.returned.unwrap_or(Nanos::MAX);
            Some((operation.invoked, returned, revision, made, What::Operation(operation)))
        });
    let transactions = transactions.iter().filter_map(|transacted| match &transacted.told {
        Told::Executed { .. } if transacted.asked.is_of_the_past() => None,
        Told::Executed { revision, results, .. } => {
            let returned = transacted.returned.unwrap_or(Nanos::MAX);
            // One without a write may share its revision with others.
            let made = results.as_ref().is_some_and(|results| has_set(results));
            Some((transacted.invoked, returned, *revision, made, What::Transaction(transacted)))
        }
        Told::Failed | Told::Unknown => None,
    });
    let mut answered: Vec<(Nanos, Nanos, u64, bool, What<'_>)> = operations.chain(transactions).collect();
    answered.sort_by_key(|(invoked, ..)| *invoked);
    // The highest revision among the answers given so far, as a sweep over time.
    let mut by_return: Vec<(Nanos, usize)> =
        answered.iter().enumerate().map(|(index, (_, returned, ..))| (*returned, index)).collect();
    by_return.sort_unstable();
    let mut makers: BTreeMap<u64, What<'_>> = BTreeMap::new();
    let mut returned = by_return.into_iter().peekable();
    let mut highest: Option<(u64, What<'_>)> = None;
    for (invoked, _, revision, made, what) in &answered {
        while let Some((_, index)) = returned.next_if(|(at, _)| at < invoked) {
            let (_, _, revision, _, earlier) = answered[index];
            if highest.is_none_or(|(highest, _)| highest < revision) {
                highest = Some((revision, earlier));
            }
        }
        if let Some((highest, earlier)) = highest
            && (*revision < highest || (*made && *revision == highest))
        {
            let words = format!("an operation went back in time\n    {earlier}\n    {what}");
            findings.push(Finding::violation(ORDER, words));
        }
        if *made && let Some(other) = makers.insert(*revision, *what) {
            let words = format!("two writes made revision {revision}\n    {other}\n    {what}");
            findings.push(Finding::violation(ORDER, words));
        }
    }
}

/// What an answer answers.
#[derive(Clone, Copy)]
enum What<'a> {
    Operation(&'a Operation),
    Transaction(&'a Transacted),
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Operation(operation) => operation.fmt(f),
            What::Transaction(transacted) => f.write_str(&transactions::shown(transacted)),
        }
    }
}

/// Whether a value was written.
fn has_set(results: &[Found]) -> bool {
    results.iter().any(|result| match result {
        Found::Set => true,
        Found::Nested(_, results) => has_set(results),
        Found::Deleted(_) | Found::Got(_) | Found::Listed(..) => false,
    })
}

/// What answers of any client reveal of a key: revisions and the values written at them; `None`: a delete.
type Revealed<'a> = BTreeMap<&'a str, BTreeMap<u64, Option<u64>>>;

/// Checks reads against the answers of all clients.
fn told(operations: &[Operation], findings: &mut Findings) {
    let mut told = Revealed::new();
    let mut may_be_deleted: BTreeSet<&str> = BTreeSet::new();
    for operation in operations {
        let key = operation.key.as_str();
        let mut tell = |key, revision, held| {
            told.entry(key).or_default().insert(revision, held);
        };
        match (&operation.outcome, operation.call) {
            (Outcome::Ok(Answer::Written { revision }), Call::Set { value, .. }) => {
                tell(key, *revision, Some(value));
            }
            (Outcome::Ok(Answer::Deleted { revision, existed: true }), _) => tell(key, *revision, None),
            (Outcome::Ok(Answer::Read { entry: Some(entry), .. }), _) => {
                tell(key, entry.mod_revision, Some(entry.value));
            }
            (Outcome::Ok(Answer::Listed { entries, .. }), _) => {
                entries.iter().for_each(|(key, entry)| tell(key, entry.mod_revision, Some(entry.value)));
            }
            (Outcome::Unknown, Call::Delete { .. }) => {
                may_be_deleted.insert(key);
            }
            _ => {}
        }
    }
    let complaint = |key: &str, revision: u64, entry: Option<&KeyState>| {
        let from = entry.map_or(0, |entry| entry.mod_revision);
        if from > revision {
            return Some(format!("it found {key} as revision {from} wrote it"));
        }
        let (later, held) =
            told.get(key)?.range((Bound::Excluded(from), Bound::Included(revision))).next_back()?;
        match (entry, held) {
            (Some(_), _) => Some(format!("revision {later} changed {key} again")),
            (None, Some(value)) if !may_be_deleted.contains(key) => {
                Some(format!("{key} is absent, and v{value} was there since revision {later}"))
            }
            (None, _) => None,
        }
    };
    for operation in operations {
        let complaint = match &operation.outcome {
            Outcome::Ok(Answer::Read { revision, entry }) => {
                complaint(&operation.key, *revision, entry.as_ref())
            }
            Outcome::Ok(Answer::Listed { revision, entries }) => {
                let found: BTreeMap<&str, &KeyState> =
                    entries.iter().map(|(key, entry)| (key.as_str(), entry)).collect();
                let keys = told.range(operation.key.as_str()..).map(|(key, _)| *key);
                let mut keys = keys.take_while(|key| key.starts_with(&operation.key));
                keys.find_map(|key| complaint(key, *revision, found.get(key).copied()))
            }
            _ => None,
        };
        if let Some(complaint) = complaint {
            let words = format!("an answer is not what its revision held: {complaint}\n    {operation}");
            findings.push(Finding::violation(CONTENT, words));
        }
    }
}

fn content(operations: &[Operation], past: &Past, findings: &mut Findings) {
    for operation in operations {
        let complaint = match &operation.outcome {
            Outcome::Ok(Answer::Read { revision, entry }) => {
                let held = past.key(&operation.key, *revision);
                (held != *entry).then(|| format!("it answered {entry:?}, the store held {held:?}"))
            }
            Outcome::Ok(Answer::Listed { revision, entries }) => {
                let mut held = past.prefix(&operation.key, *revision);
                // Transactions are checked by themselves.
                held.retain(|(key, _)| !is_transacted(key));
                let wrong = held.iter().zip(entries).find(|(held, listed)| held != listed);
                match wrong {
                    Some((held, listed)) => Some(format!("it has {listed:?} where the store held {held:?}")),
                    None if held.len() != entries.len() => {
                        Some(format!("it has {} keys, the store held {}", entries.len(), held.len()))
                    }
                    None => None,
                }
            }
            _ => None,
        };
        if let Some(complaint) = complaint {
            let words = format!("an answer is not what its revision held: {complaint}\n    {operation}");
            findings.push(Finding::violation(CONTENT, words));
        }
    }
}

fn monotonic_reads(operations: &[Operation], findings: &mut Findings) {
    // A client may have several operations under way: only operations that do not overlap are compared.
    let mut by_client: BTreeMap<u32, Vec<(&Operation, u64)>> = BTreeMap::new();
    for operation in operations {
        if let Some((revision, _)) = revision_of(operation) {
            by_client.entry(operation.client).or_default().push((operation, revision));
        }
    }
    for answered in by_client.into_values() {
        let ended = |(operation, _): &(&Operation, u64)| operation.returned.unwrap_or(Nanos::MAX);
        let mut by_return = answered.clone();
        by_return.sort_by_key(ended);
        let mut returned = by_return.into_iter().peekable();
        let mut highest: Option<(&Operation, u64)> = None;
        for (operation, revision) in answered {
            while let Some(earlier) = returned.next_if(|earlier| ended(earlier) < operation.invoked) {
                if highest.is_none_or(|highest| highest.1 < earlier.1) {
                    highest = Some(earlier);
                }
            }
            if let Some((earlier, _)) = highest.filter(|(_, highest)| *highest > revision) {
                let words = format!("a client went back in time\n    {earlier}\n    {operation}");
                findings.push(Finding::violation(SESSION, words));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::{by, delete, ended, entry, get, in_doubt, list, set, stale};
    use crate::evidence::applied_log::{Applied, KeyChange};

    /// Revision n wrote the value n to the key k.
    fn applied_log(revisions: u64) -> AppliedLog {
        let mut applied_log = AppliedLog::default();
        for revision in 1..=revisions {
            let changes = vec![KeyChange { revision, place: 0, key: "k".into(), new: Some(entry(revision)) }];
            applied_log.applied("n1", revision, Applied { term: 1, payload: revision, digest: 0, changes });
        }
        applied_log
    }

    fn complaints(operations: &[Operation]) -> Vec<&'static str> {
        check(operations, &[], &applied_log(9)).iter().map(Finding::checker).collect()
    }

    #[test]
    fn concurrent_answers_may_cross_but_later_ones_never_go_back() {
        assert!(complaints(&[set(0, 5, 2), by(2, set(3, 8, 1)), by(3, get(10, 11, 2))]).is_empty());
        assert_eq!(complaints(&[set(0, 5, 2), by(2, get(10, 11, 1))]), [ORDER]);
        assert_eq!(
            complaints(&[get(0, 5, 2), by(2, set(10, 11, 2))]),
            [ORDER],
            "the write came after the read"
        );
        assert_eq!(complaints(&[set(0, 5, 2), by(2, set(3, 8, 2))]), [ORDER], "one revision, two writes");
    }

    #[test]
    fn stale_reads_may_be_old_but_not_for_one_client() {
        let old = |at| stale(get(at, at + 5, 1));
        assert!(complaints(&[set(0, 5, 2), by(2, old(10)), by(2, old(20))]).is_empty());
        assert_eq!(complaints(&[set(0, 5, 2), old(10)]), [SESSION]);
        assert!(complaints(&[set(0, 50, 2), old(10)]).is_empty(), "the write was under way");
        // The highest revision is not in the answer that returned first.
        let mut many: Vec<Operation> = (0..200).map(|at| stale(get(at, at + 1, 1))).collect();
        many[50] = stale(get(50, 51, 2));
        many[51] = stale(get(51, 900, 3));
        assert_eq!(complaints(&many), vec![SESSION; 148]);
    }

    #[test]
    fn an_answer_shows_what_its_revision_held() {
        let read = |revision, value| {
            let answer = Answer::Read { revision, entry: (value > 0).then(|| entry(value)) };
            stale(ended(get(0, 5, value), Outcome::Ok(answer)))
        };
        assert!(complaints(&[read(3, 3)]).is_empty());
        assert_eq!(complaints(&[read(3, 2)]), [CONTENT], "the log knows of revision 3");
        assert!(complaints(&[list(0, 5, 3, &[("k", 3)])]).is_empty());
        assert_eq!(complaints(&[list(0, 5, 3, &[("k", 2)])]), [CONTENT]);
        assert_eq!(complaints(&[list(0, 5, 3, &[])]), [CONTENT]);
    }

    #[test]
    fn what_any_client_was_told_convicts_whatever_the_log_says() {
        let said = |operations: &[Operation]| {
            let mut findings = Findings::new();
            told(operations, &mut findings);
            findings.first().map_or_else(String::new, ToString::to_string)
        };
        let at = |revision, value| {
            let answer = Answer::Read { revision, entry: (value > 0).then(|| entry(value)) };
            ended(get(10, 11, value), Outcome::Ok(answer))
        };
        let writes = [set(0, 1, 2), set(2, 3, 4)];
        let with = |read: Operation| [writes[0].clone(), writes[1].clone(), read];
        assert_eq!(said(&with(at(6, 4))), "");
        assert_eq!(said(&with(at(3, 2))), "", "an older revision");
        assert!(said(&with(at(6, 2))).contains("revision 4 changed k again"));
        assert!(said(&with(at(3, 4))).contains("as revision 4 wrote it"), "from the future");
        assert!(said(&with(at(6, 0))).contains("absent, and v4 was there"));
        assert!(said(&with(list(10, 11, 6, &[]))).contains("absent"));
        let deleted = in_doubt(delete(5, 6, true));
        assert_eq!(said(&[writes[0].clone(), deleted, at(6, 0)]), "");
    }
}
