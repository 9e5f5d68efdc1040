//! Compares states: every node requests from the others the digests that all record at the same log positions.
//!
//! A node is outvoted if a majority of the voters has another digest at one position; without such a majority, a
//! difference only raises the alarm.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mokv_proto::raft::{self as wire, Channel, request, response};

use crate::node_id::NodeId;
use crate::raft::Consensus;
use crate::rt::time::Seldom;
use crate::rt::{self, timeout};
use crate::service::Context;

const INTERVAL: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Compares until this node is outvoted.
pub async fn compare_for_ever(consensus: Consensus, context: Arc<Context>) {
    let differing = Seldom::default();
    loop {
        rt::sleep(INTERVAL).await;
        if context.contradiction().is_some() {
            // It cannot be decided whether this node's state is the wrong one.
            std::future::pending::<()>().await;
        }
        let voters: Vec<NodeId> = consensus.membership().voter_ids().collect();
        let mut theirs = BTreeMap::new();
        for &voter in voters.iter().filter(|voter| **voter != consensus.node_id()) {
            if let Some(digests) = ask(&consensus, voter).await {
                theirs.insert(voter, digests);
            }
        }
        let own: BTreeMap<u64, u128> = consensus.store().digests().into_iter().collect();
        match compare(&own, &theirs, voters.len(), voters.contains(&consensus.node_id())) {
            Verdict::Equal => context.set_digest_alarm(false),
            Verdict::Differ { index } => {
                if let Some(more) = differing.now() {
                    tracing::error!(
                        index,
                        more,
                        "the states of this cluster's nodes differ; compare 'mokv status' of all nodes"
                    );
                }
                context.set_digest_alarm(true);
            }
            Verdict::Outvoted { index } => {
                tracing::error!(index, "a majority of the cluster has another state than this node");
                context.set_digest_alarm(true);
                return;
            }
        }
    }
}

async fn ask(consensus: &Consensus, voter: NodeId) -> Option<BTreeMap<u64, u128>> {
    let link = consensus.peers().link(voter, Channel::Forward);
    let answer = timeout(ANSWER_TIMEOUT, link.call(request::Body::Digests(wire::Digests {}))).await;
    let Ok(Ok(response::Body::Digests(answer))) = answer else { return None };
    let digests = answer
        .digests
        .into_iter()
        .filter_map(|at| Some((at.index, u128::from_be_bytes(at.digest.as_ref().try_into().ok()?))));
    Some(digests.collect())
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Equal,
    Differ { index: u64 },
    Outvoted { index: u64 },
}

/// Compares this node's digests with the others' at every position. A majority at any position outvotes this node;
/// otherwise returns the newest position with a difference.
fn compare(
    own: &BTreeMap<u64, u128>,
    theirs: &BTreeMap<NodeId, BTreeMap<u64, u128>>,
    voters: usize,
    is_voter: bool,
) -> Verdict {
    let majority = voters / 2 + 1;
    let mut newest_difference = None;
    for (index, digest) in own {
        let mut votes: BTreeMap<u128, usize> = BTreeMap::new();
        for other in theirs.values().filter_map(|digests| digests.get(index)) {
            *votes.entry(*other).or_default() += 1;
        }
        if is_voter {
            *votes.entry(*digest).or_default() += 1;
        }
        if votes.iter().any(|(other, count)| other != digest && *count >= majority) {
            return Verdict::Outvoted { index: *index };
        }
        if votes.keys().any(|other| other != digest) {
            newest_difference = Some(*index);
        }
    }
    newest_difference.map_or(Verdict::Equal, |index| Verdict::Differ { index })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(digests: &[(u64, u128)]) -> BTreeMap<u64, u128> {
        digests.iter().copied().collect()
    }

    #[test]
    fn only_a_majority_outvotes() {
        let own = at(&[(256, 1), (512, 2)]);
        let same = at(&[(256, 1), (512, 2)]);
        let other = at(&[(512, 3)]);
        let third = at(&[(512, 4)]);
        let compare = |theirs: &[&BTreeMap<u64, u128>], voters| {
            let theirs = theirs
                .iter()
                .enumerate()
                .map(|(id, digests)| (NodeId(id as u64), (*digests).clone()))
                .collect();
            super::compare(&own, &theirs, voters, true)
        };
        assert_eq!(compare(&[&same, &same], 3), Verdict::Equal);
        assert_eq!(compare(&[&same, &other], 3), Verdict::Differ { index: 512 });
        assert_eq!(compare(&[&other, &other], 3), Verdict::Outvoted { index: 512 });
        assert_eq!(compare(&[&other], 2), Verdict::Differ { index: 512 }, "two nodes have no majority");
        assert_eq!(compare(&[&other, &third], 3), Verdict::Differ { index: 512 }, "all different");
        assert_eq!(compare(&[&at(&[(768, 9)]), &at(&[])], 3), Verdict::Equal, "nothing at equal positions");
    }
}
