//! What all runs share: how they begin, the checkers that look while they go on, and the liveness phase that ends them.

pub mod liveness;
mod setup;
pub mod watch;

pub use setup::set_up;
