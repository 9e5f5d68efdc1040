//! The runner: plays scenarios and chaos seeds, each in a process of its own, and sums up what they covered.
//!
//! The parent simulates nothing. `options` reads the command line, `command` carries it out: `play`, `sweep`, `hunt`,
//! `shrink`, `bench`, `train` and `pages` play runs through `children`; `child` is one run.

#[cfg(madsim)]
mod bench;
#[cfg(madsim)]
mod child;
#[cfg(madsim)]
mod children;
#[cfg(madsim)]
mod command;
#[cfg(madsim)]
mod determinism;
#[cfg(madsim)]
mod folders;
pub mod hunt;
pub mod journal;
pub mod options;
#[cfg(madsim)]
mod pages;
#[cfg(madsim)]
mod play;
pub mod shrink;
#[cfg(madsim)]
mod summary;
pub mod sweep;
#[cfg(madsim)]
mod train;

#[cfg(madsim)]
pub use command::main;
