//! Golden traces: what nodes say to each other, compared with the files in `sim/golden`.
//!
//! A trace must change only with the protocol. So every packet takes equally long, the cluster is brought to a fixed
//! leader, term and log index first, and what periodic tasks repeat is left out.

use std::sync::Arc;
use std::time::Duration;

use mokv::client::Client;
use mokv::rt;

use super::identity::wait_for_members;
use super::setup::{ELECTION_BOUND, ensure, set};
use crate::clients::SimClient;
use crate::clients::direct::Direct;
use crate::cluster::network::dns_name;
use crate::cluster::{Cluster, RPC_PORT};
use crate::evidence::history::Outcome;
use crate::golden;
use crate::golden::script::{self, Channel, Event, Routine};
use crate::phases;
use crate::record::Run;
use crate::world::World;

/// How long every packet takes.
const PACKET: Duration = Duration::from_millis(10);
/// Longer than a node takes to answer, shorter than a packet takes.
const STEP: Duration = Duration::from_millis(6);
/// The leader of every trace, and its term.
const LEADER: &str = "n1";
const TERM: u64 = 8;
/// The last log index before every trace.
const LAST_INDEX: u64 = 100;
/// Where the leader takes snapshots; the log before the first one is purged.
const SNAPSHOTS: [u64; 2] = [98, 99];
/// Long enough for what a cluster does on its own once it has formed.
const SETTLED: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);

/// A world in which everything takes equally long each time, and heartbeats are rare.
fn even_world() -> World {
    let exactly = |time: Duration| time..time + Duration::from_nanos(1);
    World {
        network_latency: exactly(PACKET),
        write_latency: exactly(Duration::from_micros(50)),
        sync_latency: exactly(Duration::from_micros(200)),
        heartbeat: Duration::from_millis(500),
        election: Duration::from_millis(2_500),
        snapshot_log_bytes: 1 << 30..=1 << 30,
        ..World::calm(3)
    }
}

/// Records what a host sends, under `name`.
fn meet(cluster: &Cluster, host: &str, name: &str) {
    golden::meet(cluster.host_id(host), cluster.address(host), name);
}

/// Three nodes, led by n1 in term 8, whose logs end at index 100. The recorder listens.
async fn settled(run: &Arc<Run>) -> Result<Cluster, String> {
    let world = even_world();
    run.set_world(world.to_string());
    let cluster = phases::set_up(run, &world);
    golden::listen(RPC_PORT);
    cluster.names().iter().for_each(|name| meet(&cluster, name, name));
    cluster.start_all();
    loop {
        let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
        let term = cluster.status(&leader).await.ok_or_else(|| format!("{leader} does not answer"))?.term;
        if leader == LEADER && term == TERM {
            break;
        }
        ensure(term < TERM, || format!("{leader} leads in term {term}; the traces begin in term {TERM}"))?;
        let to = match leader.as_str() {
            _ if term == TERM - 1 && leader != LEADER => LEADER,
            "n2" => "n3",
            _ => "n2",
        };
        cluster
            .operate("transfer", move |client: Client| async move { client.transfer_leader(Some(to)).await })
            .await;
    }
    rt::sleep(SETTLED).await;
    let writer = SimClient::new(&cluster, &[LEADER.to_owned()], PATIENCE, false);
    loop {
        let status = cluster.status(LEADER).await.ok_or_else(|| format!("{LEADER} does not answer"))?;
        let last = status.last_log_index;
        if last == LAST_INDEX && status.applied_index == last {
            break;
        }
        ensure(last <= LAST_INDEX, || {
            format!("the log ends at {last}; the traces begin after {LAST_INDEX}")
        })?;
        for index in last + 1..=LAST_INDEX {
            set(&writer, "filler").await?;
            if SNAPSHOTS.contains(&index) {
                let address = format!("{}:{RPC_PORT}", dns_name(LEADER));
                let taken = cluster
                    .operate("snapshot", |client: Client| async move { client.snapshot(&address).await })
                    .await;
                ensure(taken, || format!("{LEADER} takes no snapshot"))?;
            }
        }
    }
    rt::sleep(SETTLED).await;
    let before = golden::heartbeats();
    while golden::heartbeats() == before {
        rt::sleep(PACKET).await;
    }
    rt::sleep(PACKET * 5).await;
    Ok(cluster)
}

/// A fourth node joins a running cluster whose leader no longer has the beginning of its log.
pub async fn join(run: Arc<Run>) -> Result<Cluster, String> {
    let cluster = settled(&run).await?;
    cluster.add("n4", |config| config.start_join_addrs.truncate(1));
    meet(&cluster, "n4", "n4");
    golden::begin();
    cluster.start("n4");
    wait_for_members(&cluster, LEADER, "that n4 votes", |members| {
        members.iter().any(|(name, _, learner)| name == "n4" && !learner)
    })
    .await?;
    rt::sleep(PACKET * 20).await;
    // With the other nodes n4 exchanges claims whenever a node draws the other one.
    let is_told = |event: &Event| {
        event.channel != Channel::Gossip
            || [&event.from, &event.to].iter().all(|name| [LEADER, "n4"].contains(&name.as_str()))
    };
    let trace = golden::end()
        .into_iter()
        .filter(|event| matches!(event.routine, None | Some(Routine::Notice)) && is_told(event));
    script::compare("join", &script::lines(trace.collect(), STEP))?;
    Ok(cluster)
}

/// A value is written while one follower lags, and then read at this follower.
pub async fn linearizable_read(run: Arc<Run>) -> Result<Cluster, String> {
    const LATE: Duration = Duration::from_millis(200);
    let cluster = settled(&run).await?;
    let (writer, reader) = (Direct::new(&cluster, LEADER), Direct::new(&cluster, "n3"));
    meet(&cluster, writer.host(), "c1");
    meet(&cluster, reader.host(), "c2");
    golden::begin();
    golden::note(&format!("the link from n1 to n3 takes {LATE:?} longer now"));
    cluster.slow_link(LEADER, "n3", LATE);
    let written = writer.set("color", PATIENCE, PATIENCE).await;
    ensure(matches!(written.outcome, Outcome::Ok(_)), || format!("the write was {:?}", written.outcome))?;
    cluster.slow_link(LEADER, "n3", Duration::ZERO);
    // The note stands between two steps.
    rt::sleep(STEP).await;
    golden::note("the link is fast again; what was sent on it before is still on its way");
    let read = reader.get("color", false, PATIENCE, PATIENCE).await;
    ensure(matches!(read.outcome, Outcome::Ok(_)), || format!("the read was {:?}", read.outcome))?;
    let is_told = |event: &Event| {
        event.channel != Channel::Gossip
            && matches!(event.routine, None | Some(Routine::Notice | Routine::Heartbeat))
    };
    let trace = golden::end().into_iter().filter(is_told);
    script::compare("linearizable-read", &script::lines(trace.collect(), STEP))?;
    Ok(cluster)
}
