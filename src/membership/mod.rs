//! Cluster membership: identity, gossip, formation, and the changes that the leader should make.
//!
//! Gossip proposes, Raft decides. All claims that a node receives from other nodes end up in a [`View`]; the leader
//! compares it with the Raft membership and makes at most one change at a time. Only the [`driver`] uses Raft; nothing
//! here opens a TCP connection or touches the log.

pub mod alarm;
pub mod claim;
mod conversation;
pub mod datagram;
pub mod driver;
mod form;
pub mod formation;
pub mod gossip;
pub mod identity;
pub mod joins;
pub mod reconcile;
mod swim;
mod view;

pub use alarm::Alarm;
pub use claim::{Claim, ClusterId, Intent, MAX_NAME_BYTES, MAX_PLEDGED, Pledge, PledgedNode, State};
pub use datagram::Key;
pub use form::{FormError, form};
pub use formation::Formed;
pub use gossip::{Gossip, GossipConfig};
pub use identity::Identity;
pub use joins::JoinAnswers;
pub use swim::Pace;
pub use view::{Liveness, OtherSelf, Peer, UnreadableSenders, View};
