//! Crashes at chosen moments: in elections, in recovery, at single calls of a disk, right after a change of leader.

use std::time::Duration;

use mokv::client::{Client, Role};
use mokv::rt;
use mokv::rt::disk::{DiskCall, Fault, Operation};

use super::injection::Injection;
use super::operator;

/// Kills processes during elections and restarts them at once, several times in a row.
pub async fn restarts_during_elections(injection: &mut Injection) {
    let Some(leader) = injection.cluster.last_known_leader() else { return };
    injection.tell(&format!("{leader} first"));
    injection.cluster.kill(&leader);
    let election = injection.cluster.world().election;
    rt::sleep(injection.dice.time(election / 2..election * 2)).await;
    for _ in 0..injection.dice.within(2..6) {
        let voter = injection.victim();
        injection.cluster.kill(&voter);
        injection.come_back_soon(&voter).await;
        rt::sleep(injection.soon()).await;
    }
    injection.come_back_later(&leader).await;
}

/// Kills a process while it recovers, several times in a row.
pub async fn kill_in_recovery(injection: &mut Injection) {
    let victim = injection.victim();
    injection.tell(&victim);
    injection.cluster.kill(&victim);
    for _ in 0..injection.dice.within(1..4) {
        injection.come_back_soon(&victim).await;
        let crash = *injection.dice.one_of(&[Fault::KillBefore, Fault::KillAfter, Fault::PowerLossAfter]);
        let mut left = injection.dice.within(1..40);
        let meant = move |_: &DiskCall| {
            left = left.saturating_sub(1);
            left == 0
        };
        if injection.crash_at_call(&victim, crash, meant).await {
            injection.cluster.run().marker("killed while recovering");
        }
    }
    injection.come_back_later(&victim).await;
}

/// Two machines lose power while a third recovers.
pub async fn two_while_one_recovers(injection: &mut Injection) {
    let names = injection.shuffled();
    let [one, two, three, ..] = names.as_slice() else { return };
    injection.tell(&format!("{one} recovers, {two} and {three} are lost"));
    injection.cluster.power_loss(one);
    rt::sleep(injection.length / 2).await;
    injection.come_back(one, Duration::ZERO).await;
    rt::sleep(injection.soon()).await;
    injection.cluster.power_loss(two);
    rt::sleep(injection.soon()).await;
    injection.cluster.power_loss(three);
    for name in [two, three] {
        injection.come_back_later(name).await;
    }
}

/// A node crashes after a call of this kind on its log: after an append before it is synced, or after a sync before the
/// node reports the result.
pub async fn crash_in_log(injection: &mut Injection, operation: Operation) {
    let victim = injection.leader_or_other();
    crash_at_log_call(injection, &victim, operation).await;
}

/// The leader is killed, and voters crash after they have written their vote and before they answer.
pub async fn crash_after_vote(injection: &mut Injection) {
    let leader = injection.leader();
    injection.tell(&format!("{leader} dies first"));
    injection.cluster.kill(&leader);
    // Without a leader only votes are written to the logs.
    rt::sleep(injection.cluster.world().election / 2).await;
    let mut voters = injection.others(&leader);
    injection.dice.shuffle(&mut voters);
    let several = injection.dice.within(1..3) as usize;
    for voter in voters.into_iter().take(several) {
        let crash =
            *injection.dice.one_of(&[Fault::KillAfter, Fault::PowerLossAfter, Fault::PowerLossBefore]);
        if injection.crash_at_call(&voter, crash, |call| is_log(call, Operation::Sync)).await {
            injection.cluster.run().marker("crashed between vote and answer");
        }
        injection.come_back_soon(&voter).await;
    }
    injection.come_back_later(&leader).await;
}

/// After a leadership transfer, the old or the new leader loses power.
pub async fn crash_after_transfer(injection: &mut Injection) {
    let old = injection.leader();
    let others = injection.others(&old);
    if others.is_empty() {
        return;
    }
    let new = injection.dice.one_of(&others).clone();
    let victim = if injection.dice.chance(0.5) { old.clone() } else { new.clone() };
    injection.tell(&format!("from {old} to {new}, {victim} dies"));
    let ask = |client: Client| async move { client.transfer_leader(Some(&new)).await };
    injection.cluster.operate("transfer", ask).await;
    rt::sleep(injection.soon()).await;
    injection.cluster.power_loss(&victim);
    injection.come_back_later(&victim).await;
}

/// A node crashes while it installs a snapshot, because it lags, or builds one.
pub async fn crash_in_snapshot(injection: &mut Injection) {
    let victim = injection.victim();
    injection.tell(&victim);
    if injection.dice.chance(0.7) {
        // Long enough that the others purge what it lacks, where snapshots are frequent.
        injection.cluster.kill(&victim);
        rt::sleep(injection.length * 2).await;
        injection.come_back(&victim, Duration::ZERO).await;
    } else {
        operator::ask_for_snapshot(injection, &victim).await;
    }
    let crash = *injection.dice.one_of(&[Fault::KillBefore, Fault::KillAfter, Fault::PowerLossAfter]);
    let mut left = injection.dice.within(1..16);
    let mut has_begun = false;
    let meant = move |call: &DiskCall| {
        has_begun |= call.name.contains("snap") && call.operation.changes();
        left -= u64::from(left > 0 && has_begun && call.operation.changes());
        left == 0
    };
    if injection.crash_at_call(&victim, crash, meant).await {
        injection.cluster.run().marker("crashed in a snapshot");
    }
    injection.come_back_later(&victim).await;
}

/// Markers at which [`ambush`] hits: in reads, elections, recovery, snapshots and membership changes.
static AMBUSHES: [&str; 14] = [
    "read index known",
    "read index known",
    "reads shared a confirmation",
    "stale read waited for its revision",
    "session deduplicated a retry",
    "leadership handed over",
    "log conflict truncated",
    "torn tail recovered",
    "snapshot installed",
    "snapshot jumped a gap in the log",
    "learner added",
    "learner promoted",
    "joint configuration flattened",
    "node replaced under its name",
];

/// A node is paused, killed or loses power at the moment in which it reaches a rare marker.
pub async fn ambush(injection: &mut Injection) {
    let marker = std::slice::from_ref(injection.dice.one_of(&AMBUSHES));
    let Some((victim, marker)) = injection.pause_at(marker).await else { return };
    injection.tell(&format!("{victim} at '{marker}'"));
    injection.cluster.run().marker("ambushed");
    if injection.dice.chance(0.4) {
        // Most likely another node leads when it resumes.
        let election = injection.cluster.world().election;
        rt::sleep(injection.dice.time(election / 2..election * 4)).await;
        injection.cluster.resume(&victim);
        return;
    }
    if injection.dice.chance(0.5) {
        injection.cluster.kill(&victim);
    } else {
        injection.cluster.power_loss(&victim);
    }
    injection.come_back_later(&victim).await;
}

/// The leader crashes again and again while a node joins.
pub async fn crash_while_joining(injection: &mut Injection) {
    let Some(newcomer) = operator::newcomer(injection) else { return };
    for _ in 0..injection.dice.within(2..5) {
        if injection.dice.chance(0.5) {
            becomes_voter(injection, &newcomer).await;
        } else {
            rt::sleep(injection.dice.time(Duration::from_millis(200)..Duration::from_secs(3))).await;
        }
        let leader = injection.leader();
        crash_at_log_call(injection, &leader, Operation::Sync).await;
    }
}

/// Waits until a newcomer acts on a joint configuration that may not be committed yet; then the leader loses power.
async fn becomes_voter(injection: &mut Injection, newcomer: &str) {
    const PATIENCE: Duration = Duration::from_secs(8);
    const LOOK_AGAIN: Duration = Duration::from_millis(3);
    let before = rt::now();
    let mut was_learner = false;
    while rt::now() - before < PATIENCE {
        let role = injection.cluster.status(newcomer).await.map(|status| status.role);
        if was_learner && role == Some(Role::Follower) {
            let leader = injection.leader();
            injection.cluster.run().marker("leader lost in the middle of a membership change");
            injection.cluster.power_loss(&leader);
            return injection.come_back_later(&leader).await;
        }
        was_learner |= role == Some(Role::Learner);
        rt::sleep(LOOK_AGAIN).await;
    }
}

/// A node crashes after one of the next calls of this kind on its log.
async fn crash_at_log_call(injection: &mut Injection, victim: &str, operation: Operation) {
    let crash = *injection.dice.one_of(&[Fault::KillAfter, Fault::PowerLossAfter]);
    injection.tell(victim);
    let mut left = injection.dice.within(1..8);
    let meant = move |call: &DiskCall| {
        left -= u64::from(left > 0 && is_log(call, operation));
        left == 0
    };
    if injection.crash_at_call(victim, crash, meant).await {
        injection.cluster.run().marker("crashed at an aimed call of the log");
    }
    injection.come_back_later(victim).await;
}

fn is_log(call: &DiskCall, operation: Operation) -> bool {
    call.operation == operation && call.name.ends_with(".wal")
}
