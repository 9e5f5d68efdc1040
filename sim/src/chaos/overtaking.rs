//! Faults after which a node lacks entries that the others have purged: it needs a snapshot.

use std::time::Duration;

use mokv::rt;
use mokv::rt::task::{TaskGuard, spawn_guarded};

use super::injection::Injection;
use super::operator;
use crate::clients::SimClient;
use crate::evidence::history::Outcome;

/// A node is cut off until the others have purged the entries that follow its log: it needs a snapshot, which replaces
/// one of its own and which it may have to load again at once.
pub async fn laggard(injection: &mut Injection) {
    let leader = injection.leader();
    let others = injection.others(&leader);
    if others.is_empty() {
        return;
    }
    let victim = injection.dice.one_of(&others).clone();
    injection.count(&victim);
    if injection.dice.chance(0.5) {
        operator::ask_for_snapshot(injection, &victim).await;
    }
    injection.cluster.isolate(&victim);
    let lags = until_overtaken(injection, &victim).await;
    injection.cluster.mend_with(&victim, &injection.others(&victim));
    if lags && injection.dice.chance(0.5) {
        injection.last().await;
        injection.cluster.kill(&victim);
        injection.come_back(&victim, Duration::ZERO).await;
    }
}

/// A leader that receives no acknowledgement of its last entries is cut off until the others have purged them. From a
/// snapshot it learns the outcome of its clients' writes, and answers the clients that still wait.
pub async fn overtaken_leader(injection: &mut Injection) {
    let Some((leader, others)) = injection.leader_and_others().await else { return };
    let clients = patient_clients(injection, &leader);
    // The clients connect and open their sessions while the leader can still commit.
    let _ = rt::timeout(injection.cluster.world().election, answers(write(&clients, "before"))).await;
    injection.count(&leader);
    others.iter().for_each(|other| injection.cluster.cut(other, &leader));
    let writes = write(&clients, "overtaken");
    until_sent(injection, &leader, &others, writes.len() as u64).await;
    injection.cluster.isolate(&leader);
    until_overtaken(injection, &leader).await;
    injection.cluster.mend_with(&leader, &others);
    let _ = rt::timeout(enough(injection), answers(writes)).await;
}

/// Clients that know only one node and whose timeout exceeds any fault of this kind.
fn patient_clients(injection: &mut Injection, node: &str) -> Vec<SimClient> {
    const CLIENTS: usize = 3;
    let (nodes, patience) = ([node.to_owned()], enough(injection) * 3);
    let mut client = || {
        let sessions = injection.dice.chance(0.5);
        SimClient::new(&injection.cluster, &nodes, patience, sessions)
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

/// Time for an election and what follows it; longer in worlds whose faults last longer.
fn enough(injection: &Injection) -> Duration {
    (injection.cluster.world().election + injection.length) * 4
}

/// Waits until all writes are answered.
async fn answers(writes: Vec<TaskGuard<()>>) {
    for write in writes {
        write.await.expect("clients do not panic");
    }
}

/// Waits until another node has all of at least `writes` entries that the leader cannot commit. Gives up after two
/// election timeouts.
async fn until_sent(injection: &Injection, leader: &str, others: &[String], writes: u64) {
    const LOOK_AGAIN: Duration = Duration::from_millis(20);
    let begun = rt::now();
    let mut end = None;
    while rt::now() - begun < injection.cluster.world().election * 2 {
        rt::sleep(LOOK_AGAIN).await;
        let Some(end) = end else {
            let Some(leads) = injection.cluster.status(leader).await else { return };
            end = (leads.last_log_index >= leads.committed_index + writes).then_some(leads.last_log_index);
            continue;
        };
        for other in others {
            if injection.cluster.status(other).await.is_some_and(|follows| follows.last_log_index >= end) {
                return;
            }
        }
    }
}

/// Markers that a leader reaches right before it puts a membership into effect.
static MEMBERSHIP_CHANGES: [&str; 6] = [
    "learner added",
    "learner promoted",
    "node replaced under its name",
    "joint configuration flattened",
    "member removed",
    "member's address updated",
];

/// A leader is cut off at the moment at which it changes the membership. The new membership takes effect but is never
/// committed; the leader learns so from another log or from a snapshot.
pub async fn orphaned_membership(injection: &mut Injection) {
    if operator::newcomer(injection).is_none() {
        return;
    }
    let Some((leader, marker)) = injection.pause_at(&MEMBERSHIP_CHANGES).await else { return };
    injection.tell(&format!("{leader} at '{marker}'"));
    injection.cluster.isolate(&leader);
    injection.cluster.resume(&leader);
    if injection.dice.chance(0.6) {
        until_overtaken(injection, &leader).await;
    } else {
        let election = injection.cluster.world().election;
        rt::sleep(injection.dice.time(election * 2..election * 5)).await;
    }
    injection.cluster.mend_with(&leader, &injection.others(&leader));
}

/// Waits until the leader has purged entries that a node lacks, while clients write. Returns `false` if that took too
/// long.
async fn until_overtaken(injection: &mut Injection, victim: &str) -> bool {
    const LOOK_AGAIN: Duration = Duration::from_millis(100);
    const CLIENTS: u64 = 4;
    let Some(status) = injection.cluster.status(victim).await else { return false };
    let others = injection.others(victim);
    let patience = injection.cluster.world().election * 2;
    let _clients: Vec<TaskGuard<()>> = (0..CLIENTS)
        .map(|_| {
            let client = SimClient::new(&injection.cluster, &others, patience, true);
            spawn_guarded(async move {
                // Many writes of unknown outcome on one key are expensive to check.
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
    while rt::now() - begun < enough(injection) {
        rt::sleep(LOOK_AGAIN).await;
        let leader = injection.leader();
        let purged = injection.cluster.status(&leader).await.and_then(|leads| leads.purged_index);
        if leader != *victim && purged > Some(status.last_log_index) {
            injection.cluster.run().marker("a node lags behind the purge");
            return true;
        }
    }
    false
}
