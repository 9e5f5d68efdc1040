//! The simulated world: clusters of whole nodes, their faults, their clients, their judges.
//!
//! A run is one scenario with one seed in a process of its own. Top-down: `runner` plays runs and sums up, `child`
//! is one run, `scenarios` and `chaos` say what happens in it, `ending` brings every run to the same end,
//! `cluster` does things to nodes, `workload` and `client` do things through them, `run` keeps the record,
//! `checkers` look at it, `watch` lets them look while it goes on. What is pure (`chaos::schedule`, `history`, `applied_log`,
//! `logs`, `world`, the judges) is tested without a simulator.
//!
//! Nodes are started by the product's own entry and asked through its own client; nothing here reaches into one,
//! except the observer that hears what is applied.

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
