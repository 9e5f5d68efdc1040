//! Bugs planted on purpose, to prove that the simulation catches them: only in the copy of the tree that they are applied to.
//!
//! A simulation switches one on by `set`, and a process by its environment: `MOKV_PLANTED=ack-before-fsync cargo test --test
//! strace`, in the copy, must fail.

use std::sync::OnceLock;

/// Empty: none is switched on.
static PLANTED: OnceLock<String> = OnceLock::new();

fn of_environment() -> String {
    std::env::var("MOKV_PLANTED").unwrap_or_default()
}

/// Switches one bug on, for the life of the process.
///
/// # Panics
/// If another one is on, or whether one is on was asked before.
pub fn set(name: &str) {
    assert_eq!(PLANTED.get_or_init(|| name.to_owned()), name, "one planted bug at a time");
}

/// Whether the bug of this name is switched on.
pub fn is(name: &str) -> bool {
    PLANTED.get_or_init(of_environment) == name
}
