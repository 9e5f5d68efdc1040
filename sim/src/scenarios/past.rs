//! The past: what can be read of it, and how the leader gives it up.

use std::sync::Arc;
use std::time::Duration;

use mokv::client::{Client, Error, Operation, ReadOptions, SettingsChange, Transaction};
use mokv::rt;

use super::setup::{client, client_of, ensure, others, set, set_many, three_nodes, write_by_many};
use crate::cluster::Cluster;
use crate::evidence::history::{Answer, Outcome};
use crate::record::Run;

/// How long compaction or removal may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every node shows the same past, also after it has lost power or installed a snapshot, and only as far back as the
/// history goes.
pub async fn history(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let writer = client(&cluster);
    let (_, first) = set(&writer, "past").await?;
    set(&writer, "deleted later").await?;
    // Several times what makes a snapshot.
    write_by_many(&writer, 2_500).await?;
    let (_, middle) = set(&writer, "past").await?;
    writer.delete("deleted later", None).await;
    let [behind, restarted] = [0, 1].map(|index| others(&cluster.names(), &leader)[index].clone());
    let had = last_log_index(&cluster, &behind).await?;
    cluster.power_loss(&behind);
    let floor = middle - 700;
    let compacted = writer.with_library(|library| async move { library.compact(floor).await }).await;
    ensure(compacted == Ok(floor), || {
        format!("the compaction to revision {floor} was answered {compacted:?}")
    })?;
    write_by_many(&writer, 4_000).await?;
    cluster.start(&behind);
    cluster.power_loss(&restarted);
    cluster.start(&restarted);
    let (_, last) = set(&writer, "past").await?;

    for node in cluster.names() {
        let reader = client_of(&cluster, &node);
        // What they answer is compared with the log by the checkers.
        for revision in [floor, floor + 1, middle - 1, middle, middle + 1, middle + 5, last - 1, last] {
            for key in ["past", "deleted later", "writer/07"] {
                let outcome = reader.get_at(key, revision).await;
                let is_answered =
                    matches!(outcome, Outcome::Ok(Answer::Read { revision: at, .. }) if at == revision);
                ensure(is_answered, || {
                    format!("{node} did not show {key} at revision {revision}: {outcome:?}")
                })?;
            }
            let outcome = reader.list_at("", revision).await;
            ensure(matches!(outcome, Outcome::Ok(Answer::Listed { .. })), || {
                format!("{node} did not list revision {revision}")
            })?;
        }
        for (revision, is_expected) in
            [(first, "compacted"), (floor - 1, "compacted"), (last + 1_000, "of the future")]
        {
            let options = ReadOptions::linearizable().at_revision(revision);
            let read =
                reader.with_library(|library| async move { library.get_with("past", options).await }).await;
            let is_right = match is_expected {
                "compacted" => matches!(read, Err(Error::RevisionGone(_))),
                _ => matches!(read, Err(Error::Invalid(_))),
            };
            ensure(is_right, || format!("revision {revision} is {is_expected}, {node} answered {read:?}"))?;
        }
    }
    ensure(cluster.installed(&behind) > had, || format!("{behind} was to learn the past from a snapshot"))?;
    Ok(cluster)
}

/// A node that is cut off shows the past in a transaction, and says nothing of the present, which it does not know: it once
/// named the revision that it had come to, as if that were the present one (chaos seed 297).
pub async fn past_on_an_old_node(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let writer = client(&cluster);
    let (_, past) = set(&writer, "key").await?;
    set_many(&writer, 20).await?;
    let old = others(&cluster.names(), &leader).remove(0);
    cluster.isolate(&old);
    set_many(&writer, 20).await?;
    let alone = client_of(&cluster, &old);
    for name in others(&cluster.names(), &old) {
        cluster.cut(&name, alone.host());
        cluster.cut(alone.host(), &name);
    }
    let get = Operation::Get { key: "key".into(), at_revision: Some(past) };
    let transaction = Transaction::new().then(get);
    let answer = alone.with_library(|library| async move { library.transact(transaction).await }).await;
    let named = answer.as_ref().map(|done| done.revision);
    ensure(named == Ok(past), || format!("{old} was asked for revision {past} and answered {answer:?}"))?;
    Ok(cluster)
}

/// The leader gives the past up by age and by size, and removes it while clients send nothing: through the loss of power
/// on all machines, on a node that needs a snapshot meanwhile, and after a change of leader.
pub async fn compaction(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let writer = client(&cluster);
    let nothing =
        SettingsChange::none().history_max_age(None).history_max_bytes(None).history_min_revisions(10);
    configure(&cluster, nothing).await?;
    write_by_many(&writer, 3_000).await?;
    let (_, last) = set(&writer, "last").await?;
    for node in cluster.names() {
        let floor = floor_and_history(&cluster, &node).await.map(|(floor, _)| floor);
        ensure(floor == Some(1), || format!("{node} gave up the past, and nothing asked for it: {floor:?}"))?;
    }

    // By age: all but the revisions that are kept, and the last versions of 17 keys.
    configure(&cluster, SettingsChange::none().history_max_age(Duration::from_secs(2))).await?;
    let kept = 11 * 200;
    until_all(&cluster, "the age", |floor, history| floor == last - 10 && history < kept).await?;

    // By size, with a node that is away until the log of it is gone.
    configure(&cluster, nothing).await?;
    let behind = others(&cluster.names(), &leader)[0].clone();
    let had = last_log_index(&cluster, &behind).await?;
    cluster.power_loss(&behind);
    write_by_many(&writer, 3_000).await?;
    let bound = 40_000;
    configure(&cluster, SettingsChange::none().history_max_bytes(std::num::NonZeroU64::new(bound))).await?;
    rt::sleep(Duration::from_millis(20)).await;
    cluster.start(&behind);
    until_all(&cluster, "the size", |_, history| history <= bound && history > bound / 2).await?;
    ensure(cluster.installed(&behind) > had, || format!("{behind} was to need a snapshot"))?;

    // By hand, and power fails everywhere while it is removed.
    configure(&cluster, nothing).await?;
    write_by_many(&writer, 3_000).await?;
    let (_, last) = set(&writer, "last").await?;
    let compacted = writer.with_library(|library| async move { library.compact(None).await }).await;
    ensure(compacted == Ok(last), || format!("the compaction was answered {compacted:?}"))?;
    for node in cluster.names() {
        cluster.power_loss(&node);
    }
    cluster.start_all();
    until_all(&cluster, "a compaction by hand", |floor, history| floor == last && history == 0).await?;

    // Another leader goes on with it.
    configure(&cluster, SettingsChange::none().history_max_age(Duration::from_secs(2))).await?;
    let leader = cluster.wait_for_leader(&cluster.names(), PATIENCE).await?;
    write_by_many(&writer, 500).await?;
    let next = others(&cluster.names(), &leader)[0].clone();
    cluster
        .operate("transfer", |client: Client| async move { client.transfer_leader(Some(&next)).await })
        .await;
    let (_, last) = set(&writer, "last").await?;
    until_all(&cluster, "the age under another leader", |floor, history| {
        floor == last - 10 && history < kept
    })
    .await?;
    Ok(cluster)
}

async fn configure(cluster: &Cluster, change: SettingsChange) -> Result<(), String> {
    let ask = |client: Client| async move { client.configure(change).await };
    ensure(cluster.operate("bounds of the history", ask).await, || "the bounds were not accepted".to_owned())
}

async fn last_log_index(cluster: &Cluster, node: &str) -> Result<u64, String> {
    let status = cluster.status(node).await.ok_or_else(|| format!("{node} did not say how it is"))?;
    Ok(status.last_log_index)
}

async fn floor_and_history(cluster: &Cluster, node: &str) -> Option<(u64, u64)> {
    let status = cluster.status(node).await?;
    Some((status.floor_revision, status.history_bytes))
}

/// Waits until the floor and the bytes of the history are as expected on all nodes.
async fn until_all(
    cluster: &Cluster,
    why: &str,
    is_expected: impl Fn(u64, u64) -> bool,
) -> Result<(), String> {
    let before = rt::now();
    for node in cluster.names() {
        loop {
            let found = floor_and_history(cluster, &node).await;
            if found.is_some_and(|(floor, history)| is_expected(floor, history)) {
                break;
            }
            ensure(rt::now() - before < PATIENCE, || {
                format!("{node} did not compact its history by {why} within {PATIENCE:?}: {found:?}")
            })?;
            rt::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}
