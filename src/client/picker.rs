//! Chooses the node to ask next: a pure decision over a snapshot of the client's view.
//!
//! Writes go to the leader; linearizable reads rotate over the followers, to relieve the leader; stale reads go to the
//! node that is expected to answer first. A node that failed recently comes last but is still asked: that no node is
//! known to be healthy is no reason to ask none.

use std::time::{Duration, Instant};

/// A node's role in the cluster, as last reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Executes writes.
    Leader,
    /// Votes, and forwards writes.
    Follower,
    /// Does not vote yet and may lag far behind.
    Learner,
    /// An address that the user gave and that belongs to no known member.
    Seed,
}

/// The kind of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A write, or anything else that only the leader can do.
    Write,
    /// A read that any node can answer, with a read index from the leader.
    LinearizableRead,
    /// A read that a node answers from its own memory.
    StaleRead,
}

/// One node, as the picker sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// Its role.
    pub role: Role,
    /// Whether this call has already asked it in this round.
    pub tried: bool,
    /// The node failed recently and is asked last until then.
    pub set_aside_until: Option<Instant>,
    /// This client's calls in flight to the node.
    pub in_flight: u32,
    /// Its recent latency; `None`: not measured, or too long ago.
    pub latency: Option<Duration>,
}

/// Returns the index of the node to ask; `None` when all have been tried. `rotation` spreads calls over equal nodes:
/// increase it by one per call.
pub(super) fn pick(purpose: Purpose, nodes: &[Node], rotation: usize, now: Instant) -> Option<usize> {
    let fastest = nodes.iter().filter_map(|node| node.latency).min().unwrap_or(Duration::from_millis(1));
    let rank = |&index: &usize| {
        let node = &nodes[index];
        let aside = node.set_aside_until.filter(|until| *until > now);
        let wait = match purpose {
            // An unmeasured node counts as the fastest one: otherwise it would never be measured.
            Purpose::StaleRead => {
                node.latency.unwrap_or(fastest).saturating_mul(node.in_flight.saturating_add(1))
            }
            Purpose::Write | Purpose::LinearizableRead => Duration::ZERO,
        };
        let turn = (index + nodes.len() - rotation % nodes.len()) % nodes.len();
        (aside, preference(purpose, node.role), wait, turn)
    };
    (0..nodes.len()).filter(|&index| !nodes[index].tried).min_by_key(rank)
}

/// Lower is better.
fn preference(purpose: Purpose, role: Role) -> u8 {
    match (purpose, role) {
        (Purpose::Write, Role::Leader) => 0,
        (Purpose::LinearizableRead, Role::Follower) => 0,
        (Purpose::StaleRead, Role::Leader | Role::Follower) => 0,
        (Purpose::Write, Role::Follower) | (Purpose::LinearizableRead, Role::Leader) => 1,
        (_, Role::Learner) => 2,
        (_, Role::Seed) => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn node(role: Role) -> Node {
        Node { role, tried: false, set_aside_until: None, in_flight: 0, latency: None }
    }

    fn cluster() -> Vec<Node> {
        vec![
            node(Role::Follower),
            node(Role::Leader),
            node(Role::Follower),
            node(Role::Learner),
            node(Role::Seed),
        ]
    }

    /// The order in which one call asks all nodes.
    fn order(purpose: Purpose, mut nodes: Vec<Node>, rotation: usize, now: Instant) -> Vec<usize> {
        let mut order = Vec::new();
        while let Some(index) = pick(purpose, &nodes, rotation, now) {
            nodes[index].tried = true;
            order.push(index);
        }
        order
    }

    #[test]
    fn writes_go_to_the_leader_and_reads_go_round_the_followers() {
        let now = crate::rt::now();
        assert_eq!(order(Purpose::Write, cluster(), 0, now), [1, 0, 2, 3, 4]);
        assert_eq!(order(Purpose::LinearizableRead, cluster(), 0, now), [0, 2, 1, 3, 4]);
        assert_eq!(order(Purpose::LinearizableRead, cluster(), 1, now), [2, 0, 1, 3, 4]);
    }

    #[test]
    fn a_node_set_aside_comes_last_and_the_first_to_return_comes_first() {
        let now = crate::rt::now();
        let mut nodes = cluster();
        nodes[1].set_aside_until = Some(now + Duration::from_secs(2));
        nodes[0].set_aside_until = Some(now + Duration::from_secs(1));
        assert_eq!(order(Purpose::Write, nodes.clone(), 0, now), [2, 3, 4, 0, 1]);
        let later = now + Duration::from_secs(3);
        assert_eq!(order(Purpose::Write, nodes, 0, later), [1, 0, 2, 3, 4]);
    }

    #[test]
    fn stale_reads_go_where_the_answer_comes_soonest() {
        let now = crate::rt::now();
        let mut nodes = cluster();
        nodes[0].latency = Some(Duration::from_millis(5));
        nodes[1].latency = Some(Duration::from_millis(2));
        nodes[2].latency = Some(Duration::from_millis(3));
        assert_eq!(pick(Purpose::StaleRead, &nodes, 0, now), Some(1));
        nodes[1].in_flight = 3;
        assert_eq!(pick(Purpose::StaleRead, &nodes, 0, now), Some(2));
        nodes[0].latency = None;
        assert_eq!(pick(Purpose::StaleRead, &nodes, 0, now), Some(0), "an unmeasured node is tried");
    }

    fn any_node() -> impl Strategy<Value = (u8, bool, Option<u64>, u32, Option<u64>)> {
        (0u8..4, any::<bool>(), proptest::option::of(0u64..5), 0u32..9, proptest::option::of(0u64..9))
    }

    proptest! {
        #[test]
        fn every_node_is_asked_once_and_none_is_forgotten(
            drawn in proptest::collection::vec(any_node(), 0..8),
            rotation: usize,
            purpose in prop_oneof![Just(Purpose::Write), Just(Purpose::LinearizableRead), Just(Purpose::StaleRead)],
        ) {
            let now = crate::rt::now();
            let nodes: Vec<Node> = drawn.into_iter().map(|(role, tried, aside, in_flight, latency)| Node {
                role: [Role::Leader, Role::Follower, Role::Learner, Role::Seed][usize::from(role)],
                tried,
                set_aside_until: aside.map(|seconds| now + Duration::from_secs(seconds)),
                in_flight,
                latency: latency.map(Duration::from_millis),
            }).collect();
            let untried: BTreeSet<usize> = (0..nodes.len()).filter(|&index| !nodes[index].tried).collect();
            let order = order(purpose, nodes, rotation, now);
            prop_assert_eq!(order.len(), untried.len());
            prop_assert_eq!(order.into_iter().collect::<BTreeSet<_>>(), untried);
        }
    }
}
