//! Chaos: clients work while a seed's faults are injected, for as long as the seed says.
//!
//! `schedule` draws which faults are injected when, `reduction` says which of them a shrunk run leaves out, `play`
//! executes the run, `dispatch` performs one `injection`; the faults themselves have a file for each family. Faults overlap
//! freely and may take the quorum away: safety must hold whatever happens. Each fault is undone after a while; what is
//! still broken at the end is repaired by the liveness phase that all runs share.

#[cfg(madsim)]
mod aimed;
#[cfg(madsim)]
mod clock;
#[cfg(madsim)]
mod disk;
#[cfg(madsim)]
mod dispatch;
#[cfg(madsim)]
mod encounter;
#[cfg(madsim)]
mod injection;
#[cfg(madsim)]
mod lasting;
#[cfg(madsim)]
mod network;
#[cfg(madsim)]
mod operator;
#[cfg(madsim)]
mod overtaking;
#[cfg(madsim)]
mod play;
#[cfg(madsim)]
mod power;
pub mod reduction;
pub mod schedule;

#[cfg(madsim)]
pub use play::play;
