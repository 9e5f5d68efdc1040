//! The checkers: each checks one property, reads one source of evidence, and describes a violation in words.
//!
//! A checker that cannot decide returns [`Class::Undecided`], which fails the run as an error of the harness: it is
//! never a pass. Checkers are pure; they check what was recorded.

pub mod changes;
pub mod direct;
pub mod durability;
pub mod election;
pub mod exactly_once;
pub mod footprint;
pub mod leader_completeness;
pub mod linearizability;
pub mod log_matching;
pub mod logs;
pub mod members;
pub mod node_ids;
pub mod persistence;
pub mod replicas;
pub mod revisions;
pub mod second_opinion;
pub mod state_machine;
pub mod stops;
#[cfg(test)]
pub mod testing;
pub mod transactions;

use std::fmt;

/// A finding of a checker about a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The severity.
    pub class: Class,
    /// The checker: the name of its property.
    pub checker: &'static str,
    /// What happened, in words, with the evidence.
    pub words: String,
}

/// The classes of findings. Each gives a run another exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Something bad happened that no later event can repair.
    Safety,
    /// Something good did not happen although nothing prevented it any more.
    Liveness,
    /// The checker could not decide: the harness has to be improved.
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

    /// The checker gave up; `words` gives the reason.
    pub fn gave_up(checker: &'static str, words: impl Into<String>) -> Finding {
        Finding { class: Class::Undecided, checker, words: words.into() }
    }

    /// The name of the checker.
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

/// A checker's findings about a run; empty if its property holds.
pub type Findings = Vec<Finding>;
