//! Bugs planted on purpose, to prove that the simulation catches them (feature `planted`, never in a release).
//!
//! Each stands where the rule that it breaks is enforced: `if planted::is("ack-before-fsync") { .. }`. Without the
//! feature [`is`] is a constant `false`. With it, a simulation switches one on by `set`, and a real process by its
//! environment: `MOKV_PLANTED=ack-before-fsync cargo test --features planted --test strace` must fail.

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

    static PLANTED: OnceLock<String> = OnceLock::new();

    fn of_environment() -> String {
        std::env::var("MOKV_PLANTED").unwrap_or_default()
    }

    /// Switches one bug on, for the life of the process.
    ///
    /// # Panics
    /// If another one is on, or whether one is on was asked before.
    pub fn set(name: &str) {
        assert_eq!(PLANTED.get_or_init(|| name.to_string()), name, "one planted bug at a time");
    }

    /// Whether the bug of this name is switched on.
    pub fn is(name: &str) -> bool {
        PLANTED.get_or_init(of_environment) == name
    }
}
