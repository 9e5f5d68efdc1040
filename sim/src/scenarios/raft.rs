//! Raft as configured here, and the conclusions that clients may draw.

use std::sync::Arc;
use std::time::Duration;

use mokv::client::{Error, ListOptions, SettingsChange};
use mokv::rt::task::spawn_guarded;
use mokv::rt::{self, Instant};

use super::setup::{
    ELECTION_BOUND, client, client_of, ensure, expect, formed, others, set, set_many, three_nodes,
};
use crate::clients::SimClient;
use crate::clients::direct::{Direct, Reply};
use crate::cluster::Cluster;
use crate::evidence::history::{Answer, Outcome};
use crate::record::Run;
use crate::world::World;

/// A leader commits through its followers before its own flush, loses power, and is back before any node has missed it:
/// it must not assign the same log indexes again as if it still led.
pub async fn leader_back_at_once(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = three_nodes(&run).await?;
    let client = client(&cluster);
    for round in 0..5 {
        let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
        cluster.slow_disk(&leader, 500);
        for number in 0..4 {
            set(&client, &format!("round {round}/{number}")).await?;
        }
        cluster.power_loss(&leader);
        cluster.slow_disk(&leader, 1);
        rt::sleep(Duration::from_millis(5 + run.seed % 20)).await;
        cluster.start(&leader);
        for number in 0..4 {
            set(&client, &format!("after {round}/{number}")).await?;
        }
    }
    Ok(cluster)
}

/// The leader's heartbeats arrive and their answers are lost: it must step down, and another node must lead.
pub async fn deaf_leader(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, old) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 10).await?;
    let rest = others(&cluster.names(), &old);
    run.fault("deaf leader", format!("{old} hears nobody, everybody hears {old}"));
    rest.iter().for_each(|name| cluster.cut(name, &old));
    let new = cluster.wait_for_leader(&rest, ELECTION_BOUND * 2).await?;
    ensure(new != old, || format!("{old} still leads although it hears nobody"))?;
    let (value, _) = set(&client, "key").await?;
    expect(&client, "key", value).await?;
    Ok(cluster)
}

/// Followers' answers are delayed so long that the followers have elected another leader and taken a write when the
/// answers arrive: to the old leader they confirm no read that began after that write.
pub async fn late_answers(run: Arc<Run>) -> Result<Cluster, String> {
    // Longer than an election; shorter than a connection without an answer is kept.
    const LATE: [Duration; 2] = [Duration::from_millis(1_600), Duration::from_millis(1_650)];
    let world = World {
        heartbeat: Duration::from_millis(60),
        election: Duration::from_millis(250),
        ..World::calm(3)
    };
    let (cluster, old) = formed(&run, world).await?;
    let rest = others(&cluster.names(), &old);
    let (writer, elsewhere) = (client(&cluster), client_of(&cluster, &rest[0]));
    set(&writer, "key").await?;
    run.fault(
        "late answers",
        format!("what {} say is late, then nothing of {old} arrives", rest.join(" and ")),
    );
    for (name, late) in rest.iter().zip(LATE) {
        cluster.slow_link(name, &old, late);
    }
    let sent = rt::now();
    let _write = spawn_guarded(async move { writer.set("another key", None, 16).await });
    // Longer than the latency of a link and a disk, and shorter than any election.
    rt::sleep(Duration::from_millis(50)).await;
    rest.iter().for_each(|name| cluster.cut(&old, name));
    cluster.wait_for_leader(&rest, ELECTION_BOUND).await?;
    set(&elsewhere, "key").await?;
    // So shortly before the answers arrive that the read still waits for its confirmation.
    let read = sent + LATE[0] - Duration::from_millis(200);
    ensure(rt::now() < read, || "the others took too long, the read would begin after the answers".into())?;
    rt::sleep_until(read).await;
    // It knows no other node, so it asks the old leader first.
    let alone = client_of(&cluster, &old);
    for name in &rest {
        cluster.cut(name, alone.host());
        cluster.cut(alone.host(), name);
    }
    let answer = alone.get("key", false).await;
    ensure(answer == Outcome::Failed, || format!("{old} is deposed and alone, and answered {answer:?}"))?;
    Ok(cluster)
}

/// A node that restarts alone answers nothing, not even a stale read: README guarantees that before it answers it has
/// received from a leader and has applied again what it had before.
pub async fn reads_during_recovery(run: Arc<Run>) -> Result<Cluster, String> {
    const ALONE: u32 = 20;
    let (cluster, leader) = three_nodes(&run).await?;
    let writer = client(&cluster);
    let (value, revision) = set(&writer, "key").await?;
    set_many(&writer, 200).await?;
    let name = others(&cluster.names(), &leader).remove(0);
    cluster.kill(&name);
    cluster.isolate(&name);
    cluster.start(&name);
    let (deadline, patience) = (Duration::from_millis(500), Duration::from_secs(2));
    let mut answered = 0;
    for attempt in 0..2 * ALONE {
        let reply = Direct::new(&cluster, &name).get("key", true, deadline, patience).await.outcome;
        match reply {
            Outcome::Failed => {}
            _ if attempt < ALONE => {
                return Err(format!(
                    "{name} has heard from no leader since it started, and answered {reply:?}"
                ));
            }
            Outcome::Ok(Answer::Read { entry: Some(entry), revision: at })
                if entry.value == value && at >= revision =>
            {
                answered += 1;
            }
            other => return Err(format!("{name} forgot what it had committed and answered {other:?}")),
        }
        if attempt == ALONE / 2 {
            let reply = Direct::new(&cluster, &name).get("key", false, deadline, patience).await.outcome;
            ensure(reply == Outcome::Failed, || format!("{name} is alone and answered {reply:?}"))?;
        }
        if attempt == ALONE {
            cluster.heal_network();
        }
        rt::sleep(Duration::from_millis(100)).await;
    }
    ensure(answered > 0, || format!("{name} answers nothing although its links are whole"))?;
    Ok(cluster)
}

/// A request that carries its deadline is answered by then, though its caller would wait longer, whatever the node
/// lacks: a leader, a confirmation, a commit.
pub async fn server_keeps_deadlines(run: Arc<Run>) -> Result<Cluster, String> {
    const DEADLINE: Duration = Duration::from_millis(900);
    const GRACE: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(60);
    let (cluster, leader) = three_nodes(&run).await?;
    set(&client(&cluster), "key").await?;
    let follower = others(&cluster.names(), &leader).remove(0);
    let in_time = async |node: &str, what: &str, reply: Reply, begun: Instant| {
        let took = rt::now() - begun;
        ensure(!matches!(reply.outcome, Outcome::Ok(_)), || {
            format!("{node} has no majority and granted a {what}: {reply:?}")
        })?;
        ensure(reply.refusal.is_some() && took <= DEADLINE + GRACE, || {
            format!("{node} was given {DEADLINE:?} for a {what}, and after {took:?} there was {reply:?}")
        })
    };
    for (node, when) in
        [(&leader, "a leader"), (&follower, "a follower"), (&follower, "a follower that knows no leader")]
    {
        cluster.isolate(node);
        if when.ends_with("no leader") {
            rt::sleep(ELECTION_BOUND).await;
        }
        let begun = rt::now();
        let reply = Direct::new(&cluster, node).set("key", DEADLINE, PATIENCE).await;
        in_time(node, &format!("write as {when}"), reply, begun).await?;
        let begun = rt::now();
        let reply = Direct::new(&cluster, node).get("key", false, DEADLINE, PATIENCE).await;
        in_time(node, &format!("read as {when}"), reply, begun).await?;
        cluster.heal_network();
        cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    }
    Ok(cluster)
}

/// Values of the largest size reach a node that lagged behind, over a slow network.
pub async fn large_values(run: Arc<Run>) -> Result<Cluster, String> {
    let slow = Duration::from_millis(20)..Duration::from_millis(60);
    let world = World {
        network_latency: slow,
        heartbeat: Duration::from_millis(250),
        election: Duration::from_millis(1_500),
        ..World::calm(3)
    };
    let (cluster, leader) = formed(&run, world).await?;
    let client = client(&cluster);
    let name = others(&cluster.names(), &leader).remove(0);
    cluster.kill(&name);
    for number in 0..40 {
        let (_, outcome) = client.set(&format!("large/{number}"), None, 60_000).await;
        ensure(matches!(outcome, Outcome::Ok(_)), || format!("a large value was not written: {outcome:?}"))?;
    }
    cluster.start(&name);
    Ok(cluster)
}

/// Answers to a client with a session are lost again and again: every write succeeds, applied once.
pub async fn lost_answers(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = three_nodes(&run).await?;
    let client = client(&cluster);
    for number in 0..15 {
        let cut_for = Duration::from_millis(150 + 37 * number);
        let (cutting, host) = (cluster.clone(), client.host().to_owned());
        run.fault("lost answers", "no node's answers reach the client");
        let cut = rt::spawn(async move {
            rt::sleep(Duration::from_millis(3)).await;
            cutting.names().iter().for_each(|name| cutting.cut(name, &host));
            rt::sleep(cut_for).await;
            cutting.names().iter().for_each(|name| cutting.mend(name, &host));
        });
        for _ in 0..3 {
            let (_, outcome) = client.set("key", None, 16).await;
            ensure(matches!(outcome, Outcome::Ok(_)), || format!("a write in a session was {outcome:?}"))?;
        }
        cut.await.map_err(|error| error.to_string())?;
    }
    Ok(cluster)
}

/// More clients than the cluster keeps sessions for: evicted clients receive that error and open new sessions, and
/// nothing is applied twice.
pub async fn evicted_sessions(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = three_nodes(&run).await?;
    let operator = client(&cluster);
    let change = SettingsChange::none().max_sessions(2);
    operator
        .with_library(|library| async move { library.configure(change).await })
        .await
        .map_err(|error| format!("the bound on sessions could not be set: {error}"))?;
    let clients: Vec<SimClient> = (0..4).map(|_| client(&cluster)).collect();
    let mut written = 0;
    for round in 0..10 {
        for client in &clients {
            let (_, outcome) = client.set(&format!("round/{round}"), None, 16).await;
            written += u64::from(matches!(outcome, Outcome::Ok(_)));
        }
    }
    ensure(written >= 20, || format!("only {written} of 40 writes succeeded"))?;
    Ok(cluster)
}

/// The pages of a list belong to one revision while another client writes.
pub async fn pages_of_one_revision(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = three_nodes(&run).await?;
    let writer = client(&cluster);
    for number in 0..30 {
        set(&writer, &format!("page/{number:02}")).await?;
    }
    let reader = client(&cluster);
    for round in 0..10 {
        let (mut start_after, mut at_revision, mut keys) = (Vec::new(), 0, 0);
        loop {
            let mut options = ListOptions::prefix("page/").limit(7).start_after(&start_after);
            if at_revision != 0 {
                options = options.at_revision(at_revision);
            }
            let page = reader.with_library(|library| async move {
                let mut listing = library.list_with(options).await?;
                let mut keys = Vec::new();
                while let Some(entry) = listing.next().await? {
                    keys.push((entry.key.to_vec(), entry.mod_revision));
                }
                Ok::<_, Error>((listing.revision(), keys))
            });
            let (revision, page) = match page.await {
                Ok(page) => page,
                Err(error) => return Err(format!("a page could not be read: {error}")),
            };
            ensure(at_revision == 0 || revision == at_revision, || {
                format!("a page of revision {at_revision} came at revision {revision}")
            })?;
            ensure(page.iter().all(|(_, made)| *made <= revision), || {
                format!("a page of revision {revision} shows a later one: {page:?}")
            })?;
            at_revision = revision;
            keys += page.len();
            match page.last() {
                Some((key, _)) => start_after.clone_from(key),
                None => {
                    ensure(keys == 30, || format!("the pages had {keys} keys of 30"))?;
                    break;
                }
            }
            // Sometimes a write comes between two pages.
            if keys == 14 && round % 2 == 1 {
                set(&writer, "page/00").await?;
            }
        }
    }
    Ok(cluster)
}
