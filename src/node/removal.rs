//! A node that knows no leader asks the members whether it was removed, and why it is not admitted.
//!
//! It would not learn this otherwise: Raft sends nothing to a node that is not a member. Requesting votes is not
//! enough, because not every node does so, or has the addresses to ask. This happened when a leader that removed itself
//! was killed after the change and before it noticed; when a newcomer was removed before it had received a single
//! entry, so its log named no member; when a learner was removed while it was down, and its log still listed it; and
//! when all members in a voter's log have become other nodes since.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mokv_proto::raft::{Admission, AdmissionAnswer, Channel, request, response};

use crate::membership::{State, View};
use crate::node_id::NodeId;
use crate::raft::Consensus;
use crate::rt::{self, watch};
use crate::service::Context;

/// The pause between two rounds of questions, and the time in which a member has to answer.
const PAUSE: Duration = Duration::from_secs(2);
/// The pause between two rounds of a node that does not vote and has no answer yet: it can only wait for the leader,
/// and its operator needs the reason why it does not serve.
const SHORT_PAUSE: Duration = Duration::from_millis(250);

/// While this node knows no leader, asks again and again the members by its own log and by gossip. A removed node is
/// rejected in the handshake, and [`PeerAdmission::excluded`](crate::raft::peers::PeerAdmission::excluded) reports it.
/// The reason why the leader does not admit a newcomer is set in `context`.
pub(super) async fn ask_for_ever(consensus: Consensus, gossip: watch::Receiver<View>, context: Arc<Context>) {
    loop {
        let waits_to_hear = !consensus.is_voter() && context.not_admitted().is_none();
        rt::sleep(if waits_to_hear { SHORT_PAUSE } else { PAUSE }).await;
        if consensus.leader().is_some() {
            context.set_not_admitted(None);
            continue;
        }
        let mut members: BTreeSet<NodeId> = consensus.membership().nodes().map(|(id, _)| *id).collect();
        if !members.contains(&consensus.node_id()) {
            rt::sometimes("a node is no member by its own log");
        }
        if members.is_empty() {
            rt::sometimes("a node has heard of no member but by gossip");
        }
        members.extend(
            gossip
                .borrow()
                .values()
                .filter_map(|peer| (peer.claim.state == State::Member).then_some(peer.claim.node_id)),
        );
        members.remove(&consensus.node_id());
        // All at once, and each answer is used when it arrives: the leader may answer though others are silent.
        let mut answers: FuturesUnordered<_> =
            members.into_iter().map(|member| refusal_of(&consensus, member)).collect();
        let mut is_refused = false;
        while let Some(answer) = answers.next().await {
            if answer.is_some() {
                context.set_not_admitted(answer);
                is_refused = true;
            }
        }
        if !is_refused {
            context.set_not_admitted(None);
        }
    }
}

/// Returns the reason why this node is not admitted, if the member leads and has one.
async fn refusal_of(consensus: &Consensus, member: NodeId) -> Option<String> {
    let link = consensus.peers().link(member, Channel::Control);
    match rt::timeout(PAUSE, link.call(request::Body::Admission(Admission {}))).await {
        Ok(Ok(response::Body::Admission(AdmissionAnswer { refused }))) if !refused.is_empty() => {
            Some(refused)
        }
        _ => None,
    }
}
