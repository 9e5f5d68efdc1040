//! The judges: each looks at one property, knows one source of evidence, and says in words what was violated.
//!
//! A judge that cannot decide says so as [`Class::Undecided`], which fails the run as an error of the harness: it
//! is never a pass. Judges are pure; what they look at was recorded by the world.

pub mod direct;
pub mod durability;
pub mod election;
pub mod exactly_once;
pub mod footprint;
pub mod leader_completeness;
pub mod linearizability;
pub mod log_matching;
pub mod members;
pub mod node_ids;
pub mod persistence;
pub mod replicas;
pub mod revisions;
pub mod state_machine;
pub mod stops;
#[cfg(test)]
pub mod testing;

use std::fmt;

/// What a judge has to say against a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it means.
    pub class: Class,
    /// Which judge says so: the name of the property.
    pub checker: &'static str,
    /// What happened, in words, with the evidence.
    pub words: String,
}

/// What a finding means. Runs end with different exit codes for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Something bad happened that no later event makes good.
    Safety,
    /// Something good did not happen although nothing stood in its way any more.
    Liveness,
    /// The judge could not decide: the harness has to be made better.
    Undecided,
}

impl Finding {
    /// A violated safety property.
    pub fn violation(checker: &'static str, words: impl Into<String>) -> Finding {
        Finding { class: Class::Safety, checker, words: words.into() }
    }

    /// A violated liveness property: what had to happen within a bound did not.
    pub fn liveness(checker: &'static str, words: impl Into<String>) -> Finding {
        Finding { class: Class::Liveness, checker, words: words.into() }
    }

    /// The judge gave up, and why.
    pub fn gave_up(checker: &'static str, words: impl Into<String>) -> Finding {
        Finding { class: Class::Undecided, checker, words: words.into() }
    }

    /// Whose finding it is.
    pub fn checker(&self) -> &'static str {
        self.checker
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            Class::Safety => "violated",
            Class::Liveness => "not live",
            Class::Undecided => "undecided",
        };
        write!(f, "{class}: {}: {}", self.checker, self.words)
    }
}

/// What a judge says of a run; no findings: it holds.
pub type Findings = Vec<Finding>;
