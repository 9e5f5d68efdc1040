//! Faults of disks. What destroys a disk happens to one member at a time, and to the next only when that one is whole.

use std::time::Duration;

use mokv::rt;
use mokv::rt::disk::Operation;

use super::strike::Strike;
use crate::client::SimClient;
use crate::cluster::Power;
use crate::history::Outcome;
use crate::logs::Logs;

/// Left on a full disk: Raft's own needs fit, clients' writes must be refused.
const ROOM: u64 = 1 << 20;
/// Less than two dozen of these fill the rest.
const LARGE: usize = 60 << 10;
/// A client has at least this long to write them.
const FILLING: Duration = Duration::from_secs(2);
/// In a log of at least so many bytes the first half lies before the last batch, about which there may be doubt.
const ENOUGH_LOG_BYTES: usize = 150_000;
/// Between two lives of a node whose disk will be rolled back: everybody has heard of the next one.
const LIFE: Duration = Duration::from_secs(4);

/// A disk becomes slow for a while.
pub async fn slow_disk(strike: &mut Strike) {
    let victim = strike.victim();
    strike.tell(&victim);
    strike.cluster.slow_disk(&victim, strike.dice.within(5..200) as u32);
    strike.last().await;
    strike.cluster.slow_disk(&victim, 1);
}

/// A disk is full for a while, and a client writes one large value after the other: they must be refused before Raft's
/// own needs find no room.
pub async fn full_disk(strike: &mut Strike) {
    let victim = strike.leader_or_other();
    strike.tell(&victim);
    strike.cluster.fill_disk(&victim, Some(ROOM));
    let client = SimClient::new(&strike.cluster, &strike.cluster.names(), FILLING, true);
    let mut doubts = 0;
    let mut lacked = false;
    let node = strike.cluster.run().with_logs(|logs| logs.node_on(&victim));
    let begun = rt::now();
    while rt::now() - begun < strike.length + FILLING {
        // What a node missed while it was away it has to take, however much it is.
        if keeps_up(strike, &victim).await {
            let key = format!("large/{}.{doubts}", client.host());
            let (_, outcome) = client.set(&key, None, LARGE).await;
            doubts += u64::from(outcome == Outcome::Unknown);
        }
        // A node that starts over as another lacks everything, and what it was before takes up room.
        let lacks = |logs: &mut Logs| logs.node_on(&victim) != node || logs.lacks(&victim) > ROOM / 2;
        if !lacked && strike.cluster.run().with_logs(lacks) {
            lacked = true;
            strike.cluster.excuse_backlog(&victim);
        }
        // A refusal comes at once.
        rt::sleep(Duration::from_millis(10)).await;
    }
    strike.cluster.fill_disk(&victim, None);
    // It may have refused to start meanwhile.
    strike.come_back(&victim, Duration::ZERO).await;
}

/// Whether a node has about all that the leader has.
async fn keeps_up(strike: &mut Strike, node: &str) -> bool {
    const ABOUT: u64 = 3;
    let leader = strike.leader();
    let status = strike.cluster.status(node).await;
    let leads = strike.cluster.status(&leader).await;
    let (Some(status), Some(leads)) = (status, leads) else { return false };
    status.last_log_index + ABOUT >= leads.last_log_index
}

/// A write or a sync fails, and the node stops by it.
pub async fn failed_change(strike: &mut Strike, operation: Operation) {
    let victim = strike.leader_or_other();
    if strike.cluster.power(&victim) == Power::On {
        strike.tell(&victim);
        strike.cluster.fail_call(&victim, operation, strike.dice.within(1..20));
        stopped(strike, &victim).await;
    }
}

/// A read fails: the node dies first, so that there is something to be read.
pub async fn failed_read(strike: &mut Strike) {
    let victim = strike.victim();
    if strike.cluster.power(&victim) == Power::On {
        strike.tell(&victim);
        strike.cluster.fail_call(&victim, Operation::Read, strike.dice.within(1..12));
        if strike.dice.chance(0.7) {
            strike.cluster.kill(&victim);
            let soon = strike.soon();
            strike.come_back(&victim, soon).await;
        }
        stopped(strike, &victim).await;
    }
}

/// Whether a node has stopped or not, it goes on afterwards.
async fn stopped(strike: &Strike, victim: &str) {
    strike.last().await;
    strike.come_back(victim, Duration::ZERO).await;
}

/// A disk is lost for good; its node comes back under its name.
pub async fn wiped_disk(strike: &mut Strike) {
    let victim = strike.victim();
    if strike.cluster.may_lose(&victim) {
        strike.tell(&victim);
        strike.cluster.kill(&victim);
        strike.cluster.wipe(&victim);
        let away = strike.away(strike.length);
        strike.come_back(&victim, away).await;
    }
}

/// A bit of a log, a snapshot or an identity flips; the operator does what the node says.
pub async fn flipped_bit(strike: &mut Strike) {
    let victim = strike.victim();
    let Some((file, offset)) = byte_to_damage(strike, &victim) else { return };
    if !strike.cluster.may_lose(&victim) {
        return;
    }
    strike.tell(&victim);
    strike.cluster.kill(&victim);
    // It may be gone or shorter by now: what was under way is over.
    if strike.cluster.disk(&victim).contents(&file).is_some_and(|bytes| offset < bytes.len() as u64) {
        strike.cluster.flip_bit(&victim, &file, offset, strike.dice.within(0..8) as u8);
    }
    let away = strike.away(strike.length);
    strike.come_back(&victim, away).await;
    // Damage that nobody needed to read yet is replaced before it can add up with somebody else's.
    rt::sleep(LIFE).await;
    if strike.cluster.is_damaged(&victim) {
        strike.cluster.kill(&victim);
        strike.cluster.wipe(&victim);
        strike.come_back(&victim, Duration::ZERO).await;
    }
}

/// A byte that was durable long ago: of the identity, of a snapshot, of a log well before its last batch.
fn byte_to_damage(strike: &mut Strike, victim: &str) -> Option<(String, u64)> {
    let disk = strike.cluster.disk(victim);
    let ending = *strike.dice.one_of(&[".wal", ".wal", ".snap", "identity"]);
    let files: Vec<String> = disk.files().into_iter().map(|file| file.0).collect();
    let files: Vec<String> = files.into_iter().filter(|file| file.ends_with(ending)).collect();
    let newest = files.last()?.clone();
    let file = strike.dice.one_of(&files).clone();
    let bytes = disk.contents(&file)?;
    let used = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    let within = match ending {
        ".wal" if file == newest && used < ENOUGH_LOG_BYTES => return None,
        ".wal" => used / 2,
        _ => used,
    };
    Some((file, strike.dice.within(0..within as u64)))
}

/// The newest of two snapshots is damaged; the older one and the log since then must do.
pub async fn damaged_snapshot(strike: &mut Strike) {
    let victim = strike.victim();
    strike.cluster.kill(&victim);
    if let Some(newest) = strike.cluster.snapshot_with_fallback(&victim) {
        strike.tell(&victim);
        let bytes = strike.cluster.disk(&victim).contents(&newest).unwrap_or_default();
        let offset = strike.dice.within(0..bytes.len().max(1) as u64);
        // Nothing excuses an end: the node has to come up by itself.
        strike.cluster.damage_snapshot(&victim, &newest, offset, strike.dice.within(0..8) as u8);
    }
    let away = strike.away(strike.length);
    strike.come_back(&victim, away).await;
}

/// A disk is rolled back to what it was some lives ago.
pub async fn rolled_back_disk(strike: &mut Strike) {
    let victim = strike.victim();
    if !strike.cluster.is_whole() || !strike.cluster.may_lose(&victim) {
        return;
    }
    strike.tell(&victim);
    let image = strike.cluster.disk(&victim).image();
    if !lives_on(strike, &victim).await {
        return;
    }
    strike.cluster.kill(&victim);
    strike.cluster.roll_back(&victim, &image);
    strike.come_back(&victim, Duration::ZERO).await;
    rt::sleep(strike.length + LIFE).await;
    if strike.cluster.is_damaged(&victim) {
        strike.cluster.kill(&victim);
        strike.cluster.wipe(&victim);
    }
    strike.come_back(&victim, Duration::ZERO).await;
}

/// A data directory is copied to a second machine, which comes up some lives of the first one later; both run. (Copies
/// of the same life are two voters under one id: they are told and stopped, but nothing makes up for what each has
/// promised without the other. The story `copied-disk` plays that on a calm day.)
pub async fn copied_disk(strike: &mut Strike) {
    let victim = strike.victim();
    if !strike.cluster.is_whole() || !strike.cluster.may_lose(&victim) {
        return;
    }
    strike.tell(&victim);
    let image = strike.cluster.disk(&victim).image();
    if !lives_on(strike, &victim).await {
        return;
    }
    // Somebody else may have come meanwhile.
    let (copy, name) = (strike.cluster.next_name(), victim.clone());
    strike.cluster.add(&copy, |config| config.node_name = name);
    strike.cluster.copy_disk(&victim, &image, &copy);
    strike.come_back(&copy, Duration::ZERO).await;
    let begun = rt::now();
    while rt::now() - begun < strike.length + LIFE && strike.cluster.power(&copy) != Power::Off {
        rt::sleep(Duration::from_millis(100)).await;
    }
    strike.cluster.retire(&copy);
}

/// A node dies and comes back until its peers have heard of enough of its lives to tell an earlier one. Whether they
/// have, and it can be missing once more.
async fn lives_on(strike: &mut Strike, node: &str) -> bool {
    for _ in 0..3 {
        strike.cluster.kill(node);
        strike.come_back(node, Duration::ZERO).await;
        rt::sleep(LIFE).await;
        if !strike.cluster.is_whole() {
            return false;
        }
    }
    // It was a whole member all the while, and now will not be.
    strike.cluster.may_lose(node)
}
