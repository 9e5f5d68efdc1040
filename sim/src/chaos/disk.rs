//! Faults of disks.

use std::time::Duration;

use super::strike::Strike;
use crate::cluster::Power;

/// A disk becomes slow for a while.
pub async fn slow_disk(strike: &mut Strike) {
    let victim = strike.victim();
    strike.tell(&victim);
    strike.cluster.slow_disk(&victim, strike.dice.within(5..200) as u32);
    strike.last().await;
    strike.cluster.slow_disk(&victim, 1);
}

/// A sync fails, and the node stops by it.
pub async fn failed_sync(strike: &mut Strike) {
    let victim = strike.victim();
    if strike.cluster.power(&victim) == Power::On {
        strike.tell(&victim);
        strike.cluster.fail_sync(&victim, strike.dice.within(1..20));
        strike.last().await;
        strike.come_back(&victim, Duration::ZERO).await;
    }
}

/// A disk is lost for good, once in a run; its node comes back under its name.
pub async fn wiped_disk(strike: &mut Strike) {
    let victim = strike.victim();
    let cluster = &strike.cluster;
    if cluster.lost_disks() == 0 && cluster.names().len() == cluster.world().nodes {
        strike.tell(&victim);
        strike.cluster.kill(&victim);
        strike.cluster.wipe(&victim);
        let away = strike.away(strike.length);
        strike.come_back(&victim, away).await;
    }
}
