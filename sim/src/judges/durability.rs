//! Durability: at the end the store holds every acknowledged write that no later one replaced.
//!
//! Looks at answers and at what was read last, not at the log: a write that all nodes lost together is lost too.

use std::collections::BTreeMap;

use super::{Finding, Judgement};
use crate::history::{Answer, Entry, Operation, Outcome};

const NAME: &str = "durability of acknowledged writes";

/// Judges the last linearizable list of everything, made after all clients had stopped.
pub fn judge(operations: &[Operation], last: &[(String, Entry)]) -> Judgement {
    let held: BTreeMap<&str, &Entry> = last.iter().map(|(key, entry)| (key.as_str(), entry)).collect();
    let mut newest: BTreeMap<&str, (u64, &Operation)> = BTreeMap::new();
    let mut may_be_gone = BTreeMap::new();
    for operation in operations {
        let key = operation.key.as_str();
        if operation.is_doubtful_write() {
            // An unknown write may be the one that replaced an acknowledged one.
            *may_be_gone.entry(key).or_insert(0u64) += 1;
        }
        let revision = match operation.outcome {
            Outcome::Ok(Answer::Written { revision }) => revision,
            Outcome::Ok(Answer::Deleted { revision, existed: true }) => revision,
            _ => continue,
        };
        let newest = newest.entry(key).or_insert((revision, operation));
        if newest.0 <= revision {
            *newest = (revision, operation);
        }
    }
    let mut findings = Judgement::new();
    for (key, (revision, operation)) in newest {
        let deleted = matches!(operation.outcome, Outcome::Ok(Answer::Deleted { .. }));
        let complaint = match held.get(key) {
            Some(entry) if entry.mod_revision > revision => continue,
            Some(entry) if entry.mod_revision == revision && !deleted => {
                if matches!(operation.call, crate::history::Call::Set { value, .. } if value == entry.value) {
                    continue;
                }
                format!("v{} stands in its place", entry.value)
            }
            Some(entry) => format!("v{} of revision {} is back", entry.value, entry.mod_revision),
            None if deleted || may_be_gone.contains_key(key) => continue,
            None => "the key is gone".into(),
        };
        let words = format!("an acknowledged write is lost, {complaint}\n    {operation}");
        findings.push(Finding::violation(NAME, words));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Call;

    fn write(value: u64, outcome: Outcome) -> Operation {
        let call = Call::Set { value, if_revision: None };
        Operation { client: 1, key: "k".into(), call, invoked: value, returned: Some(value + 1), outcome }
    }

    fn ok(revision: u64) -> Outcome {
        Outcome::Ok(Answer::Written { revision })
    }

    fn holds(operations: &[Operation], last: Option<(u64, u64)>) -> bool {
        let last: Vec<(String, Entry)> = last
            .map(|(value, mod_revision)| {
                ("k".into(), Entry { value, create_revision: 1, mod_revision, version: 1 })
            })
            .into_iter()
            .collect();
        judge(operations, &last).is_empty()
    }

    #[test]
    fn the_last_acknowledged_write_or_a_later_one_is_there() {
        let two = [write(7, ok(1)), write(8, ok(2))];
        assert!(holds(&two, Some((8, 2))));
        assert!(holds(&two, Some((9, 3))), "an unknown write came later");
        assert!(!holds(&two, Some((7, 1))), "the older value is back");
        assert!(!holds(&two, Some((7, 2))), "another value has its revision");
        assert!(!holds(&two, None), "the key is gone");
    }

    #[test]
    fn a_deleted_key_stays_deleted() {
        let call = Call::Delete { if_revision: None };
        let outcome = Outcome::Ok(Answer::Deleted { revision: 2, existed: true });
        let history = [write(7, ok(1)), Operation { call, ..write(8, outcome) }];
        assert!(holds(&history, None));
        assert!(!holds(&history, Some((7, 1))));
    }
}
