//! Compares a leader's messages with this node's committed log, before openraft receives them.
//!
//! openraft 0.10 reports that it holds every position at or below its committed index, and compares no terms
//! (`has_log_id`; only a debug assertion does). If a majority of the nodes was put back to older copies of their data
//! directories, they elect a leader without the newest committed entries. The node that still holds those entries would
//! then acknowledge entries that it does not have, and answer reads from another history than its peers.
//!
//! Invariants:
//!
//! - what contradicts a committed entry of this node never reaches openraft;
//! - a successful append is not acknowledged if this node's log has other entries in the place of those that were sent;
//! - a leader that does not contradict this node is never rejected.
//!
//! Terms never decrease along a log, so a run of entries of one term equals this node's entries if both its ends do: a
//! comparison costs a few lookups, however many entries there are.
//!
//! If a snapshot has replaced an entry of this node's log, the entry's term is unknown, and only what follows from the
//! purge mark is compared: no entry before it can have a later term. Two histories in which the same node was elected
//! twice in one term have equal positions. They cannot be distinguished here; digests distinguish them. Does no IO.

use std::fmt;

use mokv_proto::gossip;
use openraft::raft::AppendEntriesRequest;

use super::types::{LogId, SnapshotMeta, TypeConfig, Vote, log_id};
use super::wire::{log_id_at, position};
use crate::node_id::{Named, NodeId};
use crate::storage::Log;

/// A leader's log contradicts a committed entry of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contradiction {
    /// The entry of this node.
    pub own: LogId,
    /// The leader's entry at the same index; or one at another index whose term shows that the entry at the same index
    /// must differ.
    pub theirs: LogId,
    /// The leader's node id.
    pub leader: NodeId,
    /// The leader's term.
    pub leader_term: u64,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Contradiction { own, theirs, leader, leader_term } = self;
        let (own_term, their_term) = (*own.leader_id, *theirs.leader_id);
        write!(
            f,
            "at log index {} this node holds a committed entry of term {own_term}, and {}, the leader of \
             term {leader_term}, ",
            own.index,
            Named(None, *leader)
        )?;
        match own.index == theirs.index {
            true => write!(f, "one of term {their_term}"),
            false => write!(f, "one of term {their_term} at log index {}", theirs.index),
        }
    }
}

impl From<Contradiction> for gossip::Contradiction {
    fn from(contradiction: Contradiction) -> Self {
        let Contradiction { own, theirs, leader, leader_term } = contradiction;
        let (own, theirs) = (position(own), position(theirs));
        gossip::Contradiction {
            own_term: own.term,
            own_index: own.index,
            their_term: theirs.term,
            their_index: theirs.index,
            leader: leader.0,
            leader_term,
        }
    }
}

impl From<&gossip::Contradiction> for Contradiction {
    fn from(message: &gossip::Contradiction) -> Self {
        Contradiction {
            own: log_id(message.own_term, message.own_index),
            theirs: log_id(message.their_term, message.their_index),
            leader: NodeId(message.leader),
            leader_term: message.leader_term,
        }
    }
}

/// Entries of one term, without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    term: u64,
    first: u64,
    last: u64,
}

/// What a leader's message states about the leader's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    vote: Vote,
    runs: Vec<Run>,
    committed: Option<LogId>,
}

impl Claim {
    /// The claim of an append.
    pub fn of_append(append: &AppendEntriesRequest<TypeConfig>) -> Claim {
        let previous = append.prev_log_id;
        Claim {
            vote: append.vote,
            runs: runs(previous.into_iter().chain(append.entries.iter().map(|entry| entry.log_id))),
            committed: append.leader_commit,
        }
    }

    /// The claim of a snapshot.
    pub fn of_snapshot(vote: Vote, meta: &SnapshotMeta) -> Claim {
        Claim { vote, runs: runs(meta.last_log_id.into_iter()), committed: None }
    }

    /// Returns `true` if the log has another entry in the place of one that was sent.
    pub fn is_denied_by(&self, own: &impl OwnLog) -> bool {
        let denies = |term, index| own.at(index).is_some_and(|held| held != log_id(term, index));
        self.runs.iter().any(|run| denies(run.term, run.first) || denies(run.term, run.last))
    }

    /// Returns a contradiction with the committed part of this node's log, if there is one. `vote` is this node's vote,
    /// read with `committed` or after it: a leader of an earlier term may well have other entries, and openraft rejects
    /// it.
    pub fn contradicts(&self, own: &impl OwnLog, committed: LogId, vote: Vote) -> Option<Contradiction> {
        if self.vote.leader_id.term < vote.leader_id.term {
            return None;
        }
        let committed_runs = runs(self.committed.into_iter());
        let pair =
            self.runs.iter().chain(&committed_runs).find_map(|run| contradiction(own, committed, *run));
        pair.map(|(own, theirs)| Contradiction {
            own,
            theirs,
            leader: self.vote.leader_id.voted_for,
            leader_term: self.vote.leader_id.term,
        })
    }
}

/// Groups consecutive positions into runs of one term.
fn runs(positions: impl Iterator<Item = LogId>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for LogId { leader_id, index } in positions {
        match runs.last_mut() {
            Some(run) if run.term == *leader_id => run.last = index,
            _ => runs.push(Run { term: *leader_id, first: index, last: index }),
        }
    }
    runs
}

/// Returns this node's entry and the leader's that cannot both be committed.
fn contradiction(own: &impl OwnLog, committed: LogId, run: Run) -> Option<(LogId, LogId)> {
    let purged = own.purged();
    // While a snapshot is replacing the log, the entries that it covers are committed, but the log may still hold
    // others that never were.
    let is_of_the_log = own.at(committed.index) == Some(committed);
    let held = |index: u64| {
        let known = [Some(committed), purged].into_iter().flatten().find(|known| known.index == index);
        known.or_else(|| own.at(index).filter(|_| is_of_the_log && index <= committed.index))
    };
    let differs = |index: u64| {
        let theirs = log_id(run.term, index);
        let own = match held(index) {
            Some(own) => (own != theirs).then_some(own),
            // A snapshot has replaced it. The last entry of a snapshot has the latest term of all that it covers.
            None => purged.filter(|purged| index < purged.index && run.term > *purged.leader_id),
        };
        // No entry after a committed one has an earlier term.
        let own = own.or((index > committed.index && run.term < *committed.leader_id).then_some(committed));
        own.map(|own| (own, theirs))
    };
    let within = |index: u64| (run.first..=run.last).contains(&index).then_some(index);
    let first_known = purged.and_then(|purged| within(purged.index));
    let ends = [Some(run.first), first_known, within(committed.index), Some(run.last)];
    ends.into_iter().flatten().find_map(differs)?;
    // The first one is the most useful to report. The scan may take long, because this node stops serving.
    (run.first..=run.last).find_map(differs)
}

/// The part of a log that is compared.
pub trait OwnLog {
    /// The entry at an index, if it is kept or is the last purged one.
    fn at(&self, index: u64) -> Option<LogId>;
    /// The last purged entry.
    fn purged(&self) -> Option<LogId>;
}

impl OwnLog for Log {
    fn at(&self, index: u64) -> Option<LogId> {
        self.position_at(index).map(log_id_at)
    }

    fn purged(&self) -> Option<LogId> {
        self.purged().map(log_id_at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The terms of a log's entries, from index 0 on; those below `purged` are unknown.
    #[derive(Debug, Clone)]
    struct History {
        terms: Vec<u64>,
        purged: Option<u64>,
    }

    impl OwnLog for History {
        fn at(&self, index: u64) -> Option<LogId> {
            let is_kept = self.purged.is_none_or(|purged| index >= purged);
            self.terms.get(index as usize).filter(|_| is_kept).map(|term| log_id(*term, index))
        }

        fn purged(&self) -> Option<LogId> {
            self.purged.and_then(|purged| self.at(purged))
        }
    }

    fn id(terms: &[u64], index: u64) -> LogId {
        log_id(terms[index as usize], index)
    }

    fn vote(term: u64) -> Vote {
        Vote { leader_id: openraft::vote::RaftLeaderId::new(term, NodeId(7)), committed: true }
    }

    fn claim(terms: &[u64], sent: std::ops::Range<u64>, committed: Option<u64>) -> Claim {
        Claim {
            vote: vote(9),
            runs: runs(sent.map(|index| id(terms, index))),
            committed: committed.map(|index| id(terms, index)),
        }
    }

    fn rising(steps: &[u64], from: u64) -> Vec<u64> {
        steps
            .iter()
            .scan(from, |term, step| {
                *term += step;
                Some(*term)
            })
            .collect()
    }

    proptest! {
        /// Two logs diverge at some index, and a leader with the second one sends any part of it. This node rejects it
        /// if a sent entry differs from a committed entry that it still has, and only if the logs differ in some
        /// committed entry.
        #[test]
        fn a_contradiction_is_found_wherever_entries_differ_and_nowhere_else(
            common in proptest::collection::vec(0_u64..2, 1..8),
            own in proptest::collection::vec(0_u64..2, 1..8),
            theirs in proptest::collection::vec(0_u64..3, 1..12),
            parts_later in any::<bool>(),
            places in any::<[prop::sample::Index; 5]>(),
            is_purged in any::<bool>(),
        ) {
            let common = rising(&common, 1);
            let (end, last) = (common.len(), common[common.len() - 1]);
            // A term has one leader, so the two logs have no term in common after they diverge.
            let even = |steps: &[u64], odd: u64| rising(steps, 0).iter().map(|term| last + 1 + term * 2 + odd).collect::<Vec<_>>();
            let (own, theirs) = (even(&own, u64::from(!parts_later)), even(&theirs, u64::from(parts_later)));
            let history = |rest: Vec<u64>| common.iter().copied().chain(rest).collect::<Vec<_>>();
            let (own, theirs) = (history(own), history(theirs));

            let committed = places[0].index(own.len()) as u64;
            let purged = is_purged.then(|| places[1].index(committed as usize + 1) as u64);
            let log = History { terms: own.clone(), purged };
            let mut sent = [places[2].index(theirs.len() + 1) as u64, places[3].index(theirs.len() + 1) as u64];
            sent.sort_unstable();
            let mark = places[4].index(theirs.len()) as u64;
            let claim = claim(&theirs, sent[0]..sent[1], Some(mark));
            let found = claim.contradicts(&log, id(&own, committed), vote(1));

            let differs = |index: u64| index <= committed && log.at(index).is_some_and(|held| held != id(&theirs, index));
            if (sent[0]..sent[1]).chain([mark]).any(differs) {
                prop_assert!(found.is_some());
            }
            if let Some(found) = found {
                prop_assert!(committed as usize >= end, "both logs agree in all that is committed: {found}");
                prop_assert_ne!(found.own, found.theirs);
            }
            let denied = |index: u64| log.at(index).is_some_and(|held| held != id(&theirs, index));
            prop_assert!(!claim.is_denied_by(&log) || (sent[0]..sent[1]).any(denied));
            if own.len() >= theirs.len() && purged.is_none() {
                prop_assert_eq!(claim.is_denied_by(&log), (sent[0]..sent[1]).any(denied));
            }
            prop_assert_eq!(claim.contradicts(&log, id(&own, committed), vote(10)), None, "a leader of the past");
        }
    }

    #[test]
    fn what_it_says_names_index_terms_and_leader() {
        let log = History { terms: vec![1, 1, 2, 2], purged: None };
        let found = claim(&[1, 1, 1, 4], 1..4, None).contradicts(&log, log_id(2, 3), vote(9)).unwrap();
        assert_eq!((found.own, found.theirs), (log_id(2, 2), log_id(1, 2)));
        assert_eq!(
            found.to_string(),
            "at log index 2 this node holds a committed entry of term 2, and node id 0000000000000007, the leader of term 9, \
             one of term 1"
        );
        assert_eq!(Contradiction::from(&gossip::Contradiction::from(found)), found);
    }

    #[test]
    fn a_leader_whose_later_entries_are_older_has_another_entry_at_the_committed_index() {
        let log = History { terms: vec![1, 1, 3], purged: None };
        let found = claim(&[1, 1, 1, 2, 2], 3..5, None).contradicts(&log, log_id(3, 2), vote(3)).unwrap();
        assert_eq!((found.own, found.theirs), (log_id(3, 2), log_id(2, 3)));
    }

    #[test]
    fn while_a_snapshot_is_installed_the_log_that_it_replaces_says_nothing() {
        // The log holds entries that were never committed; a snapshot up to (4, 9) is being installed.
        let log = History { terms: vec![1, 1, 3, 3], purged: None };
        let sent = |terms: &[u64]| claim(terms, 2..4, None);
        assert_eq!(sent(&[1, 1, 2, 4]).contradicts(&log, log_id(4, 9), vote(4)), None);
        let ahead = Claim { vote: vote(9), runs: runs([log_id(5, 9)].into_iter()), committed: None };
        assert!(ahead.contradicts(&log, log_id(4, 9), vote(4)).is_some(), "the snapshot's own end is known");
    }

    #[test]
    fn of_what_was_purged_only_the_latest_term_is_known() {
        let log = History { terms: vec![1, 1, 2, 2, 3], purged: Some(3) };
        let at = |term, index| Claim {
            vote: vote(9),
            runs: runs([log_id(term, index)].into_iter()),
            committed: None,
        };
        let contradicts = |claim: Claim| claim.contradicts(&log, log_id(3, 4), vote(3)).is_some();
        assert!(!contradicts(at(2, 1)), "it may be so");
        assert!(contradicts(at(3, 1)), "it lies before an entry of term 2");
        assert!(contradicts(at(1, 3)), "the purge mark itself is known");
        assert!(!contradicts(at(2, 3)));
    }
}
