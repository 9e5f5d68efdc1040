//! Bugs planted on purpose, to prove that the simulation catches them (feature `planted`, never in a release).
//!
//! Each stands where the rule that it breaks is enforced: `if planted::is("ack-before-fsync") { .. }`, and is told of
//! in the table `BUGS`. Without the feature [`is`] is a constant `false`. With it, a simulation switches one on by
//! `set`, and a real process by its environment: `MOKV_PLANTED=ack-before-fsync cargo test --features planted --test
//! strace` must fail.

#[cfg(feature = "planted")]
mod bugs;

#[cfg(feature = "planted")]
pub use bugs::{Area, BUGS, Bug};

/// Whether the bug of this name is switched on.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_name: &str) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use enabled::{is, set};

#[cfg(feature = "planted")]
mod enabled {
    use std::sync::OnceLock;

    use super::bugs::find;

    /// Empty: none is switched on.
    static PLANTED: OnceLock<String> = OnceLock::new();

    fn of_environment() -> String {
        known(&std::env::var("MOKV_PLANTED").unwrap_or_default()).to_owned()
    }

    /// A misspelt name would switch nothing on, and what it should prove would seem proved.
    fn known(name: &str) -> &str {
        assert!(name.is_empty() || find(name).is_some(), "there is no planted bug '{name}'");
        name
    }

    /// Switches one bug on, for the life of the process.
    ///
    /// # Panics
    /// If there is no such bug, another one is on, or whether one is on was asked before.
    pub fn set(name: &str) {
        assert_eq!(PLANTED.get_or_init(|| known(name).to_owned()), name, "one planted bug at a time");
    }

    /// Whether the bug of this name is switched on.
    ///
    /// # Panics
    /// If one is on and there is none of this name.
    pub fn is(name: &str) -> bool {
        let planted = PLANTED.get_or_init(of_environment);
        !planted.is_empty() && planted == known(name)
    }
}
