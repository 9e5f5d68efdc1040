//! Shrinking: a failing chaos run is made as small as possible. `minimise` is delta debugging, `command` plays.

#[cfg(madsim)]
mod command;
pub mod minimise;

#[cfg(madsim)]
pub use command::shrink;
