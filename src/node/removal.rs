//! A node that hears no leader asks the members whether it was removed, and why it is not admitted.
//!
//! Nobody would tell it: Raft does not speak to whoever is no member. Asking for votes is not enough, because not
//! everybody does, nor knows whom to ask. So it was when a leader that removed itself was killed after the change and
//! before it noticed; when a newcomer was removed before it had heard a single entry, and its log named nobody; when a
//! learner was removed while it was dead, and its log still called it one; and when all whom a voter's log names have
//! become other nodes since.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mokv_proto::raft::{Admission, AdmissionAnswer, Channel, request, response};

use crate::grpc::Context;
use crate::membership::{State, View};
use crate::raft::Consensus;
use crate::rt::{self, watch};

/// Between two rounds of questions, and for how long one may go unanswered.
const PAUSE: Duration = Duration::from_secs(2);
/// Between two rounds of one that does not vote and was told nothing yet: it has nothing to do but to wait for the leader,
/// and whoever started it looks now why it does not serve.
const SHORT_PAUSE: Duration = Duration::from_millis(250);

/// Asks, again and again, for as long as this node hears no leader: those whom its log calls members, and those whom gossip
/// does. The answer comes with the hello: a node that was removed is refused, which
/// [`PeerAdmission::excluded`](crate::raft::peers::Gate::excluded) tells. What the leader has against a newcomer, `context` tells.
pub(super) async fn ask_for_ever(consensus: Consensus, gossip: watch::Receiver<View>, context: Arc<Context>) {
    loop {
        let waits_to_hear = !consensus.is_voter() && context.not_admitted().is_none();
        rt::sleep(if waits_to_hear { SHORT_PAUSE } else { PAUSE }).await;
        if consensus.leader().is_some() {
            context.set_not_admitted(None);
            continue;
        }
        let mut members: BTreeSet<u64> = consensus.membership().nodes().map(|(id, _)| *id).collect();
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
        // All at once, and said as soon as it is known: the leader answers though others are silent.
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

/// What a member has against this node, if it leads and says so.
async fn refusal_of(consensus: &Consensus, member: u64) -> Option<String> {
    let link = consensus.peers().link(member, Channel::Control);
    match rt::timeout(PAUSE, link.call(request::Body::Admission(Admission {}))).await {
        Ok(Ok(response::Body::Admission(AdmissionAnswer { refused }))) if !refused.is_empty() => {
            Some(refused)
        }
        _ => None,
    }
}
