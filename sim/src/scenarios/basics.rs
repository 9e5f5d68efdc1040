//! Elections, partitions, leadership transfer.

use std::sync::Arc;
use std::time::Duration;

use mokv::rt;

use super::setup::{ELECTION_BOUND, client, client_of, ensure, expect, others, set, set_many, three_nodes};
use crate::cluster::Cluster;
use crate::evidence::history::{Answer, Outcome};
use crate::record::Run;

/// Three empty nodes find each other and elect a leader, and every node serves values written through any other.
pub async fn elect_and_write(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = three_nodes(&run).await?;
    for name in cluster.names() {
        let client = client_of(&cluster, &name);
        let (value, _) = set(&client, "greeting").await?;
        for other in cluster.names() {
            expect(&client_of(&cluster, &other), "greeting", value).await?;
        }
    }
    set_many(&client(&cluster), 100).await?;
    Ok(cluster)
}

/// A leader that cannot confirm itself answers neither reads nor writes, although clients reach it.
pub async fn leader_partitioned(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, old) = three_nodes(&run).await?;
    let client = client(&cluster);
    let (before, _) = set(&client, "key").await?;
    let at_the_old_leader = client_of(&cluster, &old);
    expect(&at_the_old_leader, "key", before).await?;
    // This client is left alone with the old leader.
    for name in others(&cluster.names(), &old) {
        cluster.cut(&name, at_the_old_leader.host());
        cluster.cut(at_the_old_leader.host(), &name);
    }
    run.fault("isolated leader", format!("the leader {old} is cut off from the others"));
    cluster.isolate(&old);
    let rest = others(&cluster.names(), &old);
    let new = cluster.wait_for_leader(&rest, ELECTION_BOUND).await?;
    ensure(new != old, || format!("{old} leads although it is alone"))?;
    set(&client, "key").await?;
    let answer = at_the_old_leader.get("key", false).await;
    ensure(!matches!(answer, Outcome::Ok(_)), || format!("the deposed leader answered a read: {answer:?}"))?;
    let answer = at_the_old_leader.set("key", None, 16).await.1;
    ensure(!matches!(answer, Outcome::Ok(_)), || {
        format!("the deposed leader confirmed a write: {answer:?}")
    })?;
    cluster.heal_network();
    let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    let (value, _) = set(&client_of(&cluster, &old), "key").await?;
    expect(&client_of(&cluster, &leader), "key", value).await?;
    Ok(cluster)
}

/// The leader is killed under load, and no client sees an error. Writes and linearizable reads wait for the next
/// leader, stale reads go on meanwhile, and nothing is applied twice. The longest time without an answered write is
/// reported.
pub async fn leader_killed_under_load(run: Arc<Run>) -> Result<Cluster, String> {
    const WRITERS: u64 = 8;
    const READERS: [bool; 4] = [false, false, true, true];
    const BEFORE: Duration = Duration::from_secs(3);
    const AFTER: Duration = Duration::from_secs(9);
    let (cluster, old) = three_nodes(&run).await?;
    let since = rt::now();
    let goes_on = move || rt::now() - since < BEFORE + AFTER;
    let writers = (0..WRITERS).map(|number| {
        let client = client(&cluster);
        rt::spawn(async move {
            let mut answered = Vec::new();
            while goes_on() {
                match client.set(&format!("writer/{number}"), None, 64).await.1 {
                    Outcome::Ok(_) => answered.push(rt::now()),
                    other => return Err(format!("a write was {other:?}")),
                }
            }
            Ok(answered)
        })
    });
    let readers = READERS.into_iter().map(|stale| {
        let client = client(&cluster);
        rt::spawn(async move {
            let mut slowest = Duration::ZERO;
            while goes_on() {
                let before = rt::now();
                let outcome = client.get("writer/0", stale).await;
                if !matches!(outcome, Outcome::Ok(_)) {
                    return Err(format!("a read (stale: {stale}) was {outcome:?}"));
                }
                slowest = slowest.max(rt::now() - before);
                rt::sleep(Duration::from_millis(20)).await;
            }
            Ok((stale, slowest))
        })
    });
    let (writers, readers): (Vec<_>, Vec<_>) = (writers.collect(), readers.collect());
    rt::sleep(BEFORE).await;
    cluster.kill(&old);
    let mut answered = Vec::new();
    for writer in writers {
        answered.extend(writer.await.expect("nobody aborts it")?);
    }
    answered.sort();
    let gap = answered.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    run.tell(format!("the longest time without an answer to a write: {gap:?}"));
    for reader in readers {
        let (stale, slowest) = reader.await.expect("nobody aborts it")?;
        run.tell(format!("the slowest read (stale: {stale}): {slowest:?}"));
        // A client whose stale read goes to the dead leader notices, and asks another node.
        ensure(!stale || slowest < gap, || format!("a stale read took {slowest:?}, and writes {gap:?}"))?;
    }
    cluster.start(&old);
    Ok(cluster)
}

/// A leader that is asked to stop transfers leadership first: writes go on almost at once, and nothing is lost or
/// refused.
pub async fn leader_transfer_on_stop(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, old) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 50).await?;
    let stopping = {
        let (cluster, old) = (cluster.clone(), old.clone());
        rt::spawn(async move { cluster.stop(&old).await })
    };
    let before = rt::now();
    for number in 0..20 {
        let outcome = client.set(&format!("during/{number}"), None, 16).await.1;
        ensure(matches!(outcome, Outcome::Ok(Answer::Written { .. })), || {
            format!("a write during the hand-over was {outcome:?}")
        })?;
    }
    let took = rt::now() - before;
    stopping.await.map_err(|error| error.to_string())?;
    let rest = others(&cluster.names(), &old);
    let new = cluster.wait_for_leader(&rest, Duration::from_secs(2)).await?;
    run.tell(format!("{old} handed over to {new}; 20 writes meanwhile took {took:?}"));
    Ok(cluster)
}

/// The semantics of a condition: it is compared when the write is applied; a mismatch returns the present revision and
/// takes none, nor does the deletion of an absent key.
pub async fn conditions(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = three_nodes(&run).await?;
    let client = client(&cluster);
    let refused = |outcome: Outcome, present: u64| {
        let expected = Outcome::Ok(Answer::ConditionFailed { present_revision: present });
        ensure(outcome == expected, || {
            format!("a write should have been refused at {present} and was {outcome:?}")
        })
    };
    refused(client.set("key", Some(7), 16).await.1, 0)?;
    let outcome = client.set("key", Some(0), 16).await.1;
    let Outcome::Ok(Answer::Written { revision: first }) = outcome else {
        return Err(format!("the key is absent, and writing it if absent was {outcome:?}"));
    };
    refused(client.set("key", Some(0), 16).await.1, first)?;
    refused(client.delete("key", Some(first + 1)).await, first)?;
    let absent = client.delete("nothing", None).await;
    let expected = Outcome::Ok(Answer::Deleted { revision: first, existed: false });
    ensure(absent == expected, || format!("deleting what is absent was {absent:?}"))?;
    let (value, second) = set(&client, "other").await?;
    ensure(second == first + 1, || {
        format!("three refusals and a delete of nothing took revisions: {first}, then {second}")
    })?;
    expect(&client, "other", value).await?;
    // Of writers that all name the same revision one wins, through whichever node they come.
    for round in 0..10 {
        let Outcome::Ok(Answer::Read { entry: Some(entry), .. }) = client.get("key", false).await else {
            return Err("the key is gone".into());
        };
        let race = cluster.names().into_iter().map(|name| {
            let writer = client_of(&cluster, &name);
            rt::spawn(async move { writer.set("key", Some(entry.mod_revision), 16).await.1 })
        });
        let mut winners = 0;
        for attempt in race.collect::<Vec<_>>() {
            match attempt.await.map_err(|error| error.to_string())? {
                Outcome::Ok(Answer::Written { .. }) => winners += 1,
                Outcome::Ok(Answer::ConditionFailed { .. }) => {}
                other => return Err(format!("a conditional write in a healthy cluster was {other:?}")),
            }
        }
        ensure(winners == 1, || format!("in round {round} {winners} of 3 writers won at one revision"))?;
    }
    Ok(cluster)
}
