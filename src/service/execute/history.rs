//! Reading what was changed: the versions of one key, or the changes of many, as streams bounded in bytes and time. Both go
//! along a clone of the map, a bounded number of changes at a time.

use std::num::NonZeroU64;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

use super::check_key;
use super::read::revision_at;
use super::steps::{self, Steps};
use crate::map::{ChangeAt, Entry, Map, Record};
use crate::membership::ClusterId;
use crate::rt::{self, Instant};
use crate::service::{Changed, Changes, Class, KeptPosition, Operation, ReadAt, Refused, Service, Versions};
use crate::transaction::KeyRange;

/// Most changes read from the map at a time.
const STEP: usize = 128;
/// Most changes passed over at a time, because they are of other keys.
const PASSED_OVER: usize = 1_024;

/// What a write or a deletion did to a key.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The key.
    pub key: Bytes,
    /// The place of the change.
    pub at: ChangeAt,
    /// What was written; `None`: the key was deleted. The value is empty if the request asks for keys only.
    pub entry: Option<Entry>,
}

/// Changes in the order in which they were made. After an error nothing follows.
pub type KeyChanges = Pin<Box<dyn Stream<Item = Result<KeyChange, Refused>> + Send>>;

/// A reading in progress.
struct Reading {
    map: Map,
    what: What,
    from: u64,
    /// The last change that was read or passed over.
    after: Option<ChangeAt>,
    /// The last revision.
    to: u64,
    keys_only: bool,
    left: u64,
    bytes_left: u64,
    is_over: bool,
}

enum What {
    /// The versions of a key.
    Versions(Bytes),
    /// The changes of keys in a range. The limit cuts no revision apart.
    Changes(KeyRange),
}

impl Reading {
    /// Reads a map from a revision to another, both of which can be read in it.
    fn new(map: Map, what: What, from: u64, to: u64, limit: Option<NonZeroU64>, max_bytes: u64) -> Reading {
        let left = limit.map_or(u64::MAX, NonZeroU64::get);
        Reading {
            map,
            what,
            from,
            after: None,
            to,
            keys_only: false,
            left,
            bytes_left: max_bytes,
            is_over: false,
        }
    }

    /// Returns the stream of changes, which ends with an error at `until`.
    fn stream(self, until: Instant) -> KeyChanges {
        const LATE: &str =
            "reading the history took longer than this node allows (max-list-time); go on with start_after";
        steps::stream(self, until, LATE)
    }

    /// What comes after the last change that was read.
    fn rest(&self) -> Box<dyn Iterator<Item = &Record> + '_> {
        let after = self.after;
        match &self.what {
            What::Versions(key) => {
                // From the last one's revision on that one is shown again, and no other before it.
                let from = after.map_or(self.from, |after| after.revision.max(self.from));
                let versions = self.map.versions_of(key, from);
                Box::new(versions.skip_while(move |record| after.is_some_and(|after| record.at() <= after)))
            }
            What::Changes(_) => {
                let first = ChangeAt { revision: self.from, place: 0 };
                Box::new(self.map.changes_from(after.map_or(first, |after| after.next().max(first))))
            }
        }
    }

    fn asks_for(&self, record: &Record) -> bool {
        match &self.what {
            What::Versions(_) => true,
            What::Changes(range) => range.contains(record.key()),
        }
    }

    /// Whether a change is of the revision that the limit was reached in.
    fn belongs_to(&self, record: &Record, last: Option<ChangeAt>) -> bool {
        matches!(self.what, What::Changes(_)) && last.is_some_and(|last| last.revision == record.revision())
    }
}

impl Steps for Reading {
    type Item = KeyChange;

    /// Returns the next changes, at most [`STEP`], and notes whether they are the last ones.
    fn step(&mut self) -> Result<Vec<KeyChange>, Refused> {
        let mut found = Vec::new();
        let (mut passed_over, mut is_over) = (0, false);
        let (mut after, mut left, mut bytes_left) = (self.after, self.left, self.bytes_left);
        let mut records = self.rest();
        while found.len() < STEP && passed_over < PASSED_OVER {
            let next = records.next().filter(|record| record.revision() <= self.to);
            let Some(record) = next.filter(|record| left > 0 || self.belongs_to(record, after)) else {
                is_over = true;
                break;
            };
            if !self.asks_for(record) {
                after = Some(record.at());
                passed_over += 1;
                continue;
            }
            let entry = if self.keys_only { record.entry_without_value() } else { record.entry() };
            let bytes = (record.key().len() + entry.as_ref().map_or(0, |entry| entry.value.len())) as u64;
            if bytes > bytes_left {
                // What fits is sent first, so that a client can go on behind it, also within a transaction.
                if found.is_empty() {
                    return Err(Refused::NoRoom(
                        "the history is larger than this node allows (max-list-bytes); go on with start_after".into(),
                    ));
                }
                break;
            }
            (after, left, bytes_left) = (Some(record.at()), left.saturating_sub(1), bytes_left - bytes);
            found.push(KeyChange { key: Bytes::copy_from_slice(record.key()), at: record.at(), entry });
        }
        drop(records);
        (self.after, self.left, self.bytes_left, self.is_over) = (after, left, bytes_left, is_over);
        Ok(found)
    }

    fn is_over(&self) -> bool {
        self.is_over
    }
}

/// Where to read: a map, the first and the last revision, and the cluster's number.
struct Found {
    map: Map,
    from: u64,
    to: u64,
    cluster: NonZeroU64,
}

impl Service {
    /// Returns a clone of the map in which revisions can be read, with the first and the last of them. It has reached the
    /// revision of `start_after`, too, whose cluster this one is.
    ///
    /// # Errors
    /// As [`Service::ready_at`], the first or the last revision is compacted, they are in the wrong order, or another cluster
    /// made `start_after`.
    async fn map_from(
        &self,
        from: Option<u64>,
        start_after: Option<KeptPosition>,
        to: ReadAt,
        deadline: Instant,
    ) -> Result<Found, Refused> {
        if let (Some(from), ReadAt::Revision(to)) = (from, to)
            && from > to
        {
            return Err(Refused::Invalid(format!(
                "revision {from} to begin with is after {to}, the last one"
            )));
        }
        let mut serving = self.ready_at(to, deadline).await?;
        let cluster = ClusterId(serving.consensus.peers().local().cluster_id).number();
        if start_after.and_then(|kept| kept.cluster).is_some_and(|of| of != cluster) {
            rt::sometimes("position of another cluster refused");
            return Err(Refused::AnotherCluster);
        }
        let last_read = start_after.map(|kept| kept.at.revision);
        for revision in [from, last_read].into_iter().flatten() {
            serving = self.ready_at(ReadAt::Revision(revision), deadline).await?;
        }
        // The clone, which is O(1), keeps the revisions readable for the whole stream.
        let map = serving.consensus.store().read().map.clone();
        let to = revision_at(&map, to)?;
        let from = from.map_or(Ok(map.floor()), |from| revision_at(&map, ReadAt::Revision(from)))?;
        Ok(Found { map, from, to, cluster })
    }
}

impl Operation for Versions {
    type Reply = Changed;
    const CLASS: Class = Class::Client;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<Changed, Refused> {
        check_key(&self.key)?;
        let limits = &service.context.limits;
        let found = service.map_from(self.from, self.start_after, self.to, deadline).await?;
        let Found { map, from, to: revision, cluster } = found;
        let start_after = self.start_after.map(|kept| kept.at.revision);
        if let Some(last) = start_after {
            // If the floor shows this version, none has replaced it below.
            let shown = map.get_at(&self.key, map.floor()).map(Record::revision);
            if shown != Some(last) {
                revision_at(&map, ReadAt::Revision(last))?;
            }
        }
        let what = What::Versions(self.key);
        let mut reading = Reading::new(map, what, from, revision, self.limit, limits.max_list_bytes);
        reading.after = start_after.map(|revision| ChangeAt { revision, place: u32::MAX });
        Ok(Changed { revision, cluster, changes: reading.stream(rt::now() + limits.max_list_time) })
    }
}

impl Operation for Changes {
    type Reply = Changed;
    const CLASS: Class = Class::Client;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<Changed, Refused> {
        let limits = &service.context.limits;
        let found = service.map_from(self.from, self.start_after, self.to, deadline).await?;
        let Found { map, from, to: revision, cluster } = found;
        let start_after = self.start_after.map(|kept| kept.at);
        if let Some(last) = start_after {
            revision_at(&map, ReadAt::Revision(last.revision))?;
        }
        let what = What::Changes(self.range);
        let mut reading = Reading::new(map, what, from, revision, self.limit, limits.max_list_bytes);
        (reading.after, reading.keys_only) = (start_after, self.keys_only);
        Ok(Changed { revision, cluster, changes: reading.stream(rt::now() + limits.max_list_time) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;

    use super::*;
    use crate::map::Command;
    use crate::transaction::{Operation, Transaction};

    /// A map and its log.
    #[derive(Default)]
    struct Store {
        map: Map,
        index: u64,
    }

    impl Store {
        fn apply(&mut self, command: &Command) {
            self.index += 1;
            self.map.apply(self.index, command);
        }

        /// Makes one revision.
        fn write(&mut self, operations: impl IntoIterator<Item = Operation>) {
            let transaction = operations.into_iter().fold(Transaction::new(), Transaction::then);
            self.apply(&Command::Transaction { transaction, session: None });
        }

        fn compact(&mut self, revision: u64) {
            self.apply(&Command::Compact { revision });
        }

        fn versions(&self, key: &'static str, from: u64) -> Reading {
            let key = What::Versions(key.into());
            Reading::new(self.map.clone(), key, from, self.map.revision(), None, u64::MAX)
        }

        fn changes(&self, prefix: &str, from: u64) -> Reading {
            let range = What::Changes(KeyRange::prefix(prefix));
            Reading::new(self.map.clone(), range, from, self.map.revision(), None, u64::MAX)
        }
    }

    fn set(key: &str, value: &str) -> Operation {
        Operation::set(key, value.to_owned())
    }

    async fn all(reading: Reading) -> Result<Vec<KeyChange>, Refused> {
        let mut stream = reading.stream(rt::now() + Duration::from_secs(600));
        let mut changes = Vec::new();
        while let Some(change) = stream.next().await {
            changes.push(change?);
        }
        Ok(changes)
    }

    /// Revisions and places.
    async fn places(reading: Reading) -> Vec<(u64, u32)> {
        all(reading).await.unwrap().iter().map(|change| (change.at.revision, change.at.place)).collect()
    }

    #[tokio::test]
    async fn a_long_history_is_read_in_steps_and_no_change_is_lost_or_doubled_between_them() {
        let mut store = Store::default();
        store.write([set("k", "first")]);
        for number in 0..500 {
            store.write([set("a", ""), set("k", &number.to_string()), set("z", "")]);
        }
        store.write([Operation::delete("k")]);
        let expected: Vec<(u64, u32)> = (3..=502).map(|revision| (revision, 1)).chain([(503, 0)]).collect();
        let first = [(2, 0)].into_iter();
        assert_eq!(
            places(store.versions("k", 1)).await,
            first.clone().chain(expected.clone()).collect::<Vec<_>>()
        );
        assert_eq!(places(store.changes("k", 2)).await, first.chain(expected.clone()).collect::<Vec<_>>());
        assert_eq!(places(store.changes("", 2)).await.len(), 1 + 3 * 500 + 1);
        assert_eq!(places(store.changes("k", 300)).await, expected[297..]);

        let versions = all(store.versions("k", 2)).await.unwrap();
        let entry = versions[1].entry.as_ref().unwrap();
        assert_eq!((&entry.value[..], entry.create_revision, entry.version), (&b"0"[..], 2, 2));
        assert_eq!(versions[501].entry, None, "the deletion");
    }

    #[tokio::test]
    async fn a_filter_that_matches_nothing_yields_between_its_steps() {
        let mut store = Store::default();
        for _ in 0..4 * PASSED_OVER {
            store.write([set("k", "")]);
        }
        let mut reading = store.changes("other", 1);
        let mut steps = 0;
        while !reading.is_over {
            assert_eq!(reading.step().unwrap(), []);
            steps += 1;
        }
        assert_eq!(steps, 5, "each of them is bounded");
        assert_eq!(places(store.changes("other", 1)).await, []);
    }

    #[tokio::test]
    async fn the_version_from_below_the_floor_comes_first_and_once() {
        let mut store = Store::default();
        store.write([set("k", "1")]);
        store.write([set("other", "")]);
        store.compact(3);
        for _ in 0..STEP {
            store.write([set("k", "2")]);
        }
        let expected: Vec<(u64, u32)> =
            [2].into_iter().chain(4..4 + STEP as u64).map(|revision| (revision, 0)).collect();
        assert_eq!(places(store.versions("k", 3)).await, expected);
        let mut page = store.versions("k", 3);
        page.after = Some(ChangeAt { revision: 2, place: u32::MAX });
        assert_eq!(places(page).await, expected[1..]);
    }

    #[tokio::test]
    async fn a_limit_cuts_no_transaction_apart() {
        let mut store = Store::default();
        store.write([set("k/1", "")]);
        store.write([set("k/1", ""), set("other", ""), set("k/2", ""), set("k/3", "")]);
        store.write([set("k/4", "")]);
        let limited = |prefix: &str, limit: u64| Reading { left: limit, ..store.changes(prefix, 1) };
        assert_eq!(places(limited("k/", 1)).await, [(2, 0)]);
        assert_eq!(places(limited("k/", 2)).await, [(2, 0), (3, 0), (3, 2), (3, 3)]);
        assert_eq!(places(limited("k/", 4)).await.len(), 4);
        assert_eq!(places(limited("k/", 5)).await.len(), 5);
        let mut rest = limited("k/", 1);
        rest.after = Some(ChangeAt { revision: 3, place: 0 });
        assert_eq!(places(rest).await, [(3, 2), (3, 3)], "a page may begin within one");
        // The versions of a key are of one revision each.
        let versions = Reading { left: 1, ..store.versions("k/1", 1) };
        assert_eq!(places(versions).await, [(2, 0)]);
        let up_to = Reading { to: 3, ..store.changes("", 1) };
        assert_eq!(places(up_to).await.len(), 5);
    }

    #[tokio::test]
    async fn values_count_against_the_bound_unless_they_are_left_out() {
        let mut store = Store::default();
        store.write([set("a", "0123456789")]);
        store.write([set("b", "0123456789")]);
        let bounded = |bytes_left, keys_only| Reading { bytes_left, keys_only, ..store.changes("", 1) };
        assert_eq!(all(bounded(22, false)).await.unwrap().len(), 2);
        assert!(matches!(all(bounded(21, false)).await, Err(Refused::NoRoom(_))));
        let mut fits = bounded(21, false).stream(rt::now() + Duration::from_secs(600));
        assert_eq!(fits.next().await.unwrap().unwrap().key, "a", "what fits comes first");
        assert!(matches!(fits.next().await, Some(Err(Refused::NoRoom(_)))));
        assert!(fits.next().await.is_none());
        let keys = all(bounded(2, true)).await.unwrap();
        assert!(keys.iter().all(|change| change.entry.as_ref().unwrap().value.is_empty()));
        assert!(matches!(all(bounded(1, true)).await, Err(Refused::NoRoom(_))));
    }
}
