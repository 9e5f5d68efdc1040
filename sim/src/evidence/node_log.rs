//! What a node reports of its log and its vote: plain values, and the shape of a log.

/// The position of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The term in which it was proposed.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// A vote of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// Its term.
    pub term: u64,
    /// The candidate it was given to.
    pub candidate: u64,
    /// A quorum gave the same vote: the candidate is leader.
    pub committed: bool,
}

/// What a node found in its log when it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// The vote saved last.
    pub vote: Option<Vote>,
    /// Entries up to here were purged.
    pub purged: Option<Place>,
    /// The last entry, or `purged`.
    pub last: Option<Place>,
}

/// A log, described by where each of its terms begins: terms never decrease along a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// First index and term of each run of entries of one term.
    runs: Vec<(u64, u64)>,
    /// The next index.
    end: u64,
    /// The entries below this index are covered by a snapshot.
    covered: u64,
}

impl Shape {
    /// The term of the entry at `index`. `None`: it is not in the log, or its term was never reported.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index >= self.end {
            return None;
        }
        let after = self.runs.partition_point(|(first, _)| *first <= index);
        after.checked_sub(1).map(|run| self.runs[run].1)
    }

    /// Whether the log or its snapshot covers this entry.
    pub fn holds(&self, place: Place) -> bool {
        place.index < self.covered || self.term_at(place.index) == Some(place.term)
    }

    /// The last entry. `None`: there is none, or a snapshot covers it.
    pub fn last(&self) -> Option<Place> {
        let index = self.end.checked_sub(1)?;
        Some(Place { term: self.term_at(index)?, index })
    }

    /// The index after the last entry.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Appends an entry.
    pub fn push(&mut self, place: Place) {
        if place.index != self.end {
            // An empty log may begin at any index.
            self.runs.clear();
            self.covered = self.covered.max(place.index);
        }
        if self.runs.last().is_none_or(|(_, term)| *term != place.term) {
            self.runs.push((place.index, place.term));
        }
        self.end = place.index + 1;
    }

    /// Removes the entries from `end` on.
    pub fn truncate(&mut self, end: u64) {
        self.end = self.end.min(end);
        self.runs.retain(|(first, _)| *first < end);
    }

    /// A snapshot now covers the entries below this index.
    pub fn purge(&mut self, covered: u64) {
        self.covered = self.covered.max(covered);
        if covered > self.end {
            self.runs.clear();
            self.end = covered;
        }
    }

    /// A log with these terms, from index 0.
    #[cfg(test)]
    pub fn of(terms: &[u64]) -> Shape {
        let mut shape = Shape::default();
        (0..).zip(terms).for_each(|(index, term)| shape.push(Place { term: *term, index }));
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_known_by_where_its_terms_begin() {
        let mut log = Shape::of(&[1, 1, 3, 3, 4]);
        assert_eq!(
            (0..6).map(|index| log.term_at(index)).collect::<Vec<_>>(),
            [Some(1), Some(1), Some(3), Some(3), Some(4), None]
        );
        assert_eq!(log.last(), Some(Place { term: 4, index: 4 }));
        log.truncate(3);
        assert_eq!(log, Shape::of(&[1, 1, 3]));
        log.push(Place { term: 5, index: 3 });
        assert_eq!(log, Shape::of(&[1, 1, 3, 5]));
    }

    #[test]
    fn a_snapshot_stands_for_what_is_purged_also_beyond_the_end() {
        let mut log = Shape::of(&[1, 1, 3]);
        log.purge(2);
        assert!(log.holds(Place { term: 1, index: 1 }) && log.holds(Place { term: 3, index: 2 }));
        log.purge(9);
        assert!(log.holds(Place { term: 7, index: 8 }) && !log.holds(Place { term: 7, index: 9 }));
        assert_eq!(log.last(), None);
        log.push(Place { term: 7, index: 9 });
        assert_eq!(log.last(), Some(Place { term: 7, index: 9 }));
    }
}
