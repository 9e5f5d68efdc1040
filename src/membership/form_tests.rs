use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::membership::claim::{Claim, ClusterId};
use crate::membership::datagram::Key;
use crate::membership::gossip::GossipConfig;
use crate::membership::swim::Pace;
use crate::rt::disk::{Operation, SimDisk};
use crate::rt::net::Resolver;
use crate::rt::timeout;

/// Only a broken build takes this long.
const GENEROUS: Duration = Duration::from_secs(60);

async fn start(name: &str, disk: &SimDisk, port: u16, joins: &[String]) -> (Identity, Gossip) {
    start_resolving(name, disk, port, joins, Resolver::default()).await
}

async fn start_resolving(
    name: &str,
    disk: &SimDisk,
    port: u16,
    joins: &[String],
    resolver: Resolver,
) -> (Identity, Gossip) {
    let identity = Identity::load_or_create(disk.mount(), name, |_| false).await.unwrap();
    let claim = Claim {
        boot: identity.boot(),
        gossip_addr: "127.0.0.1:0".into(),
        ..Claim::example(name, identity.node_id())
    };
    let bind = ([127, 0, 0, 1], port).into();
    let config = GossipConfig { bind, joins: joins.to_vec(), pace: Pace::default(), resolver };
    let gossip = Gossip::start(config, claim, Key::open()).await.unwrap();
    (identity, gossip)
}

async fn form_in_time(identity: &mut Identity, gossip: &Gossip, intent: Intent, joins: &[String]) -> Formed {
    timeout(GENEROUS, form(identity, gossip, intent, joins, &watch::channel(None).0))
        .await
        .expect("a cluster in time")
        .unwrap()
}

/// Three ports that were free when this returned.
fn free_ports() -> Vec<u16> {
    let sockets: Vec<_> = (0..3).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect()
}

#[tokio::test]
async fn e3_three_nodes_form_one_cluster_over_the_wire_and_know_it_after_a_restart() {
    let ports = free_ports();
    let joins: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let disks: Vec<SimDisk> = (0..3).map(|_| SimDisk::new(1)).collect();
    let mut tasks = Vec::new();
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        let (disk, joins, port) = (disks[index].clone(), joins.clone(), ports[index]);
        tasks.push(crate::rt::spawn(async move {
            let (mut identity, gossip) = start(name, &disk, port, &joins).await;
            let formed = form_in_time(&mut identity, &gossip, Intent::Expect(3), &joins).await;
            (formed, gossip)
        }));
    }
    let mut formed = Vec::new();
    let mut running = Vec::new();
    for task in tasks {
        let (form, gossip) = task.await.unwrap();
        formed.push(form);
        running.push(gossip);
    }
    assert!(formed.iter().all(|form| *form == formed[0]), "{formed:?}");
    let Formed::Initialise { members, .. } = &formed[0] else { panic!("{formed:?}") };
    assert_eq!(members.values().map(|member| member.name.as_str()).collect::<BTreeSet<_>>().len(), 3);

    drop(running);
    disks[0].power_loss();
    let (mut identity, gossip) = start("a", &disks[0], 0, &joins).await;
    assert_eq!(form_in_time(&mut identity, &gossip, Intent::Expect(3), &joins).await, formed[0]);
}

#[tokio::test]
async fn the_first_node_bootstraps_and_the_second_joins_it() {
    let (mut first, first_gossip) = start("a", &SimDisk::new(1), 0, &[]).await;
    let formed = form_in_time(&mut first, &first_gossip, Intent::Bootstrap, &[]).await;
    assert!(matches!(&formed, Formed::Initialise { members, .. } if members.len() == 1));
    let joins = [first_gossip.local_addr().to_string()];
    let (mut second, second_gossip) = start("b", &SimDisk::new(1), 0, &joins).await;
    let joined = form_in_time(&mut second, &second_gossip, Intent::Join, &joins).await;
    assert_eq!(joined, Formed::Joined { cluster_id: formed.cluster_id() });
    assert_eq!(second.cluster_id(), Some(formed.cluster_id()));
    let mut view = first_gossip.view();
    let sees_it = view.wait_for(|view| {
        view.values().any(|peer| peer.claim.name == "b" && peer.claim.state == State::Joining)
    });
    timeout(GENEROUS, sees_it).await.unwrap().unwrap();
}

#[tokio::test]
async fn e3_a_pledge_is_durable_before_it_is_said() {
    let disk = SimDisk::new(1);
    let (mut identity, gossip) = start("a", &disk, 0, &[]).await;
    disk.fail_nth(Operation::Create, 1);
    let error =
        form(&mut identity, &gossip, Intent::Bootstrap, &[], &watch::channel(None).0).await.unwrap_err();
    assert!(matches!(error, FormError::Identity(IdentityError::Disk { .. })), "{error}");
    let own = gossip.view().borrow()[&identity.node_id()].claim.clone();
    assert_eq!(own.cluster_id, None::<ClusterId>);
    assert!(matches!(own.state, State::Pristine { pledge: None, .. }));
}

/// An attempt of gossip waits two seconds for a name; a lookup that took longer once never ended.
#[tokio::test]
async fn three_nodes_form_a_cluster_though_their_name_server_is_slow() {
    const SLOW: Duration = Duration::from_secs(3);
    let ports = free_ports();
    let joins: Vec<String> = ports.iter().map(|port| format!("node-at-{port}.example:{port}")).collect();
    let resolver = || {
        Resolver::asking(|name| async move {
            crate::rt::sleep(SLOW).await;
            let (_, port) = name.rsplit_once(':').expect("a port");
            Ok(vec![([127, 0, 0, 1], port.parse().expect("a number")).into()])
        })
    };
    let mut tasks = Vec::new();
    for (port, name) in ports.into_iter().zip(["a", "b", "c"]) {
        let (joins, resolver) = (joins.clone(), resolver());
        tasks.push(crate::rt::spawn(async move {
            let (mut identity, gossip) =
                start_resolving(name, &SimDisk::new(1), port, &joins, resolver).await;
            let formed = form_in_time(&mut identity, &gossip, Intent::Expect(3), &joins).await;
            (formed, gossip)
        }));
    }
    let mut formed = BTreeSet::new();
    let mut running = Vec::new();
    for task in tasks {
        let (form, gossip) = task.await.unwrap();
        formed.insert(form.cluster_id());
        running.push(gossip);
    }
    assert_eq!(formed.len(), 1, "{formed:?}");
}

#[test]
fn what_is_waited_for_in_turns_is_not_said_with_every_attempt() {
    let mut reported = Reported::default();
    let began = rt::now();
    let size = |expected| Waiting::Size { name: "node-2".into(), expected, own: 3 };
    let answers = |from: &str| Waiting::Answers(vec![from.to_owned()]);
    let said = (0..70).flat_map(|seconds| {
        let now = began + Duration::from_secs(seconds);
        // The details differ from attempt to attempt.
        let of_answers = reported.is_news(&answers(&format!("10.0.0.{seconds}:8401")), now);
        [of_answers, reported.is_news(&size(5), now)]
    });
    let said: Vec<bool> = said.collect();
    let count = |place: usize| said.iter().skip(place).step_by(2).filter(|said| **said).count();
    assert_eq!(
        (count(0), count(1)),
        (7, 2),
        "every ten seconds, and every minute if the operator has to act"
    );
    assert!(said[0] && said[1], "at once at first");
}
