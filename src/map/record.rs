//! One version of one key: what a write, or a deletion, left behind.
//!
//! A record is one allocation that holds the key, the value and the numbers, and is never changed: clones of the map,
//! the history and the order of changes share it. So a version costs its payload, 48 bytes and the pointers to it.

use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;
use equivalent::{Comparable, Equivalent};
use triomphe::ThinArc;

use super::Entry;
use super::sizes::VERSION_BYTES;

/// A change's place in the order of all changes: the revision that it belongs to, and its number within it, from 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeAt {
    /// The revision.
    pub revision: u64,
    /// How many changes the revision made before this one.
    pub place: u32,
}

impl ChangeAt {
    /// The place after all changes of a revision.
    pub fn after(revision: u64) -> ChangeAt {
        ChangeAt { revision: revision.saturating_add(1), place: 0 }
    }

    /// The place right after this one.
    pub fn next(self) -> ChangeAt {
        let after = ChangeAt::after(self.revision);
        self.place.checked_add(1).map_or(after, |place| ChangeAt { place, ..self })
    }
}

/// A version of a key; cloning it copies a pointer.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(ThinArc<Header, u8>);

// The fields lie side by side, because a nested `ChangeAt` would have padding of its own: together with the counter of
// references and the length, a record of 16 + 256 bytes then takes 320, a size class of every allocator.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Header {
    revision: u64,
    create_revision: u64,
    /// Zero: a deletion.
    version: u64,
    place: u32,
    key_bytes: u32,
}

const _: () = assert!(size_of::<Header>() == 32, "a record takes 48 bytes besides key and value");

impl Record {
    /// A version that a write made.
    pub(super) fn written(
        key: &[u8],
        value: &[u8],
        at: ChangeAt,
        create_revision: u64,
        version: u64,
    ) -> Record {
        assert!(
            version > 0 && create_revision <= at.revision,
            "a version counts the writes since it was created"
        );
        Record::new(key, value, at, create_revision, version)
    }

    /// What a deletion leaves behind.
    pub(super) fn deletion(key: &[u8], at: ChangeAt) -> Record {
        Record::new(key, b"", at, 0, 0)
    }

    fn new(key: &[u8], value: &[u8], at: ChangeAt, create_revision: u64, version: u64) -> Record {
        let ChangeAt { revision, place } = at;
        let key_bytes = u32::try_from(key.len()).expect("a key is shorter than 4 GiB");
        let header = Header { revision, create_revision, version, place, key_bytes };
        Record(ThinArc::from_header_and_slice(header, &[key, value].concat()))
    }

    fn header(&self) -> &Header {
        &self.0.header.header
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.0.slice[..self.header().key_bytes as usize]
    }

    /// The value; empty if this is a deletion.
    pub fn value(&self) -> &[u8] {
        &self.0.slice[self.header().key_bytes as usize..]
    }

    /// The change that made it.
    pub fn at(&self) -> ChangeAt {
        ChangeAt { revision: self.header().revision, place: self.header().place }
    }

    /// The revision that made it.
    pub fn revision(&self) -> u64 {
        self.header().revision
    }

    /// The revision that created the key; 0 if this is a deletion.
    pub fn create_revision(&self) -> u64 {
        self.header().create_revision
    }

    /// Number of writes since the key was created, from 1; 0 if this is a deletion.
    pub fn version(&self) -> u64 {
        self.header().version
    }

    /// Whether the key does not exist from this change on.
    pub fn is_deletion(&self) -> bool {
        self.version() == 0
    }

    /// What takes part in the size of the store: key and value, in bytes.
    pub(super) fn payload_bytes(&self) -> u64 {
        self.0.slice.len() as u64
    }

    /// What it counts against the bound of the store, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.payload_bytes() + VERSION_BYTES
    }

    /// The value and the numbers, for readers; `None` if this is a deletion.
    pub fn entry(&self) -> Option<Entry> {
        self.entry_without_value().map(|entry| Entry { value: self.shared_value(), ..entry })
    }

    /// The value, not copied if it is long.
    pub(super) fn shared_value(&self) -> Bytes {
        // Sharing costs an allocation of its own, so a short value is copied.
        const COPIED_BYTES: usize = 4 << 10;
        match self.value() {
            value if value.len() <= COPIED_BYTES => Bytes::copy_from_slice(value),
            _ => Bytes::from_owner(SharedValue(self.clone())),
        }
    }

    /// The same with an empty value.
    pub fn entry_without_value(&self) -> Option<Entry> {
        (!self.is_deletion()).then(|| Entry {
            value: Bytes::new(),
            create_revision: self.create_revision(),
            mod_revision: self.revision(),
            version: self.version(),
        })
    }
}

/// A value that keeps its record in memory.
struct SharedValue(Record);

impl AsRef<[u8]> for SharedValue {
    fn as_ref(&self) -> &[u8] {
        self.0.value()
    }
}

// Written by hand, because values must not appear in messages or logs.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("key", &self.key().escape_ascii().to_string())
            .field("value_bytes", &self.value().len())
            .field("at", &self.at())
            .field("create_revision", &self.create_revision())
            .field("version", &self.version())
            .finish()
    }
}

/// A record in the order of keys.
#[derive(Debug, Clone)]
pub(super) struct ByKey(pub(super) Record);

impl Ord for ByKey {
    fn cmp(&self, other: &ByKey) -> Ordering {
        self.0.key().cmp(other.0.key())
    }
}

/// A record in the order of keys and, for one key, of changes.
#[derive(Debug, Clone)]
pub(super) struct ByVersion(pub(super) Record);

impl Ord for ByVersion {
    fn cmp(&self, other: &ByVersion) -> Ordering {
        (self.0.key(), self.0.at()).cmp(&(other.0.key(), other.0.at()))
    }
}

macro_rules! ordered {
    ($($order:ty)*) => {$(
        impl PartialOrd for $order {
            fn partial_cmp(&self, other: &$order) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl PartialEq for $order {
            fn eq(&self, other: &$order) -> bool {
                self.cmp(other) == Ordering::Equal
            }
        }

        impl Eq for $order {}
    )*};
}

ordered!(ByKey ByVersion);

/// A key that is looked up in the order of keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfKey<'a>(pub(super) &'a [u8]);

impl Equivalent<ByKey> for OfKey<'_> {
    fn equivalent(&self, record: &ByKey) -> bool {
        self.0 == record.0.key()
    }
}

impl Comparable<ByKey> for OfKey<'_> {
    fn compare(&self, record: &ByKey) -> Ordering {
        self.0.cmp(record.0.key())
    }
}

/// A place between two records in the order of versions; it is equal to none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gap<'a> {
    key: &'a [u8],
    before: ChangeAt,
}

impl<'a> Gap<'a> {
    /// Before the version of the key that this change made, or would have made.
    pub(super) fn before(key: &'a [u8], before: ChangeAt) -> Gap<'a> {
        Gap { key, before }
    }

    /// Before all versions of the key.
    pub(super) fn before_all(key: &'a [u8]) -> Gap<'a> {
        Gap { key, before: ChangeAt::default() }
    }

    /// After all versions of the key.
    pub(super) fn after_all(key: &'a [u8]) -> Gap<'a> {
        // No change has this place: no revision can follow it.
        Gap { key, before: ChangeAt { revision: u64::MAX, place: u32::MAX } }
    }
}

impl Equivalent<ByVersion> for Gap<'_> {
    fn equivalent(&self, _: &ByVersion) -> bool {
        false
    }
}

impl Comparable<ByVersion> for Gap<'_> {
    fn compare(&self, record: &ByVersion) -> Ordering {
        self.key
            .cmp(record.0.key())
            .then_with(|| if self.before <= record.0.at() { Ordering::Less } else { Ordering::Greater })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = Record> {
        (vec(0..3u8, 0..4), vec(any::<u8>(), 0..4), 1..5u64, 0..3u32, 0..2u64).prop_map(
            |(key, value, revision, place, version)| {
                let at = ChangeAt { revision, place };
                match version {
                    0 => Record::deletion(&key, at),
                    _ => Record::written(&key, &value, at, 1, version),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_keeps_what_it_was_made_of(key in vec(any::<u8>(), 0..50), value in vec(any::<u8>(), 0..50)) {
            let at = ChangeAt { revision: 7, place: 3 };
            let record = Record::written(&key, &value, at, 5, 2);
            prop_assert_eq!((record.key(), record.value(), record.at()), (&key[..], &value[..], at));
            prop_assert_eq!((record.create_revision(), record.version(), record.is_deletion()), (5, 2, false));
            prop_assert_eq!(record.payload_bytes(), (key.len() + value.len()) as u64);
            let entry = record.entry().unwrap();
            prop_assert_eq!((&entry.value[..], entry.create_revision, entry.mod_revision, entry.version), (&value[..], 5, 7, 2));
            let gone = Record::deletion(&key, at);
            prop_assert_eq!((gone.key(), gone.entry(), gone.is_deletion()), (&key[..], None, true));
        }

        #[test]
        fn a_gap_lies_right_before_or_after_its_change(a in record(), b in record()) {
            prop_assert_eq!(OfKey(a.key()).compare(&ByKey(b.clone())), ByKey(a.clone()).cmp(&ByKey(b.clone())));
            let (one, other) = (ByVersion(a.clone()), ByVersion(b.clone()));
            let before = Gap::before(a.key(), a.at());
            let after = Gap::before(a.key(), ChangeAt::after(a.revision()));
            prop_assert_eq!(before.compare(&other) == Ordering::Less, one <= other);
            let is_of_a_later_revision = (a.key(), a.revision()) < (b.key(), b.revision());
            prop_assert_eq!(after.compare(&other) == Ordering::Less, is_of_a_later_revision);
            let same_key = a.key() == b.key();
            prop_assert_eq!(Gap::before_all(a.key()).compare(&other) == Ordering::Less, same_key || one < other);
            prop_assert_eq!(Gap::after_all(a.key()).compare(&other) == Ordering::Greater, same_key || one > other);
        }
    }
}
