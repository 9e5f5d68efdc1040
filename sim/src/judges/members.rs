//! Nobody goes without a cause: a voter leaves the members only if an operator removed it or its disk was lost, however
//! long it was silent.
//!
//! Suspicion is no cause: a cluster that buries whom it does not hear shrinks until one more failure is too many.

use std::collections::BTreeSet;

use super::Finding;

const NAME: &str = "nobody goes without a cause";

/// The members, as applied entries say, and who may go.
#[derive(Debug, Default)]
pub struct Members {
    /// Log index of the newest entry about them.
    index: Option<u64>,
    /// One set; two while a change is half done.
    voters: Vec<BTreeSet<u64>>,
    may_go: BTreeSet<u64>,
}

impl Members {
    /// There is a cause for this id to go.
    pub fn may_go(&mut self, id: u64) {
        self.may_go.insert(id);
    }

    /// An applied entry names voters and all members. Nodes apply the same entries at different times.
    pub fn changed(
        &mut self,
        index: u64,
        voters: Vec<BTreeSet<u64>>,
        members: &BTreeSet<u64>,
    ) -> Option<Finding> {
        if self.index >= Some(index) {
            return None;
        }
        self.index = Some(index);
        let before = std::mem::replace(&mut self.voters, voters);
        let mut gone =
            before.iter().flatten().filter(|id| !members.contains(id) && !self.may_go.contains(id));
        let id = gone.next()?;
        let words = format!("the voter {id} is no member any more by the entry of index {index}");
        Some(Finding::violation(NAME, words))
    }

    /// Whether the newest change is whole: one set of voters.
    pub fn are_settled(&self) -> bool {
        self.voters.len() <= 1
    }

    /// How many voters its smallest set has: while a change is half done, both sets have to agree to everything.
    pub fn smallest_set(&self) -> usize {
        self.voters.iter().map(BTreeSet::len).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voter_goes_only_with_a_cause_and_a_learner_as_it_likes() {
        let ids = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let mut members = Members::default();
        assert_eq!(members.smallest_set(), 0, "nobody knows of any");
        assert_eq!(members.changed(1, vec![ids(&[1, 2, 3])], &ids(&[1, 2, 3, 4])), None);
        assert_eq!(members.changed(2, vec![ids(&[1, 2, 3])], &ids(&[1, 2, 3])), None, "a learner");
        members.may_go(3);
        assert_eq!(members.changed(3, vec![ids(&[1, 2, 3]), ids(&[1, 2])], &ids(&[1, 2, 3])), None);
        assert!(!members.are_settled());
        assert_eq!(members.smallest_set(), 2);
        assert_eq!(members.changed(4, vec![ids(&[1, 2])], &ids(&[1, 2])), None);
        assert!(members.are_settled());
        assert_eq!(members.changed(2, vec![ids(&[1])], &ids(&[1])), None, "another node applies it later");
        assert!(members.changed(5, vec![ids(&[1])], &ids(&[1])).is_some());
    }
}
