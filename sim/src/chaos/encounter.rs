//! A drawn fault is injected into a node in a drawn role while the cluster is in a drawn situation: see
//! [`crate::world::encounters`].
//!
//! The role is set up first, then the situation; the fault hits the node that has the role then. If role or situation
//! cannot be set up in time, the encounter is not counted and no fault is injected.

use std::time::Duration;

use mokv::client::Client;
use mokv::rt;
use mokv::rt::disk::Operation;
use mokv::rt::task::{TaskGuard, spawn_guarded};

use super::injection::Injection;
use super::operator;
use crate::clients::direct::Direct;
use crate::cluster::Power;
use crate::world::encounters::{BESIDE, Encounter, Fault, Role, Situation, pair};

/// Longest time to wait until a node has its role.
const IN_TIME: Duration = Duration::from_secs(6);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Time from becoming a learner or quarantined to the fault, in half of all cases; otherwise none.
const LATER: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(800);

/// One encounter, or the same several times in a row; sometimes a second node is hit as well.
pub async fn encounter(injection: &mut Injection) {
    let encounter = Encounter::draw(&mut injection.dice);
    let times = *injection.dice.one_of(&[1, 1, 2, 3]);
    let beside = injection.dice.chance(0.4).then(|| *injection.dice.one_of(Fault::ALL));
    for time in 1..=times {
        let Some(principal) = prepare(injection, encounter.role).await else { return };
        let _scene = scene(injection, encounter, principal.as_deref()).await;
        let Some(victim) = enter(injection, encounter.role, principal).await else { return };
        let other = match beside {
            Some(fault) => {
                another(injection, encounter.role, &victim).await.map(|(role, name)| (role, name, fault))
            }
            None => None,
        };
        let run = injection.cluster.run().clone();
        run.encounter(encounter.name(time > 1));
        injection.count(&format!("{victim}, {encounter}, time {time}"));
        if let Some((role, name, fault)) = &other {
            run.encounter(pair((encounter.role, encounter.fault), (*role, *fault)));
            injection.tell(&format!("and {name}, {}/{}", role.word(), fault.word()));
        }
        deal(injection, &victim, encounter.fault).await;
        if let Some((_, name, fault)) = &other {
            deal(injection, name, *fault).await;
        }
        injection.last().await;
        undo(injection, &victim, encounter.fault).await;
        if let Some((_, name, fault)) = &other {
            undo(injection, name, *fault).await;
        }
        if injection.cluster.is_doubted(&victim) {
            asked_in_vain(injection, &victim).await;
            // As the node's message asks.
            injection.cluster.kill(&victim);
            injection.cluster.wipe(&victim);
            injection.cluster.start(&victim);
        }
        rt::sleep(injection.soon()).await;
    }
}

/// Reads from a quarantined node, which must not answer; the checker sees the outcome.
async fn asked_in_vain(injection: &mut Injection, doubted: &str) {
    const DEADLINE: Duration = Duration::from_secs(1);
    let is_stale = injection.dice.chance(0.7);
    let client = Direct::new(&injection.cluster, doubted);
    client.get("direct/0", is_stale, DEADLINE, DEADLINE * 3).await;
}

/// Chooses the node, or gives it this role. `Some(None)` if the node is chosen when it is needed. `None` if no node can
/// have the role now.
async fn prepare(injection: &mut Injection, role: Role) -> Option<Option<String>> {
    match role {
        Role::Leader | Role::Follower => Some(None),
        Role::Starting => Some(Some(injection.victim())),
        Role::Learner => match operator::newcomer(injection) {
            Some(newcomer) => {
                injection.cluster.lift_size().await;
                Some(Some(newcomer))
            }
            None => operator::replaced(injection).await.map(Some),
        },
        Role::Leaver => {
            let victim = injection.victim();
            let may_leave = injection.cluster.names().len() >= operator::FEWEST_MEMBERS
                && injection.cluster.may_lose(&victim);
            may_leave.then_some(Some(victim))
        }
        Role::Doubted => {
            let victim = injection.victim();
            if injection.cluster.power(&victim) == Power::Paused || !injection.cluster.may_lose(&victim) {
                return None;
            }
            injection.cluster.kill(&victim);
            let is_doubted = injection.cluster.doubt(&victim).await;
            injection.come_back(&victim, Duration::ZERO).await;
            is_doubted.then_some(Some(victim))
        }
    }
}

/// Sets up the situation. It ends by itself, or when the guard is dropped and everything is repaired.
async fn scene(
    injection: &mut Injection,
    encounter: Encounter,
    principal: Option<&str>,
) -> Option<TaskGuard<()>> {
    let (cluster, length, soon) = (injection.cluster.clone(), injection.length, injection.soon());
    let not_principal: Vec<String> =
        cluster.names().into_iter().filter(|name| Some(name.as_str()) != principal).collect();
    let leader = injection.leader();
    let away = injection.shadow();
    match encounter.situation {
        Situation::Quiet => None,
        Situation::Election if principal == Some(leader.as_str()) => None,
        Situation::Election => {
            cluster.pause(&leader);
            let guard = spawn_guarded(async move {
                rt::sleep(length).await;
                away.cluster.resume(&leader);
            });
            if encounter.role != Role::Leader {
                let election = cluster.world().election;
                rt::sleep(injection.dice.time(election / 2..election * 2)).await;
            }
            Some(guard)
        }
        Situation::Transfer => {
            let to = principal.map_or_else(|| injection.victim(), str::to_owned);
            let guard = spawn_guarded(async move {
                let ask = |client: Client| async move { client.transfer_leader(Some(&to)).await };
                away.cluster.operate("transfer", ask).await;
            });
            rt::sleep(soon).await;
            Some(guard)
        }
        Situation::Joining => {
            operator::newcomer(injection);
            cluster.lift_size().await;
            rt::sleep(injection.dice.time(Duration::from_millis(200)..Duration::from_secs(3))).await;
            None
        }
        Situation::Snapshot => {
            let of = principal.map_or(leader, str::to_owned);
            let guard = spawn_guarded(async move { operator::ask_for_snapshot(&away, &of).await });
            rt::sleep(soon).await;
            Some(guard)
        }
        Situation::Restart if not_principal.is_empty() => None,
        Situation::Restart => {
            let other = injection.dice.one_of(&not_principal).clone();
            cluster.kill(&other);
            let guard = spawn_guarded(async move { away.come_back(&other, soon).await });
            rt::sleep(injection.soon()).await;
            Some(guard)
        }
        Situation::Laggard => {
            let others: Vec<String> = not_principal.into_iter().filter(|name| *name != leader).collect();
            if others.is_empty() {
                return None;
            }
            let laggard = injection.dice.one_of(&others).clone();
            cluster.isolate(&laggard);
            rt::sleep(length).await;
            injection.cluster.mend_with(&laggard, &injection.others(&laggard));
            rt::sleep(soon).await;
            None
        }
    }
}

/// Returns the node that has the role now, in the middle of the situation. `None` if there is none in time.
async fn enter(injection: &mut Injection, role: Role, principal: Option<String>) -> Option<String> {
    match (role, principal) {
        (Role::Leader | Role::Follower, _) => {
            let names = injection.cluster.names();
            let leader = injection.cluster.wait_for_leader(&names, IN_TIME).await.ok()?;
            if role == Role::Leader {
                return Some(leader);
            }
            let followers = of_role(injection, "follower").await;
            (!followers.is_empty()).then(|| injection.dice.one_of(&followers).clone())
        }
        (Role::Starting, Some(node)) => {
            injection.cluster.kill(&node);
            injection.cluster.start(&node);
            rt::sleep(injection.soon()).await;
            Some(node)
        }
        (Role::Leaver, Some(node)) => {
            let (cluster, name) = (injection.cluster.clone(), node.clone());
            cluster.removal_asked(&node);
            rt::spawn(async move {
                let ask = async move |client: Client| client.replace_member(&name).await;
                cluster.operate("removal", ask).await;
            });
            rt::sleep(injection.soon()).await;
            Some(node)
        }
        (Role::Learner, Some(node)) => becomes(injection, node, "learner").await,
        (Role::Doubted, Some(node)) => becomes(injection, node, "quarantined").await,
        (_, None) => None,
    }
}

/// Waits until a node reports this role, and in half of all cases a little longer. Returns its name.
async fn becomes(injection: &mut Injection, node: String, role: &str) -> Option<String> {
    let begun = rt::now();
    while rt::now() - begun < IN_TIME {
        if injection.cluster.status(&node).await.is_some_and(|status| status.role.as_str() == role) {
            if injection.dice.chance(0.5) {
                rt::sleep(injection.dice.time(LATER)).await;
            }
            return Some(node);
        }
        rt::sleep(LOOK_AGAIN).await;
    }
    None
}

/// Returns all nodes that report this role.
async fn of_role(injection: &Injection, role: &str) -> Vec<String> {
    let mut nodes = Vec::new();
    for name in injection.cluster.names() {
        if injection.cluster.status(&name).await.is_some_and(|status| status.role.as_str() == role) {
            nodes.push(name);
        }
    }
    nodes
}

/// Returns the role and the name of a second node to hit: the leader or a follower.
async fn another(injection: &mut Injection, role: Role, victim: &str) -> Option<(Role, String)> {
    let beside = if role == Role::Leader { Role::Follower } else { *injection.dice.one_of(&BESIDE) };
    let mut nodes = of_role(injection, beside.word()).await;
    nodes.retain(|name| name != victim);
    (!nodes.is_empty()).then(|| (beside, injection.dice.one_of(&nodes).clone()))
}

async fn deal(injection: &mut Injection, victim: &str, fault: Fault) {
    const SLOWER: std::ops::Range<u64> = 20..200;
    let cluster = injection.cluster.clone();
    let others = injection.others(victim);
    match fault {
        Fault::Kill => cluster.kill(victim),
        Fault::PowerLoss => cluster.power_loss(victim),
        Fault::Pause => cluster.pause(victim),
        Fault::Isolation => cluster.isolate(victim),
        Fault::Deafness => others.iter().for_each(|other| cluster.cut(other, victim)),
        Fault::Muteness => others.iter().for_each(|other| cluster.cut(victim, other)),
        Fault::SlowDisk => cluster.slow_disk(victim, injection.dice.within(SLOWER) as u32),
        Fault::FailedSync if cluster.power(victim) == Power::On => {
            cluster.fail_call(victim, Operation::Sync, injection.dice.within(1..6));
        }
        Fault::FailedSync => {}
        Fault::Reset => cluster.reset_all_connections(victim),
        Fault::Stop => cluster.stop(victim).await,
    }
}

async fn undo(injection: &mut Injection, victim: &str, fault: Fault) {
    let others = injection.others(victim);
    match fault {
        Fault::Kill | Fault::PowerLoss | Fault::Stop | Fault::FailedSync => {
            injection.come_back_soon(victim).await;
        }
        Fault::Pause => injection.cluster.resume(victim),
        Fault::Isolation | Fault::Deafness | Fault::Muteness => {
            injection.cluster.mend_with(victim, &others);
        }
        Fault::SlowDisk => injection.cluster.slow_disk(victim, 1),
        Fault::Reset => {}
    }
}
