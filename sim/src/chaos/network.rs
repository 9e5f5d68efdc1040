//! Faults of links.

use super::strike::Strike;

/// One direction of one link is cut.
pub async fn one_way_cut(strike: &mut Strike) {
    let (from, to) = ends(strike);
    strike.count(&format!("{from} to {to}"));
    strike.cluster.cut(&from, &to);
    strike.last().await;
    strike.cluster.mend(&from, &to);
}

/// One link is cut.
pub async fn two_way_cut(strike: &mut Strike) {
    let (one, other) = ends(strike);
    strike.count(&format!("{one} to {other}"));
    strike.cluster.cut(&one, &other);
    strike.cluster.cut(&other, &one);
    strike.last().await;
    mend(strike, &one, &other);
}

/// A node is cut off from all others; clients may still reach it.
pub async fn isolated_node(strike: &mut Strike) {
    let victim = strike.victim();
    isolate(strike, &victim).await;
}

/// The leader is cut off from all others; clients still reach it.
pub async fn isolated_leader(strike: &mut Strike) {
    let victim = strike.leader();
    isolate(strike, &victim).await;
}

/// The nodes fall into two groups.
pub async fn split(strike: &mut Strike) {
    let names = strike.shuffled();
    let (one, other) = names.split_at(names.len() / 2);
    strike.count(&format!("{} and {}", one.join(", "), other.join(", ")));
    strike.cluster.split(one, other);
    strike.last().await;
    for (from, to) in one.iter().flat_map(|from| other.iter().map(move |to| (from, to))) {
        mend(strike, from, to);
    }
}

/// Answers of a node no longer reach one client.
pub async fn lost_answers(strike: &mut Strike) {
    let victim = strike.victim();
    let clients = u64::from(strike.cluster.world().clients);
    let client = format!("c{}", strike.dice.within(1..clients + 1));
    strike.count(&format!("of {victim} to {client}"));
    strike.cluster.cut(&victim, &client);
    strike.last().await;
    strike.cluster.mend(&victim, &client);
}

/// Two different nodes.
fn ends(strike: &mut Strike) -> (String, String) {
    let names = strike.shuffled();
    (names[0].clone(), names[1].clone())
}

async fn isolate(strike: &Strike, victim: &str) {
    strike.count(victim);
    let others = strike.others(victim);
    strike.cluster.isolate(victim);
    strike.last().await;
    others.iter().for_each(|other| mend(strike, victim, other));
}

fn mend(strike: &Strike, one: &str, other: &str) {
    strike.cluster.mend(one, other);
    strike.cluster.mend(other, one);
}
