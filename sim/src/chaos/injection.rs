//! One injection of a fault: maps each kind to its function, and holds what these functions share.

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

/// Longest wait for the chosen moment.
const AIM: Duration = Duration::from_secs(5);
/// Delays so short that no election begins.
pub const SOON: Range<Duration> = Duration::from_millis(1)..Duration::from_millis(60);

/// One fault, from its beginning to its end.
pub struct Injection {
    /// The cluster that it hits.
    pub cluster: Cluster,
    /// How long it lasts, if its kind has a duration.
    pub length: Duration,
    /// Random numbers for all choices that the schedule left open.
    pub dice: Dice,
    kind: FaultKind,
    number: u32,
}

impl Injection {
    /// The injection that the schedule planned.
    pub fn new(cluster: &Cluster, planned: &Planned) -> Injection {
        Injection {
            cluster: cluster.clone(),
            length: planned.length,
            dice: Dice::new(planned.seed, planned.kind.name()),
            kind: planned.kind,
            number: planned.number,
        }
    }

    /// Runs the injection in a task of its own, until the guard is dropped.
    pub fn begin(self) -> TaskGuard<()> {
        rt::task::spawn_guarded(self.injection())
    }

    async fn injection(mut self) {
        let injection = &mut self;
        let _underway = injection.cluster.run().begin_injection(injection.number, injection.kind.name());
        match injection.kind {
            FaultKind::OneWayCut => network::one_way_cut(injection).await,
            FaultKind::TwoWayCut => network::two_way_cut(injection).await,
            FaultKind::PermanentCut => network::permanent_cut(injection),
            FaultKind::IsolateNode => network::isolated_node(injection).await,
            FaultKind::IsolateLeader => network::isolated_leader(injection).await,
            FaultKind::DeafLeader => network::deaf_leader(injection).await,
            FaultKind::LateAnswers => network::late_answers(injection).await,
            FaultKind::Laggard => overtaking::laggard(injection).await,
            FaultKind::Overtaken => overtaking::overtaken_leader(injection).await,
            FaultKind::OrphanedMembership => overtaking::orphaned_membership(injection).await,
            FaultKind::Split => network::split(injection).await,
            FaultKind::MuteNode => network::lost_answers(injection).await,
            FaultKind::SlowLink => network::slow_link(injection).await,
            FaultKind::SlowNode => network::slow_node(injection).await,
            FaultKind::Handover => network::cut_off_pair(injection).await,
            FaultKind::DeposedLeader => network::deposed_leader(injection).await,
            FaultKind::Reset => network::reset(injection),
            FaultKind::ResetAll => network::reset_of_all(injection),
            FaultKind::LostDatagrams => network::lost_datagrams(injection).await,
            FaultKind::Kill => power::kill(injection).await,
            FaultKind::KillLeader => power::kill_leader(injection).await,
            FaultKind::RestartVoters => aimed::restarts_during_elections(injection).await,
            FaultKind::KillInRecovery => aimed::kill_in_recovery(injection).await,
            FaultKind::PowerLoss => power::power_loss(injection).await,
            FaultKind::PowerLossOfAll => power::power_loss_of_all(injection).await,
            FaultKind::PowerLossAtSync => power::power_loss_at_sync(injection).await,
            FaultKind::PowerLossOfAllAtSync => power::power_loss_of_all_at_sync(injection).await,
            FaultKind::PowerLossWhileUnsynced => power::power_loss_while_unsynced(injection).await,
            FaultKind::PowerLossOfSlowLeader => power::power_loss_of_slow_leader(injection).await,
            FaultKind::TwoWhileOneRecovers => aimed::two_while_one_recovers(injection).await,
            FaultKind::CrashBeforeSync => aimed::crash_before_sync(injection).await,
            FaultKind::CrashAfterSync => aimed::crash_after_sync(injection).await,
            FaultKind::CrashAfterVote => aimed::crash_after_vote(injection).await,
            FaultKind::CrashAfterTransfer => aimed::crash_after_transfer(injection).await,
            FaultKind::CrashInSnapshot => aimed::crash_in_snapshot(injection).await,
            FaultKind::Ambush => aimed::ambush(injection).await,
            FaultKind::Encounter => encounter::encounter(injection).await,
            FaultKind::CrashWhileJoining => aimed::crash_while_joining(injection).await,
            FaultKind::Pause => power::pause(injection).await,
            FaultKind::PauseLeader => power::pause_leader(injection).await,
            FaultKind::Stutter => power::stutter(injection).await,
            FaultKind::SlowDisk => disk::slow_disk(injection).await,
            FaultKind::FullDisk => disk::full_disk(injection).await,
            FaultKind::FailedSync => disk::failed_change(injection, Operation::Sync).await,
            FaultKind::FailedWrite => disk::failed_change(injection, Operation::Write).await,
            FaultKind::FailedRead => disk::failed_read(injection).await,
            FaultKind::WipedDisk => disk::wiped_disk(injection).await,
            FaultKind::FlippedBit => disk::flipped_bit(injection).await,
            FaultKind::DamagedSnapshot => disk::damaged_snapshot(injection).await,
            FaultKind::RolledBackDisk => disk::rolled_back_disk(injection).await,
            FaultKind::RolledBackBesideLaggards => disk::rolled_back_beside_laggards(injection).await,
            FaultKind::CopiedDisk => disk::copied_disk(injection).await,
            FaultKind::PutBackDisk => disk::put_back_disk(injection).await,
            FaultKind::OtherHistory => disk::other_history(injection).await,
            FaultKind::ClockRate => clock::odd_clock(injection).await,
            FaultKind::ClockLeap => clock::leap(injection),
            FaultKind::Newcomer => {
                operator::newcomer(injection);
                injection.cluster.lift_size().await;
            }
            FaultKind::ScaleIn => operator::scale_in(injection).await,
            FaultKind::Replacement => operator::replacement(injection).await,
            FaultKind::Settings => operator::small_bounds(injection).await,
            FaultKind::ChangedAddresses => operator::changed_addresses(injection),
            FaultKind::Transfer => operator::transfer(injection).await,
            FaultKind::Snapshot => operator::snapshot(injection).await,
            FaultKind::Stop => operator::stop(injection).await,
            FaultKind::RollingRestart => operator::rolling_restart(injection).await,
            FaultKind::RollingUpgrade => operator::rolling_upgrade(injection).await,
        }
    }

    /// Reports what happens, under the injection's number. To be called when it really happens.
    pub fn tell(&self, what: &str) {
        let words = format!("#{} {}: {what}", self.number, self.kind.name());
        self.cluster.run().injection(self.number, &words);
    }

    /// Reports and counts a fault that the cluster does not count by itself.
    pub fn count(&self, what: &str) {
        let words = format!("#{} {}: {what}", self.number, self.kind.name());
        self.cluster.run().fault_of_injection(self.number, self.kind.name(), &words);
    }

    /// The same injection, for a task that runs beside it. It would draw the same numbers, so it should draw none.
    pub fn shadow(&self) -> Injection {
        Injection {
            cluster: self.cluster.clone(),
            length: self.length,
            dice: self.dice.clone(),
            kind: self.kind,
            number: self.number,
        }
    }

    /// Whether another injection of this kind is still under way.
    fn is_doubled(&self) -> bool {
        self.cluster.run().faults_underway(self.kind.name()) > 1
    }

    /// Any node.
    pub fn victim(&mut self) -> String {
        let names = self.cluster.names();
        self.dice.one_of(&names).clone()
    }

    /// The leader as far as the monitor knows, else any node.
    pub fn leader(&mut self) -> String {
        self.cluster.last_known_leader().unwrap_or_else(|| self.victim())
    }

    /// The leader that a majority agrees on, and the others. `None` if there is no leader in time or no other node, or
    /// if another injection of this kind is under way: two at a time would mend each other's links too soon.
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

    /// The leader or any node, each with probability one half.
    pub fn leader_or_other(&mut self) -> String {
        if self.dice.chance(0.5) { self.leader() } else { self.victim() }
    }

    /// All nodes in random order.
    pub fn shuffled(&mut self) -> Vec<String> {
        let mut names = self.cluster.names();
        self.dice.shuffle(&mut names);
        names
    }

    /// Waits as long as the schedule says.
    pub async fn last(&self) {
        rt::sleep(self.length).await;
    }

    /// How long a machine is down: often so briefly that no peer notices.
    pub fn away(&mut self, longest: Duration) -> Duration {
        if self.dice.chance(0.3) { self.soon() } else { longest }
    }

    /// A time so short that no election begins.
    pub fn soon(&mut self) -> Duration {
        self.dice.time(SOON)
    }

    /// Crashes a node at the first call of its disk for which `meant` returns `true`. Returns `false` if there was none
    /// in time or if another fault came first.
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

    /// Pauses a node inside the code that reaches one of these markers, so that no result of its last decision leaves
    /// it. Returns the node and the marker, if one was reached in time.
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
                // The receiver is dropped only together with this watcher.
                let _ = sender.send((node, *situation));
            }
        });
        rt::timeout(AIM, struck).await.ok()?.ok()
    }

    /// Starts a node after a delay, unless another task has started it.
    pub async fn come_back(&self, name: &str, after: Duration) {
        rt::sleep(after).await;
        if self.cluster.power(name) == Power::Off {
            self.cluster.start(name);
        }
    }
}
