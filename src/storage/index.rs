//! Where every log entry lies on disk, and the newest entries in memory.
//!
//! On disk, entries are found by *runs*: of each run only the beginning is known, and its entries are found by reading on
//! from there. So the memory that the index takes follows from the bytes of the log, at most one run for each
//! [`run_bytes`](EntryIndex::new), and not from the number of entries.
//!
//! Invariants: indexes are consecutive; an entry that is not on disk yet is always cached; the cache is a suffix of the
//! log. The entries of a run lie in one segment, in ascending order and without a truncation among them, so that what was
//! truncated is never met on the way from the beginning of a run to its last entry. No IO here.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::{LogEntry, Position};

/// What a cached entry takes in memory besides its payload, in bytes.
const CACHED_ENTRY_BYTES: u64 = 96;

/// Entries that lie one after the other in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// Index of the first entry.
    first: u64,
    segment: u64,
    /// Where the first entry lies in the segment.
    offset: u32,
    /// Payload bytes of all entries before it, purged ones included.
    bytes_before: u64,
}

/// Entries on disk, as returned by [`EntryIndex::find`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OnDisk {
    pub segment: u64,
    /// Where the search begins.
    pub offset: u32,
    /// The index of the entry there.
    pub first: u64,
    /// The entries that are wanted of this run.
    pub wanted: Range<u64>,
    /// Bytes of the segment from there on in which all entries that are wanted lie, later runs included.
    pub bytes: u64,
    /// How often the log had been truncated.
    truncations: u64,
}

/// The next entries of the log, as returned by [`EntryIndex::find`].
#[derive(Debug, Clone)]
pub(super) enum Found {
    Cached(Vec<LogEntry>),
    OnDisk(OnDisk),
}

/// Entries that share a term.
#[derive(Debug, Clone, Copy)]
struct Term {
    /// Index of the first one.
    first: u64,
    term: u64,
}

#[derive(Debug)]
struct Cached {
    payload: Bytes,
    /// Tells a late write of an entry that was truncated from the write of its successor.
    ticket: u32,
}

impl Cached {
    fn bytes(&self) -> u64 {
        self.payload.len() as u64 + CACHED_ENTRY_BYTES
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct EntryIndex {
    purged: Option<Position>,
    /// The position before the first entry. It differs from `purged` only during recovery, before the replay reaches the
    /// purge that allowed the removal of earlier segments.
    base: Option<Position>,
    /// The indexes of the entries; empty if there is none.
    indexes: Range<u64>,
    /// In ascending order; the first one covers the first entry.
    terms: VecDeque<Term>,
    /// In ascending order; the first one covers the first entry if that is on disk.
    runs: VecDeque<Run>,
    run_bytes: u64,
    /// Whether the next entry that is written begins a run, because what was written last is no longer in the log.
    begins_run: bool,
    /// The entries before this one are on disk.
    written: u64,
    cache: VecDeque<Cached>,
    cached_bytes: u64,
    cache_limit: u64,
    next_ticket: u32,
    /// Payload bytes of all entries that are or were on disk. Truncation of entries that are not cached makes it inexact
    /// by less than a run.
    written_bytes: u64,
    /// Payload bytes of the entries that are not on disk yet.
    unwritten_bytes: u64,
    truncations: u64,
}

impl EntryIndex {
    /// An empty index after a position. A run takes about `run_bytes` on disk; at most `cache_limit` bytes of entries are
    /// kept in memory, besides those that are not on disk yet.
    pub fn new(
        purged: Option<Position>,
        base: Option<Position>,
        run_bytes: u64,
        cache_limit: u64,
    ) -> EntryIndex {
        EntryIndex { purged, base, run_bytes, cache_limit, ..EntryIndex::default() }
    }

    pub fn purged(&self) -> Option<Position> {
        self.purged
    }

    /// Whether every entry after the purge mark is there.
    pub fn is_whole(&self) -> bool {
        self.base.is_none_or(|base| self.purged.is_some_and(|purged| base.index <= purged.index))
    }

    pub fn last(&self) -> Option<Position> {
        match self.terms.back() {
            Some(last) => Some(Position { term: last.term, index: self.indexes.end - 1 }),
            None => self.base,
        }
    }

    /// What the cached entries take in memory, in bytes.
    pub fn cached_bytes(&self) -> u64 {
        self.cached_bytes
    }

    /// What everything but the cached entries takes in memory, in bytes.
    pub fn index_bytes(&self) -> u64 {
        (self.runs.capacity() * size_of::<Run>() + self.terms.capacity() * size_of::<Term>()) as u64
    }

    /// Whether an entry of this index may come next. An empty log can begin at any index.
    pub fn continues_at(&self, index: u64) -> bool {
        self.last().is_none_or(|last| index.checked_sub(1) == Some(last.index))
    }

    /// The position of an entry that is in the log, or of the purge mark.
    pub fn position_at(&self, index: u64) -> Option<Position> {
        if let Some(purged) = self.purged
            && purged.index == index
        {
            return self.purged;
        }
        if !self.indexes.contains(&index) {
            return None;
        }
        let after = self.terms.partition_point(|term| term.first <= index);
        Some(Position { term: self.terms[after - 1].term, index })
    }

    /// Adds an entry that is not on disk yet. Returns its ticket for [`EntryIndex::written`].
    pub fn append(&mut self, entry: &LogEntry) -> u32 {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.push(entry, self.next_ticket);
        self.next_ticket
    }

    /// Adds an entry that recovery found on disk.
    pub fn recovered(&mut self, entry: &LogEntry, segment: u64, offset: u32) {
        let ticket = self.append(entry);
        self.written(entry.index, ticket, segment, offset);
        self.evict();
    }

    /// Gives every cached entry memory of its own: those that recovery found share that of whole segments.
    pub fn detach(&mut self) {
        for cached in &mut self.cache {
            cached.payload = Bytes::copy_from_slice(&cached.payload);
        }
    }

    fn push(&mut self, entry: &LogEntry, ticket: u32) {
        let LogEntry { term, index, payload } = entry;
        assert!(self.continues_at(*index), "entry {index} leaves a hole behind {:?}", self.last());
        if self.indexes.is_empty() {
            self.indexes = *index..*index;
            self.written = *index;
            self.begins_run = true;
        }
        self.indexes.end = index + 1;
        if self.terms.back().is_none_or(|last| last.term != *term) {
            self.terms.push_back(Term { first: *index, term: *term });
        }
        let cached = Cached { payload: payload.clone(), ticket };
        self.unwritten_bytes += payload.len() as u64;
        self.cached_bytes += cached.bytes();
        self.cache.push_back(cached);
    }

    /// Index of the first cached entry; the end of the log if there is none.
    fn first_cached(&self) -> u64 {
        self.indexes.end - self.cache.len() as u64
    }

    fn cached(&self, index: u64) -> Option<&Cached> {
        self.cache.get(usize::try_from(index.checked_sub(self.first_cached())?).ok()?)
    }

    /// Payload bytes of cached entries.
    fn bytes_of(&self, indexes: Range<u64>) -> u64 {
        indexes.filter_map(|index| self.cached(index)).map(|cached| cached.payload.len() as u64).sum()
    }

    /// Records where the entry with this ticket lies, which is on disk now. The entry may no longer be in the log.
    pub fn written(&mut self, index: u64, ticket: u32, segment: u64, offset: u32) {
        let Some(cached) = self.cached(index).filter(|cached| cached.ticket == ticket) else {
            self.begins_run = true;
            return;
        };
        let bytes = cached.payload.len() as u64;
        assert_eq!(index, self.written, "entries are written in their order");
        let is_far =
            |run: &Run| run.segment != segment || u64::from(offset) - u64::from(run.offset) >= self.run_bytes;
        if self.begins_run || self.runs.back().is_none_or(is_far) {
            self.runs.push_back(Run { first: index, segment, offset, bytes_before: self.written_bytes });
            self.begins_run = false;
        }
        self.written = index + 1;
        self.written_bytes += bytes;
        self.unwritten_bytes -= bytes;
    }

    /// Evicts the oldest entries beyond the limit, but none that is not on disk.
    pub fn evict(&mut self) {
        while self.cached_bytes > self.cache_limit && self.first_cached() < self.written {
            self.uncache_first();
        }
    }

    fn uncache_first(&mut self) {
        if let Some(cached) = self.cache.pop_front() {
            self.cached_bytes -= cached.bytes();
        }
    }

    /// Removes the entries after `last`.
    pub fn truncate_after(&mut self, last: Option<Position>) {
        let end = last.map_or(0, |last| last.index + 1).clamp(self.indexes.start, self.indexes.end);
        if end == self.indexes.end && !self.indexes.is_empty() {
            return;
        }
        self.truncations += 1;
        let is_cached = end >= self.first_cached();
        while self.indexes.end > end.max(self.first_cached()) {
            let cached = self.cache.pop_back().expect("the cache is a suffix of the log");
            self.indexes.end -= 1;
            self.cached_bytes -= cached.bytes();
            let is_written = self.indexes.end < self.written;
            let bytes = if is_written { &mut self.written_bytes } else { &mut self.unwritten_bytes };
            *bytes -= cached.payload.len() as u64;
        }
        self.indexes.end = end;
        while self.terms.back().is_some_and(|term| term.first >= end) {
            self.terms.pop_back();
        }
        while let Some(cut) = self.runs.back().filter(|run| run.first >= end) {
            if !is_cached {
                self.written_bytes = cut.bytes_before;
            }
            self.runs.pop_back();
        }
        if end < self.written {
            self.begins_run = true;
            self.written = end;
        }
        self.settle();
        if self.indexes.is_empty() {
            // During recovery, the entries cut off may belong to segments that no longer exist.
            self.base = last;
        }
    }

    /// Removes the entries up to `upto`. Returns `false` if they were purged before.
    pub fn purge(&mut self, upto: Position) -> bool {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return false;
        }
        let start = (upto.index + 1).clamp(self.indexes.start, self.indexes.end);
        let unwritten = self.bytes_of(self.written..start);
        self.written_bytes += unwritten;
        self.unwritten_bytes -= unwritten;
        while self.first_cached() < start {
            self.uncache_first();
        }
        self.indexes.start = start;
        self.written = self.written.max(start);
        // The first run and the first term cover what is now the first entry.
        while self.runs.get(1).is_some_and(|next| next.first <= start) {
            self.runs.pop_front();
        }
        while self.terms.get(1).is_some_and(|next| next.first <= start) {
            self.terms.pop_front();
        }
        self.settle();
        self.purged = Some(upto);
        if self.base.is_none_or(|base| base.index <= upto.index) {
            self.base = Some(upto);
        }
        true
    }

    /// Of no entry, nothing is kept.
    fn settle(&mut self) {
        if self.indexes.is_empty() {
            self.runs.clear();
            self.terms.clear();
        }
        assert!(self.first_cached() >= self.indexes.start, "an entry is cached that is not in the log");
        assert!(self.first_cached() <= self.written, "an entry is neither cached nor on disk");
        assert!(!self.cache.is_empty() || self.cached_bytes == 0, "an empty cache holds bytes");
        assert_eq!(self.indexes.is_empty(), self.terms.is_empty(), "every entry has a term");
    }

    /// Payload bytes of the entries after `index`; `None` if the first of them is no longer there. If that one is not
    /// cached, the result may be too high by a run.
    pub fn bytes_after(&self, index: u64) -> Option<u64> {
        if self.last().is_none_or(|last| last.index <= index) {
            return Some(0);
        }
        let next = index + 1;
        if !self.indexes.contains(&next) {
            return None;
        }
        if next >= self.written {
            return Some(self.unwritten_bytes - self.bytes_of(self.written..next));
        }
        let run = self.run_of(next);
        let on_disk = self.written_bytes - run.bytes_before - self.bytes_of(run.first..next);
        Some(on_disk + self.unwritten_bytes)
    }

    /// The run of an entry that is on disk.
    fn run_of(&self, index: u64) -> &Run {
        let after = self.runs.partition_point(|run| run.first <= index);
        &self.runs[after - 1]
    }

    /// Index of the last entry in this segment or an earlier one, if there is one.
    pub fn last_in(&self, segment: u64) -> Option<u64> {
        let after = self.runs.partition_point(|run| run.segment <= segment);
        let end = self.runs.get(after).map_or(self.written, |next| next.first);
        (after > 0).then(|| end - 1).filter(|last| self.indexes.contains(last))
    }

    /// The first entries of `indexes`: the cached ones until their payloads reach `max_bytes`, at least one, or those of one
    /// run on disk. `None`: the log has none of them.
    pub fn find(&self, indexes: Range<u64>, max_bytes: u64) -> Option<Found> {
        let start = indexes.start.max(self.indexes.start);
        let end = indexes.end.min(self.indexes.end);
        if start >= end {
            return None;
        }
        if start >= self.first_cached() {
            let mut bytes = 0;
            let payloads = (start..end).map_while(|index| Some((index, &self.cached(index)?.payload)));
            let fitting = payloads.take_while(|(index, payload)| {
                bytes += payload.len() as u64;
                *index == start || bytes <= max_bytes
            });
            let entry = |(index, payload): (u64, &Bytes)| {
                let Position { term, index } = self.position_at(index).expect("it is in the log");
                LogEntry { term, index, payload: payload.clone() }
            };
            return Some(Found::Cached(fitting.map(entry).collect()));
        }
        let run = self.run_of(start);
        let after = self.runs.partition_point(|other| other.segment <= run.segment && other.first < end);
        let behind = self.runs.get(after).filter(|behind| behind.segment == run.segment);
        let reaches = behind.map_or_else(
            || u64::from(self.runs[after - 1].offset) + self.run_bytes,
            |behind| u64::from(behind.offset),
        );
        let bytes = reaches - u64::from(run.offset);
        let end = end.min(self.first_cached()).min(self.end_of(run));
        Some(Found::OnDisk(OnDisk {
            bytes,
            segment: run.segment,
            offset: run.offset,
            first: run.first,
            wanted: start..end,
            truncations: self.truncations,
        }))
    }

    /// The index after the last entry of a run.
    fn end_of(&self, run: &Run) -> u64 {
        let after = self.runs.partition_point(|other| other.first <= run.first);
        self.runs.get(after).map_or(self.written, |next| next.first)
    }

    /// How often entries were truncated: what was read before and after a truncation does not fit together.
    pub fn truncations(&self) -> u64 {
        self.truncations
    }

    /// Whether the entries still lie where they were found.
    pub fn still_has(&self, found: &OnDisk) -> bool {
        self.truncations == found.truncations && self.indexes.start <= found.wanted.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RUN_BYTES: u64 = 100;

    fn new(cached_entries: u64) -> EntryIndex {
        EntryIndex::new(None, None, RUN_BYTES, cached_entries * (10 + CACHED_ENTRY_BYTES))
    }

    fn entry(term: u64, index: u64, length: usize) -> LogEntry {
        LogEntry { term, index, payload: vec![index as u8; length].into() }
    }

    /// Appends entries of ten bytes; returns their tickets.
    fn append(index: &mut EntryIndex, term: u64, indexes: Range<u64>) -> Vec<u32> {
        indexes.map(|number| index.append(&entry(term, number, 10))).collect()
    }

    fn on_disk(index: &EntryIndex, indexes: Range<u64>) -> Option<OnDisk> {
        match index.find(indexes, u64::MAX)? {
            Found::OnDisk(found) => Some(found),
            Found::Cached(_) => None,
        }
    }

    fn cached(index: &EntryIndex, indexes: Range<u64>, max_bytes: u64) -> Vec<u64> {
        match index.find(indexes, max_bytes) {
            Some(Found::Cached(entries)) => entries.iter().map(|entry| entry.index).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn the_bytes_behind_an_entry_are_known_as_far_as_the_log_reaches_back() {
        let mut index = new(10);
        (1..=4).for_each(|number| {
            index.append(&entry(1, number, 10 * number as usize));
        });
        assert_eq!(index.bytes_after(0), Some(100));
        assert_eq!(index.bytes_after(2), Some(70));
        assert_eq!(index.bytes_after(4), Some(0));
        index.purge(Position { term: 1, index: 2 });
        assert_eq!(index.bytes_after(1), None, "what comes next was purged");
        assert_eq!(index.bytes_after(2), Some(70));
    }

    #[test]
    fn an_entry_leaves_memory_only_after_it_was_written() {
        let mut index = new(1);
        let tickets = append(&mut index, 1, 5..9);
        let all = index.cached_bytes();
        index.evict();
        assert_eq!(index.cached_bytes(), all);
        index.written(5, tickets[0], 1, 100);
        index.written(6, tickets[1], 1, 150);
        index.evict();
        assert_eq!(index.cached_bytes(), all / 2, "7 and 8 are not on disk yet");
        let found = on_disk(&index, 6..20).unwrap();
        assert_eq!((found.segment, found.offset, found.first, found.wanted), (1, 100, 5, 6..7));
        assert_eq!(cached(&index, 7..20, u64::MAX), [7, 8]);
        assert_eq!((cached(&index, 7..20, 0), cached(&index, 7..8, 100)), (vec![7], vec![7]));
    }

    #[test]
    fn a_run_ends_with_its_bytes_and_with_its_segment() {
        let mut index = new(0);
        let tickets = append(&mut index, 1, 1..9);
        let places = [(1, 0), (1, 50), (1, 100), (1, 150), (1, 199), (2, 8), (2, 30), (2, 108)];
        for ((number, ticket), (segment, offset)) in (1..).zip(tickets).zip(places) {
            index.written(number, ticket, segment, offset);
        }
        index.evict();
        let runs: Vec<_> = (1..9).map(|number| on_disk(&index, number..number + 1).unwrap().first).collect();
        assert_eq!(runs, [1, 1, 3, 3, 3, 6, 6, 8]);
        assert_eq!((index.last_in(0), index.last_in(1), index.last_in(2)), (None, Some(5), Some(8)));
        assert_eq!(index.bytes_after(4), Some(60), "counted from the beginning of the run");
        index.purge(Position { term: 1, index: 4 });
        assert_eq!((on_disk(&index, 0..9).unwrap().first, index.last_in(1)), (3, Some(5)));
        index.purge(Position { term: 1, index: 5 });
        assert_eq!((on_disk(&index, 0..9).unwrap().first, index.last_in(1)), (6, None));
    }

    #[test]
    fn a_late_write_does_not_claim_the_place_of_its_successor() {
        let mut index = new(0);
        let old = append(&mut index, 1, 1..2)[0];
        index.truncate_after(None);
        let new = append(&mut index, 1, 1..2)[0];
        index.written(1, old, 1, 100);
        index.evict();
        assert_eq!(cached(&index, 1..2, u64::MAX), [1]);
        index.written(1, new, 1, 200);
        index.evict();
        assert_eq!(on_disk(&index, 1..2).unwrap().offset, 200);
    }

    #[test]
    fn what_was_truncated_does_not_lie_in_a_run() {
        let mut index = new(0);
        for (number, ticket) in (1..).zip(append(&mut index, 1, 1..5)) {
            index.written(number, ticket, 1, 10 * number as u32);
        }
        index.evict();
        let before = on_disk(&index, 2..5).unwrap();
        index.truncate_after(Some(Position { term: 1, index: 2 }));
        assert!(!index.still_has(&before));
        for (number, ticket) in (3..).zip(append(&mut index, 2, 3..5)) {
            index.written(number, ticket, 1, 20 + 10 * number as u32);
        }
        index.evict();
        assert_eq!(on_disk(&index, 2..5).unwrap().wanted, 2..3);
        let found = on_disk(&index, 3..5).unwrap();
        assert_eq!((found.first, found.offset, found.wanted.clone()), (3, 50, 3..5));
        assert!(index.still_has(&found));
        index.purge(Position { term: 2, index: 3 });
        assert!(!index.still_has(&found));
        assert_eq!(index.position_at(4), Some(Position { term: 2, index: 4 }));
    }

    #[test]
    fn purge_and_truncate_keep_the_rest_in_order() {
        let mut index = new(100);
        (1..=9).for_each(|i| {
            index.append(&entry(i / 3, i, 10));
        });
        index.truncate_after(Some(Position { term: 2, index: 7 }));
        assert!(index.purge(Position { term: 1, index: 3 }));
        assert!(!index.purge(Position { term: 0, index: 2 }));
        assert_eq!(cached(&index, 0..100, u64::MAX), [4, 5, 6, 7]);
        assert_eq!(cached(&index, 5..100, 25), [5, 6]);
        assert_eq!(index.bytes_after(3), Some(40));
        assert!(index.purge(Position { term: 9, index: 20 }));
        assert_eq!((index.last(), index.cached_bytes()), (Some(Position { term: 9, index: 20 }), 0));
        assert!(index.continues_at(21) && !index.continues_at(22));
    }

    #[test]
    fn after_a_truncation_of_everything_that_was_not_purged_nothing_is_left() {
        let mut index = new(0);
        for (number, ticket) in (1..).zip(append(&mut index, 1, 1..5)) {
            index.written(number, ticket, 1, 10 * number as u32);
        }
        index.evict();
        index.purge(Position { term: 1, index: 2 });
        index.truncate_after(Some(Position { term: 1, index: 2 }));
        assert_eq!((index.last(), index.last_in(1)), (Some(Position { term: 1, index: 2 }), None));
        append(&mut index, 3, 3..4);
        assert_eq!(index.position_at(3), Some(Position { term: 3, index: 3 }));
    }

    #[test]
    #[should_panic(expected = "leaves a hole")]
    fn a_hole_is_our_own_bug() {
        let mut index = new(1000);
        append(&mut index, 1, 7..8);
        append(&mut index, 1, 9..10);
    }

    /// A change of the log.
    #[derive(Debug, Clone)]
    enum Step {
        Append { newer: bool, lengths: Vec<usize> },
        Write(usize),
        Truncate(u64),
        Purge(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let lengths = proptest::collection::vec(0..60usize, 1..6);
        prop_oneof![
            4 => (any::<bool>(), lengths).prop_map(|(newer, lengths)| Step::Append { newer, lengths }),
            4 => (1..8usize).prop_map(Step::Write),
            1 => (0..5u64).prop_map(Step::Truncate),
            1 => (0..9u64).prop_map(Step::Purge),
        ]
    }

    proptest! {
        /// Against a plain list of entries, and a disk to which everything is written in order, what was truncated included.
        #[test]
        fn every_entry_is_found_where_it_was_written(steps in proptest::collection::vec(step(), 1..60)) {
            let mut index = new(3);
            let mut log: VecDeque<LogEntry> = VecDeque::new();
            let mut purged = None;
            let mut term = 1;
            let mut queue: VecDeque<(LogEntry, u32)> = VecDeque::new();
            let mut disk: Vec<(u64, u32, LogEntry)> = Vec::new();
            for step in steps {
                let last = log.back().map(LogEntry::position).or(purged);
                match step {
                    Step::Append { newer, lengths } => {
                        term += u64::from(newer);
                        for length in lengths {
                            let next = index.last().map_or(1, |last| last.index + 1);
                            let entry = entry(term, next, length);
                            queue.push_back((entry.clone(), index.append(&entry)));
                            log.push_back(entry);
                        }
                    }
                    Step::Write(count) => {
                        for (entry, ticket) in queue.drain(..count.min(queue.len())) {
                            let place = disk.len() as u32;
                            let (segment, offset) = (u64::from(place / 16), place % 16 * 40);
                            index.written(entry.index, ticket, segment, offset);
                            disk.push((segment, offset, entry));
                        }
                        index.evict();
                    }
                    Step::Truncate(count) => {
                        let keep = log.len().saturating_sub(count as usize);
                        log.truncate(keep);
                        index.truncate_after(log.back().map(LogEntry::position).or(purged));
                    }
                    Step::Purge(count) => {
                        let Some(last) = last else { continue };
                        let upto = log.get(count as usize).map_or(last, LogEntry::position);
                        log.retain(|entry| entry.index > upto.index);
                        if purged.is_none_or(|purged: Position| purged.index < upto.index) {
                            purged = Some(upto);
                        }
                        index.purge(upto);
                    }
                }
                prop_assert_eq!(index.last(), log.back().map(LogEntry::position).or(purged));
                for entry in &log {
                    prop_assert_eq!(index.position_at(entry.index), Some(entry.position()));
                    let found = index.find(entry.index..entry.index + 1, u64::MAX);
                    match found.expect("it is in the log") {
                        Found::Cached(cached) => prop_assert_eq!(&cached, &vec![entry.clone()]),
                        Found::OnDisk(found) => {
                            prop_assert!(index.still_has(&found));
                            let from_there = disk.iter().skip_while(|(segment, offset, _)| {
                                (*segment, *offset) != (found.segment, found.offset)
                            });
                            let run = from_there.take((entry.index - found.first + 1) as usize);
                            let run: Vec<_> = run.map(|(segment, _, entry)| (*segment, entry.clone())).collect();
                            prop_assert!(run.iter().all(|(segment, _)| *segment == found.segment));
                            prop_assert!(run.iter().map(|(_, entry)| entry.index).is_sorted());
                            prop_assert_eq!(&run.last().unwrap().1, entry);
                        }
                    }
                }
                let exact: u64 = log.iter().map(|entry| entry.payload.len() as u64).sum();
                if let (Some(first), Some(bytes)) = (log.front(), index.bytes_after(log.front().map_or(0, |e| e.index - 1))) {
                    prop_assert!(bytes >= exact, "{bytes} bytes after {}, and {exact} are there", first.index - 1);
                    // A run of records of 40 bytes each, with payloads of at most 60.
                    prop_assert!(bytes <= exact + 2 * 60 * (RUN_BYTES / 40 + 1));
                }
            }
        }
    }
}
