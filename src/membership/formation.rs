//! Decides which nodes form a cluster, and when.
//!
//! Every cluster begins with a pledge: the promise of each of its first nodes, durable before another node learns of
//! it, to form this cluster with these nodes and no other. A data directory pledges at most once, and a node forms the
//! cluster only if it has received the same pledge of *all* the pledge's nodes; so of two pledges that share a node at
//! most one is ever fulfilled, whatever is lost, late or killed. A silent node that might belong to a cluster prevents
//! every new pledge: silence is never consent. Data in, one step out: no disk, no network, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::claim::{Claim, ClusterId, Intent, MAX_PLEDGED, Pledge, PledgedNode, State};
use super::joins::{JoinAnswers, Teller};
use crate::node_id::NodeId;

/// Before a node joins the only cluster that was reported to it, it asks silent join addresses in this many more
/// attempts, in case one reports another cluster. An address that stays silent is most likely dead, and keeps no node
/// from joining.
const SILENT_ATTEMPTS: u64 = 2;

/// A member of the first membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node's name.
    pub name: String,
    /// `host:port` of its RPC when the cluster was formed.
    pub rpc_addr: String,
}

/// The result of the formation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formed {
    /// The node is one of the first members. Initialise Raft with exactly this membership, unless it is initialised
    /// already; several nodes may do so.
    Initialise {
        /// The new cluster.
        cluster_id: ClusterId,
        /// Its first members by node id.
        members: BTreeMap<NodeId, Member>,
    },
    /// The node waits for the cluster's leader to add it.
    Joined {
        /// The cluster.
        cluster_id: ClusterId,
    },
}

impl Formed {
    /// The cluster.
    pub fn cluster_id(&self) -> ClusterId {
        match self {
            Formed::Initialise { cluster_id, .. } | Formed::Joined { cluster_id } => *cluster_id,
        }
    }

    /// The cluster of a fulfilled pledge.
    pub fn fulfil(pledge: &Pledge) -> Formed {
        let member = |node: &PledgedNode| Member { name: node.name.clone(), rpc_addr: node.rpc_addr.clone() };
        Formed::Initialise {
            cluster_id: pledge.cluster_id,
            members: pledge.nodes.iter().map(|node| (node.node_id, member(node))).collect(),
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make this pledge durable, then publish it, then decide again.
    Pledge(Pledge),
    /// Adopt the cluster id durably, then begin.
    Form(Formed),
    /// Decide again when more answers have arrived.
    Wait(Waiting),
    /// An operator has to act first.
    Refuse(Refusal),
}

/// What a node waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// Join addresses that have not answered in this attempt.
    Answers(Vec<String>),
    /// A cluster to join.
    Cluster,
    /// More nodes of the same `bootstrap-expect`.
    Nodes {
        /// How many there are, this one included.
        present: usize,
        /// How many it takes.
        expected: usize,
    },
    /// The node that proposes the pledge.
    Proposal(String),
    /// The pledges of these nodes.
    Pledges(Vec<String>),
    /// Another node is configured, or pledged, to form a cluster too.
    Founder(String),
    /// Another node has the same name.
    Name(String),
    /// Another node has a different `bootstrap-expect`.
    Size {
        /// The other node.
        name: String,
        /// Its `bootstrap-expect`.
        expected: u32,
        /// That of this node.
        own: u32,
    },
    /// Another node's pledge counts on a disk that is lost.
    Wiping(String),
    /// A node that has left the only known cluster: a member must report that cluster too.
    Leaver(String),
}

impl Waiting {
    /// Returns `true` if nothing changes until an operator acts.
    pub fn needs_a_person(&self) -> bool {
        use Waiting::{Founder, Leaver, Name, Size, Wiping};
        matches!(self, Founder(_) | Name(_) | Size { .. } | Wiping(_) | Leaver(_))
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Waiting::Answers(names) => write!(f, "waiting for an answer of {}", names.join(", ")),
            Waiting::Cluster => write!(f, "waiting for a cluster to join"),
            Waiting::Nodes { present, expected } => {
                write!(f, "waiting for more nodes: {present} of {expected} are there")
            }
            Waiting::Proposal(name) => write!(f, "waiting for '{name}' to propose the cluster"),
            Waiting::Pledges(names) => write!(f, "waiting for the pledges of {}", names.join(", ")),
            Waiting::Founder(name) => write!(
                f,
                "cannot form a cluster while '{name}' is set to form one too; set 'bootstrap' on one node only, or \
                 the same 'bootstrap-expect' on all"
            ),
            Waiting::Name(name) => write!(
                f,
                "cannot form a cluster with two nodes named '{name}'; give each node a node-name of its own"
            ),
            Waiting::Size { name, expected, own } => write!(
                f,
                "cannot form a cluster: bootstrap-expect is {expected} on '{name}' and {own} on this node; set the \
                 same on all nodes"
            ),
            Waiting::Wiping(name) => write!(
                f,
                "cannot form a cluster: '{name}' is pledged to one with an earlier disk of this node; wipe the data \
                 directory of '{name}': 'mokv serve --wipe'"
            ),
            Waiting::Leaver(name) => write!(
                f,
                "cannot join through '{name}', which has left its cluster; add the address of another member to \
                 start-join-addrs"
            ),
        }
    }
}

/// Why a node cannot go on until an operator acts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A pledged node came back with an empty disk before the cluster was formed.
    #[error(
        "cannot form the cluster this node is pledged to: '{0}' has lost the disk that pledged with it, and no node has \
         formed the cluster; wipe the data directory of this node and start it again: 'mokv serve --wipe'"
    )]
    Broken(String),
    /// Two pledges share a node, which can fulfil only one of them.
    #[error(
        "cannot form the cluster this node is pledged to: '{0}' is pledged to another one; give all nodes the same \
         start-join-addrs, wipe the data directory of this node and start it again: 'mokv serve --wipe'"
    )]
    Contradicted(String),
    /// The node is pledged to one cluster, and another one exists.
    #[error(
        "'{name}' belongs to cluster {other} and this node is pledged to form cluster {own}; correct start-join-addrs, \
         or wipe the data directory of this node to join the other cluster: 'mokv serve --wipe'"
    )]
    PledgedElsewhere {
        /// The node that belongs to the other cluster.
        name: String,
        /// The other cluster.
        other: ClusterId,
        /// The cluster of the pledge.
        own: ClusterId,
    },
    /// The join addresses lead to different clusters.
    #[error(
        "the start-join-addrs lead to two clusters: '{}' at {} belongs to {first}, and '{}' at {} to {second}; list \
         members of one cluster only", .first_teller.name, .first_teller.at, .second_teller.name, .second_teller.at
    )]
    TwoClusters {
        /// One of the clusters.
        first: ClusterId,
        /// The node that reported it.
        first_teller: Box<Teller>,
        /// The other cluster.
        second: ClusterId,
        /// The node that reported it.
        second_teller: Box<Teller>,
    },
    /// The directory's earlier node belonged to a cluster, and the new one has no node to ask.
    #[error(
        "this data directory was part of cluster {0}, so the node does not form a new one; set start-join-addrs to rejoin, \
         or empty the data directory to begin anew"
    )]
    HasAPast(ClusterId),
    /// The node is configured with no way to ever be part of a cluster.
    #[error(
        "this node knows no cluster and has no way to find one; set bootstrap, or bootstrap-expect, or start-join-addrs"
    )]
    NoWay,
    /// `bootstrap-expect` is out of range.
    #[error("bootstrap-expect cannot be {0}; set it to a number from 1 to {max}", max = MAX_PLEDGED)]
    Size(u32),
}

/// A node without a cluster, and its configuration.
#[derive(Debug, Clone)]
pub struct Formation {
    /// This node as it would appear in a pledge.
    pub me: PledgedNode,
    /// What it is configured to do.
    pub intent: Intent,
    /// The configured join names.
    pub joins: BTreeSet<String>,
    /// The pledge it has made durable.
    pub pledge: Option<Pledge>,
    /// The cluster that an earlier node of this directory belonged to.
    pub former: Option<ClusterId>,
    /// Whether members may invite it, because they prove that they have the cluster's key.
    pub keyed: bool,
}

impl Formation {
    /// Decides on the answers of this attempt.
    pub fn step(&self, answers: &JoinAnswers) -> Step {
        let mut others = answers.claims();
        others.remove(&self.me.node_id);
        if let Some(pledge) = &self.pledge {
            return self.stand_by(pledge, &others, answers);
        }
        match self.find_cluster(&others, answers) {
            Some(step) => step,
            None => self.found_cluster(&others, answers),
        }
    }

    // ---- with a pledge: form that cluster or none ----

    fn stand_by(&self, pledge: &Pledge, others: &BTreeMap<NodeId, &Claim>, answers: &JoinAnswers) -> Step {
        let in_cluster = |claim: &&&Claim| claim.cluster_id == Some(pledge.cluster_id);
        // A node that has that cluster's id has received all the pledges.
        if others.values().any(|claim| in_cluster(&claim)) {
            return Step::Form(Formed::fulfil(pledge));
        }
        if let Some((claim, other)) = others.values().find_map(|claim| Some((claim, claim.cluster_id?))) {
            let own = pledge.cluster_id;
            return Step::Refuse(Refusal::PledgedElsewhere { name: claim.name.clone(), other, own });
        }
        let open: Vec<&PledgedNode> = pledge
            .nodes
            .iter()
            .filter(|node| node.node_id != self.me.node_id)
            .filter(|node| others.get(&node.node_id).and_then(|claim| pledge_of(claim)) != Some(pledge))
            .collect();
        if open.is_empty() {
            return Step::Form(Formed::fulfil(pledge));
        }
        // Only when all nodes have answered and none belongs to a cluster is it certain that none was formed.
        if self.all_have_answered(answers)
            && let Some(refusal) = open.iter().find_map(|node| hopeless(node, others))
        {
            return Step::Refuse(refusal);
        }
        Step::Wait(Waiting::Pledges(open.into_iter().map(|node| node.name.clone()).collect()))
    }

    // ---- without a pledge: join a cluster, if a node reports one ----

    fn find_cluster(&self, others: &BTreeMap<NodeId, &Claim>, answers: &JoinAnswers) -> Option<Step> {
        let invitations = answers.invitations.values().filter(|_| self.keyed);
        let knowing = others.values().copied().chain(invitations);
        let mut members = knowing.clone().filter(|claim| claim.state != State::Left);
        let found = members.find_map(|claim| claim.cluster_id);
        let Some(cluster_id) = found else {
            let leaver = knowing.clone().find(|claim| claim.cluster_id.is_some())?;
            return Some(Step::Wait(Waiting::Leaver(leaver.name.clone())));
        };
        // The reports of all attempts count: two clusters may answer in turns.
        let mut clusters = answers.clusters.iter();
        if let (Some((first, first_teller)), Some((second, second_teller))) =
            (clusters.next(), clusters.next())
        {
            return Some(Step::Refuse(Refusal::TwoClusters {
                first: *first,
                first_teller: Box::new(first_teller.clone()),
                second: *second,
                second_teller: Box::new(second_teller.clone()),
            }));
        }
        let first_answered =
            answers.clusters.get(&cluster_id).map_or(answers.attempt, |teller| teller.attempt);
        let is_patient = answers.attempt >= first_answered + SILENT_ATTEMPTS;
        if !is_patient && !self.all_have_answered(answers) {
            return Some(Step::Wait(Waiting::Answers(self.silent(answers))));
        }
        Some(Step::Form(Formed::Joined { cluster_id }))
    }

    // ---- no node reports a cluster: found one, if all agree ----

    fn found_cluster(&self, others: &BTreeMap<NodeId, &Claim>, answers: &JoinAnswers) -> Step {
        let alone = self.joins.is_empty();
        if let Some(former) = self.former {
            return if alone && !self.keyed {
                Step::Refuse(Refusal::HasAPast(former))
            } else {
                Step::Wait(Waiting::Cluster)
            };
        }
        match self.intent {
            Intent::Join if alone && !self.keyed => Step::Refuse(Refusal::NoWay),
            Intent::Join => Step::Wait(Waiting::Cluster),
            Intent::Expect(size) if size == 0 || size as usize > MAX_PLEDGED => {
                Step::Refuse(Refusal::Size(size))
            }
            Intent::Bootstrap | Intent::Expect(_) if !self.all_have_answered(answers) => {
                Step::Wait(Waiting::Answers(self.silent(answers)))
            }
            Intent::Bootstrap => self.found_alone(others),
            Intent::Expect(size) => self.found_together(size, others),
        }
    }

    fn found_alone(&self, others: &BTreeMap<NodeId, &Claim>) -> Step {
        if let Some(name) = self.doubled_name(others) {
            return Step::Wait(Waiting::Name(name));
        }
        let founds = |claim: &&&Claim| intent_of(claim) != Some(Intent::Join) || pledge_of(claim).is_some();
        match others.values().find(founds) {
            Some(founder) => Step::Wait(Waiting::Founder(founder.name.clone())),
            None => Step::Pledge(Pledge::propose(vec![self.me.clone()])),
        }
    }

    fn found_together(&self, size: u32, others: &BTreeMap<NodeId, &Claim>) -> Step {
        if let Some(name) = self.doubled_name(others) {
            return Step::Wait(Waiting::Name(name));
        }
        for claim in others.values() {
            match intent_of(claim) {
                Some(Intent::Bootstrap) => return Step::Wait(Waiting::Founder(claim.name.clone())),
                Some(Intent::Expect(expected)) if expected != size => {
                    return Step::Wait(Waiting::Size { name: claim.name.clone(), expected, own: size });
                }
                _ => {}
            }
        }
        let size = size as usize;
        if let Some((pledge, pledged_by)) =
            others.values().find_map(|claim| Some((pledge_of(claim)?, *claim)))
        {
            return self.follow(pledge, pledged_by, size, others);
        }
        self.propose(size, others)
    }

    /// Another node has pledged already: makes the same pledge, or waits.
    fn follow(
        &self,
        pledge: &Pledge,
        pledged_by: &Claim,
        size: usize,
        others: &BTreeMap<NodeId, &Claim>,
    ) -> Step {
        if let Some(other) =
            others.values().find(|claim| pledge_of(claim).is_some_and(|other| other != pledge))
        {
            return Step::Wait(Waiting::Founder(other.name.clone()));
        }
        if !pledge.includes(self.me.node_id) {
            let earlier_disk = pledge.nodes.iter().any(|node| node.name == self.me.name);
            return Step::Wait(if earlier_disk {
                Waiting::Wiping(pledged_by.name.clone())
            } else {
                Waiting::Cluster
            });
        }
        let missing: Vec<String> = pledge
            .nodes
            .iter()
            .filter(|node| node.node_id != self.me.node_id && !others.contains_key(&node.node_id))
            .map(|node| node.name.clone())
            .collect();
        if !missing.is_empty() {
            return Step::Wait(Waiting::Answers(missing));
        }
        if pledge.nodes.len() != size {
            let expected = pledge.nodes.len() as u32;
            let own = size as u32;
            return Step::Wait(Waiting::Size { name: pledged_by.name.clone(), expected, own });
        }
        Step::Pledge(pledge.clone())
    }

    /// No node has pledged: the node with the lowest id of the first `size` by name proposes.
    fn propose(&self, size: usize, others: &BTreeMap<NodeId, &Claim>) -> Step {
        let candidate = |claim: &&Claim| PledgedNode {
            node_id: claim.node_id,
            name: claim.name.clone(),
            rpc_addr: claim.rpc_addr.clone(),
        };
        let mut candidates: Vec<PledgedNode> = others
            .values()
            .filter(|claim| matches!(intent_of(claim), Some(Intent::Expect(_))))
            .map(candidate)
            .collect();
        candidates.push(self.me.clone());
        if candidates.len() < size {
            return Step::Wait(Waiting::Nodes { present: candidates.len(), expected: size });
        }
        candidates.sort_by(|a, b| a.name.cmp(&b.name));
        candidates.truncate(size);
        let lowest = candidates.iter().min_by_key(|node| node.node_id).expect("at least this node");
        if !candidates.contains(&self.me) {
            Step::Wait(Waiting::Cluster)
        } else if *lowest == self.me {
            Step::Pledge(Pledge::propose(candidates))
        } else {
            Step::Wait(Waiting::Proposal(lowest.name.clone()))
        }
    }

    // ---- helpers ----

    fn all_have_answered(&self, answers: &JoinAnswers) -> bool {
        self.silent(answers).is_empty()
    }

    fn silent(&self, answers: &JoinAnswers) -> Vec<String> {
        let answered = |name: &&String| answers.names.get(*name).is_some_and(|answer| answer.is_complete());
        self.joins.iter().filter(|name| !answered(name)).cloned().collect()
    }

    fn doubled_name(&self, others: &BTreeMap<NodeId, &Claim>) -> Option<String> {
        let mut names = BTreeSet::from([self.me.name.as_str()]);
        others.values().find(|claim| !names.insert(&claim.name)).map(|claim| claim.name.clone())
    }
}

fn pledge_of(claim: &Claim) -> Option<&Pledge> {
    match &claim.state {
        State::Pristine { pledge, .. } => pledge.as_ref(),
        _ => None,
    }
}

fn intent_of(claim: &Claim) -> Option<Intent> {
    match &claim.state {
        State::Pristine { intent, .. } => Some(*intent),
        _ => None,
    }
}

/// Returns why a pledged node will never make the same pledge; `None` if it still may.
fn hopeless(node: &PledgedNode, others: &BTreeMap<NodeId, &Claim>) -> Option<Refusal> {
    match others.get(&node.node_id) {
        Some(claim) => pledge_of(claim).map(|_| Refusal::Contradicted(node.name.clone())),
        None => {
            others.values().any(|claim| claim.name == node.name).then(|| Refusal::Broken(node.name.clone()))
        }
    }
}

#[cfg(test)]
#[path = "formation_tests.rs"]
mod tests;
