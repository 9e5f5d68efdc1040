//! The check of the checker: the linearizability checker and porcupine, an independent one, have to agree.
//!
//! On histories that chaos recorded, on generated ones, and on both with mutations (see [`mutations`]). The other
//! checker is a small Go program with a model of its own, in `sim/porcupine`; where Go is missing this is reported, and
//! counts as a failure in continuous integration.

mod cases;
#[cfg(madsim)]
mod comparison;
pub mod generated;
pub mod mutations;

pub use cases::{Case, cases};
#[cfg(madsim)]
pub use comparison::{ABOUT, Opinion, check};
