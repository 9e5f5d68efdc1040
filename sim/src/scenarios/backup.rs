//! Scenarios of backups: taken, and restored into another cluster, through crashes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mokv::client::{BackupInfo, ChangesOptions, Client, Error, NodeStatus, Position, ReadOptions, Role};
use mokv::map::Map;
use mokv::node::backup::{self, BackupError, Restored};
use mokv::raft::Member;
use mokv::rt;
use mokv::rt::disk::{DiskRef, Fault, FileRef, SimDisk};

use super::identity::wait_for_members;
use super::setup::{ELECTION_BOUND, client, ensure, set_many, three_nodes};
use crate::clients::SimClient;
use crate::cluster::{Cluster, Power, RPC_PORT};
use crate::evidence::applied_log::AppliedLog;
use crate::record::Run;
use crate::world::dice::Dice;

/// Attempts to restore that a power loss interrupts, before one that is not interrupted.
const BROKEN_OFF: u64 = 4;
/// More calls of the disk than a restore of so little data makes.
const CALLS: u64 = 60;

/// A backup contains all writes that were answered before its request. All disks are lost, and power fails in the
/// middle of restoring, again and again; a partly restored directory never serves. In the end the backup is a cluster
/// again, under another id, and no write is missing.
pub async fn restored(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let writer = client(&cluster);
    set_many(&writer, 150).await?;
    let shows = async {
        while cluster.status(&leader).await.is_none_or(|status| status.digest.is_none()) {
            rt::sleep(Duration::from_millis(100)).await;
        }
    };
    rt::timeout(ELECTION_BOUND, shows).await.map_err(|_| format!("{leader} never shows a digest"))?;
    let old = cluster.status(&leader).await.ok_or_else(|| format!("{leader} does not answer"))?;
    let (info, bytes) = writer.with_library(save).await.map_err(|error| format!("no backup: {error}"))?;
    // What the old cluster does after the backup is lost with it; the writer knows later revisions.
    for number in 0..20 {
        writer.set_in_vain(&format!("many/{number:02}"), 32).await.map_err(|error| error.to_string())?;
    }
    let known = writer.seen_revision();
    let kept = newest_change(&writer).await?;
    for name in cluster.names() {
        cluster.kill(&name);
        cluster.may_go(&name);
        cluster.wipe(&name);
    }
    run.fault("lost disks", "all disks are lost");
    run.with_applied_log(AppliedLog::reformed);
    let (host, _) = cluster.add_client_host();
    let elsewhere = SimDisk::new(run.seed);
    let file = keep(elsewhere.mount(), bytes).await.map_err(|error| error.to_string())?;
    let mut dice = Dice::new(run.seed, "restore");
    let mut is_done = false;
    for _ in 0..BROKEN_OFF {
        let nth = dice.within(1..CALLS);
        is_done = !break_off(&run, &cluster, &host, file.clone(), nth).await?
            || half_restored(&cluster, &info).await?;
        if is_done {
            break;
        }
        cluster.wipe("n1");
    }
    if !is_done {
        let restored = restore(&cluster, &host, file).await.expect("nobody is harmed");
        restored.map_err(|error| error.to_string())?;
    }
    cluster.start("n1");
    let leader = cluster.wait_for_leader(&["n1".to_owned()], ELECTION_BOUND).await?;
    let new = cluster.status(&leader).await.ok_or_else(|| format!("{leader} does not answer"))?;
    ensure(new.cluster_id != old.cluster_id, || "the new cluster has the old one's id".into())?;
    ensure(is_whole(&new, &info), || format!("{info:?} became {new:?}"))?;
    cluster.start("n2");
    cluster.start("n3");
    wait_for_members(&cluster, &leader, "that all three vote", |members| {
        members.len() == 3 && members.iter().all(|(_, _, learner)| !learner)
    })
    .await?;
    let newcomer = client(&cluster);
    set_many(&newcomer, 20).await?;
    // Nobody takes what the new cluster writes for what the old one wrote, and a session goes on.
    for reader in [&writer, &newcomer] {
        let options = ReadOptions::linearizable().at_revision(known);
        let read =
            reader.with_library(|library| async move { library.get_with("many/00", options).await }).await;
        ensure(matches!(read, Err(Error::RevisionGone(_))), || {
            format!("revision {known} is of the old cluster, and was read as {read:?}")
        })?;
        set_many(reader, 20).await?;
        let new = newest_change(reader).await?;
        ensure(new.cluster != kept.cluster, || format!("{new:?} seems to be of the old cluster"))?;
        let mistaken = Position { cluster: kept.cluster, ..new };
        let (right, wrong) = (changes_behind(reader, new).await, changes_behind(reader, mistaken).await);
        ensure(right == Ok(0) && matches!(wrong, Err(Error::RevisionGone(_))), || {
            format!("behind {new:?} of the new cluster are {right:?}, and as the old one's {wrong:?}")
        })?;
    }
    Ok(cluster)
}

/// The position of the newest change.
async fn newest_change(reader: &SimClient) -> Result<Position, String> {
    let read = reader.with_library(|library| async move {
        let mut changes = library.changes("").await?;
        let mut newest = None;
        while let Some(change) = changes.next().await? {
            newest = Some(change.position);
        }
        Ok::<_, Error>(newest)
    });
    let newest = read.await.map_err(|error| error.to_string())?;
    newest.ok_or_else(|| "nothing was changed".to_owned())
}

/// How many changes there are behind a position.
async fn changes_behind(reader: &SimClient, position: Position) -> Result<u64, Error> {
    let options = ChangesOptions::all().start_after(position);
    let read = reader.with_library(|library| async move {
        let mut changes = library.changes_with(options).await?;
        let mut count = 0;
        while changes.next().await?.is_some() {
            count += 1;
        }
        Ok(count)
    });
    read.await
}

async fn save(library: Client) -> Result<(BackupInfo, Vec<Bytes>), Error> {
    let mut backup = library.backup().await?;
    let mut all = Vec::new();
    while let Some(bytes) = backup.next().await? {
        all.push(bytes);
    }
    Ok((backup.info().clone(), all))
}

async fn keep(disk: DiskRef, bytes: Vec<Bytes>) -> std::io::Result<FileRef> {
    let file = disk.create("backup").await?;
    let mut offset = 0;
    for bytes in bytes {
        let length = bytes.len() as u64;
        file.write_at(offset, bytes).await?;
        offset += length;
    }
    Ok(file)
}

/// Restores to the first node's disk. `None` if the machine on which the restore ran died.
async fn restore(cluster: &Cluster, host: &str, file: FileRef) -> Option<Result<Restored, BackupError>> {
    let disk = cluster.disk("n1").mount();
    let member = Member { name: "n1".to_owned(), rpc_addr: format!("n1.sim:{RPC_PORT}") };
    cluster.try_on(host, async move { backup::restore(file, "the backup", disk, member).await }).await
}

/// Restores, with a power failure at the `nth` call of the disk. Returns `false` if the restore was done before.
async fn break_off(
    run: &Arc<Run>,
    cluster: &Cluster,
    host: &str,
    file: FileRef,
    nth: u64,
) -> Result<bool, String> {
    let (disk, mut left) = (cluster.disk("n1"), nth);
    disk.on_call(Some(Box::new(move |_| {
        left -= u64::from(left > 0);
        if left == 0 { Fault::PowerLossBefore } else { Fault::None }
    })));
    run.fault("power loss", format!("power fails at call {nth} of the disk that is restored to"));
    // A disk whose machine has lost power never answers again.
    let outcome = rt::timeout(Duration::from_secs(5), restore(cluster, host, file)).await;
    disk.on_call(None);
    match outcome {
        Ok(Some(Ok(_))) => Ok(false),
        Ok(Some(Err(BackupError::Storage(_) | BackupError::Identity(_)))) | Ok(None) | Err(_) => {
            disk.power_loss();
            Ok(true)
        }
        Ok(Some(Err(error))) => Err(format!("a sound backup was refused: {error}")),
    }
}

/// Starts a node on a partly restored directory. It must not serve: it reports why it cannot start, or waits for a
/// cluster. Returns `true` if only the final mark of the restore was missing, and the node serves the complete backup.
async fn half_restored(cluster: &Cluster, info: &BackupInfo) -> Result<bool, String> {
    cluster.excuse("n1", "its directory was half restored");
    cluster.start("n1");
    rt::sleep(Duration::from_secs(5)).await;
    if cluster.power("n1") == Power::Off {
        return Ok(false);
    }
    let status = cluster.status("n1").await;
    cluster.kill("n1");
    match status {
        Some(status) if !matches!(status.role, Role::Waiting | Role::Recovering) => {
            ensure(is_whole(&status, info), || {
                format!("a node with a half restored directory is {status:?}")
            })?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn is_whole(status: &NodeStatus, info: &BackupInfo) -> bool {
    let begun = info.revision + Map::RENEWAL_GAP;
    status.keys == info.keys && status.revision == begun && status.floor_revision == begun
}
