//! Election safety: a term has at most one leader (Ongaro 2014, section 3.6), as the nodes themselves report it.

use std::collections::BTreeMap;

use super::{Finding, Judgement};
use crate::history::{Nanos, Seconds};

const NAME: &str = "election safety";

/// Who led which term.
#[derive(Debug, Default)]
pub struct Leaders {
    by_term: BTreeMap<u64, (String, u64, Nanos)>,
    findings: Judgement,
}

impl Leaders {
    /// A node said that it leads.
    pub fn observe(&mut self, term: u64, name: &str, node_id: u64, now: Nanos) {
        let first = self.by_term.entry(term).or_insert_with(|| (name.to_owned(), node_id, now));
        if first.1 != node_id {
            let words = format!(
                "term {term} had two leaders: {} (id {}) at {} and {name} (id {node_id}) at {}",
                first.0,
                first.1,
                Seconds(first.2),
                Seconds(now)
            );
            self.findings.push(Finding::violation(NAME, words));
        }
    }

    /// How many terms had a leader that was seen.
    pub fn terms(&self) -> usize {
        self.by_term.len()
    }

    /// The verdict so far.
    pub fn judge(&self) -> Judgement {
        self.findings.first().cloned().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_belongs_to_the_first_leader_it_had() {
        let mut leaders = Leaders::default();
        leaders.observe(1, "n1", 11, 0);
        leaders.observe(1, "n1", 11, 5);
        leaders.observe(2, "n2", 22, 6);
        assert!(leaders.judge().is_empty());
        leaders.observe(1, "n2", 22, 7);
        assert!(leaders.judge()[0].to_string().contains("term 1 had two leaders"));
    }
}
