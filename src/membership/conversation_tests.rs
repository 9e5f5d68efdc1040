//! A network in memory with its own clock: partitions of minutes and lost datagrams take no real time here.

use super::*;
use crate::node_id::NodeId;
use crate::rt::now;
use proptest::prelude::*;

const CLUSTER: ClusterId = ClusterId([1; 16]);
/// The interval at which a node resolves its names in these tests.
const ATTEMPT_EVERY: Duration = Duration::from_secs(4);
const MINUTE: Duration = Duration::from_secs(60);

enum Event {
    Due(Due),
    Attempt,
}

struct Network {
    now: Instant,
    nodes: Vec<Conversation>,
    queue: BTreeMap<(Instant, u64), (usize, Event)>,
    queued: u64,
    /// Links, from and to, on which every datagram is lost.
    cut: Vec<(usize, usize)>,
    /// Every n-th datagram is lost; 0 if none is.
    lose_every: u64,
    sent: u64,
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index as u8 + 1], 8401))
}

fn member(index: usize, boot: u64, joins: &[usize]) -> Conversation {
    let me = Claim {
        boot,
        cluster_id: Some(CLUSTER),
        gossip_addr: address(index).to_string(),
        state: State::Member,
        ..Claim::example(&format!("node-{index}"), NodeId(index as u64 + 1))
    };
    let joins = joins.iter().map(|join| address(*join).to_string()).collect();
    Conversation::new(me, address(index), joins, Arc::new(Key::open()), Pace::default())
}

impl Network {
    fn new(nodes: Vec<Conversation>) -> Network {
        let mut network = Network {
            now: now(),
            nodes: Vec::new(),
            queue: BTreeMap::new(),
            queued: 0,
            cut: Vec::new(),
            lose_every: 0,
            sent: 0,
        };
        for node in nodes {
            network.nodes.push(node);
            network.begin(network.nodes.len() - 1);
        }
        network
    }

    fn begin(&mut self, index: usize) {
        self.enqueue(index, Duration::ZERO, Event::Attempt);
        self.settle(index);
    }

    /// Kills a node and starts it again.
    fn restart(&mut self, index: usize, node: Conversation) {
        self.queue.retain(|_, (whose, _)| *whose != index);
        self.nodes[index] = node;
        self.begin(index);
    }

    fn isolate(&mut self, index: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != index) {
            self.cut.extend([(index, other), (other, index)]);
        }
    }

    fn enqueue(&mut self, index: usize, after: Duration, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), (index, event));
    }

    fn settle(&mut self, index: usize) {
        for (after, due) in self.nodes[index].take_schedule() {
            self.enqueue(index, after, Event::Due(due));
        }
        for (to, bytes) in self.nodes[index].take_outbox() {
            self.sent += 1;
            let lost = self.lose_every > 0 && self.sent.is_multiple_of(self.lose_every);
            let receiver = (0..self.nodes.len()).find(|receiver| address(*receiver) == to);
            if let Some(receiver) = receiver
                && !lost
                && !self.cut.contains(&(index, receiver))
            {
                self.nodes[receiver].receive(address(index), &bytes, self.now);
                self.settle(receiver);
            }
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some((&(at, number), _)) = self.queue.first_key_value() {
            if at > end {
                break;
            }
            let (index, event) = self.queue.remove(&(at, number)).expect("it is the first one");
            self.now = at;
            match event {
                Event::Due(due) => self.nodes[index].due(due),
                Event::Attempt => {
                    let names = self.nodes[index].names();
                    let resolved = names.into_iter().map(|name| {
                        let address = name.parse().expect("all names are addresses here");
                        (name, vec![address])
                    });
                    self.nodes[index].attempt(Resolved(resolved.collect()), at);
                    self.enqueue(index, ATTEMPT_EVERY, Event::Attempt);
                }
            }
            self.settle(index);
        }
        self.now = end;
    }

    /// The ids of the nodes that a node sees alive.
    fn alive(&mut self, index: usize) -> Vec<u64> {
        let view = self.nodes[index].view();
        let alive = view.into_iter().filter(|(_, peer)| peer.liveness == Liveness::Alive);
        alive.map(|(node_id, _)| node_id.0).collect()
    }
}

fn trio() -> Network {
    let mut network = Network::new(vec![member(0, 1, &[]), member(1, 1, &[0]), member(2, 1, &[0])]);
    network.run(MINUTE);
    for index in 0..3 {
        assert_eq!(network.alive(index), [1, 2, 3]);
    }
    network
}

#[test]
fn e8_after_a_long_partition_both_sides_dig_each_other_out() {
    let mut network = trio();
    for minutes in [1, 11] {
        network.isolate(0);
        network.run(minutes * MINUTE);
        assert_eq!(network.alive(0), [1]);
        assert_eq!(network.alive(1), [2, 3]);
        network.cut.clear();
        network.run(MINUTE);
        for index in 0..3 {
            assert_eq!(network.alive(index), [1, 2, 3], "after {minutes} minutes");
        }
    }
}

#[test]
fn e8_the_isolated_are_found_again_by_the_members_of_raft_without_join_addresses() {
    let mut network = Network::new(vec![member(0, 1, &[]), member(1, 1, &[])]);
    network.run(MINUTE);
    assert_eq!(network.alive(0), [1]);
    network.nodes[0].set_members(BTreeMap::from([
        (NodeId(1), "10.0.0.1:8400".into()),
        (NodeId(2), "10.0.0.2:8400".into()),
    ]));
    network.run(MINUTE);
    assert_eq!(network.alive(0), [1, 2]);
    assert_eq!(network.alive(1), [1, 2]);
}

#[test]
fn a_one_way_cut_between_two_is_bridged_by_the_third() {
    let mut network = trio();
    network.cut.push((1, 2));
    network.run(2 * MINUTE);
    assert_eq!(network.alive(0), [1, 2, 3]);
    assert_eq!(network.alive(2), [1, 2, 3]);
}

#[test]
fn e7_everybody_restarts_at_once_and_the_newest_claims_spread() {
    let mut network = trio();
    for (index, joins) in [(0, &[][..]), (1, &[0][..]), (2, &[0][..])] {
        let mut node = member(index, 2, joins);
        node.me.rpc_addr = format!("moved-{index}:8400");
        network.restart(index, node);
    }
    network.run(MINUTE);
    for index in 0..3 {
        assert_eq!(network.alive(index), [1, 2, 3]);
        for (node_id, peer) in network.nodes[index].view() {
            assert_eq!(peer.claim.rpc_addr, format!("moved-{}:8400", node_id.0 - 1));
        }
    }
}

#[test]
fn the_dead_are_forgotten_unless_they_are_members_of_raft() {
    let mut network = trio();
    network.nodes[0]
        .set_members(BTreeMap::from([(NodeId(1), "10.0.0.1:1".into()), (NodeId(2), "10.0.0.2:1".into())]));
    network.isolate(0);
    network.run(12 * MINUTE);
    let view = network.nodes[0].view();
    assert_eq!(view[&NodeId(2)].liveness, Liveness::Down);
    assert!(!view.contains_key(&NodeId(3)));
}

#[test]
fn e4_two_clusters_that_meet_both_say_so_though_only_one_asked() {
    let mut network = Network::new(vec![member(0, 1, &[])]);
    let mut stranger = member(1, 1, &[0]);
    stranger.me.cluster_id = Some(ClusterId([2; 16]));
    network.nodes.push(stranger);
    network.begin(1);
    network.run(MINUTE);
    for (index, other) in [(0, 1), (1, 0)] {
        let is_reported = network.nodes[index]
            .alarms
            .all()
            .iter()
            .any(|alarm| matches!(alarm, Alarm::ForeignCluster { from, .. } if *from == address(other)));
        assert!(is_reported, "node {index}");
        assert_eq!(network.alive(index), [index as u64 + 1], "they do not mix");
    }
}

#[test]
fn e9_a_datagram_that_is_played_back_changes_nothing() {
    let mut network = trio();
    // The earlier incarnation's datagram arrives after one of the next incarnation.
    let earlier = member(1, 1, &[]);
    let mut sealer = Sealer::new(Arc::new(Key::open()), NodeId(2), 1);
    let exchange = wire::Exchange { nonce: 0, claims: vec![earlier.me.to_wire()] };
    let played_back = sealer.seal(Kind::Ask, Some(CLUSTER), exchange.encode_to_vec());
    network.restart(1, member(1, 2, &[0]));
    network.run(MINUTE);
    let before = network.nodes[0].view();
    let when = network.now;
    network.nodes[0].receive(address(2), &played_back, when);
    assert_eq!(network.nodes[0].view(), before);
    assert!(network.nodes[0].take_outbox().is_empty(), "it is not even answered");
}

#[test]
fn claims_of_more_nodes_than_fit_one_datagram_reach_everybody() {
    let count = 18;
    let nodes = (0..count).map(|index| member(index, 1, if index == 0 { &[] } else { &[0] })).collect();
    let mut network = Network::new(nodes);
    network.run(MINUTE);
    for index in 0..count {
        assert_eq!(network.alive(index).len(), count, "node {index}");
    }
}

#[test]
fn a_lossy_network_still_converges() {
    for lose_every in [2, 3, 5] {
        let mut network = Network::new(vec![member(0, 1, &[]), member(1, 1, &[0]), member(2, 1, &[0])]);
        network.lose_every = lose_every;
        network.run(MINUTE);
        network.lose_every = 0;
        network.run(MINUTE);
        for index in 0..3 {
            assert_eq!(network.alive(index), [1, 2, 3], "one of {lose_every} lost");
        }
    }
}

proptest! {
    #[test]
    fn noise_in_an_envelope_is_survived(noise in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3_usize) {
        let mut node = member(0, 1, &[]);
        let kind = [Kind::Swim, Kind::Ask, Kind::Answer][kind];
        let datagram = Sealer::new(Arc::new(Key::open()), NodeId(2), 1).seal(kind, Some(CLUSTER), noise);
        node.receive(address(1), &datagram, now());
        prop_assert_eq!(node.view().len(), 1);
    }
}

/// A node reports that a peer has another key for as long as it receives unreadable datagrams, and no longer.
#[test]
fn an_unreadable_sender_is_remembered_for_as_long_as_it_goes_on() {
    let with_key = |index: usize, key: &str| {
        let me = Claim::example(&format!("node-{index}"), NodeId(index as u64 + 1));
        let key = Arc::new(Key::secret(key.as_bytes()));
        Conversation::new(me, address(index), vec![address(1 - index).to_string()], key, Pace::default())
    };
    let (mut one, mut other) = (with_key(0, "sixteen bytes and"), with_key(1, "another sixteen b"));
    let attempt = || Resolved(BTreeMap::from([(address(0).to_string(), vec![address(0)])]));
    let start = now();
    let unreadable_from = |one: &mut Conversation, other: &mut Conversation, at: Instant| {
        other.attempt(attempt(), at);
        other.take_outbox().into_iter().for_each(|(_, datagram)| one.receive(address(1), &datagram, at));
        one.unreadable().clone()
    };
    let mut unreadable = |at| unreadable_from(&mut one, &mut other, at);
    let first = unreadable(start);
    let (at, why) = &first[&address(1)];
    assert_eq!(*at, start);
    assert!(why.contains("another cluster key"), "{why}");
    assert_eq!(unreadable(start + EXCHANGE_EVERY / 2), first, "not published anew for each datagram");
    assert_eq!(unreadable(start + MINUTE / 2)[&address(1)].0, start + MINUTE / 2);
    let mut corrected = with_key(1, "sixteen bytes and");
    assert_eq!(
        unreadable_from(&mut one, &mut corrected, start + MINUTE / 2),
        UnreadableSenders::new(),
        "it can be read now"
    );
    assert_ne!(unreadable_from(&mut one, &mut other, start + MINUTE), UnreadableSenders::new());
    one.attempt(Resolved::default(), start + MINUTE * 3);
    assert_eq!(*one.unreadable(), UnreadableSenders::new(), "it went silent");
}
