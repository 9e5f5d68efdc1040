//! The hunt for planted bugs: chaos plays every planted bug of the nodes until it is caught.
//!
//! A bug counts only if the calm world does not catch it: what shows there needs no chaos. `command` plays, `record`
//! keeps the results in a file, so that a hunt can be interrupted and resumed, `table` prints them.

#[cfg(madsim)]
mod command;
pub mod record;
pub mod table;

#[cfg(madsim)]
pub use command::hunt;
