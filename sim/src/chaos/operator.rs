//! What an operator does at bad moments.

use mokv::client::{Client, SettingsChange};
use mokv::node::SUPPORTS;
use mokv::rt;

use super::strike::Strike;
use crate::cluster::RPC_PORT;
use crate::cluster::network::dns_name;

/// No cluster grows by more than this.
const MOST_NEWCOMERS: usize = 3;
/// Below this nobody is removed.
pub const FEWEST_MEMBERS: usize = 3;

/// A node joins, for which an operator makes room; its name.
pub fn newcomer(strike: &mut Strike) -> Option<String> {
    let cluster = &strike.cluster;
    if cluster.names().len() >= cluster.world().nodes + MOST_NEWCOMERS {
        return None;
    }
    let name = cluster.next_name();
    // It has nothing to expect: it joins what is there.
    cluster.add(&name, |_| {});
    strike.count(&name);
    cluster.start(&name);
    Some(name)
}

/// A member is removed for good: the cluster is smaller, and stays so until an operator makes room.
pub async fn scale_in(strike: &mut Strike) {
    let victim = strike.victim();
    if strike.cluster.names().len() <= FEWEST_MEMBERS || !strike.cluster.may_lose(&victim) {
        return;
    }
    strike.tell(&victim);
    strike.cluster.stop(&victim).await;
    rt::sleep(strike.length).await;
    if removal(strike, &victim, false).await {
        strike.cluster.retire(&victim);
    } else {
        strike.come_back(&victim, strike.length).await;
    }
}

/// A living member is removed and comes back as another: at once, or it runs on outside until an operator makes room.
pub async fn replacement(strike: &mut Strike) {
    let victim = strike.victim();
    if strike.cluster.names().len() < FEWEST_MEMBERS || !strike.cluster.may_lose(&victim) {
        return;
    }
    strike.count(&victim);
    let others = strike.others(&victim);
    let away = strike.dice.one_of(&others).clone();
    let without_another = others.len() >= FEWEST_MEMBERS && strike.dice.chance(0.5);
    if without_another {
        // Until the change is through, the one that leaves has to vote.
        strike.cluster.kill(&away);
    }
    if strike.dice.chance(0.5) {
        removal(strike, &victim, true).await;
    } else {
        removal(strike, &victim, false).await;
        rt::sleep(strike.length).await;
        strike.cluster.lift_size().await;
    }
    if without_another {
        strike.come_back(&away, strike.length).await;
    }
}

/// A living member is removed and comes back as another at once; its name, if the cluster can bear it.
pub async fn replaced(strike: &mut Strike) -> Option<String> {
    let victim = strike.victim();
    if strike.cluster.names().len() < FEWEST_MEMBERS || !strike.cluster.may_lose(&victim) {
        return None;
    }
    removal(strike, &victim, true).await.then_some(victim)
}

async fn removal(strike: &Strike, victim: &str, place_stays_open: bool) -> bool {
    let name = victim.to_owned();
    strike.cluster.removal_asked(victim);
    let ask = async move |client: Client| match place_stays_open {
        true => client.replace_member(&name).await,
        false => client.remove_member(&name).await,
    };
    strike.cluster.operate(&format!("removal of {victim}"), ask).await
}

/// An operator makes the cluster's bounds small for a while: few sessions, or no room for more.
pub async fn small_bounds(strike: &mut Strike) {
    let (sessions, bytes) = if strike.dice.chance(0.5) {
        (strike.dice.within(1..4), 0)
    } else {
        (strike.cluster.world().limits.sessions, strike.dice.within(100..5_000))
    };
    strike.count(&format!("{sessions} sessions, {bytes} bytes (0: any)"));
    let small = SettingsChange {
        max_sessions: Some(sessions),
        max_store_bytes: Some(bytes),
        ..SettingsChange::default()
    };
    strike.cluster.configure_bounds(small).await;
    strike.last().await;
    strike.cluster.lift_bounds().await;
}

/// All nodes come back at other addresses.
pub fn changed_addresses(strike: &mut Strike) {
    strike.tell("of all nodes");
    let names = strike.shuffled();
    names.iter().for_each(|name| strike.cluster.kill(name));
    strike.cluster.move_all();
    names.iter().for_each(|name| strike.cluster.start(name));
}

/// An operator hands leadership to somebody else.
pub async fn transfer(strike: &mut Strike) {
    let victim = strike.victim();
    strike.count(&format!("to {victim}"));
    let ask = |client: Client| async move { client.transfer_leader(Some(&victim)).await };
    strike.cluster.operate("transfer", ask).await;
}

/// An operator has a node write a snapshot.
pub async fn snapshot(strike: &mut Strike) {
    let victim = strike.victim();
    strike.count(&victim);
    ask_for_snapshot(strike, &victim).await;
}

/// Asks a node for a snapshot and waits for the answer.
pub async fn ask_for_snapshot(strike: &Strike, victim: &str) {
    let address = format!("{}:{RPC_PORT}", dns_name(victim));
    let ask = |client: Client| async move { client.snapshot(&address).await };
    strike.cluster.operate("snapshot", ask).await;
}

/// A node is asked to stop.
pub async fn stop(strike: &mut Strike) {
    let victim = strike.victim();
    strike.tell(&victim);
    strike.cluster.stop(&victim).await;
    strike.come_back(&victim, strike.length / 2).await;
}

/// All nodes are restarted, one after the other.
pub async fn rolling_restart(strike: &mut Strike) {
    strike.tell("of all nodes");
    for name in strike.shuffled() {
        strike.cluster.stop(&name).await;
        strike.come_back(&name, strike.length / 4).await;
        rt::sleep(strike.length / 4).await;
    }
}

/// All nodes are restarted with the next version of the program, one after the other.
pub async fn rolling_upgrade(strike: &mut Strike) {
    strike.tell("of all nodes");
    for name in strike.shuffled() {
        strike.cluster.upgrade(&name, SUPPORTS + 1);
        strike.cluster.stop(&name).await;
        strike.come_back(&name, strike.length / 4).await;
        rt::sleep(strike.length / 4).await;
    }
}
