//! Chaos: clients at work while a seed's faults rage, for as long as the seed says.
//!
//! Faults overlap freely and may take the quorum away: safety must hold whatever happens. Each fault is undone after
//! a while; what is still broken at the end is repaired by the ending that all runs share.

use std::sync::Arc;
use std::time::Duration;

use mokv::rt;
use mokv::rt::task::TaskGuard;

use crate::cluster::{Cluster, Power};
use crate::dice::Dice;
use crate::run::Run;
use crate::workload::Workload;
use crate::world::{FaultKind, World};

/// How long the cluster has to form before faults begin.
const FORMING: Duration = Duration::from_secs(30);

/// A run in which less was answered says little: it goes on for a while.
const FEWEST_OPERATIONS: usize = 250;
const LONGER: Duration = Duration::from_secs(60);
/// So soon that no election has begun.
const SOON: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(60);

/// Plays the chaos of the run's seed.
///
/// # Errors
/// In words, if the cluster does not even form.
pub async fn play(run: Arc<Run>) -> Result<Cluster, String> {
    let world = World::draw(run.seed);
    run.set_world(world.to_string());
    crate::child::set_network(&world);
    let cluster = Cluster::new(&run, &world);
    cluster.start_all();
    let nodes = cluster.names();
    cluster.wait_for_leader(&nodes, FORMING).await?;
    let workload = Workload::start(&cluster, &nodes);
    let before = rt::now();
    rage(&cluster, world.faults_last).await;
    run.add_fault_time(rt::now() - before);
    cluster.heal_network();
    workload.stop().await;
    Ok(cluster)
}

/// Does one fault after the other.
pub async fn rage(cluster: &Cluster, lasting: Duration) {
    let mut dice = Dice::new(cluster.run().seed, "faults");
    let world = cluster.world().clone();
    let end = rt::now() + lasting;
    let goes_on = || {
        let now = rt::now();
        now < end || (now < end + LONGER && cluster.run().answered() < FEWEST_OPERATIONS)
    };
    let mut repairs: Vec<TaskGuard<()>> = Vec::new();
    while goes_on() && !cluster.run().is_broken() {
        rt::sleep(dice.time(world.fault_pause.clone())).await;
        let kind = *dice.weighted(&world.faults);
        let length = dice.time(world.fault_length.clone());
        let cluster = cluster.clone();
        let dice = Dice::new(dice.roll(), kind.name());
        repairs.push(rt::task::spawn_guarded(strike(cluster, kind, length, dice)));
    }
    // Whatever is under way is broken off, and left to the common ending to repair.
    drop(repairs);
    cluster.names().iter().for_each(|name| cluster.mend_disk(name));
}

/// One fault, from its beginning to its end.
async fn strike(cluster: Cluster, kind: FaultKind, length: Duration, mut dice: Dice) {
    let names = cluster.names();
    let victim = match kind {
        FaultKind::IsolateLeader
        | FaultKind::KillLeader
        | FaultKind::PauseLeader
        | FaultKind::PowerLossOfSlowLeader => {
            cluster.last_known_leader().unwrap_or_else(|| dice.one_of(&names).clone())
        }
        _ => dice.one_of(&names).clone(),
    };
    let others: Vec<String> = names.iter().filter(|name| **name != victim).cloned().collect();
    match kind {
        FaultKind::OneWayCut | FaultKind::TwoWayCut => {
            let other = dice.one_of(&others).clone();
            cluster.run().fault(kind.name(), format!("{}: {victim} to {other}", kind.name()));
            cluster.cut(&victim, &other);
            if kind == FaultKind::TwoWayCut {
                cluster.cut(&other, &victim);
            }
            rt::sleep(length).await;
            cluster.mend(&victim, &other);
            cluster.mend(&other, &victim);
        }
        FaultKind::IsolateNode | FaultKind::IsolateLeader => {
            cluster.run().fault(kind.name(), format!("{}: {victim}", kind.name()));
            cluster.isolate(&victim);
            rt::sleep(length).await;
            for other in &others {
                cluster.mend(&victim, other);
                cluster.mend(other, &victim);
            }
        }
        FaultKind::Split => {
            let mut shuffled = names.clone();
            dice.shuffle(&mut shuffled);
            let (one, other) = shuffled.split_at(names.len() / 2);
            cluster.run().fault(kind.name(), "split");
            cluster.split(one, other);
            rt::sleep(length).await;
            for (from, to) in one.iter().flat_map(|from| other.iter().map(move |to| (from, to))) {
                cluster.mend(from, to);
                cluster.mend(to, from);
            }
        }
        FaultKind::MuteNode => {
            let client = format!("c{}", dice.within(1..u64::from(cluster.world().clients) + 1));
            cluster.run().fault(kind.name(), format!("{victim}'s answers to {client} are lost"));
            cluster.cut(&victim, &client);
            rt::sleep(length).await;
            cluster.mend(&victim, &client);
        }
        FaultKind::Kill | FaultKind::KillLeader => {
            cluster.kill(&victim);
            come_back(&cluster, &victim, away(&mut dice, length)).await;
        }
        FaultKind::PowerLoss => {
            cluster.power_loss(&victim);
            come_back(&cluster, &victim, away(&mut dice, length)).await;
        }
        FaultKind::PowerLossAtSync => {
            if cluster.power(&victim) != Power::On {
                return;
            }
            cluster.power_loss_at_sync(&victim, dice.within(1..10)).await;
            come_back(&cluster, &victim, away(&mut dice, length)).await;
        }
        FaultKind::PowerLossOfAll | FaultKind::PowerLossOfAllAtSync => {
            if kind == FaultKind::PowerLossOfAllAtSync {
                if cluster.power(&victim) != Power::On {
                    return;
                }
                cluster.power_loss_at_sync(&victim, dice.within(1..10)).await;
            }
            cluster.run().situation("power lost everywhere");
            for name in &names {
                cluster.power_loss(name);
            }
            let mut order = names.clone();
            dice.shuffle(&mut order);
            let together = dice.chance(0.3);
            for name in &order {
                let pause = if together { Duration::ZERO } else { away(&mut dice, length / 2) };
                come_back(&cluster, name, pause).await;
            }
        }
        FaultKind::PowerLossOfSlowLeader => {
            cluster.slow_disk(&victim, dice.within(50..400) as u32);
            rt::sleep(length.min(Duration::from_secs(1))).await;
            cluster.power_loss(&victim);
            cluster.slow_disk(&victim, 1);
            come_back(&cluster, &victim, dice.time(SOON)).await;
        }
        FaultKind::SlowDisk => {
            cluster.slow_disk(&victim, dice.within(5..200) as u32);
            rt::sleep(length).await;
            cluster.slow_disk(&victim, 1);
        }
        FaultKind::RestartVoters => {
            if let Some(leader) = cluster.last_known_leader() {
                cluster.kill(&leader);
                let election = cluster.world().election;
                rt::sleep(dice.time(election / 2..election * 2)).await;
                for _ in 0..dice.within(2..6) {
                    let voter = dice.one_of(&names).clone();
                    cluster.kill(&voter);
                    come_back(&cluster, &voter, dice.time(SOON)).await;
                    rt::sleep(dice.time(SOON)).await;
                }
                come_back(&cluster, &leader, away(&mut dice, length)).await;
            }
        }
        FaultKind::FailedSync => {
            if cluster.power(&victim) == Power::On {
                cluster.fail_sync(&victim, dice.within(1..20));
                rt::sleep(length).await;
                come_back(&cluster, &victim, Duration::ZERO).await;
            }
        }
        FaultKind::WipedDisk => {
            if cluster.lost_disks() == 0 && cluster.names().len() == cluster.world().nodes {
                cluster.kill(&victim);
                cluster.wipe(&victim);
                come_back(&cluster, &victim, away(&mut dice, length)).await;
            }
        }
        FaultKind::Newcomer => {
            if cluster.lost_disks() == 0 && cluster.names().len() == cluster.world().nodes {
                let name = format!("n{}", cluster.world().nodes + 1);
                // It has nothing to expect: it joins what is there.
                cluster.add(&name, |_| {});
                cluster.run().fault(kind.name(), format!("{name} joins"));
                cluster.start(&name);
            }
        }
        FaultKind::Transfer => {
            cluster.run().fault(kind.name(), format!("leadership shall go to {victim}"));
            let to = victim.clone();
            let ask = |client: mokv::client::Client| async move { client.transfer_leader(Some(&to)).await };
            cluster.operate("transfer", ask).await;
        }
        FaultKind::Snapshot => {
            cluster.run().fault(kind.name(), format!("{victim} shall write a snapshot"));
            let address = format!("{victim}.sim:{}", crate::cluster::RPC_PORT);
            let ask = |client: mokv::client::Client| async move { client.snapshot(&address).await };
            cluster.operate("snapshot", ask).await;
        }
        FaultKind::Stop => {
            cluster.stop(&victim).await;
            come_back(&cluster, &victim, length / 2).await;
        }
        FaultKind::Pause | FaultKind::PauseLeader => {
            cluster.pause(&victim);
            rt::sleep(length).await;
            cluster.resume(&victim);
        }
    }
}

/// How long a machine is away: often so briefly that nobody notices.
fn away(dice: &mut Dice, length: Duration) -> Duration {
    if dice.chance(0.3) { dice.time(SOON) } else { length }
}

/// Starts a node again after a pause, unless somebody else did.
async fn come_back(cluster: &Cluster, name: &str, after: Duration) {
    rt::sleep(after).await;
    if cluster.power(name) == Power::Off {
        cluster.start(name);
    }
}
