//! Persistence: a node votes for one candidate a term, and every vote and entry that it reported as durable survives
//! every crash (Ongaro 2014, section 3.8: `currentTerm`, `votedFor` and `log[]` are persistent state).
//!
//! Closer to the cause than any lost write: the first restart after a false report shows it. A disk that was changed
//! from outside is excluded.

use std::collections::BTreeMap;

use super::Finding;
use crate::evidence::node_log::{Found, Place, Shape, Vote};

const KEPT: &str = "what was called durable is kept";
const ONE_VOTE: &str = "one vote a term";
const COMMITTED: &str = "committed entries stay";

/// What each node made durable, by node id.
#[derive(Debug, Default)]
pub struct Persistence(BTreeMap<u64, Persisted>);

#[derive(Debug, Default)]
struct Persisted {
    /// The last vote that was not committed: no quorum had given the same.
    candidate: Option<Vote>,
    vote: Option<Vote>,
    acknowledged: Option<Place>,
    /// Everything below this index was applied.
    applied: u64,
}

impl Persistence {
    /// A vote became durable, so it may be answered.
    pub fn voted(&mut self, node: &str, id: u64, vote: Vote) -> Option<Finding> {
        let promise = self.0.entry(id).or_default();
        promise.vote = Some(vote);
        if vote.committed {
            return None;
        }
        let before = promise.candidate.replace(vote);
        let before =
            before.filter(|before| before.term == vote.term && before.candidate != vote.candidate)?;
        let words = format!(
            "{node} voted for {:016x} and for {:016x} in term {}",
            before.candidate, vote.candidate, vote.term
        );
        Some(Finding::violation(ONE_VOTE, words))
    }

    /// A node reported everything up to here as durable.
    pub fn acknowledged(&mut self, id: u64, last: Place) {
        let acknowledged = &mut self.0.entry(id).or_default().acknowledged;
        if acknowledged.is_none_or(|known| known.index <= last.index) {
            *acknowledged = Some(last);
        }
    }

    /// A node applied the entry at `index`.
    pub fn applied(&mut self, id: u64, index: u64) {
        let applied = &mut self.0.entry(id).or_default().applied;
        *applied = (*applied).max(index + 1);
    }

    /// A node removes the entries from `end` on, because the leader's differ. `stays` is its last entry afterwards.
    pub fn truncating(&mut self, node: &str, id: u64, end: u64, stays: Option<Place>) -> Option<Finding> {
        let promise = self.0.entry(id).or_default();
        if promise.acknowledged.is_some_and(|last| last.index >= end) {
            promise.acknowledged = stays;
        }
        (promise.applied > end).then(|| {
            let words = format!(
                "{node} removes the entries from index {end} on and has applied all before {}",
                promise.applied
            );
            Finding::violation(COMMITTED, words)
        })
    }

    /// The node's disk was changed from outside.
    pub fn release(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// Checks that a node found at its start what it had made durable. `log` is its log before the start.
    pub fn kept(&mut self, node: &str, id: u64, log: &Shape, found: Found) -> Vec<Finding> {
        let promise = self.0.entry(id).or_default();
        let mut findings = Vec::new();
        let mut broken = |words: String| findings.push(Finding::violation(KEPT, words));
        if let Some(vote) = promise.vote
            && found.vote.is_none_or(|found| order(found) < order(vote))
        {
            broken(format!("{node} had saved {} and starts with {}", shown(Some(vote)), shown(found.vote)));
        }
        let purged = found.purged.map_or(0, |purged| purged.index + 1);
        let end = found.last.map_or(0, |last| last.index + 1);
        if let Some(acknowledged) = promise.acknowledged
            && acknowledged.index >= end.max(purged)
        {
            broken(format!(
                "{node} had acknowledged the entry of index {} and term {} and starts with a log that ends before {end}",
                acknowledged.index, acknowledged.term
            ));
        }
        if let Some(last) = found.last
            && last.index >= purged
            && log.term_at(last.index).is_some_and(|term| term != last.term)
        {
            broken(format!(
                "{node} starts with an entry of index {} and term {} at the end of its log, where one of term {} stood",
                last.index,
                last.term,
                log.term_at(last.index).unwrap_or(0)
            ));
        }
        findings
    }
}

/// A sort key: a later vote never sorts before an earlier one.
fn order(vote: Vote) -> (u64, bool) {
    (vote.term, vote.committed)
}

fn shown(vote: Option<Vote>) -> String {
    match vote {
        Some(Vote { term, candidate, committed: true }) => {
            format!("{candidate:016x} as leader of term {term}")
        }
        Some(Vote { term, candidate, .. }) => format!("a vote for {candidate:016x} in term {term}"),
        None => "no vote".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(term: u64, candidate: u64, committed: bool) -> Vote {
        Vote { term, candidate, committed }
    }

    #[test]
    fn a_second_vote_in_a_term_is_found_also_after_a_restart() {
        let mut promises = Persistence::default();
        assert_eq!(promises.voted("n1", 1, vote(2, 1, false)), None);
        assert_eq!(promises.voted("n1", 1, vote(2, 3, true)), None, "it follows who was elected");
        assert_eq!(promises.voted("n1", 1, vote(3, 1, false)), None);
        assert!(promises.voted("n1", 1, vote(3, 2, false)).is_some());
    }

    #[test]
    fn what_was_called_durable_is_there_after_a_restart() {
        let at = |term, index| Place { term, index };
        let restarted = |found: Found| {
            let mut promises = Persistence::default();
            promises.voted("n1", 1, vote(2, 3, false));
            promises.acknowledged(1, at(1, 4));
            promises.kept("n1", 1, &Shape::of(&[1, 1, 1, 1, 1, 1, 2]), found).len()
        };
        let kept = Found { vote: Some(vote(2, 3, false)), purged: None, last: Some(at(1, 4)) };
        assert_eq!(restarted(kept), 0);
        assert_eq!(restarted(Found { last: Some(at(2, 6)), ..kept }), 0, "more than was promised");
        assert_eq!(restarted(Found { vote: Some(vote(5, 1, false)), ..kept }), 0);
        assert_eq!(
            restarted(Found { purged: Some(at(1, 9)), last: Some(at(1, 9)), ..kept }),
            0,
            "a snapshot"
        );
        assert_eq!(restarted(Found { vote: None, ..kept }), 1, "the vote is forgotten");
        assert_eq!(restarted(Found { vote: Some(vote(1, 9, true)), ..kept }), 1, "an older vote is back");
        assert_eq!(restarted(Found { last: Some(at(1, 3)), ..kept }), 1, "an acknowledged entry is gone");
        assert_eq!(restarted(Found { last: Some(at(9, 5)), ..kept }), 1, "what it never had");
    }

    #[test]
    fn nothing_that_was_applied_is_ever_removed_and_removed_entries_are_owed_no_more() {
        let mut promises = Persistence::default();
        promises.acknowledged(1, Place { term: 1, index: 4 });
        promises.applied(1, 1);
        let stays = Place { term: 1, index: 2 };
        assert_eq!(promises.truncating("n1", 1, 3, Some(stays)), None);
        let found = Found { last: Some(stays), ..Found::default() };
        assert_eq!(promises.kept("n1", 1, &Shape::default(), found), []);
        assert_eq!(
            promises.kept("n1", 1, &Shape::default(), Found::default()).len(),
            1,
            "what stays is owed"
        );
        assert!(promises.truncating("n1", 1, 1, None).is_some());
    }
}
