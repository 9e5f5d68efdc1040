//! Runs an injection: each kind of fault has its function.

use mokv::rt;
use mokv::rt::disk::Operation;
use mokv::rt::task::TaskGuard;

use super::injection::{Injection, Victim};
use super::{aimed, clock, disk, encounter, network, operator, overtaking, power};
use crate::world::FaultKind;

/// Runs the injection in a task of its own, until the guard is dropped.
pub fn begin(injection: Injection) -> TaskGuard<()> {
    rt::task::spawn_guarded(inject(injection))
}

async fn inject(mut injection: Injection) {
    let injection = &mut injection;
    let _underway = injection.cluster.run().begin_injection(injection.number, injection.kind.name());
    match injection.kind {
        FaultKind::OneWayCut => network::one_way_cut(injection).await,
        FaultKind::TwoWayCut => network::two_way_cut(injection).await,
        FaultKind::PermanentCut => network::permanent_cut(injection),
        FaultKind::IsolateNode => network::isolation(injection, Victim::Any).await,
        FaultKind::IsolateLeader => network::isolation(injection, Victim::Leader).await,
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
        FaultKind::Kill => power::kill(injection, Victim::Any).await,
        FaultKind::KillLeader => power::kill(injection, Victim::Leader).await,
        FaultKind::RestartVoters => aimed::restarts_during_elections(injection).await,
        FaultKind::KillInRecovery => aimed::kill_in_recovery(injection).await,
        FaultKind::PowerLoss => power::power_loss(injection).await,
        FaultKind::PowerLossOfAll => power::power_loss_of_all(injection).await,
        FaultKind::PowerLossAtSync => power::power_loss_at_sync(injection).await,
        FaultKind::PowerLossOfAllAtSync => power::power_loss_of_all_at_sync(injection).await,
        FaultKind::PowerLossWhileUnsynced => power::power_loss_while_unsynced(injection).await,
        FaultKind::PowerLossOfSlowLeader => power::power_loss_of_slow_leader(injection).await,
        FaultKind::TwoWhileOneRecovers => aimed::two_while_one_recovers(injection).await,
        FaultKind::CrashBeforeSync => aimed::crash_in_log(injection, Operation::Write).await,
        FaultKind::CrashAfterSync => aimed::crash_in_log(injection, Operation::Sync).await,
        FaultKind::CrashAfterVote => aimed::crash_after_vote(injection).await,
        FaultKind::CrashAfterTransfer => aimed::crash_after_transfer(injection).await,
        FaultKind::CrashInSnapshot => aimed::crash_in_snapshot(injection).await,
        FaultKind::Ambush => aimed::ambush(injection).await,
        FaultKind::Encounter => encounter::encounter(injection).await,
        FaultKind::CrashWhileJoining => aimed::crash_while_joining(injection).await,
        FaultKind::Pause => power::pause(injection, Victim::Any).await,
        FaultKind::PauseLeader => power::pause(injection, Victim::Leader).await,
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
