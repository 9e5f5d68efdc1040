//! mökv, a distributed key-value store whose worst day can be replayed.
//!
//! The modules, from the outside inwards; dependencies point down this list and never back.
//!
//! Everything except the client library and its dependencies is behind the feature `server`, which is on by default:
//! `mokv = { version = "..", default-features = false }` is the client alone, with a third of the dependencies.
//!
//! - [`cli`]: the command line, one file per subcommand.
//! - [`config`]: flags, environment and YAML become plain values, checked once.
//! - [`node`]: what a node does from start to stop: recover, join, serve, stop.
//! - [`mux`]: one port; the first bytes of a connection decide which handler gets it.
//! - [`api`]: translates each API: bytes into requests of the core, replies and refusals back.
//! - [`service`]: the core of every API: admission, execution, and what is certain about an outcome.
//! - [`client`]: the only interface to a node, for users, programs and simulated clients.
//! - [`bound`]: bounds on how many of something exist at a time.
//! - [`metrics`]: what a node counts.
//! - [`membership`]: a node's identity, the nodes it finds by gossip, and how the leader makes members of them.
//! - [`raft`]: openraft's adapters, peers, reads.
//! - [`positions`]: detects a member whose disk has lost what it acknowledged, pure.
//! - [`incarnations`]: detects a data directory that was rolled back or copied, pure.
//! - [`leader`]: the duties of the leader that no request asks for: compaction.
//! - [`map`]: the replicated state, pure.
//! - [`replicated_settings`]: the settings on which all nodes agree.
//! - [`transaction`]: a transaction as plain values.
//! - [`node_id`]: the type of a node id, with the one format in which it is displayed.
//! - [`storage`]: the write-ahead log and snapshot files.
//! - [`rt`]: the boundary between the real and the simulated environment.

// The list above names all modules, also those that exist with `server` only.
#![cfg_attr(not(feature = "server"), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod bound;
#[cfg(feature = "server")]
pub mod cli;
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod incarnations;
#[cfg(feature = "server")]
pub mod leader;
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
pub mod replicated_settings;
pub mod rt;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod storage;
pub mod transaction;
