//! The evidence: what clients and nodes report, as plain data. Knows neither the cluster nor the checkers.

pub mod applied_log;
pub mod history;
pub mod history_file;
pub mod node_log;
pub mod past;
pub mod transactions;
pub mod values;
