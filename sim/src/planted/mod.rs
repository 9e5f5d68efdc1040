//! Proof that the alarm rings: every planted bug of the nodes is hunted by chaos until it is caught.
//!
//! The table of bugs is the nodes' own (`mokv::planted::BUGS`). A bug counts only if the calm world does not notice
//! it: what shows on a fair day needs no chaos. `hunt` plays, `record` keeps the results in a file, so that a hunt may
//! be broken off and taken up again, `table` shows them.

#[cfg(madsim)]
pub mod calm;
#[cfg(all(madsim, feature = "planted"))]
mod hunt;
pub mod record;
pub mod table;

#[cfg(all(madsim, feature = "planted"))]
pub use hunt::hunt;
