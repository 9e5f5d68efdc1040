//! Scenarios for the rules, and an exploration: nodes that ask each other over a network that loses and delays
//! messages, crash around every durable step, and lose a disk.

use super::*;
use crate::membership::joins::NameAnswer;
use crate::node_id::NodeId;
use proptest::prelude::*;

/// A node, its disk, and the answers it has received in this attempt.
#[derive(Debug, Clone)]
struct Node {
    formation: Formation,
    cluster: Option<ClusterId>,
    up: bool,
    answers: JoinAnswers,
}

impl Node {
    fn new(name: &str, id: u64, intent: Intent, joins: &[&str]) -> Node {
        let me = PledgedNode { node_id: NodeId(id), name: name.into(), rpc_addr: format!("{name}:8400") };
        let joins = joins.iter().map(|join| join.to_string()).collect();
        let formation = Formation { me, intent, joins, pledge: None, former: None, keyed: false };
        let mut node = Node { formation, cluster: None, up: true, answers: JoinAnswers::default() };
        node.attempt();
        node
    }

    fn attempt(&mut self) {
        self.answers.attempt += 1;
        let silent = || NameAnswer { addresses: BTreeMap::from([("10.0.0.1:1".parse().unwrap(), None)]) };
        self.answers.names = self.formation.joins.iter().map(|name| (name.clone(), silent())).collect();
    }

    fn claim(&self) -> Claim {
        let Formation { me, intent, pledge, .. } = &self.formation;
        let state = match self.cluster {
            Some(_) => State::Member,
            None => State::Pristine { intent: *intent, pledge: pledge.clone() },
        };
        Claim { cluster_id: self.cluster, state, ..Claim::example(&me.name, me.node_id) }
    }

    fn answer_from(&mut self, name: &str, claim: Claim) {
        if claim.node_id != self.formation.me.node_id {
            self.answers.note(&claim, name);
        }
        if let Some(answer) = self.answers.names.get_mut(name) {
            answer.addresses.values_mut().for_each(|answered| *answered = Some(claim.clone()));
        }
    }

    fn step(&self) -> Step {
        self.formation.step(&self.answers)
    }

    /// Carries out a step as the driver does, with the identity's checks.
    fn obey(&mut self, step: Step) {
        match step {
            Step::Pledge(pledge) => {
                assert!(self.formation.pledge.is_none(), "no node pledges twice");
                assert!(pledge.includes(self.formation.me.node_id));
                self.formation.pledge = Some(pledge);
            }
            Step::Form(formed) => {
                let pledged = self.formation.pledge.as_ref().map(|pledge| pledge.cluster_id);
                assert!(pledged.is_none_or(|own| own == formed.cluster_id()));
                self.cluster = Some(formed.cluster_id());
            }
            Step::Wait(_) | Step::Refuse(_) => {}
        }
    }
}

/// Lets every running node answer every other, then every node take a step, until nothing changes.
fn settle(nodes: &mut [Node]) {
    for _ in 0..10 {
        let claims: Vec<Option<Claim>> = nodes.iter().map(|node| node.up.then(|| node.claim())).collect();
        for node in nodes.iter_mut().filter(|node| node.up && node.cluster.is_none()) {
            node.attempt();
            for claim in claims.iter().flatten() {
                node.answer_from(&claim.name, claim.clone());
            }
            let step = node.step();
            node.obey(step);
        }
    }
}

fn trio(intent: Intent) -> Vec<Node> {
    let joins = ["a", "b", "c"];
    [("a", 30), ("b", 10), ("c", 20)].map(|(name, id)| Node::new(name, id, intent, &joins)).to_vec()
}

fn clusters(nodes: &[Node]) -> BTreeSet<ClusterId> {
    nodes.iter().filter_map(|node| node.cluster).collect()
}

#[test]
fn e2_bootstrap_without_join_addresses_forms_a_cluster_of_one_at_once() {
    let mut node = Node::new("a", 1, Intent::Bootstrap, &[]);
    let Step::Pledge(pledge) = node.step() else { panic!("{:?}", node.step()) };
    node.obey(Step::Pledge(pledge));
    let Step::Form(Formed::Initialise { members, .. }) = node.step() else { panic!("{:?}", node.step()) };
    assert_eq!(members.into_keys().collect::<Vec<_>>(), [NodeId(1)]);
}

#[test]
fn e2_silence_is_never_consent() {
    for intent in [Intent::Bootstrap, Intent::Expect(2)] {
        let mut nodes = trio(intent);
        nodes[1].formation.intent = Intent::Expect(2);
        nodes[2].up = false;
        settle(&mut nodes);
        assert_eq!(nodes[0].step(), Step::Wait(Waiting::Answers(vec!["c".into()])));
        assert!(clusters(&nodes).is_empty() && nodes.iter().all(|node| node.formation.pledge.is_none()));
    }
}

#[test]
fn e2_before_the_first_attempt_no_node_has_consented() {
    let mut node = Node::new("a", 1, Intent::Bootstrap, &["b"]);
    node.answers = JoinAnswers::default();
    assert_eq!(node.step(), Step::Wait(Waiting::Answers(vec!["b".into()])));
}

#[test]
fn e2_if_any_node_knows_a_cluster_it_is_joined_even_by_a_founder_with_silent_peers() {
    for intent in [Intent::Bootstrap, Intent::Expect(3), Intent::Join] {
        let mut nodes = trio(intent);
        nodes[1].cluster = Some(ClusterId([7; 16]));
        nodes[2].up = false;
        settle(&mut nodes);
        assert_eq!(nodes[0].cluster, Some(ClusterId([7; 16])), "{intent:?}");
    }
}

#[test]
fn e2_a_founder_with_join_addresses_forms_alone_when_all_are_pristine_and_the_others_join() {
    let mut nodes = trio(Intent::Join);
    nodes[0].formation.intent = Intent::Bootstrap;
    settle(&mut nodes);
    assert_eq!(clusters(&nodes).len(), 1);
    assert!(nodes.iter().all(|node| node.cluster.is_some()));
    assert_eq!(nodes[0].formation.pledge.as_ref().unwrap().nodes.len(), 1);
}

#[test]
fn e2_two_founders_wait_for_a_person_instead_of_making_two_clusters() {
    let mut nodes = trio(Intent::Bootstrap);
    settle(&mut nodes);
    assert!(clusters(&nodes).is_empty());
    assert!(matches!(nodes[0].step(), Step::Wait(Waiting::Founder(_))));
}

#[test]
fn e3_all_pledge_the_lowest_ids_proposal_and_form_the_same_cluster() {
    let mut nodes = trio(Intent::Expect(3));
    settle(&mut nodes);
    assert_eq!(clusters(&nodes).len(), 1);
    let pledge = nodes[0].formation.pledge.clone().unwrap();
    assert!(
        nodes.iter().all(|node| node.formation.pledge.as_ref() == Some(&pledge) && node.cluster.is_some())
    );
    assert_eq!(pledge.nodes.iter().map(|node| node.node_id.0).collect::<Vec<_>>(), [10, 20, 30]);
}

#[test]
fn e3_more_pristine_nodes_than_expected_wait_and_join() {
    let joins = ["a", "b", "c", "d"];
    let mut nodes: Vec<Node> = [("d", 1), ("a", 2), ("b", 3), ("c", 4)]
        .map(|(name, id)| Node::new(name, id, Intent::Expect(3), &joins))
        .to_vec();
    settle(&mut nodes);
    assert_eq!(clusters(&nodes).len(), 1);
    assert!(nodes.iter().all(|node| node.cluster.is_some()));
    assert!(nodes[0].formation.pledge.is_none(), "the first three by name form the cluster");
}

#[test]
fn e3_a_pledge_broken_by_a_lost_disk_asks_for_a_wipe() {
    let mut nodes = trio(Intent::Expect(3));
    let pledge = Pledge::propose(nodes.iter().map(|node| node.formation.me.clone()).collect());
    nodes[0].formation.pledge = Some(pledge);
    nodes[2] = Node::new("c", 99, Intent::Expect(3), &["a", "b", "c"]);
    settle(&mut nodes);
    assert!(clusters(&nodes).is_empty());
    assert_eq!(nodes[0].step(), Step::Refuse(Refusal::Broken("c".into())));
    assert_eq!(nodes[2].step(), Step::Wait(Waiting::Wiping("a".into())));
    // The operator does what the message asks for.
    nodes[0] = Node::new("a", 98, Intent::Expect(3), &["a", "b", "c"]);
    settle(&mut nodes);
    assert_eq!(clusters(&nodes).len(), 1);
}

#[test]
fn e3_a_lost_disk_is_no_broken_pledge_while_a_silent_node_may_have_formed_the_cluster() {
    let mut nodes = trio(Intent::Expect(3));
    let pledge = Pledge::propose(nodes.iter().map(|node| node.formation.me.clone()).collect());
    nodes[0].formation.pledge = Some(pledge.clone());
    nodes[1].formation.pledge = Some(pledge.clone());
    nodes[1].cluster = Some(pledge.cluster_id);
    nodes[1].up = false;
    nodes[2] = Node::new("c", 99, Intent::Expect(3), &["a", "b", "c"]);
    settle(&mut nodes);
    assert_eq!(nodes[0].step(), Step::Wait(Waiting::Pledges(vec!["b".into(), "c".into()])));
    nodes[1].up = true;
    settle(&mut nodes);
    assert_eq!(clusters(&nodes), BTreeSet::from([pledge.cluster_id]));
}

#[test]
fn e3_two_pledges_of_three_are_not_enough() {
    let mut nodes = trio(Intent::Expect(3));
    let pledge = Pledge::propose(nodes.iter().map(|node| node.formation.me.clone()).collect());
    nodes[0].formation.pledge = Some(pledge.clone());
    nodes[1].formation.pledge = Some(pledge.clone());
    nodes[2].up = false;
    settle(&mut nodes);
    assert_eq!(nodes[0].step(), Step::Wait(Waiting::Pledges(vec!["c".into()])));
    nodes[2].up = true;
    settle(&mut nodes);
    assert_eq!(clusters(&nodes), BTreeSet::from([pledge.cluster_id]));
}

#[test]
fn e3_contradicting_pledges_name_each_other() {
    let mut nodes = trio(Intent::Expect(2));
    let of = |nodes: &[Node], of: [usize; 2]| {
        Pledge::propose(of.iter().map(|index| nodes[*index].formation.me.clone()).collect())
    };
    nodes[0].formation.pledge = Some(of(&nodes, [0, 1]));
    nodes[1].formation.pledge = Some(of(&nodes, [1, 2]));
    settle(&mut nodes);
    assert!(clusters(&nodes).is_empty());
    assert_eq!(nodes[0].step(), Step::Refuse(Refusal::Contradicted("b".into())));
    assert!(matches!(nodes[2].step(), Step::Wait(Waiting::Founder(_))));
}

#[test]
fn e4_two_clusters_behind_the_join_addresses_and_a_pledge_to_another_are_refused() {
    let mut nodes = trio(Intent::Join);
    nodes[1].cluster = Some(ClusterId([1; 16]));
    nodes[2].cluster = Some(ClusterId([2; 16]));
    settle(&mut nodes);
    assert!(matches!(nodes[0].step(), Step::Refuse(Refusal::TwoClusters { .. })));
    nodes[0].formation.pledge = Some(Pledge::propose(vec![nodes[0].formation.me.clone()]));
    assert!(matches!(nodes[0].step(), Step::Refuse(Refusal::PledgedElsewhere { .. })));
}

fn member_of(name: &str, id: u64, cluster_id: ClusterId) -> Claim {
    Claim { cluster_id: Some(cluster_id), state: State::Member, ..Claim::example(name, NodeId(id)) }
}

/// A node once joined the first of two clusters that answered.
#[test]
fn e4_a_second_cluster_that_answers_later_or_in_another_attempt_is_noticed() {
    let (one, other) = (ClusterId([1; 16]), ClusterId([2; 16]));
    let mut node = Node::new("n", 9, Intent::Join, &["a", "b"]);
    node.answer_from("a", member_of("a", 1, one));
    assert_eq!(node.step(), Step::Wait(Waiting::Answers(vec!["b".into()])), "b may know another cluster");
    let mut in_turns = node.clone();
    node.answer_from("b", member_of("b", 2, other));
    in_turns.attempt();
    in_turns.answer_from("b", member_of("b", 2, other));
    for node in [node, in_turns] {
        let Step::Refuse(refusal) = node.step() else { panic!("{:?}", node.step()) };
        let words = refusal.to_string();
        for part in [format!("'a' at a belongs to {one}"), format!("'b' at b to {other}")] {
            assert!(words.contains(&part), "{words}");
        }
    }
}

#[test]
fn e4_a_join_address_that_stays_silent_keeps_no_node_from_joining() {
    let cluster_id = ClusterId([1; 16]);
    let mut node = Node::new("n", 9, Intent::Join, &["a", "dead"]);
    for _ in 0..SILENT_ATTEMPTS {
        node.answer_from("a", member_of("a", 1, cluster_id));
        assert_eq!(node.step(), Step::Wait(Waiting::Answers(vec!["dead".into()])));
        node.attempt();
    }
    node.answer_from("a", member_of("a", 1, cluster_id));
    assert_eq!(node.step(), Step::Form(Formed::Joined { cluster_id }));
}

#[test]
fn e4_an_invitation_counts_only_with_a_key() {
    let mut node = Node::new("a", 1, Intent::Join, &["b"]);
    let member = Claim {
        cluster_id: Some(ClusterId([3; 16])),
        state: State::Member,
        ..Claim::example("m", NodeId(9))
    };
    node.answers.note(&member, "10.0.0.9:1");
    node.answers.invitations.insert(NodeId(9), member);
    assert_eq!(node.step(), Step::Wait(Waiting::Cluster));
    node.formation.keyed = true;
    assert_eq!(node.step(), Step::Wait(Waiting::Answers(vec!["b".into()])), "b may know another cluster");
    (0..SILENT_ATTEMPTS).for_each(|_| node.attempt());
    assert_eq!(node.step(), Step::Form(Formed::Joined { cluster_id: ClusterId([3; 16]) }));
}

#[test]
fn e6_a_directory_with_a_past_joins_and_never_forms() {
    let mut node = Node::new("a", 1, Intent::Bootstrap, &[]);
    node.formation.former = Some(ClusterId([1; 16]));
    assert_eq!(node.step(), Step::Refuse(Refusal::HasAPast(ClusterId([1; 16]))));
    let mut nodes = trio(Intent::Expect(3));
    nodes.iter_mut().for_each(|node| node.formation.former = Some(ClusterId([1; 16])));
    settle(&mut nodes);
    assert!(clusters(&nodes).is_empty());
}

#[test]
fn what_is_set_wrongly_is_said() {
    assert_eq!(Node::new("a", 1, Intent::Join, &[]).step(), Step::Refuse(Refusal::NoWay));
    assert_eq!(Node::new("a", 1, Intent::Expect(10), &["a"]).step(), Step::Refuse(Refusal::Size(10)));
    let mut nodes = trio(Intent::Expect(3));
    nodes[1].formation.intent = Intent::Expect(2);
    settle(&mut nodes);
    assert!(matches!(nodes[0].step(), Step::Wait(Waiting::Size { .. })));
    let mut nodes = trio(Intent::Expect(3));
    nodes[1].formation.me.name = "a".into();
    let claims: Vec<Claim> = nodes.iter().map(Node::claim).collect();
    for (name, claim) in ["a", "b", "c"].into_iter().zip(claims) {
        nodes[0].answer_from(name, claim);
    }
    assert_eq!(nodes[0].step(), Step::Wait(Waiting::Name("a".into())));
}

// ---- exploration ----

/// One event, on the nodes that its numbers select.
#[derive(Debug, Clone)]
enum Event {
    /// A node begins a new attempt.
    Attempt(usize),
    /// One node's answer to another is sent.
    Answer { from: usize, to: usize },
    /// The answer number `n` of those in flight arrives, unless its attempt is over.
    Arrive(usize),
    /// A node takes its next step; it crashes, if at all, before or after the step is durable.
    Step { node: usize, crash: Option<bool> },
    /// A node starts again.
    Start(usize),
    /// A node's disk is lost; it starts under the same name with a new id.
    LoseDisk(usize),
}

fn events() -> impl Strategy<Value = Event> {
    let node = 0..5_usize;
    prop_oneof![
        2 => node.clone().prop_map(Event::Attempt),
        8 => (node.clone(), node.clone()).prop_map(|(from, to)| Event::Answer { from, to }),
        8 => any::<usize>().prop_map(Event::Arrive),
        6 => (node.clone(), prop::option::weighted(0.2, any::<bool>()))
            .prop_map(|(node, crash)| Event::Step { node, crash }),
        2 => node.clone().prop_map(Event::Start),
        1 => node.prop_map(Event::LoseDisk),
    ]
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

struct World {
    nodes: Vec<Node>,
    /// Answers in flight: receiver, its attempt, the name that was asked, the claim.
    under_way: Vec<(usize, u64, String, Claim)>,
    next_id: u64,
    disks_to_lose: usize,
}

impl World {
    fn new(count: usize, expect: u32, disks_to_lose: usize, ids: &[u64]) -> World {
        let nodes = (0..count)
            .map(|index| Node::new(NAMES[index], ids[index], Intent::Expect(expect), &NAMES[..count]))
            .collect();
        World { nodes, under_way: Vec::new(), next_id: 1000, disks_to_lose }
    }

    fn happen(&mut self, event: &Event) {
        let count = self.nodes.len();
        match *event {
            Event::Attempt(node) => self.nodes[node % count].attempt(),
            Event::Answer { from, to } => {
                let (from, to) = (&self.nodes[from % count], to % count);
                if from.up {
                    let claim = from.claim();
                    let attempt = self.nodes[to].answers.attempt;
                    self.under_way.push((to, attempt, claim.name.clone(), claim));
                }
            }
            Event::Arrive(number) if !self.under_way.is_empty() => {
                let (to, attempt, name, claim) = self.under_way.swap_remove(number % self.under_way.len());
                let node = &mut self.nodes[to];
                if node.up && node.answers.attempt == attempt {
                    node.answer_from(&name, claim);
                }
            }
            Event::Arrive(_) => {}
            Event::Step { node, crash } => {
                let node = &mut self.nodes[node % count];
                if node.up && node.cluster.is_none() {
                    let step = node.step();
                    if crash != Some(false) {
                        node.obey(step);
                    }
                    node.up = crash.is_none();
                }
            }
            Event::Start(node) => {
                let node = &mut self.nodes[node % count];
                if !node.up {
                    node.up = true;
                    node.attempt();
                }
            }
            Event::LoseDisk(node) => {
                if self.disks_to_lose > 0 {
                    self.disks_to_lose -= 1;
                    self.wipe(node % count);
                }
            }
        }
        assert!(clusters(&self.nodes).len() <= 1, "two clusters: {:?}", self.nodes);
    }

    fn wipe(&mut self, node: usize) {
        self.next_id += 1;
        let old = &self.nodes[node];
        let (name, intent, attempt) =
            (old.formation.me.name.clone(), old.formation.intent, old.answers.attempt);
        let mut new = Node::new(&name, self.next_id, intent, &NAMES[..self.nodes.len()]);
        // Attempts are numbered for the whole run: a nonce is never used again after a restart.
        new.answers.attempt = attempt;
        new.attempt();
        self.nodes[node] = new;
    }

    /// Ends all faults, and the operator does what the messages ask for.
    fn heal(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.up = true);
        for _ in 0..20 {
            settle(&mut self.nodes);
            assert!(clusters(&self.nodes).len() <= 1, "two clusters: {:?}", self.nodes);
            let refused = (0..self.nodes.len()).find(|index| {
                let node = &self.nodes[*index];
                node.cluster.is_none() && matches!(node.step(), Step::Refuse(_))
            });
            match refused {
                Some(node) => self.wipe(node),
                None => return,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn e3_at_most_one_cluster_is_formed_and_in_the_end_one_is(
        count in 1..=5_usize,
        surplus in 0..2_usize,
        ids in Just((1..=5_u64).collect::<Vec<_>>()).prop_shuffle(),
        events in prop::collection::vec(events(), 0..250),
    ) {
        let expect = count.saturating_sub(surplus).max(1) as u32;
        let mut world = World::new(count, expect, 0, &ids);
        events.iter().for_each(|event| world.happen(event));
        world.heal();
        prop_assert_eq!(clusters(&world.nodes).len(), 1);
        prop_assert!(world.nodes.iter().all(|node| node.cluster.is_some()), "{:?}", world.nodes);
    }

    #[test]
    fn e3_one_lost_disk_never_makes_a_second_cluster(
        ids in Just((1..=5_u64).collect::<Vec<_>>()).prop_shuffle(),
        events in prop::collection::vec(events(), 0..250),
    ) {
        let mut world = World::new(3, 3, 1, &ids);
        events.iter().for_each(|event| world.happen(event));
        world.heal();
        prop_assert_eq!(clusters(&world.nodes).len(), 1);
        prop_assert!(world.nodes.iter().all(|node| node.cluster.is_some()), "{:?}", world.nodes);
    }

    /// Two sets of more than half of all nodes share a node, so whatever join addresses the nodes have, and whichever
    /// node proposes a pledge, at most one pledge is ever fulfilled.
    #[test]
    fn e3_however_wrong_the_join_addresses_are_at_most_one_cluster_is_formed(
        count in 2..=5_usize,
        ids in Just((1..=5_u64).collect::<Vec<_>>()).prop_shuffle(),
        lists in prop::collection::vec(prop::sample::subsequence(NAMES.to_vec(), 2..=5), 5),
        events in prop::collection::vec(events(), 0..250),
    ) {
        let mut world = World::new(count, count as u32 / 2 + 1, 0, &ids);
        for (node, list) in world.nodes.iter_mut().zip(lists) {
            node.formation.joins =
                list.into_iter().filter(|name| NAMES[..count].contains(name)).map(String::from).collect();
        }
        events.iter().for_each(|event| world.happen(event));
        world.nodes.iter_mut().for_each(|node| node.up = true);
        settle(&mut world.nodes);
        prop_assert!(clusters(&world.nodes).len() <= 1, "two clusters: {:?}", world.nodes);
    }
}
