//! Whether a node whose data is damaged may start over under a new node id: the leader's answer.
//!
//! The node that asks has stopped: it no longer acknowledges or votes, and if the answer is yes, it never will under
//! its old id. The leader says yes only if the cluster can do without it:
//!
//! - every other voter has answered an append of this leader's term that was **sent after the request came**, which
//!   also proves that this node still leads;
//! - every other voter holds the whole log that the leader held when the request came. This includes everything that
//!   the asker acknowledged and a majority counted on, because the asker had stopped before it asked;
//! - the other voters alone are a majority;
//! - no other change of members is under way: the configuration is uniform and committed, there is no other learner,
//!   and no voter is to be removed;
//! - neither the leader's state nor that of another voter is doubted.
//!
//! **One at a time** follows although no node records which node received a yes. That node has stopped: it is a voter
//! that does not answer, for this leader and for every later one, until its successor votes in its place. If two nodes
//! ask at once, each is the silent voter for which the other one has to wait.
//!
//! Nothing here changes any state, and one request receives at most one yes.

use std::collections::{BTreeMap, BTreeSet};

use super::Consensus;
use crate::node_id::{Named, NodeId};
use crate::rt::{self, Instant, sleep};

/// The interval at which the leader checks whether all voters have answered.
const LOOKS: std::time::Duration = std::time::Duration::from_millis(10);
/// How long the leader waits for a silent voter, in multiples of its `leader_patience`.
const PATIENCE: u32 = 2;

/// The cluster as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    term: u64,
    voters: BTreeSet<NodeId>,
    /// The configuration is uniform and committed.
    is_settled: bool,
    learners: BTreeSet<NodeId>,
    /// Voters that are to be removed.
    leaving: BTreeSet<NodeId>,
    doubted: BTreeSet<NodeId>,
    /// For each other voter: when the last append of this term that it answered was sent, and the last log index that
    /// it holds.
    others: BTreeMap<NodeId, (Option<Instant>, u64)>,
}

/// Why the asker may not start over, or not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Objection {
    /// A reason for which waiting does not help.
    Stands(String),
    /// The answer of this voter is missing, and may still come.
    Awaits(NodeId),
}

impl Seen {
    /// Returns the objection to the request of `asker`, if there is one. It came at `since`, when the log of the leader
    /// `me` ended at `upto`.
    fn objection(&self, me: NodeId, asker: NodeId, since: Instant, upto: u64) -> Option<Objection> {
        let stands = |words: &str| Some(Objection::Stands(words.to_owned()));
        let remaining: BTreeSet<NodeId> = self.voters.iter().copied().filter(|id| *id != asker).collect();
        if !self.is_settled {
            return stands("the members are being changed");
        }
        if self.learners.iter().any(|learner| *learner != asker) || !self.leaving.is_empty() {
            return stands("another node is being replaced, added or removed");
        }
        if remaining.len() < self.voters.len() / 2 + 1 {
            return stands("the other voters are no majority without it");
        }
        if self.doubted.iter().any(|doubted| remaining.contains(doubted)) {
            return stands("the state of another voter is doubted");
        }
        let is_level = |id: &NodeId| {
            let (answered, holds) = self.others.get(id).copied().unwrap_or_default();
            answered.is_some_and(|sent| sent > since) && holds >= upto
        };
        let missing = remaining.into_iter().find(|id| *id != me && !is_level(id))?;
        Some(Objection::Awaits(missing))
    }
}

impl Consensus {
    fn seen_for_a_replacement(&self) -> Option<Seen> {
        if !self.is_leader() {
            return None;
        }
        let metrics = self.metrics();
        let (matched, answered) = (metrics.replication.as_ref()?, metrics.heartbeat.as_ref()?);
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let is_settled = membership.get_joint_config().len() == 1
            && metrics.membership_config.log_id() == metrics.committed_membership_config.log_id();
        let leaving = {
            let state = self.store().read();
            voters.iter().copied().filter(|id| state.map.is_tombstoned(*id)).collect()
        };
        let others = (voters.iter().filter(|id| **id != metrics.id))
            .map(|id| {
                let sent: Option<Instant> = answered.get(id).copied().flatten().map(|sent| (*sent).into());
                (*id, (sent, matched.get(id).copied().flatten().map_or(0, |matched| matched.index)))
            })
            .collect();
        Some(Seen {
            term: metrics.current_term,
            is_settled,
            learners: membership.learner_ids().collect(),
            leaving,
            doubted: voters.iter().copied().filter(|id| self.peers().is_doubted(*id)).collect(),
            others,
            voters,
        })
    }

    /// Decides whether `asker`, whose data is damaged, may start over under a new node id. Only the leader can.
    ///
    /// # Errors
    /// The reason why it may not, or not now.
    pub(super) async fn may_start_over(&self, asker: NodeId) -> Result<(), String> {
        if self.is_doubted() {
            return Err("the state of the leader is doubted".into());
        }
        let (since, me) = (rt::now(), self.node_id());
        let upto = self.metrics().last_log_index.unwrap_or(0);
        let Some(first) = self.seen_for_a_replacement() else { return Err("no leader answers".into()) };
        let patience = self.leader_patience() * PATIENCE;
        loop {
            let seen = self.seen_for_a_replacement().filter(|seen| seen.term == first.term);
            let Some(seen) = seen else { return Err("leadership has changed meanwhile".into()) };
            match seen.objection(me, asker, since, upto) {
                None => {
                    let asker = self.named(asker);
                    tracing::warn!(
                        "{asker} has damaged data and may start over: every other voter has all entries"
                    );
                    return Ok(());
                }
                Some(Objection::Stands(words)) => return Err(words),
                Some(Objection::Awaits(silent)) if rt::now().saturating_duration_since(since) > patience => {
                    return Err(format!("{} does not answer, or lacks entries", self.named(silent)));
                }
                Some(Objection::Awaits(_)) => sleep(LOOKS).await,
            }
        }
    }

    fn named(&self, node_id: NodeId) -> String {
        let membership = self.membership();
        let member = membership.membership().get_node(&node_id);
        Named(member.map(|member| member.name.as_str()), node_id).to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LEADER: NodeId = NodeId(1);
    const ASKER: NodeId = NodeId(2);

    fn well(voters: u64, since: Instant) -> Seen {
        let later = Some(since + Duration::from_millis(1));
        Seen {
            term: 7,
            voters: (1..=voters).map(NodeId).collect(),
            is_settled: true,
            learners: BTreeSet::new(),
            leaving: BTreeSet::new(),
            doubted: BTreeSet::new(),
            others: (2..=voters).map(NodeId).filter(|id| *id != ASKER).map(|id| (id, (later, 100))).collect(),
        }
    }

    #[test]
    fn yes_only_when_all_others_have_answered_since_and_have_everything() {
        let since = rt::now();
        let objection = |seen: &Seen| seen.objection(LEADER, ASKER, since, 100);
        let with = |change: &dyn Fn(&mut Seen)| {
            let mut seen = well(5, since);
            change(&mut seen);
            objection(&seen)
        };
        assert_eq!(objection(&well(3, since)), None);
        assert_eq!(objection(&well(5, since)), None);
        assert!(
            matches!(objection(&well(2, since)), Some(Objection::Stands(_))),
            "one of two is no majority"
        );
        assert_eq!(
            with(&|seen| seen.others.get_mut(&NodeId(4)).unwrap().0 = Some(since)),
            Some(Objection::Awaits(NodeId(4)))
        );
        assert_eq!(
            with(&|seen| seen.others.get_mut(&NodeId(4)).unwrap().0 = None),
            Some(Objection::Awaits(NodeId(4)))
        );
        assert_eq!(
            with(&|seen| seen.others.get_mut(&NodeId(5)).unwrap().1 = 99),
            Some(Objection::Awaits(NodeId(5)))
        );
        assert_eq!(with(&|seen| _ = seen.others.remove(&NodeId(3))), Some(Objection::Awaits(NodeId(3))));
        for stands in [
            with(&|seen| seen.is_settled = false),
            with(&|seen| _ = seen.learners.insert(NodeId(9))),
            with(&|seen| _ = seen.leaving.insert(NodeId(3))),
            with(&|seen| _ = seen.doubted.insert(NodeId(3))),
        ] {
            assert!(matches!(stands, Some(Objection::Stands(_))), "{stands:?}");
        }
        assert_eq!(with(&|seen| _ = seen.doubted.insert(ASKER)), None, "that is why it asks");
    }

    #[test]
    fn of_two_that_have_stopped_each_keeps_the_other_waiting() {
        let since = rt::now();
        let mut seen = well(3, since);
        seen.others.insert(NodeId(3), (Some(since), 100));
        assert_eq!(seen.objection(LEADER, NodeId(2), since, 100), Some(Objection::Awaits(NodeId(3))));
        seen.others.insert(NodeId(2), (Some(since), 100));
        assert_eq!(seen.objection(LEADER, NodeId(3), since, 100), Some(Objection::Awaits(NodeId(2))));
    }
}
