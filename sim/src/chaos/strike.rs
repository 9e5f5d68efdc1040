//! One fault under way: which function does which kind, and what all of them use.

use std::ops::Range;
use std::time::Duration;

use mokv::rt;
use mokv::rt::task::TaskGuard;

use super::schedule::Planned;
use super::{disk, network, operator, power};
use crate::cluster::{Cluster, Power};
use crate::dice::Dice;
use crate::world::FaultKind;

/// So soon that no election has begun.
pub const SOON: Range<Duration> = Duration::from_millis(1)..Duration::from_millis(60);

/// One fault, from its beginning to its end.
pub struct Strike {
    /// What it strikes.
    pub cluster: Cluster,
    /// How long it lasts, if it lasts.
    pub length: Duration,
    /// Decides everything that the schedule left open.
    pub dice: Dice,
    kind: FaultKind,
    number: u32,
}

impl Strike {
    /// The strike that was planned so.
    pub fn new(cluster: &Cluster, planned: &Planned) -> Strike {
        Strike {
            cluster: cluster.clone(),
            length: planned.length,
            dice: Dice::new(planned.seed, planned.kind.name()),
            kind: planned.kind,
            number: planned.number,
        }
    }

    /// Strikes, until the guard is dropped.
    pub fn begin(self) -> TaskGuard<()> {
        rt::task::spawn_guarded(self.strike())
    }

    async fn strike(mut self) {
        let strike = &mut self;
        let _underway = strike.cluster.run().begin_strike(strike.number, strike.kind.name());
        match strike.kind {
            FaultKind::OneWayCut => network::one_way_cut(strike).await,
            FaultKind::TwoWayCut => network::two_way_cut(strike).await,
            FaultKind::IsolateNode => network::isolated_node(strike).await,
            FaultKind::IsolateLeader => network::isolated_leader(strike).await,
            FaultKind::Split => network::split(strike).await,
            FaultKind::MuteNode => network::lost_answers(strike).await,
            FaultKind::Kill => power::kill(strike).await,
            FaultKind::KillLeader => power::kill_leader(strike).await,
            FaultKind::RestartVoters => power::restarts_during_elections(strike).await,
            FaultKind::PowerLoss => power::power_loss(strike).await,
            FaultKind::PowerLossOfAll => power::power_loss_of_all(strike).await,
            FaultKind::PowerLossAtSync => power::power_loss_at_sync(strike).await,
            FaultKind::PowerLossOfAllAtSync => power::power_loss_of_all_at_sync(strike).await,
            FaultKind::PowerLossOfSlowLeader => power::power_loss_of_slow_leader(strike).await,
            FaultKind::Pause => power::pause(strike).await,
            FaultKind::PauseLeader => power::pause_leader(strike).await,
            FaultKind::SlowDisk => disk::slow_disk(strike).await,
            FaultKind::FailedSync => disk::failed_sync(strike).await,
            FaultKind::WipedDisk => disk::wiped_disk(strike).await,
            FaultKind::Newcomer => operator::newcomer(strike).await,
            FaultKind::Transfer => operator::transfer(strike).await,
            FaultKind::Snapshot => operator::snapshot(strike).await,
            FaultKind::Stop => operator::stop(strike).await,
        }
    }

    /// Tells what happens, under the strike's number. To be called when it really does.
    pub fn tell(&self, what: &str) {
        let words = format!("#{} {}: {what}", self.number, self.kind.name());
        self.cluster.run().strike(self.number, &words);
    }

    /// Tells and counts what the cluster does not count by itself.
    pub fn count(&self, what: &str) {
        let words = format!("#{} {}: {what}", self.number, self.kind.name());
        self.cluster.run().fault_of_strike(self.number, self.kind.name(), &words);
    }

    /// Any node.
    pub fn victim(&mut self) -> String {
        let names = self.cluster.names();
        self.dice.one_of(&names).clone()
    }

    /// The leader as far as anybody knows, else any node.
    pub fn leader(&mut self) -> String {
        self.cluster.last_known_leader().unwrap_or_else(|| self.victim())
    }

    /// All nodes but this one.
    pub fn others(&self, than: &str) -> Vec<String> {
        self.cluster.names().into_iter().filter(|name| name != than).collect()
    }

    /// All nodes in any order.
    pub fn shuffled(&mut self) -> Vec<String> {
        let mut names = self.cluster.names();
        self.dice.shuffle(&mut names);
        names
    }

    /// As long as the schedule says.
    pub async fn last(&self) {
        rt::sleep(self.length).await;
    }

    /// How long a machine is away: often so briefly that nobody notices.
    pub fn away(&mut self, longest: Duration) -> Duration {
        if self.dice.chance(0.3) { self.soon() } else { longest }
    }

    /// A time so short that no election begins.
    pub fn soon(&mut self) -> Duration {
        self.dice.time(SOON)
    }

    /// Starts a node again after a pause, unless somebody else did.
    pub async fn come_back(&self, name: &str, after: Duration) {
        rt::sleep(after).await;
        if self.cluster.power(name) == Power::Off {
            self.cluster.start(name);
        }
    }
}
