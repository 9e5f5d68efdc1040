//! Exactly-once: an acknowledged write was applied once, a failed one never, an unknown one at most once.
//!
//! Every value is written by only one operation, and every application of it would create a revision. So what clients
//! saw can prove a violation: a value with two revisions, a value of a failed write, a value that no client wrote. The
//! applied log then covers the writes that no client read.

use std::collections::BTreeMap;

use super::{Finding, Findings};
use crate::evidence::applied_log::AppliedLog;
use crate::evidence::history::{Answer, Call, KeyState, Operation, Outcome};
use crate::evidence::transactions::is_transacted;

const NAME: &str = "exactly-once";

/// Checks the clients' writes against the clients' answers and the applied log.
pub fn check(operations: &[Operation], applied_log: &AppliedLog) -> Findings {
    let mut findings = seen(operations);
    // The applied log would only repeat the same findings.
    if findings.is_empty() {
        findings = applied(operations, applied_log);
    }
    findings
}

/// Checks the combined answers of all clients.
fn seen(operations: &[Operation]) -> Findings {
    let mut writers: BTreeMap<u64, &Operation> = BTreeMap::new();
    for operation in operations {
        if let Call::Set { value, .. } = operation.call {
            writers.insert(value, operation);
        }
    }
    let mut findings = Findings::new();
    let mut first: BTreeMap<u64, (&str, KeyState, &Operation)> = BTreeMap::new();
    for reader in operations {
        for (key, entry) in entries(reader) {
            let Some(writer) = writers.get(&entry.value) else {
                let words = format!("v{}, which no client wrote, was read\n    {reader}", entry.value);
                findings.push(Finding::violation(NAME, words));
                continue;
            };
            let acknowledged = match writer.outcome {
                Outcome::Ok(Answer::Written { revision }) => Some(revision),
                _ => None,
            };
            let before = *first.entry(entry.value).or_insert((key, entry, reader));
            let complaint = if !writer.may_have_written() {
                "was not executed, and was read".to_owned()
            } else if writer.key != key {
                format!("was read from {key}")
            } else if let Some(revision) = acknowledged.filter(|revision| *revision != entry.mod_revision) {
                format!("was acknowledged with revision {revision} and read with {}", entry.mod_revision)
            } else if before.1 != entry {
                format!("was read as {:?} and as {entry:?}, the first time by\n    {}", before.1, before.2)
            } else {
                continue;
            };
            let words = format!("this write {complaint}\n    {writer}\n    {reader}");
            findings.push(Finding::violation(NAME, words));
        }
    }
    findings
}

/// The keys and states that an operation read.
fn entries(operation: &Operation) -> Vec<(&str, KeyState)> {
    match &operation.outcome {
        Outcome::Ok(Answer::Read { entry: Some(entry), .. }) => vec![(operation.key.as_str(), *entry)],
        Outcome::Ok(Answer::Listed { entries, .. }) => {
            entries.iter().map(|(key, entry)| (key.as_str(), *entry)).collect()
        }
        _ => Vec::new(),
    }
}

/// Checks the applied log.
fn applied(operations: &[Operation], applied_log: &AppliedLog) -> Findings {
    let mut places: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    // What transactions write is checked with them.
    for (index, change) in applied_log.changes().filter(|(_, change)| !is_transacted(&change.key)) {
        if let Some(entry) = change.new {
            places.entry(entry.value).or_default().push((index, change.revision));
        }
    }
    let mut findings = Findings::new();
    for operation in operations {
        let Call::Set { value, .. } = operation.call else { continue };
        let applied = places.remove(&value).unwrap_or_default();
        let complaint = match (&operation.outcome, applied.as_slice()) {
            (_, [_, _, ..]) => format!("was applied {} times, at log index {applied:?}", applied.len()),
            (Outcome::Ok(Answer::Written { .. }), []) => "was acknowledged and never applied".into(),
            (Outcome::Ok(Answer::Written { revision }), [(index, applied)]) if revision != applied => {
                format!(
                    "was acknowledged with revision {revision} and applied as {applied}, log index {index}"
                )
            }
            (Outcome::Failed, [(index, _)]) => {
                format!("was reported as not executed and was applied at log index {index}")
            }
            (Outcome::Ok(Answer::ConditionFailed { .. }), [(index, _)]) => {
                format!("was refused by its condition and was applied at log index {index}")
            }
            _ => continue,
        };
        findings.push(Finding::violation(NAME, format!("this write {complaint}\n    {operation}")));
    }
    for (value, applied) in places {
        let words = format!("v{value}, which no client wrote, was applied at log index {applied:?}");
        findings.push(Finding::violation(NAME, words));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::{ended, entry, get, in_doubt, list, on, set, stale};
    use crate::evidence::applied_log::{Applied, KeyChange};

    /// An applied log whose entries at index 1, 2, ... wrote these values at these revisions.
    fn applied(written: &[(u64, u64)]) -> AppliedLog {
        let mut applied_log = AppliedLog::default();
        for (index, (value, revision)) in (1..).zip(written) {
            let new = Some(entry(*value));
            let changes = vec![KeyChange { revision: *revision, place: 0, key: "k".into(), new }];
            applied_log.applied("n1", index, Applied { term: 1, payload: index, digest: 0, changes });
        }
        applied_log
    }

    #[test]
    fn each_outcome_has_its_number_of_applications() {
        let good = [set(0, 1, 7), ended(set(2, 3, 8), Outcome::Failed), in_doubt(set(4, 5, 9))];
        assert!(check(&good, &applied(&[(7, 7), (9, 9)])).is_empty());
        assert!(check(&good, &applied(&[(7, 7)])).is_empty());
        for (broken, expected) in [
            (&[(7, 7), (9, 9), (7, 10)][..], "2 times"),
            (&[(9, 9)][..], "never applied"),
            (&[(7, 7), (8, 8)][..], "not executed"),
            (&[(7, 7), (5, 8)][..], "no client wrote"),
            (&[(9, 7), (7, 8)][..], "acknowledged with revision 7 and applied as 8"),
        ] {
            let findings = check(&good, &applied(broken));
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].to_string().contains(expected), "{}", findings[0]);
        }
    }

    #[test]
    fn what_clients_saw_convicts_whatever_the_nodes_say() {
        let applied_log = applied(&[(7, 7), (9, 9)]);
        let writes = [set(0, 1, 7), ended(set(2, 3, 8), Outcome::Failed), in_doubt(set(4, 5, 9))];
        let said = |read: Operation| {
            let operations: Vec<Operation> = writes.iter().cloned().chain([read]).collect();
            check(&operations, &applied_log).first().map_or_else(String::new, ToString::to_string)
        };
        let read_as = |value: u64, mod_revision| {
            let entry = Some(KeyState { mod_revision, ..entry(value) });
            ended(get(6, 7, value), Outcome::Ok(Answer::Read { revision: 20, entry }))
        };
        assert_eq!(said(get(6, 7, 7)), "");
        assert_eq!(said(stale(get(6, 7, 9))), "", "an unknown write may be seen");
        assert!(said(read_as(7, 12)).contains("acknowledged with revision 7 and read with 12"));
        assert!(said(get(6, 7, 8)).contains("was not executed, and was read"));
        assert!(said(get(6, 7, 5)).contains("no client wrote"));
        assert!(said(on("other", get(6, 7, 7))).contains("read from other"));
        let twice: Vec<Operation> =
            writes.iter().cloned().chain([list(6, 7, 9, &[("k", 9)]), read_as(9, 12)]).collect();
        assert!(check(&twice, &applied_log)[0].to_string().contains("was read as"), "applied twice");
    }
}
