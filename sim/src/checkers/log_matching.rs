//! Log matching: two logs that hold an entry of the same index and term are equal up to it; and a leader only appends
//! to its own log (Ongaro 2014, section 3.5, figure 3.2: Log Matching, Leader Append-Only).
//!
//! By induction it is enough that an index and a term determine the payload and the entry before, over all logs that
//! ever existed. An applied entry must be one that was in a log.

use std::collections::BTreeMap;

use super::Finding;
use crate::evidence::node_log::Place;

const NAME: &str = "log matching";

/// Every entry that was in any log.
#[derive(Debug, Default)]
pub struct LogMatching {
    entries: BTreeMap<(u64, u64), Entry>,
}

#[derive(Debug)]
struct Entry {
    payload: u64,
    /// The term of the entry before; `None`: no log that held both has been reported.
    previous: Option<u64>,
    /// The node whose log held it first.
    first: String,
}

impl LogMatching {
    /// An entry was appended to a log. `previous`: the term of the entry before, if it is known.
    pub fn appended(
        &mut self,
        node: &str,
        at: Place,
        payload: u64,
        previous: Option<u64>,
    ) -> Option<Finding> {
        let known = self.entries.entry((at.index, at.term)).or_insert_with(|| Entry {
            payload,
            previous,
            first: node.to_owned(),
        });
        let difference = match (known.previous, previous) {
            _ if known.payload != payload => "different contents".to_owned(),
            (Some(known), Some(previous)) if known != previous => {
                format!("different entries before it, of terms {known} and {previous}")
            }
            (Some(_), _) => return None,
            (None, previous) => {
                known.previous = previous;
                return None;
            }
        };
        let words = format!(
            "the entry of index {} and term {} has {difference} in the logs of {} and {node}",
            at.index, at.term, known.first
        );
        Some(Finding::violation(NAME, words))
    }

    /// A node applied an entry.
    pub fn applied(&self, node: &str, at: Place, payload: u64) -> Option<Finding> {
        let what = match self.entries.get(&(at.index, at.term)) {
            None => "that never stood in a log".to_owned(),
            Some(entry) if entry.payload != payload => {
                format!("that is not what {}'s log holds", entry.first)
            }
            Some(_) => return None,
        };
        let words = format!("{node} applied something at index {} and term {} {what}", at.index, at.term);
        Some(Finding::violation(NAME, words))
    }

    /// A node removes the entries from `end` on. `leads`: the term in which it is leader, if it is one.
    pub fn truncating(&self, node: &str, leads: Option<u64>, end: u64) -> Option<Finding> {
        let term = leads?;
        let words =
            format!("{node} leads term {term} and removes the entries from index {end} on of its log");
        Some(Finding::violation("leader append-only", words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> Place {
        Place { term, index }
    }

    fn two_logs() -> LogMatching {
        let mut checker = LogMatching::default();
        assert_eq!(checker.appended("n1", at(1, 0), 100, None), None);
        assert_eq!(checker.appended("n1", at(1, 1), 101, Some(1)), None);
        assert_eq!(checker.appended("n1", at(2, 2), 102, Some(1)), None);
        checker
    }

    #[test]
    fn equal_logs_match_wherever_they_begin_and_conflicting_tails_may_differ() {
        let mut checker = two_logs();
        assert_eq!(checker.appended("n2", at(1, 1), 101, None), None, "it begins with a snapshot");
        assert_eq!(checker.appended("n2", at(3, 2), 999, Some(1)), None, "another term is another entry");
        assert_eq!(checker.applied("n2", at(3, 2), 999), None);
        assert_eq!(checker.truncating("n2", None, 2), None);
    }

    #[test]
    fn every_way_not_to_match_is_named() {
        let mut checker = two_logs();
        let said = |finding: Option<Finding>| finding.map_or_else(String::new, |finding| finding.to_string());
        assert!(said(checker.appended("n2", at(1, 1), 7, Some(1))).contains("different contents"));
        assert!(said(checker.appended("n2", at(2, 2), 102, Some(0))).contains("of terms 1 and 0"));
        assert!(said(checker.applied("n2", at(1, 1), 7)).contains("not what n1's log holds"));
        assert!(said(checker.applied("n2", at(9, 9), 7)).contains("never stood"));
        assert!(said(checker.truncating("n1", Some(2), 1)).contains("append-only"));
    }
}
