//! What an operator does at bad moments.

use mokv::client::Client;
use mokv::node::SUPPORTS;
use mokv::rt;

use super::strike::Strike;
use crate::cluster::RPC_PORT;
use crate::cluster::network::dns_name;

/// No cluster grows by more than this.
const MOST_NEWCOMERS: usize = 3;
/// Below this nobody is removed.
const FEWEST_MEMBERS: usize = 3;

/// A node joins; its name.
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

/// A member is removed for good.
pub async fn scale_in(strike: &mut Strike) {
    let victim = strike.victim();
    if strike.cluster.names().len() <= FEWEST_MEMBERS || !strike.cluster.may_lose(&victim) {
        return;
    }
    strike.tell(&victim);
    strike.cluster.stop(&victim).await;
    rt::sleep(strike.length).await;
    if remove(strike, &victim).await {
        strike.cluster.retire(&victim);
    } else {
        strike.come_back(&victim, strike.length).await;
    }
}

/// A living member is removed and comes back as another.
pub async fn replacement(strike: &mut Strike) {
    let victim = strike.victim();
    if strike.cluster.names().len() >= FEWEST_MEMBERS && strike.cluster.may_lose(&victim) {
        strike.count(&victim);
        remove(strike, &victim).await;
    }
}

async fn remove(strike: &Strike, victim: &str) -> bool {
    let name = victim.to_owned();
    let ask = |client: Client| async move { client.remove_member(&name).await };
    strike.cluster.operate(&format!("removal of {victim}"), ask).await
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
