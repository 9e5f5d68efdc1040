//! No stop without a cause: a node that ends by itself, or refuses to start, was given a reason to. And no process goes
//! on after its log failed: what it answers after a failed write or sync could be lost (Rebello et al., "Can
//! applications recover from fsync failures?", 2020).

use std::time::Duration;

use super::{Finding, Findings};
use crate::evidence::history::{Nanos, Seconds};

const NAME: &str = "no stop without an injected cause";
const NO_ZOMBIES: &str = "no life after the log's end";

/// A node's process ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The node.
    pub node: String,
    /// When.
    pub at: Nanos,
    /// The reason that it gave.
    pub reason: String,
    /// The injected fault that explains the end; `None`: no fault does.
    pub cause: Option<String>,
}

/// Checks all ends of processes.
pub fn check(stops: &[Stop]) -> Findings {
    stops
        .iter()
        .filter(|stop| stop.cause.is_none())
        .map(|stop| {
            let words = format!("{} ended by itself at {}: {}", stop.node, Seconds(stop.at), stop.reason);
            Finding::violation(NAME, words)
        })
        .collect()
}

/// The finding that a node still runs this long after a write or a sync of its log failed.
pub fn lives_on(node: &str, time: Duration) -> Finding {
    Finding::violation(NO_ZOMBIES, format!("{node} runs {time:?} after a write or a sync of its log failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stop_that_was_provoked_is_excused() {
        let stop = |cause: Option<&str>| Stop {
            node: "n1".into(),
            at: 0,
            reason: "the log is full".into(),
            cause: cause.map(Into::into),
        };
        assert!(check(&[stop(Some("a failed sync"))]).is_empty());
        assert!(check(&[stop(None)])[0].to_string().contains("n1 ended by itself"));
    }
}
