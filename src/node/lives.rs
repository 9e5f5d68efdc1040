//! Remembers how often the other members have started, beyond this node's own life: a data directory that was rolled
//! back must not find a peer that has forgotten.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::membership::identity::IdentityError;
use crate::membership::{Identity, View};
use crate::raft::Consensus;
use crate::raft::peers::{Gate, Start};
use crate::rt::{self, watch};

/// A full disk is tried again after so long.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// Tells the gate what gossip hears, and writes down what the gate knows of members. Returns only if the disk fails; a
/// full one does not count.
pub(super) async fn remember(
    identity: &Mutex<Option<Identity>>,
    mut view: watch::Receiver<View>,
    gate: &Gate,
    consensus: &Consensus,
) -> IdentityError {
    let mut newest = gate.newest();
    loop {
        let known = {
            let view = view.borrow_and_update();
            view.values().for_each(|peer| gate.hear_of(peer.claim.node_id, peer.claim.boot));
            of_peers(&newest.borrow_and_update(), &view, consensus)
        };
        let mut is_written = true;
        // It is gone only at the end of this life.
        if let Some(identity) = identity.lock().await.as_mut()
            && let Err(error) = identity.remember(known).await
        {
            match &error {
                IdentityError::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                    tracing::warn!("how often the other members have started is not written down: {error}");
                    is_written = false;
                }
                _ => return error,
            }
        }
        let heard = tokio::select! {
            biased;
            heard = view.changed() => heard,
            heard = newest.changed() => heard,
            () = rt::sleep(FULL_PAUSE), if !is_written => Ok(()),
        };
        if heard.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whoever is neither a member nor in sight never comes back under its id, and is forgotten.
fn of_peers(newest: &BTreeMap<u64, Start>, view: &View, consensus: &Consensus) -> BTreeMap<u64, u64> {
    let (me, membership) = (consensus.node_id(), consensus.membership());
    let is_member = |id: u64| membership.membership().get_node(&id).is_some();
    let is_peer = |id: u64| id != me && (is_member(id) || view.contains_key(&id));
    newest.iter().filter(|(id, _)| is_peer(**id)).map(|(&id, newest)| (id, newest.boot)).collect()
}
