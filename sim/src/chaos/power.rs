//! Faults of processes and machines: they die, lose power, stand still.

use std::time::Duration;

use mokv::rt;

use super::strike::Strike;
use crate::cluster::Power;

/// A process dies; what it wrote stays in the page cache.
pub async fn kill(strike: &mut Strike) {
    let victim = strike.victim();
    kill_for_a_while(strike, &victim).await;
}

/// The leader's process dies.
pub async fn kill_leader(strike: &mut Strike) {
    let victim = strike.leader();
    kill_for_a_while(strike, &victim).await;
}

/// Power fails on one machine.
pub async fn power_loss(strike: &mut Strike) {
    let victim = strike.victim();
    strike.tell(&victim);
    strike.cluster.power_loss(&victim);
    let away = strike.away(strike.length);
    strike.come_back(&victim, away).await;
}

/// Power fails on all machines at once.
pub async fn power_loss_of_all(strike: &mut Strike) {
    strike.tell("everywhere");
    all_lose_power(strike).await;
}

/// Power fails on one machine just before a sync.
pub async fn power_loss_at_sync(strike: &mut Strike) {
    let victim = strike.victim();
    if strike.cluster.power(&victim) == Power::On {
        let nth = strike.dice.within(1..10);
        strike.tell(&format!("{victim}, sync number {nth} from now"));
        strike.cluster.power_loss_at_sync(&victim, nth).await;
        let away = strike.away(strike.length);
        strike.come_back(&victim, away).await;
    }
}

/// Power fails on all machines just before a sync on one of them; they come back one by one.
pub async fn power_loss_of_all_at_sync(strike: &mut Strike) {
    let victim = strike.victim();
    if strike.cluster.power(&victim) == Power::On {
        let nth = strike.dice.within(1..10);
        strike.tell(&format!("sync number {nth} from now of {victim}"));
        strike.cluster.power_loss_at_sync(&victim, nth).await;
        all_lose_power(strike).await;
    }
}

/// Power fails on a machine, far more likely while it has writes that are not synced.
pub async fn power_loss_while_unsynced(strike: &mut Strike) {
    const LOOK_AGAIN: Duration = Duration::from_millis(2);
    let mut looks = strike.length.as_millis() / LOOK_AGAIN.as_millis() + 1;
    let victim = loop {
        let victim = strike.leader_or_other();
        let at_stake = strike.cluster.disk(&victim).counts().unsynced_writes > 0;
        if strike.dice.chance(if at_stake { 0.2 } else { 0.002 }) || looks == 0 {
            break victim;
        }
        looks -= 1;
        rt::sleep(LOOK_AGAIN).await;
    };
    strike.tell(&victim);
    strike.cluster.power_loss(&victim);
    let away = strike.away(strike.length);
    strike.come_back(&victim, away).await;
}

/// The leader's disk becomes slow, so that others have what it has not; then its power fails, and it is back at once.
pub async fn power_loss_of_slow_leader(strike: &mut Strike) {
    let victim = strike.leader();
    strike.tell(&victim);
    strike.cluster.slow_disk(&victim, strike.dice.within(50..400) as u32);
    rt::sleep(strike.length.min(Duration::from_secs(1))).await;
    strike.cluster.power_loss(&victim);
    strike.cluster.slow_disk(&victim, 1);
    let soon = strike.soon();
    strike.come_back(&victim, soon).await;
}

/// A node stands still for a while.
pub async fn pause(strike: &mut Strike) {
    let victim = strike.victim();
    stand_still(strike, &victim).await;
}

/// The leader stands still for a while.
pub async fn pause_leader(strike: &mut Strike) {
    let victim = strike.leader();
    stand_still(strike, &victim).await;
}

/// The leader stands still until others have elected another, again and again for short times in between: what it was
/// about to answer it answers later.
pub async fn stutter(strike: &mut Strike) {
    let victim = strike.leader();
    strike.tell(&victim);
    let election = strike.cluster.world().election;
    let end = rt::now() + strike.length;
    while rt::now() < end {
        strike.cluster.pause(&victim);
        let short = strike.dice.chance(0.8);
        rt::sleep(if short { strike.soon() } else { strike.dice.time(election..election * 4) }).await;
        strike.cluster.resume(&victim);
        rt::sleep(strike.soon()).await;
    }
}

async fn kill_for_a_while(strike: &mut Strike, victim: &str) {
    strike.tell(victim);
    strike.cluster.kill(victim);
    let away = strike.away(strike.length);
    strike.come_back(victim, away).await;
}

async fn all_lose_power(strike: &mut Strike) {
    strike.cluster.run().situation("power lost everywhere");
    for name in strike.cluster.names() {
        strike.cluster.power_loss(&name);
    }
    let together = strike.dice.chance(0.3);
    for name in strike.shuffled() {
        let pause = if together { Duration::ZERO } else { strike.away(strike.length / 2) };
        strike.come_back(&name, pause).await;
    }
}

async fn stand_still(strike: &Strike, victim: &str) {
    strike.tell(victim);
    strike.cluster.pause(victim);
    strike.last().await;
    strike.cluster.resume(victim);
}
