//! Every version of every key from the floor on, and the order in which they were made.
//!
//! Three orders share the same records: the present version of each key, earlier versions and deletions by key, and the
//! changes by revision, along which compaction goes. A write adds one record and moves pointers.
//!
//! **Compaction** raises the floor at once: what lies below cannot be read from then on. Records that no revision from the
//! floor on can show are removed later, a bounded number with each applied entry, in the order of changes. How far that has
//! come is part of the state, so equal logs make equal histories:
//!
//! - A change up to the floor is *settled*: the version that it replaced is removed.
//! - A settled change below the floor is *dropped* from the order of changes, and if it is a deletion, it is removed. Those
//!   exactly at the floor stay until the floor rises, so that the floor is a revision whose changes are known.
//!
//! ```text
//!  dropped: below      settled: all of       unsettled
//!  the floor           one revision
//! ─────────────────┊────────────────────┊──────────────────▶ changes
//!                start            settled_until
//! ```
//!
//! Invariants: nothing that a clone can reach is ever changed; cloning is O(1); a key is changed at most once in a
//! revision; every change that is not dropped is a version that is kept.

use std::ops::Bound;

use imbl::{OrdSet, Vector};

use super::digest::{Digest, Item};
use super::record::{ByKey, ByVersion, ChangeAt, Gap, OfKey, Record};

/// All versions that are kept.
#[derive(Debug, Clone)]
pub(super) struct History {
    /// The version of each key that exists now.
    present: OrdSet<ByKey>,
    /// Versions that were replaced or deleted, and deletions.
    past: OrdSet<ByVersion>,
    /// The changes that are not dropped, in order.
    changes: Vector<Record>,
    /// How many of `changes` are settled; they are the first.
    settled: usize,
    /// The revision of the last change.
    revision: u64,
    /// The earliest revision that can be read.
    floor: u64,
    /// Keys and values of all versions that are kept, in bytes.
    payload_bytes: u64,
    /// The part of it that the present versions have.
    present_bytes: u64,
    /// The part of that which keys have.
    key_bytes: u64,
    /// Of all versions.
    digest: Digest,
}

/// What a write or a deletion did to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The version that was replaced; `None` if the key did not exist.
    pub old: Option<Record>,
    /// The new version, or the deletion.
    pub new: Record,
}

/// A revision to which the history cannot be compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CannotCompact {
    /// It is not there yet.
    Future {
        /// The present revision.
        present: u64,
    },
    /// The history begins there, or later.
    Compacted {
        /// The earliest revision that can be read.
        floor: u64,
    },
}

/// A step of removal.
enum Step {
    /// Drops the first change, which is settled.
    Drop,
    /// Settles the first change that is not.
    Settle(Record),
}

/// How far compaction has come; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// The earliest revision that can be read.
    pub floor: u64,
    /// The first change that is not dropped.
    pub start: ChangeAt,
    /// The first change that is not settled.
    pub settled_until: ChangeAt,
}

impl History {
    /// An empty history at a revision.
    pub(super) fn at(revision: u64) -> History {
        History {
            present: OrdSet::new(),
            past: OrdSet::new(),
            changes: Vector::new(),
            settled: 0,
            revision,
            floor: revision,
            payload_bytes: 0,
            present_bytes: 0,
            key_bytes: 0,
            digest: Digest::default(),
        }
    }

    // ---- changes ----

    /// Writes a value. `old` is the key's present version, which the caller has looked up.
    ///
    /// # Panics
    /// If `at` is not after the last change.
    pub(super) fn write(&mut self, old: Option<Record>, key: &[u8], value: &[u8], at: ChangeAt) -> Change {
        let (create_revision, version) =
            old.as_ref().map_or((at.revision, 1), |old| (old.create_revision(), old.version() + 1));
        self.change(old, Record::written(key, value, at, create_revision, version))
    }

    /// Deletes the key whose present version is `old`.
    ///
    /// # Panics
    /// If `at` is not after the last change.
    pub(super) fn delete(&mut self, old: Record, at: ChangeAt) -> Change {
        let deletion = Record::deletion(old.key(), at);
        self.change(Some(old), deletion)
    }

    fn change(&mut self, old: Option<Record>, new: Record) -> Change {
        let is_next = self.changes.back().is_none_or(|last| last.at() < new.at());
        assert!(is_next && new.revision() >= self.revision, "a change follows the last one");
        self.add(&new);
        if let Some(old) = &old {
            self.present_bytes -= old.payload_bytes();
            self.key_bytes -= old.key().len() as u64;
            self.past.insert(ByVersion(old.clone()));
        }
        if new.is_deletion() {
            self.present.remove(&OfKey(new.key()));
            self.past.insert(ByVersion(new.clone()));
        } else {
            self.add_present(new.clone());
        }
        self.changes.push_back(new.clone());
        self.revision = new.revision();
        Change { old, new }
    }

    fn add_present(&mut self, record: Record) {
        self.present_bytes += record.payload_bytes();
        self.key_bytes += record.key().len() as u64;
        self.present.insert(ByKey(record));
    }

    // All additions and removals of versions are counted by these two functions.

    fn add(&mut self, record: &Record) {
        self.digest.add(Item::record(record));
        self.payload_bytes += record.payload_bytes();
    }

    fn remove(&mut self, record: &Record) {
        self.digest.remove(Item::record(record));
        self.payload_bytes -= record.payload_bytes();
    }

    /// Replaces a key's value by one that differs in one bit, and counts nothing. `false`: there is no bit to flip.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn flip_bit(&mut self, key: &[u8], bit: usize) -> bool {
        let Some(record) = self.get(key).filter(|record| !record.value().is_empty()) else { return false };
        let mut value = record.value().to_vec();
        let at = bit / 8 % value.len();
        value[at] ^= 1 << (bit % 8);
        let flipped = Record::written(key, &value, record.at(), record.create_revision(), record.version());
        self.present.insert(ByKey(flipped));
        true
    }

    /// Counts one byte too many, in the present versions or in all.
    #[cfg(test)]
    pub(super) fn miscount(&mut self, present: bool) {
        if present {
            self.present_bytes += 1;
        }
        self.payload_bytes += 1;
    }

    /// Raises the revision by a gap in which nothing can be read, and gives up what was before.
    pub(super) fn leap(&mut self, gap: u64) {
        self.revision += gap;
        self.floor = self.revision;
        while self.remove_step() {}
    }

    // ---- compaction ----

    /// Raises the floor to a revision.
    ///
    /// # Errors
    /// If the revision is not above the floor or not there yet; nothing is changed then.
    pub(super) fn compact(&mut self, revision: u64) -> Result<(), CannotCompact> {
        if revision <= self.floor {
            return Err(CannotCompact::Compacted { floor: self.floor });
        }
        if revision > self.revision {
            return Err(CannotCompact::Future { present: self.revision });
        }
        self.floor = revision;
        Ok(())
    }

    /// About the lowest revision to which the history has to be compacted until its size, of which `size` is the present
    /// one, is at most `wanted`.
    pub(super) fn floor_for(&self, size: u64, wanted: u64) -> u64 {
        let Some(over) = size.checked_sub(wanted).filter(|over| *over > 0) else { return self.floor };
        // As many changes replaced a version as there are versions in the past, up to the deletions that are kept.
        let unsettled = (self.changes.len() - self.settled) as u128;
        let settling = (unsettled * u128::from(over)).div_ceil(u128::from(size));
        let last = (self.settled + settling as usize).checked_sub(1).and_then(|last| self.changes.get(last));
        last.map_or(self.floor, |last| last.revision().max(self.floor))
    }

    /// Makes one step of removal; `false` if there is nothing to remove.
    pub(super) fn remove_step(&mut self) -> bool {
        match self.next_step() {
            Some(Step::Drop) => self.drop_first(),
            Some(Step::Settle(change)) => {
                self.settle(&change);
                // Nothing below the floor stays in front of it, so it is the first.
                if change.revision() < self.floor {
                    self.drop_first();
                }
            }
            None => return false,
        }
        true
    }

    /// Whether there is something to remove.
    pub(super) fn has_removable(&self) -> bool {
        self.next_step().is_some()
    }

    fn next_step(&self) -> Option<Step> {
        let settled = self.changes.front().filter(|_| self.settled > 0);
        if settled.is_some_and(|first| first.revision() < self.floor) {
            return Some(Step::Drop);
        }
        let change = self.changes.get(self.settled)?;
        (change.revision() <= self.floor).then(|| Step::Settle(change.clone()))
    }

    fn drop_first(&mut self) {
        let first = self.changes.pop_front().expect("only a settled change is dropped");
        self.settled -= 1;
        if first.is_deletion() {
            self.forget(first);
        }
    }

    fn settle(&mut self, change: &Record) {
        self.settled += 1;
        let before = self.past.get_prev(&Gap::before(change.key(), change.at()));
        let replaced = before.filter(|before| before.0.key() == change.key());
        if let Some(ByVersion(replaced)) = replaced.cloned() {
            assert!(
                !replaced.is_deletion(),
                "a deletion below the floor is dropped before what follows is settled"
            );
            self.forget(replaced);
        }
    }

    fn forget(&mut self, record: Record) {
        self.remove(&record);
        let removed = self.past.remove(&ByVersion(record));
        assert!(removed.is_some(), "a version is removed once");
    }

    /// How far compaction has come.
    pub(super) fn progress(&self) -> Progress {
        let at = |index: usize| self.changes.get(index).map_or(ChangeAt::after(self.revision), Record::at);
        Progress { floor: self.floor, start: at(0), settled_until: at(self.settled) }
    }

    // ---- reading ----

    /// The present version of a key; `None` if it does not exist.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Record> {
        self.present.get(&OfKey(key)).map(|present| &present.0)
    }

    /// The version of a key just before a change, of which all that it replaced is kept; `None` if the key did not exist.
    pub(super) fn get_before(&self, key: &[u8], before: ChangeAt) -> Option<&Record> {
        let present = self.get(key).filter(|present| present.at() < before);
        present.or_else(|| self.past_before(key, before))
    }

    /// The version of a key just before a change that does not lie behind its present version.
    fn past_before(&self, key: &[u8], before: ChangeAt) -> Option<&Record> {
        let past = self.past.get_prev(&Gap::before(key, before)).map(|past| &past.0);
        past.filter(|past| past.key() == key && !past.is_deletion())
    }

    /// The present versions of the keys from `start` on and before `end` (`None`: to the last), in byte order.
    pub(super) fn range<'a>(
        &'a self,
        start: Bound<&[u8]>,
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = &'a Record> + use<'a> {
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        // A tree takes an empty range for a mistake.
        let is_empty = match (start, end) {
            (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end)) => start >= end,
            _ => false,
        };
        let bounds = (start.map(OfKey), end.map(OfKey));
        let range = (!is_empty).then(|| self.present.range::<_, OfKey<'_>>(bounds));
        range.into_iter().flatten().map(|present| &present.0)
    }

    /// The keys from `start` on and before `end`, in byte order, that exist or once existed, each with its version just before
    /// a change, of which all that it replaced is kept; `None`: it did not exist then.
    pub(super) fn range_before<'a>(
        &'a self,
        start: Bound<&'a [u8]>,
        end: Option<&'a [u8]>,
        before: ChangeAt,
    ) -> impl Iterator<Item = (&'a [u8], Option<&'a Record>)> + use<'a> {
        let mut present = self.range(start, end).peekable();
        let is_within = move |record: &&Record| end.is_none_or(|end| record.key() < end);
        let first = match start {
            Bound::Included(key) => Gap::before_all(key),
            Bound::Excluded(key) => Gap::after_all(key),
            Bound::Unbounded => Gap::before_all(b""),
        };
        // The present revision shows present versions only.
        let mut past = (before <= ChangeAt { revision: self.revision, place: u32::MAX })
            .then(|| self.next_past(first))
            .flatten()
            .filter(is_within);
        std::iter::from_fn(move || {
            let key = match (present.peek().copied(), past) {
                (Some(present), Some(past)) => present.key().min(past.key()),
                (Some(one), None) | (None, Some(one)) => one.key(),
                (None, None) => return None,
            };
            let newest = present.next_if(|present| present.key() == key);
            let has_past = past.is_some_and(|past| past.key() == key);
            if has_past {
                past = self.next_past(Gap::after_all(key)).filter(is_within);
            }
            let found = match newest {
                Some(newest) if newest.at() < before => Some(newest),
                _ if has_past => self.past_before(key, before),
                _ => None,
            };
            Some((key, found))
        })
    }

    /// The versions of a key that revisions from `from` on show, and its deletions from there on, in ascending order. What
    /// lies below the floor is left out as if it were removed.
    pub(super) fn versions_of<'a>(
        &'a self,
        key: &'a [u8],
        from: u64,
    ) -> impl Iterator<Item = &'a Record> + use<'a> {
        let start = self.not_below_floor(ChangeAt { revision: from, place: 0 });
        let shown_first = self.get_before(key, start);
        // Nothing replaced it at `from` itself.
        let is_replaced = |next: Option<&Record>| next.is_some_and(|next| next.revision() == start.revision);
        let next_past = move |after| self.next_past(after).filter(|past| past.key() == key);
        let past = next_past(Gap::before(key, start));
        let present = self.get(key).filter(|present| present.at() >= start);
        let shown_first = shown_first.filter(|_| !is_replaced(past.or(present)));
        let past = std::iter::successors(past, move |past| next_past(Gap::before(key, past.at().next())));
        shown_first.into_iter().chain(past).chain(present)
    }

    /// All changes from a place on, in order. What lies below the floor is left out as if it were removed.
    pub(super) fn changes_from(&self, start: ChangeAt) -> impl Iterator<Item = &Record> {
        let start = self.not_below_floor(start);
        let (Ok(first) | Err(first)) = self.changes.binary_search_by_key(&start, Record::at);
        self.changes.focus().narrow(first..).into_iter()
    }

    fn not_below_floor(&self, start: ChangeAt) -> ChangeAt {
        start.max(ChangeAt { revision: self.floor, place: 0 })
    }

    fn next_past(&self, after: Gap<'_>) -> Option<&Record> {
        self.past.get_next(&after).map(|past| &past.0)
    }

    /// The present version of each key, by key.
    pub(super) fn present(&self) -> impl Iterator<Item = &Record> {
        self.present.iter().map(|present| &present.0)
    }

    /// Versions that were replaced or deleted, and deletions, by key and then in ascending order.
    pub(super) fn past(&self) -> impl Iterator<Item = &Record> {
        self.past.iter().map(|past| &past.0)
    }

    /// All versions that are kept, by key and then in ascending order.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        let (mut present, mut past) = (self.present().peekable(), self.past().peekable());
        std::iter::from_fn(move || {
            // Of one key, the present version is the last one.
            let next = present.peek().copied();
            let earlier = past.next_if(|past| next.is_none_or(|present| past.key() <= present.key()));
            earlier.or_else(|| present.next())
        })
    }

    /// The revision of the last change.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The earliest revision that can be read.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Number of keys that exist.
    pub(super) fn keys(&self) -> u64 {
        self.present.len() as u64
    }

    /// Number of versions that are kept, deletions included.
    pub(super) fn versions_kept(&self) -> u64 {
        (self.present.len() + self.past.len()) as u64
    }

    /// Keys and values of the keys that exist, in bytes.
    pub(super) fn present_bytes(&self) -> u64 {
        self.present_bytes
    }

    /// The keys that exist, in bytes.
    pub(super) fn key_bytes(&self) -> u64 {
        self.key_bytes
    }

    /// Keys and values of earlier versions, and the keys of deletions, in bytes.
    pub(super) fn past_bytes(&self) -> u64 {
        self.payload_bytes - self.present_bytes
    }

    /// The digest of all versions that are kept.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }
}

// The orders compare keys and places only.
impl PartialEq for History {
    fn eq(&self, other: &History) -> bool {
        (self.revision, self.progress()) == (other.revision, other.progress())
            && (self.payload_bytes, self.digest) == (other.payload_bytes, other.digest)
            && self.changes == other.changes
            && self.records().eq(other.records())
    }
}

/// A history that is being put together from its versions.
#[derive(Debug)]
pub(super) struct Rebuild {
    history: History,
    progress: Progress,
    /// The last version: the next one decides whether it is the present one of its key.
    last: Option<Record>,
    /// With their places, by which they are sorted: following a pointer for each comparison takes long.
    changes: Vec<(ChangeAt, Record)>,
}

impl Rebuild {
    /// Begins with no version.
    ///
    /// # Errors
    /// The reason why compaction cannot have come so far.
    pub(super) fn new(revision: u64, progress: Progress) -> Result<Rebuild, &'static str> {
        if revision == u64::MAX {
            return Err("holds a revision that no write can follow");
        }
        if progress.floor > revision {
            return Err("holds a floor of the future");
        }
        if progress.start > progress.settled_until {
            return Err("holds settled changes out of order");
        }
        Ok(Rebuild { history: History::at(revision), progress, last: None, changes: Vec::new() })
    }

    /// Adds a version; they come in the order of [`History::records`].
    ///
    /// # Errors
    /// The reason why no history has this version after the ones before.
    pub(super) fn add(&mut self, record: Record) -> Result<(), &'static str> {
        if record.revision() > self.history.revision {
            return Err("holds a revision of the future");
        }
        if record.is_deletion() && record.at() < self.progress.start {
            return Err("holds a deletion that compaction has removed");
        }
        if let Some(last) = self.last.take() {
            let is_ascending = (last.key(), last.at()) < (record.key(), record.at());
            if !is_ascending {
                return Err("holds versions out of order");
            }
            self.place(last.clone(), last.key() == record.key());
        }
        if record.at() >= self.progress.start {
            self.changes.push((record.at(), record.clone()));
        }
        self.history.add(&record);
        self.last = Some(record);
        Ok(())
    }

    fn place(&mut self, record: Record, has_successor: bool) {
        if has_successor || record.is_deletion() {
            self.history.past.insert(ByVersion(record));
        } else {
            self.history.add_present(record);
        }
    }

    /// The history, after the last version.
    pub(super) fn finish(mut self) -> History {
        if let Some(last) = self.last.take() {
            self.place(last, false);
        }
        self.changes.sort_unstable_by_key(|(at, _)| *at);
        let settled = self.changes.partition_point(|(at, _)| *at < self.progress.settled_until);
        History {
            settled,
            floor: self.progress.floor,
            changes: self.changes.into_iter().map(|(_, change)| change).collect(),
            ..self.history
        }
    }
}
