//! The simulated world: clusters of whole nodes, their faults, their clients and the checkers.
//!
//! A run is one scenario with one seed in a process of its own. The rooms, top-down; each uses only rooms below it:
//!
//! - `runner` plays runs and sums them up; `picture` shows one as a page
//! - `scenarios` are the sequences of events that are played; `chaos`, one of them, injects what a seed draws
//! - `phases` are what all runs share: their beginning, the checkers that look meanwhile, the liveness phase at the end
//! - `clients` act through nodes, and `cluster` acts on them
//! - `golden` decodes the messages that nodes send, for traces that are compared with files
//! - `record` keeps what happened in a run
//! - `checkers` check the evidence
//! - `evidence` is what clients and nodes report; `world` is what a seed draws
//! - `launcher` builds all of this, and plants bugs in the nodes if asked to
//!
//! The pure parts (`world`, `evidence`, the checkers, `chaos::schedule`) are tested without a simulator.
//!
//! Nodes are started through the product's own entry point and queried through its own client. Nothing here reaches
//! into a node, except the observer to which it reports what it applies.

pub mod chaos;
pub mod checkers;
#[cfg(madsim)]
pub mod clients;
#[cfg(madsim)]
pub mod cluster;
pub mod evidence;
pub mod golden;
pub mod launcher;
#[cfg(madsim)]
pub mod phases;
pub mod picture;
pub mod record;
pub mod runner;
#[cfg(madsim)]
pub mod scenarios;
pub mod world;

#[cfg(madsim)]
pub use runner::main;
