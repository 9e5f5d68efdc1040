//! The settings that a new cluster begins with: whoever leads it writes down what its own flags say.
//!
//! Only while nobody has set or written anything: what was decided before is never overruled.

use std::time::Duration;

use openraft::rt::WatchReceiver;

use crate::map::{Command, Map, Settings};
use crate::raft::{Consensus, Store};
use crate::rt;
use crate::rt::time::Seldom;

/// A leader whose attempt has failed tries again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What bounds the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most sessions kept at a time.
    pub max_sessions: u64,
    /// Most bytes of keys and values; 0: no bound.
    pub max_store_bytes: u64,
}

impl Bounds {
    fn of(settings: Settings) -> Bounds {
        Bounds { max_sessions: settings.max_sessions, max_store_bytes: settings.max_store_bytes }
    }
}

/// Sees to it that a new cluster has the bounds `wanted`; returns when it has, or is new no more.
pub async fn configure_a_new_cluster(consensus: Consensus, wanted: Bounds) {
    let command = Command::Configure {
        max_sessions: Some(wanted.max_sessions),
        max_store_bytes: Some(wanted.max_store_bytes),
    };
    let command = command.encode();
    let failed = Seldom::default();
    let mut role = consensus.raft().server_metrics();
    while is_to_configure(consensus.store(), wanted) {
        if consensus.is_leader() {
            let deadline = rt::now() + consensus.request_timeout();
            // What leaders before it have committed may not be applied here yet.
            let attempt = match consensus.read_barrier(deadline).await {
                Ok(()) if !is_to_configure(consensus.store(), wanted) => return,
                Ok(()) => {
                    consensus.propose(command.clone(), deadline).await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = attempt
                && let Some(more) = failed.now()
            {
                tracing::warn!(more, "the initial bounds are not written down yet: {error}");
            }
        }
        tokio::select! {
            biased;
            changed = role.changed() => if changed.is_err() { return },
            () = rt::sleep(TRY_AGAIN) => {}
        }
    }
}

/// Whether the cluster is new, and is to have other bounds than the built-in ones.
fn is_to_configure(store: &Store, wanted: Bounds) -> bool {
    wanted != Bounds::of(Settings::default()) && is_new(&store.read().map)
}

/// Whether nobody has written anything, or set any bound.
fn is_new(map: &Map) -> bool {
    map.revision() == 0 && Bounds::of(map.settings()) == Bounds::of(Settings::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mokv_proto::log;

    #[test]
    fn a_cluster_is_new_until_somebody_writes_or_sets() {
        let mut map = Map::new();
        assert!(is_new(&map));
        map.apply(1, &Command::Blank);
        map.apply(2, &Command::OpenSession);
        assert!(is_new(&map), "a client that comes has set nothing");
        let mut written = map.clone();
        let (key, value) = (b"key".as_slice().into(), b"value".as_slice().into());
        written.apply(3, &Command::Set(log::Set { key, value, ..log::Set::default() }));
        assert!(!is_new(&written));
        let mut set = map.clone();
        set.apply(3, &Command::Configure { max_sessions: Some(7), max_store_bytes: None });
        assert!(!is_new(&set));
        map.apply(3, &Command::WantedSize(3));
        assert!(is_new(&map), "a size is no bound");
    }
}
