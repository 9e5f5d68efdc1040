//! Snapshots that are sent to other nodes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mokv::rt;
use mokv::rt::disk::Fault;

use super::setup::{ELECTION_BOUND, client, ensure, formed, others, set_many};
use crate::clients::SimClient;
use crate::cluster::{Cluster, Power};
use crate::evidence::history::Outcome;
use crate::record::Run;
use crate::world::World;

/// How often the node is killed while it installs, each time one call of its disk later.
const KILLS: u64 = 24;

/// Writes until the leader's log begins after `index`.
async fn write_until_purged(
    cluster: &Cluster,
    client: &SimClient,
    leader: &str,
    index: u64,
) -> Result<(), String> {
    for _ in 0..60 {
        set_many(client, 20).await?;
        if cluster.status(leader).await.is_some_and(|status| status.purged_index > Some(index)) {
            return Ok(());
        }
    }
    Err(format!("after 1200 writes the leader's log still holds index {index}"))
}

/// A node lacks entries that the leader has purged, so it needs a snapshot. It is killed just before each change that
/// its disk makes while it installs one, and must come back every time.
pub async fn laggard(run: Arc<Run>) -> Result<Cluster, String> {
    let world = World { snapshot_log_bytes: 4_000..=4_000, ..World::calm(3) };
    let (cluster, leader) = formed(&run, world).await?;
    let client = client(&cluster);
    let name = others(&cluster.names(), &leader).remove(0);
    set_many(&client, 20).await?;
    for step in 1..=KILLS {
        let reached = cluster.status(&name).await.map_or(0, |status| status.last_log_index);
        cluster.kill(&name);
        write_until_purged(&cluster, &client, &leader, reached).await?;
        let installed = run.with_applied_log(|applied_log| applied_log.snapshots_installed());
        // The kill comes at change number `step`, counted from the first change to a snapshot file.
        let mut left = None;
        cluster.disk(&name).on_call(Some(Box::new(move |call| {
            if left.is_none() && call.name.contains("snap") && call.operation.changes() {
                left = Some(step);
            }
            match &mut left {
                Some(left) if call.operation.changes() => {
                    *left -= 1;
                    if *left == 0 { Fault::KillBefore } else { Fault::None }
                }
                _ => Fault::None,
            }
        })));
        let kills = cluster.disk(&name).counts().kills;
        cluster.excuse(&name, "its process died in the middle of a call");
        cluster.start(&name);
        let before = rt::now();
        let was_killed = loop {
            rt::sleep(Duration::from_millis(20)).await;
            if cluster.disk(&name).counts().kills > kills {
                break true;
            }
            let caught_up = run.with_applied_log(|applied_log| applied_log.snapshots_installed()) > installed;
            if caught_up && rt::now() - before > Duration::from_secs(3) {
                break false;
            }
            ensure(rt::now() - before < ELECTION_BOUND, || {
                format!("{name} lags behind the purge and got no snapshot within {ELECTION_BOUND:?}")
            })?;
        };
        if was_killed {
            cluster.mend_disk(&name);
            cluster.kill(&name);
            cluster.start(&name);
            run.marker("killed while installing a snapshot");
        } else {
            cluster.mend_disk(&name);
        }
        cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
        ensure(cluster.power(&name) == Power::On, || format!("{name} did not survive step {step}"))?;
        if !was_killed {
            run.tell(format!("installing took fewer than {step} changes of the disk"));
            break;
        }
    }
    Ok(cluster)
}

/// All connections of a newcomer are reset in the middle of each of many attempts to send it a snapshot. Unfinished
/// transfers never take more room than one transfer, and none is left in the end.
pub async fn interrupted_transfers(run: Arc<Run>) -> Result<Cluster, String> {
    const RESETS: usize = 20;
    const LARGE: usize = 60_000;
    /// Delay of a link that carries 1 MiB in this time.
    const DELAY: Duration = Duration::from_millis(100);
    const BOUND: Duration = Duration::from_secs(240);
    let world = World { snapshot_log_bytes: 2_000..=2_000, ..World::calm(1) };
    let (cluster, leader) = formed(&run, world).await?;
    let client = client(&cluster);
    for number in 0..40 {
        let (_, outcome) = client.set(&format!("large/{number}"), None, LARGE).await;
        ensure(matches!(outcome, Outcome::Ok(_)), || {
            format!("large value {number} was not written: {outcome:?}")
        })?;
    }
    write_until_purged(&cluster, &client, &leader, 0).await?;
    cluster.add("n2", |_| {});
    cluster.slow_link(&leader, "n2", DELAY);
    cluster.start("n2");
    let unfinished = || {
        let mut files = cluster.disk("n2").files();
        files.retain(|(name, _)| name.starts_with("snapshot-") && name.ends_with(".tmp"));
        files
    };
    let (mut interrupted, mut transfer) = (BTreeSet::new(), 0);
    let before = rt::now();
    while interrupted.len() < RESETS
        || run.with_applied_log(|applied_log| applied_log.snapshots_installed()) == 0
    {
        rt::sleep(Duration::from_millis(5)).await;
        let files = unfinished();
        let lengths = || files.iter().map(|(_, length)| *length);
        transfer = transfer.max(lengths().max().unwrap_or(0));
        ensure(lengths().sum::<u64>() <= transfer, || {
            let resets = interrupted.len();
            format!("after {resets} resets the unfinished snapshots of n2 are {files:?}")
        })?;
        for (name, _) in files {
            if interrupted.len() < RESETS && interrupted.insert(name) {
                cluster.reset_all_connections("n2");
            }
        }
        ensure(rt::now() - before < BOUND, || {
            format!("n2 had {} transfers and no snapshot within {BOUND:?}", interrupted.len())
        })?;
    }
    run.tell(format!("{RESETS} transfers of {transfer} bytes were interrupted"));
    rt::sleep(Duration::from_secs(1)).await;
    let left = unfinished();
    ensure(left.is_empty(), || format!("n2 has its snapshot, and these are left: {left:?}"))?;
    Ok(cluster)
}
