//! mökv, a distributed key-value store whose worst day can be replayed.
//!
//! The rooms of the house, from the street to the cellar; dependencies point down this list and never back.
//!
//! All but the client library and what it stands on is behind the feature `server`, which is on by default:
//! `mokv = { version = "..", default-features = false }` is the client alone, with a third of the dependencies.
//!
//! - [`cli`]: the command line, one file a subcommand.
//! - [`config`]: flags, environment and YAML become plain values, checked once.
//! - [`node`]: a node's life: recover, join, serve, stop.
//! - [`mux`]: one port; the first bytes of a connection decide where it goes.
//! - [`grpc`]: requests in, statuses out.
//! - [`client`]: the only way into a node, for people, programs and simulated clients.
//! - [`bound`]: how many of something there may be at a time.
//! - [`metrics`]: what a node counts.
//! - [`membership`]: who a node is, whom it finds by gossip, and what the leader makes of it.
//! - [`raft`]: openraft's adapters, peers, reads.
//! - [`incarnations`]: by what a data directory is told from an earlier state of itself, pure.
//! - [`map`]: the replicated state, pure.
//! - [`node_id`]: the one way in which a node id is shown.
//! - [`storage`]: the write-ahead log and snapshot files.
//! - [`rt`]: the seam between the real world and the simulated one.

// The map above is of the whole house.
#![cfg_attr(not(feature = "server"), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "server")]
pub mod bound;
#[cfg(feature = "server")]
pub mod cli;
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "server")]
pub mod incarnations;
#[cfg(feature = "server")]
pub mod map;
#[cfg(feature = "server")]
pub mod membership;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod mux;
#[cfg(feature = "server")]
pub mod node;
pub mod node_id;
#[cfg(feature = "server")]
pub mod positions;
#[cfg(feature = "server")]
pub mod raft;
pub mod rt;
#[cfg(feature = "server")]
pub mod storage;
