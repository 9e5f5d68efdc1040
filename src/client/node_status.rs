//! The state of one node, as the node reports it.

use std::fmt;
use std::num::NonZeroU32;

use mokv_proto::api;

use crate::node_id::NodeId;

/// The state of one node, as the node reports it.
///
/// Positions are indexes of the log, 0 before its first entry. What a node does not know, because it has no cluster or has
/// not recovered yet, is `None`, 0 or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub node_id: NodeId,
    /// The id of its cluster, 32 hexadecimal digits; `None`: it belongs to none yet.
    pub cluster_id: Option<String>,
    /// The version of mökv that it runs.
    pub version: String,
    /// What it does at the moment.
    pub role: Role,
    /// Raft's term.
    pub term: u64,
    /// The leader that it follows, or itself; `None`: it knows none. A [`Role::Leader`] without one has lost its quorum.
    pub leader: Option<NodeRef>,
    /// Position of the last entry in its log.
    pub last_log_index: u64,
    /// Position of the last entry that it knows to be committed.
    pub committed_index: u64,
    /// Position of the last entry in its state.
    pub applied_index: u64,
    /// Position of the last entry in its newest snapshot; `None`: it has no snapshot.
    pub snapshot_index: Option<u64>,
    /// Position of the last entry that was deleted from its log, because snapshots hold it; `None`: none was.
    pub purged_index: Option<u64>,
    /// The store's revision.
    pub revision: u64,
    /// The number of keys.
    pub keys: u64,
    /// Keys and values together, in bytes.
    pub bytes: u64,
    /// What the store must keep, in bytes: keys, values and sessions, each with a fixed amount for what it takes besides.
    /// [`Settings::max_store_bytes`](super::Settings::max_store_bytes) is its bound.
    pub size_bytes: u64,
    /// Earlier versions of keys in bytes, each with a fixed amount for what it takes besides key and value.
    pub history_bytes: u64,
    /// The earliest revision that can be read.
    pub floor_revision: u64,
    /// The number of open client sessions.
    pub sessions: u64,
    /// What takes its memory; `None`: it has not recovered yet, or is of a version that does not say.
    pub memory: Option<MemoryUse>,
    /// The digest of its whole state at `applied_index`, 32 hexadecimal digits; `None` until the cluster has agreed on
    /// a key for digests.
    pub digest: Option<String>,
    /// Digests of earlier positions, the newest last, for comparison with other nodes.
    pub digests: Vec<DigestAt>,
    /// Its digests differ from those of other nodes.
    pub digest_alarm: bool,
    /// How often its data directory was started.
    pub boot_counter: u64,
    /// Where it serves clients, as `host:port`.
    pub rpc_addr: String,
    /// A leader's log contradicts what this node knows to be committed. It serves nothing, and is
    /// [`Role::Quarantined`].
    pub contradiction: Option<Contradiction>,
    /// What a person should know of this node, a sentence each, what keeps it from serving first. Empty: it is well.
    pub reasons: Vec<String>,
    /// The members that this node refuses, because they have gone back behind what they had acknowledged.
    pub gone_back: Vec<GoneBack>,
    /// The number of voters that the cluster is to have; `None`: as many as join.
    pub wanted_size: Option<NonZeroU32>,
}

/// What a node does at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// It leads.
    Leader,
    /// It votes and follows a leader.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It follows a leader and does not vote yet.
    Learner,
    /// It waits for a cluster to take it.
    Waiting,
    /// It reads its data, or waits until it has applied again what it had.
    Recovering,
    /// It serves nothing, because of its state or its log.
    Quarantined,
    /// It was removed from its cluster.
    Removed,
    /// It is about to end.
    Stopping,
    /// A newer node's word for what this version of the client does not know.
    Other(String),
}

impl Role {
    fn from_wire(word: String) -> Role {
        match word.as_str() {
            "leader" => Role::Leader,
            "follower" => Role::Follower,
            "candidate" => Role::Candidate,
            "learner" => Role::Learner,
            "waiting" => Role::Waiting,
            "recovering" => Role::Recovering,
            "quarantined" => Role::Quarantined,
            "removed" => Role::Removed,
            "stopping" => Role::Stopping,
            _ => Role::Other(word),
        }
    }

    /// Returns the role as one word, in lower case.
    pub fn as_str(&self) -> &str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
            Role::Waiting => "waiting",
            Role::Recovering => "recovering",
            Role::Quarantined => "quarantined",
            Role::Removed => "removed",
            Role::Stopping => "stopping",
            Role::Other(word) => word,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A node that another one speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeRef {
    /// Its id.
    pub node_id: NodeId,
    /// Its name; `None`: the other node knows no member of this id.
    pub name: Option<String>,
}

/// The digest of a node's state at an earlier position of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DigestAt {
    /// Position of the last entry in that state.
    pub index: u64,
    /// 32 hexadecimal digits.
    pub digest: String,
}

/// A committed entry of a node, and the entry of a leader that cannot be committed beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contradiction {
    /// The term of the node's own entry.
    pub term: u64,
    /// The position of the node's own entry.
    pub index: u64,
    /// The term of the leader's entry.
    pub leader_entry_term: u64,
    /// The position of the leader's entry.
    pub leader_entry_index: u64,
    /// The leader.
    pub leader: NodeRef,
    /// The term that it led in.
    pub leader_term: u64,
}

/// A member that found less when it started than it had acknowledged before: its data directory was put back to an older
/// state. It has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GoneBack {
    /// The member.
    pub node: NodeRef,
    /// The term in which it had acknowledged.
    pub acknowledged_term: u64,
    /// The last position that it had acknowledged; `None`: it had voted in this term, and acknowledged no entry.
    pub acknowledged_index: Option<u64>,
    /// The boot counter of the start in which it did.
    pub acknowledged_boot: u64,
    /// The term that a later start found on its disk.
    pub found_term: u64,
    /// The last position that it found; `None`: no entry.
    pub found_index: Option<u64>,
    /// The boot counter of that start.
    pub found_boot: u64,
}

/// What a node has in memory, in bytes. The parts of the store are counted with a fixed amount for what each key, version and
/// session takes besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUse {
    /// The process's memory that is in RAM; `None`: not known.
    pub resident_bytes: Option<u64>,
    /// The keys that exist.
    pub key_bytes: u64,
    /// Their values.
    pub value_bytes: u64,
    /// Earlier versions of keys, and deletions.
    pub history_bytes: u64,
    /// Sessions, and the outcomes of transactions that they remember.
    pub session_bytes: u64,
    /// Recent entries of the log.
    pub log_cache_bytes: u64,
    /// The places of the log's entries on disk.
    pub log_index_bytes: u64,
    /// Entries that wait to be written.
    pub log_queue_bytes: u64,
}

impl NodeStatus {
    pub(crate) fn from_wire(status: api::StatusResponse) -> NodeStatus {
        NodeStatus {
            name: status.name,
            node_id: NodeId(status.node_id),
            cluster_id: not_empty(status.cluster_id),
            version: status.version,
            role: Role::from_wire(status.role),
            term: status.term,
            leader: (status.leader_id != 0).then(|| NodeRef::from_wire(status.leader_id, status.leader_name)),
            last_log_index: status.last_log_index,
            committed_index: status.committed_index,
            applied_index: status.applied_index,
            snapshot_index: not_zero(status.snapshot_index),
            purged_index: not_zero(status.purged_index),
            revision: status.revision,
            keys: status.keys,
            bytes: status.bytes,
            size_bytes: status.size_bytes,
            history_bytes: status.history_bytes,
            floor_revision: status.floor_revision,
            sessions: status.sessions,
            memory: status.memory.map(MemoryUse::from_wire),
            digest: not_empty(status.digest),
            digests: status.digests.into_iter().map(DigestAt::from_wire).collect(),
            digest_alarm: status.digest_alarm,
            boot_counter: status.boot_counter,
            rpc_addr: status.rpc_addr,
            contradiction: status.contradiction.map(Contradiction::from_wire),
            reasons: status.reasons,
            gone_back: status.gone_back.into_iter().map(GoneBack::from_wire).collect(),
            wanted_size: NonZeroU32::new(status.wanted_size),
        }
    }
}

impl MemoryUse {
    /// What is none of the parts: buffers, connections, the program, and what the allocator holds. `None`: not known.
    pub fn rest_bytes(&self) -> Option<u64> {
        let store = self.key_bytes + self.value_bytes + self.history_bytes + self.session_bytes;
        let log = self.log_cache_bytes + self.log_index_bytes + self.log_queue_bytes;
        // The parts are counted with amounts that may be too high.
        self.resident_bytes.map(|resident| resident.saturating_sub(store + log))
    }

    fn from_wire(memory: api::MemoryUse) -> MemoryUse {
        MemoryUse {
            resident_bytes: not_zero(memory.resident_bytes),
            key_bytes: memory.key_bytes,
            value_bytes: memory.value_bytes,
            history_bytes: memory.history_bytes,
            session_bytes: memory.session_bytes,
            log_cache_bytes: memory.log_cache_bytes,
            log_index_bytes: memory.log_index_bytes,
            log_queue_bytes: memory.log_queue_bytes,
        }
    }
}

impl NodeRef {
    fn from_wire(node_id: u64, name: String) -> NodeRef {
        NodeRef { node_id: NodeId(node_id), name: not_empty(name) }
    }
}

impl DigestAt {
    fn from_wire(at: api::DigestAt) -> DigestAt {
        DigestAt { index: at.index, digest: at.digest }
    }
}

impl Contradiction {
    fn from_wire(found: api::Contradiction) -> Contradiction {
        Contradiction {
            term: found.term,
            index: found.index,
            leader_entry_term: found.leader_entry_term,
            leader_entry_index: found.leader_entry_index,
            leader: NodeRef::from_wire(found.leader_id, found.leader_name),
            leader_term: found.leader_term,
        }
    }
}

impl GoneBack {
    fn from_wire(found: api::GoneBack) -> GoneBack {
        GoneBack {
            node: NodeRef::from_wire(found.node_id, found.name),
            acknowledged_term: found.acknowledged_term,
            acknowledged_index: found.acknowledged_index,
            acknowledged_boot: found.acknowledged_boot,
            found_term: found.found_term,
            found_index: found.found_index,
            found_boot: found.found_boot,
        }
    }
}

/// Returns the text of a field that is empty where there is none.
pub(super) fn not_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn not_zero(number: u64) -> Option<u64> {
    Some(number).filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_does_not_know_is_none() {
        let status = NodeStatus::from_wire(api::StatusResponse::default());
        assert_eq!((status.cluster_id, status.digest, status.leader), (None, None, None));
        assert_eq!((status.snapshot_index, status.purged_index, status.wanted_size), (None, None, None));
        assert_eq!((status.contradiction, status.gone_back), (None, Vec::new()));
    }

    #[test]
    fn what_a_node_knows_is_all_there() {
        let (contradicted, went_back) = (
            api::Contradiction {
                term: 1,
                index: 2,
                leader_entry_term: 3,
                leader_id: 4,
                ..Default::default()
            },
            api::GoneBack { node_id: 5, name: "n5".into(), found_index: Some(6), ..Default::default() },
        );
        let status = NodeStatus::from_wire(api::StatusResponse {
            node_id: 7,
            cluster_id: "c".into(),
            role: "quarantined".into(),
            leader_id: 8,
            leader_name: "n8".into(),
            snapshot_index: 9,
            digest: "d".into(),
            digests: vec![api::DigestAt { index: 10, digest: "e".into() }],
            contradiction: Some(contradicted),
            gone_back: vec![went_back],
            wanted_size: 11,
            ..Default::default()
        });
        assert_eq!((status.node_id, status.cluster_id.as_deref()), (NodeId(7), Some("c")));
        assert_eq!(status.role, Role::Quarantined);
        assert_eq!(status.leader, Some(NodeRef { node_id: NodeId(8), name: Some("n8".into()) }));
        assert_eq!((status.snapshot_index, status.digest.as_deref()), (Some(9), Some("d")));
        assert_eq!(status.digests, [DigestAt { index: 10, digest: "e".into() }]);
        let found = status.contradiction.unwrap();
        assert_eq!((found.term, found.index, found.leader_entry_term), (1, 2, 3));
        assert_eq!(found.leader, NodeRef { node_id: NodeId(4), name: None });
        assert_eq!(status.gone_back[0].node, NodeRef { node_id: NodeId(5), name: Some("n5".into()) });
        assert_eq!(status.gone_back[0].found_index, Some(6));
        assert_eq!(status.wanted_size, NonZeroU32::new(11));
    }

    #[test]
    fn a_role_of_the_future_is_kept_as_its_word() {
        let role = Role::from_wire("observer".into());
        assert_eq!(role, Role::Other("observer".into()));
        assert_eq!(role.to_string(), "observer");
        assert_eq!(Role::from_wire(String::new()), Role::Other(String::new()));
    }

    #[cfg(feature = "server")]
    #[test]
    fn every_role_of_a_node_is_known() {
        for word in crate::metrics::ROLES {
            let role = Role::from_wire(word.into());
            assert!(!matches!(role, Role::Other(_)), "{word}");
            assert_eq!(role.as_str(), word);
        }
    }
}
