//! Leader completeness: what the leader of a term committed is in the log of every later leader (Ongaro 2014, section
//! 3.6.3, figure 3.2).
//!
//! An entry is committed if any node applied it; the applying node's own vote bounds the term by which it was
//! committed. A leader's log is taken as it was when it was elected. Either may be reported first.

use std::collections::BTreeMap;

use super::Finding;
use crate::evidence::node_log::{Place, Shape};

const NAME: &str = "leader completeness";

/// The committed entries, and the logs of leaders when they were elected.
#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    /// By index: the entry's term, the term by which it was committed at the latest, and the node that applied it.
    committed: BTreeMap<u64, (u64, u64, String)>,
    leaders: BTreeMap<u64, (String, Shape)>,
}

impl LeaderCompleteness {
    /// A node was elected with this log.
    pub fn elected(&mut self, term: u64, node: &str, log: Shape) -> Option<Finding> {
        let missing = self
            .committed
            .iter()
            .filter(|(_, (_, known_by, _))| *known_by < term)
            .map(|(index, (term, _, applied_by))| (Place { term: *term, index: *index }, applied_by))
            .find(|(place, _)| !log.holds(*place));
        let finding = missing.map(|(place, applied_by)| lacks(node, term, place, applied_by));
        self.leaders.entry(term).or_insert_with(|| (node.to_owned(), log));
        finding
    }

    /// A node applied an entry that was committed by the term `known_by` at the latest.
    pub fn committed(&mut self, node: &str, at: Place, known_by: u64) -> Option<Finding> {
        let known = self.committed.entry(at.index).or_insert((at.term, u64::MAX, node.to_owned()));
        let (was, applied_by) = (known.1, known.2.clone());
        if known_by >= was || known.0 != at.term {
            return None;
        }
        known.1 = known_by;
        // Leaders of terms later than `was` were compared before.
        let mut later = self.leaders.range(known_by + 1..was.saturating_add(1));
        let (term, (leader, _)) = later.find(|(_, (_, log))| !log.holds(at))?;
        Some(lacks(leader, *term, at, &applied_by))
    }
}

fn lacks(leader: &str, term: u64, place: Place, applied_by: &str) -> Finding {
    let words = format!(
        "{leader} was elected for term {term} without the entry of index {} and term {}, which {applied_by} applied \
         and which was committed before",
        place.index, place.term
    );
    Finding::violation(NAME, words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::logs::Logs;
    use crate::evidence::node_log::Found;

    /// A log with these terms, built from a node's reports.
    fn log(terms: &[u64]) -> Shape {
        Shape::of(terms)
    }

    fn at(term: u64, index: u64) -> Place {
        Place { term, index }
    }

    #[test]
    fn a_later_leader_has_what_was_committed_and_may_lack_what_was_not() {
        let mut checker = LeaderCompleteness::default();
        assert_eq!(checker.elected(1, "n1", log(&[])), None);
        assert_eq!(checker.committed("n1", at(1, 0), 1), None);
        assert_eq!(checker.elected(2, "n2", log(&[1])), None);
        assert_eq!(checker.committed("n3", at(1, 0), 2), None);
        // Figure 3.7: an entry of term 2 that term 4 commits may be missing in the log of term 3.
        assert_eq!(checker.elected(3, "n3", log(&[1])), None);
        assert_eq!(checker.elected(4, "n1", log(&[1, 2])), None);
        assert_eq!(checker.committed("n1", at(2, 1), 4), None);
    }

    #[test]
    fn a_leader_that_lacks_a_committed_entry_is_found_whichever_is_learned_first() {
        let mut checker = LeaderCompleteness::default();
        checker.committed("n1", at(1, 0), 1);
        checker.committed("n1", at(1, 1), 1);
        let finding = checker.elected(2, "n2", log(&[1])).unwrap();
        assert!(finding.to_string().contains("n2 was elected for term 2 without the entry of index 1"));
        assert!(checker.elected(3, "n3", log(&[1, 2])).is_some(), "another entry stands in its place");

        let mut checker = LeaderCompleteness::default();
        checker.elected(2, "n2", log(&[1]));
        assert_eq!(checker.committed("n3", at(1, 1), 2), None, "it may have been committed in term 2");
        assert!(checker.committed("n1", at(1, 1), 1).is_some(), "the old leader had committed it");
    }

    #[test]
    fn a_snapshot_holds_what_it_covers() {
        let mut logs = Logs::default();
        logs.opened(
            "n1",
            "n1",
            false,
            11,
            Found { purged: Some(at(1, 5)), last: Some(at(1, 5)), vote: None },
            0,
        );
        logs.opened("n2", "n2", false, 22, Found::default(), 0);
        for index in 0..6 {
            logs.appended("n2", at(1, index), index, 1);
            logs.applied("n2", at(1, index), index);
        }
        logs.voted("n1", crate::evidence::node_log::Vote { term: 2, candidate: 11, committed: true }, 0);
        assert_eq!(logs.take_findings(), []);
    }
}
