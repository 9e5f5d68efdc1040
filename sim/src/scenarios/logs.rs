//! The log and what depends on it: votes across segments, followers that lost entries, a Raft that stopped.

use std::sync::Arc;

use mokv::rt::disk::{DiskCall, Fault, Operation};

use super::identity::wait_for_members;
use super::setup::{
    ELECTION_BOUND, client, ensure, formed, others, set, set_many, three_nodes, wait_for_end,
};
use crate::cluster::tampering::{rewrite_log, saved_term};
use crate::cluster::{Cluster, Power, RPC_PORT};
use crate::record::Run;
use crate::world::World;

/// The number of rounds: power fails at the first change of the disk from a segment's renaming on, then at the second,
/// and so on.
const STEPS: u64 = 12;
/// Bytes of a value; a few such writes fill a segment.
const LARGE: usize = 30_000;

/// Two of three nodes elect a leader, so each of them has answered with its vote; then one rolls to a new segment and
/// loses power some step later. It must come back with its vote, or it could vote twice in that term.
pub async fn votes_across_segments(run: Arc<Run>) -> Result<Cluster, String> {
    // No snapshot is taken meanwhile: only the roll changes the disk.
    let (cluster, _) =
        formed(&run, World { snapshot_log_bytes: 1 << 30..=1 << 30, ..World::calm(3) }).await?;
    let client = client(&cluster);
    let names = cluster.names();
    for step in 1..=STEPS {
        let leader = cluster.wait_for_leader(&names, ELECTION_BOUND).await?;
        cluster.kill(&leader);
        let voters = others(&names, &leader);
        cluster.wait_for_leader(&voters, ELECTION_BOUND).await?;
        let voter = &voters[(step % 2) as usize];
        let status = cluster.status(voter).await.ok_or_else(|| format!("{voter} does not answer"))?;
        let mut rolled = None;
        let power_losses = cluster.disk(voter).counts().power_losses;
        let hook = move |call: &DiskCall| {
            if rolled.is_none() && call.operation == Operation::Rename && call.name.ends_with(".wal") {
                rolled = Some(0);
            }
            match &mut rolled {
                Some(steps) if call.operation.changes() => {
                    *steps += 1;
                    if *steps == step { Fault::PowerLossBefore } else { Fault::None }
                }
                _ => Fault::None,
            }
        };
        cluster.disk(voter).on_call(Some(Box::new(hook)));
        cluster.excuse(voter, "its power failed in the middle of a call");
        for number in 0..60 {
            if cluster.disk(voter).counts().power_losses > power_losses {
                break;
            }
            // Once the voter is down nothing can be committed.
            client.set(&format!("filling/{}", number % 5), None, LARGE).await;
        }
        ensure(cluster.disk(voter).counts().power_losses > power_losses, || {
            format!("{voter}'s log rolled to no new segment within 60 large writes")
        })?;
        cluster.mend_disk(voter);
        cluster.power_loss(voter);
        run.marker("power lost while a segment was rolled");
        let term = saved_term(&cluster, &status).await?;
        ensure(term >= status.term, || {
            format!("{voter} voted in term {} and its log says term {term}", status.term)
        })?;
        cluster.start(voter);
        cluster.start(&leader);
    }
    Ok(cluster)
}

/// A follower's disk loses the end of its log, which the follower had acknowledged, and nothing else: the log looks
/// complete and is not. The follower is refused until it is wiped.
pub async fn forgetful_follower(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 60).await?;
    let name = others(&cluster.names(), &leader).remove(0);
    let before = cluster.status(&name).await.ok_or_else(|| format!("{name} does not answer"))?;
    cluster.kill(&name);
    rewrite_log(&cluster, &before, |entries| entries.truncate(entries.len() - 20)).await?;
    run.fault("forgotten entries", format!("{name}'s disk has lost the last 20 entries"));
    cluster.excuse(&name, "its log has lost its end");
    cluster.start(&name);
    let reason = wait_for_end(&cluster, &name, ELECTION_BOUND).await?;
    ensure(reason.contains("acknowledged") && reason.contains("--wipe"), || {
        format!("{name} ends for another reason: {reason}")
    })?;
    set_many(&client, 20).await?;
    let still = cluster.wait_for_leader(&others(&cluster.names(), &name), ELECTION_BOUND).await?;
    ensure(still == leader, || format!("{still} took over although nothing ailed {leader}"))?;
    cluster.wipe(&name);
    cluster.start(&name);
    wait_for_members(&cluster, &leader, "that the wiped node is back", |members| {
        members.iter().any(|(member, id, learner)| *member == name && *id != before.node_id && !learner)
    })
    .await?;
    Ok(cluster)
}

/// Writing a snapshot fails half-way, which stops Raft: the node exits with it, instead of serving without Raft. Once
/// for a follower and once for the leader.
pub async fn dead_raft(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    for name in [others(&cluster.names(), &leader).remove(0), leader] {
        set_many(&client, 30).await?;
        // The first write succeeds: if even that failed, the snapshot would be postponed, and Raft would go on.
        let hook = |call: &DiskCall| match call.operation {
            Operation::Write if call.name.contains("snap") && call.offset > 0 => Fault::Error,
            _ => Fault::None,
        };
        cluster.disk(&name).on_call(Some(Box::new(hook)));
        cluster.excuse(&name, "writing a snapshot failed");
        run.fault("failed snapshot", format!("no snapshot can be written to {name}'s disk"));
        let address = format!("{name}.sim:{RPC_PORT}");
        cluster.operate("snapshot", |library| async move { library.snapshot(&address).await }).await;
        let reason = wait_for_end(&cluster, &name, ELECTION_BOUND).await?;
        ensure(reason.contains("its Raft did"), || {
            format!("{name} does not say that its Raft died: {reason}")
        })?;
        cluster.mend_disk(&name);
        set(&client, "without it").await?;
        cluster.start(&name);
        cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
        ensure(cluster.power(&name) == Power::On, || {
            format!("{name} did not survive its snapshot's failure")
        })?;
    }
    Ok(cluster)
}
