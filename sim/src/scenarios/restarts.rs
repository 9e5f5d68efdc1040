//! Kills, power losses and failed syncs: what a disk may lose, and what it must keep.

use std::sync::Arc;
use std::time::Duration;

use mokv::rt;
use mokv::rt::disk::Operation;

use super::setup::{ELECTION_BOUND, client, ensure, expect, formed, others, set, set_many, three_nodes};
use crate::clients::Workload;
use crate::cluster::{Cluster, Power};
use crate::evidence::history::Outcome;
use crate::record::Run;
use crate::world::World;

/// Every node is killed in turn, the others go on, and it comes back.
pub async fn kill_each_in_turn(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = three_nodes(&run).await?;
    let client = client(&cluster);
    for name in cluster.names() {
        let (value, _) = set(&client, "key").await?;
        cluster.kill(&name);
        let rest = others(&cluster.names(), &name);
        cluster.wait_for_leader(&rest, ELECTION_BOUND).await?;
        expect(&client, "key", value).await?;
        set_many(&client, 30).await?;
        cluster.start(&name);
        cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    }
    Ok(cluster)
}

/// All machines lose power in the middle of writes; twice, the second time while they recover.
pub async fn power_loss_of_all(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = three_nodes(&run).await?;
    let client = client(&cluster);
    let (value, _) = set(&client, "kept").await?;
    let workload = Workload::start(&cluster, &cluster.names());
    rt::sleep(Duration::from_secs(3)).await;
    for pause in [Duration::from_secs(1), Duration::from_millis(30 + run.seed * 17)] {
        cluster.names().iter().for_each(|name| cluster.power_loss(name));
        rt::sleep(Duration::from_millis(200)).await;
        cluster.start_all();
        rt::sleep(pause).await;
    }
    cluster.names().iter().for_each(|name| cluster.power_loss(name));
    cluster.start_all();
    cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    workload.stop().await;
    expect(&client, "kept", value).await?;
    Ok(cluster)
}

/// All nodes start again: as soon as two of them are back, one leads, long before a node would have missed a leader.
pub async fn all_start_at_once(run: Arc<Run>) -> Result<Cluster, String> {
    const ELECTION: Duration = Duration::from_secs(20);
    let world = World { election: ELECTION, ..World::calm(3) };
    let (cluster, _) = formed(&run, world).await?;
    let client = client(&cluster);
    let (value, _) = set(&client, "kept").await?;
    for _ in 0..3 {
        let names = cluster.names();
        names.iter().for_each(|name| cluster.power_loss(name));
        rt::sleep(Duration::from_millis(200)).await;
        names.iter().for_each(|name| {
            cluster.start(name);
        });
        cluster.wait_for_leader(&names, ELECTION / 4).await?;
        expect(&client, "kept", value).await?;
    }
    Ok(cluster)
}

/// A leader keeps its log for a node that is cut off, until that one has failed to answer, and loses power before that. It
/// purges the log when it is back, also if it reaches no other node (chaos seed 69: only a node that served did).
pub async fn purges_before_it_serves(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    let bytes = |when: &str| {
        let measured = run.with_logs(|logs| logs.measure(&leader));
        measured.map(|(_, bytes)| bytes).ok_or_else(|| format!("{leader}'s log is not known {when}"))
    };
    cluster.isolate(&others(&cluster.names(), &leader)[0]);
    for number in 0..60 {
        let (_, written) = client.set(&format!("large/{number}"), None, 50_000).await;
        ensure(matches!(written, Outcome::Ok(_)), || {
            format!("large value {number} should have been written: {written:?}")
        })?;
    }
    let before = bytes("before")?;
    ensure(before > 2_500_000, || format!("{leader} has purged its log already: {before} bytes"))?;
    cluster.power_loss(&leader);
    cluster.isolate(&leader);
    cluster.start(&leader);
    rt::sleep(Duration::from_secs(3)).await;
    // It keeps what is not covered by the older snapshot, and what it does not know to be committed.
    let kept = bytes("after")?;
    ensure(kept < before / 2, || format!("{leader} keeps {kept} of {before} bytes of its log"))?;
    Ok(cluster)
}

/// A sync fails under load: the node stops at once. Restarted without a power loss, it trusts nothing that only its
/// page cache holds.
pub async fn failed_sync(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = three_nodes(&run).await?;
    let workload = Workload::start(&cluster, &cluster.names());
    for name in cluster.names() {
        rt::sleep(Duration::from_millis(500)).await;
        cluster.fail_call(&name, Operation::Sync, 1 + run.seed % 7);
        let before = rt::now();
        while cluster.power(&name) != Power::Off {
            ensure(rt::now() - before < Duration::from_secs(10), || {
                format!("{name} goes on although a sync of its disk failed")
            })?;
            rt::sleep(Duration::from_millis(20)).await;
        }
        cluster.start(&name);
        rt::sleep(Duration::from_secs(1)).await;
        // Now the machine loses power too: what the failed sync did not make durable is lost for good.
        cluster.power_loss(&name);
        cluster.start(&name);
        cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    }
    workload.stop().await;
    Ok(cluster)
}
