//! Node identity: joining, lost disks, duplicate names, other addresses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use std::num::NonZeroU32;

use mokv::client::{Consistency, MemberRole};
use mokv::node_id::NodeId;
use mokv::rt;

use super::setup::{ELECTION_BOUND, client, client_of, ensure, expect, formed, set, set_many, three_nodes};
use crate::cluster::{Cluster, Power};
use crate::evidence::history::Outcome;
use crate::record::Run;
use crate::world::World;

/// Longest time until a newcomer votes.
const JOIN_BOUND: Duration = Duration::from_secs(40);

/// The members as a node has applied them: name, node id, and whether it is a learner.
pub async fn members(cluster: &Cluster, of: &str) -> Vec<(String, NodeId, bool)> {
    members_as(cluster, of, Consistency::Stale).await
}

/// The members as a node reports them, from its own state or confirmed by the leader. Empty if it does not answer.
async fn members_as(cluster: &Cluster, of: &str, consistency: Consistency) -> Vec<(String, NodeId, bool)> {
    let client = client_of(cluster, of);
    let servers =
        client.with_library(|library| async move { library.members_with(consistency.into()).await }).await;
    let mut members: Vec<_> = servers
        .map(|members| members.members)
        .unwrap_or_default()
        .into_iter()
        .map(|member| (member.name, member.node_id, member.role == MemberRole::Learner))
        .collect();
    members.sort();
    members
}

/// Waits until the members that `of` reports satisfy `condition`.
pub async fn wait_for_members(
    cluster: &Cluster,
    of: &str,
    what: &str,
    condition: impl Fn(&[(String, NodeId, bool)]) -> bool,
) -> Result<(), String> {
    let before = rt::now();
    loop {
        let members = members(cluster, of).await;
        if condition(&members) {
            return Ok(());
        }
        ensure(rt::now() - before < JOIN_BOUND, || {
            format!("{what} did not happen within {JOIN_BOUND:?}; the members are {members:?}")
        })?;
        rt::sleep(Duration::from_millis(300)).await;
    }
}

/// A cluster grows from one node to five. Its first is removed while it runs and comes back under a new id; then the
/// cluster shrinks to three, whose leader may be among the removed; it takes writes all the while, and none of them is
/// lost.
pub async fn grow_and_shrink(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = formed(&run, World::calm(1)).await?;
    let size = async |what: &str, size: usize| {
        let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
        wait_for_members(&cluster, &leader, what, |members| {
            members.len() == size && members.iter().all(|(_, _, learner)| !learner)
        })
        .await
    };
    for (name, voters) in [("n2", 2), ("n3", 3), ("n4", 4), ("n5", 5)] {
        cluster.add(name, |_| {});
        cluster.start(name);
        set_many(&client(&cluster), 10).await?;
        size(&format!("that {name} became a voter"), voters).await?;
    }
    let remove = async |name: &str| {
        cluster.may_go(name);
        let asked = name.to_owned();
        let asking = client(&cluster);
        let removed =
            asking.with_library(|library| async move { library.replace_member(&asked).await }).await;
        removed.map_err(|error| format!("{name} was not removed: {error}"))
    };
    // It was configured with no other node, and finds its cluster again all the same (chaos seed 402011).
    let former = remove("n1").await?;
    let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    wait_for_members(&cluster, &leader, "that n1 came back as another", |members| {
        members.len() == 5
            && members.iter().all(|(name, id, learner)| !learner && (name != "n1" || *id != former))
    })
    .await?;
    for (name, voters) in [("n1", 4), ("n5", 3)] {
        remove(name).await?;
        cluster.retire(name);
        set_many(&client(&cluster), 10).await?;
        size(&format!("that {name} went"), voters).await?;
    }
    Ok(cluster)
}

/// Five members become three, as by `members resize`. The removed nodes run on and wait outside, as newcomers that
/// report why, while a member whose disk is lost takes its own place again. Then five are wanted, and they join. The
/// cluster takes writes all the while, and none of them is lost.
pub async fn wanted_size(run: Arc<Run>) -> Result<Cluster, String> {
    /// Time of observation, in which a newcomer could join many times over.
    const WAITS: Duration = Duration::from_secs(15);
    let (cluster, leader) = formed(&run, World::calm(5)).await?;
    let goes_on = Arc::new(AtomicBool::new(true));
    let (going, writing) = (goes_on.clone(), client(&cluster));
    let writer = rt::spawn(async move {
        while going.load(Ordering::Relaxed) {
            set_many(&writing, 5).await?;
            rt::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, String>(())
    });
    want_size(&cluster, 3).await?;
    let mut removed = Vec::new();
    for name in ["n5", "n4"] {
        cluster.may_go(name);
        let asking = client(&cluster);
        let id = asking.with_library(|library| async move { library.remove_member(name).await }).await;
        removed.push((name, id.map_err(|error| format!("{name} was not removed: {error}"))?));
        // An operator who resizes in steps asks any node that answers, and that node may not have applied the step
        // before.
        for asked in ["n1", "n2", "n3"] {
            let members = members_as(&cluster, asked, Consistency::Linearizable).await;
            ensure(!members.is_empty() && members.iter().all(|(member, ..)| member != name), || {
                format!("{name} was removed, and {asked} confirms the members {members:?}")
            })?;
        }
    }
    let voters = |members: &[(String, NodeId, bool)]| -> Vec<String> {
        members.iter().filter(|(_, _, learner)| !learner).map(|(name, ..)| name.clone()).collect()
    };
    let lost =
        ["n1", "n2", "n3"].into_iter().find(|name| *name != leader).expect("one of three leads at most");
    let old = cluster.status(lost).await.ok_or("the node does not answer")?.node_id;
    cluster.kill(lost);
    cluster.wipe(lost);
    cluster.start(lost);
    let asked = if lost == "n1" { "n2" } else { "n1" };
    wait_for_members(&cluster, asked, "the replacement of the lost node", |members| {
        members.iter().any(|(name, id, learner)| name == lost && *id != old && !learner)
    })
    .await?;
    let began = rt::now();
    while rt::now() - began < WAITS {
        let members = members(&cluster, asked).await;
        ensure(members.len() == 3 && voters(&members) == ["n1", "n2", "n3"], || {
            format!("three are to be members, and are {members:?}")
        })?;
        rt::sleep(Duration::from_millis(500)).await;
    }
    for (name, id) in &removed {
        waits_outside(&cluster, name, *id).await?;
    }
    want_size(&cluster, 5).await?;
    wait_for_members(&cluster, asked, "that five vote again", |members| voters(members).len() == 5).await?;
    goes_on.store(false, Ordering::Relaxed);
    writer.await.expect("nobody aborts it")?;
    Ok(cluster)
}

/// Sets the wanted number of members. It takes effect only when every member is known to support it.
async fn want_size(cluster: &Cluster, size: u32) -> Result<(), String> {
    let size = NonZeroU32::new(size);
    for _ in 0..100 {
        let library = client(cluster);
        let settings =
            library.with_library(move |library| async move { library.set_wanted_size(size).await }).await;
        if settings.map_err(|error| format!("no size is wanted: {error}"))?.wanted_size == size {
            return Ok(());
        }
        rt::sleep(Duration::from_millis(100)).await;
    }
    Err("the members never come to know a wanted size".to_owned())
}

/// A removed node runs on under another id, and reports why it is not let in while three members are wanted.
async fn waits_outside(cluster: &Cluster, name: &str, removed: NodeId) -> Result<(), String> {
    let status = cluster.status(name).await.ok_or_else(|| format!("{name} does not run on"))?;
    ensure(status.node_id != removed, || format!("{name} does not know that it was removed"))?;
    let reason = "the cluster is to have 3 members; 'mokv members resize --to 4' lets it in";
    ensure(status.reasons.iter().any(|said| said.contains(reason)), || {
        format!("{name} waits, and says {:?}", status.reasons)
    })
}

/// A fourth node that is configured only with gossip addresses becomes a voter and holds the same state.
pub async fn join(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 60).await?;
    cluster.add("n4", |_| {});
    cluster.start("n4");
    wait_for_members(&cluster, &leader, "that n4 became a voter", |members| {
        members.iter().any(|(name, _, learner)| name == "n4" && !learner)
    })
    .await?;
    let (value, _) = set(&client, "after the join").await?;
    expect(&client_of(&cluster, "n4"), "after the join", value).await?;
    // Four voters need three: now the newcomer's acknowledgement counts.
    let other = cluster.names().into_iter().find(|name| *name != leader && name != "n4");
    cluster.kill(&other.expect("there are four nodes"));
    set(&client, "with the newcomer's vote").await?;
    Ok(cluster)
}

/// A newcomer joins one node over a slow link and has 24 MB in 400 values to fetch: few entries, many bytes. Once it
/// votes no write succeeds without it, so it becomes a voter only when it has them; until then writes go on as if it
/// were not there.
pub async fn join_over_a_slow_link(run: Arc<Run>) -> Result<Cluster, String> {
    const LARGE: usize = 60_000;
    /// Delay of a link that carries 1 MiB in this time.
    const DELAY: Duration = Duration::from_millis(250);
    /// Longest that one write may wait for the newcomer: for the membership change, and for the bytes that it may then
    /// still lack.
    const LONGEST_WAIT: Duration = Duration::from_secs(4);
    let (cluster, leader) = formed(&run, World::calm(1)).await?;
    let client = client(&cluster);
    for number in 0..400 {
        let (_, outcome) = client.set(&format!("large/{number}"), None, LARGE).await;
        ensure(matches!(outcome, Outcome::Ok(_)), || {
            format!("large value {number} was not written: {outcome:?}")
        })?;
    }
    cluster.add("n2", |_| {});
    cluster.slow_link(&leader, "n2", DELAY);
    cluster.start("n2");
    let before = rt::now();
    let mut longest = Duration::ZERO;
    loop {
        let began = rt::now();
        set(&client, "during the join").await?;
        longest = longest.max(rt::now() - began);
        let votes = |members: &[(String, NodeId, bool)]| {
            members.iter().any(|(name, _, learner)| name == "n2" && !learner)
        };
        if votes(&members(&cluster, &leader).await) {
            break;
        }
        ensure(rt::now() - before < JOIN_BOUND, || format!("n2 did not vote within {JOIN_BOUND:?}"))?;
        rt::sleep(Duration::from_millis(100)).await;
    }
    let began = rt::now();
    set(&client, "after the join").await?;
    longest = longest.max(rt::now() - began);
    ensure(longest < LONGEST_WAIT, || format!("a write took {longest:?} while n2 joined"))?;
    Ok(cluster)
}

/// A disk is lost: its node comes back under the same name with a new id, and replaces its old id.
pub async fn wiped_disk(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 60).await?;
    let name = cluster.names().into_iter().find(|name| *name != leader).expect("there are three nodes");
    let old = cluster.status(&name).await.ok_or("the node does not answer")?.node_id;
    cluster.kill(&name);
    cluster.wipe(&name);
    cluster.start(&name);
    wait_for_members(&cluster, &leader, "the replacement of the lost node", |members| {
        let same_name: Vec<_> = members.iter().filter(|(other, ..)| *other == name).collect();
        matches!(same_name.as_slice(), [(_, id, false)] if *id != old)
    })
    .await?;
    let (value, _) = set(&client, "after the loss").await?;
    expect(&client_of(&cluster, &name), "after the loss", value).await?;
    Ok(cluster)
}

/// A second node that uses a running node's name is not admitted to the cluster.
pub async fn twin_name(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 20).await?;
    let name = cluster.names().into_iter().find(|name| *name != leader).expect("there are three nodes");
    let id = cluster.status(&name).await.ok_or("the node does not answer")?.node_id;
    cluster.add("twin", |config| config.node_name = name.clone());
    cluster.excuse("twin", "it uses another node's name");
    cluster.start("twin");
    rt::sleep(Duration::from_secs(20)).await;
    let members = members(&cluster, &leader).await;
    ensure(
        members.len() == 3 && members.iter().any(|(other, other_id, _)| *other == name && *other_id == id),
        || format!("the twin of {name} (id {id}) changed the members to {members:?}"),
    )?;
    set_many(&client, 20).await?;
    if cluster.power("twin") != Power::Off {
        cluster.kill("twin");
    }
    cluster.forget("twin");
    Ok(cluster)
}

/// All nodes come back at addresses that are recorded nowhere; only their names still resolve to them.
pub async fn all_addresses_change(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = three_nodes(&run).await?;
    let patient = client(&cluster);
    let (value, _) = set(&patient, "key").await?;
    for name in cluster.names() {
        cluster.kill(&name);
    }
    cluster.change_all_addresses(1);
    cluster.start_all();
    cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    expect(&client(&cluster), "key", value).await?;
    expect(&patient, "key", value).await?;
    Ok(cluster)
}
