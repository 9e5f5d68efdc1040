//! Keeps the other members' incarnations across this node's restarts: a data directory that was rolled back must not find
//! a peer that has forgotten the incarnations it lost, or has only learned of them from others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use mokv_proto::raft::{Channel, Digests, request};
use tokio::sync::Mutex;

use crate::incarnations::Incarnations;
use crate::membership::identity::IdentityError;
use crate::membership::{Identity, Liveness, View};
use crate::node_id::NodeId;
use crate::raft::Consensus;
use crate::raft::peers::PeerAdmission;
use crate::rt::time::Seldom;
use crate::rt::{self, watch};

/// How long one peer is waited for, and the pause before a full disk, or a peer that could not be met, is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Passes boot counters from gossip to the admission, and makes durable what the admission knows of members. Returns
/// only if the disk fails; a full disk does not count.
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
            view.values().for_each(|peer| admission.record_report(peer.claim.node_id, peer.claim.boot));
            of_peers(&incarnations.borrow_and_update(), &view, consensus)
        };
        let mut is_written = true;
        // It is taken only when this node ends.
        if let Some(identity) = identity.lock().await.as_mut()
            && let Err(error) = identity.remember(known).await
        {
            match &error {
                IdentityError::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                    if let Some(more) = full.now() {
                        tracing::warn!(
                            more,
                            "cannot save the boot counters of the other members: {error}; this node tries again"
                        );
                    }
                    is_written = false;
                }
                _ => return error,
            }
        }
        let changed = tokio::select! {
            biased;
            changed = view.changed() => changed,
            changed = incarnations.changed() => changed,
            () = rt::sleep(PAUSE), if !is_written => Ok(()),
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A node that is neither a member nor in gossip's view never comes back under its id, and is forgotten.
fn of_peers(
    incarnations: &BTreeMap<NodeId, Incarnations>,
    view: &View,
    consensus: &Consensus,
) -> BTreeMap<NodeId, Incarnations> {
    let members = members(consensus);
    let is_peer = |id: &NodeId| *id != consensus.node_id() && (members.contains(id) || view.contains_key(id));
    incarnations.iter().filter(|(id, _)| is_peer(id)).map(|(&id, &incarnations)| (id, incarnations)).collect()
}

fn members(consensus: &Consensus) -> BTreeSet<NodeId> {
    consensus.membership().nodes().map(|(id, _)| *id).collect()
}

/// Meets every incarnation of a member that gossip reports: two followers might never connect otherwise, and a boot
/// counter that was only reported can be reached again by a rolled-back directory that is started often enough.
pub(super) async fn meet_for_ever(
    consensus: Consensus,
    mut view: watch::Receiver<View>,
    mut incarnations: watch::Receiver<BTreeMap<NodeId, Incarnations>>,
) {
    loop {
        let unmet: Vec<NodeId> = {
            let (incarnations, view) = (incarnations.borrow_and_update(), view.borrow_and_update());
            let is_unmet = |id: &NodeId| incarnations.get(id).is_some_and(Incarnations::is_unmet);
            let is_alive = |id: &NodeId| view.get(id).is_some_and(|peer| peer.liveness == Liveness::Alive);
            let others = members(&consensus).into_iter().filter(|id| *id != consensus.node_id());
            others.filter(|id| is_unmet(id) && is_alive(id)).collect()
        };
        for &peer in &unmet {
            let link = consensus.peers().link(peer, Channel::Control);
            // Only the handshake matters; this request is answered at once.
            let _ = rt::timeout(PAUSE, link.call(request::Body::Digests(Digests {}))).await;
        }
        let changed = tokio::select! {
            biased;
            changed = view.changed() => changed,
            changed = incarnations.changed() => changed,
            () = rt::sleep(PAUSE), if !unmet.is_empty() => Ok(()),
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
