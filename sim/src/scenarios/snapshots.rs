//! Snapshots that travel.

use std::sync::Arc;
use std::time::Duration;

use mokv::rt;
use mokv::rt::disk::Fault;

use super::stage::{ELECTION_BOUND, client, ensure, formed, others, set_many};
use crate::client::SimClient;
use crate::cluster::{Cluster, Power};
use crate::run::Run;
use crate::world::World;

/// How often the node is killed while it installs; every time one call of its disk later.
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
        if cluster.status(leader).await.is_some_and(|status| status.purged_index > index) {
            return Ok(());
        }
    }
    Err(format!("after 1200 writes the leader's log still holds index {index}"))
}

/// A node lags behind the purge, so only a snapshot helps; it is killed just before each call by which its disk
/// changes while it installs one, and must come back every time.
pub async fn laggard(run: Arc<Run>) -> Result<Cluster, String> {
    let world = World { snapshot_entries: 60, ..World::calm(3) };
    let (cluster, leader) = formed(&run, world).await?;
    let client = client(&cluster);
    let name = others(&cluster.names(), &leader).remove(0);
    set_many(&client, 20).await?;
    for step in 1..=KILLS {
        let reached = cluster.status(&name).await.map_or(0, |status| status.last_log_index);
        cluster.kill(&name);
        write_until_purged(&cluster, &client, &leader, reached).await?;
        let installed = run.with_ledger(|ledger| ledger.snapshots_installed());
        // The kill comes at the step-th change after the start of a temporary file of a snapshot.
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
            let caught_up = run.with_ledger(|ledger| ledger.snapshots_installed()) > installed;
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
            run.situation("killed while installing a snapshot");
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
