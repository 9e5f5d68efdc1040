//! What gossip knows of the nodes: the [`View`] of the cluster, and what is wrong with datagrams that it receives.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::claim::Claim;
use crate::node_id::NodeId;
use crate::rt::Instant;

/// The liveness of a node, as far as gossip can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It did not answer and may still refute the suspicion.
    Suspect,
    /// It has not answered for some time, or was never reached.
    Down,
    /// It announced that it left permanently.
    Left,
}

/// What is known of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its newest claim.
    pub claim: Claim,
    /// Its liveness.
    pub liveness: Liveness,
}

/// All nodes in this node's cluster by node id, this node included.
pub type View = BTreeMap<NodeId, Peer>;

/// Senders of unreadable datagrams: the sender's address, when the last datagram was received, and why it is
/// unreadable.
pub type UnreadableSenders = BTreeMap<SocketAddr, (Instant, String)>;

/// Another process with this node's own id and its boot counter or a later one: the data directory was copied, or its
/// volume was put back to an older state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherSelf {
    /// Its boot counter.
    pub boot: u64,
    /// The address it sends from.
    pub from: SocketAddr,
    /// When a datagram of it was last received, accurate to a second.
    pub received_at: Instant,
}
