//! One fault under way: which function does which kind, and what all of them use.

use std::ops::Range;
use std::time::Duration;

use mokv::rt;
use mokv::rt::disk::{DiskCall, Fault, Operation};
use mokv::rt::task::TaskGuard;
use tokio::sync::oneshot;

use super::schedule::Planned;
use super::{aimed, clock, disk, encounter, network, operator, overtaking, power};
use crate::cluster::{Cluster, Power};
use crate::dice::Dice;
use crate::world::FaultKind;

/// Waiting for the moment that is aimed at takes no longer.
const AIM: Duration = Duration::from_secs(5);
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
            FaultKind::PermanentCut => network::permanent_cut(strike),
            FaultKind::IsolateNode => network::isolated_node(strike).await,
            FaultKind::IsolateLeader => network::isolated_leader(strike).await,
            FaultKind::DeafLeader => network::deaf_leader(strike).await,
            FaultKind::LateAnswers => network::late_answers(strike).await,
            FaultKind::Laggard => overtaking::laggard(strike).await,
            FaultKind::Overtaken => overtaking::overtaken_leader(strike).await,
            FaultKind::OrphanedMembership => overtaking::orphaned_membership(strike).await,
            FaultKind::Split => network::split(strike).await,
            FaultKind::MuteNode => network::lost_answers(strike).await,
            FaultKind::SlowLink => network::slow_link(strike).await,
            FaultKind::SlowNode => network::slow_node(strike).await,
            FaultKind::Handover => network::cut_off_pair(strike).await,
            FaultKind::DeposedLeader => network::deposed_leader(strike).await,
            FaultKind::Reset => network::reset(strike),
            FaultKind::ResetAll => network::reset_of_all(strike),
            FaultKind::LostDatagrams => network::lost_datagrams(strike).await,
            FaultKind::Kill => power::kill(strike).await,
            FaultKind::KillLeader => power::kill_leader(strike).await,
            FaultKind::RestartVoters => aimed::restarts_during_elections(strike).await,
            FaultKind::KillInRecovery => aimed::kill_in_recovery(strike).await,
            FaultKind::PowerLoss => power::power_loss(strike).await,
            FaultKind::PowerLossOfAll => power::power_loss_of_all(strike).await,
            FaultKind::PowerLossAtSync => power::power_loss_at_sync(strike).await,
            FaultKind::PowerLossOfAllAtSync => power::power_loss_of_all_at_sync(strike).await,
            FaultKind::PowerLossWhileUnsynced => power::power_loss_while_unsynced(strike).await,
            FaultKind::PowerLossOfSlowLeader => power::power_loss_of_slow_leader(strike).await,
            FaultKind::TwoWhileOneRecovers => aimed::two_while_one_recovers(strike).await,
            FaultKind::CrashBeforeSync => aimed::crash_before_sync(strike).await,
            FaultKind::CrashAfterSync => aimed::crash_after_sync(strike).await,
            FaultKind::CrashAfterVote => aimed::crash_after_vote(strike).await,
            FaultKind::CrashAfterTransfer => aimed::crash_after_transfer(strike).await,
            FaultKind::CrashInSnapshot => aimed::crash_in_snapshot(strike).await,
            FaultKind::Ambush => aimed::ambush(strike).await,
            FaultKind::Encounter => encounter::encounter(strike).await,
            FaultKind::CrashWhileJoining => aimed::crash_while_joining(strike).await,
            FaultKind::Pause => power::pause(strike).await,
            FaultKind::PauseLeader => power::pause_leader(strike).await,
            FaultKind::Stutter => power::stutter(strike).await,
            FaultKind::SlowDisk => disk::slow_disk(strike).await,
            FaultKind::FullDisk => disk::full_disk(strike).await,
            FaultKind::FailedSync => disk::failed_change(strike, Operation::Sync).await,
            FaultKind::FailedWrite => disk::failed_change(strike, Operation::Write).await,
            FaultKind::FailedRead => disk::failed_read(strike).await,
            FaultKind::WipedDisk => disk::wiped_disk(strike).await,
            FaultKind::FlippedBit => disk::flipped_bit(strike).await,
            FaultKind::DamagedSnapshot => disk::damaged_snapshot(strike).await,
            FaultKind::RolledBackDisk => disk::rolled_back_disk(strike).await,
            FaultKind::RolledBackBesideLaggards => disk::rolled_back_beside_laggards(strike).await,
            FaultKind::CopiedDisk => disk::copied_disk(strike).await,
            FaultKind::PutBackDisk => disk::put_back_disk(strike).await,
            FaultKind::OtherHistory => disk::other_history(strike).await,
            FaultKind::ClockRate => clock::odd_clock(strike).await,
            FaultKind::ClockLeap => clock::leap(strike),
            FaultKind::Newcomer => {
                operator::newcomer(strike);
                strike.cluster.lift_size().await;
            }
            FaultKind::ScaleIn => operator::scale_in(strike).await,
            FaultKind::Replacement => operator::replacement(strike).await,
            FaultKind::Settings => operator::small_bounds(strike).await,
            FaultKind::ChangedAddresses => operator::changed_addresses(strike),
            FaultKind::Transfer => operator::transfer(strike).await,
            FaultKind::Snapshot => operator::snapshot(strike).await,
            FaultKind::Stop => operator::stop(strike).await,
            FaultKind::RollingRestart => operator::rolling_restart(strike).await,
            FaultKind::RollingUpgrade => operator::rolling_upgrade(strike).await,
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

    /// The same strike, for what goes on beside it. It draws the same numbers, so it had better draw none.
    pub fn shadow(&self) -> Strike {
        Strike {
            cluster: self.cluster.clone(),
            length: self.length,
            dice: self.dice.clone(),
            kind: self.kind,
            number: self.number,
        }
    }

    /// Whether another one of its kind has not ended yet.
    fn is_doubled(&self) -> bool {
        self.cluster.run().faults_underway(self.kind.name()) > 1
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

    /// The leader that a majority agrees on, and the others. `None`: there is none in time or nobody else, or another strike
    /// of this kind has not ended; two at a time would mend each other's links too soon.
    pub async fn leader_and_others(&self) -> Option<(String, Vec<String>)> {
        if self.is_doubled() {
            return None;
        }
        let leader = self.cluster.wait_for_leader(&self.cluster.names(), AIM).await.ok()?;
        let others = self.others(&leader);
        (!others.is_empty()).then_some((leader, others))
    }

    /// All nodes but this one.
    pub fn others(&self, than: &str) -> Vec<String> {
        self.cluster.names().into_iter().filter(|name| name != than).collect()
    }

    /// The leader or any node, each in half of all strikes.
    pub fn leader_or_other(&mut self) -> String {
        if self.dice.chance(0.5) { self.leader() } else { self.victim() }
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

    /// Crashes a node at the first call of its disk that is meant. False if none came in time or others came first.
    pub async fn crash_at_call(
        &self,
        name: &str,
        crash: Fault,
        meant: impl FnMut(&DiskCall) -> bool + Send + 'static,
    ) -> bool {
        if self.cluster.power(name) != Power::On {
            return false;
        }
        match rt::timeout(AIM, self.cluster.crash_at_call(name, crash, meant)).await {
            Ok(has_struck) => has_struck,
            Err(_) => {
                self.cluster.mend_disk(name);
                false
            }
        }
    }

    /// Makes a node stand still in the midst of the code that reaches one of these situations: nothing that it has just
    /// decided leaves it. The node and the situation, if any was reached in time.
    pub async fn pause_at(&self, situations: &'static [&'static str]) -> Option<(String, &'static str)> {
        let cluster = self.cluster.clone();
        let (sender, struck) = oneshot::channel();
        let mut sender = Some(sender);
        let _watch = rt::sometimes::watch(move |reached, host| {
            let Some(situation) = situations.iter().find(|situation| **situation == reached) else { return };
            let node = cluster.names().into_iter().find(|name| cluster.host_id(name) == host);
            if let Some(node) = node
                && let Some(sender) = sender.take()
            {
                cluster.pause(&node);
                // Whoever waits has gone only together with this watcher.
                let _ = sender.send((node, *situation));
            }
        });
        rt::timeout(AIM, struck).await.ok()?.ok()
    }

    /// Starts a node again after a pause, unless somebody else did.
    pub async fn come_back(&self, name: &str, after: Duration) {
        rt::sleep(after).await;
        if self.cluster.power(name) == Power::Off {
            self.cluster.start(name);
        }
    }
}
