//! State-machine safety: no two nodes apply different entries at one log position, and equal entries leave equal
//! states (Ongaro, "Consensus: bridging theory and practice", 2014, section 3.6; digests after every entry).

use super::Finding;
use crate::evidence::applied_log::Conflict;

const NAME: &str = "state-machine safety";

/// The contradiction as a finding.
pub fn finding(conflict: &Conflict) -> Finding {
    let words = match conflict {
        Conflict::KeyState { nodes: (first, second), index, both } => {
            let (one, other) = (&both.0, &both.1);
            let what = if one.term != other.term {
                format!("an entry of term {} and one of term {}", one.term, other.term)
            } else if one.payload != other.payload {
                format!("different entries of term {}", one.term)
            } else if one.changes != other.changes {
                format!("the same entry with different effects ({:?} and {:?})", one.changes, other.changes)
            } else {
                format!("the same entry to different states ({:032x} and {:032x})", one.digest, other.digest)
            };
            format!("at log index {index}, {first} and {second} applied {what}")
        }
        Conflict::Snapshot { nodes: (first, second), index } => {
            format!("the snapshot of log index {index} is not the same state on {first} and {second}")
        }
        Conflict::Members { nodes: (first, second), index } => {
            format!(
                "at log index {index}, the members are not the same ones in the states of {first} and {second}"
            )
        }
        Conflict::Order { node, last, index } => {
            format!("{node} applied log index {index} right after {last}")
        }
    };
    Finding::violation(NAME, words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::applied_log::{Applied, AppliedLog};

    fn entry(term: u64, payload: u64, digest: u128) -> Applied {
        Applied { term, payload, digest, changes: Vec::new() }
    }

    fn words(applied_log: &mut AppliedLog) -> String {
        applied_log.take_conflict().map_or_else(String::new, |conflict| finding(&conflict).to_string())
    }

    #[test]
    fn nodes_that_agree_have_nothing_to_fear_and_may_begin_anywhere() {
        let mut applied_log = AppliedLog::default();
        for index in 1..=9 {
            applied_log.applied("n1", index, entry(1, index, index.into()));
        }
        applied_log.installed("n2", 5, 1, 5);
        applied_log.applied("n2", 6, entry(1, 6, 6));
        applied_log.started("n2");
        applied_log.applied("n2", 3, entry(1, 3, 3));
        assert_eq!(words(&mut applied_log), "");
    }

    #[test]
    fn every_way_to_differ_is_named() {
        let differing = [
            (entry(2, 1, 1), "term 2"),
            (entry(1, 9, 1), "different entries"),
            (entry(1, 1, 9), "different states"),
        ];
        for (other, expected) in differing {
            let mut applied_log = AppliedLog::default();
            applied_log.applied("n1", 1, entry(1, 1, 1));
            applied_log.applied("n2", 1, other);
            let said = words(&mut applied_log);
            assert!(said.contains(expected), "{said}");
        }
        let mut applied_log = AppliedLog::default();
        applied_log.applied("n1", 1, entry(1, 1, 1));
        applied_log.applied("n1", 3, entry(1, 3, 3));
        assert!(words(&mut applied_log).contains("right after 1"));
    }

    #[test]
    fn members_are_compared_at_equal_positions_within_one_cluster() {
        let mut applied_log = AppliedLog::default();
        applied_log.members("n1", 4, 77);
        applied_log.members("n1", 5, 78);
        applied_log.members("n2", 5, 78);
        assert_eq!(words(&mut applied_log), "");
        applied_log.reformed();
        applied_log.members("n1", 4, 99);
        assert_eq!(words(&mut applied_log), "", "a cluster that is made of a backup");
        applied_log.members("n2", 4, 77);
        assert!(words(&mut applied_log).contains("index 4, the members"));
    }

    #[test]
    fn a_snapshot_is_compared_with_its_position_whichever_comes_first() {
        let mut applied_log = AppliedLog::default();
        applied_log.installed("n2", 4, 1, 7);
        applied_log.applied("n1", 4, entry(1, 4, 4));
        assert!(words(&mut applied_log).contains("snapshot of log index 4"));
        let mut applied_log = AppliedLog::default();
        applied_log.applied("n1", 4, entry(1, 4, 4));
        applied_log.installed("n2", 4, 1, 7);
        assert!(words(&mut applied_log).contains("snapshot of log index 4"));
        let mut applied_log = AppliedLog::default();
        applied_log.installed("n1", 4, 1, 4);
        applied_log.installed("n2", 4, 1, 7);
        assert!(words(&mut applied_log).contains("snapshot of log index 4"));
    }
}
