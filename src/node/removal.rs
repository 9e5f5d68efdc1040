//! A node that does not stand for election asks the members whether it was removed.
//!
//! Nobody would tell it: Raft does not speak to whoever is no member, and who asks nobody for a vote is told nothing. So
//! it was when a leader that removed itself was killed after the change and before it noticed, when a newcomer was
//! removed before it had heard a single entry (its log names nobody, and only gossip knows whom to ask), and when a
//! learner was removed while it was dead: its log still calls it one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mokv_proto::raft::{Channel, Digests, request};

use crate::grpc::Context;
use crate::membership::{State, View};
use crate::raft::Consensus;
use crate::rt::{self, watch};

/// Between two rounds of questions, and for how long one may go unanswered.
const PAUSE: Duration = Duration::from_secs(2);

/// Asks, again and again, for as long as this node does not stand for election: it has no vote by its own log, or is
/// quarantined. The answer comes with the hello: a node that was removed is refused, which
/// [`Gate::removed`](crate::raft::peers::Gate::removed) tells.
pub(super) async fn ask_for_ever(consensus: Consensus, context: Arc<Context>, gossip: watch::Receiver<View>) {
    loop {
        rt::sleep(PAUSE).await;
        let me = consensus.node_id();
        let membership = consensus.membership();
        if membership.voter_ids().any(|id| id == me) && !context.is_quarantined() {
            continue;
        }
        let mut members: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
        if !members.remove(&me) {
            rt::sometimes("a node is no member by its own log");
        }
        if members.is_empty() {
            rt::sometimes("a node has heard of no member but by gossip");
            let view = gossip.borrow();
            let in_the_cluster = view.values().filter(|peer| peer.claim.state == State::Member);
            members.extend(in_the_cluster.map(|peer| peer.claim.node_id).filter(|id| *id != me));
        }
        for member in members {
            let link = consensus.peers().link(member, Channel::Control);
            // What is asked does not matter; who is asked answers at once.
            let _ = rt::timeout(PAUSE, link.call(request::Body::Digests(Digests {}))).await;
        }
    }
}
