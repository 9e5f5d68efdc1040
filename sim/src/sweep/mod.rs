//! What a sweep over many seeds keeps: `record` is one line for each run, `totals` is what they add up to. Pure.

pub mod record;
pub mod totals;
