//! Nodes whose state differs from the majority's: they answer no reads, lead only where no other node can, and are
//! healed by a wipe.

use std::sync::Arc;
use std::time::Duration;

use mokv::client::{NodeStatus, Role};
use mokv::map::Command;
use mokv::rt;
use mokv::rt::task::spawn_guarded;

use super::identity::wait_for_members;
use super::replicated::tamper;
use super::setup::{ELECTION_BOUND, client, client_of, ensure, expect, others, set, set_many, three_nodes};
use crate::clients::SimClient;
use crate::cluster::Cluster;
use crate::evidence::history::Outcome;
use crate::evidence::values;
use crate::record::Run;

/// Longest time until a node has caught up, and until digests are compared.
const WITHIN: Duration = Duration::from_secs(20);
/// More log entries than the distance of two recorded digests.
const PAST_A_DIGEST: u64 = 300;

/// Alters a write on a node's disk while it is down and starts it again: its state now differs from the cluster's, and
/// the checkers ignore it.
async fn corrupt_state(
    run: &Arc<Run>,
    cluster: &Cluster,
    writer: &SimClient,
    name: &str,
) -> Result<(), String> {
    // This key is not written again: the difference stays.
    set(writer, &format!("witness/{name}")).await?;
    wait_for_all(cluster, name).await?;
    let status = cluster.status(name).await.ok_or_else(|| format!("{name} does not answer"))?;
    cluster.kill(name);
    let value = values::encode(run.next_value(), 32);
    let index = tamper(cluster, &status, |command| match command {
        Command::Set(write) => Command::Set(mokv_proto::log::Set { value, ..write }).encode(),
        other => other.encode(),
    })
    .await?;
    run.fault("corrupted state", format!("{name} believes that log index {index} wrote another value"));
    cluster.set_outsider(name, true);
    cluster.start(name);
    Ok(())
}

/// Waits until a node has all entries of its leader.
async fn wait_for_all(cluster: &Cluster, name: &str) -> Result<(), String> {
    let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    let newest = cluster.status(&leader).await.map_or(0, |status| status.last_log_index);
    wait_for_status(cluster, name, "catch up", |status| status.last_log_index >= newest).await
}

/// Waits until a node's status satisfies the condition.
pub async fn wait_for_status(
    cluster: &Cluster,
    name: &str,
    what: &str,
    holds: impl Fn(&NodeStatus) -> bool,
) -> Result<(), String> {
    let before = rt::now();
    loop {
        let status = cluster.status(name).await;
        if status.as_ref().is_some_and(&holds) {
            return Ok(());
        }
        ensure(rt::now() - before < WITHIN, || format!("{name} should {what} and is {status:?}"))?;
        rt::sleep(Duration::from_millis(100)).await;
    }
}

/// Wipes a node whose state was corrupted, as its message asks, and waits until it votes again.
pub async fn heal(cluster: &Cluster, leader: &str, name: &str) -> Result<(), String> {
    let old = cluster.status(name).await.map(|status| status.node_id);
    cluster.kill(name);
    cluster.wipe(name);
    cluster.set_outsider(name, false);
    cluster.start(name);
    wait_for_members(cluster, leader, "that the wiped node is back", |members| {
        members.iter().any(|(member, id, learner)| member == name && Some(*id) != old && !learner)
    })
    .await
}

/// One node's state differs from the majority's: it is quarantined, durably. It answers no reads and does not lead, and
/// a wipe heals it.
pub async fn outvoted(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, writer, leader, name) = one_outvoted(&run).await?;
    let alone = SimClient::new(&cluster, std::slice::from_ref(&name), Duration::from_millis(800), true);
    for other in others(&cluster.names(), &name) {
        cluster.cut(&other, alone.host());
        cluster.cut(alone.host(), &other);
    }
    let refuses = async |when: &str| {
        for stale in [true, false] {
            let answer = alone.get("many/01", stale).await;
            ensure(answer == Outcome::Failed, || {
                format!("{when}, {name} was outvoted and answered a read (stale: {stale}) by {answer:?}")
            })?;
        }
        Ok::<(), String>(())
    };
    refuses("at once").await?;
    cluster.kill(&name);
    cluster.start(&name);
    wait_for_status(&cluster, &name, "be quarantined after a restart", is_quarantined).await?;
    refuses("after a restart").await?;
    // Without the leader the other healthy node leads; the outvoted one only votes.
    cluster.kill(&leader);
    let sound = others(&others(&cluster.names(), &leader), &name);
    let new = cluster.wait_for_leader(&[sound[0].clone(), name.clone()], ELECTION_BOUND).await?;
    ensure(new == sound[0], || format!("{new} leads although its state was outvoted"))?;
    cluster.start(&leader);
    heal(&cluster, &new, &name).await?;
    let (value, _) = set(&writer, "healed").await?;
    expect(&client_of(&cluster, &name), "healed", value).await?;
    Ok(cluster)
}

/// All three states differ, so no node can tell whose is right: every node raises the alarm, and none is stopped.
pub async fn no_majority(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let writer = client(&cluster);
    set_many(&writer, 30).await?;
    let corrupted = others(&cluster.names(), &leader);
    for name in &corrupted {
        corrupt_state(&run, &cluster, &writer, name).await?;
        cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    }
    // Checkers check writes by the answers to clients; linearizable reads and lists would show that no state is right.
    set_many(&writer, PAST_A_DIGEST).await?;
    for name in cluster.names() {
        wait_for_status(&cluster, &name, "raise the alarm", |status| {
            status.digest_alarm && status.role != Role::Quarantined
        })
        .await?;
    }
    let before = rt::now();
    for name in &corrupted {
        // The operator knows whose state is right, and transfers leadership there, so that the others get their state
        // from it.
        while cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await? != leader {
            ensure(rt::now() - before < ELECTION_BOUND * 4, || format!("{leader} was not made to lead"))?;
            let to = leader.clone();
            cluster
                .operate("transfer", |library| async move { library.transfer_leader(Some(&to)).await })
                .await;
        }
        heal(&cluster, &leader, name).await?;
    }
    Ok(cluster)
}

/// Three nodes, of which a follower is quarantined: a client, the leader, and that follower.
async fn one_outvoted(run: &Arc<Run>) -> Result<(Cluster, SimClient, String, String), String> {
    let (cluster, leader) = three_nodes(run).await?;
    let writer = client(&cluster);
    set_many(&writer, 30).await?;
    let name = others(&cluster.names(), &leader).remove(0);
    corrupt_state(run, &cluster, &writer, &name).await?;
    set_many(&writer, PAST_A_DIGEST).await?;
    wait_for_status(&cluster, &name, "be quarantined", is_quarantined).await?;
    let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    Ok((cluster, writer, leader, name))
}

/// Whether the node is in quarantine.
pub fn is_quarantined(status: &NodeStatus) -> bool {
    status.role == Role::Quarantined
}

/// Leadership is transferred again and again, by command and by stops, while one of three nodes is quarantined: it is
/// named as the target, it is the only other node up, it is restarted. Once such a node did lead, and acknowledged
/// writes got revisions that no other node had.
pub async fn outvoted_and_asked_to_lead(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, writer, mut leader, doubted) = one_outvoted(&run).await?;
    let sound = others(&cluster.names(), &doubted);
    for round in 0..3 {
        for to in [Some(doubted.clone()), None] {
            let asks = to.clone();
            let done = cluster
                .operate("transfer", |library| async move { library.transfer_leader(asks.as_deref()).await })
                .await;
            ensure(!(done && to.is_some()), || {
                format!("leadership was handed to {doubted}, which is outvoted")
            })?;
            leader = cluster.wait_for_leader(&sound, ELECTION_BOUND).await?;
            set(&writer, &format!("round {round}")).await?;
        }
        // With the other healthy node paused only the quarantined one answers: stopping the leader must not make it
        // lead.
        let other = others(&sound, &leader).remove(0);
        cluster.pause(&other);
        rt::sleep(Duration::from_secs(round)).await;
        cluster.stop(&leader).await;
        rt::sleep(Duration::from_secs(2)).await;
        cluster.resume(&other);
        let new = cluster.wait_for_leader(&[other.clone(), doubted.clone()], ELECTION_BOUND).await?;
        ensure(new == other, || format!("{new} leads although its state was outvoted"))?;
        set(&writer, &format!("beside a doubted one, round {round}")).await?;
        cluster.start(&leader);
        cluster.kill(&doubted);
        cluster.start(&doubted);
        wait_for_status(&cluster, &doubted, "be quarantined after a restart", is_quarantined).await?;
        leader = cluster.wait_for_leader(&sound, ELECTION_BOUND).await?;
    }
    heal(&cluster, &leader, &doubted).await?;
    let (value, _) = set(&writer, "healed").await?;
    expect(&client_of(&cluster, &doubted), "healed", value).await?;
    Ok(cluster)
}

/// The last committed entries are in the logs of two of three nodes: one is quarantined, and the other one's disk is
/// lost. The third lags. A majority of logs exists, but only the quarantined node can be elected: it leads until the
/// third has everything, and then the third leads and serves.
pub async fn only_a_doubted_log_has_it(run: Arc<Run>) -> Result<Cluster, String> {
    /// Longest time until the quarantined node stands for election, and the other one has all its entries and leads.
    const SERVICE_BOUND: Duration = Duration::from_secs(60);
    let (cluster, writer, leader, doubted) = one_outvoted(&run).await?;
    let laggard = others(&others(&cluster.names(), &leader), &doubted).remove(0);
    cluster.kill(&laggard);
    let (value, _) = set(&writer, "on two of three").await?;
    set_many(&writer, 20).await?;
    // The quarantined node's log has all of it, committed or not.
    let newest = cluster.status(&leader).await.map_or(0, |status| status.last_log_index);
    wait_for_status(&cluster, &doubted, "hold it", |status| status.last_log_index >= newest).await?;
    let lost = cluster.status(&leader).await.map(|status| status.node_id);
    cluster.kill(&leader);
    cluster.wipe(&leader);
    cluster.start(&laggard);
    // A client that writes all the while, at the node that is about to lead.
    let writes = client_of(&cluster, &laggard);
    let writing = spawn_guarded(async move {
        for number in 0.. {
            writes.set(&format!("meanwhile/{number}"), None, 16).await;
        }
    });
    let began = rt::now();
    while cluster.wait_for_leader(&[laggard.clone(), doubted.clone()], ELECTION_BOUND).await.as_ref()
        != Ok(&laggard)
    {
        ensure(rt::now() - began < SERVICE_BOUND, || {
            format!("{laggard} does not lead within {SERVICE_BOUND:?}")
        })?;
    }
    drop(writing);
    expect(&client_of(&cluster, &laggard), "on two of three", value).await?;
    set(&writer, "service goes on").await?;
    cluster.start(&leader);
    let healed = leader;
    wait_for_members(&cluster, &laggard, "that the lost disk's node is back", |members| {
        members.iter().any(|(member, id, learner)| *member == healed && Some(*id) != lost && !learner)
    })
    .await?;
    heal(&cluster, &laggard, &doubted).await?;
    Ok(cluster)
}
