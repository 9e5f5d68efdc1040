//! Decides what the leader should change in the membership, as a pure function.
//!
//! Gossip proposes, Raft decides: the leader compares Raft's membership with gossip's view, and makes at most one
//! change at a time. Repeated after every change, the decisions converge. Suspicion alone never removes a voter: a
//! voter is removed because an operator removed it, because it announced that it left, or because a node came under its
//! name with an empty disk while the old id is silent on the leader's own connection. A node to be removed is
//! tombstoned *first*, so a crash half way neither forgets nor readmits it. While the cluster has as many voters as the
//! operator wants, no voter is added: a newcomer takes a voter's place, or waits outside. No change is made whose new
//! configuration would have fewer reachable voters than its majority. Nothing here waits, sends or writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::claim::{Claim, State};
use super::formation::Member;
use super::view::{Liveness, View};
use crate::node_id::{Named, NodeId};

/// Raft as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftView {
    /// The leader, which decides.
    pub self_id: NodeId,
    /// One set of voters, or two in a joint configuration.
    pub voter_sets: Vec<BTreeSet<NodeId>>,
    /// Voters and learners.
    pub nodes: BTreeMap<NodeId, Member>,
    /// Ids that were removed and are never admitted again.
    pub tombstones: BTreeSet<NodeId>,
    /// The index of the last entry in the leader's log; 0 if there is none.
    pub last_log_index: u64,
    /// The other nodes, as the leader's Raft connections see them.
    pub progress: BTreeMap<NodeId, Progress>,
    /// A membership change was proposed and is not committed yet.
    pub change_in_flight: bool,
    /// The replicated cluster version.
    pub cluster_version: u32,
    /// The number of voters the operator wants. `None`: no limit.
    pub wanted_size: Option<u32>,
}

impl RaftView {
    /// Returns `true` if a node votes in any of the sets.
    fn is_voter(&self, id: NodeId) -> bool {
        self.voter_sets.iter().any(|voters| voters.contains(&id))
    }
}

/// A follower or learner, as the leader's Raft connection sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The last index it is known to hold; 0 if none.
    pub matched: u64,
    /// Whether it has answered since this leader's election.
    pub answered: bool,
    /// The time since its last answer, or since the leader's election if it has not answered.
    pub silence: Duration,
    /// The bytes of the leader's log after `matched`. `None` if it needs a snapshot first, or is further behind than
    /// any policy allows.
    pub behind_bytes: Option<u64>,
    /// How long it has been behind without acknowledging more; acknowledged entries are on its disk.
    pub stalled: Duration,
    /// It reports that its disk is nearly full.
    pub is_full: bool,
}

/// The time and lag limits of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A voter that has been silent for this long may be replaced by a node of the same name.
    pub replace_silence: Duration,
    /// A node that answered this leader within this time is reachable.
    pub reachable_within: Duration,
    /// The most entries that a learner which is ready to vote may be behind.
    pub catch_up_lag: u64,
    /// The most bytes that a learner which is ready to vote may be behind: writes may have to wait until it has them.
    pub catch_up_bytes: u64,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            replace_silence: Duration::from_secs(30),
            reachable_within: Duration::from_secs(3),
            catch_up_lag: 1000,
            // A few of the largest values: half a second at 64 Mbit/s.
            catch_up_bytes: 4 << 20,
        }
    }
}

/// One change, to be proposed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipChange {
    /// Finish the joint configuration: these are its new voters.
    FlattenJoint {
        /// The new voters.
        voters: BTreeSet<NodeId>,
    },
    /// Begin to replicate to a newcomer.
    AddLearner {
        /// Its id.
        id: NodeId,
        /// Its name and address.
        member: Member,
    },
    /// Make caught-up learners voters, in one joint change.
    Promote {
        /// The learners' ids.
        ids: BTreeSet<NodeId>,
    },
    /// Record in the replicated state that an id never comes back; the changes that remove it follow.
    Tombstone {
        /// The id.
        id: NodeId,
        /// Its name.
        name: String,
    },
    /// Replace a tombstoned voter with a learner of the same name, in one joint change.
    Replace {
        /// The voter that is removed.
        old: NodeId,
        /// The learner that takes its place.
        new: NodeId,
    },
    /// Remove a node from the membership.
    Remove {
        /// Its id.
        id: NodeId,
    },
    /// Transfer leadership: the leader itself is to be removed.
    HandOver {
        /// The voter that is to lead.
        to: NodeId,
    },
    /// Record a member's new address.
    UpdateAddress {
        /// The member's id.
        id: NodeId,
        /// Its name and new address.
        member: Member,
    },
    /// Raise the cluster version: every member supports the next one.
    RaiseVersion {
        /// The next version.
        version: u32,
    },
}

impl fmt::Display for MembershipChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ids: &BTreeSet<NodeId>| {
            let ids: Vec<String> = ids.iter().map(NodeId::to_string).collect();
            ids.join(", ")
        };
        match self {
            MembershipChange::FlattenJoint { voters } => {
                write!(f, "end the joint configuration, with the voters {}", list(voters))
            }
            MembershipChange::AddLearner { id, member } => {
                write!(f, "add {} at {} as a learner", Named(Some(&member.name), *id), member.rpc_addr)
            }
            MembershipChange::Promote { ids } => write!(f, "let the learners {} vote", list(ids)),
            MembershipChange::Tombstone { id, name } => {
                write!(f, "note that {} never comes back", Named(Some(name), *id))
            }
            MembershipChange::Replace { old, new } => {
                write!(f, "let node id {new} vote in the place of {old}")
            }
            MembershipChange::Remove { id } => write!(f, "remove {}", Named(None, *id)),
            MembershipChange::HandOver { to } => write!(f, "hand leadership over to {}", Named(None, *to)),
            MembershipChange::UpdateAddress { id, member } => {
                write!(f, "note that {} is at {} now", Named(Some(&member.name), *id), member.rpc_addr)
            }
            MembershipChange::RaiseVersion { version } => write!(f, "use cluster version {version}"),
        }
    }
}

/// Why a node that asks to join is not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAdmitted {
    /// Its id was removed.
    Removed,
    /// Its name belongs to another node, which is not gone, or not for long enough.
    NameInUse {
        /// The other node.
        by: NodeId,
        /// How long that node has been silent on the leader's connection, if it is known.
        silence: Option<Duration>,
    },
    /// Another node of the same name asks to join, too.
    NameTwice {
        /// The one that is admitted.
        other: NodeId,
    },
    /// It does not support the version that the cluster uses.
    Version {
        /// What it supports.
        supports: u32,
        /// What the cluster uses.
        uses: u32,
    },
    /// The cluster has as many voters as the operator wants.
    NotWanted {
        /// The wanted number of voters.
        wanted: u32,
        /// The current number of voters, learners that will vote included.
        voters: u32,
    },
}

impl fmt::Display for NotAdmitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotAdmitted::Removed => f.write_str(
                "its id was removed from the cluster; it has to start over with an empty data directory",
            ),
            NotAdmitted::NameInUse { by, silence } => {
                write!(f, "name in use by {}", Named(None, *by))?;
                if let Some(silence) = silence {
                    write!(f, ", silent for {} s", silence.as_secs())?;
                }
                f.write_str(
                    "; give it another node-name, or wait until the other one has been gone for long enough",
                )
            }
            NotAdmitted::NameTwice { other } => {
                write!(f, "{} joins under the same name; give it another node-name", Named(None, *other))
            }
            NotAdmitted::Version { supports, uses } => write!(
                f,
                "it supports cluster version {supports} and the cluster uses {uses}; start a newer version of mokv on it"
            ),
            NotAdmitted::NotWanted { wanted, voters } => {
                let members = |count: u32| if count == 1 { "member" } else { "members" };
                write!(f, "the cluster is to have {wanted} {}", members(*wanted))?;
                if voters != wanted {
                    write!(f, " and has {voters}")?;
                }
                write!(f, "; 'mokv members resize --to {}' lets it in", voters.max(wanted) + 1)
            }
        }
    }
}

/// The change to make now, and the nodes to refuse.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// At most one change.
    pub change: Option<MembershipChange>,
    /// Nodes that ask to join and are not admitted, by id.
    pub refused: BTreeMap<NodeId, NotAdmitted>,
}

/// Why a member cannot be removed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotRemove {
    /// Not a member.
    #[error("it is no member of the cluster")]
    NoMember,
    /// No voter would remain.
    #[error("it is the last voter; stop the cluster instead")]
    LastVoter,
    /// The remaining voters could not commit anything.
    #[error(
        "only {reachable} of the {voters} voters that would remain can be reached, fewer than a majority; bring members \
         back first"
    )]
    NoMajority {
        /// Voters that can be reached.
        reachable: usize,
        /// Voters that would remain.
        voters: usize,
    },
}

/// Decides what the leader should change now.
pub fn decide(raft: &RaftView, view: &View, policy: &Policy) -> Decision {
    let reconciler = Reconciler { raft, view, policy };
    Decision { change: reconciler.change(), refused: reconciler.refused() }
}

/// Checks whether an operator may remove these members; call it before their tombstones are written. Returns how many
/// voters remain after it, counting the learners that will vote.
///
/// # Errors
/// If one is not a member, no voter would remain, or too few of the others are reachable.
pub fn check_removal(raft: &RaftView, policy: &Policy, ids: &[NodeId]) -> Result<u32, CannotRemove> {
    if !ids.iter().all(|id| raft.nodes.contains_key(id)) {
        return Err(CannotRemove::NoMember);
    }
    let reconciler = Reconciler { raft, view: &View::new(), policy };
    // Voters that are being removed do not count: two leaving nodes must not rely on each other.
    let stays = |voter: &NodeId| !ids.contains(voter) && !raft.tombstones.contains(voter);
    let remaining: BTreeSet<NodeId> = reconciler.voters().iter().copied().filter(stays).collect();
    let coming = reconciler.expected().filter(|learner| !ids.contains(learner)).count();
    let count = u32::try_from(remaining.len() + coming).expect("ids fit into memory");
    if !ids.iter().any(|id| reconciler.voters().contains(id)) {
        return Ok(count);
    }
    if remaining.is_empty() {
        return Err(CannotRemove::LastVoter);
    }
    let reachable = reconciler.reachable(&remaining);
    if reachable < majority(remaining.len()) {
        return Err(CannotRemove::NoMajority { reachable, voters: remaining.len() });
    }
    Ok(count)
}

/// The ids of the members of this name: a voter last, after the learners that are to take its place. Empty if there is
/// none.
pub fn ids_named(raft: &RaftView, name: &str) -> Vec<NodeId> {
    let named = raft.nodes.iter().filter(|(_, member)| member.name == name).map(|(id, _)| *id);
    let (voters, mut ids): (Vec<NodeId>, Vec<NodeId>) = named.partition(|id| raft.is_voter(*id));
    ids.extend(voters);
    ids
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

struct Reconciler<'a> {
    raft: &'a RaftView,
    view: &'a View,
    policy: &'a Policy,
}

impl Reconciler<'_> {
    fn change(&self) -> Option<MembershipChange> {
        if self.raft.change_in_flight {
            return None;
        }
        if self.raft.voter_sets.len() > 1 {
            return Some(MembershipChange::FlattenJoint { voters: self.voters().clone() });
        }
        self.carry_out_tombstones()
            .or_else(|| self.tombstone())
            .or_else(|| self.promote())
            .or_else(|| self.admit())
            .or_else(|| self.update_address())
            .or_else(|| self.raise_version())
    }

    // ---- tombstoned members ----

    fn carry_out_tombstones(&self) -> Option<MembershipChange> {
        let mut doomed = self.raft.nodes.keys().copied().filter(|id| self.is_tombstoned(*id));
        doomed.find_map(|id| {
            if !self.is_voter(id) {
                return Some(MembershipChange::Remove { id });
            }
            if id == self.raft.self_id {
                return self.hand_over();
            }
            match self.successors_of(id).find(|new| self.is_reachable(*new)) {
                // While the successor is catching up, the old voter keeps its vote.
                Some(new) => self.is_ready(new).then_some(MembershipChange::Replace { old: id, new }),
                None => Some(MembershipChange::Remove { id }),
            }
            .filter(|change| self.keeps_majority(change))
        })
    }

    /// The leader is to be removed: another voter has to lead the change.
    fn hand_over(&self) -> Option<MembershipChange> {
        let fit = |id: &NodeId| *id != self.raft.self_id && !self.is_tombstoned(*id) && self.is_near(*id);
        let to = self.voters().iter().copied().filter(fit).max_by_key(|id| self.raft.progress[id].matched)?;
        Some(MembershipChange::HandOver { to })
    }

    // ---- new tombstones ----

    fn tombstone(&self) -> Option<MembershipChange> {
        self.raft.nodes.iter().find_map(|(&id, member)| {
            let tombstone = MembershipChange::Tombstone { id, name: member.name.clone() };
            if self.is_tombstoned(id) || id == self.raft.self_id {
                return None;
            }
            if !self.is_voter(id) {
                if self.has_left(id)
                    || self.is_gone(id) && self.newcomers().any(|new| new.name == member.name)
                {
                    return Some(tombstone);
                }
                let Some(namesake) = self.voter_named(&member.name) else {
                    // It could only wait for a vote, so it waits outside.
                    return (self.free_places() == 0).then_some(MembershipChange::Remove { id });
                };
                // Its namesake came back: it has to wait, or to take another name.
                let waits = self.is_tombstoned(namesake) || self.is_gone(namesake);
                return (!waits).then_some(MembershipChange::Remove { id });
            }
            let successor = self.successors_of(id).find(|new| self.is_ready(*new));
            let follows = match successor {
                Some(new) if self.is_gone(id) => MembershipChange::Replace { old: id, new },
                _ if self.has_left(id) => MembershipChange::Remove { id },
                _ => return None,
            };
            (!self.removal_in_progress() && self.keeps_majority(&follows)).then_some(tombstone)
        })
    }

    // ---- newcomers and learners ----

    fn promote(&self) -> Option<MembershipChange> {
        let mut names = BTreeSet::new();
        let ids: BTreeSet<NodeId> = self
            .learners()
            .filter(|(id, member)| {
                !self.is_tombstoned(*id)
                    && self.is_ready(*id)
                    && !self.has_left(*id)
                    && self.voter_named(&member.name).is_none()
                    && names.insert(&member.name)
            })
            .map(|(id, _)| id)
            .take(self.free_places())
            .collect();
        let change = MembershipChange::Promote { ids };
        let has_learners = matches!(&change, MembershipChange::Promote { ids } if !ids.is_empty());
        (has_learners && self.keeps_majority(&change)).then_some(change)
    }

    fn admit(&self) -> Option<MembershipChange> {
        let claim = self.newcomers().find(|claim| self.objection_to(claim).is_none())?;
        Some(MembershipChange::AddLearner { id: claim.node_id, member: member_of(claim) })
    }

    fn refused(&self) -> BTreeMap<NodeId, NotAdmitted> {
        self.newcomers().filter_map(|claim| Some((claim.node_id, self.objection_to(claim)?))).collect()
    }

    fn objection_to(&self, claim: &Claim) -> Option<NotAdmitted> {
        let id = claim.node_id;
        if self.is_tombstoned(id) {
            return Some(NotAdmitted::Removed);
        }
        if claim.supports < self.raft.cluster_version {
            return Some(NotAdmitted::Version { supports: claim.supports, uses: self.raft.cluster_version });
        }
        let mut namesakes = self.raft.nodes.iter().filter(|(_, member)| member.name == claim.name);
        let in_the_way = namesakes.find(|(id, _)| {
            // A learner has to be removed first; a voter that is gone is the one that the newcomer replaces.
            !self.is_voter(**id)
                || !(self.is_gone(**id) || self.is_tombstoned(**id) && !self.is_reachable(**id))
        });
        if let Some((&by, _)) = in_the_way {
            let silence = self.raft.progress.get(&by).map(|progress| progress.silence);
            return Some(NotAdmitted::NameInUse { by, silence });
        }
        // A place that is no longer wanted is removed with the voter that had it.
        let succeeds = (self.voter_named(&claim.name))
            .is_some_and(|voter| !(self.is_tombstoned(voter) && self.has_too_many()));
        if let Some(wanted) = self.raft.wanted_size
            && !succeeds
            && self.free_places() <= self.expected().count()
        {
            // A learner that will vote has a place already.
            let voters = u32::try_from(self.voters().len() + self.expected().count()).unwrap_or(u32::MAX);
            return Some(NotAdmitted::NotWanted { wanted, voters });
        }
        let first = self
            .newcomers()
            .filter(|other| other.name == claim.name && !self.is_tombstoned(other.node_id))
            .map(|other| other.node_id)
            .min();
        first.filter(|first| *first != id).map(|other| NotAdmitted::NameTwice { other })
    }

    // ---- other changes ----

    fn update_address(&self) -> Option<MembershipChange> {
        self.raft.nodes.iter().find_map(|(&id, member)| {
            let peer = self.view.get(&id).filter(|peer| peer.liveness == Liveness::Alive)?;
            let claimed = member_of(&peer.claim);
            let moved = claimed.name == member.name && claimed.rpc_addr != member.rpc_addr;
            moved.then_some(MembershipChange::UpdateAddress { id, member: claimed })
        })
    }

    fn raise_version(&self) -> Option<MembershipChange> {
        let version = self.raft.cluster_version + 1;
        let supports = |id: &NodeId| {
            self.view
                .get(id)
                .is_some_and(|peer| peer.liveness == Liveness::Alive && peer.claim.supports >= version)
        };
        self.raft.nodes.keys().all(supports).then_some(MembershipChange::RaiseVersion { version })
    }

    // ---- helpers ----

    /// The voters once any joint configuration is finished.
    fn voters(&self) -> &BTreeSet<NodeId> {
        self.raft.voter_sets.last().expect("a leader has a configuration")
    }

    fn learners(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.raft.nodes.iter().filter(|(id, _)| !self.is_voter(**id)).map(|(id, member)| (*id, member))
    }

    /// Live nodes of this cluster that are not in the membership.
    fn newcomers(&self) -> impl Iterator<Item = &Claim> {
        self.view
            .values()
            .filter(|peer| {
                peer.liveness == Liveness::Alive && matches!(peer.claim.state, State::Joining | State::Member)
            })
            .map(|peer| &peer.claim)
            .filter(|claim| !self.raft.nodes.contains_key(&claim.node_id))
    }

    fn voter_named(&self, name: &str) -> Option<NodeId> {
        self.voters()
            .iter()
            .copied()
            .find(|id| self.raft.nodes.get(id).is_some_and(|member| member.name == name))
    }

    /// Learners that have this voter's name.
    fn successors_of(&self, voter: NodeId) -> impl Iterator<Item = NodeId> {
        let name = self.raft.nodes.get(&voter).map(|member| member.name.as_str());
        self.learners()
            .filter(move |(id, member)| Some(member.name.as_str()) == name && !self.is_tombstoned(*id))
            .map(|(id, _)| id)
    }

    /// How many more voters the cluster may have.
    fn free_places(&self) -> usize {
        let free = |wanted: u32| (wanted as usize).saturating_sub(self.voters().len());
        self.raft.wanted_size.map_or(usize::MAX, free)
    }

    /// Returns `true` if there are more voters than are wanted.
    fn has_too_many(&self) -> bool {
        self.raft.wanted_size.is_some_and(|wanted| self.voters().len() > wanted as usize)
    }

    /// Learners that will vote without replacing a voter.
    fn expected(&self) -> impl Iterator<Item = NodeId> {
        self.learners()
            .filter(|(id, member)| {
                !self.is_tombstoned(*id)
                    && self.is_reachable(*id)
                    && !self.has_left(*id)
                    && self.voter_named(&member.name).is_none()
            })
            .map(|(id, _)| id)
    }

    fn is_voter(&self, id: NodeId) -> bool {
        self.raft.is_voter(id)
    }

    fn is_tombstoned(&self, id: NodeId) -> bool {
        self.raft.tombstones.contains(&id)
    }

    fn removal_in_progress(&self) -> bool {
        self.voters().iter().any(|id| self.is_tombstoned(*id))
    }

    fn has_left(&self, id: NodeId) -> bool {
        self.view.get(&id).is_some_and(|peer| peer.liveness == Liveness::Left)
    }

    /// Returns `true` if it has been silent for `replace_silence` on the leader's own connection, and gossip agrees.
    fn is_gone(&self, id: NodeId) -> bool {
        let silence = self.raft.progress.get(&id).map(|progress| progress.silence);
        let gossip_agrees =
            self.view.get(&id).is_none_or(|peer| matches!(peer.liveness, Liveness::Down | Liveness::Left));
        id != self.raft.self_id
            && gossip_agrees
            && silence.is_some_and(|silence| silence >= self.policy.replace_silence)
    }

    fn is_reachable(&self, id: NodeId) -> bool {
        // A node that has not answered yet may be dead, however short its silence is.
        let answers =
            |progress: &Progress| progress.answered && progress.silence <= self.policy.reachable_within;
        id == self.raft.self_id || self.raft.progress.get(&id).is_some_and(answers)
    }

    /// Returns `true` if it is reachable and at most `catch_up_lag` entries behind the end of the log.
    fn is_near(&self, id: NodeId) -> bool {
        self.is_reachable(id)
            && self
                .raft
                .progress
                .get(&id)
                .is_some_and(|progress| self.lag(progress) <= self.policy.catch_up_lag)
    }

    /// Returns `true` if it is near and no write will have to wait for it once it votes: it has the snapshot, few bytes
    /// are missing, and its disk keeps up.
    fn is_ready(&self, id: NodeId) -> bool {
        let keeps_up = |progress: &Progress| {
            // If values are larger than the bound, one is always in flight.
            let few_bytes = self.lag(progress) <= 1
                || progress.behind_bytes.is_some_and(|bytes| bytes <= self.policy.catch_up_bytes);
            progress.matched > 0
                && few_bytes
                && progress.stalled <= self.policy.reachable_within
                && !progress.is_full
        };
        self.is_near(id) && self.raft.progress.get(&id).is_some_and(keeps_up)
    }

    fn lag(&self, progress: &Progress) -> u64 {
        self.raft.last_log_index.saturating_sub(progress.matched)
    }

    fn reachable(&self, voters: &BTreeSet<NodeId>) -> usize {
        voters.iter().filter(|id| self.is_reachable(**id)).count()
    }

    /// Returns `true` if a majority of the voters after a change is reachable.
    fn keeps_majority(&self, change: &MembershipChange) -> bool {
        let mut voters = self.voters().clone();
        match change {
            MembershipChange::Promote { ids } => voters.extend(ids),
            MembershipChange::Replace { old, new } => {
                voters.remove(old);
                voters.insert(*new);
            }
            MembershipChange::Remove { id } => {
                voters.remove(id);
            }
            _ => {}
        }
        !voters.is_empty() && self.reachable(&voters) >= majority(voters.len())
    }
}

fn member_of(claim: &Claim) -> Member {
    Member { name: claim.name.clone(), rpc_addr: claim.rpc_addr.clone() }
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
