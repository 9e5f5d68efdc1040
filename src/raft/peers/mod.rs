//! The protocol between Raft peers: framed, pipelined messages on connections that begin with the byte `0x01`.
//!
//! A connection opens with a handshake in which both sides identify themselves ([`handshake`]) and decide whether they
//! admit the other ([`PeerAdmission`]); after it, requests and answers carry ids and may overtake each other ([`link`], [`server`]). Votes and heartbeats, log entries, snapshots,
//! and forwarded requests have separate connections, so that none queues behind another. Knows nothing of openraft.

mod admission;
pub mod frame;
pub mod handshake;
pub mod link;
mod reach;
pub mod server;

pub use admission::{Dialer, HandshakeError, LocalNode, PeerAdmission};
pub use link::{AddressBook, CallError, FollowerState, Link, Peers};
pub use reach::Contact;
pub use server::Handler;

/// The first byte of a peer's connection; HTTP/2 begins with `P`.
pub const FIRST_BYTE: u8 = 0x01;
/// The version of the handshake and of the frames.
const PROTOCOL: u32 = 2;
