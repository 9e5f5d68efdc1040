//! The simulated world: clusters of whole nodes, their faults, their clients, their judges.

pub mod dice;
#[cfg(not(madsim))]
pub mod door;
pub mod history;
pub mod judges;
pub mod ledger;
pub mod report;
pub mod values;
pub mod world;

