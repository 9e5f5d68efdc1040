//! Faults after which a node lacks what the others have purged: only a snapshot helps it.

use std::time::Duration;

use mokv::rt;
use mokv::rt::task::{TaskGuard, spawn_guarded};

use super::network::mend;
use super::operator;
use super::strike::Strike;
use crate::client::SimClient;
use crate::history::Outcome;

/// A node is cut off until the others' logs no longer begin where its own ends: only a snapshot helps it, which takes
/// the place of one of its own, and which it may need again at once.
pub async fn laggard(strike: &mut Strike) {
    let leader = strike.leader();
    let others = strike.others(&leader);
    if others.is_empty() {
        return;
    }
    let victim = strike.dice.one_of(&others).clone();
    strike.count(&victim);
    if strike.dice.chance(0.5) {
        operator::ask_for_snapshot(strike, &victim).await;
    }
    strike.cluster.isolate(&victim);
    let lags = until_overtaken(strike, &victim).await;
    strike.others(&victim).iter().for_each(|other| mend(strike, &victim, other));
    if lags && strike.dice.chance(0.5) {
        strike.last().await;
        strike.cluster.kill(&victim);
        strike.come_back(&victim, Duration::ZERO).await;
    }
}

/// A leader that does not hear who has its last entries is cut off until the others' logs begin behind them: what became
/// of its clients' writes it learns from a snapshot, and tells those who still wait.
pub async fn overtaken_leader(strike: &mut Strike) {
    let Some((leader, others)) = strike.leader_and_others().await else { return };
    let clients = patient_clients(strike, &leader);
    // They are connected and have their sessions while the leader can still commit.
    let _ = rt::timeout(strike.cluster.world().election, answers(write(&clients, "before"))).await;
    strike.count(&leader);
    others.iter().for_each(|other| strike.cluster.cut(other, &leader));
    let writes = write(&clients, "overtaken");
    until_sent(strike, &leader, &others, writes.len() as u64).await;
    strike.cluster.isolate(&leader);
    until_overtaken(strike, &leader).await;
    others.iter().for_each(|other| mend(strike, &leader, other));
    let _ = rt::timeout(enough(strike), answers(writes)).await;
}

/// Clients that know only one node and wait longer for its answer than any fault of this kind takes.
fn patient_clients(strike: &mut Strike, node: &str) -> Vec<SimClient> {
    const CLIENTS: usize = 3;
    let (nodes, patience) = ([node.to_owned()], enough(strike) * 3);
    let mut client = || {
        let sessions = strike.dice.chance(0.5);
        SimClient::new(&strike.cluster, &nodes, patience, sessions)
    };
    (0..CLIENTS).map(|_| client()).collect()
}

/// Each client writes to a key of its own.
fn write(clients: &[SimClient], directory: &str) -> Vec<TaskGuard<()>> {
    let write = |client: SimClient| {
        let key = format!("{directory}/{}", client.host());
        spawn_guarded(async move {
            client.set(&key, None, 16).await;
        })
    };
    clients.iter().cloned().map(write).collect()
}

/// Time for an election and for whatever comes after it, more in worlds whose faults last longer.
fn enough(strike: &Strike) -> Duration {
    (strike.cluster.world().election + strike.length) * 4
}

/// Waits until all are answered.
async fn answers(writes: Vec<TaskGuard<()>>) {
    for write in writes {
        write.await.expect("clients do not panic");
    }
}

/// Waits until another node has all of at least `writes` entries that the leader cannot commit, unless it takes too long.
async fn until_sent(strike: &Strike, leader: &str, others: &[String], writes: u64) {
    const LOOK_AGAIN: Duration = Duration::from_millis(20);
    let begun = rt::now();
    let mut end = None;
    while rt::now() - begun < strike.cluster.world().election * 2 {
        rt::sleep(LOOK_AGAIN).await;
        let Some(end) = end else {
            let Some(leads) = strike.cluster.status(leader).await else { return };
            end = (leads.last_log_index >= leads.committed_index + writes).then_some(leads.last_log_index);
            continue;
        };
        for other in others {
            if strike.cluster.status(other).await.is_some_and(|follows| follows.last_log_index >= end) {
                return;
            }
        }
    }
}

/// What a leader does right before it puts a membership in force.
static MEMBERSHIP_CHANGES: [&str; 6] = [
    "learner added",
    "learner promoted",
    "node replaced under its name",
    "joint configuration flattened",
    "member removed",
    "member's address updated",
];

/// A leader is cut off at the very moment at which it changes the members: what it puts in force is never committed, and
/// it learns so from others' logs or from a snapshot.
pub async fn orphaned_membership(strike: &mut Strike) {
    if operator::newcomer(strike).is_none() {
        return;
    }
    let Some((leader, situation)) = strike.pause_at(&MEMBERSHIP_CHANGES).await else { return };
    strike.tell(&format!("{leader} at '{situation}'"));
    strike.cluster.isolate(&leader);
    strike.cluster.resume(&leader);
    if strike.dice.chance(0.6) {
        until_overtaken(strike, &leader).await;
    } else {
        let election = strike.cluster.world().election;
        rt::sleep(strike.dice.time(election * 2..election * 5)).await;
    }
    strike.others(&leader).iter().for_each(|other| mend(strike, &leader, other));
}

/// Waits until the leader has purged what a node lacks, while clients write. Whether it came to that in time.
async fn until_overtaken(strike: &mut Strike, victim: &str) -> bool {
    const LOOK_AGAIN: Duration = Duration::from_millis(100);
    const CLIENTS: u64 = 4;
    let Some(status) = strike.cluster.status(victim).await else { return false };
    let others = strike.others(victim);
    let patience = strike.cluster.world().election * 2;
    let _clients: Vec<TaskGuard<()>> = (0..CLIENTS)
        .map(|_| {
            let client = SimClient::new(&strike.cluster, &others, patience, true);
            spawn_guarded(async move {
                // Many writes in doubt over one key are hard to judge.
                let mut doubts = 0;
                loop {
                    let key = format!("overtaking/{}.{doubts}", client.host());
                    let (_, outcome) = client.set(&key, None, 16).await;
                    doubts += u64::from(outcome == Outcome::Unknown);
                }
            })
        })
        .collect();
    let begun = rt::now();
    while rt::now() - begun < enough(strike) {
        rt::sleep(LOOK_AGAIN).await;
        let leader = strike.leader();
        let purged = strike.cluster.status(&leader).await.map_or(0, |leads| leads.purged_index);
        if leader != *victim && purged > status.last_log_index {
            strike.cluster.run().situation("a node lags behind the purge");
            return true;
        }
    }
    false
}
