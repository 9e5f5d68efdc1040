//! A digest of the state, equal on replicas that are equal.
//!
//! The digest is the sum, modulo 2^128, of one hash per item of the state: each entry, each session, each remembered
//! answer, each tombstone, and the counters and settings together. A change subtracts the hash of the old item and adds
//! that of the new one, so its cost does not depend on the number of keys; and since addition is commutative, a
//! restored map has the same digest as a map that applied every command.
//!
//! Why a sum is enough: the hashes behave like independent random numbers, so the digests of two states that differ by
//! an accident (a lost entry, a command applied twice or in another order) differ by a sum of random numbers, which is
//! zero with probability 2^-128. It is a sum and not an exclusive or, in which an item counted twice would cancel out.
//! Why it is not more: xxh3 is no cryptographic hash, and even with one, an attacker who may choose the items finds a
//! second set with the same sum (Wagner's generalized birthday attack). The digest finds faulty replicas; it proves
//! nothing about a malicious one.
//!
//! What it does not find by itself: the sum is maintained incrementally, so a bit flip in memory shows only when the
//! items are summed up anew ([`Audit`](super::Audit)): in the background, before each snapshot, and when a snapshot is
//! read.
//!
//! The numbers are compared between nodes and stored in snapshots, so what is hashed, and how, is part of the format.
//!
//! What is displayed: an observer of the sum before and after a write can compute the hash of what was written, and try
//! values until one fits. So the sum stays between nodes and in snapshots, which hold the values anyway. Users and
//! clients see an HMAC of it ([`DigestKey::show`]), with a key that the cluster has drawn at random and keeps in its
//! state. Equal states of one cluster display equal numbers, also after a restore from a backup, which holds the key.

use super::Answer;
use super::history::Progress;
use super::record::Record;
use crate::node_id::NodeId;
use crate::replicated_settings::{Settings, seconds_of_age};
use hmac::{Hmac, KeyInit, Mac};
use mokv_proto::log;
use prost::Message as _;
use sha2::Sha256;
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use xxhash_rust::xxh3::xxh3_128;

/// The key of the displayed digests. A secret of the cluster's members: with the key an observer can try values against
/// the digests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DigestKey([u8; DigestKey::BYTES]);

impl DigestKey {
    /// Its length in bytes.
    pub const BYTES: usize = 32;

    /// The key of these bytes, which must be unpredictable.
    pub fn new(bytes: [u8; DigestKey::BYTES]) -> DigestKey {
        DigestKey(bytes)
    }

    /// For log entries and snapshots only.
    pub(super) fn bytes(&self) -> &[u8; DigestKey::BYTES] {
        &self.0
    }

    /// The displayed form of a [digest](super::Map::digest): the first half of its HMAC-SHA256 (RFC 2104).
    pub fn show(&self, digest: u128) -> ShownDigest {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        let code = mac.chain_update(digest.to_be_bytes()).finalize().into_bytes();
        ShownDigest(u128::from_be_bytes(code[..16].try_into().expect("half of 32 bytes")))
    }
}

// Written by hand, because the key must not appear in messages or logs.
impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey")
    }
}

/// The displayed form of a digest: 32 hexadecimal digits, equal for equal states of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownDigest(u128);

impl fmt::Display for ShownDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A sum of items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Digest(u128);

impl Digest {
    pub(super) fn add(&mut self, item: Item) {
        self.0 = self.0.wrapping_add(item.0);
    }

    pub(super) fn remove(&mut self, item: Item) {
        self.0 = self.0.wrapping_sub(item.0);
    }

    /// The sum of this digest, others and some further items.
    pub(super) fn total(
        self,
        others: impl IntoIterator<Item = Digest>,
        items: impl IntoIterator<Item = Item>,
    ) -> u128 {
        let sum = others.into_iter().fold(self.0, |sum, other| sum.wrapping_add(other.0));
        items.into_iter().fold(sum, |sum, item| sum.wrapping_add(item.0))
    }
}

/// The hash of one item of the state.
///
/// An item is encoded as a row of 16-byte numbers: first the kind of item, then its fields; a byte string is
/// represented by its own hash. Rows of one kind have one length, so no two items have the same encoding.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item(u128);

const STATE: u128 = 1;
const RECORD: u128 = 2;
const SESSION: u128 = 3;
const ANSWER: u128 = 4;
const TOMBSTONE: u128 = 5;
const WANTED_SIZE: u128 = 6;
const DIGEST_KEY: u128 = 7;
const COMPACTION: u128 = 8;

impl Item {
    /// The items that exist once: counters, settings, the key of the displayed digests.
    pub(super) fn standing(
        revision: u64,
        compaction: Progress,
        settings: &Settings,
        cluster_version: u32,
        digest_key: Option<&DigestKey>,
    ) -> impl Iterator<Item = Item> + use<> {
        let always = [Item::state(revision, settings, cluster_version), Item::compaction(compaction)];
        let younger = [Item::wanted_size(settings.wanted_size), Item::digest_key(digest_key)];
        always.into_iter().chain(younger.into_iter().flatten())
    }

    /// How far compaction has come.
    pub(super) fn compaction(progress: Progress) -> Item {
        let Progress { floor, start, settled_until } = progress;
        Item::hash([
            COMPACTION,
            floor.into(),
            start.revision.into(),
            start.place.into(),
            settled_until.revision.into(),
            settled_until.place.into(),
        ])
    }

    pub(super) fn state(revision: u64, settings: &Settings, cluster_version: u32) -> Item {
        // The wanted size is a separate item, because it was added in a later version.
        let Settings {
            max_sessions,
            max_store_bytes,
            history_max_age,
            history_max_bytes,
            history_min_revisions,
            max_transaction_changes,
            max_transaction_bytes,
            wanted_size: _,
        } = *settings;
        Item::hash([
            STATE,
            revision.into(),
            max_sessions.into(),
            max_store_bytes.map_or(0, NonZeroU64::get).into(),
            seconds_of_age(history_max_age).into(),
            history_max_bytes.map_or(0, NonZeroU64::get).into(),
            history_min_revisions.into(),
            max_transaction_changes.into(),
            max_transaction_bytes.into(),
            cluster_version.into(),
        ])
    }

    /// `None` while no size is set: the digest is then the one that versions without this setting compute.
    pub(super) fn wanted_size(voters: Option<NonZeroU32>) -> Option<Item> {
        voters.map(|voters| Item::hash([WANTED_SIZE, voters.get().into()]))
    }

    /// `None` while there is no key, as with [`Item::wanted_size`].
    pub(super) fn digest_key(key: Option<&DigestKey>) -> Option<Item> {
        key.map(|key| Item::hash([DIGEST_KEY, xxh3_128(key.bytes())]))
    }

    /// A version of a key, deletions included.
    pub(super) fn record(record: &Record) -> Item {
        Item::hash([
            RECORD,
            xxh3_128(record.key()),
            xxh3_128(record.value()),
            record.revision().into(),
            record.at().place.into(),
            record.create_revision().into(),
            record.version().into(),
        ])
    }

    pub(super) fn session(id: u64, last_applied: u64, lowest_unanswered: u64) -> Item {
        Item::hash([SESSION, id.into(), last_applied.into(), lowest_unanswered.into()])
    }

    pub(super) fn answer(session: u64, sequence: u64, answer: &Answer) -> Item {
        let (kind, first, second): (u128, u128, u128) = match *answer {
            Answer::Written { revision } => (1, revision.into(), 0),
            Answer::Deleted { revision, existed } => (2, revision.into(), existed.into()),
            Answer::ConditionFailed { present_revision } => (3, present_revision.into(), 0),
            Answer::SessionOpened { session } => (4, session.into(), 0),
            Answer::SessionClosed { existed } => (5, existed.into(), 0),
            Answer::SessionExpired => (6, 0, 0),
            Answer::OutOfWindow { lowest } => (7, lowest.into(), 0),
            Answer::StoreFull { max_store_bytes } => (8, max_store_bytes.into(), 0),
            Answer::Done => (9, 0, 0),
            Answer::Compacted { floor, raised } => (10, floor.into(), raised.into()),
            Answer::FutureRevision { present } => (11, present.into(), 0),
            Answer::Transaction(ref outcome) => {
                let bytes = log::TransactionOutcome::from(outcome.as_ref()).encode_to_vec();
                (12, xxh3_128(&bytes), 0)
            }
            Answer::TooManyChanges { max_changes } => (13, max_changes.into(), 0),
            Answer::TooManyBytes { max_bytes } => (14, max_bytes.into(), 0),
            Answer::BelowFloor { floor } => (15, floor.into(), 0),
        };
        Item::hash([ANSWER, session.into(), sequence.into(), kind, first, second])
    }

    pub(super) fn tombstone(node_id: NodeId, name: &str) -> Item {
        Item::hash([TOMBSTONE, node_id.0.into(), xxh3_128(name.as_bytes())])
    }

    fn hash<const FIELDS: usize>(row: [u128; FIELDS]) -> Item {
        Item(xxh3_128(row.map(u128::to_le_bytes).as_flattened()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{ChangeAt, Outcome};
    use std::time::Duration;

    /// Nodes of different versions compare these numbers, so they must never change.
    #[test]
    fn the_numbers_are_for_ever() {
        assert_eq!(xxh3_128(b""), 0x99aa06d3014798d86001c324468d497f, "the vector of the xxHash authors");
        let at = ChangeAt { revision: 3, place: 1 };
        let written = |value: &[u8]| Item::record(&Record::written(b"key", value, at, 2, 2));
        let settings = Settings::default();
        let progress = Progress { floor: 2, start: at, settled_until: ChangeAt { revision: 4, place: 0 } };
        let items = [
            Item::state(3, &settings, 1),
            Item::compaction(progress),
            written(b"value"),
            written(&[b'v'; 1000]), // xxh3's wide path
            Item::record(&Record::deletion(b"key", at)),
            Item::session(7, 9, 1),
            Item::answer(7, 1, &Answer::Written { revision: 3 }),
            Item::answer(7, 2, &Answer::Deleted { revision: 3, existed: true }),
            Item::tombstone(NodeId(5), "node-a"),
            Item::wanted_size(NonZeroU32::new(3)).unwrap(),
            Item::digest_key(Some(&DigestKey::new([7; 32]))).unwrap(),
        ];
        assert!(Item::wanted_size(None).is_none(), "what is not set adds nothing");
        assert!(Item::digest_key(None).is_none(), "what is not set adds nothing");
        let golden = [
            0x282d1984e1bb874107adfd4d9ce09b98,
            0xb6a429fefb44b9fc954943f33d4d8828,
            0x5911f540d68db167ed69f1d23dbc0650,
            0xa314e9d813a14b12d34bf5992ed2bc24,
            0xbcfd3ec86220bdbae149492606e3bedf,
            0x103b7caea77ac52a888edf3a91ef5f44,
            0xfe6bcfa2c9235c46ea038f13241c301c,
            0xb12ce42bfeb4a32e8ba035701e20423f,
            0x40bc36514c229defe8940073e30cfee0,
            0x733aa4eb9b298c8edcb449a707a0e73b,
            0x17595b6d88fba920327ffac27c840cde,
        ];
        assert_eq!(items.map(|item| item.0), golden);
    }

    /// Nodes of different versions display these numbers to one user. Computed by Python's hmac.
    #[test]
    fn what_is_shown_is_for_ever() {
        let shown = DigestKey::new([7; 32]).show(0x1597af91002a0ece86dd586a2e616c79);
        assert_eq!(shown.to_string(), "24bb4e548b62df4e6bf9e6f2640f7a62");
    }

    #[test]
    fn a_sum_forgets_order_and_what_was_removed_but_not_what_is_there_twice() {
        let [a, b] = [Item::tombstone(NodeId(1), "a"), Item::tombstone(NodeId(2), "b")];
        let sum = |added: &[Item], removed: &[Item]| {
            let mut digest = Digest::default();
            added.iter().for_each(|item| digest.add(*item));
            removed.iter().for_each(|item| digest.remove(*item));
            digest
        };
        assert_eq!(sum(&[a, b], &[]), sum(&[b, a], &[]));
        assert_eq!(sum(&[a, b], &[b]), sum(&[a], &[]));
        assert_ne!(sum(&[a, b, b], &[]), sum(&[a], &[]));
    }

    #[test]
    fn every_field_counts() {
        let written = |key: &str, value: &str, revision, place, create_revision, version| {
            let at = ChangeAt { revision, place };
            Item::record(&Record::written(key.as_bytes(), value.as_bytes(), at, create_revision, version))
        };
        let deletion = |key: &str, revision, place| {
            Item::record(&Record::deletion(key.as_bytes(), ChangeAt { revision, place }))
        };
        let compaction = |floor, start: (u64, u32), settled: (u64, u32)| {
            let at = |(revision, place)| ChangeAt { revision, place };
            Item::compaction(Progress { floor, start: at(start), settled_until: at(settled) })
        };
        let executed = |revision, branches: &[bool], deleted: &[u64]| {
            let (branches, deleted) = (branches.to_vec(), deleted.to_vec());
            Answer::Transaction(Outcome { revision, branches, deleted }.into())
        };
        let settings = |numbers: [u64; 7]| Settings {
            max_sessions: numbers[0],
            max_store_bytes: NonZeroU64::new(numbers[1]),
            history_max_age: Some(Duration::from_secs(numbers[2])),
            history_max_bytes: NonZeroU64::new(numbers[3]),
            history_min_revisions: numbers[4],
            max_transaction_changes: numbers[5],
            max_transaction_bytes: numbers[6],
            wanted_size: None,
        };
        let items = [
            written("k", "v", 2, 0, 1, 3),
            written("v", "k", 2, 0, 1, 3),
            written("k", "v", 2, 0, 2, 3),
            written("k", "v", 3, 0, 1, 3),
            written("k", "v", 2, 1, 1, 3),
            written("k", "v", 2, 0, 1, 4),
            written("kv", "", 2, 0, 1, 3),
            deletion("k", 2, 0),
            deletion("kv", 2, 0),
            deletion("k", 3, 0),
            deletion("k", 2, 1),
            compaction(1, (2, 3), (4, 5)),
            compaction(9, (2, 3), (4, 5)),
            compaction(1, (9, 3), (4, 5)),
            compaction(1, (2, 9), (4, 5)),
            compaction(1, (2, 3), (9, 5)),
            compaction(1, (2, 3), (4, 9)),
            Item::state(1, &settings([2, 3, 4, 5, 6, 7, 8]), 10),
            Item::state(9, &settings([2, 3, 4, 5, 6, 7, 8]), 10),
            Item::state(1, &settings([9, 3, 4, 5, 6, 7, 8]), 10),
            Item::state(1, &settings([2, 9, 4, 5, 6, 7, 8]), 10),
            Item::state(1, &settings([2, 3, 9, 5, 6, 7, 8]), 10),
            Item::state(1, &settings([2, 3, 4, 9, 6, 7, 8]), 10),
            Item::state(1, &settings([2, 3, 4, 5, 9, 7, 8]), 10),
            Item::state(1, &settings([2, 3, 4, 5, 6, 9, 8]), 10),
            Item::state(1, &settings([2, 3, 4, 5, 6, 7, 9]), 10),
            Item::state(1, &settings([2, 3, 4, 5, 6, 7, 8]), 11),
            Item::session(1, 2, 3),
            Item::session(9, 2, 3),
            Item::session(1, 9, 3),
            Item::session(1, 2, 9),
            Item::answer(1, 2, &Answer::Done),
            Item::answer(9, 2, &Answer::Done),
            Item::answer(1, 9, &Answer::Done),
            Item::answer(1, 2, &Answer::Written { revision: 3 }),
            Item::answer(1, 2, &Answer::ConditionFailed { present_revision: 3 }),
            Item::answer(1, 2, &Answer::Deleted { revision: 3, existed: true }),
            Item::answer(1, 2, &Answer::Deleted { revision: 3, existed: false }),
            Item::answer(1, 2, &Answer::StoreFull { max_store_bytes: 3 }),
            Item::answer(1, 2, &Answer::Compacted { floor: 3, raised: true }),
            Item::answer(1, 2, &Answer::Compacted { floor: 3, raised: false }),
            Item::answer(1, 2, &Answer::FutureRevision { present: 3 }),
            Item::answer(1, 2, &executed(3, &[true], &[4])),
            Item::answer(1, 2, &executed(9, &[true], &[4])),
            Item::answer(1, 2, &executed(3, &[false], &[4])),
            Item::answer(1, 2, &executed(3, &[true, true], &[4])),
            Item::answer(1, 2, &executed(3, &[true], &[9])),
            Item::answer(1, 2, &Answer::TooManyChanges { max_changes: 3 }),
            Item::answer(1, 2, &Answer::TooManyBytes { max_bytes: 3 }),
            Item::answer(1, 2, &Answer::BelowFloor { floor: 3 }),
            Item::wanted_size(NonZeroU32::new(1)).unwrap(),
            Item::wanted_size(NonZeroU32::new(2)).unwrap(),
            Item::digest_key(Some(&DigestKey::new([1; 32]))).unwrap(),
            Item::digest_key(Some(&DigestKey::new([2; 32]))).unwrap(),
        ];
        let distinct: std::collections::BTreeSet<u128> = items.iter().map(|item| item.0).collect();
        assert_eq!(distinct.len(), items.len());
    }
}
