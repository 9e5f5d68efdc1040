//! Data directories that go back in time: copies of a majority, or of all, made while the nodes ran and restored later.
//!
//! Entries acknowledged after the copies are gone from those disks for good. So what nodes do between the copies and
//! their kill is not recorded, and writes of that time are recorded with an unknown outcome. Everything afterwards is
//! checked.

use std::sync::Arc;
use std::time::Duration;

use mokv::client::{NodeStatus, Role};
use mokv::node_id::NodeId;
use mokv::rt;
use mokv::rt::disk::Image;
use mokv::rt::task::{TaskGuard, spawn_guarded};

use super::identity::wait_for_members;
use super::setup::{
    ELECTION_BOUND, client, client_of, ensure, expect, others, set, set_many, three_nodes, wait_for_end,
};
use crate::clients::SimClient;
use crate::cluster::tampering::forget_acknowledged;
use crate::cluster::{Cluster, Power};
use crate::evidence::history::{Answer, Outcome};
use crate::record::Run;

/// Writes that are acknowledged and then lost.
const IN_VAIN: u32 = 25;
/// Longest time until an effect shows at a node.
const WITHIN: Duration = Duration::from_secs(20);

/// Three nodes with some entries. Returns the cluster, the leader's name, and, if `is_busy`, a client that writes
/// without pause.
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

/// Makes writes that are about to be lost; all must succeed.
async fn set_in_vain(client: &SimClient) -> Result<(), String> {
    for number in 0..IN_VAIN {
        let written = client.set_in_vain(&format!("in-vain/{number}"), 16).await;
        written.map_err(|error| format!("an ordinary write fails: {error}"))?;
    }
    Ok(())
}

/// A client that writes without pause until the guard is dropped.
fn busy(cluster: &Cluster) -> TaskGuard<()> {
    let client = client(cluster);
    spawn_guarded(async move {
        for number in 0.. {
            // Nodes are killed meanwhile, so the outcome means nothing.
            let _ = client.set_in_vain(&format!("busy/{number}"), 16).await;
        }
    })
}

/// Waits until all nodes have applied what the leader has applied.
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

/// Restores a node's disk from a copy. From its next start on the node is recorded again.
fn put_back(cluster: &Cluster, name: &str, copy: &Image) {
    cluster.disk(name).restore(copy);
    cluster.tampered(name);
    cluster.set_outsider(name, false);
    cluster
        .run()
        .fault("rolled-back disk", format!("a copy of {name}'s disk is put back that was made while it ran"));
}

/// Copies disks whose nodes run.
fn copies(cluster: &Cluster, names: &[String]) -> Vec<(String, Image)> {
    cluster.off_the_record();
    names.iter().map(|name| (name.clone(), cluster.disk(name).image())).collect()
}

async fn wait_for_quarantine(cluster: &Cluster, name: &str, when: &str) -> Result<NodeStatus, String> {
    let before = rt::now();
    loop {
        let status = cluster.status(name).await;
        if let Some(status) = status.as_ref().filter(|status| status.role == Role::Quarantined) {
            return Ok(status.clone());
        }
        ensure(rt::now() - before < WITHIN, || {
            format!("{when}, {name} should be in quarantine, for its log is contradicted, and is {status:?}")
        })?;
        rt::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until a restored node exits and reports which peer has the position that it has lost.
async fn ends_gone_back(cluster: &Cluster, name: &str) -> Result<(), String> {
    let reason = wait_for_end(cluster, name, WITHIN).await?;
    let says = |words: &str| reason.contains(words);
    ensure(says("knows that node id") && says("acknowledged") && says("older state"), || {
        format!("{name} ends for another reason: {reason}")
    })
}

/// Checks that one of these nodes reports another one as gone back: the one that met it first, after which it exited.
async fn refuse(cluster: &Cluster, names: &[String], refused: NodeId) -> Result<(), String> {
    let mut statuses = Vec::new();
    for name in names {
        statuses.push(cluster.status(name).await.ok_or_else(|| format!("{name} does not answer"))?);
    }
    let mut found = statuses.iter().flat_map(|status| &status.gone_back);
    ensure(found.any(|found| found.node.node_id == refused), || {
        format!("one should say that node id {} has gone back: {statuses:?}", refused)
    })
}

/// Starts a node with an empty disk, and waits until it votes again.
async fn comes_back_wiped(
    cluster: &Cluster,
    name: &str,
    old_id: NodeId,
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

/// Checks that all writes made by [`set_in_vain`] are still there.
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

/// Three nodes, of which two were restored at once from copies made while they ran. After the copies, writes were
/// acknowledged, which the third node has applied. While it is cut off, the two form a majority without those writes,
/// write on, and restart, so that their votes are of later terms.
struct Majority {
    cluster: Cluster,
    back: [String; 2],
    right: String,
    /// The third node's status before the restore.
    before: NodeStatus,
    /// A client that knows the two only.
    two: SimClient,
    /// A value that the two have committed since.
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
        // The next heartbeat carries the last acknowledged positions.
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

    /// An operator who knows what is lost keeps the others' history. The third node is off.
    async fn keeps_the_others_history(self) -> Result<Cluster, String> {
        let Majority { cluster, back, right, before, since, .. } = self;
        comes_back_wiped(&cluster, &right, before.node_id, &back).await?;
        expect(&client(&cluster), "since", since).await?;
        Ok(cluster)
    }
}

/// Two of three disks go back to older copies, while the third node, which has their acknowledged positions, is cut
/// off. When it returns it refuses both, though they have restarted and voted since: they exit and report why, and the
/// writes that they had acknowledged are still there. No message asks for a wipe before an operator has decided; here
/// for the others' history.
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

/// The same, but the third node has lost the acknowledged positions: the log of the two nodes' leader contradicts what
/// it has committed. It neither acknowledges that log nor answers a request, also after a restart, and reports which
/// node contradicts it; its data stays. The operator decides for the others' history.
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

/// Two disks go back one after the other, each while the others run and have what it lost: they have its acknowledged
/// position and refuse it, though it would get everything from them again. It exits, is wiped as its message asks, and
/// votes again before the second one goes back. Acknowledged writes are still there.
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

/// One disk, the leader's or a follower's, goes back to a copy from its node's present incarnation; all other nodes
/// restart, and are down when it comes up. Its boot history then shows a plain restart; only its acknowledged position
/// reveals the rollback. It is refused as soon as the others return, and again after each further start.
pub async fn within_an_incarnation(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader, load) = written_to(&run, run.seed.is_multiple_of(2)).await?;
    let writer = client(&cluster);
    let follower = others(&cluster.names(), &leader).remove(0);
    let name = if run.seed % 4 < 2 { leader.clone() } else { follower };
    let rest = others(&cluster.names(), &name);
    let copies = copies(&cluster, std::slice::from_ref(&name));
    set_in_vain(&writer).await?;
    drop(load);
    wait_until_level(&cluster, &leader).await?;
    // The positions that the others have received become durable with their next write.
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

/// No node is refused that has not gone back: nodes are killed, lose power with unsynced writes, have entries truncated
/// by a later leader and restart after that, and are replaced.
pub async fn nobody_has_gone_back(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let writer = client(&cluster);
    set_many(&writer, 30).await?;
    // Entries that no other node has, and that the next leader's entries replace.
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

/// All three disks go back to copies made while they ran. No node can detect it, and none reports anything: the cluster
/// goes on from that state.
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
