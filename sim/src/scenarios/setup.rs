//! The setup that most scenarios share, and short helpers for their checks.

use std::sync::Arc;
use std::time::Duration;

use mokv::rt;

use crate::clients::SimClient;
use crate::cluster::Cluster;
use crate::evidence::history::{Answer, Outcome};
use crate::phases::set_up;
use crate::record::Run;
use crate::world::World;

/// Longest time until a cluster has elected a leader.
pub const ELECTION_BOUND: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(5);

/// Three nodes with a leader. Returns the leader's name as well.
pub async fn three_nodes(run: &Arc<Run>) -> Result<(Cluster, String), String> {
    formed(run, World::calm(3)).await
}

/// The cluster of a world with a leader. Returns the leader's name as well.
pub async fn formed(run: &Arc<Run>, world: World) -> Result<(Cluster, String), String> {
    formed_within(run, &world, ELECTION_BOUND).await
}

/// Like [`formed`], for a cluster that may take this long to form.
pub async fn formed_within(
    run: &Arc<Run>,
    world: &World,
    within: Duration,
) -> Result<(Cluster, String), String> {
    run.set_world(world.to_string());
    let cluster = set_up(run, world);
    cluster.start_all();
    let leader = cluster.wait_for_leader(&cluster.names(), within).await?;
    Ok((cluster, leader))
}

/// A client with a long timeout that knows all nodes.
pub fn client(cluster: &Cluster) -> SimClient {
    SimClient::new(cluster, &cluster.names(), PATIENCE, true)
}

/// A client that at first knows one node only.
pub fn client_of(cluster: &Cluster, node: &str) -> SimClient {
    SimClient::new(cluster, &[node.to_owned()], PATIENCE, true)
}

/// Writes a new value, which must succeed. Returns the value and the revision.
pub async fn set(client: &SimClient, key: &str) -> Result<(u64, u64), String> {
    let (value, outcome) = client.set(key, None, 32).await;
    match outcome {
        Outcome::Ok(Answer::Written { revision }) => Ok((value, revision)),
        other => Err(format!("the write of {key} should have succeeded and was {other:?}")),
    }
}

/// Writes this many values over a few keys, all of which must succeed.
pub async fn set_many(client: &SimClient, count: u64) -> Result<(), String> {
    for number in 0..count {
        set(client, &format!("many/{:02}", number % 20)).await?;
    }
    Ok(())
}

/// Writes this many values or a few more, each of 16 writers to a key of its own.
pub async fn write_by_many(client: &SimClient, count: u64) -> Result<(), String> {
    const WRITERS: u64 = 16;
    let writing: Vec<_> = (0..WRITERS)
        .map(|number| {
            let client = client.clone();
            rt::spawn(async move {
                for _ in 0..count.div_ceil(WRITERS) {
                    set(&client, &format!("writer/{number:02}")).await?;
                }
                Ok::<_, String>(())
            })
        })
        .collect();
    for writer in writing {
        writer.await.expect("writers do not panic")?;
    }
    Ok(())
}

/// Reads a key, which must hold the value.
pub async fn expect(client: &SimClient, key: &str, value: u64) -> Result<(), String> {
    match client.get(key, false).await {
        Outcome::Ok(Answer::Read { entry: Some(entry), .. }) if entry.value == value => Ok(()),
        other => Err(format!("{key} should hold v{value}, the read was {other:?}")),
    }
}

/// Returns `otherwise` as the error unless the condition holds.
pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// All names but one.
pub fn others(names: &[String], but: &str) -> Vec<String> {
    names.iter().filter(|name| *name != but).cloned().collect()
}

/// Waits until a node exits by itself. Returns its exit message.
pub async fn wait_for_end(cluster: &Cluster, node: &str, within: Duration) -> Result<String, String> {
    let before = rt::now();
    while cluster.power(node) != crate::cluster::Power::Off {
        ensure(rt::now() - before < within, || {
            format!("{node} should have refused to go on and did not within {within:?}")
        })?;
        rt::sleep(Duration::from_millis(20)).await;
    }
    let stop = cluster.run().stops().into_iter().rfind(|stop| stop.node == node);
    stop.map(|stop| stop.reason).ok_or_else(|| format!("{node} ended and gave no reason"))
}
