//! Scenarios for the rules, and randomly drawn clusters: no decision may break the majority rule, and repeated
//! decisions come to an end.

use super::*;
use crate::membership::Peer;
use crate::membership::claim::ClusterId;
use crate::node_id::NodeId;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> Policy {
    Policy::default()
}

fn member(name: &str) -> Member {
    Member { name: name.into(), rpc_addr: format!("{name}:8400") }
}

/// Ids from numbers.
fn ids<C: FromIterator<NodeId>>(numbers: impl IntoIterator<Item = u64>) -> C {
    numbers.into_iter().map(NodeId).collect()
}

fn peer(name: &str, id: NodeId, liveness: Liveness) -> (NodeId, Peer) {
    let state = if liveness == Liveness::Left { State::Left } else { State::Member };
    let claim = Claim { cluster_id: Some(ClusterId([1; 16])), state, ..Claim::example(name, id) };
    (id, Peer { claim, liveness })
}

/// A node that answers, holds the log up to `matched`, and is otherwise unremarkable.
fn holding(matched: u64) -> Progress {
    Progress {
        matched,
        answered: true,
        silence: Duration::ZERO,
        behind_bytes: Some(0),
        stalled: Duration::ZERO,
        is_full: false,
    }
}

/// Nodes 1 "a", 2 "b", ... of which the first leads; all vote, answer and hold the whole log of 5,000 entries.
fn cluster(size: u64) -> (RaftView, View) {
    let names = ["a", "b", "c", "d", "e"];
    let ids = || (1..=size).map(NodeId);
    let raft = RaftView {
        self_id: NodeId(1),
        voter_sets: vec![ids().collect()],
        nodes: ids().map(|id| (id, member(names[id.0 as usize - 1]))).collect(),
        tombstones: BTreeSet::new(),
        last_log_index: 5000,
        progress: ids().skip(1).map(|id| (id, holding(5000))).collect(),
        change_in_flight: false,
        cluster_version: 1,
        wanted_size: None,
    };
    (raft, ids().map(|id| peer(names[id.0 as usize - 1], id, Liveness::Alive)).collect())
}

fn silence(raft: &mut RaftView, view: &mut View, id: u64, silence: Duration) {
    let id = NodeId(id);
    raft.progress.get_mut(&id).unwrap().silence = silence;
    view.get_mut(&id).unwrap().liveness = Liveness::Down;
}

fn arrive(view: &mut View, name: &str, id: u64) {
    let (id, peer) = peer(name, NodeId(id), Liveness::Alive);
    view.insert(id, peer);
}

/// Carries out a change as Raft would; a newcomer catches up at once.
fn carry_out(raft: &mut RaftView, change: &MembershipChange) {
    let voters = raft.voter_sets.last_mut().unwrap();
    match change {
        MembershipChange::FlattenJoint { voters } => raft.voter_sets = vec![voters.clone()],
        MembershipChange::AddLearner { id, member } => {
            raft.nodes.insert(*id, member.clone());
            raft.progress.insert(*id, holding(raft.last_log_index));
        }
        MembershipChange::Promote { ids } => voters.extend(ids),
        MembershipChange::Tombstone { id, .. } => {
            raft.tombstones.insert(*id);
        }
        MembershipChange::Replace { old, new } => {
            voters.remove(old);
            voters.insert(*new);
            raft.nodes.remove(old);
            raft.progress.remove(old);
        }
        MembershipChange::Remove { id } => {
            voters.remove(id);
            raft.nodes.remove(id);
            raft.progress.remove(id);
        }
        MembershipChange::HandOver { to } => {
            raft.progress.insert(raft.self_id, holding(raft.last_log_index));
            raft.progress.remove(to);
            raft.self_id = *to;
        }
        MembershipChange::UpdateAddress { id, member } => {
            raft.nodes.insert(*id, member.clone());
        }
        MembershipChange::RaiseVersion { version } => raft.cluster_version = *version,
    }
}

/// Carries out changes until there is none left, and returns them.
fn converge(raft: &mut RaftView, view: &View) -> Vec<MembershipChange> {
    let mut changes = Vec::new();
    while let Some(change) = decide(raft, view, &policy()).change {
        carry_out(raft, &change);
        changes.push(change);
        assert!(changes.len() < 100, "it never ends: {changes:?}");
    }
    changes
}

/// Forty values of 1 MB are fewer entries than a newcomer may lack, but took 40 s to reach it; no write was committed
/// meanwhile.
#[test]
fn a_newcomer_does_not_vote_before_the_snapshot_the_bytes_and_its_disk_are_there() {
    let (mut raft, mut view) = cluster(1);
    raft.last_log_index = 50;
    arrive(&mut view, "b", 2);
    let add = decide(&raft, &view, &policy()).change.unwrap();
    carry_out(&mut raft, &add);
    let megabytes = |bytes: u64| Some(bytes << 20);
    for (what, progress) in [
        ("has acknowledged nothing", holding(0)),
        ("lacks 40 MB in 40 entries", Progress { behind_bytes: megabytes(40), ..holding(10) }),
        ("needs a snapshot", Progress { behind_bytes: None, ..holding(10) }),
        ("has a disk that takes nothing", Progress { stalled: 4 * SECOND, ..holding(49) }),
        ("has a full disk", Progress { is_full: true, ..holding(50) }),
    ] {
        raft.progress.insert(NodeId(2), progress);
        assert_eq!(decide(&raft, &view, &policy()).change, None, "a newcomer that {what}");
    }
    for (what, progress) in [
        ("is near", Progress { behind_bytes: megabytes(4), stalled: SECOND, ..holding(40) }),
        ("lacks one large value", Progress { behind_bytes: megabytes(40), ..holding(49) }),
    ] {
        raft.progress.insert(NodeId(2), progress);
        let promote = MembershipChange::Promote { ids: ids([2]) };
        assert_eq!(decide(&raft, &view, &policy()).change, Some(promote), "a newcomer that {what}");
    }
}

#[test]
fn a_newcomer_of_a_new_name_learns_catches_up_and_votes() {
    let (mut raft, mut view) = cluster(1);
    arrive(&mut view, "b", 2);
    arrive(&mut view, "c", 3);
    let add = decide(&raft, &view, &policy()).change.unwrap();
    assert_eq!(add, MembershipChange::AddLearner { id: NodeId(2), member: member("b") });
    carry_out(&mut raft, &add);
    raft.progress.get_mut(&NodeId(2)).unwrap().matched = 100;
    let next = decide(&raft, &view, &policy()).change;
    assert_eq!(
        next,
        Some(MembershipChange::AddLearner { id: NodeId(3), member: member("c") }),
        "2 has not caught up"
    );
    raft.progress.get_mut(&NodeId(2)).unwrap().matched = 4500;
    converge(&mut raft, &view);
    assert_eq!(raft.voter_sets, [ids::<BTreeSet<_>>([1, 2, 3])]);
}

#[test]
fn a6_a_joint_configuration_is_flattened_first_and_nothing_is_changed_while_a_change_is_in_flight() {
    let (mut raft, mut view) = cluster(3);
    arrive(&mut view, "d", 4);
    raft.tombstones.insert(NodeId(3));
    raft.voter_sets.push(ids([1, 2]));
    assert_eq!(
        decide(&raft, &view, &policy()).change,
        Some(MembershipChange::FlattenJoint { voters: ids([1, 2]) })
    );
    raft.change_in_flight = true;
    assert_eq!(decide(&raft, &view, &policy()).change, None);
}

#[test]
fn suspicion_alone_never_removes_a_voter() {
    let (mut raft, mut view) = cluster(3);
    silence(&mut raft, &mut view, 3, 100_000 * SECOND);
    assert_eq!(decide(&raft, &view, &policy()), Decision::default());
}

#[test]
fn e5_a_lost_disk_comes_back_under_its_name_and_takes_its_old_place() {
    let (mut raft, mut view) = cluster(3);
    silence(&mut raft, &mut view, 3, 31 * SECOND);
    arrive(&mut view, "c", 33);
    assert_eq!(
        converge(&mut raft, &view),
        [
            MembershipChange::AddLearner { id: NodeId(33), member: member("c") },
            MembershipChange::Tombstone { id: NodeId(3), name: "c".into() },
            MembershipChange::Replace { old: NodeId(3), new: NodeId(33) },
        ]
    );
    // The old disk is back.
    arrive(&mut view, "c", 3);
    let decision = decide(&raft, &view, &policy());
    assert_eq!((decision.change, decision.refused.get(&NodeId(3))), (None, Some(&NotAdmitted::Removed)));
}

#[test]
fn e5_a_twin_is_refused_while_the_name_is_in_use_by_the_leaders_own_connection_or_by_gossip() {
    let (mut raft, mut view) = cluster(3);
    arrive(&mut view, "c", 33);
    let refused = |raft: &RaftView, view: &View| {
        let decision = decide(raft, view, &policy());
        assert_eq!(decision.change, None);
        decision.refused[&NodeId(33)].to_string()
    };
    assert!(refused(&raft, &view).starts_with("name in use by node id 0000000000000003"));
    silence(&mut raft, &mut view, 3, 29 * SECOND);
    assert!(refused(&raft, &view).contains("silent for 29 s"));
    raft.progress.get_mut(&NodeId(3)).unwrap().silence = 31 * SECOND;
    view.get_mut(&NodeId(3)).unwrap().liveness = Liveness::Suspect;
    refused(&raft, &view);
    view.get_mut(&NodeId(3)).unwrap().liveness = Liveness::Down;
    assert!(decide(&raft, &view, &policy()).change.is_some());
}

#[test]
fn e5_no_node_replaces_the_leader_itself() {
    let (mut raft, mut view) = cluster(3);
    arrive(&mut view, "a", 11);
    view.remove(&NodeId(1));
    assert!(matches!(
        decide(&raft, &view, &policy()).refused[&NodeId(11)],
        NotAdmitted::NameInUse { by: NodeId(1), .. }
    ));
    assert_eq!(converge(&mut raft, &view), []);
}

#[test]
fn e5_an_old_voter_that_answers_again_keeps_its_place() {
    let (mut raft, mut view) = cluster(3);
    silence(&mut raft, &mut view, 3, 31 * SECOND);
    arrive(&mut view, "c", 33);
    let add = decide(&raft, &view, &policy()).change.unwrap();
    carry_out(&mut raft, &add);
    silence(&mut raft, &mut view, 3, Duration::ZERO);
    view.get_mut(&NodeId(3)).unwrap().liveness = Liveness::Alive;
    assert_eq!(converge(&mut raft, &view), [MembershipChange::Remove { id: NodeId(33) }]);
    assert_eq!(raft.voter_sets, [ids::<BTreeSet<_>>([1, 2, 3])]);
}

#[test]
fn a6_one_replacement_at_a_time() {
    let (mut raft, mut view) = cluster(5);
    for id in [4, 5] {
        silence(&mut raft, &mut view, id, 40 * SECOND);
    }
    arrive(&mut view, "d", 44);
    arrive(&mut view, "e", 55);
    let changes = converge(&mut raft, &view);
    let order: Vec<&MembershipChange> =
        changes.iter().filter(|change| !matches!(change, MembershipChange::AddLearner { .. })).collect();
    assert!(
        matches!(
            order[..],
            [
                MembershipChange::Tombstone { id: NodeId(4), .. },
                MembershipChange::Replace { old: NodeId(4), new: NodeId(44) },
                MembershipChange::Tombstone { id: NodeId(5), .. },
                MembershipChange::Replace { old: NodeId(5), new: NodeId(55) }
            ]
        ),
        "{order:?}"
    );
}

#[test]
fn a_learner_that_died_before_it_voted_makes_room_for_its_successor() {
    let (mut raft, mut view) = cluster(3);
    raft.voter_sets = vec![ids([1, 2])];
    silence(&mut raft, &mut view, 3, 31 * SECOND);
    assert_eq!(decide(&raft, &view, &policy()).change, None, "no node has come in its place");
    arrive(&mut view, "c", 33);
    assert!(matches!(
        decide(&raft, &view, &policy()).refused[&NodeId(33)],
        NotAdmitted::NameInUse { by: NodeId(3), .. }
    ));
    assert_eq!(
        converge(&mut raft, &view),
        [
            MembershipChange::Tombstone { id: NodeId(3), name: "c".into() },
            MembershipChange::Remove { id: NodeId(3) },
            MembershipChange::AddLearner { id: NodeId(33), member: member("c") },
            MembershipChange::Promote { ids: ids([33]) },
        ]
    );
}

#[test]
fn e6_a_tombstoned_voter_is_removed_and_never_admitted_again() {
    let (mut raft, view) = cluster(3);
    check_removal(&raft, &policy(), &[NodeId(3)]).unwrap();
    raft.tombstones.insert(NodeId(3));
    assert_eq!(converge(&mut raft, &view), [MembershipChange::Remove { id: NodeId(3) }]);
    assert_eq!(decide(&raft, &view, &policy()).refused, BTreeMap::from([(NodeId(3), NotAdmitted::Removed)]));
}

#[test]
fn e6_a_leader_that_is_to_go_hands_over_first() {
    let (mut raft, view) = cluster(3);
    raft.tombstones.insert(NodeId(1));
    raft.progress.get_mut(&NodeId(3)).unwrap().matched = 100;
    assert_eq!(
        converge(&mut raft, &view),
        [MembershipChange::HandOver { to: NodeId(2) }, MembershipChange::Remove { id: NodeId(1) }]
    );
}

#[test]
fn e6_a_node_that_claims_to_have_left_is_removed() {
    let (mut raft, mut view) = cluster(3);
    view.get_mut(&NodeId(3)).unwrap().liveness = Liveness::Left;
    let gone = [
        MembershipChange::Tombstone { id: NodeId(3), name: "c".into() },
        MembershipChange::Remove { id: NodeId(3) },
    ];
    assert_eq!(converge(&mut raft, &view), gone);
}

#[test]
fn e6_the_last_voter_cannot_leave() {
    let (mut raft, view) = cluster(1);
    assert_eq!(check_removal(&raft, &policy(), &[NodeId(1)]), Err(CannotRemove::LastVoter));
    assert_eq!(check_removal(&raft, &policy(), &[NodeId(9)]), Err(CannotRemove::NoMember));
    raft.tombstones.insert(NodeId(1));
    assert_eq!(decide(&raft, &view, &policy()).change, None);
    let (mut raft, _) = cluster(2);
    raft.tombstones.insert(NodeId(2));
    assert_eq!(
        check_removal(&raft, &policy(), &[NodeId(1)]),
        Err(CannotRemove::LastVoter),
        "2 is going already"
    );
}

/// During a replacement two voters have the same name. When its place closes both go, though the first of the ids asked
/// for does not vote in the new configuration.
#[test]
fn e6_the_last_voter_cannot_leave_with_the_one_that_it_replaces() {
    let (mut raft, _) = cluster(2);
    raft.nodes.insert(NodeId(9), member("b"));
    raft.voter_sets = vec![ids([1, 9]), ids([1, 2])];
    raft.progress.insert(NodeId(9), holding(5000));
    let both = ids_named(&raft, "b");
    assert_eq!(both, ids::<Vec<_>>([2, 9]));
    assert_eq!(check_removal(&raft, &policy(), &both), Ok(1));
    raft.tombstones.insert(NodeId(1));
    assert_eq!(check_removal(&raft, &policy(), &both), Err(CannotRemove::LastVoter));
}

#[test]
fn a6_no_removal_leaves_a_majority_that_cannot_be_reached() {
    let (mut raft, mut view) = cluster(3);
    silence(&mut raft, &mut view, 3, 31 * SECOND);
    assert_eq!(
        check_removal(&raft, &policy(), &[NodeId(2)]),
        Err(CannotRemove::NoMajority { reachable: 1, voters: 2 })
    );
    raft.tombstones.insert(NodeId(2));
    assert_eq!(decide(&raft, &view, &policy()).change, None);
    check_removal(&raft, &policy(), &[NodeId(3)]).unwrap();
}

/// If the log is shorter than the lag a learner may have, and the election is recent, neither lag nor silence
/// distinguishes a newcomer that died from one that has caught up (chaos seed 7001827).
#[test]
fn a6_a_learner_that_has_never_answered_does_not_vote() {
    let (mut raft, mut view) = cluster(3);
    raft.last_log_index = 50;
    arrive(&mut view, "d", 4);
    raft.nodes.insert(NodeId(4), member("d"));
    raft.progress.insert(NodeId(4), Progress { answered: false, ..holding(1) });
    assert_eq!(decide(&raft, &view, &policy()).change, None);
    raft.progress.insert(NodeId(4), holding(1));
    assert_eq!(converge(&mut raft, &view), [MembershipChange::Promote { ids: ids([4]) }]);
}

/// Right after its election a leader has received no answer: a voter that it would need after the removal may be dead.
#[test]
fn a6_a_leader_without_answers_removes_no_node() {
    let (mut raft, view) = cluster(3);
    raft.progress.values_mut().for_each(|progress| progress.answered = false);
    assert_eq!(
        check_removal(&raft, &policy(), &[NodeId(3)]),
        Err(CannotRemove::NoMajority { reachable: 1, voters: 2 })
    );
    raft.tombstones.insert(NodeId(3));
    assert_eq!(decide(&raft, &view, &policy()).change, None);
    raft.progress.get_mut(&NodeId(2)).unwrap().answered = true;
    assert_eq!(converge(&mut raft, &view), [MembershipChange::Remove { id: NodeId(3) }]);
}

#[test]
fn e7_a_new_address_is_written_down() {
    let (mut raft, mut view) = cluster(3);
    view.get_mut(&NodeId(2)).unwrap().claim.rpc_addr = "elsewhere:1".into();
    converge(&mut raft, &view);
    assert_eq!(raft.nodes[&NodeId(2)], Member { name: "b".into(), rpc_addr: "elsewhere:1".into() });
}

#[test]
fn c2_the_version_rises_when_all_support_it_and_then_the_old_are_refused() {
    let (mut raft, mut view) = cluster(3);
    view.get_mut(&NodeId(1)).unwrap().claim.supports = 2;
    view.get_mut(&NodeId(2)).unwrap().claim.supports = 2;
    assert_eq!(decide(&raft, &view, &policy()).change, None);
    view.get_mut(&NodeId(3)).unwrap().claim.supports = 2;
    assert_eq!(converge(&mut raft, &view), [MembershipChange::RaiseVersion { version: 2 }]);
    arrive(&mut view, "d", 4);
    assert_eq!(
        decide(&raft, &view, &policy()).refused[&NodeId(4)],
        NotAdmitted::Version { supports: 1, uses: 2 }
    );
}

#[test]
fn of_two_newcomers_with_one_name_one_is_admitted() {
    let (raft, mut view) = cluster(3);
    arrive(&mut view, "d", 5);
    arrive(&mut view, "d", 4);
    let decision = decide(&raft, &view, &policy());
    assert_eq!(decision.change, Some(MembershipChange::AddLearner { id: NodeId(4), member: member("d") }));
    assert_eq!(decision.refused, BTreeMap::from([(NodeId(5), NotAdmitted::NameTwice { other: NodeId(4) })]));
}

// ---- the wanted number of voters ----

fn voters(raft: &RaftView) -> Vec<u64> {
    raft.voter_sets.last().unwrap().iter().map(|id| id.0).collect()
}

/// Three seconds after `members resize --to 3` the two nodes that went on running were voters again.
#[test]
fn a_removed_node_that_runs_on_waits_outside_until_more_are_wanted() {
    let (mut raft, mut view) = cluster(5);
    raft.wanted_size = Some(3);
    for (id, name, next) in [(NodeId(5), "e", 15), (NodeId(4), "d", 14)] {
        raft.tombstones.insert(id);
        assert_eq!(converge(&mut raft, &view), [MembershipChange::Remove { id }]);
        view.remove(&id);
        arrive(&mut view, name, next);
        assert_eq!(converge(&mut raft, &view), []);
    }
    let refused = decide(&raft, &view, &policy()).refused;
    let reason = NotAdmitted::NotWanted { wanted: 3, voters: 3 };
    assert_eq!(refused, BTreeMap::from([(NodeId(14), reason.clone()), (NodeId(15), reason.clone())]));
    assert_eq!(
        reason.to_string(),
        "the cluster is to have 3 members; 'mokv members resize --to 4' lets it in"
    );
    raft.wanted_size = Some(4);
    converge(&mut raft, &view);
    assert_eq!(voters(&raft), [1, 2, 3, 14]);
    raft.wanted_size = None;
    converge(&mut raft, &view);
    assert_eq!(voters(&raft), [1, 2, 3, 14, 15]);
}

#[test]
fn a_wiped_member_takes_its_own_place_however_few_are_wanted() {
    let (mut raft, mut view) = cluster(3);
    raft.wanted_size = Some(3);
    silence(&mut raft, &mut view, 3, 60 * SECOND);
    arrive(&mut view, "c", 9);
    arrive(&mut view, "d", 4);
    let changes = converge(&mut raft, &view);
    assert!(changes.contains(&MembershipChange::Replace { old: NodeId(3), new: NodeId(9) }), "{changes:?}");
    assert_eq!(voters(&raft), [1, 2, 9]);
    assert!(!raft.nodes.contains_key(&NodeId(4)));
}

/// After a resize that was not completed.
#[test]
fn a_wiped_member_takes_its_own_place_also_where_there_are_more_than_are_wanted() {
    let (mut raft, mut view) = cluster(4);
    raft.wanted_size = Some(3);
    silence(&mut raft, &mut view, 3, 60 * SECOND);
    arrive(&mut view, "c", 9);
    converge(&mut raft, &view);
    assert_eq!(voters(&raft), [1, 2, 4, 9]);
}

#[test]
fn the_place_of_a_member_that_was_removed_closes_though_its_successor_is_there() {
    let (mut raft, mut view) = cluster(4);
    silence(&mut raft, &mut view, 4, 60 * SECOND);
    arrive(&mut view, "d", 9);
    let add = decide(&raft, &view, &policy()).change.unwrap();
    carry_out(&mut raft, &add);
    raft.wanted_size = Some(3);
    assert_eq!(
        ids_named(&raft, "d"),
        ids::<Vec<_>>([9, 4]),
        "the successor first, or it might take the place meanwhile"
    );
    raft.tombstones.insert(NodeId(9));
    assert_eq!(converge(&mut raft, &view), [MembershipChange::Remove { id: NodeId(9) }]);
    view.remove(&NodeId(9));
    arrive(&mut view, "d", 10);
    raft.tombstones.insert(NodeId(4));
    assert_eq!(
        decide(&raft, &view, &policy()).refused[&NodeId(10)],
        NotAdmitted::NotWanted { wanted: 3, voters: 4 },
        "a place that closes is not taken by another node, however long its voter cannot be removed"
    );
    assert_eq!(converge(&mut raft, &view), [MembershipChange::Remove { id: NodeId(4) }]);
    assert_eq!(
        decide(&raft, &view, &policy()).refused[&NodeId(10)],
        NotAdmitted::NotWanted { wanted: 3, voters: 3 }
    );
}

#[test]
fn of_more_newcomers_than_places_some_wait() {
    let (mut raft, mut view) = cluster(2);
    raft.wanted_size = Some(3);
    arrive(&mut view, "c", 7);
    arrive(&mut view, "d", 8);
    let changes = converge(&mut raft, &view);
    assert_eq!(changes.len(), 2, "one comes, and votes: {changes:?}");
    assert_eq!(voters(&raft), [1, 2, 7]);
    // A learner is removed if fewer voters are wanted by the time it could vote.
    raft.nodes.insert(NodeId(8), member("d"));
    raft.progress.insert(NodeId(8), holding(5000));
    assert_eq!(converge(&mut raft, &view), [MembershipChange::Remove { id: NodeId(8) }]);
}

#[test]
fn a_removal_returns_how_many_remain() {
    let (mut raft, _) = cluster(5);
    assert_eq!(check_removal(&raft, &policy(), &[NodeId(5)]), Ok(4));
    raft.tombstones.insert(NodeId(4));
    assert_eq!(
        check_removal(&raft, &policy(), &[NodeId(5)]),
        Ok(3),
        "a node that is about to go is not counted"
    );
    raft.nodes.insert(NodeId(6), member("f"));
    assert_eq!(check_removal(&raft, &policy(), &[NodeId(6)]), Ok(4), "a learner does not vote");
    raft.progress.insert(NodeId(6), holding(5000));
    assert_eq!(
        check_removal(&raft, &policy(), &[NodeId(5)]),
        Ok(4),
        "one that is on its way to a vote keeps its place"
    );
    assert_eq!(check_removal(&raft, &policy(), &[NodeId(6)]), Ok(4), "unless it is the one that goes");
}

// ---- randomly drawn clusters ----

fn livenesses() -> impl Strategy<Value = Liveness> {
    prop_oneof![
        4 => Just(Liveness::Alive),
        1 => Just(Liveness::Suspect),
        3 => Just(Liveness::Down),
        1 => Just(Liveness::Left),
    ]
}

/// Per id: name, role (0 none, 1 learner, 2 voter), tombstoned, silence in seconds, matched and answered, liveness.
type Drawn = (usize, u8, bool, u64, (u64, bool), Liveness);

fn drawn() -> impl Strategy<Value = (RaftView, View)> {
    let contact = (0..5000_u64, prop::bool::weighted(0.9));
    let node = (0..6_usize, 0..3_u8, prop::bool::weighted(0.2), 0..60_u64, contact, livenesses());
    let wanted_size = prop::option::of(1..6_u32);
    (prop::collection::vec(node, 1..9), wanted_size).prop_map(|(drawn, wanted_size)| {
        let (raft, view) = build(drawn);
        (RaftView { wanted_size, ..raft }, view)
    })
}

fn build(drawn: Vec<Drawn>) -> (RaftView, View) {
    let (mut raft, mut view) = cluster(1);
    for (index, (name, role, tombstoned, silent, contact, liveness)) in drawn.into_iter().enumerate() {
        let (id, name) = (NodeId(index as u64 + 2), ["a", "b", "c", "d", "e", "f"][name]);
        let taken = raft
            .nodes
            .iter()
            .any(|(voter, member)| raft.voter_sets[0].contains(voter) && member.name == name);
        if role > 0 {
            raft.nodes.insert(id, member(name));
            let (matched, answered) = contact;
            raft.progress
                .insert(id, Progress { answered, silence: Duration::from_secs(silent), ..holding(matched) });
        }
        if role == 2 && !taken {
            raft.voter_sets[0].insert(id);
        }
        if tombstoned {
            raft.tombstones.insert(id);
        }
        let (_, peer) = peer(name, id, liveness);
        view.insert(id, peer);
    }
    (raft, view)
}

fn reachable_voters(raft: &RaftView) -> usize {
    let answers = |id: &&NodeId| {
        **id == raft.self_id
            || raft
                .progress
                .get(id)
                .is_some_and(|seen| seen.answered && seen.silence <= policy().reachable_within)
    };
    raft.voter_sets.last().unwrap().iter().filter(answers).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a6_no_sequence_of_decisions_breaks_the_rules((mut raft, view) in drawn()) {
        for step in 0.. {
            prop_assert!(step < 100, "it never ends");
            let Some(change) = decide(&raft, &view, &policy()).change else { break };
            let before = raft.clone();
            carry_out(&mut raft, &change);
            let (old, new) = (&before.voter_sets[0], &raft.voter_sets[0]);
            prop_assert!(!new.is_empty());
            if old != new {
                prop_assert!(reachable_voters(&raft) > new.len() / 2, "{change:?} strands {raft:?}");
                prop_assert!(old.difference(new).all(|id| before.tombstones.contains(id)), "{change:?}");
                prop_assert!(new.difference(old).all(|id| !before.tombstones.contains(id)), "{change:?}");
                prop_assert!(old.difference(new).count() <= 1);
                prop_assert!(new.contains(&raft.self_id));
                let wanted = raft.wanted_size.map_or(usize::MAX, |wanted| wanted as usize);
                prop_assert!(new.len() <= old.len().max(wanted), "{change:?} makes more than are wanted");
                let names: BTreeSet<&str> = new.iter().map(|id| raft.nodes[id].name.as_str()).collect();
                prop_assert_eq!(names.len(), new.len(), "two voters of one name");
            }
            match &change {
                MembershipChange::AddLearner { id, .. } => prop_assert!(!raft.tombstones.contains(id)),
                MembershipChange::Tombstone { id, .. } => {
                    let silent = before.progress[id].silence >= policy().replace_silence;
                    let left = view[id].liveness == Liveness::Left;
                    prop_assert!(left || silent && view[id].liveness == Liveness::Down, "{change:?}");
                    prop_assert!(*id != before.self_id);
                }
                _ => {}
            }
        }
    }
}
