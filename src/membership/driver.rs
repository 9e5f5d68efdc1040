//! Makes the leader's membership changes: reads Raft and gossip, decides by [`reconcile`](super::reconcile), and
//! proposes.
//!
//! Runs on every node; only the leader makes changes, one at a time, each on the precondition that the membership is
//! still the one that the decision was based on.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use openraft::ChangeMembers;

use super::formation;
use super::gossip::Gossip;
use super::reconcile::{
    Decision, MembershipChange, NotAdmitted, Progress, RaftView, check_removal, decide, ids_named,
};
use super::view::View;
use crate::config::NodeConfig;
use crate::map::Command;
use crate::node_id::NodeId;
use crate::raft::{Consensus, LogId, Member, ProposeError};
use crate::rt::lock::Mutex;
use crate::rt::time::Seldom;
use crate::rt::{self, Instant, timeout};
use crate::service::{Operator, Place, Refused};

pub use super::reconcile::Policy;

/// How often the leader decides if nothing seems to change.
const INTERVAL: Duration = Duration::from_millis(250);
/// A change that is not committed in this time is decided on again.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// An operator waits at most this long for a removal.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(20);

impl From<&NodeConfig> for Policy {
    fn from(config: &NodeConfig) -> Policy {
        Policy {
            replace_silence: config.replace_silence,
            reachable_within: config.election_timeout * 3,
            ..Policy::default()
        }
    }
}

/// Keeps Raft's membership in step with gossip's view.
pub struct Driver {
    consensus: Consensus,
    gossip: Arc<Gossip>,
    policy: Policy,
    /// The term in which this node leads, and since when; a peer that has not answered yet counts as silent since then.
    leading: Mutex<Option<(u64, Instant)>>,
    /// While this node leads: the last index each node has acknowledged, and when it last advanced or had acknowledged
    /// all.
    advanced: Mutex<BTreeMap<NodeId, (u64, Instant)>>,
    /// Held while a removal is decided on and its tombstone is written ([`Driver::settle`]): two removals at a time
    /// would each count on the voter that the other removes.
    removing: tokio::sync::Mutex<()>,
}

impl Driver {
    /// Creates the driver of a node.
    pub fn new(consensus: Consensus, gossip: Arc<Gossip>, policy: Policy) -> Driver {
        Driver {
            consensus,
            gossip,
            policy,
            leading: Mutex::new(None),
            advanced: Mutex::default(),
            removing: tokio::sync::Mutex::default(),
        }
    }

    /// Runs until this node has applied its own removal.
    pub async fn run(&self) {
        let mut view = self.gossip.view();
        let mut refused = BTreeMap::new();
        let failing = Seldom::default();
        loop {
            self.introduce_members();
            if self.is_removed() {
                return;
            }
            match self.look() {
                Some((raft, expected)) => {
                    // The view may be outdated once the change is made: no lock is held meanwhile.
                    let seen: View = view.borrow_and_update().clone();
                    let decision = self.decide(&raft, &seen);
                    report_refusals(&seen, &refused, &decision.refused);
                    refused = decision.refused;
                    let reasons = refused.iter().map(|(id, reason)| (*id, reason.to_string()));
                    self.consensus.refuse(reasons.collect());
                    if let Some(change) = decision.change {
                        self.try_to(change, &raft, expected, &failing).await;
                    }
                }
                None => self.consensus.refuse(BTreeMap::new()),
            }
            // Decides again after a while, or as soon as gossip's view changes.
            let _ = timeout(INTERVAL, view.changed()).await;
            rt::sleep(INTERVAL / 5).await;
        }
    }

    async fn try_to(
        &self,
        change: MembershipChange,
        raft: &RaftView,
        expected: Option<LogId>,
        failing: &Seldom,
    ) {
        tracing::info!("changing the cluster: {change}");
        if let Err(reason) = self.carry_out(raft, change, expected).await {
            rt::sometimes("membership change did not go through");
            if let Some(more) = failing.now() {
                tracing::warn!(more, "the membership change failed and is tried again: {reason}");
            }
        }
    }

    /// Passes the current members to gossip and to the connections.
    fn introduce_members(&self) {
        let membership = self.consensus.membership();
        let members: BTreeMap<NodeId, String> = (membership.nodes())
            .filter(|(id, _)| **id != self.consensus.node_id())
            .map(|(id, member)| (*id, member.rpc_addr.clone()))
            .collect();
        self.consensus.peers().retain(|id| members.contains_key(&id));
        self.gossip.set_members(members);
    }

    fn is_removed(&self) -> bool {
        let (me, state) = (self.consensus.node_id(), self.consensus.store().read());
        state.map.is_tombstoned(me) && state.membership.membership().get_node(&me).is_none()
    }

    /// Raft as this node sees it, and the membership that any change has to start from; `None` unless this node leads.
    fn look(&self) -> Option<(RaftView, Option<LogId>)> {
        // Tombstones and settings are part of the state: a leader whose state is doubted changes nothing.
        if !self.consensus.is_leader() || self.consensus.is_doubted() {
            *self.leading.lock() = None;
            self.advanced.lock().clear();
            return None;
        }
        let metrics = self.consensus.metrics();
        let unconfirmed =
            metrics.last_quorum_acked.map(|at| rt::now().saturating_duration_since((*at).into()));
        if unconfirmed.is_some_and(|time| time > self.policy.reachable_within) {
            rt::sometimes("leader without a quorum");
        }
        let since = {
            let mut leading = self.leading.lock();
            match *leading {
                Some((term, since)) if term == metrics.current_term => since,
                _ => leading.insert((metrics.current_term, rt::now())).1,
            }
        };
        let (tombstones, cluster_version, wanted_size) = {
            let state = self.consensus.store().read();
            let tombstones = state.map.tombstones().map(|(id, _)| id).collect();
            let wanted_size = state.map.settings().wanted_size.map(NonZeroU32::get);
            (tombstones, state.map.cluster_version(), wanted_size)
        };
        let matched = metrics.replication.clone().unwrap_or_default();
        let answered = metrics.heartbeat.clone().unwrap_or_default();
        let membership = metrics.membership_config.membership();
        let last_log_index = metrics.last_log_index.unwrap_or(0);
        let mut advanced = self.advanced.lock();
        advanced.retain(|id, _| membership.get_node(id).is_some());
        let progress = (membership.nodes())
            .filter(|(id, _)| **id != metrics.id)
            .map(|(id, _)| {
                let matched = matched.get(id).copied().flatten().map_or(0, |id| id.index);
                let (known, since_when) = advanced.entry(*id).or_insert((matched, rt::now()));
                if *known != matched || matched >= last_log_index {
                    (*known, *since_when) = (matched, rt::now());
                }
                let stalled = rt::now().saturating_duration_since(*since_when);
                let is_near = last_log_index.saturating_sub(matched) <= self.policy.catch_up_lag;
                let answered_at: Option<Instant> = answered.get(id).copied().flatten().map(|at| (*at).into());
                let progress = Progress {
                    matched,
                    answered: answered_at.is_some(),
                    silence: rt::now().saturating_duration_since(answered_at.unwrap_or(since)),
                    behind_bytes: is_near.then(|| self.consensus.log_bytes_after(matched)).flatten(),
                    stalled,
                    is_full: self.consensus.full_peer(|full| full == *id).is_some(),
                };
                (*id, progress)
            })
            .collect();
        drop(advanced);
        let expected = *metrics.membership_config.log_id();
        let raft = RaftView {
            self_id: metrics.id,
            voter_sets: membership.get_joint_config().clone(),
            nodes: (membership.nodes())
                .map(|(id, member)| {
                    let Member { name, rpc_addr } = member.clone();
                    (*id, formation::Member { name, rpc_addr })
                })
                .collect(),
            tombstones,
            last_log_index,
            progress,
            change_in_flight: expected != *metrics.committed_membership_config.log_id(),
            cluster_version,
            wanted_size,
        };
        Some((raft, expected))
    }

    fn decide(&self, raft: &RaftView, seen: &View) -> Decision {
        decide(raft, seen, &self.policy)
    }

    fn look_as_leader(&self) -> Result<RaftView, Refused> {
        let (raft, _) =
            self.look().ok_or_else(|| Refused::not_executed("only the leader removes members"))?;
        Ok(raft)
    }

    async fn carry_out(
        &self,
        raft: &RaftView,
        change: MembershipChange,
        expected: Option<LogId>,
    ) -> Result<(), String> {
        mark(&change);
        let member = |member: formation::Member| Member { name: member.name, rpc_addr: member.rpc_addr };
        let members = match change {
            MembershipChange::FlattenJoint { voters } => ChangeMembers::ReplaceAllVoters(voters),
            MembershipChange::AddLearner { id, member: new } => {
                ChangeMembers::AddNodes(BTreeMap::from([(id, member(new))]))
            }
            MembershipChange::Promote { ids } => ChangeMembers::AddVoterIds(ids),
            MembershipChange::Replace { old, new } => {
                let mut voters: BTreeSet<NodeId> = raft.voter_sets.last().cloned().unwrap_or_default();
                voters.remove(&old);
                voters.insert(new);
                ChangeMembers::ReplaceAllVoters(voters)
            }
            MembershipChange::Remove { id } if raft.voter_sets.iter().any(|voters| voters.contains(&id)) => {
                ChangeMembers::RemoveVoters(BTreeSet::from([id]))
            }
            MembershipChange::Remove { id } => ChangeMembers::RemoveNodes(BTreeSet::from([id])),
            MembershipChange::UpdateAddress { id, member: moved } => {
                ChangeMembers::SetNodes(BTreeMap::from([(id, member(moved))]))
            }
            MembershipChange::HandOver { to } => {
                return self.consensus.transfer_leader(to, CHANGE_TIMEOUT).await;
            }
            MembershipChange::Tombstone { .. } => return self.write_tombstone().await,
            MembershipChange::RaiseVersion { version } => {
                let command = Command::ClusterVersion(version).encode();
                let proposed = self.consensus.propose(command, rt::now() + CHANGE_TIMEOUT).await;
                return proposed.map(|_| ()).map_err(|error| error.to_string());
            }
        };
        self.consensus.change_membership(members, expected, CHANGE_TIMEOUT).await
    }

    /// Writes the tombstone that is decided on with all earlier removals applied; writes nothing if none is due any
    /// more.
    async fn write_tombstone(&self) -> Result<(), String> {
        let Ok(_one_at_a_time) = self.removing.try_lock() else {
            return Err("an operator's removal is being committed".into());
        };
        let term = self.settle().await.map_err(|error| error.to_string())?;
        let Some((raft, _)) = self.look() else { return Err("another node leads".into()) };
        let seen = self.gossip.view().borrow().clone();
        let Some(MembershipChange::Tombstone { id, name }) = self.decide(&raft, &seen).change else {
            return Ok(());
        };
        let written = self.propose_in(term, Command::Tombstone { node_id: id, name }).await;
        written.map_err(|error| error.to_string())
    }

    /// Waits until every removal is applied here that any leader has written and that may still be committed; returns
    /// the term in which this node leads meanwhile. A caller that holds `removing` from before this call until it has
    /// written a tombstone in that term has seen all tombstones that precede its own in any log: an earlier one that
    /// timed out is in this log before the new entry, or is lost; no other node writes one in this term; and in a later
    /// term the new entry has no effect.
    async fn settle(&self) -> Result<u64, ProposeError> {
        let term = self.consensus.term_led().ok_or(ProposeError::NotLeader(None))?;
        self.propose_in(term, Command::Blank).await?;
        Ok(term)
    }

    async fn propose_in(&self, term: u64, command: Command) -> Result<(), ProposeError> {
        let deadline = rt::now() + CHANGE_TIMEOUT;
        self.consensus.propose_in(term, &command, deadline).await.map(|_| ())
    }
}

fn mark(change: &MembershipChange) {
    match change {
        MembershipChange::FlattenJoint { .. } => rt::sometimes("joint configuration flattened"),
        MembershipChange::AddLearner { .. } => rt::sometimes("learner added"),
        MembershipChange::Promote { .. } => rt::sometimes("learner promoted"),
        MembershipChange::Replace { .. } => rt::sometimes("node replaced under its name"),
        MembershipChange::Remove { .. } => rt::sometimes("member removed"),
        MembershipChange::UpdateAddress { .. } => rt::sometimes("member's address updated"),
        MembershipChange::HandOver { .. }
        | MembershipChange::Tombstone { .. }
        | MembershipChange::RaiseVersion { .. } => {}
    }
}

/// Reports the nodes that are refused now and were not before, or for another reason.
fn report_refusals(view: &View, before: &BTreeMap<NodeId, NotAdmitted>, now: &BTreeMap<NodeId, NotAdmitted>) {
    for (id, reason) in now {
        if before.get(id).map(std::mem::discriminant) == Some(std::mem::discriminant(reason)) {
            continue;
        }
        rt::sometimes("newcomer not admitted yet");
        let name = view.get(id).map_or("", |peer| peer.claim.name.as_str());
        match reason {
            // An operator asked for it, or it is temporary; a newcomer whose namesake is alive logs it itself.
            NotAdmitted::Removed | NotAdmitted::NotWanted { .. } | NotAdmitted::NameInUse { .. } => {
                tracing::info!(node = name, %id, "not admitted: {reason}");
            }
            NotAdmitted::NameTwice { .. } | NotAdmitted::Version { .. } => {
                tracing::warn!(node = name, %id, "not admitted: {reason}");
            }
        }
    }
}

#[async_trait]
impl Operator for Driver {
    async fn remove_member(&self, name: &str, place: Place) -> Result<NodeId, Refused> {
        let one_at_a_time = self.removing.lock().await;
        let settled = self.settle().await;
        let term = settled.map_err(|error| Refused::not_executed(error.to_string()))?;
        let mut raft = self.look_as_leader()?;
        // A new leader has not received an answer of every node yet.
        let patience = self.policy.reachable_within;
        while raft.progress.values().any(|progress| !progress.answered && progress.silence < patience) {
            rt::sleep(INTERVAL / 5).await;
            raft = self.look_as_leader()?;
        }
        let named = ids_named(&raft, name);
        let &id = named.last().ok_or_else(|| Refused::NoSuchMember(name.to_owned()))?;
        // If the place closes, the learners that were to take it are removed as well.
        let going: Vec<NodeId> =
            named.into_iter().filter(|named| *named == id || place == Place::Closes).collect();
        let remaining = check_removal(&raft, &self.policy, &going)
            .map_err(|reason| Refused::Precondition(format!("cannot remove '{name}': {reason}")))?;
        let unknown = |error: ProposeError| {
            Refused::unknown(format!("whether '{name}' will be removed is not known: {error}"))
        };
        // Written before the removal, or the node would come back at once under a new id.
        if place == Place::Closes && raft.wanted_size.is_none_or(|wanted| wanted > remaining) {
            if raft.cluster_version >= Command::WANTED_SIZE_VERSION {
                self.propose_in(term, Command::WantedSize(remaining)).await.map_err(unknown)?;
            } else {
                tracing::warn!(
                    "stop the node of '{name}': until all members run this version of mokv, one that runs on joins again"
                );
            }
        }
        for node_id in going {
            self.propose_in(term, Command::Tombstone { node_id, name: name.to_string() })
                .await
                .map_err(unknown)?;
        }
        drop(one_at_a_time);
        // The run loop carries the tombstone out, here or on the next leader. A leader that removes itself may learn
        // from others that it is removed before it applies the removal.
        let is_gone = || {
            self.consensus.membership().membership().get_node(&id).is_none()
                || id == self.consensus.node_id() && self.consensus.peers().say_removed()
        };
        let gone = async {
            while !is_gone() {
                rt::sleep(INTERVAL / 5).await;
            }
        };
        let late = |_| {
            Refused::unknown(format!(
                "'{name}' is marked as removed and will be removed, but is still a member"
            ))
        };
        timeout(REMOVAL_TIMEOUT, gone).await.map_err(late)?;
        Ok(id)
    }
}
