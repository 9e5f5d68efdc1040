//! Actions of an operator at bad moments.

use std::num::NonZeroU64;

use mokv::client::{Client, SettingsChange};
use mokv::node::SUPPORTS;
use mokv::rt;

use super::injection::Injection;
use crate::cluster::RPC_PORT;
use crate::cluster::network::dns_name;

/// Most nodes by which a cluster grows.
const MOST_NEWCOMERS: usize = 3;
/// Fewest members of a cluster from which one is removed or replaced.
pub const FEWEST_MEMBERS: usize = 3;

/// A node joins, for which an operator makes room. Returns its name. `None` if the cluster has grown enough.
pub fn newcomer(injection: &mut Injection) -> Option<String> {
    let cluster = &injection.cluster;
    if cluster.names().len() >= cluster.world().nodes + MOST_NEWCOMERS {
        return None;
    }
    let name = cluster.next_name();
    // No `bootstrap_expect`: it joins the existing cluster.
    cluster.add(&name, |_| {});
    injection.count(&name);
    cluster.start(&name);
    Some(name)
}

/// A member is removed for good: the cluster is smaller, and stays so until an operator makes room.
pub async fn scale_in(injection: &mut Injection) {
    let victim = injection.victim();
    if injection.cluster.names().len() <= FEWEST_MEMBERS || !injection.cluster.may_lose(&victim) {
        return;
    }
    injection.tell(&victim);
    injection.cluster.stop(&victim).await;
    rt::sleep(injection.length).await;
    if removal(injection, &victim, false).await {
        injection.cluster.retire(&victim);
    } else {
        injection.come_back(&victim, injection.length).await;
    }
}

/// A running member is removed and comes back under a new id: at once, or it stays outside until an operator makes
/// room.
pub async fn replacement(injection: &mut Injection) {
    let victim = injection.victim();
    if injection.cluster.names().len() < FEWEST_MEMBERS || !injection.cluster.may_lose(&victim) {
        return;
    }
    injection.count(&victim);
    let others = injection.others(&victim);
    let away = injection.dice.one_of(&others).clone();
    let without_another = others.len() >= FEWEST_MEMBERS && injection.dice.chance(0.5);
    if without_another {
        // Until the change is committed, the leaving member has to vote.
        injection.cluster.kill(&away);
    }
    if injection.dice.chance(0.5) {
        removal(injection, &victim, true).await;
    } else {
        removal(injection, &victim, false).await;
        rt::sleep(injection.length).await;
        injection.cluster.lift_size().await;
    }
    if without_another {
        injection.come_back(&away, injection.length).await;
    }
}

/// A running member is removed and comes back at once under a new id. Returns its name. `None` if the cluster could not
/// bear it or the request failed.
pub async fn replaced(injection: &mut Injection) -> Option<String> {
    let victim = injection.victim();
    if injection.cluster.names().len() < FEWEST_MEMBERS || !injection.cluster.may_lose(&victim) {
        return None;
    }
    removal(injection, &victim, true).await.then_some(victim)
}

async fn removal(injection: &Injection, victim: &str, place_stays_open: bool) -> bool {
    let name = victim.to_owned();
    injection.cluster.removal_asked(victim);
    let ask = async move |client: Client| match place_stays_open {
        true => client.replace_member(&name).await,
        false => client.remove_member(&name).await,
    };
    injection.cluster.operate(&format!("removal of {victim}"), ask).await
}

/// An operator makes the cluster's bounds small for a while: few sessions, or no room for more data.
pub async fn small_bounds(injection: &mut Injection) {
    let (sessions, bytes) = if injection.dice.chance(0.5) {
        (injection.dice.within(1..4), 0)
    } else {
        (injection.cluster.world().limits.sessions, injection.dice.within(100..5_000))
    };
    injection.count(&format!("{sessions} sessions, {bytes} bytes (0: any)"));
    let small = SettingsChange::none().max_sessions(sessions).max_store_bytes(NonZeroU64::new(bytes));
    injection.cluster.configure_bounds(small).await;
    injection.last().await;
    injection.cluster.lift_bounds().await;
}

/// All nodes are restarted at other addresses.
pub fn changed_addresses(injection: &mut Injection) {
    injection.tell("of all nodes");
    let names = injection.shuffled();
    names.iter().for_each(|name| injection.cluster.kill(name));
    injection.cluster.move_all();
    names.iter().for_each(|name| injection.cluster.start(name));
}

/// An operator transfers leadership to any node.
pub async fn transfer(injection: &mut Injection) {
    let victim = injection.victim();
    injection.count(&format!("to {victim}"));
    let ask = |client: Client| async move { client.transfer_leader(Some(&victim)).await };
    injection.cluster.operate("transfer", ask).await;
}

/// An operator makes a node write a snapshot.
pub async fn snapshot(injection: &mut Injection) {
    let victim = injection.victim();
    injection.count(&victim);
    ask_for_snapshot(injection, &victim).await;
}

/// Asks a node for a snapshot and waits for the answer.
pub async fn ask_for_snapshot(injection: &Injection, victim: &str) {
    let address = format!("{}:{RPC_PORT}", dns_name(victim));
    let ask = |client: Client| async move { client.snapshot(&address).await };
    injection.cluster.operate("snapshot", ask).await;
}

/// A node is asked to stop.
pub async fn stop(injection: &mut Injection) {
    let victim = injection.victim();
    injection.tell(&victim);
    injection.cluster.stop(&victim).await;
    injection.come_back(&victim, injection.length / 2).await;
}

/// All nodes are restarted, one after the other.
pub async fn rolling_restart(injection: &mut Injection) {
    injection.tell("of all nodes");
    for name in injection.shuffled() {
        injection.cluster.stop(&name).await;
        injection.come_back(&name, injection.length / 4).await;
        rt::sleep(injection.length / 4).await;
    }
}

/// All nodes are restarted with the next version of the program, one after the other.
pub async fn rolling_upgrade(injection: &mut Injection) {
    injection.tell("of all nodes");
    for name in injection.shuffled() {
        injection.cluster.upgrade(&name, SUPPORTS + 1);
        injection.cluster.stop(&name).await;
        injection.come_back(&name, injection.length / 4).await;
        rt::sleep(injection.length / 4).await;
    }
}
