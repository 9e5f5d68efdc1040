//! Revision order: the revisions in answers are one history of the whole store, and real time agrees with it.
//!
//! Stronger than linearizability of each key, and cheap: every answer names the revision it belongs to, so the
//! order need not be searched for. Three things must hold. A linearizable operation never has a lower revision than
//! one that was answered before it was sent. What a read or a list found is what the log says the store held at its
//! revision, stale or not. The revisions that one client sees never go back, stale reads included.

use std::collections::BTreeMap;

use super::{Finding, Judgement};
use crate::history::{Answer, Call, Entry, Nanos, Operation, Outcome};
use crate::ledger::Ledger;

const ORDER: &str = "revision order";
const CONTENT: &str = "reads show one revision";
const SESSION: &str = "one client's reads never go back";

/// Judges all answers that carry a revision.
pub fn judge(operations: &[Operation], ledger: &Ledger) -> Judgement {
    let mut findings = Judgement::new();
    real_time_order(operations, &mut findings);
    content(operations, &Past::of(ledger), &mut findings);
    monotonic_reads(operations, &mut findings);
    findings
}

/// The revision an answer belongs to, and whether the operation made it.
fn revision_of(operation: &Operation) -> Option<(u64, bool)> {
    match &operation.outcome {
        Outcome::Ok(Answer::Written { revision }) => Some((*revision, true)),
        Outcome::Ok(Answer::Deleted { revision, existed }) => Some((*revision, *existed)),
        Outcome::Ok(Answer::Read { revision, .. } | Answer::Listed { revision, .. }) => {
            Some((*revision, false))
        }
        _ => None,
    }
}

fn is_stale(operation: &Operation) -> bool {
    matches!(operation.call, Call::Get { stale: true } | Call::List { stale: true })
}

fn real_time_order(operations: &[Operation], findings: &mut Judgement) {
    // The highest revision among answers given so far, as a sweep over time.
    let answered: Vec<(&Operation, u64, bool)> = operations
        .iter()
        .filter(|operation| !is_stale(operation))
        .filter_map(|operation| revision_of(operation).map(|(revision, made)| (operation, revision, made)))
        .collect();
    let mut by_return: Vec<(Nanos, usize)> = answered
        .iter()
        .enumerate()
        .map(|(index, (operation, ..))| (operation.returned.unwrap_or(Nanos::MAX), index))
        .collect();
    by_return.sort_unstable();
    let mut makers: BTreeMap<u64, &Operation> = BTreeMap::new();
    let mut returned = by_return.into_iter().peekable();
    let mut highest: Option<(u64, &Operation)> = None;
    for (operation, revision, made) in &answered {
        while let Some((_, index)) = returned.next_if(|(at, _)| *at < operation.invoked) {
            let (earlier, revision, _) = answered[index];
            if highest.is_none_or(|(highest, _)| highest < revision) {
                highest = Some((revision, earlier));
            }
        }
        if let Some((highest, earlier)) = highest
            && (*revision < highest || (*made && *revision == highest))
        {
            let words = format!("an operation went back in time\n    {earlier}\n    {operation}");
            findings.push(Finding::violation(ORDER, words));
        }
        if *made && let Some(other) = makers.insert(*revision, operation) {
            let words = format!("two writes made revision {revision}\n    {other}\n    {operation}");
            findings.push(Finding::violation(ORDER, words));
        }
    }
}

/// What every key held at every revision.
struct Past(BTreeMap<String, Vec<(u64, Option<Entry>)>>);

impl Past {
    fn of(ledger: &Ledger) -> Past {
        let mut past: BTreeMap<String, Vec<(u64, Option<Entry>)>> = BTreeMap::new();
        for (_, change) in ledger.changes() {
            past.entry(change.key.clone()).or_default().push((change.revision, change.new));
        }
        Past(past)
    }

    fn at(steps: &[(u64, Option<Entry>)], revision: u64) -> Option<Entry> {
        let after = steps.partition_point(|(made, _)| *made <= revision);
        after.checked_sub(1).and_then(|index| steps[index].1)
    }

    fn key(&self, key: &str, revision: u64) -> Option<Entry> {
        self.0.get(key).and_then(|steps| Past::at(steps, revision))
    }

    fn prefix(&self, prefix: &str, revision: u64) -> Vec<(String, Entry)> {
        self.0
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, steps)| Some((key.clone(), Past::at(steps, revision)?)))
            .collect()
    }
}

fn content(operations: &[Operation], past: &Past, findings: &mut Judgement) {
    for operation in operations {
        let complaint = match &operation.outcome {
            Outcome::Ok(Answer::Read { revision, entry }) => {
                let held = past.key(&operation.key, *revision);
                (held != *entry).then(|| format!("it answered {entry:?}, the store held {held:?}"))
            }
            Outcome::Ok(Answer::Listed { revision, entries }) => {
                let held = past.prefix(&operation.key, *revision);
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

fn monotonic_reads(operations: &[Operation], findings: &mut Judgement) {
    // A client may have several operations under way: only those that follow each other are compared.
    let mut by_client: BTreeMap<u32, Vec<(Nanos, u64, &Operation)>> = BTreeMap::new();
    for operation in operations {
        let Some((revision, _)) = revision_of(operation) else { continue };
        let seen = by_client.entry(operation.client).or_default();
        if let Some((_, _, earlier)) = seen
            .iter()
            .rev()
            .find(|(returned, higher, _)| *returned < operation.invoked && *higher > revision)
        {
            let words = format!("a client went back in time\n    {earlier}\n    {operation}");
            findings.push(Finding::violation(SESSION, words));
        }
        seen.push((operation.returned.unwrap_or(Nanos::MAX), revision, operation));
        // The highest of those that have returned is enough.
        if seen.len() > 64 {
            let highest = seen.iter().map(|(_, revision, _)| *revision).max().unwrap_or(0);
            let now = operation.invoked;
            seen.retain(|(returned, revision, _)| *returned >= now || *revision == highest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Applied, Change};

    fn entry(value: u64) -> Entry {
        Entry { value, create_revision: 1, mod_revision: value, version: 1 }
    }

    /// Revision n wrote the value n to the key k.
    fn ledger(revisions: u64) -> Ledger {
        let mut ledger = Ledger::default();
        for revision in 1..=revisions {
            let change = Some(Change { revision, key: "k".into(), new: Some(entry(revision)) });
            ledger.applied("n1", revision, Applied { term: 1, payload: revision, digest: 0, change });
        }
        ledger
    }

    fn operation(client: u32, at: Nanos, call: Call, answer: Answer) -> Operation {
        let outcome = Outcome::Ok(answer);
        Operation { client, key: "k".into(), call, invoked: at, returned: Some(at + 5), outcome }
    }

    fn set(client: u32, at: Nanos, revision: u64) -> Operation {
        let call = Call::Set { value: revision, if_revision: None };
        operation(client, at, call, Answer::Written { revision })
    }

    fn get(client: u32, at: Nanos, stale: bool, revision: u64) -> Operation {
        let answer = Answer::Read { revision, entry: Some(entry(revision)) };
        operation(client, at, Call::Get { stale }, answer)
    }

    fn complaints(operations: &[Operation]) -> Vec<&'static str> {
        judge(operations, &ledger(9)).iter().map(Finding::judge).collect()
    }

    #[test]
    fn concurrent_answers_may_cross_but_later_ones_never_go_back() {
        assert!(complaints(&[set(1, 0, 2), set(2, 3, 1), get(3, 10, false, 2)]).is_empty());
        assert_eq!(complaints(&[set(1, 0, 2), get(2, 10, false, 1)]), [ORDER]);
        assert_eq!(
            complaints(&[get(1, 0, false, 2), set(2, 10, 2)]),
            [ORDER],
            "the write came after the read"
        );
        assert_eq!(complaints(&[set(1, 0, 2), set(2, 3, 2)]), [ORDER], "one revision, two writes");
    }

    #[test]
    fn stale_reads_may_be_old_but_not_for_one_client() {
        assert!(complaints(&[set(1, 0, 2), get(2, 10, true, 1), get(2, 20, true, 1)]).is_empty());
        assert_eq!(complaints(&[set(1, 0, 2), get(1, 10, true, 1)]), [SESSION]);
    }

    #[test]
    fn an_answer_shows_what_its_revision_held() {
        let wrong =
            operation(1, 0, Call::Get { stale: true }, Answer::Read { revision: 3, entry: Some(entry(2)) });
        assert_eq!(complaints(&[wrong]), [CONTENT]);
        let list = |entries: Vec<(String, Entry)>| Operation {
            key: String::new(),
            ..operation(1, 0, Call::List { stale: false }, Answer::Listed { revision: 3, entries })
        };
        assert!(complaints(&[list(vec![("k".into(), entry(3))])]).is_empty());
        assert_eq!(complaints(&[list(vec![("k".into(), entry(2))])]), [CONTENT]);
        assert_eq!(complaints(&[list(vec![])]), [CONTENT]);
    }
}
