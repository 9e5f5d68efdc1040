//! What an operator does at bad moments.

use mokv::client::Client;

use super::strike::Strike;
use crate::cluster::RPC_PORT;
use crate::cluster::network::dns_name;

/// A node joins, once in a run.
pub async fn newcomer(strike: &mut Strike) {
    let cluster = &strike.cluster;
    if cluster.lost_disks() == 0 && cluster.names().len() == cluster.world().nodes {
        let name = format!("n{}", cluster.world().nodes + 1);
        // It has nothing to expect: it joins what is there.
        cluster.add(&name, |_| {});
        strike.count(&name);
        cluster.start(&name);
    }
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
    let address = format!("{}:{RPC_PORT}", dns_name(&victim));
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
