//! mökv, a distributed key-value store whose worst day can be replayed.
//!
//! The rooms of the house, from the street to the cellar; dependencies point down this list and never back.
//!
//! - [`cli`]: the command line, one file a subcommand.
//! - [`config`]: flags, environment and YAML become plain values, checked once.
//! - [`node`]: a node's life: recover, join, serve, stop.
//! - [`mux`]: one port; the first bytes of a connection decide where it goes.
//! - [`grpc`]: requests in, statuses out.
//! - [`client`]: the only way into a node, for people, programs and simulated clients.
//! - [`metrics`]: what a node counts.
//! - [`membership`]: who a node is, whom it finds by gossip, and what the leader makes of it.
//! - [`raft`]: openraft's adapters, peers, reads.
//! - [`map`]: the replicated state, pure.
//! - [`storage`]: the write-ahead log and snapshot files.
//! - [`rt`]: the seam between the real world and the simulated one.

pub mod cli;
pub mod client;
pub mod config;
pub mod grpc;
pub mod map;
pub mod membership;
pub mod metrics;
pub mod mux;
pub mod node;
pub mod planted;
pub mod raft;
pub mod rt;
pub mod storage;
