//! What the parts of the state count against `max-store-bytes`, besides keys and values.
//!
//! The amounts decide which writes are refused and how far the history gives way, so they are the same on every node and
//! never change. They were measured as resident memory of a million small items, and rounded up.

/// Of a version of a key: its header, the pointers to it, and what allocators add.
pub(super) const VERSION_BYTES: u64 = 80;

/// Of a session with a few remembered answers.
pub(super) const SESSION_BYTES: u64 = 512;

/// Of the outcome of a transaction that a session remembers, besides its branches and numbers.
pub(super) const OUTCOME_BYTES: u64 = 120;
