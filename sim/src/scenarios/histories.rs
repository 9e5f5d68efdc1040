//! Data directories that go back in time: copies of a majority, or of all, taken while the nodes ran and put back later.
//!
//! What was acknowledged since then is gone from those disks, and nothing brings it back. So no node reports what it does
//! between the copies and its end, and of what is written meanwhile the record says that its outcome is unknown. Everything
//! after it is judged.

use std::sync::Arc;
use std::time::Duration;

use mokv::client::NodeStatus;
use mokv::node_id::NodeId;
use mokv::rt;
use mokv::rt::disk::Image;
use mokv::rt::task::{TaskGuard, spawn_guarded};

use super::identity::wait_for_members;
use super::setup::{
    ELECTION_BOUND, client, client_of, ensure, expect, others, set, set_many, three_nodes, wait_for_end,
};
use super::tampering::forget_acknowledged;
use crate::client::SimClient;
use crate::cluster::{Cluster, Power};
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

/// A node that was put back ends, and says who knows what it has lost.
async fn ends_gone_back(cluster: &Cluster, name: &str) -> Result<(), String> {
    let reason = wait_for_end(cluster, name, WITHIN).await?;
    let says = |words: &str| reason.contains(words);
    ensure(says("knows that node id") && says("acknowledged") && says("older state"), || {
        format!("{name} ends for another reason: {reason}")
    })
}

/// One of these nodes says of another one that it has gone back: whoever met it first, which then ended.
async fn refuse(cluster: &Cluster, names: &[String], refused: u64) -> Result<(), String> {
    let mut statuses = Vec::new();
    for name in names {
        statuses.push(cluster.status(name).await.ok_or_else(|| format!("{name} does not answer"))?);
    }
    let mut found = statuses.iter().flat_map(|status| &status.gone_back);
    ensure(found.any(|found| found.node_id == refused), || {
        format!("one should say that node id {} has gone back: {statuses:?}", NodeId(refused))
    })
}

/// Starts a node with an empty disk, and waits until it is a voter again.
async fn comes_back_wiped(
    cluster: &Cluster,
    name: &str,
    old_id: u64,
    others: &[String],
) -> Result<(), String> {
    cluster.wipe(name);
    cluster.set_outsider(name, false);
    cluster.start(name);
    let leader = cluster.wait_for_leader(others, ELECTION_BOUND).await?;
    wait_for_members(cluster, &leader, "that the wiped node is back", |members| {
        members.iter().any(|(member, id, learner)| member == name && *id != old_id && !learner)
    })
    .await
}

/// All that was written in vain is still there.
async fn nothing_was_in_vain(client: &SimClient) -> Result<(), String> {
    for number in 0..IN_VAIN {
        let key = format!("in-vain/{number}");
        let read = client.get(&key, false).await;
        ensure(matches!(&read, Outcome::Ok(Answer::Read { entry: Some(_), .. })), || {
            format!("{key} was acknowledged, a majority always had it, and it is {read:?}")
        })?;
    }
    Ok(())
}

/// Three nodes of which two were put back to copies that were made while they ran, at once; since
/// then writes were acknowledged, which the third node has applied. It is cut off, and meanwhile the two form a
/// majority without those writes, write on, and start again, so that their votes are of later terms.
struct Majority {
    cluster: Cluster,
    back: [String; 2],
    right: String,
    /// What the third node said of itself.
    before: NodeStatus,
    /// A client of the two.
    two: SimClient,
    /// Written by the two.
    since: u64,
}

impl Majority {
    async fn that_goes_back(run: Arc<Run>, third_forgets: bool) -> Result<Majority, String> {
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
        // The last acknowledgements are told with the next heartbeat.
        rt::sleep(Duration::from_secs(1)).await;
        let before = cluster.status(&right).await.ok_or_else(|| format!("{right} does not answer"))?;
        back.iter().for_each(|name| cluster.kill(name));
        if third_forgets {
            cluster.kill(&right);
            forget_acknowledged(&cluster, &before).await?;
            cluster.start(&right);
        }
        cluster.isolate(&right);
        for (name, copy) in &copies {
            put_back(&cluster, name, copy);
        }
        back.iter().for_each(|name| cluster.start(name));
        cluster.wait_for_leader(&back, ELECTION_BOUND).await?;
        let two = SimClient::new(&cluster, &back, Duration::from_secs(5), true);
        set_many(&two, 10).await?;
        for name in &back {
            cluster.kill(name);
            cluster.start(name);
            cluster.wait_for_leader(&back, ELECTION_BOUND).await?;
        }
        let (since, _) = set(&two, "since").await?;
        Ok(Majority { cluster, back, right, before, two, since })
    }

    /// The others' history is kept, by somebody who knows what is lost. The third node is off.
    async fn keeps_the_others_history(self) -> Result<Cluster, String> {
        let Majority { cluster, back, right, before, since, .. } = self;
        comes_back_wiped(&cluster, &right, before.node_id, &back).await?;
        expect(&client(&cluster), "since", since).await?;
        Ok(cluster)
    }
}

/// Two of three disks go back to older copies, while the third node, which knows what they had acknowledged, is away. When
/// it returns it refuses both, though they have started and voted since: they end and say why, and what they had acknowledged
/// is still there. Nobody is told to wipe anything before a person has decided; here for the others' history.
pub async fn majority_goes_back(run: Arc<Run>) -> Result<Cluster, String> {
    let majority = Majority::that_goes_back(run, false).await?;
    let Majority { cluster, back, right, before, .. } = &majority;
    let mut ids = Vec::new();
    for name in back {
        ids.push(status_of(cluster, name).await?.node_id);
        cluster.excuse(name, "its disk was put back to an older copy");
    }
    cluster.heal_network();
    for name in back {
        ends_gone_back(cluster, name).await?;
    }
    for id in ids {
        refuse(cluster, std::slice::from_ref(right), id).await?;
    }
    let status = status_of(cluster, right).await?;
    ensure(status.contradiction.is_none() && status.applied_index >= before.applied_index, || {
        format!("{right} had applied up to {} and is {status:?}", before.applied_index)
    })?;
    cluster.kill(right);
    back.iter().for_each(|name| cluster.start(name));
    majority.keeps_the_others_history().await
}

/// The same, and the third node has forgotten what the two had acknowledged: the log of their leader contradicts what it
/// knows to be committed. It neither acknowledges that nor answers anybody, also after a restart, and says who contradicts it;
/// its data stays. The operator decides for the others' history.
pub async fn majority_goes_back_unknown(run: Arc<Run>) -> Result<Cluster, String> {
    let majority = Majority::that_goes_back(run, true).await?;
    let Majority { cluster, back, right, before, two, .. } = &majority;
    cluster.heal_network();
    let alone = SimClient::new(cluster, std::slice::from_ref(right), Duration::from_millis(800), true);
    for other in back {
        cluster.cut(other, alone.host());
        cluster.cut(alone.host(), other);
    }
    for when in ["at once", "after a restart"] {
        let status = wait_for_quarantine(cluster, right, when).await?;
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
        set_many(two, 5).await?;
        cluster.kill(right);
        if when == "at once" {
            cluster.start(right);
        }
    }
    cluster.heal_network();
    majority.keeps_the_others_history().await
}

async fn status_of(cluster: &Cluster, name: &str) -> Result<NodeStatus, String> {
    let status = match cluster.status(name).await {
        Some(status) => Some(status),
        None => cluster.last_status(name),
    };
    status.ok_or_else(|| format!("{name} never answered"))
}

/// Two disks go back one after the other, each while the others run and have what it lost: they know that it has gone back
/// and refuse it, though it would get everything from them again. It ends, is wiped as it says, and is a voter again before the
/// second one goes back. What was acknowledged is still there.
pub async fn one_by_one(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader, load) = written_to(&run, run.seed.is_multiple_of(2)).await?;
    let writer = client(&cluster);
    let copies = copies(&cluster, &cluster.names());
    set_in_vain(&writer).await?;
    drop(load);
    wait_until_level(&cluster, &leader).await?;
    for name in [leader.clone(), others(&cluster.names(), &leader).remove(0)] {
        let before = status_of(&cluster, &name).await?;
        let rest = others(&cluster.names(), &name);
        cluster.kill(&name);
        cluster.wait_for_leader(&rest, ELECTION_BOUND).await?;
        let copy = copies.iter().find(|(copied, _)| *copied == name).expect("there is one of each");
        put_back(&cluster, &name, &copy.1);
        cluster.excuse(&name, "its disk was put back to an older copy");
        cluster.start(&name);
        ends_gone_back(&cluster, &name).await?;
        refuse(&cluster, &rest, before.node_id).await?;
        comes_back_wiped(&cluster, &name, before.node_id, &rest).await?;
    }
    nothing_was_in_vain(&writer).await?;
    Ok(cluster)
}

/// One disk goes back to a copy of its node's present life, the leader's or a follower's, after all other nodes have started
/// again; they are away when it comes up. Nothing that its peers know of its starts tells it from one that merely restarted: only
/// what it had acknowledged. It is refused as soon as they return, and again after it has started once more.
pub async fn within_a_life(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader, load) = written_to(&run, run.seed.is_multiple_of(2)).await?;
    let writer = client(&cluster);
    let follower = others(&cluster.names(), &leader).remove(0);
    let name = if run.seed % 4 < 2 { leader.clone() } else { follower };
    let rest = others(&cluster.names(), &name);
    let copies = copies(&cluster, std::slice::from_ref(&name));
    set_in_vain(&writer).await?;
    drop(load);
    wait_until_level(&cluster, &leader).await?;
    // What the others know becomes durable with what they write next.
    set_in_vain(&writer).await?;
    wait_until_level(&cluster, &leader).await?;
    rt::sleep(Duration::from_secs(1)).await;
    let before = status_of(&cluster, &name).await?;
    cluster.names().iter().for_each(|name| cluster.kill(name));
    put_back(&cluster, &name, &copies[0].1);
    cluster.start(&name);
    rt::sleep(Duration::from_secs(3)).await;
    ensure(cluster.power(&name) == Power::On, || format!("{name} ends though nobody has told it anything"))?;
    rest.iter().for_each(|name| cluster.start(name));
    for again in [true, true, false] {
        cluster.excuse(&name, "its disk was put back to an older copy");
        ends_gone_back(&cluster, &name).await?;
        if again {
            cluster.start(&name);
        }
    }
    cluster.wait_for_leader(&rest, ELECTION_BOUND).await?;
    refuse(&cluster, &rest, before.node_id).await?;
    comes_back_wiped(&cluster, &name, before.node_id, &rest).await?;
    nothing_was_in_vain(&writer).await?;
    Ok(cluster)
}

/// Nobody is refused who has not gone back: nodes are killed, lose power with writes that were not synced, have entries that a
/// later leader makes them truncate and start again after that, and are replaced.
pub async fn nobody_has_gone_back(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let writer = client(&cluster);
    set_many(&writer, 30).await?;
    // Entries that nobody else has, and that the next leader's take the place of.
    let rest = others(&cluster.names(), &leader);
    let alone = SimClient::new(&cluster, std::slice::from_ref(&leader), Duration::from_secs(1), false);
    cluster.isolate(&leader);
    for number in 0..5 {
        alone.set(&format!("overruled/{number}"), None, 16).await;
    }
    cluster.wait_for_leader(&rest, ELECTION_BOUND).await?;
    set_many(&client_of(&cluster, &rest[0]), 5).await?;
    cluster.heal_network();
    let next = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    wait_until_level(&cluster, &next).await?;
    for round in 0..3 {
        let _load = busy(&cluster);
        for name in cluster.names() {
            rt::sleep(Duration::from_millis(300)).await;
            match round {
                0 => cluster.kill(&name),
                _ => cluster.power_loss(&name),
            }
            if round < 2 {
                cluster.start(&name);
                cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
            }
        }
        cluster
            .names()
            .iter()
            .filter(|name| cluster.power(name) == Power::Off)
            .for_each(|name| cluster.start(name));
        cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    }
    let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    let name = others(&cluster.names(), &leader).remove(0);
    let before = status_of(&cluster, &name).await?;
    cluster.kill(&name);
    comes_back_wiped(&cluster, &name, before.node_id, &others(&cluster.names(), &name)).await?;
    set_many(&writer, 10).await?;
    for name in cluster.names() {
        let status = status_of(&cluster, &name).await?;
        ensure(status.gone_back.is_empty() && status.contradiction.is_none(), || {
            format!("{name} complains: {status:?}")
        })?;
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
        ensure(status.gone_back.is_empty() && status.contradiction.is_none(), || {
            format!("{name} complains: {status:?}")
        })?;
    }
    Ok(cluster)
}
