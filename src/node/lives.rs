//! Remembers how often the other members have started, beyond this node's own life: a data directory that was rolled
//! back must not find a peer that has forgotten.

use std::collections::BTreeMap;
use std::io;

use tokio::sync::Mutex;

use crate::membership::identity::IdentityError;
use crate::membership::{Identity, View};
use crate::raft::Consensus;
use crate::raft::peers::Gate;
use crate::rt::watch;

/// Tells the gate what gossip hears, and writes down what the gate knows of members. Returns only if the disk fails; a
/// full one does not count, the next news is written with what is missing.
pub(super) async fn remember(
    identity: &Mutex<Option<Identity>>,
    mut view: watch::Receiver<View>,
    gate: &Gate,
    consensus: &Consensus,
) -> IdentityError {
    let mut lives = gate.lives();
    loop {
        let known = {
            let view = view.borrow_and_update();
            view.values().for_each(|peer| gate.hear_of(peer.claim.node_id, peer.claim.boot));
            of_peers(&lives.borrow_and_update(), &view, consensus)
        };
        // It is gone only at the end of this life.
        if let Some(identity) = identity.lock().await.as_mut()
            && let Err(error) = identity.remember(known).await
        {
            match &error {
                IdentityError::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                    tracing::warn!("how often the other members have started is not written down: {error}");
                }
                _ => return error,
            }
        }
        let heard = tokio::select! {
            biased;
            heard = view.changed() => heard,
            heard = lives.changed() => heard,
        };
        if heard.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whoever is neither a member nor in sight never comes back under its id, and is forgotten.
fn of_peers(lives: &BTreeMap<u64, u64>, view: &View, consensus: &Consensus) -> BTreeMap<u64, u64> {
    let (me, membership) = (consensus.node_id(), consensus.membership());
    let is_member = |id: u64| membership.membership().get_node(&id).is_some();
    let is_peer = |id: u64| id != me && (is_member(id) || view.contains_key(&id));
    lives.iter().filter(|(id, _)| is_peer(**id)).map(|(&id, &boot)| (id, boot)).collect()
}
