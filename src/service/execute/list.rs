//! Listing keys: a stream of one revision, bounded in bytes and time. A client may also read it page by page.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

use super::steps::{self, Steps};
use crate::map::{Entry, Map};
use crate::rt::Instant;
use crate::service::{List, Refused};
use crate::transaction::KeyRange;

/// Most keys read from the map at a time.
const STEP: usize = 128;
/// Most keys passed over at a time, because they did not exist at the revision.
const PASSED_OVER: usize = 1_024;

/// A key of a listing.
#[derive(Debug)]
pub struct ListedKey {
    /// The key.
    pub key: Bytes,
    /// Its value and revisions. The value is empty if the request asks for keys only.
    pub entry: Entry,
}

/// The keys of a listing in byte order. After an error nothing follows.
pub type Keys = Pin<Box<dyn Stream<Item = Result<ListedKey, Refused>> + Send>>;

/// A listing in progress.
pub(super) struct Listing {
    map: Map,
    revision: u64,
    range: KeyRange,
    keys_only: bool,
    start_after: Bytes,
    keys_left: u64,
    bytes_left: u64,
    is_over: bool,
}

impl Listing {
    /// Lists a map at a revision that can be read in it.
    pub(super) fn new(map: Map, revision: u64, request: List, max_bytes: u64) -> Listing {
        let List { prefix, start_after, limit, keys_only, .. } = request;
        let (range, keys_left) = (KeyRange::prefix(prefix), limit.unwrap_or(u64::MAX));
        Listing {
            map,
            revision,
            range,
            keys_only,
            start_after,
            keys_left,
            bytes_left: max_bytes,
            is_over: false,
        }
    }

    /// Returns the stream of keys, which ends with an error at `until`.
    pub(super) fn stream(self, until: Instant) -> Keys {
        const LATE: &str =
            "the listing took longer than this node allows (max-list-time); page through it with a limit";
        steps::stream(self, until, LATE)
    }
}

impl Steps for Listing {
    type Item = ListedKey;

    /// Returns the next keys, at most [`STEP`], and notes whether they are the last ones.
    fn step(&mut self) -> Result<Vec<ListedKey>, Refused> {
        let count = self.keys_left.min(STEP as u64) as usize;
        let mut keys = Vec::with_capacity(count);
        let (mut passed_over, mut last) = (0, None);
        let mut range = self.map.range_at(&self.range, &self.start_after, self.revision);
        while keys.len() < count && passed_over < PASSED_OVER {
            let Some((key, record)) = range.next() else {
                self.is_over = true;
                break;
            };
            last = Some(key);
            let Some(record) = record else {
                passed_over += 1;
                continue;
            };
            let entry = if self.keys_only { record.entry_without_value() } else { record.entry() };
            let entry = entry.expect("no deletion is listed");
            let bytes = (key.len() + entry.value.len()) as u64;
            if bytes > self.bytes_left {
                return Err(Refused::NoRoom(
                    "the listing is larger than this node allows (max-list-bytes); page through it with a limit"
                        .into(),
                ));
            }
            self.bytes_left -= bytes;
            keys.push(ListedKey { key: Bytes::copy_from_slice(key), entry });
        }
        let last = last.map(Bytes::copy_from_slice);
        drop(range);
        self.start_after = last.unwrap_or_default();
        self.keys_left -= keys.len() as u64;
        self.is_over |= self.keys_left == 0;
        Ok(keys)
    }

    fn is_over(&self) -> bool {
        self.is_over
    }
}
