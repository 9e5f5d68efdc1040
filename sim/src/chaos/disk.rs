//! Faults of disks. A fault that destroys a disk hits one member at a time, and the next only after that one is a full
//! member again.

use std::collections::BTreeMap;
use std::time::Duration;

use mokv::client::Role;
use mokv::incarnations::Incarnations;
use mokv::rt;
use mokv::rt::disk::{Image, Operation};
use mokv_proto::raft::{AppendEntries, LogId, VoteState, append_answer, request, response};

use super::injection::Injection;
use crate::checkers::Finding;
use crate::checkers::logs::Logs;
use crate::clients::SimClient;
use crate::cluster::tampering::{STRANGER, stranger};
use crate::cluster::{Cluster, Power, votes};
use crate::evidence::history::Outcome;

/// Bytes free on a full disk: enough for Raft's own writes; clients' writes must be refused.
const ROOM: u64 = 1 << 20;
/// Bytes of one value that the client writes: fewer than 24 of them fill [`ROOM`].
const LARGE: usize = 60 << 10;
/// Shortest time in which the client writes them, and its timeout for one write.
const FILLING: Duration = Duration::from_secs(2);
/// In a log of at least this many bytes the first half lies before the last batch, where damage may look like a torn
/// write.
const ENOUGH_LOG_BYTES: usize = 150_000;
/// Writes that a node commits and then loses by the rollback.
const FORGOTTEN: u64 = 5;
/// Most starts of a node whose disk will be rolled back.
const MOST_STARTS: u32 = 8;
/// Time between two starts of a node whose disk will be rolled back.
const BETWEEN_STARTS: Duration = Duration::from_secs(1);
/// Time for the consequences of a damaged or outdated disk to appear.
const SHOWN: Duration = Duration::from_secs(4);

/// A disk becomes slow for a while.
pub async fn slow_disk(injection: &mut Injection) {
    let victim = injection.victim();
    injection.tell(&victim);
    injection.cluster.slow_disk(&victim, injection.dice.within(5..200) as u32);
    injection.last().await;
    injection.cluster.slow_disk(&victim, 1);
}

/// A disk is full for a while, and a client writes one large value after another. The writes must be refused before
/// Raft's own writes lack room.
pub async fn full_disk(injection: &mut Injection) {
    let victim = injection.leader_or_other();
    injection.tell(&victim);
    injection.cluster.fill_disk(&victim, Some(ROOM));
    let client = SimClient::new(&injection.cluster, &injection.cluster.names(), FILLING, true);
    let mut doubts = 0;
    let mut lacked = false;
    let node = injection.cluster.run().with_logs(|logs| logs.node_on(&victim));
    let begun = rt::now();
    while rt::now() - begun < injection.length + FILLING {
        // A node has to take all entries that it missed while it was down.
        if keeps_up(injection, &victim).await {
            let key = format!("large/{}.{doubts}", client.host());
            let (_, outcome) = client.set(&key, None, LARGE).await;
            doubts += u64::from(outcome == Outcome::Unknown);
        }
        // A node that starts over under a new id lacks everything, and the files of its old id take up room.
        let lacks = |logs: &mut Logs| logs.node_on(&victim) != node || logs.lacks(&victim) > ROOM / 2;
        // Writes are not refused because of a node that does not vote.
        let learns = !injection.cluster.last_known_role(&victim).is_some_and(|role| votes(&role));
        if !lacked && (learns || injection.cluster.run().with_logs(lacks)) {
            lacked = true;
            injection.cluster.excuse_backlog(&victim);
        }
        // A refusal comes at once.
        rt::sleep(Duration::from_millis(10)).await;
    }
    injection.cluster.fill_disk(&victim, None);
    // It may have refused to start meanwhile.
    injection.come_back(&victim, Duration::ZERO).await;
}

/// Returns `true` if a node has nearly all entries of the leader.
async fn keeps_up(injection: &mut Injection, node: &str) -> bool {
    const ABOUT: u64 = 3;
    let leader = injection.leader();
    let status = injection.cluster.status(node).await;
    let leads = injection.cluster.status(&leader).await;
    let (Some(status), Some(leads)) = (status, leads) else { return false };
    status.last_log_index + ABOUT >= leads.last_log_index
}

/// A write or a sync fails, and the node must stop.
pub async fn failed_change(injection: &mut Injection, operation: Operation) {
    let victim = injection.leader_or_other();
    if injection.cluster.power(&victim) == Power::On {
        injection.tell(&victim);
        injection.cluster.fail_call(&victim, operation, injection.dice.within(1..20));
        stopped(injection, &victim).await;
    }
}

/// A read fails. Mostly the node is killed first, so that its recovery reads.
pub async fn failed_read(injection: &mut Injection) {
    let victim = injection.victim();
    if injection.cluster.power(&victim) == Power::On {
        injection.tell(&victim);
        injection.cluster.fail_call(&victim, Operation::Read, injection.dice.within(1..12));
        if injection.dice.chance(0.7) {
            injection.cluster.kill(&victim);
            injection.come_back_soon(&victim).await;
        }
        stopped(injection, &victim).await;
    }
}

/// Starts the node again, if it has stopped.
async fn stopped(injection: &Injection, victim: &str) {
    injection.last().await;
    injection.come_back(victim, Duration::ZERO).await;
}

/// A disk is lost for good; its node comes back under its name with an empty one.
pub async fn wiped_disk(injection: &mut Injection) {
    let victim = injection.victim();
    if injection.cluster.may_lose(&victim) {
        injection.tell(&victim);
        injection.cluster.kill(&victim);
        injection.cluster.wipe(&victim);
        injection.come_back_later(&victim).await;
    }
}

/// A bit of a log, a snapshot or an identity flips; the operator wipes the disk when the node asks for it.
pub async fn flipped_bit(injection: &mut Injection) {
    let victim = injection.victim();
    let Some((file, offset)) = byte_to_damage(injection, &victim) else { return };
    if !injection.cluster.may_lose(&victim) {
        return;
    }
    injection.tell(&victim);
    injection.cluster.kill(&victim);
    // The file may be gone or shorter by now.
    if injection.cluster.disk(&victim).contents(&file).is_some_and(|bytes| offset < bytes.len() as u64) {
        injection.cluster.flip_bit(&victim, &file, offset, injection.dice.within(0..8) as u8);
    }
    injection.come_back_later(&victim).await;
    // Damage that no read has found yet is replaced before damage on another disk adds to it.
    rt::sleep(SHOWN).await;
    if injection.cluster.is_damaged(&victim) {
        injection.cluster.kill(&victim);
        injection.cluster.wipe(&victim);
        injection.come_back(&victim, Duration::ZERO).await;
    }
}

/// Returns the file and offset of a byte that has long been durable: of the identity, of a snapshot, or of a log well
/// before its last batch.
fn byte_to_damage(injection: &mut Injection, victim: &str) -> Option<(String, u64)> {
    let disk = injection.cluster.disk(victim);
    let ending = *injection.dice.one_of(&[".wal", ".wal", ".snap", "identity"]);
    let files: Vec<String> = disk.files().into_iter().map(|file| file.0).collect();
    let files: Vec<String> = files.into_iter().filter(|file| file.ends_with(ending)).collect();
    let newest = files.last()?.clone();
    let file = injection.dice.one_of(&files).clone();
    let bytes = disk.contents(&file)?;
    let used = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    let within = match ending {
        ".wal" if file == newest && used < ENOUGH_LOG_BYTES => return None,
        ".wal" => used / 2,
        _ => used,
    };
    Some((file, injection.dice.within(0..within as u64)))
}

/// The newest of two snapshots is damaged; the older one and the log since then must suffice.
pub async fn damaged_snapshot(injection: &mut Injection) {
    let victim = injection.victim();
    injection.cluster.kill(&victim);
    if let Some(newest) = injection.cluster.snapshot_with_fallback(&victim) {
        injection.tell(&victim);
        let bytes = injection.cluster.disk(&victim).contents(&newest).unwrap_or_default();
        let offset = injection.dice.within(0..bytes.len().max(1) as u64);
        // No exit is excused: the node has to come up by itself.
        injection.cluster.damage_snapshot(&victim, &newest, offset, injection.dice.within(0..8) as u8);
    }
    injection.come_back_later(&victim).await;
}

/// A disk is rolled back to its content of some incarnations ago.
pub async fn rolled_back_disk(injection: &mut Injection) {
    let victim = injection.victim();
    let Some(image) = image_before_restarts(injection, &victim).await else { return };
    injection.cluster.kill(&victim);
    injection.cluster.roll_back(&victim, &image);
    injection.come_back(&victim, Duration::ZERO).await;
    rt::sleep(injection.length + SHOWN).await;
    start_over(injection, &victim).await;
}

/// A disk is rolled back, and its node then reaches only peers that lack the entries it has lost; together they are a
/// majority. The peers have recorded its later incarnations, but perhaps not what it acknowledged in them: then only
/// its boot history reveals the rollback.
pub async fn rolled_back_beside_laggards(injection: &mut Injection) {
    let victim = injection.victim();
    let mut others = injection.shuffled();
    others.retain(|name| *name != victim);
    // Without the laggards the victim and the others are still a majority; so are the victim and the laggards, if the
    // number of nodes is odd.
    let laggards = others.split_off(others.len() - others.len() / 2);
    let hear_no_leader = injection.dice.chance(0.5);
    if hear_no_leader {
        injection.cluster.split(&laggards, &others);
    }
    beside_laggards(injection, &victim, &others, &laggards, hear_no_leader).await;
    laggards.iter().for_each(|laggard| injection.cluster.mend_with(laggard, &others));
}

async fn beside_laggards(
    injection: &mut Injection,
    victim: &str,
    others: &[String],
    laggards: &[String],
    hear_no_leader: bool,
) {
    let Some(image) = image_before_restarts(injection, victim).await else { return };
    // Laggards that keep running still have their memory; laggards that restart have only what they wrote to disk.
    if !hear_no_leader || injection.dice.chance(0.5) {
        laggards.iter().for_each(|name| injection.cluster.kill(name));
    }
    let election = injection.cluster.world().election;
    let client = SimClient::new(&injection.cluster, others, election, true);
    let begun = rt::now();
    let mut written = 0;
    while written < FORGOTTEN && rt::now() - begun < election * 5 {
        let (_, outcome) = client.set(&format!("forgotten/{}", client.host()), None, 16).await;
        written += u64::from(matches!(outcome, Outcome::Ok(_)));
    }
    injection.cluster.kill(victim);
    others.iter().for_each(|name| injection.cluster.kill(name));
    // Another node may have been lost meanwhile.
    if injection.cluster.may_lose(victim) {
        injection.cluster.roll_back(victim, &image);
        if injection.dice.chance(if hear_no_leader { 0.7 } else { 0.4 }) {
            // It starts more often than before the rollback, while no peer is up to record it.
            laggards.iter().for_each(|name| injection.cluster.kill(name));
            for _ in 0..MOST_STARTS {
                injection.come_back(victim, Duration::ZERO).await;
                rt::sleep(BETWEEN_STARTS / 4).await;
                injection.cluster.kill(victim);
            }
        }
    }
    injection.come_back(victim, Duration::ZERO).await;
    for name in laggards {
        injection.come_back(name, Duration::ZERO).await;
    }
    rt::sleep(injection.length + election * 3).await;
    for name in others {
        injection.come_back(name, Duration::ZERO).await;
    }
    start_over(injection, victim).await;
}

/// Brings a node whose disk was rolled back up with an empty one, unless it has already been wiped.
async fn start_over(injection: &Injection, node: &str) {
    if injection.cluster.is_damaged(node) {
        injection.cluster.kill(node);
        injection.cluster.wipe(node);
    }
    injection.come_back(node, Duration::ZERO).await;
}

/// A data directory is copied to a second machine, which starts some incarnations of the first one later; both run.
/// (Two copies of one incarnation are two voters under one id. They are detected and stopped, but nothing undoes the
/// votes and acknowledgements that each gave without the other. The scenario `copied-disk` tests that without other
/// faults.)
pub async fn copied_disk(injection: &mut Injection) {
    let victim = injection.victim();
    let Some(image) = image_before_restarts(injection, &victim).await else { return };
    // Another node may have joined meanwhile.
    let (copy, name) = (injection.cluster.next_name(), victim.clone());
    injection.cluster.add(&copy, |config| config.node_name = name);
    injection.cluster.copy_disk(&victim, &image, &copy);
    injection.come_back(&copy, Duration::ZERO).await;
    let begun = rt::now();
    while rt::now() - begun < injection.length + SHOWN && injection.cluster.power(&copy) != Power::Off {
        rt::sleep(Duration::from_millis(100)).await;
    }
    injection.cluster.retire(&copy);
    // The copy may have started as often as the victim, and then its peers cannot tell which one is genuine.
    injection.come_back(&victim, Duration::ZERO).await;
}

/// A node's disk is put back to a copy from its present incarnation, and all others restart. Their record of its starts
/// then shows a plain restart; only the acknowledged positions in their logs reveal the rollback. No node that has such
/// a position may lead it.
pub async fn put_back_disk(injection: &mut Injection) {
    let victim = injection.victim();
    if injection.cluster.power(&victim) != Power::On || !injection.cluster.may_lose(&victim) {
        return;
    }
    let image = injection.cluster.disk(&victim).image();
    let Some(then) = Cluster::disk_state(&image).await else { return };
    rt::sleep(injection.length.min(SHOWN) + BETWEEN_STARTS).await;
    let (mut knowing, mut all_know) = (BTreeMap::new(), true);
    for other in injection.others(&victim) {
        let disk_state = Cluster::disk_state(&injection.cluster.disk(&other).image()).await;
        match disk_state.filter(|other| other.refuses(&then)) {
            Some(disk_state) => drop(knowing.insert(disk_state.node_id, other)),
            None => all_know = false,
        }
    }
    let now = Cluster::disk_state(&injection.cluster.disk(&victim).image()).await;
    let is_same_incarnation =
        now.is_some_and(|now| (now.node_id, now.start.boot) == (then.node_id, then.start.boot));
    // Reserved anew: a reservation ends while the node is a full member, as it was until now.
    if !all_know || !is_same_incarnation || !injection.cluster.may_lose(&victim) {
        return;
    }
    injection.tell(&victim);
    injection.cluster.kill(&victim);
    injection.cluster.roll_back(&victim, &image);
    knowing.values().for_each(|name| injection.cluster.kill(name));
    for name in knowing.values() {
        injection.come_back(name, Duration::ZERO).await;
    }
    injection.come_back(&victim, Duration::ZERO).await;
    let begun = rt::now();
    while rt::now() - begun < injection.length + SHOWN && injection.cluster.power(&victim) == Power::On {
        rt::sleep(Duration::from_millis(100)).await;
        let Some(status) = injection.cluster.status(&victim).await else { continue };
        if status.node_id == then.node_id
            && status.role == Role::Follower
            && let Some(leader) = status.leader.and_then(|leader| knowing.get(&leader.node_id))
        {
            let words = format!(
                "{leader} leads {victim}, whose disk was put back to {}, though its log knew of more that {victim} had \
                 acknowledged",
                then.start.found
            );
            injection.cluster.run().find(Finding::violation("who has gone back is refused", words));
        }
    }
    start_over(injection, &victim).await;
}

/// A majority that was restored from older copies of its disks has another history than a node that was not, and its
/// leader replicates to that node. Here an outside client sends the request of such a leader. The node must not
/// acknowledge it, and takes no part in the cluster until an operator decides: here for the history of the others. It
/// is the node's own history, but the node starts over with an empty disk all the same.
pub async fn other_history(injection: &mut Injection) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let victim = injection.victim();
    let Some(status) = injection.cluster.status(&victim).await else { return };
    if status.committed_index == 0 || !injection.cluster.may_lose(&victim) {
        return;
    }
    injection.cluster.expect_conflicting_history(&victim);
    injection.tell(&victim);
    // A term that no election reaches: no log has an entry of it.
    let term = status.term + 1_000;
    let append = AppendEntries {
        vote: Some(VoteState { term, node_id: STRANGER.0, committed: true }),
        previous: Some(LogId { term, index: status.committed_index }),
        ..Default::default()
    };
    let (host, _) = injection.cluster.add_client_host();
    let link = stranger(&status);
    let told = async move { rt::timeout(PATIENCE, link.call(request::Body::Append(append))).await };
    if let Some(Ok(Ok(response::Body::Append(answer)))) = injection.cluster.try_on(&host, told).await
        && answer.outcome() == append_answer::Outcome::Success
    {
        let words = format!(
            "{victim} acknowledged that at {} stands an entry of term {term}",
            status.committed_index
        );
        injection.cluster.run().find(Finding::violation("what is acknowledged is held", words));
    }
    rt::sleep(injection.length).await;
    start_over(injection, &victim).await;
}

/// Restarts a node until every other node has durably recorded an incarnation that a rollback will lose. Returns the
/// image of the disk from before. `None` if they have not recorded one, or if the cluster cannot bear the loss of the
/// node.
async fn image_before_restarts(injection: &mut Injection, node: &str) -> Option<Image> {
    if !injection.cluster.may_lose(node) {
        return None;
    }
    injection.tell(node);
    let image = injection.cluster.disk(node).image();
    let then = injection.cluster.identity(node).await?;
    let mut before = BTreeMap::new();
    for _ in 0..MOST_STARTS {
        injection.cluster.kill(node);
        injection.come_back(node, Duration::ZERO).await;
        rt::sleep(BETWEEN_STARTS).await;
        let mut known = BTreeMap::new();
        for other in injection.others(node) {
            let identity = injection.cluster.identity(&other).await;
            let incarnations =
                identity.and_then(|identity| identity.incarnations().get(&then.node_id()).copied());
            known.insert(other, incarnations.unwrap_or_default());
        }
        // A record is durable once a later one has been written.
        let can_tell = |(other, now): (&String, &Incarnations)| {
            before.get(other).is_some_and(|before: &Incarnations| {
                now != before && before.met.is_some_and(|met| met.boot > then.boot())
            })
        };
        if known.iter().all(can_tell) {
            // Reserved anew: a reservation ends while the node is a full member, as it was until now.
            return injection.cluster.may_lose(node).then_some(image);
        }
        before = known;
    }
    None
}
