//! Exactly-once: an acknowledged write is in the log once, a failed one never, an unknown one at most once.
//!
//! Every value is written by one operation only, so counting where it was applied is enough.

use std::collections::BTreeMap;

use super::{Finding, Judgement};
use crate::history::{Answer, Call, Operation, Outcome};
use crate::ledger::Ledger;

const NAME: &str = "exactly-once";

/// Judges the clients' writes against what was applied.
pub fn judge(operations: &[Operation], ledger: &Ledger) -> Judgement {
    let mut places: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for (index, change) in ledger.changes() {
        if let Some(entry) = change.new {
            places.entry(entry.value).or_default().push((index, change.revision));
        }
    }
    let mut findings = Judgement::new();
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
    use crate::history::Entry;
    use crate::ledger::{Applied, Change};

    fn write(value: u64, outcome: Outcome) -> Operation {
        let call = Call::Set { value, if_revision: None };
        Operation { client: 1, key: "k".into(), call, invoked: 1, returned: Some(2), outcome }
    }

    fn applied(values: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        for (index, value) in (1..).zip(values) {
            let entry = Entry { value: *value, create_revision: 1, mod_revision: index, version: index };
            let change = Some(Change { revision: index, key: "k".into(), new: Some(entry) });
            ledger.applied("n1", index, Applied { term: 1, payload: index, digest: 0, change });
        }
        ledger
    }

    #[test]
    fn each_outcome_has_its_number_of_applications() {
        let ok = |revision| Outcome::Ok(Answer::Written { revision });
        let good = [write(7, ok(1)), write(8, Outcome::Failed), write(9, Outcome::Unknown)];
        assert!(judge(&good, &applied(&[7, 9])).is_empty());
        assert!(judge(&good, &applied(&[7])).is_empty());
        for (broken, expected) in [
            (&[7, 9, 7][..], "2 times"),
            (&[9][..], "never applied"),
            (&[7, 8][..], "not executed"),
            (&[7, 5][..], "no client wrote"),
            (&[9, 7][..], "acknowledged with revision 1 and applied as 2"),
        ] {
            let findings = judge(&good, &applied(broken));
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].to_string().contains(expected), "{}", findings[0]);
        }
    }
}
