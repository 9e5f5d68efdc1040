//! How clusters form, and how they stay apart.

use std::sync::Arc;
use std::time::Duration;

use mokv::client::Error;
use mokv::node_id::NodeId;
use mokv::rt;

use super::identity::{members, wait_for_members};
use super::setup::{
    ELECTION_BOUND, client, ensure, formed, others, set, set_many, three_nodes, wait_for_end,
};
use crate::clients::SimClient;
use crate::cluster::{Cluster, Power};
use crate::phases::set_up;
use crate::record::Run;
use crate::world::dice::Dice;
use crate::world::{Datagrams, World};

/// Two of three expected nodes never form a cluster, however long the third does not answer.
pub async fn silence_is_no_consent(run: Arc<Run>) -> Result<Cluster, String> {
    let world = World::calm(3);
    run.set_world(world.to_string());
    let cluster = set_up(&run, &world);
    cluster.start("n1");
    cluster.start("n2");
    rt::sleep(Duration::from_secs(20)).await;
    for name in ["n1", "n2"] {
        let status = cluster.status(name).await.ok_or_else(|| format!("{name} does not answer"))?;
        ensure(status.leader.is_none() && status.applied_index == 0, || {
            format!("{name} is {} of a cluster that n3 never agreed to", status.role)
        })?;
    }
    cluster.start("n3");
    cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    Ok(cluster)
}

/// Seven nodes form a cluster although many datagrams are lost: a missing answer is requested again, and the attempt
/// goes on.
pub async fn forming_under_loss(run: Arc<Run>) -> Result<Cluster, String> {
    let datagrams = Datagrams { loss: 0.25, duplication: 0.1, reordering: 0.1 };
    let (cluster, leader) = formed(&run, World { datagrams, ..World::calm(7) }).await?;
    wait_for_members(&cluster, &leader, "that all seven are members", |members| members.len() == 7).await?;
    Ok(cluster)
}

/// Every name lookup takes longer than any attempt to connect or to join: a cluster forms, and survives the restart of
/// each of its nodes, which loses its cached addresses.
pub async fn slow_name_server(run: Arc<Run>) -> Result<Cluster, String> {
    /// How long the system's resolver waits for a name server before it asks the next.
    const LOOKUP: Duration = Duration::from_secs(5);
    let world = World::calm(3);
    run.set_world(world.to_string());
    let cluster = set_up(&run, &world);
    cluster.slow_name_server(LOOKUP);
    cluster.start_all();
    let names = cluster.names();
    cluster.wait_for_leader(&names, ELECTION_BOUND + 2 * LOOKUP).await?;
    // Its first call waits for a lookup, too.
    let client = SimClient::new(&cluster, &names, 3 * LOOKUP, true);
    for name in &names {
        cluster.stop(name).await;
        cluster.wait_for_leader(&others(&names, name), ELECTION_BOUND).await?;
        set(&client, &format!("without {name}")).await?;
        cluster.start(name);
        cluster.wait_for_leader(&names, ELECTION_BOUND + 2 * LOOKUP).await?;
    }
    set(&client, "after the last restart").await?;
    Ok(cluster)
}

/// Machines lose power again and again while the cluster forms: the result is one cluster of all three nodes.
pub async fn power_losses_while_forming(run: Arc<Run>) -> Result<Cluster, String> {
    let world = World::calm(3);
    run.set_world(world.to_string());
    let cluster = set_up(&run, &world);
    let mut dice = Dice::new(run.seed, "forming");
    for _ in 0..8 {
        cluster.start_all();
        for name in cluster.names() {
            rt::sleep(dice.time(Duration::ZERO..Duration::from_millis(700))).await;
            if dice.chance(0.6) {
                cluster.power_loss(&name);
            }
        }
    }
    cluster.start_all();
    let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    wait_for_members(&cluster, &leader, "that all three are members", |members| members.len() == 3).await?;
    Ok(cluster)
}

/// A cluster of one that is configured to join another cluster neither joins it nor harms it.
pub async fn two_clusters(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    set_many(&client(&cluster), 20).await?;
    cluster.add("stranger", |config| {
        config.bootstrap = true;
        config.start_join_addrs.clear();
    });
    cluster.set_outsider("stranger", true);
    cluster.start("stranger");
    cluster.wait_for_leader(&["stranger".to_owned()], ELECTION_BOUND).await?;
    cluster.stop("stranger").await;
    let joins = vec!["n1.sim:8401".to_owned(), "n2.sim:8401".to_owned()];
    cluster.configure("stranger", |config| {
        config.bootstrap = false;
        config.start_join_addrs = joins;
    });
    cluster.excuse("stranger", "it belongs to another cluster");
    cluster.start("stranger");
    rt::sleep(Duration::from_secs(15)).await;
    let found = members(&cluster, &leader).await;
    ensure(found.len() == 3, || format!("a node of another cluster changed the members to {found:?}"))?;
    if cluster.power("stranger") != Power::Off {
        cluster.kill("stranger");
    }
    cluster.forget("stranger");
    Ok(cluster)
}

/// An empty node receives the ids of two clusters, the second one a moment later: it joins neither, and reports which
/// peer sent which.
pub async fn newcomer_of_two_clusters(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    cluster.add("stranger", |config| {
        config.bootstrap = true;
        config.start_join_addrs.clear();
    });
    cluster.set_outsider("stranger", true);
    cluster.start("stranger");
    cluster.wait_for_leader(&["stranger".to_owned()], ELECTION_BOUND).await?;
    cluster.add("newcomer", |config| {
        config.bootstrap_expect = None;
        config.start_join_addrs = vec!["n1.sim:8401".to_owned(), "stranger.sim:8401".to_owned()];
    });
    cluster.excuse("newcomer", "it is told of two clusters");
    cluster.cut("stranger", "newcomer");
    cluster.start("newcomer");
    rt::sleep(Duration::from_millis(500)).await;
    cluster.mend("stranger", "newcomer");
    let reason = wait_for_end(&cluster, "newcomer", ELECTION_BOUND).await?;
    ensure(
        ["two clusters", "'n1' at n1.sim:8401", "'stranger' at stranger.sim:8401"]
            .iter()
            .all(|part| reason.contains(part)),
        || format!("the newcomer does not say who told it of which cluster: {reason}"),
    )?;
    let found = members(&cluster, &leader).await;
    ensure(found.len() == 3, || format!("a node that is told of two clusters joined one: {found:?}"))?;
    cluster.kill("stranger");
    cluster.forget("stranger");
    cluster.forget("newcomer");
    Ok(cluster)
}

/// A newcomer without the cluster's key is not admitted.
pub async fn wrong_key(run: Arc<Run>) -> Result<Cluster, String> {
    let world = World::calm(3);
    run.set_world(world.to_string());
    let cluster = set_up(&run, &world);
    let key = |text: &str| Some(text.as_bytes().to_vec().into());
    for name in cluster.names() {
        cluster.configure(&name, |config| config.cluster_key = key("the key of this cluster"));
    }
    cluster.start_all();
    let leader = cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    for (name, secret) in [("guesser", key("another key entirely")), ("keyless", None)] {
        cluster.add(name, |config| {
            config.cluster_key = secret;
            config.bootstrap_expect = None;
        });
        cluster.excuse(name, "it does not know the key");
        cluster.start(name);
    }
    rt::sleep(Duration::from_secs(15)).await;
    let found = members(&cluster, &leader).await;
    ensure(found.len() == 3, || format!("without the key somebody joined: {found:?}"))?;
    for name in ["guesser", "keyless"] {
        if cluster.power(name) != Power::Off {
            cluster.kill(name);
        }
        cluster.forget(name);
    }
    Ok(cluster)
}

/// Removes a member whose place stays open; the answer must contain its id.
async fn remove(cluster: &Cluster, client: &SimClient, name: &str, id: NodeId) -> Result<(), String> {
    cluster.may_go(name);
    let asked = name.to_owned();
    let removed = client.with_library(|library| async move { library.replace_member(&asked).await }).await;
    ensure(removed.as_ref().is_ok_and(|removed| *removed == id), || {
        format!("the removal of {name} (id {id}) was {removed:?}")
    })
}

/// Waits until a removed node votes again under another id than `old`, as `of` reports it.
async fn wait_for_another(cluster: &Cluster, of: &str, name: &str, old: NodeId) -> Result<(), String> {
    wait_for_members(cluster, of, &format!("that {name} came back as a new node"), |members| {
        members.iter().any(|(member, id, learner)| member == name && !learner && *id != old)
    })
    .await
}

/// A member is removed while it is down: its id never comes back, and its node starts over under a new one.
pub async fn removed_member(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    cluster.add("n4", |_| {});
    cluster.start("n4");
    let is_voter = |members: &[(String, NodeId, bool)]| {
        members.iter().any(|(name, _, learner)| name == "n4" && !learner)
    };
    wait_for_members(&cluster, &leader, "that n4 became a voter", is_voter).await?;
    set_many(&client, 30).await?;
    let old = cluster.status("n4").await.ok_or("n4 does not answer")?.node_id;
    cluster.kill("n4");
    remove(&cluster, &client, "n4", old).await?;
    wait_for_members(&cluster, &leader, "the removal of n4", |members| members.len() == 3).await?;
    cluster.start("n4");
    wait_for_another(&cluster, &leader, "n4", old).await?;
    Ok(cluster)
}

/// A newcomer is killed as soon as it has the cluster's id, and removed before it has received any entry (chaos seed
/// 4000631). Its log names no node that it could ask, and it still learns that it has to come back under a new id.
pub async fn removed_before_it_heard(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 30).await?;
    cluster.add("n4", |_| {});
    cluster.start("n4");
    // It learns of the cluster by gossip, and receives nothing over Raft's connections.
    for name in others(&cluster.names(), "n4") {
        cluster.slow_link(&name, "n4", Duration::from_secs(60));
    }
    wait_for_members(&cluster, &leader, "that n4 is a learner", |members| members.len() == 4).await?;
    let old = members(&cluster, &leader).await.into_iter().find(|(name, ..)| name == "n4");
    let old = old.ok_or("n4 is no member")?.1;
    cluster.kill("n4");
    remove(&cluster, &client, "n4", old).await?;
    cluster.heal_network();
    cluster.start("n4");
    wait_for_another(&cluster, &leader, "n4", old).await?;
    Ok(cluster)
}

/// A newcomer is killed as soon as its log has it as a learner, and removed while it is down (chaos seed 7000591). No
/// node contacts it any more and it does not stand for election, and it still learns that it has to come back under a
/// new id.
pub async fn removed_learner(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    // More entries than a learner may lag when it becomes a voter.
    set_many(&client, 1_100).await?;
    let entries = |name: &str| run.with_logs(|logs| logs.measure(name)).map_or(0, |(entries, _)| entries);
    let without_it = entries(&leader);
    cluster.add("n4", |_| {});
    cluster.start("n4");
    // It receives everything, and its answers arrive too late to make it a voter.
    cluster.slow_link("n4", &leader, Duration::from_millis(200));
    let heard = async {
        while entries("n4") <= without_it {
            rt::sleep(Duration::from_millis(1)).await;
        }
    };
    rt::timeout(ELECTION_BOUND, heard).await.map_err(|_| "n4 never heard that it is a learner")?;
    // Enough time to write the entry, not enough for the answer to arrive.
    rt::sleep(Duration::from_millis(100)).await;
    cluster.kill("n4");
    let members_now = members(&cluster, &leader).await;
    let old = members_now.iter().find(|(name, _, learner)| name == "n4" && *learner);
    let old = old.ok_or_else(|| format!("n4 is no learner: {members_now:?}"))?.1;
    remove(&cluster, &client, "n4", old).await?;
    cluster.heal_network();
    cluster.start("n4");
    wait_for_another(&cluster, &leader, "n4", old).await?;
    Ok(cluster)
}

/// A voter is removed while it is down, and so is, one after the other, every node that its log names: they come back
/// under new ids. When it starts again, no node that it would ask for a vote exists, and only gossip has the new ones.
pub async fn removed_and_all_others_new(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 30).await?;
    let mut followers = others(&cluster.names(), &leader);
    let (dead, other) = (followers.remove(0), followers.remove(0));
    let before = members(&cluster, &leader).await;
    let id_of = |name: &str| {
        let found = before.iter().find(|(member, ..)| member == name);
        found.map(|(_, id, _)| *id).unwrap_or_default()
    };
    cluster.kill(&dead);
    for name in [&dead, &other, &leader] {
        remove(&cluster, &client, name, id_of(name)).await?;
        if *name == dead {
            continue;
        }
        // It comes back under a new id before the next one is removed.
        let sees = if *name == leader { &other } else { &leader };
        wait_for_another(&cluster, sees, name, id_of(name)).await?;
    }
    cluster.start(&dead);
    wait_for_another(&cluster, &other, &dead, id_of(&dead)).await?;
    Ok(cluster)
}

/// A new leader admits a newcomer that no Raft message reaches (chaos seed 7001827). However short the log, it does not
/// become a voter: with one of the other three down, every commit would need its acknowledgement.
pub async fn unheard_newcomer(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, first) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 10).await?;
    let rest = others(&cluster.names(), &first);
    cluster.kill(&first);
    cluster.add("n4", |_| {});
    cluster.start("n4");
    for name in &rest {
        cluster.slow_link(name, "n4", Duration::from_secs(60));
    }
    let leader = cluster.wait_for_leader(&rest, ELECTION_BOUND).await?;
    wait_for_members(&cluster, &leader, "that n4 is a learner", |members| members.len() == 4).await?;
    for _ in 0..20 {
        rt::sleep(Duration::from_millis(250)).await;
        let found = members(&cluster, &leader).await;
        let votes = found.iter().any(|(name, _, learner)| name == "n4" && !learner);
        ensure(!votes, || format!("n4 has never answered, and votes: {found:?}"))?;
    }
    set_many(&client, 10).await?;
    cluster.heal_network();
    cluster.start(&first);
    wait_for_members(&cluster, &leader, "that n4 votes", |members| {
        members.iter().filter(|(_, _, learner)| !learner).count() == 4
    })
    .await?;
    Ok(cluster)
}

/// The leader removes itself and is killed at some moment of that, perhaps after it has written the membership without
/// itself and before it learns that it is removed (chaos seed 601852). It comes back under a new id.
pub async fn removed_leader_killed(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    set_many(&client(&cluster), 30).await?;
    let old = cluster.status(&leader).await.ok_or_else(|| format!("{leader} does not answer"))?.node_id;
    cluster.may_go(&leader);
    let asked = leader.clone();
    let asking = client(&cluster);
    let removal = rt::spawn(async move {
        asking.with_library(|library| async move { library.replace_member(&asked).await }).await
    });
    let mut dice = Dice::new(run.seed, "when the leader is killed");
    rt::sleep(Duration::from_millis(dice.within(50..1_500))).await;
    cluster.kill(&leader);
    let said = removal.await.expect("nobody aborts it");
    run.tell(format!("the removal of {leader}: {said:?}"));
    let rest = others(&cluster.names(), &leader);
    let new = cluster.wait_for_leader(&rest, ELECTION_BOUND).await?;
    cluster.start(&leader);
    // Requested again in case the first request was lost: a removal that is done or under way is not found, or is done
    // twice.
    let asked = leader.clone();
    let again = client(&cluster);
    let again = again.with_library(|library| async move { library.replace_member(&asked).await }).await;
    run.tell(format!("and asked again: {again:?}"));
    wait_for_members(&cluster, &new, "that the leader came back as another node", |members| {
        members.len() == 3
            && members.iter().all(|(name, id, learner)| !learner && (*name != leader || *id != old))
    })
    .await?;
    Ok(cluster)
}

/// A member is removed while it runs. It learns so over connections that it already has, sets its data aside and comes
/// back under a new id.
pub async fn removed_alive(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 30).await?;
    let name = others(&cluster.names(), &leader).remove(0);
    let old = cluster.status(&name).await.ok_or_else(|| format!("{name} does not answer"))?.node_id;
    // After it has asked for votes, it has connections of its own to all others.
    cluster.isolate(&name);
    rt::sleep(Duration::from_secs(3)).await;
    cluster.heal_network();
    cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    remove(&cluster, &client, &name, old).await?;
    run.fault("removed member", format!("{name} is removed while it runs"));
    wait_for_another(&cluster, &leader, &name, old).await?;
    Ok(cluster)
}

/// With one of three nodes down the removal of another one is refused: the rest could commit nothing. The cluster goes
/// on unchanged.
pub async fn removal_needs_a_majority(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 10).await?;
    let followers = others(&cluster.names(), &leader);
    let (dead, living) = (&followers[0], followers[1].clone());
    cluster.kill(dead);
    // Long enough for the leader's own connection to notice.
    rt::sleep(Duration::from_secs(5)).await;
    let asked = living.clone();
    let removed = client.with_library(|library| async move { library.remove_member(&asked).await }).await;
    let refused = matches!(&removed, Err(Error::Refused(_)));
    ensure(refused, || format!("the removal of {living} while {dead} is dead was {removed:?}"))?;
    set_many(&client, 10).await?;
    cluster.start(dead);
    wait_for_members(&cluster, &leader, "that all three are members", |members| members.len() == 3).await?;
    Ok(cluster)
}

/// One of two members is removed. Its acknowledgement of that entry is delayed for long, and the caller gives up. Then
/// the removal of the other one, the leader, is requested too, while no applied entry shows the first removal: one of
/// the two stays.
pub async fn removal_commits_late(run: Arc<Run>) -> Result<Cluster, String> {
    const LATE: Duration = Duration::from_secs(8);
    /// Time in which the follower's answer is sent, usually without that of a heartbeat.
    const WINDOW: Duration = Duration::from_millis(20);
    let world = World {
        heartbeat: Duration::from_millis(400),
        election: Duration::from_millis(2_000),
        ..World::calm(2)
    };
    let (cluster, leader) = formed(&run, world).await?;
    set_many(&client(&cluster), 10).await?;
    let follower = others(&cluster.names(), &leader).remove(0);
    let id_of = |name: &str| NodeId(run.with_logs(|logs| logs.node_on(name)).unwrap_or_default());
    let (stays, goes) = (id_of(&leader), id_of(&follower));
    // By now the entries that a new cluster appends by itself are written.
    rt::sleep(Duration::from_secs(5)).await;
    for (name, patience) in [(&follower, 600), (&leader, 2_000)] {
        let impatient = SimClient::new(&cluster, &cluster.names(), Duration::from_millis(patience), true);
        cluster.removal_asked(name);
        let asked = name.clone();
        let removal = rt::spawn(async move {
            impatient.with_library(|library| async move { library.replace_member(&asked).await }).await
        });
        if *name == follower {
            let is_written = async {
                while run.with_logs(|logs| !logs.is_to_be_buried(goes.0)) {
                    rt::sleep(Duration::from_micros(200)).await;
                }
            };
            let written = rt::timeout(Duration::from_millis(patience), is_written).await;
            written.map_err(|_| format!("{leader} never wrote down that {follower} goes"))?;
            run.fault("late answer", format!("what {follower} says to that is under way for {LATE:?}"));
            cluster.slow_link(&follower, &leader, LATE);
            rt::sleep(WINDOW).await;
            cluster.slow_link(&follower, &leader, Duration::ZERO);
        }
        let removed = removal.await.expect("nobody aborts it");
        run.tell(format!("the removal of {name}: {removed:?}"));
        ensure(removed.is_err(), || {
            format!("{follower} has not been heard, and {name} was removed: {removed:?}")
        })?;
    }
    cluster.reset_connections(&leader, &follower);
    wait_for_another(&cluster, &leader, &follower, goes).await?;
    let found = members(&cluster, &leader).await;
    ensure(found.iter().any(|(name, id, learner)| *name == leader && *id == stays && !learner), || {
        format!("{leader} was the last voter and is gone: {found:?}")
    })?;
    Ok(cluster)
}

/// A node is cut off for so long that both sides have removed each other from gossip: after healing they find each
/// other again.
pub async fn long_partition(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    let name = others(&cluster.names(), &leader).remove(0);
    run.fault("isolated node", format!("{name} is cut off for two minutes"));
    cluster.isolate(&name);
    for _ in 0..12 {
        set_many(&client, 5).await?;
        rt::sleep(Duration::from_secs(10)).await;
    }
    Ok(cluster)
}
