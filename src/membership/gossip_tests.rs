use super::*;
use crate::membership::claim::Intent;
use crate::node_id::NodeId;

const CLUSTER: ClusterId = ClusterId([1; 16]);
/// Only a broken build takes this long.
const GENEROUS: Duration = Duration::from_secs(60);

fn quick() -> Pace {
    Pace {
        probe_period: Duration::from_millis(200),
        probe_timeout: Duration::from_millis(80),
        suspicion: Duration::from_millis(300),
    }
}

fn claim(node_id: u64, boot: u64, cluster_id: Option<ClusterId>) -> Claim {
    let pristine = State::Pristine { intent: Intent::Join, pledge: None };
    Claim {
        boot,
        cluster_id,
        gossip_addr: "127.0.0.1:0".into(),
        state: if cluster_id.is_some() { State::Member } else { pristine },
        ..Claim::example(&format!("node-{node_id}"), NodeId(node_id))
    }
}

async fn start_with(claim: Claim, joins: &[SocketAddr], key: Key) -> Gossip {
    let config = GossipConfig {
        bind: "127.0.0.1:0".parse().unwrap(),
        joins: joins.iter().map(SocketAddr::to_string).collect(),
        pace: quick(),
        resolver: Resolver::default(),
    };
    Gossip::start(config, claim, key).await.unwrap()
}

async fn start(node_id: u64, boot: u64, cluster_id: Option<ClusterId>, joins: &[SocketAddr]) -> Gossip {
    start_with(claim(node_id, boot, cluster_id), joins, Key::open()).await
}

async fn until<T>(mut watched: watch::Receiver<T>, condition: impl FnMut(&T) -> bool) {
    timeout(GENEROUS, watched.wait_for(condition)).await.expect("the condition is met").unwrap();
}

fn alive(view: &View) -> Vec<u64> {
    let alive = view.iter().filter(|(_, peer)| peer.liveness == Liveness::Alive);
    alive.map(|(node_id, _)| node_id.0).collect()
}

#[tokio::test]
async fn three_nodes_find_each_other_through_one_of_them() {
    let first = start(1, 1, Some(CLUSTER), &[]).await;
    let second = start(2, 1, Some(CLUSTER), &[first.local_addr()]).await;
    let third = start(3, 1, Some(CLUSTER), &[first.local_addr()]).await;
    for node in [&first, &second, &third] {
        until(node.view(), |view| alive(view) == [1, 2, 3]).await;
    }
    assert_eq!(second.address_of(NodeId(3)).as_deref(), Some("node-3:8400"));
    assert_eq!(second.address_of(NodeId(4)), None);
}

#[tokio::test]
async fn a_dead_node_is_noticed_and_its_next_boot_at_another_address_takes_its_place() {
    let first = start(1, 1, Some(CLUSTER), &[]).await;
    let second = start(2, 1, Some(CLUSTER), &[first.local_addr()]).await;
    until(first.view(), |view| alive(view) == [1, 2]).await;
    drop(second);
    until(first.view(), |view| view[&NodeId(2)].liveness == Liveness::Down).await;
    let again = Claim { rpc_addr: "elsewhere:8400".into(), ..claim(2, 2, Some(CLUSTER)) };
    let _second = start_with(again, &[first.local_addr()], Key::open()).await;
    until(first.view(), |view| alive(view) == [1, 2]).await;
    assert_eq!(first.address_of(NodeId(2)).as_deref(), Some("elsewhere:8400"));
}

#[tokio::test]
async fn e8_members_of_raft_are_asked_for_ever_even_by_a_node_without_join_addresses() {
    let second = start(2, 1, Some(CLUSTER), &[]).await;
    let first = start(1, 1, Some(CLUSTER), &[]).await;
    // Both gossip on ports of their own here, so the member's address carries the gossip port and the claim's is used.
    let mut own = claim(3, 1, Some(CLUSTER));
    own.gossip_addr = format!("127.0.0.1:{}", second.local_addr().port());
    let third = start_with(own, &[], Key::open()).await;
    third.set_members(
        [(2, "127.0.0.1:1"), (3, "127.0.0.1:2")].map(|(id, at)| (NodeId(id), at.to_owned())).into(),
    );
    until(third.view(), |view| alive(view) == [2, 3]).await;
    drop(first);
}

#[tokio::test]
async fn a_leaver_is_known_to_have_left() {
    let first = start(1, 1, Some(CLUSTER), &[]).await;
    let second = start(2, 1, Some(CLUSTER), &[first.local_addr()]).await;
    until(first.view(), |view| alive(view) == [1, 2]).await;
    second.leave().await;
    until(first.view(), |view| view[&NodeId(2)].liveness == Liveness::Left).await;
}

#[tokio::test]
async fn e2_join_addresses_answer_a_pristine_node_and_its_own_is_recognized_by_its_id() {
    let member = start(1, 1, Some(CLUSTER), &[]).await;
    let silent = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let joins = [member.local_addr(), silent.local_addr().unwrap()];
    let pristine = start(2, 1, None, &joins).await;
    let from_member = member.local_addr().to_string();
    until(pristine.answers(), |answers| {
        answers.names.get(&from_member).is_some_and(|name| name.is_complete())
    })
    .await;
    let answers = pristine.answers().borrow().clone();
    assert_eq!(answers.claims()[&NodeId(1)].cluster_id, Some(CLUSTER));
    assert!(!answers.is_complete(), "silence is no answer");
    assert_eq!(alive(&member.view().borrow()), [1], "a pristine node is no member");

    let own_name = start(3, 1, None, &[pristine.local_addr()]).await;
    until(own_name.answers(), |answers| answers.claims().contains_key(&NodeId(2))).await;
}

#[tokio::test]
async fn e4_a_node_that_adopts_the_cluster_joins_its_gossip() {
    let member = start(1, 1, Some(CLUSTER), &[]).await;
    let pristine = start(2, 1, None, &[member.local_addr()]).await;
    until(pristine.answers(), |answers| answers.is_complete() && answers.attempt > 0).await;
    pristine.set_claim(Some(CLUSTER), State::Joining);
    until(member.view(), |view| alive(view) == [1, 2]).await;
    assert_eq!(member.view().borrow()[&NodeId(2)].claim.state, State::Joining);
    pristine.set_claim(Some(CLUSTER), State::Member);
    until(member.view(), |view| view[&NodeId(2)].claim.state == State::Member).await;
}

#[tokio::test]
async fn e4_e8_two_clusters_that_meet_refuse_each_other_loudly() {
    let first = start(1, 1, Some(CLUSTER), &[]).await;
    let second = start(2, 1, Some(ClusterId([2; 16])), &[first.local_addr()]).await;
    until(first.alarms(), |alarms| {
        alarms.iter().any(|alarm| matches!(alarm, Alarm::ForeignCluster { node_id: NodeId(2), .. }))
    })
    .await;
    assert_eq!(alive(&first.view().borrow()), [1]);
    assert_eq!(alive(&second.view().borrow()), [2]);
}

#[tokio::test]
async fn e9_without_the_key_no_node_is_known_and_the_mismatch_is_reported() {
    let key = || Key::secret(b"the cluster's key");
    let first = start_with(claim(1, 1, Some(CLUSTER)), &[], key()).await;
    let second = start_with(claim(2, 1, Some(CLUSTER)), &[first.local_addr()], key()).await;
    let outsider = start(3, 1, Some(CLUSTER), &[first.local_addr()]).await;
    until(first.view(), |view| alive(view) == [1, 2]).await;
    until(second.view(), |view| alive(view) == [1, 2]).await;
    until(first.alarms(), |alarms| alarms.iter().any(|alarm| matches!(alarm, Alarm::Unreadable { .. })))
        .await;
    assert!(!first.view().borrow().contains_key(&NodeId(3)));
    drop(outsider);
}

#[tokio::test]
async fn e4_a_keyed_member_invites_a_pristine_node_and_one_without_a_key_does_not() {
    for (key, invited) in [(Key::secret(b"key"), true), (Key::open(), false)] {
        let pristine = start_with(claim(2, 1, None), &[], key.clone()).await;
        let member = start_with(claim(1, 1, Some(CLUSTER)), &[pristine.local_addr()], key).await;
        until(member.answers(), |answers| answers.claims().contains_key(&NodeId(2))).await;
        assert_eq!(pristine.answers().borrow().invitations.contains_key(&NodeId(1)), invited);
    }
}

#[tokio::test]
async fn e1_a_copied_directory_is_noticed_by_its_twin_and_by_others() {
    let first = start(1, 1, Some(CLUSTER), &[]).await;
    let original = start(2, 5, Some(CLUSTER), &[first.local_addr()]).await;
    until(first.view(), |view| alive(view) == [1, 2]).await;
    let copy = start(2, 5, Some(CLUSTER), &[original.local_addr(), first.local_addr()]).await;
    // Only the copy has the other one's address.
    for (one, other) in [(&original, &copy), (&copy, &original)] {
        let found = (5, other.local_addr());
        until(one.other_self(), |other| other.map(|other| (other.boot, other.from)) == Some(found)).await;
    }
    until(first.alarms(), |alarms| {
        alarms.iter().any(|alarm| matches!(alarm, Alarm::TwinIdentity { node_id: NodeId(2), .. }))
    })
    .await;
    let later = start(2, 6, Some(CLUSTER), &[original.local_addr()]).await;
    until(original.other_self(), |other| other.is_some_and(|other| other.boot == 6)).await;
    assert_eq!(*later.other_self().borrow(), None, "it does not give way to an earlier incarnation");
}
