//! Lasting faults: a minority of the nodes stays broken for a long time, and the others must keep serving.
//!
//! Everywhere else faults are undone before liveness is checked. Here none is: one of three nodes, or up to two of
//! five, are down, paused, cut off, slow or quarantined, or restart without end, and new clients write and read.

use std::time::Duration;

use mokv::rt;
use mokv::rt::task::{TaskGuard, spawn_guarded};

use crate::checkers::Finding;
use crate::clients::SimClient;
use crate::clients::direct::Direct;
use crate::cluster::{Cluster, Power};
use crate::evidence::history::Outcome;
use crate::phases::liveness;
use crate::world::dice::Dice;

/// Share of runs that end with lasting faults.
const SHARE: f64 = 0.4;
/// Longest time from one success to the next, elections included.
const BOUND: Duration = Duration::from_secs(30);
/// The cluster has to serve for this long.
const GOES_ON: Duration = Duration::from_secs(20);
const CHECKER: &str = "service while a minority stays broken";

/// A fault that does not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasting {
    /// Its process is dead.
    Dead,
    /// Its process is dead, and the last that it reported was a full disk.
    FullThenDead,
    /// It is paused.
    Paused,
    /// Both directions of its links to all other nodes are cut; clients reach it.
    Alone,
    /// It receives nothing from other nodes.
    Deaf,
    /// Other nodes receive nothing from it.
    Mute,
    /// Both directions of its link to one other node are cut.
    OneLink,
    /// It receives nothing from one other node.
    OneWay,
    /// Its disk is slow.
    SlowDisk,
    /// It is quarantined.
    Doubted,
    /// It restarts again and again.
    Restarts,
}

const ALL: [Lasting; 11] = [
    Lasting::Dead,
    Lasting::FullThenDead,
    Lasting::Paused,
    Lasting::Alone,
    Lasting::Deaf,
    Lasting::Mute,
    Lasting::OneLink,
    Lasting::OneWay,
    Lasting::SlowDisk,
    Lasting::Doubted,
    Lasting::Restarts,
];

/// Breaks a minority of a healthy cluster for good, and checks that the cluster serves.
pub async fn lasting(cluster: &Cluster) {
    let run = cluster.run();
    let mut dice = Dice::new(run.seed, "lasting faults");
    if !dice.chance(SHARE) || run.is_broken() {
        return;
    }
    cluster.repair();
    if let Err(finding) = liveness::revive(cluster, &cluster.running()).await {
        return run.find(finding);
    }
    let mut names = cluster.names();
    let minority = (names.len() - 1) / 2;
    if minority == 0 {
        return;
    }
    dice.shuffle(&mut names);
    let several = dice.within(1..minority as u64 + 1) as usize;
    let mut words = Vec::new();
    let mut guards = Vec::new();
    for victim in &names[..several] {
        let lasting = *dice.one_of(&ALL);
        let sound = dice.one_of(&names[several..]).clone();
        guards.extend(inflict(cluster, &mut dice, victim, lasting, &sound).await);
        words.push(format!("{victim} ({lasting:?})"));
    }
    run.fault("lasting fault", format!("for good: {}", words.join(", ")));
    if let Err(silent) = serves(cluster, &mut dice).await {
        let words = format!("nothing was written and read for {silent:?}; broken are {}", words.join(", "));
        return run.find(Finding::liveness(CHECKER, words));
    }
    run.marker("a minority stayed broken and the others served");
}

async fn inflict(
    cluster: &Cluster,
    dice: &mut Dice,
    victim: &str,
    lasting: Lasting,
    sound: &str,
) -> Option<TaskGuard<()>> {
    /// Longest duration of a sync on a slow disk.
    const SLOW: Duration = Duration::from_millis(200);
    /// Bytes free on a full disk.
    const FULL: u64 = 1 << 20;
    /// Time for the leader to learn of the full disk.
    const HEARD: Duration = Duration::from_secs(2);
    let others: Vec<String> = cluster.names().into_iter().filter(|name| name != victim).collect();
    match lasting {
        Lasting::Dead => cluster.kill(victim),
        Lasting::FullThenDead => {
            cluster.fill_disk(victim, Some(FULL));
            rt::sleep(HEARD).await;
            cluster.kill(victim);
        }
        Lasting::Paused => cluster.pause(victim),
        Lasting::Alone => cluster.isolate(victim),
        Lasting::Deaf => others.iter().for_each(|other| cluster.cut(other, victim)),
        Lasting::Mute => others.iter().for_each(|other| cluster.cut(victim, other)),
        Lasting::OneLink => {
            cluster.cut(victim, sound);
            cluster.cut(sound, victim);
        }
        Lasting::OneWay => cluster.cut(sound, victim),
        Lasting::SlowDisk => {
            let longest = cluster.world().sync_latency.end.as_micros().max(1);
            cluster.slow_disk(victim, (SLOW.as_micros() / longest).max(2) as u32);
        }
        Lasting::Doubted => {
            cluster.kill(victim);
            cluster.doubt(victim).await;
            cluster.start(victim);
        }
        Lasting::Restarts => {
            let (cluster, victim, mut dice) = (cluster.clone(), victim.to_owned(), dice.clone());
            return Some(spawn_guarded(async move {
                loop {
                    rt::sleep(dice.time(Duration::from_millis(200)..Duration::from_secs(4))).await;
                    cluster.kill(&victim);
                    rt::sleep(dice.time(Duration::from_millis(1)..Duration::from_secs(1))).await;
                    if cluster.power(&victim) == Power::Off {
                        cluster.start(&victim);
                    }
                }
            }));
        }
    }
    None
}

/// New clients write and read, one after the other. Fails with the time without a success, if that was too long.
///
/// # Errors
///
/// Returns the time without a success, if it was too long.
async fn serves(cluster: &Cluster, dice: &mut Dice) -> Result<(), Duration> {
    let (begun, mut last) = (rt::now(), rt::now());
    let patience = cluster.world().patience;
    for number in 0.. {
        let client = SimClient::new(cluster, &cluster.names(), patience, dice.chance(0.5));
        let key = format!("lasting/{number}");
        let (_, written) = client.set(&key, None, 16).await;
        let read = client.get(&key, false).await;
        let succeeds = matches!((written, read), (Outcome::Ok(_), Outcome::Ok(_)));
        if succeeds {
            last = rt::now();
        }
        for doubted in cluster.names().into_iter().filter(|name| cluster.is_doubted(name)) {
            Direct::new(cluster, &doubted).get(&key, true, patience, patience * 2).await;
        }
        let silent = rt::now() - last;
        if silent > BOUND {
            return Err(silent);
        }
        if succeeds && rt::now() - begun > GOES_ON || cluster.run().is_broken() {
            break;
        }
        rt::sleep(dice.time(Duration::from_millis(50)..Duration::from_millis(500))).await;
    }
    Ok(())
}
