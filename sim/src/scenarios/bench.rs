//! The world in which the simulation's own speed is measured: it never changes.
//!
//! Everything that decides how much happens is in this file: nodes, latencies, faults and their times, the clients'
//! requests. None of it is drawn by `World::draw` or follows chaos, so that numbers of different days compare.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mokv::rt;

use super::Scenario;
use super::setup::formed_within;
use crate::clients::SimClient;
use crate::cluster::{Cluster, Power};
use crate::record::Run;
use crate::world::World;
use crate::world::dice::Dice;

/// The world's name, for child processes.
pub const NAME: &str = "bench";

/// Each seed gives other times; together they are one repetition.
pub const SEEDS: [u64; 4] = [1, 2, 3, 4];
const NODES: usize = 3;
const CLIENTS: usize = 4;
const KEYS: u64 = 6;
const THINK: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(40);
const FORMING: Duration = Duration::from_secs(30);
const LASTING: Duration = Duration::from_secs(36);

/// The faults, and the second in which each is injected.
const FAULTS: [(u64, Fault); 12] = [
    (2, Fault::KillLeader),
    (5, Fault::IsolateLeader),
    (9, Fault::PowerLoss),
    (11, Fault::Pause),
    (14, Fault::Snapshot),
    (15, Fault::OneWayCut),
    (18, Fault::PowerLossOfAll),
    (22, Fault::SlowDisk),
    (25, Fault::Stop),
    (27, Fault::Transfer),
    (29, Fault::KillLeader),
    (32, Fault::IsolateLeader),
];

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillLeader,
    IsolateLeader,
    PowerLoss,
    Pause,
    Snapshot,
    OneWayCut,
    PowerLossOfAll,
    SlowDisk,
    Stop,
    Transfer,
}

/// The scenario that a child process plays.
pub static SCENARIO: Scenario = Scenario {
    name: NAME,
    about: "the world in which the simulation's own speed is measured",
    seeds: SEEDS.len() as u64,
    play: |run| Box::pin(play_world(run)),
};

fn world() -> World {
    let millis = Duration::from_millis;
    let micros = Duration::from_micros;
    World {
        nodes: NODES,
        network_latency: millis(1)..millis(8),
        packet_loss: 0.002,
        write_latency: micros(10)..micros(100),
        sync_latency: micros(200)..micros(2_000),
        heartbeat: millis(100),
        election: millis(500),
        snapshot_log_bytes: 30_000..=30_000,
        patience: Duration::from_secs(2),
        // Parameters that the cluster and the clients of this file never use.
        ..World::calm(NODES)
    }
}

async fn play_world(run: Arc<Run>) -> Result<Cluster, String> {
    let world = world();
    let (cluster, _) = formed_within(&run, &world, FORMING).await?;
    let nodes = cluster.names();
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = SimClient::new(&cluster, &nodes, world.patience, number > 0);
            let dice = Dice::new(run.seed, &format!("bench client {number}"));
            rt::spawn(work(client, dice, over.clone()))
        })
        .collect();
    let begin = rt::now();
    let mut dice = Dice::new(run.seed, "bench faults");
    for (second, fault) in FAULTS {
        rt::time::sleep_until(begin + Duration::from_secs(second)).await;
        injection(&cluster, fault, dice.one_of::<String>(&nodes)).await;
    }
    rt::time::sleep_until(begin + LASTING).await;
    run.add_fault_time(rt::now() - begin);
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("clients do not panic");
    }
    Ok(cluster)
}

/// The requests of one client, until `over`.
async fn work(client: SimClient, mut dice: Dice, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        rt::sleep(dice.time(THINK)).await;
        let key = format!("key/{}", dice.within(0..KEYS));
        match dice.within(0..100) {
            0..3 => drop(client.set(&key, None, 4_000).await),
            3..45 => drop(client.set(&key, None, 16).await),
            45..50 => drop(client.delete(&key, None).await),
            50..80 => drop(client.get(&key, false).await),
            80..95 => drop(client.get(&key, true).await),
            _ => drop(client.list("key/", false).await),
        }
    }
}

/// Injects one fault and waits until it is over.
async fn injection(cluster: &Cluster, fault: Fault, drawn: &str) {
    let leader = cluster.last_known_leader().unwrap_or_else(|| drawn.to_owned());
    let names = cluster.names();
    let wait = |millis| rt::sleep(Duration::from_millis(millis));
    match fault {
        Fault::KillLeader => {
            cluster.kill(&leader);
            wait(700).await;
            start(cluster, &leader);
        }
        Fault::IsolateLeader => {
            cluster.isolate(&leader);
            wait(2_000).await;
            cluster.heal_network();
        }
        Fault::PowerLoss => {
            cluster.power_loss(drawn);
            wait(300).await;
            start(cluster, drawn);
        }
        Fault::Pause => {
            cluster.pause(drawn);
            wait(1_500).await;
            cluster.resume(drawn);
        }
        Fault::Snapshot => {
            let address = format!("{drawn}.sim:{}", crate::cluster::RPC_PORT);
            let ask = |client: mokv::client::Client| async move { client.snapshot(&address).await };
            cluster.operate("snapshot", ask).await;
        }
        Fault::OneWayCut => {
            let other = names.iter().find(|name| *name != drawn).expect("there are several nodes");
            cluster.cut(drawn, other);
            wait(2_000).await;
            cluster.heal_network();
        }
        Fault::PowerLossOfAll => {
            names.iter().for_each(|name| cluster.power_loss(name));
            for name in &names {
                wait(100).await;
                start(cluster, name);
            }
        }
        Fault::SlowDisk => {
            cluster.slow_disk(drawn, 20);
            wait(2_000).await;
            cluster.slow_disk(drawn, 1);
        }
        Fault::Stop => {
            cluster.stop(drawn).await;
            start(cluster, drawn);
        }
        Fault::Transfer => {
            let to = drawn.to_owned();
            let ask = |client: mokv::client::Client| async move { client.transfer_leader(Some(&to)).await };
            cluster.operate("transfer", ask).await;
        }
    }
}

fn start(cluster: &Cluster, name: &str) {
    if cluster.power(name) == Power::Off {
        cluster.start(name);
    }
}
