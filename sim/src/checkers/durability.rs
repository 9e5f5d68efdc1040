//! Durability: at the end the store holds every acknowledged write that no later one replaced, and nothing that failed.
//!
//! Checks answers and the last read, not the log: a write that all nodes lost together is lost, too.

use std::collections::BTreeMap;

use super::{Finding, Findings};
use crate::evidence::history::{Answer, Call, KeyState, Operation, Outcome};

const NAME: &str = "durability of acknowledged writes";

/// Checks the last linearizable list of all keys, made after all clients had stopped.
pub fn check(operations: &[Operation], last: &[(String, KeyState)]) -> Findings {
    let mut findings = Findings::new();
    let writers: BTreeMap<(&str, u64), &Operation> = operations
        .iter()
        .filter_map(|operation| match operation.call {
            Call::Set { value, .. } => Some(((operation.key.as_str(), value), operation)),
            _ => None,
        })
        .collect();
    for (key, entry) in last {
        let complaint = match writers.get(&(key.as_str(), entry.value)) {
            None => format!("v{} is in {key} at the end, and nobody wrote it there", entry.value),
            Some(writer) if !writer.may_have_written() => {
                format!("v{} is in {key} at the end\n    {writer}", entry.value)
            }
            Some(_) => continue,
        };
        findings.push(Finding::violation(NAME, complaint));
    }
    let held: BTreeMap<&str, &KeyState> = last.iter().map(|(key, entry)| (key.as_str(), entry)).collect();
    for (key, (revision, operation)) in newest_acknowledged(operations) {
        let deleted = matches!(operation.outcome, Outcome::Ok(Answer::Deleted { .. }));
        let complaint = match held.get(key) {
            // A write of unknown outcome came later.
            Some(entry) if entry.mod_revision > revision => continue,
            Some(entry) if entry.mod_revision == revision && !deleted => {
                if matches!(operation.call, Call::Set { value, .. } if value == entry.value) {
                    continue;
                }
                format!("v{} stands in its place", entry.value)
            }
            Some(entry) => format!("v{} of revision {} is back", entry.value, entry.mod_revision),
            None if deleted || may_be_deleted(operations, key, revision) => continue,
            None => "the key is gone".into(),
        };
        let words = format!("an acknowledged write is lost, {complaint}\n    {operation}");
        findings.push(Finding::violation(NAME, words));
    }
    findings
}

/// The acknowledged change with the highest revision, by key.
fn newest_acknowledged(operations: &[Operation]) -> BTreeMap<&str, (u64, &Operation)> {
    let mut newest: BTreeMap<&str, (u64, &Operation)> = BTreeMap::new();
    for operation in operations {
        let revision = match operation.outcome {
            Outcome::Ok(Answer::Written { revision }) => revision,
            Outcome::Ok(Answer::Deleted { revision, existed: true }) => revision,
            _ => continue,
        };
        let newest = newest.entry(&operation.key).or_insert((revision, operation));
        if newest.0 <= revision {
            *newest = (revision, operation);
        }
    }
    newest
}

/// Whether a delete of unknown outcome may have removed what `revision` wrote, or a later write.
fn may_be_deleted(operations: &[Operation], key: &str, revision: u64) -> bool {
    operations.iter().any(|operation| {
        let fits = match operation.call {
            Call::Delete { if_revision } => if_revision.is_none_or(|at| at >= revision),
            _ => false,
        };
        fits && operation.key == key && operation.is_doubtful_write()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::{delete, ended, entry, in_doubt, operation, set};

    /// Whether the checker passes if the key has this value and revision at the end.
    fn holds(operations: &[Operation], last: Option<(u64, u64)>) -> bool {
        let last = last.map(|(value, mod_revision)| ("k".into(), KeyState { mod_revision, ..entry(value) }));
        check(operations, &last.into_iter().collect::<Vec<_>>()).is_empty()
    }

    #[test]
    fn the_last_acknowledged_write_or_a_later_one_is_there() {
        let three = [set(0, 1, 7), set(2, 3, 8), in_doubt(set(4, 5, 9))];
        assert!(holds(&three, Some((8, 8))));
        assert!(holds(&three, Some((9, 10))), "the unknown write came later");
        assert!(!holds(&three, Some((7, 7))), "the older value is back");
        assert!(!holds(&three, Some((7, 8))), "another value has its revision");
        assert!(!holds(&three, Some((5, 12))), "nobody wrote it");
        assert!(!holds(&three, None), "the key is gone, and an unknown set deletes nothing");
    }

    #[test]
    fn what_failed_for_certain_is_never_there() {
        assert!(!holds(&[ended(set(0, 1, 7), Outcome::Failed)], Some((7, 7))));
        assert!(holds(&[in_doubt(set(0, 1, 7))], Some((7, 7))));
        assert!(holds(&[in_doubt(set(0, 1, 7))], None));
    }

    #[test]
    fn a_deleted_key_stays_deleted_and_only_a_delete_that_fits_takes_one_away() {
        let gone = ended(delete(2, 3, true), Outcome::Ok(Answer::Deleted { revision: 8, existed: true }));
        let history = [set(0, 1, 7), gone];
        assert!(holds(&history, None));
        assert!(!holds(&history, Some((7, 7))));
        let delete_if = |at| operation(2, 3, Call::Delete { if_revision: Some(at) }, Outcome::Unknown);
        assert!(holds(&[set(0, 1, 7), in_doubt(delete(2, 3, true))], None));
        assert!(holds(&[set(0, 1, 7), delete_if(7)], None));
        assert!(!holds(&[set(0, 1, 7), delete_if(6)], None), "its condition never held again");
    }
}
