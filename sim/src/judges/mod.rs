//! The judges: each looks at one property, knows one source of evidence, and says in words what was violated.
//!
//! A judge that cannot decide says so as [`Finding::GaveUp`], which fails the run as an error of the harness: it
//! is never a pass. Judges are pure; what they look at was recorded by the world.

pub mod durability;
pub mod election;
pub mod exactly_once;
pub mod footprint;
pub mod leader_completeness;
pub mod linearizability;
pub mod log_matching;
pub mod members;
pub mod node_ids;
pub mod promises;
pub mod replicas;
pub mod revisions;
pub mod state_machine;
pub mod stops;
#[cfg(test)]
pub mod testing;

use std::fmt;

/// What a judge has to say against a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The property does not hold.
    Violation {
        /// Which judge.
        judge: &'static str,
        /// What happened, in words, with the evidence.
        words: String,
    },
    /// The judge could not decide: the harness has to be made better.
    GaveUp {
        /// Which judge.
        judge: &'static str,
        /// Why.
        words: String,
    },
}

impl Finding {
    /// A violated property.
    pub fn violation(judge: &'static str, words: impl Into<String>) -> Finding {
        Finding::Violation { judge, words: words.into() }
    }

    /// Whose finding it is.
    pub fn judge(&self) -> &'static str {
        match self {
            Finding::Violation { judge, .. } | Finding::GaveUp { judge, .. } => judge,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Violation { judge, words } => write!(f, "violated: {judge}: {words}"),
            Finding::GaveUp { judge, words } => write!(f, "undecided: {judge}: {words}"),
        }
    }
}

/// What a judge says of a run; no findings: it holds.
pub type Judgement = Vec<Finding>;
