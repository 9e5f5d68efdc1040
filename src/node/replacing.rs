//! Replacing a node whose data is damaged: it starts over by itself if the cluster does not need its data
//! (`replace-damaged`).
//!
//! It asks first, and only the leader's yes counts ([`raft::replacing`](crate::raft::replacing) has the conditions).
//! Then its files are set aside and kept, and it comes back as a newcomer under a new id, the same way as after a lost
//! disk. Without a yes it behaves as without the setting: if damaged at its start it stops and logs the reason; in
//! quarantine it stays there.
//!
//! **It stops first, and asks then.** While its Raft runs, its acknowledgement may commit an entry after the leader has
//! checked, and that entry would be lost with its files. A node in quarantine keeps acknowledging, which the cluster
//! may need, so it asks twice. The first question, while it runs, only tells whether stopping is worthwhile: often it
//! is not, and a node that stopped to ask would take its vote from a cluster that is short of votes. After a yes it
//! stops, starts again, and asks a second time before it opens its log; only that answer counts. After a no it goes on
//! in quarantine.
//!
//! Never replaced: a node that is excluded because its directory was put back to an older state, copied or
//! contradicted, which is no damage, and its data may be the correct one; and a node whose identity cannot be read,
//! because no peer could answer for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mokv_proto::raft::{Channel, Replacement, replacement_answer, request, response};

use crate::membership::{Gossip, State};
use crate::node_id::NodeId;
use crate::raft::Consensus;
use crate::raft::peers::{AddressBook, Peers};
use crate::rt::{self, Instant, sleep, timeout};

/// The time in which a peer has to answer: a leader that waits for all others takes at most a few of its election
/// timeouts.
const ANSWER: Duration = Duration::from_secs(10);
/// The pause between two rounds of questions.
const PAUSE: Duration = Duration::from_secs(1);
/// The interval at which a running node in quarantine asks.
const LOOKS: Duration = Duration::from_secs(5);

/// The address book of a node without an open log: the addresses that peers claim in gossip.
pub(super) struct Claimed(pub Arc<Gossip>);

impl AddressBook for Claimed {
    fn addresses(&self, node_id: NodeId) -> Vec<String> {
        self.0.address_of(node_id).into_iter().collect()
    }

    fn member_name(&self, node_id: NodeId) -> Option<String> {
        self.0.view().borrow().get(&node_id).map(|peer| peer.claim.name.clone())
    }

    fn has_successor(&self, node_id: NodeId, name: &str) -> bool {
        self.0.has_successor(node_id, name)
    }
}

/// A peer's answer.
enum Said {
    Yes,
    No(String),
    /// The peer does not lead, or does not answer.
    Nothing,
}

async fn ask(peers: &Peers, node_id: NodeId) -> Said {
    let link = peers.link(node_id, Channel::Control);
    match timeout(ANSWER, link.call(request::Body::Replacement(Replacement {}))).await {
        Ok(Ok(response::Body::Replacement(answer))) => match answer.outcome {
            Some(replacement_answer::Outcome::Confirmed(_)) => Said::Yes,
            Some(replacement_answer::Outcome::Refused(why)) => Said::No(why),
            Some(replacement_answer::Outcome::NotLeader(_)) | None => Said::Nothing,
        },
        _ => Said::Nothing,
    }
}

/// Asks all members in gossip's view, again and again until `deadline`; this node takes no part in the cluster
/// meanwhile. Calls `report` with the reason against it after each round.
///
/// # Errors
/// The last reason, if no leader has answered yes by then.
pub(super) async fn ask_all(
    peers: &Peers,
    gossip: &Gossip,
    deadline: Instant,
    report: impl Fn(&str),
) -> Result<(), String> {
    let (me, view) = (peers.local().node_id, gossip.view());
    let mut last = "no leader answers".to_owned();
    loop {
        let members: BTreeSet<NodeId> = (view.borrow().values())
            .filter(|peer| peer.claim.state == State::Member && peer.claim.node_id != me)
            .map(|peer| peer.claim.node_id)
            .collect();
        let mut answers: FuturesUnordered<_> = members.into_iter().map(|member| ask(peers, member)).collect();
        while let Some(said) = answers.next().await {
            match said {
                Said::Yes => return Ok(()),
                Said::No(why) => last = why,
                Said::Nothing => {}
            }
        }
        drop(answers);
        report(&last);
        if rt::now() + PAUSE >= deadline {
            rt::sometimes("damaged node not replaced");
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

/// Returns when the leader has answered that this node, which runs with a doubted state, could start over.
pub(super) async fn until_it_may(consensus: &Consensus) {
    loop {
        sleep(LOOKS).await;
        if let Some(leader) = consensus.leader()
            && leader != consensus.node_id()
            && consensus.is_doubted()
            && let Said::Yes = ask(consensus.peers(), leader).await
        {
            return;
        }
    }
}
