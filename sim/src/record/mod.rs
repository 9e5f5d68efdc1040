//! The record of one run: its events, its evidence, its findings; as a timeline, as a report.

pub mod markers;
pub mod report;
#[cfg(madsim)]
mod run;
pub mod timeline;

#[cfg(madsim)]
pub use run::Run;
