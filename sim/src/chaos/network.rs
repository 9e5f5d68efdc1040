//! Faults of links.

use std::time::Duration;

use mokv::rt;
use mokv::rt::net::weather::DatagramRates;
use mokv::rt::task::spawn_guarded;

use super::strike::Strike;
use crate::client::SimClient;

/// How much slower a slow link is; the quickest heartbeat still passes in time, the slowest election does not.
const SLOWER: std::ops::Range<Duration> = Duration::from_millis(20)..Duration::from_millis(700);

/// One direction of one link is cut.
pub async fn one_way_cut(strike: &mut Strike) {
    let Some((from, to)) = ends(strike) else { return };
    strike.count(&format!("{from} to {to}"));
    strike.cluster.cut(&from, &to);
    strike.last().await;
    strike.cluster.mend(&from, &to);
}

/// One direction of one link is cut, until everything is healed.
pub fn permanent_cut(strike: &mut Strike) {
    let Some((from, to)) = ends(strike) else { return };
    strike.count(&format!("{from} to {to}, for good"));
    strike.cluster.cut(&from, &to);
}

/// One link is cut.
pub async fn two_way_cut(strike: &mut Strike) {
    let Some((one, other)) = ends(strike) else { return };
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

/// The leader hears nobody and everybody hears it.
pub async fn deaf_leader(strike: &mut Strike) {
    let leader = strike.leader();
    let others = strike.others(&leader);
    strike.count(&leader);
    others.iter().for_each(|other| strike.cluster.cut(other, &leader));
    strike.last().await;
    others.iter().for_each(|other| strike.cluster.mend(other, &leader));
}

/// What the others say reaches the leader late, and then nothing of the leader reaches them: they elect another and take
/// a write while what they said before is under way. Clients who know only the old leader read meanwhile.
pub async fn late_answers(strike: &mut Strike) {
    /// Soon a node would give up the connection on which it hears nothing.
    const LATEST: Duration = Duration::from_millis(1_900);
    const PATIENCE: Duration = Duration::from_secs(3);
    let Some((leader, others)) = strike.leader_and_others().await else { return };
    let (cluster, election) = (strike.cluster.clone(), strike.cluster.world().election);
    let client = |nodes: &[String]| SimClient::new(&cluster, nodes, PATIENCE, false);
    let (first, second) = (client(std::slice::from_ref(&leader)), client(&others));
    let key = format!("late/{}", first.host());
    first.set(&key, None, 16).await;
    strike.count(&leader);
    for other in &others {
        let late = strike.dice.time(LATEST * 4 / 5..LATEST);
        cluster.slow_link(other, &leader, late);
    }
    // Whatever else it takes would wait, unsent, before the news of a commit.
    let crowd: Vec<String> = (1..=cluster.world().clients).map(|number| format!("c{number}")).collect();
    crowd.iter().for_each(|host| cluster.cut(host, &leader));
    // The others have this, and the leader does not know it for a long time.
    let begun = rt::now();
    let written = key.clone();
    let _first = spawn_guarded(async move { first.set(&written, None, 16).await });
    rt::sleep(strike.dice.time(election / 8..election / 2)).await;
    others.iter().for_each(|other| cluster.cut(&leader, other));
    if cluster.wait_for_leader(&others, LATEST).await.is_ok() {
        second.set(&key, None, 16).await;
    }
    let mut reads = Vec::new();
    while rt::now() - begun < LATEST + election / 2 {
        // A new one each time: it has not heard of anybody else.
        let (reader, key) = (client(std::slice::from_ref(&leader)), key.clone());
        reads.push(spawn_guarded(async move { reader.get(&key, false).await }));
        rt::sleep(strike.dice.time(Duration::ZERO..election)).await;
    }
    for other in &others {
        cluster.slow_link(other, &leader, Duration::ZERO);
        cluster.mend(&leader, other);
    }
    crowd.iter().for_each(|host| cluster.mend(host, &leader));
}

/// A leader is cut off with one follower, which then leads the others without it: what only the two had survives, and
/// the old leader has to learn it.
pub async fn cut_off_pair(strike: &mut Strike) {
    let leader = strike.leader();
    let mut rest = strike.others(&leader);
    strike.dice.shuffle(&mut rest);
    let Some(follower) = rest.pop() else { return };
    strike.count(&format!("{leader} and {follower}"));
    strike.cluster.split(&[leader.clone(), follower.clone()], &rest);
    // Shorter than any election: the others have not left the leader's term when the follower joins them.
    let election = strike.cluster.world().election;
    rt::sleep(strike.dice.time(election / 10..election)).await;
    strike.cluster.isolate(&leader);
    rest.iter().for_each(|other| mend(strike, &follower, other));
    rt::sleep(strike.length * 2).await;
    mend(strike, &leader, &follower);
    rest.iter().for_each(|other| mend(strike, &leader, other));
}

/// The leader is cut off from all others, which restart meanwhile; clients still reach it. Its clock may be so slow that
/// all this takes no time in its eyes.
pub async fn deposed_leader(strike: &mut Strike) {
    const SLOW_CLOCK: u32 = 300;
    let leader = strike.leader();
    let others = strike.others(&leader);
    strike.count(&leader);
    let loses_time = strike.dice.chance(0.5);
    if loses_time {
        strike.cluster.set_clock_rate(&leader, Some(SLOW_CLOCK));
    }
    strike.cluster.isolate(&leader);
    for other in &others {
        // They forget that they have just heard of a leader.
        strike.cluster.kill(other);
        strike.come_back(other, Duration::ZERO).await;
    }
    let pauses = strike.dice.chance(0.3);
    if pauses {
        strike.cluster.pause(&leader);
    }
    strike.last().await;
    if pauses {
        strike.cluster.resume(&leader);
        // What it was about to answer it answers now, to clients only.
        rt::sleep(strike.soon()).await;
    }
    if loses_time {
        strike.cluster.set_clock_rate(&leader, None);
    }
    others.iter().for_each(|other| mend(strike, &leader, other));
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

/// One link is slow.
pub async fn slow_link(strike: &mut Strike) {
    let Some((one, other)) = ends(strike) else { return };
    slow(strike, &one, &[other]).await;
}

/// All links of a node are slow.
pub async fn slow_node(strike: &mut Strike) {
    let victim = strike.leader_or_other();
    let others = strike.others(&victim);
    slow(strike, &victim, &others).await;
}

/// All connections between two nodes are reset.
pub fn reset(strike: &mut Strike) {
    let Some((one, other)) = ends(strike) else { return };
    strike.count(&format!("{one} and {other}"));
    strike.cluster.reset_connections(&one, &other);
}

/// All connections of a node are reset, those of clients too.
pub fn reset_of_all(strike: &mut Strike) {
    let victim = strike.leader_or_other();
    strike.count(&victim);
    strike.cluster.reset_all_connections(&victim);
}

/// Datagrams get lost, doubled and overtaken.
pub async fn lost_datagrams(strike: &mut Strike) {
    let mut rate = || *strike.dice.one_of(&[0.0, 0.1, 0.5, 0.9]);
    let rates = DatagramRates { loss: rate(), duplication: rate(), reordering: rate() };
    strike.count(&format!("{rates:?}"));
    strike.cluster.set_datagrams(Some(rates));
    strike.last().await;
    strike.cluster.set_datagrams(None);
}

/// Two different nodes, if there are two.
fn ends(strike: &mut Strike) -> Option<(String, String)> {
    let names = strike.shuffled();
    Some((names.first()?.clone(), names.get(1)?.clone()))
}

/// Links become slow, in one direction or in both.
async fn slow(strike: &mut Strike, one: &str, others: &[String]) {
    let there = strike.dice.time(SLOWER);
    let back = if strike.dice.chance(0.5) { there } else { Duration::ZERO };
    strike.count(&format!("{one} to {} takes {there:?} longer, back {back:?}", others.join(", ")));
    for other in others {
        strike.cluster.slow_link(one, other, there);
        strike.cluster.slow_link(other, one, back);
    }
    rt::sleep(strike.length).await;
    for other in others {
        strike.cluster.slow_link(one, other, Duration::ZERO);
        strike.cluster.slow_link(other, one, Duration::ZERO);
    }
}

async fn isolate(strike: &Strike, victim: &str) {
    strike.count(victim);
    let others = strike.others(victim);
    strike.cluster.isolate(victim);
    strike.last().await;
    others.iter().for_each(|other| mend(strike, victim, other));
}

/// Both directions of a link work again.
pub fn mend(strike: &Strike, one: &str, other: &str) {
    strike.cluster.mend(one, other);
    strike.cluster.mend(other, one);
}
