//! A mirror of the nodes' logs, votes and elections, built from the nodes' own reports.
//!
//! Every node of a simulation reports each step of its log as it takes it. The steps are put together here and passed
//! to the checkers of Raft's own properties at once. Independent of the nodes: reports are plain values. A node is
//! identified by its id, not by its name: after its disk was lost, a host comes back as another node.

use std::collections::{BTreeMap, BTreeSet};

use super::election::Leaders;
use super::leader_completeness::LeaderCompleteness;
use super::log_matching::LogMatching;
use super::members::Members;
use super::node_ids::NodeIds;
use super::persistence::Persistence;
use super::{Finding, Findings};
use crate::evidence::history::Nanos;
use crate::evidence::node_log::{Found, Place, Shape, Vote};

/// One node's log, as reported.
#[derive(Debug, Default)]
struct Node {
    shape: Shape,
    /// Payload bytes of each reported entry.
    bytes: BTreeMap<u64, u64>,
    /// Below this index the log may hold entries that were never reported.
    unreported: u64,
    vote: Option<Vote>,
}

impl Node {
    fn truncate(&mut self, end: u64) {
        self.shape.truncate(end);
        self.bytes.split_off(&end);
        self.unreported = self.unreported.min(end);
    }

    fn purge(&mut self, covered: u64) {
        self.shape.purge(covered);
        self.bytes = self.bytes.split_off(&covered);
        if covered >= self.unreported {
            self.unreported = 0;
        }
    }
}

/// All nodes' logs, and the checkers that check them.
#[derive(Debug, Default)]
pub struct Logs {
    nodes: BTreeMap<u64, Node>,
    /// The node that runs on a host.
    on_host: BTreeMap<String, u64>,
    leaders: Leaders,
    matching: LogMatching,
    completeness: LeaderCompleteness,
    promises: Persistence,
    ids: NodeIds,
    members: Members,
    /// The node that ran last on a host.
    last_on_host: BTreeMap<String, u64>,
    /// Until when a node that starts on a host may be the one that an operator removes.
    removals: BTreeMap<String, Nanos>,
    /// Log index and value of the newest session limit.
    most_sessions: Option<(u64, u64)>,
    /// Node ids for which some log has a tombstone entry, committed or not.
    to_be_buried: BTreeSet<u64>,
    findings: Findings,
}

impl Logs {
    /// Raft starts on a host under this id. `disk` names the medium. `tampered`: the disk was changed from outside, so
    /// nothing that the node made durable binds it any more.
    pub fn opened(&mut self, host: &str, disk: &str, tampered: bool, id: u64, found: Found, now: Nanos) {
        self.on_host.insert(host.to_owned(), id);
        self.last_on_host.insert(host.to_owned(), id);
        if self.removals.get(host).is_some_and(|until| now <= *until) {
            self.members.may_go(id);
        }
        self.findings.extend(self.ids.opened(host, disk, tampered, id));
        let node = self.nodes.entry(id).or_default();
        if tampered {
            self.promises.release(id);
            *node = Node::default();
        } else {
            self.findings.extend(self.promises.kept(host, id, &node.shape, found));
        }
        node.truncate(found.last.map_or(0, |last| last.index + 1));
        if let Some(last) = found.last
            && last.index >= node.shape.end()
        {
            node.shape.push(last);
            node.unreported = node.shape.end();
        }
        if let Some(purged) = found.purged {
            node.purge(purged.index + 1);
        }
        node.vote = found.vote;
    }

    /// The process on a host has ended.
    pub fn ended(&mut self, host: &str) {
        if let Some(id) = self.on_host.remove(host) {
            self.ids.ended(host, id);
        }
    }

    /// A node's vote is durable.
    pub fn voted(&mut self, host: &str, vote: Vote, now: Nanos) {
        let Some((id, node)) = node(&self.on_host, &mut self.nodes, host) else { return };
        node.vote = Some(vote);
        self.findings.extend(self.promises.voted(host, id, vote));
        if vote.committed && vote.candidate == id {
            self.findings.extend(self.ids.active(host, id));
            self.findings.extend(self.leaders.observe(vote.term, host, id, now));
            self.findings.extend(self.completeness.elected(vote.term, host, node.shape.clone()));
        }
    }

    /// An entry was appended to a node's log.
    pub fn appended(&mut self, host: &str, at: Place, payload: u64, bytes: u64) {
        let Some((id, node)) = node(&self.on_host, &mut self.nodes, host) else { return };
        self.findings.extend(self.ids.active(host, id));
        let previous = at.index.checked_sub(1).and_then(|before| node.shape.term_at(before));
        self.findings.extend(self.matching.appended(host, at, payload, previous));
        node.shape.push(at);
        node.bytes.insert(at.index, bytes);
    }

    /// A node reported everything up to here as durable.
    pub fn acknowledged(&mut self, host: &str, last: Place) {
        let Some((id, node)) = node(&self.on_host, &mut self.nodes, host) else { return };
        // It may have been truncated in the meantime.
        if node.shape.holds(last) {
            self.promises.acknowledged(id, last);
        }
    }

    /// A node is about to remove the entries from `end` on.
    pub fn truncating(&mut self, host: &str, end: u64) {
        let Some((id, node)) = node(&self.on_host, &mut self.nodes, host) else { return };
        let leads = node.vote.filter(|vote| vote.committed && vote.candidate == id);
        self.findings.extend(self.matching.truncating(host, leads.map(|vote| vote.term), end));
        let stays =
            end.checked_sub(1).and_then(|index| Some(Place { term: node.shape.term_at(index)?, index }));
        self.findings.extend(self.promises.truncating(host, id, end, stays));
    }

    /// The entries from `end` on were removed.
    pub fn truncated(&mut self, host: &str, end: u64) {
        let Some((_, node)) = node(&self.on_host, &mut self.nodes, host) else { return };
        node.truncate(end);
    }

    /// A snapshot now covers the entries up to here.
    pub fn purged(&mut self, host: &str, upto: u64) {
        let Some((_, node)) = node(&self.on_host, &mut self.nodes, host) else { return };
        node.purge(upto + 1);
    }

    /// A node applied an entry.
    pub fn applied(&mut self, host: &str, at: Place, payload: u64) {
        let Some((id, node)) = node(&self.on_host, &mut self.nodes, host) else { return };
        self.findings.extend(self.matching.applied(host, at, payload));
        self.promises.applied(id, at.index);
        // A leader sent this node the commit index; that leader's term was at most this one.
        let known_by = node.vote.map_or(0, |vote| vote.term).max(at.term);
        self.findings.extend(self.completeness.committed(host, at, known_by));
    }

    /// An applied entry names the voters and all members. Two sets of voters: a joint configuration.
    pub fn members(&mut self, index: u64, voters: Vec<BTreeSet<u64>>, ids: BTreeSet<u64>) {
        self.findings.extend(self.members.changed(index, voters, &ids));
        self.findings.extend(self.ids.members(index, ids));
    }

    /// The node that ran last on a host may leave the members: an operator removed it, or its disk was lost.
    pub fn may_go(&mut self, host: &str) {
        self.last_on_host.get(host).into_iter().for_each(|id| self.members.may_go(*id));
    }

    /// The host of a node is gone for good: the node may leave the members, unless it runs on a host of its own, as the
    /// original of a copied disk does.
    pub fn retired(&mut self, id: u64) {
        if self.last_on_host.values().all(|its| *its != id) {
            self.members.may_go(id);
        }
    }

    /// An operator requests the removal of the node with a host's name. The leader looks up which node that is when it
    /// receives the request, at `until` at the latest: the node that ran last, or one that starts in the meantime.
    pub fn removal_asked(&mut self, host: &str, until: Nanos) {
        self.may_go(host);
        self.removals.insert(host.to_owned(), until);
    }

    /// Whether no joint configuration is in force, as far as any node has applied.
    pub fn members_are_settled(&self) -> bool {
        self.members.are_settled()
    }

    /// Number of voters as far as any node has applied; in a joint configuration, that of its smaller half.
    pub fn fewest_voters(&self) -> usize {
        self.members.smallest_set()
    }

    /// A tombstone entry for a node id was appended to some log.
    pub fn to_be_buried(&mut self, id: u64) {
        self.to_be_buried.insert(id);
    }

    /// Whether a tombstone entry for a node id was ever appended to any log.
    pub fn is_to_be_buried(&self, id: u64) -> bool {
        self.to_be_buried.contains(&id)
    }

    /// An applied entry wrote a tombstone for a node id.
    pub fn written(&mut self, index: u64, id: u64) {
        self.ids.written(index, id);
        self.findings.extend(self.members.written(index, id));
    }

    /// A node reported to another process that it is the leader.
    pub fn said_to_lead(&mut self, term: u64, name: &str, id: u64, now: Nanos) {
        self.findings.extend(self.leaders.observe(term, name, id, now));
    }

    /// How many terms had a leader.
    pub fn terms(&self) -> usize {
        self.leaders.terms()
    }

    /// An applied entry limits the number of sessions.
    pub fn sessions_bounded(&mut self, index: u64, most: u64) {
        self.most_sessions = self.most_sessions.max(Some((index, most)));
    }

    /// Log index and value of the newest session limit that was applied.
    pub fn most_sessions(&self) -> Option<(u64, u64)> {
        self.most_sessions
    }

    /// Number of entries in the log of a host's node, and bytes of their payloads. `None`: some were never reported.
    pub fn measure(&self, host: &str) -> Option<(u64, u64)> {
        let node = &self.nodes[self.on_host.get(host)?];
        (node.unreported == 0).then(|| (node.bytes.len() as u64, node.bytes.values().sum()))
    }

    /// Whether a process on a host has started far enough that its log is open.
    pub fn is_open(&self, host: &str) -> bool {
        self.on_host.contains_key(host)
    }

    /// The node that ran last on a host.
    pub fn node_on(&self, host: &str) -> Option<u64> {
        self.last_on_host.get(host).copied()
    }

    /// Payload bytes of the longest log beyond the end of the log of the node that ran last on a host.
    pub fn lacks(&self, host: &str) -> u64 {
        let node = self.last_on_host.get(host).and_then(|id| self.nodes.get(id));
        let end = node.map_or(0, |node| node.shape.end());
        let beyond = |node: &Node| node.bytes.range(end..).map(|(_, bytes)| bytes).sum();
        self.nodes.values().map(beyond).max().unwrap_or(0)
    }

    /// Returns the findings since the last call.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }
}

fn node<'a>(
    on_host: &BTreeMap<String, u64>,
    nodes: &'a mut BTreeMap<u64, Node>,
    host: &str,
) -> Option<(u64, &'a mut Node)> {
    // Reports of a process that is being killed do not count.
    let id = *on_host.get(host)?;
    nodes.get_mut(&id).map(|node| (id, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These nodes become the members, and all of them vote.
    fn applied_members<const N: usize>(logs: &mut Logs, index: u64, ids: [u64; N]) {
        let ids = BTreeSet::from(ids);
        logs.members(index, vec![ids.clone()], ids);
    }

    /// Chaos seed 7901713: the disk of a node that was being removed was copied.
    #[test]
    fn who_ran_on_a_host_that_is_gone_may_go_unless_it_runs_elsewhere() {
        let removed_after = |on_the_copy| {
            let mut logs = Logs::default();
            logs.opened("n3", "n3's disk", false, 33, Found::default(), 0);
            logs.retired(on_the_copy);
            applied_members(&mut logs, 1, [11, on_the_copy]);
            applied_members(&mut logs, 2, [11]);
            logs.take_findings()
        };
        assert!(removed_after(55).is_empty(), "a copy that started over as another");
        assert_eq!(removed_after(33).len(), 1, "its original still runs");
    }

    /// Chaos seed 7020874: n3 was removed, came back under another id, and was removed again, by a request sent before
    /// that id existed.
    #[test]
    fn who_comes_while_its_name_is_being_removed_may_go() {
        let removed_at = |opened_at| {
            let mut logs = Logs::default();
            logs.opened("n3", "n3's disk", false, 33, Found::default(), 0);
            logs.removal_asked("n3", 100);
            logs.opened("n3", "n3's disk", false, 44, Found::default(), opened_at);
            applied_members(&mut logs, 1, [11, 33, 44]);
            applied_members(&mut logs, 2, [11, 44]);
            assert!(logs.take_findings().is_empty(), "it ran there when the operator asked");
            applied_members(&mut logs, 3, [11]);
            logs.take_findings()
        };
        assert!(removed_at(100).is_empty());
        assert_eq!(removed_at(101).len(), 1);
    }

    /// Chaos seed 7033743: a node opened a log of 552 entries after its disk had been tampered with, and the last one,
    /// the only one that an opening reports, was truncated. Entries appended later were then taken for the whole log.
    #[test]
    fn a_log_is_measured_only_when_all_its_entries_were_reported() {
        let mut logs = Logs::default();
        let place = |index| Place { term: 1, index };
        logs.opened("n1", "n1's disk", false, 11, Found::default(), 0);
        (0..9).for_each(|index| logs.appended("n1", place(index), index, 10));
        assert_eq!(logs.measure("n1"), Some((9, 90)));
        let found = Found { vote: None, purged: Some(place(1)), last: Some(place(8)) };
        logs.opened("n1", "n1's disk", false, 11, found, 0);
        assert_eq!(logs.measure("n1"), Some((7, 70)));

        logs.opened("n1", "n1's disk", true, 11, found, 0);
        logs.truncated("n1", 8);
        logs.appended("n1", Place { term: 2, index: 8 }, 0, 10);
        assert_eq!(logs.measure("n1"), None, "of those from 2 to 7 only the node knows");
        logs.purged("n1", 6);
        assert_eq!(logs.measure("n1"), None);
        logs.purged("n1", 7);
        assert_eq!(logs.measure("n1"), Some((1, 10)));
    }

    #[test]
    fn a_whole_life_of_a_small_cluster_is_in_order() {
        let mut logs = Logs::default();
        let elected = Vote { term: 1, candidate: 11, committed: true };
        for (host, id) in [("n1", 11), ("n2", 22)] {
            logs.opened(host, host, false, id, Found::default(), 0);
            logs.voted(host, Vote { committed: false, ..elected }, 0);
        }
        logs.voted("n1", elected, 1);
        for index in 0..3 {
            for host in ["n1", "n2"] {
                logs.appended(host, Place { term: 1, index }, index, 10);
                logs.acknowledged(host, Place { term: 1, index });
            }
            logs.applied("n1", Place { term: 1, index }, index);
        }
        logs.appended("n1", Place { term: 1, index: 3 }, 3, 10);
        logs.ended("n1");
        logs.voted("n2", Vote { term: 2, candidate: 22, committed: false }, 2);
        logs.voted("n2", Vote { term: 2, candidate: 22, committed: true }, 2);
        let last = Some(Place { term: 1, index: 3 });
        logs.opened("n1", "n1", false, 11, Found { vote: Some(elected), purged: None, last }, 0);
        logs.voted("n1", Vote { term: 2, candidate: 22, committed: true }, 3);
        logs.truncating("n1", 3);
        logs.truncated("n1", 3);
        for host in ["n2", "n1"] {
            logs.appended(host, Place { term: 2, index: 3 }, 33, 10);
        }
        assert_eq!(logs.take_findings(), []);
        assert_eq!((logs.terms(), logs.measure("n1")), (2, Some((4, 40))));
    }
}
