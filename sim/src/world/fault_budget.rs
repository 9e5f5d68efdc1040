//! The fault budget: at most one member may be missing at a time, and this determines when it is back.
//!
//! A cluster tolerates the loss of a minority's disks. The harness takes no other disk before the last one is replaced,
//! or the harness itself would destroy the data.

use crate::evidence::history::Nanos;

/// A request to a cluster may still take effect this long after its caller stopped waiting; and a node's answer about
/// the time before it was wiped arrives within this time. In nanoseconds.
const SETTLING: Nanos = 10_000_000_000;

/// With fewer voters no disk may be lost.
const FEWEST_VOTERS: usize = 3;

/// Whether a cluster tolerates the loss of a disk: enough nodes report that they vote (`voting`), and there are enough
/// voters by what was applied (`applied`; the smaller half of a joint configuration).
///
/// The nodes' reports alone are not enough: each votes as soon as its log makes it a voter, and until a joint
/// configuration is left, the old voters have to agree, too.
pub fn bears_a_loss(voting: usize, applied: usize) -> bool {
    voting.min(applied) >= FEWEST_VOTERS
}

/// A node's own status report.
#[derive(Debug, Clone, Copy)]
pub struct SelfReport {
    /// Its id.
    pub node_id: u64,
    /// It is a leader, follower or candidate, not a learner.
    pub votes: bool,
    /// The term it is in.
    pub term: u64,
    /// The leader of that term; 0: it has not learned of one.
    pub leader_id: u64,
    /// Index of the last entry in its log.
    pub last_log_index: u64,
    /// Index of the last entry that it applied.
    pub applied_index: u64,
}

/// A member that is being replaced or removed, or whose disk is lost: until it is a voter again with everything that
/// was committed, no other member may be replaced, be removed or lose its disk.
#[derive(Debug)]
pub struct Missing {
    name: String,
    since: Nanos,
    /// The end of the longer of the leader's log and its own, when it was first seen to follow the leader again.
    to_reach: Option<u64>,
}

impl Missing {
    /// A member that is missing from now on.
    pub fn new(name: &str, now: Nanos) -> Missing {
        Missing { name: name.to_owned(), since: now, to_reach: None }
    }

    /// Whether it is this one.
    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// Whether the member votes and has what the leader had, and no joint configuration is in force as far as any node
    /// has applied (`is_settled`): in a joint configuration the old voters have to agree to everything, too, and one of
    /// them is gone.
    ///
    /// The member's own report is not enough: a removed node and one whose disk was rolled back both take themselves
    /// for followers, but no leader sends to them.
    pub fn is_over(
        &mut self,
        member: SelfReport,
        leader: Option<SelfReport>,
        is_settled: bool,
        now: Nanos,
    ) -> bool {
        let Some(leader) = leader else { return false };
        let follows = member.term == leader.term && member.leader_id == leader.node_id;
        if now < self.since + SETTLING || !member.votes || !follows {
            return false;
        }
        // The leader's report may be older, and lack the very entry that makes this member a voter.
        let held = leader.last_log_index.max(member.last_log_index);
        let to_reach = *self.to_reach.get_or_insert(held);
        member.applied_index >= to_reach && is_settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Nanos = 2 * SETTLING;
    const LEADER: SelfReport =
        SelfReport { node_id: 1, votes: true, term: 5, leader_id: 1, last_log_index: 40, applied_index: 40 };
    const MEMBER: SelfReport = SelfReport { node_id: 9, ..LEADER };

    #[test]
    fn a_member_is_back_when_it_votes_follows_and_has_what_the_leader_had() {
        let mut missing = Missing::new("n3", 0);
        assert!(!missing.is_over(MEMBER, None, true, LATE), "nobody leads");
        assert!(!missing.is_over(MEMBER, Some(LEADER), true, 1), "too early");
        assert!(
            !missing.is_over(SelfReport { votes: false, ..MEMBER }, Some(LEADER), true, LATE),
            "a learner"
        );
        assert!(!missing.is_over(SelfReport { term: 4, leader_id: 2, ..MEMBER }, Some(LEADER), true, LATE));
        assert!(
            !missing.is_over(SelfReport { applied_index: 39, ..MEMBER }, Some(LEADER), true, LATE),
            "it lags"
        );
        assert!(missing.is_over(MEMBER, Some(LEADER), true, LATE));
        let mut missing = Missing::new("n3", 0);
        let promoted = SelfReport { last_log_index: 41, ..MEMBER };
        assert!(
            !missing.is_over(promoted, Some(LEADER), true, LATE),
            "what makes it a voter is not committed"
        );
        assert!(missing.is_over(SelfReport { applied_index: 41, ..promoted }, Some(LEADER), true, LATE));
        let mut missing = Missing::new("n3", 0);
        assert!(!missing.is_over(SelfReport { applied_index: 39, ..MEMBER }, Some(LEADER), true, LATE));
        let further = SelfReport { last_log_index: 90, applied_index: 90, ..LEADER };
        assert!(missing.is_over(MEMBER, Some(further), true, LATE));
    }

    /// Chaos seed 7055378: three nodes voted, in a joint configuration whose old half was two; the harness took the
    /// disk of one of these.
    #[test]
    fn two_voters_that_become_three_bear_no_loss_until_they_are_three() {
        assert!(!bears_a_loss(3, 2));
        assert!(!bears_a_loss(2, 3), "one of them does not answer, or is a learner yet");
        assert!(bears_a_loss(3, 3));
    }

    /// Chaos seed 7009248: the new n1 voted and led in a joint configuration, whose old half still counted the old n1;
    /// the harness took n2's disk, so two of that half's three were gone.
    #[test]
    fn a_member_that_votes_in_half_a_change_is_not_back_yet() {
        let mut missing = Missing::new("n1", 0);
        assert!(!missing.is_over(LEADER, Some(LEADER), false, LATE));
        assert!(missing.is_over(LEADER, Some(LEADER), true, LATE));
    }
}
