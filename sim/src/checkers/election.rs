//! Election safety: a term has at most one leader (Ongaro, "Consensus: bridging theory and practice", 2014, section
//! 3.4), by the nodes' own reports when they win and by their answers to others.

use std::collections::BTreeMap;

use super::Finding;
use crate::evidence::history::{Nanos, Seconds};

const NAME: &str = "election safety";

/// The leader of each term.
#[derive(Debug, Default)]
pub struct Leaders {
    by_term: BTreeMap<u64, (String, u64, Nanos)>,
}

impl Leaders {
    /// A node won an election, or reported that it is the leader.
    pub fn observe(&mut self, term: u64, name: &str, node_id: u64, now: Nanos) -> Option<Finding> {
        let first = self.by_term.entry(term).or_insert_with(|| (name.to_owned(), node_id, now));
        (first.1 != node_id).then(|| {
            let words = format!(
                "term {term} had two leaders: {} (id {:016x}) at {} and {name} (id {node_id:016x}) at {}",
                first.0,
                first.1,
                Seconds(first.2),
                Seconds(now)
            );
            Finding::violation(NAME, words)
        })
    }

    /// How many terms had a leader.
    pub fn terms(&self) -> usize {
        self.by_term.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_belongs_to_the_first_leader_it_had() {
        let mut leaders = Leaders::default();
        assert_eq!(leaders.observe(1, "n1", 11, 0), None);
        assert_eq!(leaders.observe(1, "n1", 11, 5), None);
        assert_eq!(leaders.observe(2, "n2", 22, 6), None);
        let finding = leaders.observe(1, "n2", 22, 7).unwrap();
        assert!(finding.to_string().contains("term 1 had two leaders"));
        assert_eq!(leaders.terms(), 2);
    }
}
