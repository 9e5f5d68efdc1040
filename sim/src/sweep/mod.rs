//! The results of a sweep over many seeds: `record` is one line for each run, `totals` adds them up. Pure.

pub mod record;
pub mod totals;
