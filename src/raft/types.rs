//! The types that openraft is instantiated with.

use std::fmt;

use bytes::Bytes;

use super::runtime::Runtime;
use crate::map::Answer;
use crate::node_id::NodeId;

openraft::declare_raft_types!(
    /// mökv's Raft: one leader a term, entries as bytes, our own runtime.
    pub TypeConfig:
        D = Payload,
        R = Reply,
        NodeId = NodeId,
        Node = Member,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>,
        AsyncRuntime = Runtime,
);

/// The position of an entry in the replicated log.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A node's vote: a term, a candidate, and whether a quorum granted it.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// An entry of the replicated log.
pub type RaftEntry = openraft::alias::EntryOf<TypeConfig>;
/// The voters and the learners.
pub type Membership = openraft::Membership<NodeId, Member>;
/// A membership and the log id of the entry that set it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// A snapshot's metadata.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// Makes a log id.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: openraft::vote::leader_id_std::CommittedLeaderId::new(term), index }
}

/// The bytes of a command, verbatim: one type byte and a protobuf payload. `Debug` and `Display` never show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first() {
            Some(kind) => write!(f, "command of type {kind}, {} bytes", self.0.len()),
            None => f.write_str("empty command"),
        }
    }
}

/// The result of applying an entry, and the store's revision after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The state machine's answer.
    pub answer: Answer,
    /// The store's revision after the entry.
    pub revision: u64,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}", self.revision)
    }
}

/// A member of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// The name that operators use; unique in a cluster.
    pub name: String,
    /// `host:port` of its only port, as the log last recorded it. The newest address claimed by gossip takes
    /// precedence.
    pub rpc_addr: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.rpc_addr)
    }
}
