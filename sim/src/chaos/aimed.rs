//! Crashes that are aimed: at elections, at recovery, at single calls of a disk, at leaders that have just changed.

use std::time::Duration;

use mokv::client::Client;
use mokv::rt;
use mokv::rt::disk::{DiskCall, Fault, Operation};

use super::operator;
use super::strike::Strike;

/// Processes die during elections and are back at once, several times in a row.
pub async fn restarts_during_elections(strike: &mut Strike) {
    let Some(leader) = strike.cluster.last_known_leader() else { return };
    strike.tell(&format!("{leader} first"));
    strike.cluster.kill(&leader);
    let election = strike.cluster.world().election;
    rt::sleep(strike.dice.time(election / 2..election * 2)).await;
    for _ in 0..strike.dice.within(2..6) {
        let voter = strike.victim();
        strike.cluster.kill(&voter);
        let soon = strike.soon();
        strike.come_back(&voter, soon).await;
        rt::sleep(strike.soon()).await;
    }
    let away = strike.away(strike.length);
    strike.come_back(&leader, away).await;
}

/// A process dies while it recovers, several times in a row.
pub async fn kill_in_recovery(strike: &mut Strike) {
    let victim = strike.victim();
    strike.tell(&victim);
    strike.cluster.kill(&victim);
    for _ in 0..strike.dice.within(1..4) {
        let soon = strike.soon();
        strike.come_back(&victim, soon).await;
        let crash = *strike.dice.one_of(&[Fault::KillBefore, Fault::KillAfter, Fault::PowerLossAfter]);
        let mut left = strike.dice.within(1..40);
        let meant = move |_: &DiskCall| {
            left = left.saturating_sub(1);
            left == 0
        };
        if strike.crash_at_call(&victim, crash, meant).await {
            strike.cluster.run().situation("killed while recovering");
        }
    }
    let away = strike.away(strike.length);
    strike.come_back(&victim, away).await;
}

/// Two machines lose power in the time in which a third recovers.
pub async fn two_while_one_recovers(strike: &mut Strike) {
    let names = strike.shuffled();
    let [one, two, three, ..] = names.as_slice() else { return };
    strike.tell(&format!("{one} recovers, {two} and {three} are lost"));
    strike.cluster.power_loss(one);
    rt::sleep(strike.length / 2).await;
    strike.come_back(one, Duration::ZERO).await;
    rt::sleep(strike.soon()).await;
    strike.cluster.power_loss(two);
    rt::sleep(strike.soon()).await;
    strike.cluster.power_loss(three);
    for name in [two, three] {
        let away = strike.away(strike.length);
        strike.come_back(name, away).await;
    }
}

/// A node dies between an append to its log and the sync.
pub async fn crash_before_sync(strike: &mut Strike) {
    let victim = strike.leader_or_other();
    let crash = *strike.dice.one_of(&[Fault::KillAfter, Fault::PowerLossAfter]);
    crash_in_log(strike, &victim, crash, Operation::Write).await;
}

/// A node dies when its log is synced and nobody has been told.
pub async fn crash_after_sync(strike: &mut Strike) {
    let victim = strike.leader_or_other();
    let crash = *strike.dice.one_of(&[Fault::KillAfter, Fault::PowerLossAfter]);
    crash_in_log(strike, &victim, crash, Operation::Sync).await;
}

/// The leader dies, and voters die when their vote is written and not answered.
pub async fn crash_after_vote(strike: &mut Strike) {
    let leader = strike.leader();
    strike.tell(&format!("{leader} dies first"));
    strike.cluster.kill(&leader);
    // Without a leader nothing but votes goes to the logs.
    rt::sleep(strike.cluster.world().election / 2).await;
    let mut voters = strike.others(&leader);
    strike.dice.shuffle(&mut voters);
    let several = strike.dice.within(1..3) as usize;
    for voter in voters.into_iter().take(several) {
        let crash = *strike.dice.one_of(&[Fault::KillAfter, Fault::PowerLossAfter, Fault::PowerLossBefore]);
        if strike.crash_at_call(&voter, crash, |call| is_log(call, Operation::Sync)).await {
            strike.cluster.run().situation("crashed between vote and answer");
        }
        let soon = strike.soon();
        strike.come_back(&voter, soon).await;
    }
    let away = strike.away(strike.length);
    strike.come_back(&leader, away).await;
}

/// A leader dies right after leadership was handed over, on either side.
pub async fn crash_after_transfer(strike: &mut Strike) {
    let old = strike.leader();
    let others = strike.others(&old);
    if others.is_empty() {
        return;
    }
    let new = strike.dice.one_of(&others).clone();
    let victim = if strike.dice.chance(0.5) { old.clone() } else { new.clone() };
    strike.tell(&format!("from {old} to {new}, {victim} dies"));
    let ask = |client: Client| async move { client.transfer_leader(Some(&new)).await };
    strike.cluster.operate("transfer", ask).await;
    rt::sleep(strike.soon()).await;
    strike.cluster.power_loss(&victim);
    let away = strike.away(strike.length);
    strike.come_back(&victim, away).await;
}

/// A node that lags dies while it installs or builds a snapshot.
pub async fn crash_in_snapshot(strike: &mut Strike) {
    let victim = strike.victim();
    strike.tell(&victim);
    if strike.dice.chance(0.7) {
        // Long enough to lag behind the purge, where snapshots are frequent.
        strike.cluster.kill(&victim);
        rt::sleep(strike.length * 2).await;
        strike.come_back(&victim, Duration::ZERO).await;
    } else {
        operator::ask_for_snapshot(strike, &victim).await;
    }
    let crash = *strike.dice.one_of(&[Fault::KillBefore, Fault::KillAfter, Fault::PowerLossAfter]);
    let mut left = strike.dice.within(1..16);
    let mut has_begun = false;
    let meant = move |call: &DiskCall| {
        has_begun |= call.name.contains("snap") && call.operation.changes();
        left -= u64::from(left > 0 && has_begun && call.operation.changes());
        left == 0
    };
    if strike.crash_at_call(&victim, crash, meant).await {
        strike.cluster.run().situation("crashed in a snapshot");
    }
    let away = strike.away(strike.length);
    strike.come_back(&victim, away).await;
}

/// Where somebody lies in wait: in the middle of reads, elections, recovery, snapshots and changes of the members.
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

/// A node stands still, dies or loses power at the very moment in which it reaches a rare situation.
pub async fn ambush(strike: &mut Strike) {
    let situation = std::slice::from_ref(strike.dice.one_of(&AMBUSHES));
    let Some((victim, situation)) = strike.pause_at(situation).await else { return };
    strike.tell(&format!("{victim} at '{situation}'"));
    strike.cluster.run().situation("ambushed");
    if strike.dice.chance(0.4) {
        // Most likely others lead when it goes on.
        let election = strike.cluster.world().election;
        rt::sleep(strike.dice.time(election / 2..election * 4)).await;
        strike.cluster.resume(&victim);
        return;
    }
    if strike.dice.chance(0.5) {
        strike.cluster.kill(&victim);
    } else {
        strike.cluster.power_loss(&victim);
    }
    let away = strike.away(strike.length);
    strike.come_back(&victim, away).await;
}

/// The leader dies again and again while a node joins.
pub async fn crash_while_joining(strike: &mut Strike) {
    let Some(newcomer) = operator::newcomer(strike) else { return };
    for _ in 0..strike.dice.within(2..5) {
        if strike.dice.chance(0.5) {
            becomes_voter(strike, &newcomer).await;
        } else {
            rt::sleep(strike.dice.time(Duration::from_millis(200)..Duration::from_secs(3))).await;
        }
        let leader = strike.leader();
        let crash = *strike.dice.one_of(&[Fault::KillAfter, Fault::PowerLossAfter]);
        crash_in_log(strike, &leader, crash, Operation::Sync).await;
    }
}

/// A newcomer learns of the joint configuration before it is committed: then the leader dies, half-way through.
async fn becomes_voter(strike: &mut Strike, newcomer: &str) {
    const PATIENCE: Duration = Duration::from_secs(8);
    const LOOK_AGAIN: Duration = Duration::from_millis(3);
    let before = rt::now();
    let mut was_learner = false;
    while rt::now() - before < PATIENCE {
        let role = strike.cluster.status(newcomer).await.map(|status| status.role);
        if was_learner && role.as_deref() == Some("follower") {
            let leader = strike.leader();
            strike.cluster.run().situation("leader lost in the middle of a membership change");
            strike.cluster.power_loss(&leader);
            let away = strike.away(strike.length);
            return strike.come_back(&leader, away).await;
        }
        was_learner |= role.as_deref() == Some("learner");
        rt::sleep(LOOK_AGAIN).await;
    }
}

/// A node dies at one of the next calls of this kind on its log.
async fn crash_in_log(strike: &mut Strike, victim: &str, crash: Fault, operation: Operation) {
    strike.tell(victim);
    let mut left = strike.dice.within(1..8);
    let meant = move |call: &DiskCall| {
        left -= u64::from(left > 0 && is_log(call, operation));
        left == 0
    };
    if strike.crash_at_call(victim, crash, meant).await {
        strike.cluster.run().situation("crashed at an aimed call of the log");
    }
    let away = strike.away(strike.length);
    strike.come_back(victim, away).await;
}

fn is_log(call: &DiskCall, operation: Operation) -> bool {
    call.operation == operation && call.name.ends_with(".wal")
}
