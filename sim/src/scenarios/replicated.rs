//! The replicated state: the same on all nodes whatever their flags, never guessed, and compared all the time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use std::num::NonZeroU64;

use mokv::client::{NodeStatus, SettingsChange};
use mokv::map::Command;
use mokv::raft::peers::frame::MAX_FRAME_BYTES;
use mokv::rt;
use mokv::storage::LogEntry;
use mokv_proto::raft::{Forward, forward_answer, request, response};

use super::setup::{ELECTION_BOUND, client, ensure, others, set_many, three_nodes, wait_for_end};
use crate::clients::SimClient;
use crate::cluster::Cluster;
use crate::cluster::tampering::{rewrite_log, stranger};
use crate::evidence::history::Outcome;
use crate::phases::set_up;
use crate::record::Run;
use crate::world::World;
use crate::world::dice::Dice;

/// Longest time until settings that the cluster replicates by itself have arrived.
const WITHIN: Duration = Duration::from_secs(20);

/// Every node has flags of its own, for sizes, bounds and times. Whatever decides an outcome is replicated, so that the
/// same log gives the same state on all of them, whichever node leads and however often they start.
pub async fn different_flags(run: Arc<Run>) -> Result<Cluster, String> {
    let world = World { snapshot_log_bytes: 10_000..=10_000, ..World::calm(3) };
    run.set_world(world.to_string());
    let cluster = set_up(&run, &world);
    for (number, name) in (1..).zip(cluster.names()) {
        cluster.configure(&name, |config| {
            config.initial_max_sessions = 2 * number;
            config.initial_max_store_bytes = 20_000 * number;
            config.storage.snapshot_log_bytes = 6_000 * number..=9_000 * number;
            config.storage.log_cache_bytes = 4 << (10 + number);
            config.limits.max_value_bytes = 1_000 * number as usize;
            config.limits.max_list_bytes = 5_000_000 * number;
            config.limits.request_timeout = Duration::from_millis(900 * number);
        });
    }
    cluster.start_all();
    cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    let clients: Vec<SimClient> = (0..5).map(|_| client(&cluster)).collect();
    let mut refused = 0;
    for round in 0..9 {
        let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
        for number in 0..30 {
            let client = &clients[number % clients.len()];
            let (_, outcome) = client.set(&format!("{round}/{number}"), None, 100 * (number % 9)).await;
            refused += u64::from(outcome == Outcome::Failed);
        }
        for number in 0..10 {
            clients[0].delete(&format!("{round}/{number}"), None).await;
        }
        match round % 3 {
            0 => cluster.kill(&leader),
            1 => cluster.power_loss(&leader),
            _ => cluster.stop(&leader).await,
        }
        cluster.start(&leader);
    }
    ensure(refused > 0, || "nothing was refused, although every node was given bounds to refuse by".into())?;
    // The replicated bound decides: an entry that raises it raises it on all nodes.
    let change = SettingsChange::none().max_sessions(100).max_store_bytes(None);
    clients[0]
        .with_library(|library| async move { library.configure(change).await })
        .await
        .map_err(|error| format!("the bounds could not be raised: {error}"))?;
    set_many(&clients[1], 30).await?;
    Ok(cluster)
}

/// Replaces the payload of a client's write near the end of a stopped node's log.
pub(super) async fn tamper(
    cluster: &Cluster,
    status: &NodeStatus,
    change: impl FnOnce(Command) -> Bytes,
) -> Result<u64, String> {
    let mut found = None;
    let is_write = |entry: &&mut LogEntry| matches!(Command::decode(&entry.payload), Ok(Command::Set(_)));
    rewrite_log(cluster, status, |entries| {
        if let Some(entry) = entries.iter_mut().rfind(is_write) {
            let command = Command::decode(&entry.payload).expect("it was read just now");
            entry.payload = change(command);
            found = Some(entry.index);
        }
    })
    .await?;
    found.ok_or_else(|| format!("{} holds no write", status.name))
}

/// A committed entry is of a kind that this version does not support, as after an upgrade of the others: the node stops
/// before it applies the entry, and reports it.
pub async fn unknown_entry(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 60).await?;
    let name = others(&cluster.names(), &leader).remove(0);
    let status = cluster.status(&name).await.ok_or_else(|| format!("{name} does not answer"))?;
    cluster.kill(&name);
    let index = tamper(&cluster, &status, |command| {
        let mut bytes = command.encode().to_vec();
        bytes[0] = 0xee;
        bytes.into()
    })
    .await?;
    run.fault("unknown entry", format!("log index {index} of {name} is of a kind that nobody knows"));
    cluster.excuse(&name, "its log holds an entry of an unknown kind");
    cluster.start(&name);
    let reason = wait_for_end(&cluster, &name, ELECTION_BOUND).await?;
    ensure(reason.contains("upgrade"), || format!("{name} does not say what to do: {reason}"))?;
    let applied = run.with_applied_log(|applied_log| applied_log.position(&name));
    ensure(applied.is_none_or(|applied| applied < index), || {
        format!("{name} applied up to {applied:?} although it cannot know what {index} means")
    })?;
    cluster.wipe(&name);
    cluster.start(&name);
    Ok(cluster)
}

/// The nodes of a new cluster begin to serve before they have a leader. The first leader then replicates the bounds in
/// its flags, and later changes by an operator stay.
pub async fn initial_bounds(run: Arc<Run>) -> Result<Cluster, String> {
    let world = World::calm(3);
    run.set_world(world.to_string());
    let cluster = set_up(&run, &world);
    for name in cluster.names() {
        cluster.configure(&name, |config| {
            config.initial_max_sessions = 70;
            config.initial_max_store_bytes = 6_000_000;
        });
    }
    cluster.start_all();
    cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    let client = client(&cluster);
    let before = rt::now();
    loop {
        let found = configured(&client, SettingsChange::none()).await?;
        if found == (70, 6_000_000) {
            break;
        }
        ensure(rt::now() - before < WITHIN, || format!("after {WITHIN:?} the bounds are {found:?}"))?;
        rt::sleep(Duration::from_millis(50)).await;
    }
    configured(&client, SettingsChange::none().max_sessions(90)).await?;
    for name in cluster.names() {
        cluster.kill(&name);
        cluster.start(&name);
        cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    }
    rt::sleep(Duration::from_secs(5)).await;
    let found = configured(&client, SettingsChange::none()).await?;
    ensure(found == (90, 6_000_000), || format!("what the operator set became {found:?}"))?;
    set_many(&client, 10).await?;
    Ok(cluster)
}

/// No digest is shown while a member does not support keys for digests. The members are upgraded, and leaders are
/// killed again and again about when they draw a key: in the end all show the same digest, under one key.
pub async fn digest_key(run: Arc<Run>) -> Result<Cluster, String> {
    let world = World::calm(3);
    run.set_world(world.to_string());
    let cluster = set_up(&run, &world);
    for name in cluster.names() {
        cluster.upgrade(&name, Command::DIGEST_KEY_VERSION - 1);
    }
    cluster.start_all();
    cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    let client = client(&cluster);
    let mut dice = Dice::new(run.seed, "when the leader dies");
    for name in cluster.names() {
        set_many(&client, 10).await?;
        rt::sleep(Duration::from_secs(3)).await;
        let shown = digests(&cluster).await;
        ensure(shown.iter().all(String::is_empty), || {
            format!("{name} knows of no key, and they show {shown:?}")
        })?;
        cluster.stop(&name).await;
        cluster.upgrade(&name, Command::DIGEST_KEY_VERSION);
        cluster.start(&name);
        cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    }
    for _ in 0..4 {
        rt::sleep(dice.time(Duration::ZERO..Duration::from_millis(1_500))).await;
        let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
        cluster.kill(&leader);
        cluster.start(&leader);
    }
    let before = rt::now();
    loop {
        let shown = digests(&cluster).await;
        if shown.len() == 3 && !shown[0].is_empty() && shown.iter().all(|digest| *digest == shown[0]) {
            break;
        }
        ensure(rt::now() - before < WITHIN, || format!("after {WITHIN:?} the nodes show {shown:?}"))?;
        rt::sleep(Duration::from_millis(50)).await;
    }
    set_many(&client, 10).await?;
    Ok(cluster)
}

/// The digests that the nodes report; no element for a node that does not answer.
async fn digests(cluster: &Cluster) -> Vec<String> {
    let mut shown = Vec::new();
    for name in cluster.names() {
        shown.extend(cluster.status(&name).await.map(|status| status.digest.unwrap_or_default()));
    }
    shown
}

/// Returns the bounds on sessions and bytes after a change.
async fn configured(client: &SimClient, change: SettingsChange) -> Result<(u64, u64), String> {
    let settings = client.with_library(|library| async move { library.configure(change).await }).await;
    let settings = settings.map_err(|error| format!("the bounds are not known: {error}"))?;
    Ok((settings.max_sessions, settings.max_store_bytes.map_or(0, NonZeroU64::get)))
}

/// A peer forwards bytes that are no client's command: unknown kinds, Raft's own entries, a removal, nothing at all.
/// The leader appends none of them to the log, where they would stop every node or pass for a membership.
pub async fn forged_forward(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 10).await?;
    let status = cluster.status(&leader).await.ok_or_else(|| format!("{leader} does not answer"))?;
    let forgeries = [
        Bytes::from_static(&[0xee, 1, 2, 3]),
        Bytes::new(),
        Command::Blank.encode(),
        Command::Membership(mokv_proto::log::Membership::default()).encode(),
        // A removal, on which only the leader decides.
        Command::Tombstone { node_id: status.node_id, name: leader.clone() }.encode(),
        // A write whose message is cut short.
        Bytes::from_static(&[2, 0x0a, 0x50]),
        // A write that fits into a frame alone, but not beside the entries before it.
        Command::Set(mokv_proto::log::Set {
            key: Bytes::from_static(b"large"),
            value: vec![0; MAX_FRAME_BYTES - 100].into(),
            ..Default::default()
        })
        .encode(),
    ];
    let (host, _) = cluster.add_client_host();
    for payload in forgeries {
        run.fault("forged forward", format!("{} bytes that are no command are forwarded", payload.len()));
        let (link, kind) = (stranger(&status), payload.first().copied());
        let body = request::Body::Forward(Forward { payload });
        let answer =
            cluster.on(&host, rt::timeout(Duration::from_secs(5), async move { link.call(body).await }));
        let outcome = match answer.await {
            Ok(Ok(response::Body::Forward(answer))) => answer.outcome,
            other => return Err(format!("the forwarded bytes of kind {kind:?} were answered by {other:?}")),
        };
        ensure(matches!(outcome, Some(forward_answer::Outcome::Refused(_))), || {
            format!("the leader took bytes of kind {kind:?} into the log: {outcome:?}")
        })?;
    }
    set_many(&client, 10).await?;
    Ok(cluster)
}
