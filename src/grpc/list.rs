//! Listing keys: one revision a stream, bounded in bytes and time, page by page if the client likes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use mokv_proto::api;
use tonic::Status;

use super::kv::to_response;
use super::timed::Timed;
use crate::map::Map;
use crate::rt::{self, Instant};

/// Keys looked up at a time.
const STEP: usize = 128;
/// A page's revision can be asked for again for this long.
const RETAINED_FOR: Duration = Duration::from_secs(30);
/// Revisions retained at a time; each keeps what was overwritten since.
const MAX_RETAINED: usize = 16;

/// One stream of keys.
pub(super) struct Listing {
    map: Map,
    request: api::ListRequest,
    start_after: Vec<u8>,
    keys_left: u64,
    bytes_left: u64,
}

impl Listing {
    pub(super) fn new(map: Map, request: api::ListRequest, max_bytes: u64) -> Listing {
        let start_after = request.start_after.as_bytes().to_vec();
        let keys_left = if request.limit == 0 { u64::MAX } else { request.limit };
        Listing { map, request, start_after, keys_left, bytes_left: max_bytes }
    }

    /// The answer, until `until`.
    pub(super) fn stream(
        self,
        until: Instant,
    ) -> impl Stream<Item = Result<api::GetResponse, Status>> + Send {
        let late = Status::deadline_exceeded(
            "the listing took longer than this node allows (max-list-time); page through it with a limit",
        );
        let keys = stream::unfold(Some(self), |listing| async move {
            let mut listing = listing?;
            match listing.step() {
                Ok(keys) if keys.is_empty() => None,
                Ok(keys) => Some((stream::iter(keys.into_iter().map(Ok).collect::<Vec<_>>()), Some(listing))),
                Err(status) => Some((stream::iter(vec![Err(status)]), None)),
            }
        })
        .flatten();
        Timed::new(Box::pin(keys), until, late)
    }

    /// The next few keys; none at the end.
    fn step(&mut self) -> Result<Vec<api::GetResponse>, Status> {
        let revision = self.map.revision();
        let count = self.keys_left.min(STEP as u64) as usize;
        let mut keys = Vec::with_capacity(count);
        for (key, entry) in self.map.range(self.request.prefix.as_bytes(), &self.start_after).take(count) {
            let bytes =
                (key.as_bytes().len() + if self.request.keys_only { 0 } else { entry.value.len() }) as u64;
            if bytes > self.bytes_left {
                return Err(Status::resource_exhausted(
                    "the listing is larger than this node allows (max-list-bytes); page through it with a limit",
                ));
            }
            self.bytes_left -= bytes;
            // Keys that came through this service are UTF-8; others are shown as well as they can be.
            let name = String::from_utf8_lossy(key.as_bytes()).into_owned();
            keys.push((key.as_bytes().to_vec(), to_response(name, entry, revision, self.request.keys_only)));
        }
        if let Some((last, _)) = keys.last() {
            self.start_after.clone_from(last);
        }
        self.keys_left -= keys.len() as u64;
        Ok(keys.into_iter().map(|(_, response)| response).collect())
    }
}

/// Maps of revisions that pages were read at.
#[derive(Default)]
pub(super) struct Retained {
    maps: Mutex<VecDeque<(Instant, Map)>>,
}

impl Retained {
    /// The map as it was at `revision`, if it still is or was retained.
    pub(super) fn at(&self, revision: u64, current: Map) -> Option<Map> {
        if current.revision() == revision {
            return Some(current);
        }
        let maps = self.maps.lock().expect("no code panics while it holds this lock");
        maps.iter().map(|(_, map)| map).find(|map| map.revision() == revision).cloned()
    }

    /// Retains a map for a while.
    pub(super) fn keep(self: &Arc<Self>, map: Map) {
        let mut maps = self.maps.lock().expect("no code panics while it holds this lock");
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

    /// Lets go of what was retained for long enough; when the next one will have been.
    fn expire(&self) -> Option<Instant> {
        let mut maps = self.maps.lock().expect("no code panics while it holds this lock");
        while maps.front().is_some_and(|(until, _)| *until <= rt::now()) {
            maps.pop_front();
        }
        maps.front().map(|(until, _)| *until)
    }
}
