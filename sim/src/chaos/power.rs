//! Faults of processes and machines: they are killed, lose power, are paused.

use std::time::Duration;

use mokv::rt;

use super::injection::{Injection, Victim};
use crate::cluster::Power;

/// A process is killed; its writes stay in the page cache.
pub async fn kill(injection: &mut Injection, victim: Victim) {
    let victim = injection.pick(victim);
    injection.tell(&victim);
    injection.cluster.kill(&victim);
    injection.come_back_later(&victim).await;
}

/// Power fails on one machine.
pub async fn power_loss(injection: &mut Injection) {
    let victim = injection.victim();
    lose_power(injection, &victim).await;
}

/// Power fails on all machines at once.
pub async fn power_loss_of_all(injection: &mut Injection) {
    injection.tell("everywhere");
    all_lose_power(injection).await;
}

/// Power fails on one machine just before a sync.
pub async fn power_loss_at_sync(injection: &mut Injection) {
    let words = |victim: &str, nth| format!("{victim}, sync number {nth} from now");
    if let Some(victim) = lose_power_at_sync(injection, words).await {
        injection.come_back_later(&victim).await;
    }
}

/// Power fails on all machines just before a sync on one of them; most often they come back one by one.
pub async fn power_loss_of_all_at_sync(injection: &mut Injection) {
    let words = |victim: &str, nth| format!("sync number {nth} from now of {victim}");
    if lose_power_at_sync(injection, words).await.is_some() {
        all_lose_power(injection).await;
    }
}

/// Power fails on a machine, far more likely while it has writes that are not synced.
pub async fn power_loss_while_unsynced(injection: &mut Injection) {
    const LOOK_AGAIN: Duration = Duration::from_millis(2);
    let mut looks = injection.length.as_millis() / LOOK_AGAIN.as_millis() + 1;
    let victim = loop {
        let victim = injection.leader_or_other();
        let at_stake = injection.cluster.disk(&victim).counts().unsynced_writes > 0;
        if injection.dice.chance(if at_stake { 0.2 } else { 0.002 }) || looks == 0 {
            break victim;
        }
        looks -= 1;
        rt::sleep(LOOK_AGAIN).await;
    };
    lose_power(injection, &victim).await;
}

/// The leader's disk becomes slow, so that others have entries that it has not synced; then it loses power and is back
/// at once.
pub async fn power_loss_of_slow_leader(injection: &mut Injection) {
    let victim = injection.leader();
    injection.tell(&victim);
    injection.cluster.slow_disk(&victim, injection.dice.within(50..400) as u32);
    rt::sleep(injection.length.min(Duration::from_secs(1))).await;
    injection.cluster.power_loss(&victim);
    injection.cluster.slow_disk(&victim, 1);
    injection.come_back_soon(&victim).await;
}

/// A node is paused for a while.
pub async fn pause(injection: &mut Injection, victim: Victim) {
    let victim = injection.pick(victim);
    injection.tell(&victim);
    injection.cluster.pause(&victim);
    injection.last().await;
    injection.cluster.resume(&victim);
}

/// The leader is paused again and again, mostly for short times, sometimes until the others have elected another: its
/// pending answers leave it late.
pub async fn stutter(injection: &mut Injection) {
    let victim = injection.leader();
    injection.tell(&victim);
    let election = injection.cluster.world().election;
    let end = rt::now() + injection.length;
    while rt::now() < end {
        injection.cluster.pause(&victim);
        let short = injection.dice.chance(0.8);
        rt::sleep(if short { injection.soon() } else { injection.dice.time(election..election * 4) }).await;
        injection.cluster.resume(&victim);
        rt::sleep(injection.soon()).await;
    }
}

async fn lose_power(injection: &mut Injection, victim: &str) {
    injection.tell(victim);
    injection.cluster.power_loss(victim);
    injection.come_back_later(victim).await;
}

/// Power fails on a running machine just before one of its next syncs. Returns its name; `None`: it does not run.
async fn lose_power_at_sync(
    injection: &mut Injection,
    words: impl Fn(&str, u64) -> String,
) -> Option<String> {
    let victim = injection.victim();
    if injection.cluster.power(&victim) != Power::On {
        return None;
    }
    let nth = injection.dice.within(1..10);
    injection.tell(&words(&victim, nth));
    injection.cluster.power_loss_at_sync(&victim, nth).await;
    Some(victim)
}

async fn all_lose_power(injection: &mut Injection) {
    injection.cluster.run().marker("power lost everywhere");
    for name in injection.cluster.names() {
        injection.cluster.power_loss(&name);
    }
    let together = injection.dice.chance(0.3);
    for name in injection.shuffled() {
        let pause = if together { Duration::ZERO } else { injection.away(injection.length / 2) };
        injection.come_back(&name, pause).await;
    }
}
