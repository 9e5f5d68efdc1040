//! No removal without a cause: a voter leaves the members only if an operator removed it or its disk was lost, however
//! long it was silent.
//!
//! Suspicion is no cause: a cluster that removes every node it cannot reach shrinks until one more failure is too many.
//! And at least one voter without a tombstone stays, whichever removals are requested at the same time.

use std::collections::BTreeSet;

use super::Finding;

const NAME: &str = "nobody goes without a cause";
const LAST: &str = "the last voter stays";

/// The members, by applied entries, and the ids that may be removed.
#[derive(Debug, Default)]
pub struct Members {
    /// Log index of the newest entry about the members.
    index: Option<u64>,
    /// One set; two in a joint configuration.
    voters: Vec<BTreeSet<u64>>,
    may_go: BTreeSet<u64>,
    /// Ids for which an applied entry wrote a tombstone.
    written: BTreeSet<u64>,
}

impl Members {
    /// This id has a cause to be removed.
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
        let Some(id) = gone.next() else { return self.last_stays(index) };
        let words = format!("the voter {id:016x} is no member any more by the entry of index {index}");
        Some(Finding::violation(NAME, words))
    }

    /// An applied entry wrote a tombstone for an id. Nodes apply it at different times: the first report counts.
    pub fn written(&mut self, index: u64, id: u64) -> Option<Finding> {
        if self.written.insert(id) { self.last_stays(index) } else { None }
    }

    fn last_stays(&self, index: u64) -> Option<Finding> {
        let to_be = self.voters.last().filter(|voters| !voters.is_empty())?;
        if !to_be.iter().all(|id| self.written.contains(id)) {
            return None;
        }
        let words = format!("with the entry of index {index} all voters are to go: {to_be:016x?}");
        Some(Finding::violation(LAST, words))
    }

    /// Whether the newest configuration is not joint: one set of voters.
    pub fn are_settled(&self) -> bool {
        self.voters.len() <= 1
    }

    /// The number of voters in its smallest set: in a joint configuration, both sets have to agree to everything.
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

    #[test]
    fn of_the_voters_to_be_one_is_not_buried() {
        let ids = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let mut members = Members::default();
        assert_eq!(members.written(1, 9), None, "nobody knows of any voter");
        assert_eq!(members.changed(2, vec![ids(&[1, 2])], &ids(&[1, 2])), None);
        assert_eq!(members.written(3, 2), None);
        assert_eq!(members.written(3, 2), None, "another node applies it later");
        let mut exchanged = Members { voters: members.voters.clone(), ..Members::default() };
        assert!(members.written(4, 1).is_some());
        assert_eq!(exchanged.written(3, 2), None);
        exchanged.may_go(2);
        assert_eq!(exchanged.changed(4, vec![ids(&[1, 2]), ids(&[1, 3])], &ids(&[1, 2, 3])), None);
        assert_eq!(exchanged.written(5, 1), None, "3 is about to vote");
        assert!(exchanged.written(6, 3).is_some());
    }
}
