//! Bits that flip in data that is not read: in cold files, in memory, on one node, on two, on one while another
//! recovers.
//!
//! No exit is excused in any scenario here but one: a node that exits by itself has failed to find the damage and to go
//! on without the damaged data.

use std::sync::Arc;
use std::time::Duration;

use mokv::config::NodeConfig;
use mokv::node_id::NodeId;
use mokv::rt;

use super::doubted::{heal, is_quarantined, wait_for_status};
use super::identity::{members, wait_for_members};
use super::setup::{
    ELECTION_BOUND, client, client_of, ensure, expect, formed, others, set, set_many, wait_for_end,
};
use crate::clients::SimClient;
use crate::cluster::{Cluster, Power};
use crate::evidence::history::Outcome;
use crate::record::Run;
use crate::world::World;

/// Interval of the scrub.
const SCRUB: Duration = Duration::from_secs(2);
/// Longest time until damage is found, and until the node no longer needs the damaged data.
const WITHIN: Duration = Duration::from_secs(40);
/// Longer than the minute for which a damaged node asks before it exits.
const ASKING: Duration = Duration::from_secs(90);
/// Time in which a node that must not be replaced would have been.
const LONG_ENOUGH: Duration = Duration::from_secs(25);
/// This many writes of [`LARGE_BYTES`] fill three segments.
const LARGE_WRITES: u64 = 50;
const LARGE_BYTES: usize = 20_000;
/// Written once, never read, and damaged in memory.
const WITNESS: &str = "witness";

fn scrubbed(nodes: usize, snapshot_log_bytes: u64) -> World {
    World {
        snapshot_log_bytes: snapshot_log_bytes..=snapshot_log_bytes,
        scrub: Some(SCRUB),
        ..World::calm(nodes)
    }
}

/// A cluster whose damaged nodes ask whether they may start over. Returns the leader's name as well.
async fn formed_to_replace(run: &Arc<Run>, world: World) -> Result<(Cluster, String), String> {
    let (cluster, _) = formed(run, world).await?;
    let replaces = |config: &mut NodeConfig| config.replace_damaged = true;
    for name in cluster.names() {
        cluster.kill(&name);
        cluster.configure(&name, replaces);
    }
    cluster.start_all();
    let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    Ok((cluster, leader))
}

async fn fill_segments(client: &SimClient) -> Result<(), String> {
    for number in 0..LARGE_WRITES {
        let (_, outcome) = client.set(&format!("large/{:02}", number % 8), None, LARGE_BYTES).await;
        ensure(matches!(outcome, Outcome::Ok(_)), || format!("a large write was {outcome:?}"))?;
    }
    Ok(())
}

/// Waits until `holds`.
async fn wait_until(what: &str, holds: impl Fn() -> bool) -> Result<(), String> {
    let before = rt::now();
    while !holds() {
        ensure(rt::now() - before < WITHIN, || format!("{what} did not happen within {WITHIN:?}"))?;
        rt::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The files that a node uses, without those set aside, whose names end with `ending`, oldest first.
fn files(cluster: &Cluster, node: &str, ending: &str) -> Vec<String> {
    let files = cluster.disk(node).files().into_iter().map(|file| file.0);
    files.filter(|name| name.ends_with(ending) && !name.starts_with("left-")).collect()
}

fn has(cluster: &Cluster, node: &str, file: &str) -> bool {
    cluster.disk(node).files().iter().any(|(name, _)| name == file)
}

/// The leader or a follower, depending on the seed.
fn victim(run: &Run, cluster: &Cluster, leader: &str) -> String {
    match run.seed % 2 {
        0 => leader.to_owned(),
        _ => others(&cluster.names(), leader).remove(0),
    }
}

async fn wait_for_damage(cluster: &Cluster, node: &str, file: &str) -> Result<(), String> {
    wait_for_status(cluster, node, "say what is damaged", |status| {
        status.reasons.iter().any(|reason| reason.contains(file))
    })
    .await
}

/// Restarts a node on its present disk, cut off from the others: it gets no help.
async fn starts_by_itself(cluster: &Cluster, node: &str) -> Result<(), String> {
    cluster.kill(node);
    cluster.isolate(node);
    cluster.start(node);
    rt::sleep(Duration::from_secs(5)).await;
    ensure(cluster.power(node) == Power::On, || format!("{node} does not start on what it has made sound"))?;
    cluster.heal_network();
    cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    Ok(())
}

/// A bit flips in the middle of a sealed segment. Its node reports it, takes snapshots, and drops the segment; a
/// restart then finds no damage.
pub async fn in_a_cold_segment(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = formed(&run, scrubbed(3, 10_000_000)).await?;
    let client = client(&cluster);
    let (value, _) = set(&client, "key").await?;
    fill_segments(&client).await?;
    let name = victim(&run, &cluster, &leader);
    wait_until("that three segments are full", || files(&cluster, &name, ".wal").len() > 3).await?;
    let file = files(&cluster, &name, ".wal").remove(usize::from(run.seed % 3 == 2));
    cluster.rot(&name, &file, 3_000 + run.seed * 39_100 % 150_000, (run.seed % 8) as u8);
    wait_for_damage(&cluster, &name, &file).await?;
    wait_until("that the damaged segment is given up", || !has(&cluster, &name, &file)).await?;
    wait_for_status(&cluster, &name, "be well again", |status| {
        !status.reasons.iter().any(|reason| reason.contains(&file))
    })
    .await?;
    starts_by_itself(&cluster, &name).await?;
    expect(&client_of(&cluster, &name), "key", value).await?;
    Ok(cluster)
}

/// A bit flips in the newer or the older of the kept snapshots. Its node reports it and takes new ones, although no
/// client writes.
pub async fn in_a_snapshot(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = formed(&run, scrubbed(3, 4_000)).await?;
    let client = client(&cluster);
    let (value, _) = set(&client, "key").await?;
    set_many(&client, 200).await?;
    let name = victim(&run, &cluster, &leader);
    wait_until("that there are two snapshots", || files(&cluster, &name, ".snap").len() == 2).await?;
    // No snapshot is under way any more.
    rt::sleep(Duration::from_secs(1)).await;
    let file = files(&cluster, &name, ".snap").remove((run.seed / 2 % 2) as usize);
    let length = cluster.disk(&name).contents(&file).map_or(0, |bytes| bytes.len() as u64);
    cluster.rot(&name, &file, length * (1 + run.seed % 5) / 7, (run.seed % 8) as u8);
    wait_for_damage(&cluster, &name, &file).await?;
    wait_until("that the damaged snapshot is replaced", || !has(&cluster, &name, &file)).await?;
    starts_by_itself(&cluster, &name).await?;
    expect(&client_of(&cluster, &name), "key", value).await?;
    Ok(cluster)
}

/// A bit of a value that no client reads flips in a node's memory; which bit depends on the seed.
async fn flip_in_memory(run: &Run, cluster: &Cluster, name: &str) -> Result<(), String> {
    let bit = (run.seed * 37 % 200) as usize;
    wait_until("that every node holds the witness", || cluster.rot_in_memory(name, WITNESS, bit)).await
}

/// A bit flips in memory. The checksum of the state finds it, or the next snapshot if no checksum is due. The node is
/// quarantined, leads no more, and writes no snapshot of its state; a wipe heals it.
pub async fn in_memory(run: Arc<Run>) -> Result<Cluster, String> {
    let by_sum = (run.seed / 2).is_multiple_of(2);
    let world = World { scrub: by_sum.then_some(SCRUB), ..scrubbed(3, 4_000) };
    let (cluster, leader) = formed(&run, world).await?;
    let writer = client(&cluster);
    set(&writer, WITNESS).await?;
    set_many(&writer, 150).await?;
    let name = victim(&run, &cluster, &leader);
    rt::sleep(Duration::from_secs(1)).await;
    let before = files(&cluster, &name, ".snap");
    flip_in_memory(&run, &cluster, &name).await?;
    if !by_sum {
        set_many(&writer, 100).await?;
    }
    wait_for_status(&cluster, &name, "be quarantined", is_quarantined).await?;
    let sound = others(&cluster.names(), &name);
    let leader = cluster.wait_for_leader(&sound, ELECTION_BOUND).await?;
    set_many(&writer, 150).await?;
    rt::sleep(Duration::from_secs(2)).await;
    let after = files(&cluster, &name, ".snap");
    ensure(before == after, || {
        format!("{name} has snapshots {after:?}, and had {before:?} when a bit of its memory flipped")
    })?;
    let reads = client_of(&cluster, &name).get("many/01", true).await;
    cluster.run().tell(format!("a client that knows {name} reads {reads:?}"));
    cluster.kill(&name);
    cluster.start(&name);
    wait_for_status(&cluster, &name, "be quarantined after a restart", is_quarantined).await?;
    heal(&cluster, &leader, &name).await?;
    let (value, _) = set(&writer, "healed").await?;
    expect(&client_of(&cluster, &name), "healed", value).await?;
    Ok(cluster)
}

/// The names and ids of all voters.
async fn voters(cluster: &Cluster, of: &str) -> Vec<(String, NodeId)> {
    let members = members(cluster, of).await;
    members.into_iter().filter(|(_, _, learner)| !learner).map(|(name, id, _)| (name, id)).collect()
}

async fn id_of(cluster: &Cluster, node: &str) -> Result<NodeId, String> {
    let status = cluster.status(node).await;
    status.map(|status| status.node_id).ok_or_else(|| format!("{node} does not answer"))
}

/// Waits until a node votes under another id than `old`.
async fn wait_for_replacement(
    cluster: &Cluster,
    leader: &str,
    node: &str,
    old: NodeId,
) -> Result<(), String> {
    wait_for_members(cluster, leader, &format!("that {node} votes again as another"), |members| {
        members.iter().any(|(name, id, learner)| name == node && *id != old && !learner)
    })
    .await
}

/// A place in the log that has long been durable: file, offset and bit.
fn cold_byte(run: &Run, cluster: &Cluster, node: &str) -> Result<(String, u64, u8), String> {
    let file = files(cluster, node, ".wal").into_iter().next().ok_or("there is no log")?;
    Ok((file, 3_000 + run.seed * 391, (run.seed % 8) as u8))
}

/// A node whose log is damaged while it is off is replaced without an operator, and its old files are kept.
pub async fn damaged_node_starts_over(run: Arc<Run>) -> Result<Cluster, String> {
    let nodes = if run.seed.is_multiple_of(2) { 3 } else { 5 };
    let (cluster, leader) = formed_to_replace(&run, World::calm(nodes)).await?;
    let writer = client(&cluster);
    let (value, _) = set(&writer, "key").await?;
    set_many(&writer, 200).await?;
    let name = others(&cluster.names(), &leader).remove(0);
    let old = id_of(&cluster, &name).await?;
    cluster.kill(&name);
    let (file, offset, bit) = cold_byte(&run, &cluster, &name)?;
    cluster.rot(&name, &file, offset, bit);
    cluster.may_go(&name);
    // Service goes on while the node starts over.
    cluster.start(&name);
    set_many(&writer, 50).await?;
    wait_for_replacement(&cluster, &leader, &name, old).await?;
    let kept = cluster
        .disk(&name)
        .files()
        .into_iter()
        .any(|(kept, _)| kept.starts_with("left-") && kept.ends_with(&file));
    ensure(kept, || format!("{name}'s damaged {file} is gone"))?;
    expect(&client_of(&cluster, &name), "key", value).await?;
    Ok(cluster)
}

/// A node is quarantined while it runs because a bit of its memory flips, and then replaced without an operator; a
/// leader transfers leadership first.
pub async fn rotten_node_starts_over(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = formed_to_replace(&run, scrubbed(3, 6_000)).await?;
    let writer = client(&cluster);
    set(&writer, WITNESS).await?;
    let name = victim(&run, &cluster, &leader);
    let old = id_of(&cluster, &name).await?;
    cluster.may_go(&name);
    flip_in_memory(&run, &cluster, &name).await?;
    set_many(&writer, 100).await?;
    let sound = others(&cluster.names(), &name);
    wait_for_replacement(&cluster, &sound[0], &name, old).await?;
    let (value, _) = set(&writer, "healed").await?;
    expect(&client_of(&cluster, &name), "healed", value).await?;
    Ok(cluster)
}

/// Two of three logs are damaged while their nodes are off. There is no leader that could permit a replacement: both
/// nodes refuse to start, leave their files unchanged, and report what to do. Once the damage is undone, they go on as
/// before.
pub async fn two_damaged_at_once(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = formed_to_replace(&run, World::calm(3)).await?;
    let writer = client(&cluster);
    set_many(&writer, 200).await?;
    let (value, _) = set(&writer, "key").await?;
    let damaged = others(&cluster.names(), &leader);
    let mut places = Vec::new();
    for name in &damaged {
        cluster.kill(name);
        let (file, offset, bit) = cold_byte(&run, &cluster, name)?;
        cluster.rot(name, &file, offset, bit);
        cluster.excuse(name, "its log is damaged, and so is another one");
        places.push((name, file, offset, bit));
    }
    damaged.iter().for_each(|name| cluster.start(name));
    for (name, file, offset, bit) in places {
        let reason = wait_for_end(&cluster, name, ASKING).await?;
        let says_what_to_do =
            reason.contains(&file) && reason.contains("wipe") && reason.contains("replace-damaged");
        ensure(says_what_to_do, || format!("{name} ends for another reason: {reason}"))?;
        let moved = cluster.disk(name).files().iter().any(|(file, _)| file.starts_with("left-"));
        ensure(!moved, || format!("{name} has set its files aside, though nobody could say that it may"))?;
        cluster.rot(name, &file, offset, bit);
    }
    damaged.iter().for_each(|name| cluster.start(name));
    cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    expect(&writer, "key", value).await?;
    Ok(cluster)
}

/// In two of three memories a bit flips. Both nodes are quarantined and go on acknowledging, so that the third one
/// serves. Neither is replaced, because the other one is a quarantined voter. Once an operator has wiped one, the other
/// is replaced without an operator.
pub async fn two_rotten_at_once(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = formed(&run, scrubbed(3, 6_000)).await?;
    let writer = client(&cluster);
    set(&writer, WITNESS).await?;
    let rotten = others(&cluster.names(), &leader);
    let mut old = Vec::new();
    for name in &rotten {
        old.push((name.clone(), id_of(&cluster, name).await?));
        flip_in_memory(&run, &cluster, name).await?;
    }
    for name in &rotten {
        wait_for_status(&cluster, name, "be quarantined", is_quarantined).await?;
    }
    // Only now, when both are known to be quarantined, may they ask.
    for name in &rotten {
        cluster.kill(name);
        cluster.configure(name, |config| config.replace_damaged = true);
        cluster.start(name);
        wait_for_status(&cluster, name, "be quarantined after a restart", is_quarantined).await?;
        cluster.may_go(name);
    }
    let before = rt::now();
    while rt::now() - before < LONG_ENOUGH {
        set(&writer, "meanwhile").await?;
        rt::sleep(Duration::from_millis(500)).await;
    }
    let leader = cluster.wait_for_leader(&[leader], ELECTION_BOUND).await?;
    let voters = voters(&cluster, &leader).await;
    if let Some((name, _)) = old.iter().find(|before| !voters.contains(before)) {
        return Err(format!("{name} was replaced although another voter is doubted"));
    }
    heal(&cluster, &leader, &rotten[0]).await?;
    wait_for_replacement(&cluster, &leader, &rotten[1], old[1].1).await?;
    Ok(cluster)
}

/// One of five disks is lost, and its node is being replaced; meanwhile another node's log is damaged. That node waits
/// until the first one votes again, and is replaced then.
pub async fn damaged_while_another_recovers(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = formed_to_replace(&run, World::calm(5)).await?;
    let writer = client(&cluster);
    let (value, _) = set(&writer, "key").await?;
    set_many(&writer, 200).await?;
    let mut others = others(&cluster.names(), &leader);
    let (lost, damaged) = (others.remove(0), others.remove(0));
    let (old_lost, old_damaged) = (id_of(&cluster, &lost).await?, id_of(&cluster, &damaged).await?);
    cluster.kill(&damaged);
    let (file, offset, bit) = cold_byte(&run, &cluster, &damaged)?;
    cluster.rot(&damaged, &file, offset, bit);
    cluster.may_go(&damaged);
    cluster.kill(&lost);
    cluster.wipe(&lost);
    cluster.start(&damaged);
    rt::sleep(Duration::from_secs(run.seed % 3 * 2)).await;
    cluster.start(&lost);
    let before = rt::now();
    loop {
        let voters = voters(&cluster, &leader).await;
        let is_there = |name: &str, id: NodeId| voters.iter().any(|voter| voter.0 == name && voter.1 == id);
        let is_back = |name: &str, old: NodeId| voters.iter().any(|voter| voter.0 == name && voter.1 != old);
        let kept = cluster.disk(&damaged).files().into_iter().all(|(file, _)| !file.starts_with("left-"));
        if !voters.is_empty() {
            ensure(kept || !is_there(&lost, old_lost), || {
                format!("{damaged} has set its files aside while {lost} was still to be replaced")
            })?;
            if is_back(&lost, old_lost) && is_back(&damaged, old_damaged) {
                break;
            }
        }
        ensure(rt::now() - before < ASKING, || format!("the voters are still {voters:?}"))?;
        set(&writer, "meanwhile").await?;
        rt::sleep(Duration::from_millis(100)).await;
    }
    expect(&client_of(&cluster, &damaged), "key", value).await?;
    Ok(cluster)
}
