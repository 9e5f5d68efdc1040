//! The initial settings of a cluster: its leader writes them, once.
//!
//! The bounds in the leader's flags, only while the cluster has no other bounds and no writes: earlier decisions are
//! never overruled. And a key for the digests that are shown, as soon as every member supports such keys.

use std::time::Duration;

use openraft::rt::WatchReceiver;

use crate::map::{Command, DigestKey, Map};
use crate::raft::Consensus;
use crate::replicated_settings::{Settings, SettingsChange};
use crate::rt;
use crate::rt::time::Seldom;

/// How long a leader whose attempt has failed waits before it tries again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Whether a setting is to be written.
enum Missing {
    /// It is there, or is not needed any more.
    Nothing,
    /// It may not be written yet.
    Later,
    /// The leader is to write it.
    Now,
}

/// Gives a new cluster the bounds `wanted`; returns when it has them, or is not new any more.
pub async fn configure_a_new_cluster(consensus: Consensus, wanted: SettingsChange) {
    let differs = wanted.applied_to(Settings::default()) != Settings::default();
    let missing = |map: &Map| match differs && is_new(map) {
        true => Missing::Now,
        false => Missing::Nothing,
    };
    let command = || Command::Configure(wanted);
    write_down(
        consensus,
        "the initial bounds are not committed yet, and are proposed again",
        missing,
        command,
    )
    .await;
}

/// Gives the cluster a key for the digests that it shows; returns when it has one.
pub async fn draw_a_digest_key(consensus: Consensus) {
    let command = || {
        let mut key = [0; DigestKey::BYTES];
        rand::Rng::fill_bytes(&mut rt::random::rng(), &mut key);
        Command::DigestKey(DigestKey::new(key))
    };
    write_down(
        consensus,
        "the key for digests is not committed yet, so no digests are shown; it is proposed again",
        key_missing,
        command,
    )
    .await;
}

fn key_missing(map: &Map) -> Missing {
    match map.digest_key() {
        Some(_) => Missing::Nothing,
        // Some members may not support such a key yet.
        None if map.cluster_version() < Command::DIGEST_KEY_VERSION => Missing::Later,
        None => Missing::Now,
    }
}

/// Proposes the command whenever this node leads and it is missing, until it is not missing any more.
async fn write_down(
    consensus: Consensus,
    not_yet: &str,
    missing: impl Fn(&Map) -> Missing,
    command: impl Fn() -> Command,
) {
    let missing = || missing(&consensus.store().read().map);
    let propose = async || {
        let deadline = rt::now() + consensus.request_timeout();
        // Entries that earlier leaders have committed may not be applied here yet.
        consensus.read_barrier(deadline).await.map_err(|error| error.to_string())?;
        if let Missing::Now = missing() {
            let proposed = consensus.propose(command().encode(), deadline).await;
            proposed.map_err(|error| error.to_string())?;
        }
        Ok::<(), String>(())
    };
    let failed = Seldom::default();
    let mut role = consensus.raft().server_metrics();
    loop {
        match missing() {
            Missing::Nothing => return,
            Missing::Now if consensus.is_leader() => match propose().await {
                Ok(()) => continue,
                Err(error) => {
                    if let Some(more) = failed.now() {
                        tracing::warn!(more, "{not_yet}: {error}");
                    }
                }
            },
            Missing::Now | Missing::Later => {}
        }
        tokio::select! {
            biased;
            changed = role.changed() => if changed.is_err() { return },
            () = rt::sleep(TRY_AGAIN) => {}
        }
    }
}

/// Returns `true` if the cluster has no writes and only the default bounds.
fn is_new(map: &Map) -> bool {
    let bounds = Settings { wanted_size: None, ..map.settings() };
    map.revision() == Map::FIRST_REVISION && bounds == Settings::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mokv_proto::log;

    #[test]
    fn a_cluster_is_new_until_the_first_write_or_setting() {
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
        set.apply(3, &Command::Configure(SettingsChange::none().max_sessions(7)));
        assert!(!is_new(&set));
        map.apply(3, &Command::WantedSize(3));
        assert!(is_new(&map), "a size is no bound");
    }

    #[test]
    fn a_key_for_digests_is_drawn_once_and_not_before_all_members_know_of_it() {
        let mut map = Map::new();
        map.apply(1, &Command::ClusterVersion(Command::DIGEST_KEY_VERSION - 1));
        assert!(matches!(key_missing(&map), Missing::Later));
        map.apply(2, &Command::ClusterVersion(Command::DIGEST_KEY_VERSION));
        assert!(matches!(key_missing(&map), Missing::Now));
        map.apply(3, &Command::DigestKey(DigestKey::new([1; DigestKey::BYTES])));
        assert!(matches!(key_missing(&map), Missing::Nothing));
    }
}
