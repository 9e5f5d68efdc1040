//! What stays broken: a minority of the nodes, for as long as it takes, and the others must serve all the while.
//!
//! Everywhere else faults are undone before anybody asks for life. Here nothing is: one of three, or two of five, are dead,
//! deaf, dumb, slow or doubted, or restart without end, and clients who have never been here write and read.

use std::time::Duration;

use mokv::rt;
use mokv::rt::task::{TaskGuard, spawn_guarded};

use crate::checkers::Finding;
use crate::client::SimClient;
use crate::cluster::{Cluster, Power};
use crate::dice::Dice;
use crate::direct::Direct;
use crate::history::Outcome;
use crate::liveness_phase;

/// Share of runs that end so.
const SHARE: f64 = 0.4;
/// From one success to the next it takes no longer, elections included.
const BOUND: Duration = Duration::from_secs(30);
/// So long it has to go on.
const GOES_ON: Duration = Duration::from_secs(20);
const JUDGE: &str = "service while a minority stays broken";

/// Something that does not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasting {
    /// Its process is gone.
    Dead,
    /// Its process is gone, and the last that was heard of it is that it takes no more values.
    FullThenDead,
    /// It stands still.
    Paused,
    /// It hears nobody and nobody hears it; clients do.
    Alone,
    /// It hears nobody.
    Deaf,
    /// Nobody hears it.
    Mute,
    /// It and one other do not hear each other.
    OneLink,
    /// It does not hear one other.
    OneWay,
    /// Its disk is slow.
    SlowDisk,
    /// Its state is doubted.
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

/// Breaks a minority of a cluster that is whole, and judges whether it serves. What is broken stays so.
pub async fn lasting(cluster: &Cluster) {
    let run = cluster.run();
    let mut dice = Dice::new(run.seed, "lasting faults");
    if !dice.chance(SHARE) || run.is_broken() {
        return;
    }
    cluster.repair();
    if let Err(finding) = liveness_phase::revive(cluster, &cluster.running()).await {
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
        return run.find(Finding::liveness(JUDGE, words));
    }
    run.situation("a minority stayed broken and the others served");
}

async fn inflict(
    cluster: &Cluster,
    dice: &mut Dice,
    victim: &str,
    lasting: Lasting,
    sound: &str,
) -> Option<TaskGuard<()>> {
    /// A sync takes at most this.
    const SLOW: Duration = Duration::from_millis(200);
    /// Left on a full disk.
    const FULL: u64 = 1 << 20;
    /// By then the leader knows.
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

/// Clients who are new here write and read, one after the other; how long nothing of it succeeded, if that was too long.
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
