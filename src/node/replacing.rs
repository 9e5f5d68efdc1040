//! A node whose data is damaged starts over by itself, if the others can do without it; a setting (`replace-damaged`).
//!
//! It asks first, and only the leader's yes counts ([`raft::replacing`](crate::raft::replacing) says what a yes takes). Then
//! its files are set aside, kept, and it comes back as a newcomer under a new id, by the way that a lost disk takes. Without
//! a yes it refuses to go on as it does without the setting: damaged at its start it ends, and says why; in quarantine it
//! stays there.
//!
//! **It stops first and asks then.** While its Raft runs, an entry can be committed by its acknowledgement after the leader
//! looked, and be gone with its files. So a node in quarantine, which goes on acknowledging and may be needed for it, asks
//! twice. The first question, while it runs, only tells whether it is worth stopping: many a time it is not, and a node that
//! stopped to ask would take its vote from a cluster that is short of votes. At a yes it ends this life, begins another, and
//! asks again before it opens its log; only that answer counts. At a no it goes on in quarantine.
//!
//! Never replaced: a node that is shut out because its directory was put back, copied or contradicted, which is no damage
//! and where its data may be the right one; and one whose identity cannot be read, which nobody could answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mokv_proto::raft::{Channel, Replacement, replacement_answer, request, response};

use crate::membership::{Gossip, State};
use crate::raft::Consensus;
use crate::raft::peers::{AddressBook, Peers};
use crate::rt::{self, Instant, sleep, timeout};

/// A leader that waits for all others to answer takes at most a few of its election timeouts.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two questions of a node in quarantine that runs.
const LOOKS: Duration = Duration::from_secs(5);

/// Where peers are for a node that has no log to say so: where they say they are.
pub(super) struct Claimed(pub Arc<Gossip>);

impl AddressBook for Claimed {
    fn addresses(&self, node_id: u64) -> Vec<String> {
        self.0.address_of(node_id).into_iter().collect()
    }

    fn member_name(&self, node_id: u64) -> Option<String> {
        self.0.view().borrow().get(&node_id).map(|peer| peer.claim.name.clone())
    }

    fn has_successor(&self, node_id: u64, name: &str) -> bool {
        self.0.has_successor(node_id, name)
    }
}

/// What a peer says.
enum Said {
    Yes,
    No(String),
    /// It does not lead, or does not answer.
    Nothing,
}

async fn ask(peers: &Peers, node_id: u64) -> Said {
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

/// Asks everybody whom gossip calls a member, again and again until `deadline`; this node takes no part meanwhile.
/// `tell` hears what stands in the way.
///
/// # Errors
/// In words, if no leader has said yes by then.
pub(super) async fn ask_all(
    peers: &Peers,
    gossip: &Gossip,
    deadline: Instant,
    tell: impl Fn(&str),
) -> Result<(), String> {
    let (me, view) = (peers.local().node_id, gossip.view());
    let mut last = "no leader answers".to_owned();
    loop {
        let members: BTreeSet<u64> = (view.borrow().values())
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
        tell(&last);
        if rt::now() + PAUSE >= deadline {
            rt::sometimes("damaged node not replaced");
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

/// Returns when the leader says of this node, which runs with a doubted state, that it could start over.
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
