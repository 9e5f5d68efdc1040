//! Two processes with one node id: a data directory was copied, or a volume was put back to an older state, and both
//! run.
//!
//! They must never both vote or acknowledge, so at most one of them goes on. The other voters decide which:
//!
//! - A copy that starts at another address than the directory was last used at asks for the status there. If the node
//!   still answers, the copy stops before it has sent anything else: peers would take it for a restart, and exclude the
//!   original.
//! - Of two processes with the same boot counter, each peer admits only the one that it met first (see
//!   [`crate::incarnations`]). The one that more than half of the other voters admit goes on; it cannot be both, as
//!   long as these voters remember which one they met. It must already be in contact with that many voters, and they
//!   must admit it again now. The other one stops.
//! - A process that learns of a later boot counter stops, however many peers admit it: peers that met it before the
//!   later one still answer, and send no notice when they no longer admit it. If it went on, it might vote beside a
//!   process that others already count.
//! - If the voters cannot decide, because there is no other voter, or too few answer, or this node is not a member yet,
//!   the process stops.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mokv_proto::raft::{Channel, Digests, request, response};

use super::{End, NodeError, finish};
use crate::client::Client;
use crate::membership::{Identity, OtherSelf};
use crate::node_id::{Named, NodeId};
use crate::raft::Consensus;
use crate::raft::peers::Contact;
use crate::rt::time::Seldom;
use crate::rt::{self, watch};
use crate::service::Context;

/// The time in which the process that is asked must answer, or it counts as silent.
const ANSWER: Duration = Duration::from_secs(1);

/// Checks whether this directory's node still runs at the address where the directory was last used, if that is another
/// address. If the node was moved, there is no answer.
///
/// # Errors
/// If it does: this directory is a copy.
pub(super) async fn refuse_to_be_one(identity: &Identity, here: &str) -> Result<(), NodeError> {
    let Some(there) = identity.rpc_addr().filter(|there| *there != here) else { return Ok(()) };
    let client = Client::builder().endpoints([there]).timeout(ANSWER).sessions(false).build();
    let Ok(client) = client else { return Ok(()) };
    match rt::timeout(ANSWER, client.status(there)).await {
        Ok(Ok(status)) if status.node_id == identity.node_id() => {
            rt::sometimes("copied directory told before it took part");
            Err(NodeError::Identity(format!(
                "{} still runs at {there}, where this data directory was used last: this one is a copy, and does not take \
                 part. To move the node, stop it there first; to make another node of this one, wipe it with 'mokv serve \
                 --wipe' under another node-name",
                Named(Some(identity.name()), identity.node_id())
            )))
        }
        _ => Ok(()),
    }
}

/// Ends this node when another process is detected under its id, unless this is the one that its peers admit.
pub(super) async fn watch(
    mut other_self: watch::Receiver<Option<OtherSelf>>,
    context: Arc<Context>,
    end: watch::Sender<Option<End>>,
) {
    let said = Seldom::default();
    loop {
        let other = *other_self.borrow_and_update();
        if let Some(OtherSelf { boot, from, .. }) = other {
            let mut later = other_self.clone();
            let is_later = |other: &Option<OtherSelf>| other.is_some_and(|other| other.boot > context.boot);
            let goes_on = tokio::select! {
                biased;
                Ok(()) = later.wait_for(is_later) => false,
                is_known = is_known(context.consensus()) => is_known,
            };
            if !goes_on {
                let reason = format!(
                    "this node's identity is in use by another process (at {from}, boot {boot}): its data directory \
                     was \
                     copied, or its volume rolled back; stop one of the two and wipe its data directory"
                );
                return finish(&end, End::Failed(NodeError::Identity(reason)));
            }
            if let Some(more) = said.now() {
                tracing::error!(
                    more,
                    "a copy of this node's data directory runs at {from}; the other members refuse it and it should end; stop \
                     it, and wipe its data directory"
                );
            }
        }
        if other_self.changed().await.is_err() {
            return;
        }
    }
}

/// Returns `true` if more than half of the other voters admit this process, and not another one, under this node's id.
async fn is_known(consensus: Option<&Consensus>) -> bool {
    let Some(consensus) = consensus else { return false };
    let (membership, me) = (consensus.membership(), consensus.node_id());
    if !consensus.is_member() {
        return false;
    }
    let others: BTreeSet<NodeId> = membership.voter_ids().filter(|id| *id != me).collect();
    let peers = consensus.peers();
    let in_contact = others.iter().filter(|id| peers.contact(**id) == Contact::Reached).count();
    if !are_enough(in_contact, others.len()) {
        return false;
    }
    // A connection may still be open to a peer that is gone, or has forgotten; with every request a peer checks again
    // which process it admits.
    let asked = others.iter().map(|&id| {
        let link = peers.link(id, Channel::Control);
        rt::timeout(ANSWER, async move { link.call(request::Body::Digests(Digests {})).await })
    });
    let answers = join_all(asked).await;
    let let_in =
        answers.into_iter().filter(|answer| matches!(answer, Ok(Ok(response::Body::Digests(_))))).count();
    are_enough(let_in, others.len())
}

/// If each peer admits only one of two processes, at most one of them is admitted by this many.
fn are_enough(peers: usize, others: usize) -> bool {
    peers * 2 > others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_processes_at_most_one_is_known_by_enough() {
        for others in 0..8 {
            for known in 0..=others {
                assert!(
                    !(are_enough(known, others) && are_enough(others - known, others)),
                    "{known} of {others}"
                );
            }
            assert_eq!(
                are_enough(others, others),
                others > 0,
                "a single voter has no other voter that could answer"
            );
        }
    }
}
