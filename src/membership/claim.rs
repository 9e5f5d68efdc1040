//! A node's claim about itself.
//!
//! A claim is replaced only by a newer one of the same node: by boot counter, then by sequence. Decoding checks a bound
//! on every length and rejects a claim that exceeds one. Nothing here decides what a claim means.

use std::fmt;
use std::num::NonZeroU64;

use crate::node_id::NodeId;
use bytes::Bytes;
use mokv_proto::gossip as wire;

/// The most bytes of a node's name.
pub const MAX_NAME_BYTES: usize = 64;
/// The most bytes of a `host:port`: 253 of a DNS name, a colon, a port.
pub const MAX_ADDRESS_BYTES: usize = 259;
/// The most nodes of a pledge, and so the largest initial size of a cluster. A pledge of this many nodes with names and
/// addresses of usual length still fits a datagram.
pub const MAX_PLEDGED: usize = 9;
/// The format version of gossip and stored data that this build writes.
pub const FORMAT: u32 = 1;

/// The random number that tells two clusters apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// Draws a new cluster id.
    pub fn random() -> ClusterId {
        ClusterId(random_16())
    }

    /// A number that tells it from other clusters where an id would be too long: its first half.
    pub fn number(self) -> NonZeroU64 {
        let half = self.0.first_chunk().expect("an id has sixteen bytes");
        NonZeroU64::new(u64::from_le_bytes(*half)).unwrap_or(NonZeroU64::MAX)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node's claim about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// For the operator; unique in a cluster.
    pub name: String,
    /// The Raft node id, never zero.
    pub node_id: NodeId,
    /// The boot counter: how often the node was started.
    pub boot: u64,
    /// Numbers the claims of one boot.
    pub sequence: u64,
    /// The cluster the node belongs to or waits to be added to; `None` for a pristine node.
    pub cluster_id: Option<ClusterId>,
    /// `host:port` of Raft and gRPC.
    pub rpc_addr: String,
    /// `host:port` of gossip.
    pub gossip_addr: String,
    /// The node's state.
    pub state: State,
    /// The format version the node writes.
    pub format: u32,
    /// The highest cluster version the node supports.
    pub supports: u32,
}

/// The state of a node, from an empty directory to having left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Belongs to no cluster.
    Pristine {
        /// What it is configured to do about that.
        intent: Intent,
        /// The pledge it has made durable.
        pledge: Option<Pledge>,
    },
    /// Has adopted a cluster id and waits for the cluster's leader to add it.
    Joining,
    /// Is part of the cluster.
    Member,
    /// Left permanently; the id is never used again.
    Left,
}

/// What a node without a cluster is configured to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Wait for a cluster to join.
    Join,
    /// Form a cluster of one (`bootstrap`).
    Bootstrap,
    /// Form a cluster of exactly this many nodes (`bootstrap-expect`).
    Expect(u32),
}

/// The durable promise to form this cluster with these nodes and no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pledge {
    /// Random; tells two attempts apart, even of the same nodes.
    pub formation_id: [u8; 16],
    /// The id of the future cluster.
    pub cluster_id: ClusterId,
    /// Its first members, in ascending order of ids.
    pub nodes: Vec<PledgedNode>,
}

/// A node of a pledge, exactly as it will appear in the first membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PledgedNode {
    /// The Raft node id.
    pub node_id: NodeId,
    /// The node's name.
    pub name: String,
    /// `host:port` of its RPC when the pledge was proposed.
    pub rpc_addr: String,
}

impl Pledge {
    /// A new pledge of these nodes, with a new cluster id.
    ///
    /// # Panics
    /// If `nodes` is empty.
    pub fn propose(mut nodes: Vec<PledgedNode>) -> Pledge {
        assert!(!nodes.is_empty(), "a cluster has at least one node");
        nodes.sort_by_key(|node| node.node_id);
        Pledge { formation_id: random_16(), cluster_id: ClusterId::random(), nodes }
    }

    /// Returns `true` if the pledge includes the node with this id.
    pub fn includes(&self, node_id: NodeId) -> bool {
        self.nodes.iter().any(|node| node.node_id == node_id)
    }
}

impl Claim {
    /// Returns `true` if this claim replaces `other`, a claim of the same node.
    pub fn is_newer_than(&self, other: &Claim) -> bool {
        (self.boot, self.sequence) > (other.boot, other.sequence)
    }

    /// Encodes the claim.
    pub fn to_wire(&self) -> wire::Claim {
        wire::Claim {
            name: self.name.clone(),
            node_id: self.node_id.0,
            boot: self.boot,
            sequence: self.sequence,
            cluster_id: id_to_wire(self.cluster_id),
            rpc_addr: self.rpc_addr.clone(),
            gossip_addr: self.gossip_addr.clone(),
            format: self.format,
            supports: self.supports,
            state: Some(state_to_wire(&self.state)),
        }
    }

    /// Decodes a claim.
    ///
    /// # Errors
    /// If a field is missing, too long or contradicts another.
    pub fn from_wire(claim: wire::Claim) -> Result<Claim, Malformed> {
        let cluster_id = id_from_wire(&claim.cluster_id)?;
        let state = state_from_wire(claim.state.ok_or(Malformed("a claim without a state"))?)?;
        if matches!(state, State::Pristine { .. }) == cluster_id.is_some() {
            return Err(Malformed("a cluster id that does not go with the state"));
        }
        if claim.node_id == 0 || claim.boot == 0 {
            return Err(Malformed("a node id or a boot counter of zero"));
        }
        Ok(Claim {
            name: bounded_name(claim.name)?,
            node_id: NodeId(claim.node_id),
            boot: claim.boot,
            sequence: claim.sequence,
            cluster_id,
            rpc_addr: bounded_address(claim.rpc_addr)?,
            gossip_addr: bounded_address(claim.gossip_addr)?,
            state,
            format: claim.format,
            supports: claim.supports,
        })
    }
}

/// Bytes that do not decode, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

fn state_to_wire(state: &State) -> wire::claim::State {
    match state {
        State::Pristine { intent, pledge } => wire::claim::State::Pristine(wire::Pristine {
            intent: Some(match intent {
                Intent::Join => wire::pristine::Intent::Join(wire::Join {}),
                Intent::Bootstrap => wire::pristine::Intent::Bootstrap(wire::Bootstrap {}),
                Intent::Expect(size) => wire::pristine::Intent::Expect(*size),
            }),
            pledge: pledge.as_ref().map(pledge_to_wire),
        }),
        State::Joining => wire::claim::State::Joining(wire::Joining {}),
        State::Member => wire::claim::State::Member(wire::Member {}),
        State::Left => wire::claim::State::Left(wire::Left {}),
    }
}

fn state_from_wire(state: wire::claim::State) -> Result<State, Malformed> {
    Ok(match state {
        wire::claim::State::Pristine(pristine) => State::Pristine {
            intent: match pristine.intent.ok_or(Malformed("a pristine node without an intent"))? {
                wire::pristine::Intent::Join(_) => Intent::Join,
                wire::pristine::Intent::Bootstrap(_) => Intent::Bootstrap,
                wire::pristine::Intent::Expect(size) => Intent::Expect(size),
            },
            pledge: pristine.pledge.map(pledge_from_wire).transpose()?,
        },
        wire::claim::State::Joining(_) => State::Joining,
        wire::claim::State::Member(_) => State::Member,
        wire::claim::State::Left(_) => State::Left,
    })
}

/// Encodes a pledge, to be sent or stored.
pub(super) fn pledge_to_wire(pledge: &Pledge) -> wire::Pledge {
    wire::Pledge {
        formation_id: Bytes::copy_from_slice(&pledge.formation_id),
        cluster_id: id_to_wire(Some(pledge.cluster_id)),
        nodes: pledge
            .nodes
            .iter()
            .map(|node| wire::PledgedNode {
                node_id: node.node_id.0,
                name: node.name.clone(),
                rpc_addr: node.rpc_addr.clone(),
            })
            .collect(),
    }
}

/// Decodes a pledge that was received or stored.
pub(super) fn pledge_from_wire(pledge: wire::Pledge) -> Result<Pledge, Malformed> {
    let formation_id = <[u8; 16]>::try_from(&pledge.formation_id[..])
        .map_err(|_| Malformed("a formation id that is not 16 bytes"))?;
    let cluster_id = id_from_wire(&pledge.cluster_id)?.ok_or(Malformed("a pledge without a cluster id"))?;
    if pledge.nodes.is_empty() || pledge.nodes.len() > MAX_PLEDGED {
        return Err(Malformed("a pledge of no node or of too many"));
    }
    let nodes = pledge
        .nodes
        .into_iter()
        .map(|node| {
            Ok(PledgedNode {
                node_id: NodeId(node.node_id),
                name: bounded_name(node.name)?,
                rpc_addr: bounded_address(node.rpc_addr)?,
            })
        })
        .collect::<Result<Vec<_>, Malformed>>()?;
    if nodes[0].node_id == NodeId(0) || !nodes.is_sorted_by(|a, b| a.node_id < b.node_id) {
        return Err(Malformed("a pledge whose ids are not in ascending order"));
    }
    Ok(Pledge { formation_id, cluster_id, nodes })
}

/// Encodes a cluster id: 16 bytes, or none.
pub(super) fn id_to_wire(id: Option<ClusterId>) -> Bytes {
    id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.0))
}

/// Decodes a cluster id.
pub(super) fn id_from_wire(bytes: &[u8]) -> Result<Option<ClusterId>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let id = <[u8; 16]>::try_from(bytes).map_err(|_| Malformed("a cluster id that is not 16 bytes"))?;
    Ok(Some(ClusterId(id)))
}

/// Returns `true` if a text is a valid node name: not empty, not too long, and without control characters, which would
/// garble a log line.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control)
}

fn bounded_name(name: String) -> Result<String, Malformed> {
    if is_name(&name) { Ok(name) } else { Err(Malformed("a name that is empty, too long or unprintable")) }
}

fn bounded_address(address: String) -> Result<String, Malformed> {
    if address.len() > MAX_ADDRESS_BYTES || address.chars().any(char::is_control) {
        return Err(Malformed("an address that is too long or unprintable"));
    }
    Ok(address)
}

fn random_16() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&crate::rt::random::random_u64().to_le_bytes());
    bytes[8..].copy_from_slice(&crate::rt::random::random_nonzero_u64().to_le_bytes());
    bytes
}

#[cfg(test)]
impl Claim {
    /// An example: a pristine node's claim.
    pub(crate) fn example(name: &str, node_id: NodeId) -> Claim {
        Claim {
            name: name.into(),
            node_id,
            boot: 1,
            sequence: 1,
            cluster_id: None,
            rpc_addr: format!("{name}:8400"),
            gossip_addr: format!("{name}:8401"),
            state: State::Pristine { intent: Intent::Join, pledge: None },
            format: FORMAT,
            supports: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    fn pledges() -> impl Strategy<Value = Pledge> {
        let nodes =
            prop::collection::btree_map(1..u64::MAX, ("[a-z]{1,64}", "[a-z.:0-9]{0,40}"), 1..MAX_PLEDGED);
        (any::<[u8; 16]>(), any::<[u8; 16]>(), nodes).prop_map(|(formation_id, cluster, nodes)| Pledge {
            formation_id,
            cluster_id: ClusterId(cluster),
            nodes: nodes
                .into_iter()
                .map(|(id, (name, rpc_addr))| PledgedNode { node_id: NodeId(id), name, rpc_addr })
                .collect(),
        })
    }

    fn states() -> impl Strategy<Value = State> {
        let intents =
            prop_oneof![Just(Intent::Join), Just(Intent::Bootstrap), any::<u32>().prop_map(Intent::Expect)];
        prop_oneof![
            (intents, prop::option::of(pledges()))
                .prop_map(|(intent, pledge)| State::Pristine { intent, pledge }),
            Just(State::Joining),
            Just(State::Member),
            Just(State::Left),
        ]
    }

    fn claims() -> impl Strategy<Value = Claim> {
        let numbers = (1..=u64::MAX, 1..=u64::MAX, any::<u64>(), any::<u32>(), any::<u32>());
        (numbers, any::<[u8; 16]>(), "\\PC{1,16}", "[a-z.:0-9]{0,40}", "[a-z.:0-9]{0,40}", states()).prop_map(
            |((id, boot, sequence, format, supports), cluster, name, rpc_addr, gossip_addr, state)| Claim {
                name,
                node_id: NodeId(id),
                boot,
                sequence,
                cluster_id: (!matches!(state, State::Pristine { .. })).then_some(ClusterId(cluster)),
                rpc_addr,
                gossip_addr,
                state,
                format,
                supports,
            },
        )
    }

    proptest! {
        #[test]
        fn a_claim_survives_the_wire(claim in claims()) {
            let bytes = claim.to_wire().encode_to_vec();
            let read = Claim::from_wire(wire::Claim::decode(&bytes[..]).unwrap());
            prop_assert_eq!(read, Ok(claim));
        }

        #[test]
        fn noise_is_refused_without_a_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(claim) = wire::Claim::decode(&noise[..]) {
                let _ = Claim::from_wire(claim);
            }
        }
    }

    #[test]
    fn the_newest_claim_wins_by_boot_then_by_sequence() {
        let claim = |boot, sequence| Claim { boot, sequence, ..Claim::example("a", NodeId(1)) };
        assert!(claim(2, 1).is_newer_than(&claim(1, 9)));
        assert!(claim(2, 2).is_newer_than(&claim(2, 1)));
        assert!(!claim(2, 2).is_newer_than(&claim(2, 2)));
    }
}
