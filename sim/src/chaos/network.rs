//! Faults of links.

use std::time::Duration;

use mokv::rt;
use mokv::rt::net::link_faults::DatagramRates;
use mokv::rt::task::spawn_guarded;

use super::injection::{Injection, Victim};
use crate::clients::SimClient;

/// Extra latency of a slow link: at the least even the most frequent heartbeats arrive in time, at the most even the
/// slowest election fails.
const SLOWER: std::ops::Range<Duration> = Duration::from_millis(20)..Duration::from_millis(700);

/// One direction of one link is cut.
pub async fn one_way_cut(injection: &mut Injection) {
    let Some((from, to)) = ends(injection) else { return };
    injection.count(&format!("{from} to {to}"));
    cut_for_a_while(injection, &[(from, to)]).await;
}

/// One direction of one link is cut, until the network is healed at the end.
pub fn permanent_cut(injection: &mut Injection) {
    let Some((from, to)) = ends(injection) else { return };
    injection.count(&format!("{from} to {to}, for good"));
    injection.cluster.cut(&from, &to);
}

/// One link is cut.
pub async fn two_way_cut(injection: &mut Injection) {
    let Some((one, other)) = ends(injection) else { return };
    injection.count(&format!("{one} to {other}"));
    cut_for_a_while(injection, &[(one.clone(), other.clone()), (other, one)]).await;
}

/// A node is cut off from all others; clients may still reach it.
pub async fn isolation(injection: &mut Injection, victim: Victim) {
    let victim = injection.pick(victim);
    injection.count(&victim);
    let others = injection.others(&victim);
    injection.cluster.isolate(&victim);
    injection.last().await;
    injection.cluster.mend_with(&victim, &others);
}

/// The leader receives nothing from the others, and they receive everything from it.
pub async fn deaf_leader(injection: &mut Injection) {
    let leader = injection.leader();
    let others = injection.others(&leader);
    injection.count(&leader);
    let links: Vec<_> = others.into_iter().map(|other| (other, leader.clone())).collect();
    cut_for_a_while(injection, &links).await;
}

/// The others' messages reach the leader late, and then none of the leader's reach them: they elect another leader and
/// take a write while their earlier messages are still under way. Clients that know only the old leader read meanwhile.
pub async fn late_answers(injection: &mut Injection) {
    /// Just below the time after which a node closes a connection on which it receives nothing.
    const LATEST: Duration = Duration::from_millis(1_900);
    const PATIENCE: Duration = Duration::from_secs(3);
    let Some((leader, others)) = injection.leader_and_others().await else { return };
    let (cluster, election) = (injection.cluster.clone(), injection.cluster.world().election);
    let client = |nodes: &[String]| SimClient::new(&cluster, nodes, PATIENCE, false);
    let (first, second) = (client(std::slice::from_ref(&leader)), client(&others));
    let key = format!("late/{}", first.host());
    first.set(&key, None, 16).await;
    injection.count(&leader);
    for other in &others {
        let late = injection.dice.time(LATEST * 4 / 5..LATEST);
        cluster.slow_link(other, &leader, late);
    }
    // Other clients' writes would queue, unsent, ahead of the message that the commit index has advanced.
    let crowd: Vec<String> = (1..=cluster.world().clients).map(|number| format!("c{number}")).collect();
    crowd.iter().for_each(|host| cluster.cut(host, &leader));
    // The others store this write, and their answers reach the leader late.
    let begun = rt::now();
    let written = key.clone();
    let _first = spawn_guarded(async move { first.set(&written, None, 16).await });
    rt::sleep(injection.dice.time(election / 8..election / 2)).await;
    others.iter().for_each(|other| cluster.cut(&leader, other));
    if cluster.wait_for_leader(&others, LATEST).await.is_ok() {
        second.set(&key, None, 16).await;
    }
    let mut reads = Vec::new();
    while rt::now() - begun < LATEST + election / 2 {
        // A new client each time: it knows no other node yet.
        let (reader, key) = (client(std::slice::from_ref(&leader)), key.clone());
        reads.push(spawn_guarded(async move { reader.get(&key, false).await }));
        rt::sleep(injection.dice.time(Duration::ZERO..election)).await;
    }
    for other in &others {
        cluster.slow_link(other, &leader, Duration::ZERO);
        cluster.mend(&leader, other);
    }
    crowd.iter().for_each(|host| cluster.mend(host, &leader));
}

/// A leader and one follower are cut off; then the follower joins the others and leads them without the old leader.
/// Entries that only the two had survive, and the old leader has to learn it.
pub async fn cut_off_pair(injection: &mut Injection) {
    let leader = injection.leader();
    let mut rest = injection.others(&leader);
    injection.dice.shuffle(&mut rest);
    let Some(follower) = rest.pop() else { return };
    injection.count(&format!("{leader} and {follower}"));
    injection.cluster.split(&[leader.clone(), follower.clone()], &rest);
    // Shorter than any election timeout: the others are still in the leader's term when the follower joins them.
    let election = injection.cluster.world().election;
    rt::sleep(injection.dice.time(election / 10..election)).await;
    injection.cluster.isolate(&leader);
    injection.cluster.mend_with(&follower, &rest);
    rt::sleep(injection.length * 2).await;
    injection.cluster.mend_both(&leader, &follower);
    injection.cluster.mend_with(&leader, &rest);
}

/// The leader is cut off from all others, which restart meanwhile; clients still reach it. Its clock may be so slow
/// that by it hardly any time passes.
pub async fn deposed_leader(injection: &mut Injection) {
    const SLOW_CLOCK: u32 = 300;
    let leader = injection.leader();
    let others = injection.others(&leader);
    injection.count(&leader);
    let loses_time = injection.dice.chance(0.5);
    if loses_time {
        injection.cluster.set_clock_rate(&leader, Some(SLOW_CLOCK));
    }
    injection.cluster.isolate(&leader);
    for other in &others {
        // After a restart they do not remember the leader's last heartbeat.
        injection.cluster.kill(other);
        injection.come_back(other, Duration::ZERO).await;
    }
    let pauses = injection.dice.chance(0.3);
    if pauses {
        injection.cluster.pause(&leader);
    }
    injection.last().await;
    if pauses {
        injection.cluster.resume(&leader);
        // It sends its pending answers now, to clients only.
        rt::sleep(injection.soon()).await;
    }
    if loses_time {
        injection.cluster.set_clock_rate(&leader, None);
    }
    injection.cluster.mend_with(&leader, &others);
}

/// The nodes fall into two groups.
pub async fn split(injection: &mut Injection) {
    let names = injection.shuffled();
    let (one, other) = names.split_at(names.len() / 2);
    injection.count(&format!("{} and {}", one.join(", "), other.join(", ")));
    injection.cluster.split(one, other);
    injection.last().await;
    one.iter().for_each(|name| injection.cluster.mend_with(name, other));
}

/// Answers of a node no longer reach one client.
pub async fn lost_answers(injection: &mut Injection) {
    let victim = injection.victim();
    let clients = u64::from(injection.cluster.world().clients);
    let client = format!("c{}", injection.dice.within(1..clients + 1));
    injection.count(&format!("of {victim} to {client}"));
    cut_for_a_while(injection, &[(victim, client)]).await;
}

/// One link is slow.
pub async fn slow_link(injection: &mut Injection) {
    let Some((one, other)) = ends(injection) else { return };
    slow(injection, &one, &[other]).await;
}

/// All links of a node are slow.
pub async fn slow_node(injection: &mut Injection) {
    let victim = injection.leader_or_other();
    let others = injection.others(&victim);
    slow(injection, &victim, &others).await;
}

/// All connections between two nodes are reset.
pub fn reset(injection: &mut Injection) {
    let Some((one, other)) = ends(injection) else { return };
    injection.count(&format!("{one} and {other}"));
    injection.cluster.reset_connections(&one, &other);
}

/// All connections of a node are reset, those of clients too.
pub fn reset_of_all(injection: &mut Injection) {
    let victim = injection.leader_or_other();
    injection.count(&victim);
    injection.cluster.reset_all_connections(&victim);
}

/// Datagrams are lost, duplicated and reordered.
pub async fn lost_datagrams(injection: &mut Injection) {
    let mut rate = || *injection.dice.one_of(&[0.0, 0.1, 0.5, 0.9]);
    let rates = DatagramRates { loss: rate(), duplication: rate(), reordering: rate() };
    injection.count(&format!("{rates:?}"));
    injection.cluster.set_datagrams(Some(rates));
    injection.last().await;
    injection.cluster.set_datagrams(None);
}

/// Two different nodes. `None` if there are fewer.
fn ends(injection: &mut Injection) -> Option<(String, String)> {
    let names = injection.shuffled();
    Some((names.first()?.clone(), names.get(1)?.clone()))
}

/// These directions of links are cut for as long as the schedule says.
async fn cut_for_a_while(injection: &Injection, links: &[(String, String)]) {
    links.iter().for_each(|(from, to)| injection.cluster.cut(from, to));
    injection.last().await;
    links.iter().for_each(|(from, to)| injection.cluster.mend(from, to));
}

/// Links become slow, in one direction or in both.
async fn slow(injection: &mut Injection, one: &str, others: &[String]) {
    let there = injection.dice.time(SLOWER);
    let back = if injection.dice.chance(0.5) { there } else { Duration::ZERO };
    injection.count(&format!("{one} to {} takes {there:?} longer, back {back:?}", others.join(", ")));
    for other in others {
        injection.cluster.slow_link(one, other, there);
        injection.cluster.slow_link(other, one, back);
    }
    rt::sleep(injection.length).await;
    for other in others {
        injection.cluster.slow_link(one, other, Duration::ZERO);
        injection.cluster.slow_link(other, one, Duration::ZERO);
    }
}
