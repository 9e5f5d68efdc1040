//! Listing keys: a stream of one revision, bounded in bytes and time. A client may also read it page by page.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};

use crate::map::{Entry, Map};
use crate::rt::lock::Mutex;
use crate::rt::{self, Instant};
use crate::service::timed::Timed;
use crate::service::{List, Refused};

/// Most keys read from the map at a time.
const STEP: usize = 128;
/// How long the revision of a page is retained for the next page.
const RETAINED_FOR: Duration = Duration::from_secs(30);
/// Most revisions retained at a time. Each keeps in memory what was overwritten since.
const MAX_RETAINED: usize = 16;

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
    request: List,
    start_after: Bytes,
    keys_left: u64,
    bytes_left: u64,
}

impl Listing {
    pub(super) fn new(map: Map, request: List, max_bytes: u64) -> Listing {
        let start_after = request.start_after.clone();
        let keys_left = request.limit.unwrap_or(u64::MAX);
        Listing { map, request, start_after, keys_left, bytes_left: max_bytes }
    }

    /// Returns the stream of keys, which ends with an error at `until`.
    pub(super) fn stream(self, until: Instant) -> Keys {
        let late = Refused::Late(
            "the listing took longer than this node allows (max-list-time); page through it with a limit"
                .into(),
        );
        let keys = stream::unfold(Some(self), |listing| async move {
            let mut listing = listing?;
            match listing.step() {
                Ok(keys) if keys.is_empty() => None,
                Ok(keys) => Some((stream::iter(keys.into_iter().map(Ok).collect::<Vec<_>>()), Some(listing))),
                Err(refused) => Some((stream::iter(vec![Err(refused)]), None)),
            }
        })
        .flatten();
        Box::pin(Timed::new(Box::pin(keys), until, late))
    }

    /// Returns the next keys, at most [`STEP`]; none at the end.
    fn step(&mut self) -> Result<Vec<ListedKey>, Refused> {
        let count = self.keys_left.min(STEP as u64) as usize;
        let mut keys = Vec::with_capacity(count);
        for (key, entry) in self.map.range(&self.request.prefix, &self.start_after).take(count) {
            let value = if self.request.keys_only { Bytes::new() } else { entry.value.clone() };
            let bytes = (key.as_bytes().len() + value.len()) as u64;
            if bytes > self.bytes_left {
                return Err(Refused::NoRoom(
                    "the listing is larger than this node allows (max-list-bytes); page through it with a limit"
                        .into(),
                ));
            }
            self.bytes_left -= bytes;
            keys.push(ListedKey { key: Bytes::copy_from_slice(key), entry: Entry { value, ..*entry } });
        }
        if let Some(last) = keys.last() {
            self.start_after.clone_from(&last.key);
        }
        self.keys_left -= keys.len() as u64;
        Ok(keys)
    }
}

/// Maps at the revisions of recent pages.
#[derive(Default)]
pub(in crate::service) struct Retained {
    maps: Mutex<VecDeque<(Instant, Map)>>,
}

impl Retained {
    /// Returns the map at `revision`, if that is the current one or is retained.
    pub(super) fn at(&self, revision: u64, current: Map) -> Option<Map> {
        if current.revision() == revision {
            return Some(current);
        }
        let maps = self.maps.lock();
        maps.iter().map(|(_, map)| map).find(|map| map.revision() == revision).cloned()
    }

    /// Retains a map for [`RETAINED_FOR`].
    pub(super) fn keep(self: &Arc<Self>, map: Map) {
        let mut maps = self.maps.lock();
        if maps.iter().any(|(_, kept)| kept.revision() == map.revision()) {
            return;
        }
        let is_first = maps.is_empty();
        maps.push_back((rt::now() + RETAINED_FOR, map));
        if maps.len() > MAX_RETAINED {
            maps.pop_front();
        }
        if is_first {
            let retained = Arc::downgrade(self);
            rt::spawn(async move {
                while let Some(until) = retained.upgrade().and_then(|retained| retained.expire()) {
                    rt::sleep_until(until).await;
                }
            });
        }
    }

    /// Drops the maps whose time is over. Returns the time at which the next one expires.
    fn expire(&self) -> Option<Instant> {
        let mut maps = self.maps.lock();
        while maps.front().is_some_and(|(until, _)| *until <= rt::now()) {
            maps.pop_front();
        }
        maps.front().map(|(until, _)| *until)
    }
}
