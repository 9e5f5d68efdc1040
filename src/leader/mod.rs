//! The duties of the leader that depend on its clock, or that no request asks for: it proposes entries for them.
//!
//! A duty decides from the replicated state and the leader's clock, and proposes with the term in which it decided: a
//! deposed leader's proposal is never forwarded. What an entry does is decided by [`crate::map`] when it is applied.

pub mod compaction;
