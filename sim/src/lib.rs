//! The simulated world: clusters of whole nodes, their faults, their clients and the checkers.
//!
//! A run is one scenario with one seed in a process of its own. Top-down: `runner` plays runs and sums them up, `child`
//! is one run, `scenarios` and `chaos` define what happens in it, `liveness_phase` ends every run in the same way,
//! `cluster` acts on nodes, `workload` and `client` act through them, `run` keeps the record, `checkers` check it, and
//! `watch` runs some of them during the run. The pure parts (`chaos::schedule`, `history`, `applied_log`, `logs`,
//! `world`, the checkers) are tested without a simulator.
//!
//! Nodes are started through the product's own entry point and queried through its own client. Nothing here reaches
//! into a node, except the observer to which it reports what it applies.

pub mod applied_log;
#[cfg(madsim)]
pub mod bench;
pub mod cargo;
pub mod chaos;
pub mod checkers;
#[cfg(madsim)]
pub mod child;
#[cfg(madsim)]
pub mod client;
#[cfg(madsim)]
pub mod cluster;
pub mod dice;
#[cfg(madsim)]
pub mod direct;
pub mod encounters;
pub mod fault_budget;
pub mod history;
pub mod history_file;
pub mod journal;
pub mod launcher;
#[cfg(madsim)]
pub mod liveness_phase;
pub mod logs;
pub mod markers;
pub mod options;
pub mod picture;
pub mod planted;
pub mod report;
#[cfg(madsim)]
pub mod run;
#[cfg(madsim)]
pub mod runner;
#[cfg(madsim)]
pub mod scenarios;
pub mod second_opinion;
pub mod shrink;
pub mod sweep;
pub mod timeline;
pub mod values;
#[cfg(madsim)]
pub mod watch;
#[cfg(madsim)]
pub mod workload;
pub mod world;

#[cfg(madsim)]
pub use runner::main;
