//! Remembers the other members' lives, beyond this node's own: a data directory that was rolled back must not find a
//! peer that has forgotten, or that has only heard of the lives that it lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use mokv_proto::raft::{Channel, Digests, request};
use tokio::sync::Mutex;

use crate::incarnations::Incarnations;
use crate::membership::identity::IdentityError;
use crate::membership::{Identity, Liveness, View};
use crate::raft::Consensus;
use crate::raft::peers::PeerAdmission;
use crate::rt::time::Seldom;
use crate::rt::{self, watch};

/// A full disk is tried again after so long, and so is whoever could not be met; and so long one is waited for.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells the gate what gossip hears, and writes down what the gate knows of members. Returns only if the disk fails; a
/// full one does not count.
pub(super) async fn remember(
    identity: &Mutex<Option<Identity>>,
    mut view: watch::Receiver<View>,
    admission: &PeerAdmission,
    consensus: &Consensus,
) -> IdentityError {
    let mut incarnations = admission.incarnations();
    let full = Seldom::default();
    loop {
        let known = {
            let view = view.borrow_and_update();
            view.values().for_each(|peer| admission.hear_of(peer.claim.node_id, peer.claim.boot));
            of_peers(&incarnations.borrow_and_update(), &view, consensus)
        };
        let mut is_written = true;
        // It is gone only at the end of this life.
        if let Some(identity) = identity.lock().await.as_mut()
            && let Err(error) = identity.remember(known).await
        {
            match &error {
                IdentityError::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                    if let Some(more) = full.now() {
                        tracing::warn!(
                            more,
                            "how often the other members have started is not written down: {error}"
                        );
                    }
                    is_written = false;
                }
                _ => return error,
            }
        }
        let heard = tokio::select! {
            biased;
            heard = view.changed() => heard,
            heard = incarnations.changed() => heard,
            () = rt::sleep(PAUSE), if !is_written => Ok(()),
        };
        if heard.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whoever is neither a member nor in sight never comes back under its id, and is forgotten.
fn of_peers(
    incarnations: &BTreeMap<u64, Incarnations>,
    view: &View,
    consensus: &Consensus,
) -> BTreeMap<u64, Incarnations> {
    let members = members(consensus);
    let is_peer = |id: &u64| *id != consensus.node_id() && (members.contains(id) || view.contains_key(id));
    incarnations.iter().filter(|(id, _)| is_peer(id)).map(|(&id, &incarnations)| (id, incarnations)).collect()
}

fn members(consensus: &Consensus) -> BTreeSet<u64> {
    consensus.membership().nodes().map(|(id, _)| *id).collect()
}

/// Meets every life of a member that gossip tells of: two followers might never speak to each other, and a boot counter
/// that was only heard of is reached in the end by a directory that was rolled back and starts again and again.
pub(super) async fn meet_for_ever(
    consensus: Consensus,
    mut view: watch::Receiver<View>,
    mut incarnations: watch::Receiver<BTreeMap<u64, Incarnations>>,
) {
    loop {
        let unmet: Vec<u64> = {
            let (incarnations, view) = (incarnations.borrow_and_update(), view.borrow_and_update());
            let is_unmet = |id: &u64| incarnations.get(id).is_some_and(Incarnations::is_unmet);
            let is_alive = |id: &u64| view.get(id).is_some_and(|peer| peer.liveness == Liveness::Alive);
            let others = members(&consensus).into_iter().filter(|id| *id != consensus.node_id());
            others.filter(|id| is_unmet(id) && is_alive(id)).collect()
        };
        for &peer in &unmet {
            let link = consensus.peers().link(peer, Channel::Control);
            // The hello is what matters; what is asked is answered at once.
            let _ = rt::timeout(PAUSE, link.call(request::Body::Digests(Digests {}))).await;
        }
        let heard = tokio::select! {
            biased;
            heard = view.changed() => heard,
            heard = incarnations.changed() => heard,
            () = rt::sleep(PAUSE), if !unmet.is_empty() => Ok(()),
        };
        if heard.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
