//! A node whose state is doubted, because a majority has another one, and what it may still do.
//!
//! Its state is never shown: it answers no client, proposes nothing for one, and gives no snapshot. Its log is as good as
//! anybody's: it acknowledges and votes, and may hold the only copy of a committed entry that is in reach (one node
//! doubted, one with a lost disk, one that lags). So it does not stand for election while somebody else can win one;
//! where nobody has led for long it does, and leads until another voter has all that it has, to whom it hands over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Consensus;
use crate::rt::{self, Instant};

/// How often it looks, in election timeouts: two.
const LOOKS: u32 = 2;
/// Elections that the others may lose before it stands, in election timeouts.
const PATIENCE: u32 = 10;

/// Whether this node's state is doubted. Clones share it; it is never taken back, but by an empty disk.
#[derive(Debug, Clone, Default)]
pub struct Doubt(Arc<AtomicBool>);

impl Doubt {
    /// From now on.
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a doubted node knows of who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// It leads itself.
    leads: bool,
    /// For so long it has known no leader.
    leaderless: Duration,
    /// A voter that has all that it has itself, and answers.
    level: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Somebody else leads, or may yet: stay away from elections.
    Wait,
    /// Nobody else can lead, as it seems.
    Stand,
    /// Lead on until somebody is level.
    Replicate,
    /// Let this one lead.
    HandOver(u64),
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

/// Keeps a doubted node from leading, or from leading for longer than it must; for ever.
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
        // A node that a leader contradicts takes no part, whatever else is true of it.
        consensus.raft().runtime_config().elect(step == Step::Stand && consensus.uncontradicted().is_ok());
        match step {
            Step::Wait | Step::Stand => {}
            Step::Replicate => {
                rt::sometimes("doubted node leads until another one is level");
                tracing::warn!(
                    "this node's state is doubted, and only its log lets the cluster go on: it leads, and serves nothing, \
                     until another voter has all of it"
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
    fn it_stands_only_where_nobody_leads_for_long_and_leads_no_longer_than_it_must() {
        const PATIENCE: Duration = Duration::from_secs(10);
        let step = |leads, seconds, level| {
            Seen { leads, leaderless: Duration::from_secs(seconds), level }.step(PATIENCE)
        };
        assert_eq!(step(false, 0, None), Step::Wait);
        assert_eq!(step(false, 9, Some(2)), Step::Wait, "the others may still elect one of them");
        assert_eq!(step(false, 10, None), Step::Stand);
        assert_eq!(step(true, 0, None), Step::Replicate);
        assert_eq!(step(true, 60, Some(2)), Step::HandOver(2));
    }
}
