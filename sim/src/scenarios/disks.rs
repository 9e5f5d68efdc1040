//! Damaged, full, copied and rolled-back disks; the operator follows the node's exit message.

use std::sync::Arc;
use std::time::Duration;

use mokv::client::Error;
use mokv::rt;
use mokv::rt::disk::Image;
use mokv::rt::task::spawn_guarded;

use super::identity::wait_for_members;
use super::setup::{
    ELECTION_BOUND, client, ensure, expect, formed, others, set, set_many, three_nodes, wait_for_end,
};
use crate::clients::SimClient;
use crate::cluster::{Cluster, Power, RPC_PORT};
use crate::evidence::history::Outcome;
use crate::record::Run;
use crate::world::World;

/// The newest file whose name ends with `ending`, and its length in bytes.
fn newest_file(cluster: &Cluster, node: &str, ending: &str) -> Result<(String, u64), String> {
    let files = cluster.disk(node).files();
    let newest = files.into_iter().rfind(|(name, _)| name.ends_with(ending));
    newest.ok_or_else(|| format!("{node} has no file that ends in {ending}"))
}

/// Wipes a node that refused to start because of its disk, as its message must ask.
fn wipe_as_told(cluster: &Cluster, node: &str, reason: &str) -> Result<(), String> {
    ensure(reason.contains("wipe"), || format!("{node} says nothing of what to do: {reason}"))?;
    cluster.wipe(node);
    cluster.start(node);
    Ok(())
}

/// A bit flips in the middle of the log, where later batches prove that it was durable: the node refuses to start
/// and names the file, and comes back after a wipe.
pub async fn flipped_bit_in_the_log(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 200).await?;
    let name = others(&cluster.names(), &leader).remove(0);
    cluster.kill(&name);
    let log = cluster.disk(&name).files().into_iter().find(|(file, _)| file.ends_with(".wal"));
    let (file, _) = log.ok_or("there is no log")?;
    let offset = 3_000 + run.seed * 391;
    ensure(cluster.disk(&name).flip(&file, offset, 3), || format!("{file} is too short"))?;
    run.fault("flipped bit", format!("a bit flips in {name}'s {file} at offset {offset}"));
    cluster.excuse(&name, "a bit of its log flipped");
    cluster.start(&name);
    let reason = wait_for_end(&cluster, &name, Duration::from_secs(20)).await?;
    ensure(reason.contains(&file), || format!("the message does not name {file}: {reason}"))?;
    wipe_as_told(&cluster, &name, &reason)?;
    Ok(cluster)
}

/// The newest snapshot is damaged: the older one and the log suffice.
pub async fn damaged_snapshot(run: Arc<Run>) -> Result<Cluster, String> {
    let world = World { snapshot_log_bytes: 4_000..=4_000, ..World::calm(3) };
    let (cluster, leader) = formed(&run, world).await?;
    let client = client(&cluster);
    let (value, _) = set(&client, "key").await?;
    set_many(&client, 400).await?;
    let name = others(&cluster.names(), &leader).remove(0);
    cluster.kill(&name);
    let (file, length) = newest_file(&cluster, &name, ".snap")?;
    ensure(cluster.disk(&name).flip(&file, length / 2, 5), || format!("{file} is empty"))?;
    run.fault("flipped bit", format!("a bit flips in {name}'s newest snapshot {file}"));
    // Without help from others, its own data must suffice to start.
    cluster.isolate(&name);
    cluster.start(&name);
    rt::sleep(Duration::from_secs(5)).await;
    ensure(cluster.power(&name) == Power::On, || {
        format!("{name} does not start although it has an older snapshot and the log since then")
    })?;
    cluster.heal_network();
    cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    expect(&super::setup::client_of(&cluster, &name), "key", value).await?;
    Ok(cluster)
}

/// The log of a node is gone and its identity is not: it refuses to vote again under the old id.
pub async fn deleted_log(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 50).await?;
    let name = others(&cluster.names(), &leader).remove(0);
    cluster.kill(&name);
    let disk = cluster.disk(&name);
    let mounted = disk.mount();
    for (file, _) in disk.files().into_iter().filter(|(file, _)| file.ends_with(".wal")) {
        mounted.remove(&file).await.map_err(|error| error.to_string())?;
    }
    mounted.sync_dir().await.map_err(|error| error.to_string())?;
    run.fault("deleted log", format!("somebody deletes {name}'s log"));
    cluster.excuse(&name, "its log was deleted");
    cluster.start(&name);
    let reason = wait_for_end(&cluster, &name, Duration::from_secs(20)).await?;
    wipe_as_told(&cluster, &name, &reason)?;
    Ok(cluster)
}

/// Restarts a node three times while clients write. Returns the image of its disk from before.
async fn image_before_restarts(cluster: &Cluster, client: &SimClient, name: &str) -> Result<Image, String> {
    let image = cluster.disk(name).image();
    for _ in 0..3 {
        cluster.kill(name);
        cluster.start(name);
        set_many(client, 30).await?;
        cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    }
    Ok(image)
}

/// Three nodes, of which one follower is off with its disk rolled back by three incarnations. Returns the follower's
/// name.
async fn follower_rolled_back(run: &Arc<Run>) -> Result<(Cluster, String), String> {
    let (cluster, leader) = three_nodes(run).await?;
    let client = client(&cluster);
    set_many(&client, 30).await?;
    let name = others(&cluster.names(), &leader).remove(0);
    let image = image_before_restarts(&cluster, &client, &name).await?;
    cluster.kill(&name);
    cluster.roll_back(&name, &image);
    Ok((cluster, name))
}

/// A volume is rolled back to an older state, with older votes and fewer entries: its node learns so from a peer and
/// exits.
pub async fn rolled_back_disk(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, name) = follower_rolled_back(&run).await?;
    cluster.start(&name);
    ends_outlived(&cluster, &name).await?;
    Ok(cluster)
}

/// Waits until a node exits because a peer recorded a later incarnation of it, or a higher acknowledged position. The
/// message names one of the two, depending on the peer that it meets first, and what to do; the operator then does it.
async fn ends_outlived(cluster: &Cluster, node: &str) -> Result<(), String> {
    let reason = wait_for_end(cluster, node, Duration::from_secs(20)).await?;
    let is_outlived = reason.contains("was rolled back or copied");
    let has_gone_back = reason.contains("was put back to an older state");
    let says_what_to_do = reason.contains("restore it with 'mokv serve --wipe'; if not");
    ensure((is_outlived || has_gone_back) && says_what_to_do, || {
        format!("{node} ends for another reason: {reason}")
    })
}

/// A volume is rolled back, and before any peer is reachable its node starts more often than it had: its boot counter
/// is the highest ever recorded, and its boot history still differs.
pub async fn rolled_back_and_restarted(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, name) = follower_rolled_back(&run).await?;
    cluster.isolate(&name);
    for _ in 0..6 {
        cluster.start(&name);
        rt::sleep(Duration::from_secs(1)).await;
        cluster.kill(&name);
    }
    cluster.heal_network();
    cluster.start(&name);
    ends_outlived(&cluster, &name).await?;
    Ok(cluster)
}

/// A volume is rolled back, and the only peer that its node reaches lacks the last committed entries and has restarted
/// since it recorded the later incarnations. Together they are a majority, and must not elect a leader.
pub async fn rolled_back_beside_a_laggard(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let writer = client(&cluster);
    set_many(&writer, 30).await?;
    let mut followers = others(&cluster.names(), &leader);
    let (rolled_back, laggard) = (followers.remove(0), followers.remove(0));
    let image = image_before_restarts(&cluster, &writer, &rolled_back).await?;
    cluster.kill(&laggard);
    // Committed by the leader and by the node that is about to lose them.
    set_many(&writer, 30).await?;
    let leader = cluster.wait_for_leader(&[leader, rolled_back.clone()], ELECTION_BOUND).await?;
    cluster.kill(&leader);
    cluster.kill(&rolled_back);
    cluster.roll_back(&rolled_back, &image);
    cluster.start(&laggard);
    cluster.start(&rolled_back);
    let two = [laggard.clone(), rolled_back.clone()];
    let ended = ends_outlived(&cluster, &rolled_back).await;
    if let Ok(impostor) = cluster.wait_for_leader(&two, ELECTION_BOUND).await {
        return Err(format!("{impostor} leads, though nobody of the two has all that was committed"));
    }
    ended?;
    cluster.start(&leader);
    cluster.wait_for_leader(&[leader, laggard], ELECTION_BOUND).await?;
    Ok(cluster)
}

/// A data directory is copied to a second machine and both run. If the copy reaches the original, it exits before it
/// takes part; if not, at most one of the two takes part.
pub async fn copied_disk(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 50).await?;
    let name = others(&cluster.names(), &leader).remove(0);
    let original = name.clone();
    cluster.add("copy", |config| config.node_name = original);
    cluster.disk("copy").restore(&cluster.disk(&name).image());
    run.fault("copied disk", format!("{name}'s disk is copied to another machine, and both run"));
    cluster.excuse("copy", "it runs on a copied disk");
    if !run.seed.is_multiple_of(2) {
        cluster.start("copy");
        let reason = wait_for_end(&cluster, "copy", Duration::from_secs(20)).await?;
        ensure(reason.contains("this one is a copy"), || {
            format!("the copy ends for another reason: {reason}")
        })?;
        set_many(&client, 20).await?;
        cluster.forget("copy");
        return Ok(cluster);
    }
    // The copy cannot detect it by itself.
    cluster.cut("copy", &name);
    cluster.cut(&name, "copy");
    cluster.excuse(&name, "its disk was copied and both run");
    cluster.start("copy");
    rt::sleep(Duration::from_secs(15)).await;
    cluster.heal_network();
    set_many(&client, 20).await?;
    let both_run = cluster.power("copy") == Power::On && cluster.power(&name) == Power::On;
    if both_run {
        let applied =
            |status: Option<mokv::client::NodeStatus>| status.map_or(0, |status| status.applied_index);
        let (one, other) = (applied(cluster.status("copy").await), applied(cluster.status(&name).await));
        let newest = applied(cluster.status(&leader).await);
        ensure(one < newest || other < newest, || {
            format!("{name} and its copy both follow, at log indexes {one} and {other}")
        })?;
    }
    // The message asks to stop one of the two and to wipe its data directory. Here both are stopped: the copy does not
    // belong to this cluster.
    if cluster.power("copy") != Power::Off {
        cluster.kill("copy");
    }
    cluster.forget("copy");
    if cluster.power(&name) == Power::Off {
        let stop = run.stops().into_iter().rfind(|stop| stop.node == name);
        wipe_as_told(&cluster, &name, &stop.map_or_else(String::new, |stop| stop.reason))?;
        wait_for_members(&cluster, &leader, "that the wiped node is back", |members| {
            members.len() == 3 && members.iter().all(|(_, _, learner)| !learner)
        })
        .await?;
    }
    Ok(cluster)
}

/// The leader's disk fills up: clients' writes are refused, deletes are not, and no node stops.
pub async fn full_disk(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    fill_up(&run, &cluster, &client(&cluster), &leader).await?;
    Ok(cluster)
}

/// The leader's disk fills up with writes that only followers forward to it, whose own disks have room (chaos seed
/// 300021).
pub async fn full_leader(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    for (from, to) in [(client.host(), leader.as_str()), (leader.as_str(), client.host())] {
        cluster.cut(from, to);
    }
    fill_up(&run, &cluster, &client, &leader).await?;
    Ok(cluster)
}

/// A leader's disk is slow and then full while more than a segment of entries waits to be written, and the others
/// commit all of them. The segments that are ready must suffice, and after the power failure that follows, no commit
/// index may exceed the end of the log.
pub async fn long_queue(run: Arc<Run>) -> Result<Cluster, String> {
    const WRITES: usize = 10;
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 20).await?;
    let used: u64 = cluster.disk(&leader).files().iter().map(|(_, length)| length).sum();
    cluster.disk(&leader).set_capacity(Some(used + 50_000));
    cluster.slow_disk(&leader, 400);
    run.fault("full disk", format!("{leader}'s disk is slow and has room for 50 kB more"));
    let write = |number: usize| {
        let client = client.clone();
        spawn_guarded(async move { client.set(&format!("queued/{number}"), None, 60_000).await.1 })
    };
    let writes: Vec<_> = (0..WRITES).map(write).collect();
    for write in writes {
        let outcome = write.await.map_err(|error| error.to_string())?;
        ensure(matches!(outcome, Outcome::Ok(_)), || {
            format!("a write that the others commit was {outcome:?}")
        })?;
    }
    // By then a part of it is written.
    rt::sleep(Duration::from_millis(500 + run.seed % 4 * 200)).await;
    cluster.power_loss(&leader);
    cluster.disk(&leader).set_capacity(None);
    cluster.slow_disk(&leader, 1);
    cluster.start(&leader);
    set(&client, "after").await?;
    Ok(cluster)
}

/// A follower's disk fills up: the leader refuses writes for the fullest voter, before that one has to stop.
pub async fn full_voter(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let follower = others(&cluster.names(), &leader).remove(0);
    fill_up(&run, &cluster, &client(&cluster), &follower).await?;
    Ok(cluster)
}

/// All disks fill up, and every key is deleted, as the refusal asks: the nodes write snapshots and purge the log before
/// them, and values are accepted again, without any other request.
pub async fn full_and_deleted(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = formed(&run, without_snapshots()).await?;
    fill_and_delete(&run, &cluster, &cluster.names()).await?;
    Ok(cluster)
}

/// The same with one follower's full disk: it makes room by itself, and the leader learns of it.
pub async fn full_voter_and_deleted(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = formed(&run, without_snapshots()).await?;
    let follower = others(&cluster.names(), &leader).remove(0);
    fill_and_delete(&run, &cluster, &[follower]).await?;
    Ok(cluster)
}

/// Three nodes that take snapshots only to make room.
fn without_snapshots() -> World {
    World { snapshot_log_bytes: 1 << 30..=1 << 30, ..World::calm(3) }
}

/// Writes until these nodes' disks are full, deletes all keys, and waits until values are accepted again.
async fn fill_and_delete(run: &Arc<Run>, cluster: &Cluster, full: &[String]) -> Result<(), String> {
    const DELETED_BOUND: Duration = Duration::from_secs(20);
    let writer = client(cluster);
    for name in full {
        leave_room(run, cluster, name, 3 << 20);
    }
    let filled = until_refused(&writer).await?;
    // The refusal is for lack of space, and stays as long as the keys exist.
    rt::sleep(DELETED_BOUND).await;
    ensure(!takes_values(&writer).await, || "values are taken again, though nobody made room".into())?;
    for number in 0..filled {
        let outcome = writer.delete(&format!("filling/{number}"), None).await;
        ensure(matches!(outcome, Outcome::Ok(_)), || format!("a delete on a full disk was {outcome:?}"))?;
    }
    takes_values_within(&writer, DELETED_BOUND).await?;
    for name in full {
        ensure(cluster.power(name) == Power::On, || format!("{name} did not survive its full disk"))?;
    }
    Ok(())
}

/// A follower reports that its disk is full, and is killed: its last report expires when no new ones arrive.
pub async fn full_voter_dies(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let writer = client(&cluster);
    let follower = others(&cluster.names(), &leader).remove(0);
    leave_room(&run, &cluster, &follower, 1 << 20);
    until_refused(&writer).await?;
    cluster.kill(&follower);
    takes_values_within(&writer, ELECTION_BOUND).await?;
    cluster.mend_disk(&follower);
    cluster.start(&follower);
    Ok(cluster)
}

/// Leaves room for `room` more bytes until a node's disk counts as nearly full.
fn leave_room(run: &Run, cluster: &Cluster, name: &str, room: u64) {
    let used: u64 = cluster.disk(name).files().iter().map(|(_, length)| length).sum();
    let reserve = cluster.config(name).storage.min_free_bytes;
    cluster.disk(name).set_capacity(Some(used + reserve + room));
    run.fault("full disk", format!("{name}'s disk takes {room} bytes more until it is nearly full"));
}

/// Writes large values until one is refused. Returns the number of accepted ones.
async fn until_refused(writer: &SimClient) -> Result<usize, String> {
    for number in 0..400 {
        let (_, outcome) = writer.set(&format!("filling/{number}"), None, 60_000).await;
        match outcome {
            Outcome::Ok(_) => {}
            Outcome::Failed => return Ok(number),
            other => return Err(format!("a write on a filling disk was {other:?}")),
        }
    }
    Err("24 MB were written to disks with room for much less".into())
}

async fn takes_values(writer: &SimClient) -> bool {
    matches!(writer.set("room again", None, 16).await.1, Outcome::Ok(_))
}

async fn takes_values_within(writer: &SimClient, bound: Duration) -> Result<(), String> {
    let before = rt::now();
    while !takes_values(writer).await {
        ensure(rt::now() - before < bound, || format!("no values are taken after {bound:?}"))?;
        rt::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Writes until a node's disk is full: writes are refused while there is room for Raft's own, deletes are not, no node
/// stops, and with room again writes go on.
async fn fill_up(run: &Arc<Run>, cluster: &Cluster, writer: &SimClient, name: &str) -> Result<(), String> {
    set_many(writer, 50).await?;
    let used: u64 = cluster.disk(name).files().iter().map(|(_, length)| length).sum();
    cluster.disk(name).set_capacity(Some(used + (2 << 20)));
    run.fault("full disk", format!("{name}'s disk has room for 2 MiB more"));
    let mut refused = false;
    for number in 0..200 {
        let (_, outcome) = writer.set(&format!("filling/{number}"), None, 60_000).await;
        if outcome == Outcome::Failed {
            refused = true;
            break;
        }
        ensure(matches!(outcome, Outcome::Ok(_)), || format!("a write on a filling disk was {outcome:?}"))?;
    }
    ensure(refused, || "12 MB were written to a disk with room for 2 MiB".into())?;
    let outcome = writer.delete("filling/0", None).await;
    ensure(matches!(outcome, Outcome::Ok(_)), || format!("a delete on a full disk was {outcome:?}"))?;
    let address = format!("{name}.sim:{RPC_PORT}");
    cluster.disk(name).set_capacity(Some(0));
    let operator = client(cluster);
    let answer = operator.with_library(|library| async move { library.snapshot(&address).await }).await;
    ensure(matches!(&answer, Err(Error::ResourceExhausted(_))), || {
        format!("a snapshot on a disk without room was {answer:?}")
    })?;
    cluster.disk(name).set_capacity(None);
    let before = rt::now();
    loop {
        let (value, outcome) = writer.set("room again", None, 16).await;
        if matches!(outcome, Outcome::Ok(_)) {
            expect(writer, "room again", value).await?;
            return Ok(());
        }
        ensure(rt::now() - before < ELECTION_BOUND, || format!("with room again a write was {outcome:?}"))?;
        rt::sleep(Duration::from_millis(200)).await;
    }
}
