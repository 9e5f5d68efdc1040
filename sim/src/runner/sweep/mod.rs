//! The sweep over many seeds: `command` plays them, `record` is one line for each run, `totals` adds them up.

#[cfg(madsim)]
mod command;
pub mod record;
pub mod totals;

#[cfg(madsim)]
pub use command::sweep;
