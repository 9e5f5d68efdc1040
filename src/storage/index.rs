//! The location of every log entry, and the newest entries in memory.
//!
//! Invariants: indexes are consecutive; an entry that is not on disk yet is always cached; the cache is a suffix of the
//! log. No IO here.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{LogEntry, Position};

/// An entry's location on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub segment: u64,
    pub offset: u32,
    /// Length of the payload in bytes.
    pub length: u32,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    term: u64,
    /// Zero: not on disk yet, and `offset` holds the entry's ticket instead.
    segment: u64,
    offset: u32,
    length: u32,
}

/// An entry as returned by [`EntryIndex::plan`].
#[derive(Debug, Clone)]
pub(super) enum Found {
    Cached(LogEntry),
    OnDisk(Position, Location),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct EntryIndex {
    purged: Option<Position>,
    /// The position before the first slot. It differs from `purged` only during recovery, before the replay reaches the
    /// purge that allowed the removal of earlier segments.
    base: Option<Position>,
    /// Index of the first slot's entry, if there is one.
    first: u64,
    slots: VecDeque<Slot>,
    cache: VecDeque<Bytes>,
    cached_bytes: u64,
    cache_limit: u64,
    next_ticket: u32,
}

impl EntryIndex {
    pub fn new(purged: Option<Position>, base: Option<Position>, cache_limit: u64) -> EntryIndex {
        EntryIndex { purged, base, cache_limit, ..EntryIndex::default() }
    }

    pub fn purged(&self) -> Option<Position> {
        self.purged
    }

    /// Whether every entry after the purge mark is there.
    pub fn is_whole(&self) -> bool {
        self.base.is_none_or(|base| self.purged.is_some_and(|purged| base.index <= purged.index))
    }

    pub fn last(&self) -> Option<Position> {
        match self.slots.back() {
            Some(slot) => Some(Position { term: slot.term, index: self.first + self.slots.len() as u64 - 1 }),
            None => self.base,
        }
    }

    pub fn cached_bytes(&self) -> u64 {
        self.cached_bytes
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
        self.slot(index).map(|slot| Position { term: slot.term, index })
    }

    fn place(&self, index: u64) -> Option<usize> {
        let place = usize::try_from(index.checked_sub(self.first)?).ok()?;
        (place < self.slots.len()).then_some(place)
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.place(index).map(|place| &self.slots[place])
    }

    /// Adds an entry that is not on disk yet. Returns its ticket for [`EntryIndex::written`].
    pub fn append(&mut self, entry: &LogEntry) -> u32 {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let length = u32::try_from(entry.payload.len()).expect("an entry is bounded");
        let slot = Slot { term: entry.term, segment: 0, offset: self.next_ticket, length };
        self.push(entry, slot);
        self.next_ticket
    }

    /// Adds an entry that recovery found on disk.
    pub fn recovered(&mut self, entry: &LogEntry, location: Location) {
        let Location { segment, offset, length } = location;
        self.push(entry, Slot { term: entry.term, segment, offset, length });
        self.evict();
    }

    fn push(&mut self, entry: &LogEntry, slot: Slot) {
        assert!(
            self.continues_at(entry.index),
            "entry {} leaves a hole behind {:?}",
            entry.index,
            self.last()
        );
        if self.slots.is_empty() {
            self.first = entry.index;
        }
        self.slots.push_back(slot);
        self.cached_bytes += entry.payload.len() as u64;
        self.cache.push_back(entry.payload.clone());
    }

    /// Records the location of the entry with this ticket, which is on disk now. The entry may no longer be in the log.
    pub fn written(&mut self, index: u64, ticket: u32, segment: u64, offset: u32) {
        if let Some(place) = self.place(index) {
            let slot = &mut self.slots[place];
            if slot.segment == 0 && slot.offset == ticket {
                (slot.segment, slot.offset) = (segment, offset);
            }
        }
    }

    /// Evicts the oldest payloads beyond the limit, but none that is not on disk.
    pub fn evict(&mut self) {
        while self.cached_bytes > self.cache_limit && !self.cache.is_empty() {
            if self.slots[self.slots.len() - self.cache.len()].segment == 0 {
                break;
            }
            self.uncache_first();
        }
    }

    fn uncache_first(&mut self) {
        if let Some(payload) = self.cache.pop_front() {
            self.cached_bytes -= payload.len() as u64;
        }
    }

    /// Removes the entries after `last`.
    pub fn truncate_after(&mut self, last: Option<Position>) {
        while let Some(end) = self.last()
            && !self.slots.is_empty()
            && last.is_none_or(|last| end.index > last.index)
        {
            self.slots.pop_back();
            if let Some(payload) = self.cache.pop_back() {
                self.cached_bytes -= payload.len() as u64;
            }
        }
        self.check();
        if self.slots.is_empty() {
            // During recovery, the entries cut off may belong to segments that no longer exist.
            self.base = last;
        }
    }

    /// Removes the entries up to `upto`. Returns `false` if they were purged before.
    pub fn purge(&mut self, upto: Position) -> bool {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return false;
        }
        while !self.slots.is_empty() && self.first <= upto.index {
            if self.cache.len() == self.slots.len() {
                self.uncache_first();
            }
            self.slots.pop_front();
            self.first += 1;
        }
        self.check();
        self.purged = Some(upto);
        if self.base.is_none_or(|base| base.index <= upto.index) {
            self.base = Some(upto);
        }
        true
    }

    /// The cache is a suffix of the log.
    fn check(&self) {
        assert!(self.cache.len() <= self.slots.len(), "an entry is cached that is not in the log");
        assert!(!self.cache.is_empty() || self.cached_bytes == 0, "an empty cache holds bytes");
    }

    /// Payload bytes of the entries after `index`; `None` if the first of them is no longer there.
    pub fn bytes_after(&self, index: u64) -> Option<u64> {
        if self.last().is_none_or(|last| last.index <= index) {
            return Some(0);
        }
        let place = self.place(index + 1)?;
        Some(self.slots.range(place..).map(|slot| u64::from(slot.length)).sum())
    }

    /// Index of the last entry in this segment or an earlier one, if there is one.
    pub fn last_in(&self, segment: u64) -> Option<u64> {
        // Entries that are not on disk yet come last.
        let count = self.slots.partition_point(|slot| slot.segment != 0 && slot.segment <= segment);
        count.checked_sub(1).map(|place| self.first + place as u64)
    }

    /// The entries of `start..end` that are in the log, until their payloads reach `max_bytes`, but at least one.
    pub fn plan(&self, start: u64, end: u64, max_bytes: u64) -> Vec<Found> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut index = start.max(self.first);
        let uncached = self.slots.len() - self.cache.len();
        while index < end
            && let Some(place) = self.place(index)
        {
            let slot = self.slots[place];
            bytes += u64::from(slot.length);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(if place >= uncached {
                let payload = self.cache[place - uncached].clone();
                Found::Cached(LogEntry { term: slot.term, index, payload })
            } else {
                let Slot { term, segment, offset, length } = slot;
                Found::OnDisk(Position { term, index }, Location { segment, offset, length })
            });
            index += 1;
        }
        found
    }

    /// Whether the entry is still at this location.
    pub fn lies_at(&self, position: Position, location: Location) -> bool {
        self.slot(position.index).is_some_and(|slot| {
            (slot.term, slot.segment, slot.offset) == (position.term, location.segment, location.offset)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64, length: usize) -> LogEntry {
        LogEntry { term, index, payload: vec![index as u8; length].into() }
    }

    fn indexes(index: &EntryIndex) -> Vec<u64> {
        index
            .plan(0, u64::MAX, u64::MAX)
            .iter()
            .map(|found| match found {
                Found::Cached(entry) => entry.index,
                Found::OnDisk(position, _) => position.index,
            })
            .collect()
    }

    #[test]
    fn the_bytes_behind_an_entry_are_known_as_far_as_the_log_reaches_back() {
        let mut index = EntryIndex::new(None, None, 10);
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
        let mut index = EntryIndex::new(None, None, 10);
        let tickets: Vec<u32> = (5..9).map(|i| index.append(&entry(1, i, 10))).collect();
        index.evict();
        assert_eq!(index.cached_bytes(), 40);
        index.written(5, tickets[0], 1, 100);
        index.written(6, tickets[1], 1, 200);
        index.evict();
        assert_eq!(index.cached_bytes(), 20, "7 and 8 are not on disk yet");
        let location = Location { segment: 1, offset: 200, length: 10 };
        assert!(index.lies_at(Position { term: 1, index: 6 }, location));
        assert!(matches!(index.plan(6, 7, 0)[..], [Found::OnDisk(_, found)] if found == location));
    }

    #[test]
    fn a_late_write_does_not_claim_the_place_of_its_successor() {
        let mut index = EntryIndex::new(None, None, 0);
        let old = index.append(&entry(1, 1, 5));
        index.truncate_after(None);
        let new = index.append(&entry(1, 1, 5));
        index.written(1, old, 1, 100);
        index.evict();
        assert_eq!(index.cached_bytes(), 5);
        index.written(1, new, 1, 200);
        assert!(
            index.lies_at(Position { term: 1, index: 1 }, Location { segment: 1, offset: 200, length: 5 })
        );
    }

    #[test]
    fn purge_and_truncate_keep_the_rest_in_order() {
        let mut index = EntryIndex::new(None, None, 1000);
        (1..=9).for_each(|i| {
            index.append(&entry(i / 3, i, 10));
        });
        index.truncate_after(Some(Position { term: 2, index: 7 }));
        assert!(index.purge(Position { term: 1, index: 3 }));
        assert!(!index.purge(Position { term: 0, index: 2 }));
        assert_eq!(indexes(&index), [4, 5, 6, 7]);
        assert_eq!(index.cached_bytes(), 40);
        assert_eq!(index.plan(5, 100, 25).len(), 2);
        assert!(index.purge(Position { term: 9, index: 20 }));
        assert_eq!((index.last(), index.cached_bytes()), (Some(Position { term: 9, index: 20 }), 0));
        assert!(index.continues_at(21) && !index.continues_at(22));
    }

    #[test]
    #[should_panic(expected = "leaves a hole")]
    fn a_hole_is_our_own_bug() {
        let mut index = EntryIndex::new(None, None, 1000);
        index.append(&entry(1, 7, 1));
        index.append(&entry(1, 9, 1));
    }
}
