//! A node whose state is doubted, because a majority's differs from it, and what it may still do.
//!
//! It never serves its state: it answers no client, proposes nothing for one, and sends no snapshot. Its log is as good
//! as any other: it acknowledges and votes, and may hold the only reachable copy of a committed entry (one node
//! doubted, one with a lost disk, one that lags). So it starts no election while another node can win one. If there has
//! been no leader for long, it does, and leads until another voter has its whole log; then it hands leadership over to
//! that voter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Consensus;
use crate::node_id::NodeId;
use crate::rt::{self, Instant};

/// The interval between two checks, in election timeouts.
const LOOKS: u32 = 2;
/// How long there must be no leader before it starts an election, in election timeouts: time for the others to win one.
const PATIENCE: u32 = 10;

/// Whether this node's state is doubted. Clones share it. Never reset, except by a start with an empty disk.
#[derive(Debug, Clone, Default)]
pub struct Doubt(Arc<AtomicBool>);

impl Doubt {
    /// Marks the state as doubted, from now on.
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the state is doubted.
    pub fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a doubted node observes about leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// It leads itself.
    leads: bool,
    /// How long it has known no leader.
    leaderless: Duration,
    /// Another voter that answers and has its whole log.
    level: Option<NodeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Another node leads, or may still win an election: start none.
    Wait,
    /// No other node seems able to lead: start an election.
    Stand,
    /// Keep leading until another voter has the whole log.
    Replicate,
    /// Hand leadership over to this voter.
    HandOver(NodeId),
}

impl Seen {
    fn step(&self, patience: Duration) -> Step {
        match self.level {
            _ if !self.leads && self.leaderless < patience => Step::Wait,
            _ if !self.leads => Step::Stand,
            Some(to) => Step::HandOver(to),
            None => Step::Replicate,
        }
    }
}

/// Keeps a doubted node from leading, or from leading longer than it must. Never returns.
pub async fn keep_from_leading(consensus: Consensus) {
    let pause = consensus.election_timeout() * LOOKS;
    let patience = consensus.election_timeout() * PATIENCE;
    let mut last_led: Instant = rt::now();
    loop {
        let leads = consensus.is_leader();
        if !leads && consensus.leader().is_some() {
            last_led = rt::now();
        }
        let leaderless = rt::now().saturating_duration_since(last_led);
        let level =
            consensus.successors().into_iter().find(|other| other.is_level).map(|other| other.node_id);
        let step = Seen { leads, leaderless, level }.step(patience);
        // A node that a leader has contradicted starts no election in any case.
        consensus.raft().runtime_config().elect(step == Step::Stand && consensus.uncontradicted().is_ok());
        match step {
            Step::Wait | Step::Stand => {}
            Step::Replicate => {
                rt::sometimes("doubted node leads until another one is level");
                tracing::warn!(
                    "this node's state is doubted, but no other voter has all of its log: it leads, and serves \
                     nothing, until another voter has"
                );
            }
            Step::HandOver(to) => match consensus.transfer_leader(to, pause).await {
                Ok(()) => rt::sometimes("doubted node handed leadership over"),
                Err(reason) => tracing::warn!("leadership was not handed over, and will be: {reason}"),
            },
        }
        rt::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_only_where_no_node_leads_for_long_and_leads_no_longer_than_it_must() {
        const PATIENCE: Duration = Duration::from_secs(10);
        let step = |leads, seconds, level| {
            Seen { leads, leaderless: Duration::from_secs(seconds), level }.step(PATIENCE)
        };
        assert_eq!(step(false, 0, None), Step::Wait);
        assert_eq!(step(false, 9, Some(NodeId(2))), Step::Wait, "the others may still elect one of them");
        assert_eq!(step(false, 10, None), Step::Stand);
        assert_eq!(step(true, 0, None), Step::Replicate);
        assert_eq!(step(true, 60, Some(NodeId(2))), Step::HandOver(NodeId(2)));
    }
}
