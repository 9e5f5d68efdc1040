//! Data directories that go back in time: copies of a majority, or of all, taken while the nodes ran and put back later.
//!
//! What was acknowledged since then is gone from those disks, and nothing brings it back. So no node reports what it does
//! between the copies and its end, and of what is written meanwhile the record says that its outcome is unknown. Everything
//! after it is judged.

use std::sync::Arc;
use std::time::Duration;

use mokv::client::NodeStatus;
use mokv::rt;
use mokv::rt::disk::Image;
use mokv::rt::task::{TaskGuard, spawn_guarded};

use super::identity::wait_for_members;
use super::stage::{ELECTION_BOUND, client, ensure, expect, others, set, set_many, three_nodes};
use crate::client::SimClient;
use crate::cluster::Cluster;
use crate::history::{Answer, Outcome};
use crate::run::Run;

/// Writes that are acknowledged and then lost.
const IN_VAIN: u32 = 25;
/// What must show at a node shows within this.
const WITHIN: Duration = Duration::from_secs(20);

/// Three nodes that hold some entries, the leader among them, and, if wanted, somebody who writes without pause.
async fn written_to(
    run: &Arc<Run>,
    is_busy: bool,
) -> Result<(Cluster, String, Option<TaskGuard<()>>), String> {
    let (cluster, leader) = three_nodes(run).await?;
    set_many(&client(&cluster), 30).await?;
    let load = is_busy.then(|| busy(&cluster));
    rt::sleep(Duration::from_secs(1)).await;
    Ok((cluster, leader, load))
}

/// Writes that are about to be lost; all must succeed.
async fn set_in_vain(client: &SimClient) -> Result<(), String> {
    for number in 0..IN_VAIN {
        let written = client.set_in_vain(&format!("in-vain/{number}"), 16).await;
        written.map_err(|error| format!("an ordinary write fails: {error}"))?;
    }
    Ok(())
}

/// A client that writes without pause, for as long as this is kept.
fn busy(cluster: &Cluster) -> TaskGuard<()> {
    let client = client(cluster);
    spawn_guarded(async move {
        for number in 0.. {
            // Nodes die under it, and what it is told of that means nothing.
            let _ = client.set_in_vain(&format!("busy/{number}"), 16).await;
        }
    })
}

/// Waits until all nodes have applied what the leader has.
async fn wait_until_level(cluster: &Cluster, leader: &str) -> Result<(), String> {
    let before = rt::now();
    loop {
        let end = cluster.status(leader).await.map(|status| status.last_log_index);
        let mut applied = Vec::new();
        for name in cluster.names() {
            applied.push(cluster.status(&name).await.map(|status| status.applied_index));
        }
        if end.is_some() && applied.iter().all(|applied| *applied == end) {
            return Ok(());
        }
        ensure(rt::now() - before < WITHIN, || {
            format!("the nodes do not become level: {applied:?} of {end:?}")
        })?;
        rt::sleep(Duration::from_millis(50)).await;
    }
}

/// Puts a copy back in place of what a node's disk holds now. From its next start on its node is on record.
fn put_back(cluster: &Cluster, name: &str, copy: &Image) {
    cluster.disk(name).restore(copy);
    cluster.tampered(name);
    cluster.set_outsider(name, false);
    cluster
        .run()
        .fault("rolled-back disk", format!("a copy of {name}'s disk is put back that was made while it ran"));
}

/// Copies of disks whose nodes run.
fn copies(cluster: &Cluster, names: &[String]) -> Vec<(String, Image)> {
    cluster.off_the_record();
    names.iter().map(|name| (name.clone(), cluster.disk(name).image())).collect()
}

async fn wait_for_quarantine(cluster: &Cluster, name: &str, when: &str) -> Result<NodeStatus, String> {
    let before = rt::now();
    loop {
        let status = cluster.status(name).await;
        if let Some(status) = status.as_ref().filter(|status| status.role == "quarantined") {
            return Ok(status.clone());
        }
        ensure(rt::now() - before < WITHIN, || {
            format!("{when}, {name} should be in quarantine, for its log is contradicted, and is {status:?}")
        })?;
        rt::sleep(Duration::from_millis(100)).await;
    }
}

/// Two of three disks go back to copies that were made while they ran, at once; since then writes were acknowledged, which
/// the third node has applied. The two form a majority without them and write on. The third one neither acknowledges what
/// contradicts them nor answers anybody, also after a restart, and says who contradicts it; its data stays. The operator
/// decides for the others' history.
pub async fn majority_goes_back(run: Arc<Run>) -> Result<Cluster, String> {
    let (is_busy, leader_goes_back) = (run.seed.is_multiple_of(2), run.seed % 4 < 2);
    let (cluster, leader, load) = written_to(&run, is_busy).await?;
    let writer = client(&cluster);
    let followers = others(&cluster.names(), &leader);
    let (back, right) = match leader_goes_back {
        true => ([leader.clone(), followers[0].clone()], followers[1].clone()),
        false => ([followers[0].clone(), followers[1].clone()], leader.clone()),
    };
    let copies = copies(&cluster, &back);
    set_in_vain(&writer).await?;
    drop(load);
    wait_until_level(&cluster, &leader).await?;
    let before = cluster.status(&right).await.ok_or_else(|| format!("{right} does not answer"))?;
    cluster.isolate(&right);
    for (name, copy) in &copies {
        cluster.kill(name);
        put_back(&cluster, name, copy);
    }
    back.iter().for_each(|name| cluster.start(name));
    cluster.wait_for_leader(&back, ELECTION_BOUND).await?;
    let two = SimClient::new(&cluster, &back, Duration::from_secs(5), true);
    set_many(&two, 10).await?;
    let (value, _) = set(&two, "since").await?;
    cluster.heal_network();

    let alone = SimClient::new(&cluster, std::slice::from_ref(&right), Duration::from_millis(800), true);
    for other in &back {
        cluster.cut(other, alone.host());
        cluster.cut(alone.host(), other);
    }
    for when in ["at once", "after a restart"] {
        let status = wait_for_quarantine(&cluster, &right, when).await?;
        let found =
            status.contradiction.ok_or_else(|| format!("{right} does not say what contradicts it"))?;
        ensure(found.index <= before.committed_index, || {
            format!("{right} had committed up to {} and is contradicted by {found:?}", before.committed_index)
        })?;
        for stale in [true, false] {
            let answer = alone.get("many/01", stale).await;
            ensure(answer == Outcome::Failed, || {
                format!("{when}, {right} is contradicted and answered a read (stale: {stale}) by {answer:?}")
            })?;
        }
        set_many(&two, 5).await?;
        cluster.kill(&right);
        if when == "at once" {
            cluster.start(&right);
        }
    }
    // The others' history is kept, by somebody who knows what is lost.
    cluster.heal_network();
    cluster.wipe(&right);
    cluster.set_outsider(&right, false);
    cluster.start(&right);
    let leader = cluster.wait_for_leader(&back, ELECTION_BOUND).await?;
    wait_for_members(&cluster, &leader, "that the wiped node is back", |members| {
        members.iter().any(|(member, id, learner)| *member == right && *id != before.node_id && !learner)
    })
    .await?;
    expect(&client(&cluster), "since", value).await?;
    Ok(cluster)
}

/// Two disks go back one after the other, each while the other nodes run and have what it lost: it gets that from them
/// again. What was acknowledged is still there, and nobody complains.
pub async fn one_by_one(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader, load) = written_to(&run, run.seed.is_multiple_of(2)).await?;
    let writer = client(&cluster);
    let copies = copies(&cluster, &cluster.names());
    set_in_vain(&writer).await?;
    drop(load);
    wait_until_level(&cluster, &leader).await?;
    for _ in 0..2 {
        // Whoever follows the leader that it acknowledged to is refused by it: the story `forgetful-follower`.
        let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
        cluster.kill(&leader);
        let next = cluster.wait_for_leader(&others(&cluster.names(), &leader), ELECTION_BOUND).await?;
        let copy = copies.iter().find(|(name, _)| *name == leader).expect("there is one of each");
        put_back(&cluster, &leader, &copy.1);
        cluster.start(&leader);
        wait_until_level(&cluster, &next).await?;
    }
    for number in 0..IN_VAIN {
        let key = format!("in-vain/{number}");
        let read = writer.get(&key, false).await;
        ensure(matches!(&read, Outcome::Ok(Answer::Read { entry: Some(_), .. })), || {
            format!("{key} was acknowledged, one node always had it, and it is {read:?}")
        })?;
    }
    for name in cluster.names() {
        let status = cluster.status(&name).await.ok_or_else(|| format!("{name} does not answer"))?;
        ensure(status.contradiction.is_none(), || format!("{name} complains: {status:?}"))?;
    }
    Ok(cluster)
}

/// All three disks go back to copies that were made while they ran. Nobody can know, and nobody complains: it is the
/// cluster that it was.
pub async fn all_go_back(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader, load) = written_to(&run, run.seed.is_multiple_of(2)).await?;
    let writer = client(&cluster);
    let copies = copies(&cluster, &cluster.names());
    set_in_vain(&writer).await?;
    drop(load);
    wait_until_level(&cluster, &leader).await?;
    cluster.names().iter().for_each(|name| cluster.kill(name));
    copies.iter().for_each(|(name, copy)| put_back(&cluster, name, copy));
    cluster.start_all();
    cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    set_many(&client(&cluster), 20).await?;
    for name in cluster.names() {
        let status = cluster.status(&name).await.ok_or_else(|| format!("{name} does not answer"))?;
        ensure(status.contradiction.is_none(), || format!("{name} complains: {status:?}"))?;
    }
    Ok(cluster)
}
