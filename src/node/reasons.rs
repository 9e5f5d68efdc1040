//! Why a node is not ready, and what else an operator should know about it, with the remedy.
//!
//! One answer for `/readyz`, for the node's own status, and for clients that it refuses: a pure function of what the
//! node knows. Nothing here looks anything up; `health.rs` does.

use std::fmt;
use std::net::SocketAddr;

use crate::membership::formation::Waiting;
use crate::node_id::{Named, NodeId};
use crate::raft::peers::Contact;

/// What a node knows about itself and the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Known {
    /// Where a leader's log contradicts what this node knows to be committed.
    pub contradiction: Option<String>,
    /// A majority has another state, or this one's has changed in memory.
    pub is_quarantined: bool,
    /// It was removed and does not rejoin.
    pub is_outside: bool,
    /// Why the leader does not admit it, if the leader has reported it.
    pub not_admitted: Option<String>,
    /// What the formation of the cluster waits for.
    pub waiting: Option<Waiting>,
    /// What it knows from Raft, once Raft runs.
    pub raft: Option<KnownOfRaft>,
    /// It has recovered.
    pub is_recovered: bool,
    /// `ready-max-lag`.
    pub max_lag: u64,
    /// A live node of the same name: its name and RPC address.
    pub namesake: Option<(String, String)>,
    /// Nodes whose datagrams cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// The address at which a process runs with a copy of this node's data directory.
    pub copy: Option<SocketAddr>,
    /// The number of files that cannot be opened because no descriptor is free.
    pub files_waiting: usize,
    /// What is damaged on this node, in words.
    pub damage: Vec<String>,
}

/// What a node knows from its Raft.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct KnownOfRaft {
    /// The cluster.
    pub cluster_id: String,
    /// A leader is known.
    pub has_leader: bool,
    /// Committed entries still to apply; `None` if no leader has reported the commit index.
    pub lag: Option<u64>,
    /// This node is in the membership.
    pub is_member: bool,
    /// This node votes.
    pub is_voter: bool,
    /// The other members.
    pub others: Vec<Other>,
    /// The voter whose disk is nearly full.
    pub full: Option<String>,
}

/// Another member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Other {
    /// Its name.
    pub name: String,
    /// Its id.
    pub node_id: NodeId,
    /// Its RPC address.
    pub address: String,
    /// Whether it votes.
    pub is_voter: bool,
    /// The result of the last attempt to reach it.
    pub contact: Contact,
}

/// A node whose datagrams cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// Its name, if a node is known at this address.
    pub name: Option<String>,
    /// The address its datagrams come from.
    pub from: SocketAddr,
    /// Why they cannot be read.
    pub why: String,
}

/// One finding for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// A leader's log contradicts what this node knows to be committed.
    Contradicted(String),
    /// A majority has another state, or this one's has changed in memory.
    Quarantined,
    /// It was removed and does not rejoin.
    Outside,
    /// It belongs to no cluster yet.
    Forming(Waiting),
    /// It is reading its log and its snapshots.
    Opening,
    /// No leader has added it to the cluster yet.
    NotAdmitted { cluster_id: String, why: Option<String> },
    /// Another node has its name.
    NameInUse { name: String, address: String },
    /// It has not learned yet what was committed before its start, or has not applied it.
    Recovering { cluster_id: String },
    /// No leader is known.
    NoLeader { voters: usize, reachable: usize, unreachable: Vec<Other> },
    /// It has too many committed entries still to apply.
    Behind { lag: u64, most: u64 },
    /// It is a member that does not vote.
    NotVoting,
    /// A member and this node refuse each other.
    Refusal(Other),
    /// A node's datagrams cannot be read.
    Unreadable(Unreadable),
    /// A process runs with a copy of its data directory at this address.
    Copied(SocketAddr),
    /// A disk is nearly full, so no values are accepted.
    DiskFull { node: String },
    /// Files cannot be opened, for want of descriptors.
    Descriptors { files: usize },
    /// A file, or the state in memory, is damaged.
    Damaged(String),
}

impl Reason {
    /// Returns `true` if this reason makes the node not ready.
    pub(super) fn keeps_from_serving(&self) -> bool {
        use Reason::{Copied, Damaged, Descriptors, DiskFull, Refusal, Unreadable};
        !matches!(
            self,
            Copied(_) | Refusal(_) | Unreadable(_) | DiskFull { .. } | Descriptors { .. } | Damaged(_)
        )
    }
}

/// All findings for the operator, those that keep the node from serving first. Empty if the node is well.
pub(super) fn reasons(known: &Known) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let Some(found) = &known.contradiction {
        reasons.push(Reason::Contradicted(found.clone()));
    } else if known.is_quarantined {
        reasons.push(Reason::Quarantined);
    } else if known.is_outside {
        reasons.push(Reason::Outside);
    } else if let Some(waiting) = &known.waiting {
        reasons.push(Reason::Forming(waiting.clone()));
    } else {
        match &known.raft {
            None => reasons.push(Reason::Opening),
            Some(raft) => reasons.extend(of_raft(raft, known)),
        }
    }
    let others = known.raft.iter().flat_map(|raft| &raft.others);
    let no_leader = reasons.iter().any(|reason| matches!(reason, Reason::NoLeader { .. }));
    let refuses =
        |other: &&Other| matches!(other.contact, Contact::Failing { is_refusal: true, .. }) && !no_leader;
    reasons.extend(others.filter(refuses).cloned().map(Reason::Refusal));
    reasons.extend(known.unreadable.iter().cloned().map(Reason::Unreadable));
    reasons.extend(known.copy.map(Reason::Copied));
    let full = known.raft.as_ref().and_then(|raft| raft.full.clone());
    reasons.extend(full.map(|node| Reason::DiskFull { node }));
    if known.files_waiting > 0 {
        reasons.push(Reason::Descriptors { files: known.files_waiting });
    }
    reasons.extend(known.damage.iter().cloned().map(Reason::Damaged));
    reasons
}

/// The reasons that keep a node whose Raft runs from serving.
fn of_raft(raft: &KnownOfRaft, known: &Known) -> Vec<Reason> {
    let cluster_id = raft.cluster_id.clone();
    // A leader that refuses a node has removed it, though the node does not receive that entry: its own log may still list
    // it as a learner.
    let is_dropped = !raft.has_leader && !raft.is_voter && known.not_admitted.is_some();
    if !raft.is_member && !known.is_recovered || is_dropped {
        let namesake = known.namesake.clone().map(|(name, address)| Reason::NameInUse { name, address });
        let why = known.not_admitted.clone();
        return [Some(Reason::NotAdmitted { cluster_id, why }), namesake].into_iter().flatten().collect();
    }
    let mut reasons = Vec::new();
    if !raft.has_leader {
        reasons.push(no_leader(raft));
    }
    if !known.is_recovered {
        reasons.push(Reason::Recovering { cluster_id });
        return reasons;
    }
    if let Some(lag) = raft.lag.filter(|lag| *lag > known.max_lag) {
        reasons.push(Reason::Behind { lag, most: known.max_lag });
    }
    if !raft.is_voter {
        reasons.push(Reason::NotVoting);
    }
    reasons
}

fn no_leader(raft: &KnownOfRaft) -> Reason {
    let voters: Vec<&Other> = raft.others.iter().filter(|other| other.is_voter).collect();
    let (reached, unreachable): (Vec<&Other>, Vec<&Other>) =
        voters.iter().partition(|other| other.contact == Contact::Reached);
    let own = usize::from(raft.is_voter);
    Reason::NoLeader {
        voters: voters.len() + own,
        reachable: reached.len() + own,
        unreachable: unreachable.into_iter().cloned().collect(),
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", Named(Some(&self.name), self.node_id), self.address)?;
        match &self.contact {
            // The error text begins with the address at which it occurred.
            Contact::Failing { why, .. } => {
                let why = why.strip_prefix(&format!("{}: ", self.address)).unwrap_or(why);
                write!(f, " ({why})")
            }
            Contact::Untried | Contact::Reached => Ok(()),
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "datagrams of '{name}' from {} cannot be read: {}", self.from, self.why),
            None => write!(f, "datagrams from {} cannot be read: {}", self.from, self.why),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Contradicted(found) => write!(
                f,
                "this node is in quarantine and serves nothing: {found}; 'Two histories' in docs/operate.md says what to do"
            ),
            Reason::Quarantined => f.write_str(
                "this node's state differs from the majority's, or from what was applied to it, and is not served; restore it \
                 with 'mokv serve --wipe'",
            ),
            Reason::Outside => f.write_str(
                "this node was removed from its cluster and stays outside until it is started again (rejoin is off)",
            ),
            Reason::Forming(waiting) => write!(f, "this node belongs to no cluster yet: {waiting}"),
            Reason::Opening => f.write_str("this node reads its log and its snapshots"),
            Reason::NotAdmitted { cluster_id, why } => {
                write!(f, "this node waits for the leader of cluster {cluster_id} to add it")?;
                why.iter().try_for_each(|why| write!(f, ": {why}"))
            }
            Reason::NameInUse { name, address } => write!(
                f,
                "the name '{name}' is in use by the node at {address}, which answers; give this one another node-name"
            ),
            Reason::Recovering { cluster_id } => write!(
                f,
                "this node has not recovered yet: it does not know what cluster {cluster_id} had committed before \
                 its start, or has not applied it"
            ),
            Reason::NoLeader { voters, reachable, unreachable } => {
                let has_quorum = reachable * 2 > *voters;
                let (what, then) = match has_quorum {
                    true => ("no leader", "an election is due"),
                    false => ("no quorum", "no leader"),
                };
                write!(f, "{what}: {reachable} of {voters} voters reachable, {then}")?;
                for (number, other) in unreachable.iter().enumerate() {
                    write!(f, "{}{other}", if number == 0 { "; not reachable: " } else { ", " })?;
                }
                Ok(())
            }
            Reason::Behind { lag, most } => write!(
                f,
                "this node has {lag} committed entries still to apply, more than ready-max-lag ({most})"
            ),
            Reason::NotVoting => {
                f.write_str("this node does not vote yet, or not any more; 'mokv members' shows the members")
            }
            Reason::Refusal(other) => write!(f, "no connection with {other}"),
            Reason::Unreadable(unreadable) => write!(
                f,
                "{unreadable}; give all nodes the same cluster-key-file and compatible versions of mokv"
            ),
            Reason::Copied(from) => write!(
                f,
                "a copy of this node's data directory runs at {from}, which the other members refuse; stop it, and wipe its \
                 data directory"
            ),
            Reason::DiskFull { node } => write!(
                f,
                "the disk of {node} is nearly full (min-free-bytes), so the cluster takes no more values; free space in the \
                 file system of its data directory, or delete keys"
            ),
            Reason::Damaged(found) => write!(f, "damage was found on this node: {found}"),
            Reason::Descriptors { files } => write!(
                f,
                "{files} of this node's files wait to be opened, because this process or the system has no file descriptor \
                 left; raise the limit on open files (ulimit -n, LimitNOFILE=)"
            ),
        }
    }
}

/// Joins reasons into one line.
pub(super) fn in_one_line<'a>(reasons: impl IntoIterator<Item = &'a Reason>) -> String {
    reasons.into_iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(why: &str, is_refusal: bool) -> Contact {
        Contact::Failing { why: why.into(), is_refusal }
    }

    fn other(number: u64, contact: Contact) -> Other {
        let (name, address) = (format!("node-{number}"), format!("10.0.0.{number}:8400"));
        Other { name, node_id: NodeId(number), address, is_voter: true, contact }
    }

    /// A healthy node of three.
    fn well() -> Known {
        let raft = KnownOfRaft {
            cluster_id: "c1".into(),
            has_leader: true,
            lag: Some(0),
            is_member: true,
            is_voter: true,
            others: vec![other(2, Contact::Reached), other(3, Contact::Reached)],
            full: None,
        };
        Known { raft: Some(raft), is_recovered: true, max_lag: 10, ..Known::default() }
    }

    fn with_raft(change: impl FnOnce(&mut KnownOfRaft)) -> Known {
        let mut known = well();
        change(known.raft.as_mut().unwrap());
        known
    }

    /// The findings in one line, and whether the node is ready nevertheless.
    fn said(known: &Known) -> (String, bool) {
        let found = reasons(known);
        (in_one_line(&found), !found.iter().any(Reason::keeps_from_serving))
    }

    #[test]
    fn of_a_node_that_is_well_there_is_nothing_to_say() {
        assert_eq!(reasons(&well()), []);
        assert_eq!(reasons(&with_raft(|raft| raft.lag = Some(10))), []);
    }

    #[test]
    fn without_a_quorum_the_reason_names_the_missing_voters_and_why() {
        let known = with_raft(|raft| {
            (raft.has_leader, raft.lag) = (false, None);
            raft.others = vec![
                other(2, failing("10.0.0.2:8400: connection refused", false)),
                other(3, failing("10.0.0.3:8400: no answer within 1s", false)),
            ];
        });
        let words = "no quorum: 1 of 3 voters reachable, no leader; not reachable: 'node-2' (node id 0000000000000002) at \
                     10.0.0.2:8400 (connection refused), 'node-3' (node id 0000000000000003) at 10.0.0.3:8400 (no answer \
                     within 1s)";
        assert_eq!(said(&known), (words.into(), false));
        let elects = with_raft(|raft| {
            (raft.has_leader, raft.lag) = (false, None);
            raft.others[1].contact = Contact::Untried;
        });
        let words = "no leader: 2 of 3 voters reachable, an election is due; not reachable: 'node-3' (node id \
                     0000000000000003) at 10.0.0.3:8400";
        assert_eq!(said(&elects), (words.into(), false));
        let learner = with_raft(|raft| {
            (raft.has_leader, raft.others[1].is_voter) = (false, false);
        });
        assert!(said(&learner).0.contains("2 of 2 voters"), "a learner counts for no quorum");
    }

    #[test]
    fn another_key_is_reported_with_and_without_a_quorum() {
        let unreadable = |name: Option<&str>| Unreadable {
            name: name.map(str::to_owned),
            from: "10.0.0.3:8401".parse().unwrap(),
            why: "sealed with another key".into(),
        };
        let mut known = with_raft(|raft| {
            raft.others[1].contact = failing("10.0.0.3:8400: refused: another key", true);
        });
        known.unreadable.push(unreadable(Some("node-3")));
        let (words, is_ready) = said(&known);
        assert!(is_ready, "{words}");
        assert!(
            words.starts_with(
                "no connection with 'node-3' (node id 0000000000000003) at 10.0.0.3:8400 (refused: another key); \
                 datagrams of 'node-3' from 10.0.0.3:8401 cannot be read: sealed with another key; "
            ),
            "{words}"
        );
        let waiting = Some(Waiting::Answers(vec!["10.0.0.3:8401".into()]));
        let pristine = Known { waiting, unreadable: vec![unreadable(None)], ..Known::default() };
        let (words, is_ready) = said(&pristine);
        assert!(!is_ready);
        assert!(
            words.contains("waiting for an answer of 10.0.0.3:8401; datagrams from 10.0.0.3:8401"),
            "{words}"
        );
    }

    #[test]
    fn a_node_without_a_cluster_says_what_it_waits_for() {
        let size = Waiting::Size { name: "node-2".into(), expected: 5, own: 3 };
        let (words, is_ready) = said(&Known { waiting: Some(size), ..Known::default() });
        assert!(!is_ready);
        assert!(words.contains("bootstrap-expect is 5 on 'node-2' and 3 on this node"), "{words}");
        assert_eq!(reasons(&Known::default()), [Reason::Opening]);
    }

    #[test]
    fn a_newcomer_says_that_it_is_not_admitted_and_why() {
        let mut known =
            with_raft(|raft| (raft.is_member, raft.is_voter, raft.has_leader) = (false, false, false));
        known.is_recovered = false;
        assert_eq!(reasons(&known), [Reason::NotAdmitted { cluster_id: "c1".into(), why: None }]);
        known.not_admitted = Some("the cluster is to have 3 members".into());
        let (words, is_ready) = said(&known);
        assert!(!is_ready && words.ends_with("to add it: the cluster is to have 3 members"), "{words}");
        known.namesake = Some(("node-2".into(), "10.0.0.2:8400".into()));
        let (words, is_ready) = said(&known);
        assert!(!is_ready);
        assert!(words.contains("'node-2' is in use by the node at 10.0.0.2:8400"), "{words}");
    }

    /// Such a learner once reported for ever that there was no leader.
    #[test]
    fn a_learner_that_the_leader_took_out_says_that_it_is_not_admitted_and_why() {
        let why = Some("the cluster is to have 3 members".to_owned());
        for is_recovered in [false, true] {
            let mut known = with_raft(|raft| (raft.is_voter, raft.has_leader) = (false, false));
            known.is_recovered = is_recovered;
            assert!(matches!(reasons(&known)[0], Reason::NoLeader { .. }), "no reason is known yet");
            known.not_admitted.clone_from(&why);
            assert_eq!(reasons(&known), [Reason::NotAdmitted { cluster_id: "c1".into(), why: why.clone() }]);
        }
        // A voter is a member until its removal is committed, whatever an earlier leader has reported.
        let voter = with_raft(|raft| raft.has_leader = false);
        assert!(matches!(reasons(&Known { not_admitted: why, ..voter })[..], [Reason::NoLeader { .. }]));
    }

    #[test]
    fn a_member_that_starts_again_says_that_it_recovers() {
        let known = Known { is_recovered: false, ..well() };
        assert_eq!(reasons(&known), [Reason::Recovering { cluster_id: "c1".into() }]);
        let mut alone = with_raft(|raft| raft.has_leader = false);
        alone.is_recovered = false;
        assert!(matches!(reasons(&alone)[..], [Reason::NoLeader { .. }, Reason::Recovering { .. }]));
    }

    #[test]
    fn a_node_that_lags_or_does_not_vote_is_not_ready() {
        let behind = with_raft(|raft| raft.lag = Some(11));
        assert_eq!(reasons(&behind), [Reason::Behind { lag: 11, most: 10 }]);
        let learner = with_raft(|raft| raft.is_voter = false);
        assert_eq!(reasons(&learner), [Reason::NotVoting]);
        assert!(!said(&behind).1 && !said(&learner).1);
    }

    #[test]
    fn quarantine_and_removal_come_before_everything_else() {
        let contradicted = Known {
            contradiction: Some("term 3 against term 2".into()),
            is_quarantined: true,
            ..with_raft(|raft| raft.has_leader = false)
        };
        assert_eq!(reasons(&contradicted), [Reason::Contradicted("term 3 against term 2".into())]);
        assert_eq!(reasons(&Known { is_quarantined: true, ..well() }), [Reason::Quarantined]);
        assert_eq!(reasons(&Known { is_outside: true, ..Known::default() }), [Reason::Outside]);
        assert!(!said(&contradicted).1);
    }

    #[test]
    fn a_copy_of_its_directory_is_reported_and_does_not_end_readiness() {
        let (words, is_ready) = said(&Known { copy: Some("10.0.0.9:8401".parse().unwrap()), ..well() });
        assert!(is_ready && words.contains("runs at 10.0.0.9:8401"), "{words}");
    }

    #[test]
    fn a_full_disk_and_want_of_descriptors_are_reported_and_do_not_end_readiness() {
        let mut known = with_raft(|raft| raft.full = Some("'node-3' (node id 0000000000000003)".into()));
        known.files_waiting = 2;
        let (words, is_ready) = said(&known);
        assert!(is_ready);
        assert!(
            words.starts_with("the disk of 'node-3' (node id 0000000000000003) is nearly full"),
            "{words}"
        );
        assert!(words.contains("; 2 of this node's files wait to be opened"), "{words}");
    }
}
