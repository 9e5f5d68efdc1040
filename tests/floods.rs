//! Clients that misuse HTTP/2 and gossip as fast as they can, on all nodes at once. The cluster goes on serving others,
//! no node's memory grows without bound, and what was held is freed.

mod common;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::cluster::{Cluster, set};
use common::http2::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, KEPT, NOT_KEPT, PING, PREFACE, RST_STREAM,
    SETTINGS, headers,
};
use common::node::Node;
use common::{assert_no_panic, run, wait_for};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

/// Fewest rounds of an attack on each node, besides the first.
const ROUNDS: usize = 3;
/// Fewest writes of others during an attack.
const WRITES: usize = 50;
/// Most memory that a round may add to a node while it lasts, and that its allocator may keep afterwards.
const HELD_BYTES: u64 = 96 << 20;
const KEPT_BYTES: u64 = 24 << 20;
/// A node that neither sends nor reads for this long has stopped serving the attacker.
const SILENCE: Duration = Duration::from_secs(1);

/// The addresses of a node that an attack sends to.
struct Target {
    rpc: String,
    gossip: String,
}

impl Target {
    fn of(node: &Node) -> Target {
        Target { rpc: node.rpc.clone(), gossip: node.gossip.clone() }
    }

    /// Sends `said` on a connection of its own, whatever the node answers, until the node closes the connection or
    /// falls silent. Returns whether the node closed it.
    fn says(&self, said: &[u8]) -> bool {
        self.says_and_waits(said, SILENCE)
    }

    fn says_and_waits(&self, said: &[u8], silence: Duration) -> bool {
        let mut stream = TcpStream::connect(&self.rpc).unwrap();
        stream.set_write_timeout(Some(SILENCE)).unwrap();
        stream.set_read_timeout(Some(silence)).unwrap();
        // An error is fine: the node should close the connection, or stop reading.
        let _ = stream.write_all(said);
        let mut answer = [0; 64 << 10];
        loop {
            match stream.read(&mut answer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return true,
                Err(_) => return false,
            }
        }
    }
}

/// A repeated attack, in a thread for each node, until this is dropped.
struct UnderWay {
    stop: Arc<AtomicBool>,
    rounds: Vec<Arc<AtomicUsize>>,
    threads: Vec<JoinHandle<()>>,
}

impl UnderWay {
    fn start(nodes: &[Node], attack: &Arc<impl Fn(&Target) + Send + Sync + 'static>) -> UnderWay {
        let mut under_way = UnderWay { stop: Arc::default(), rounds: Vec::new(), threads: Vec::new() };
        for node in nodes {
            let rounds = Arc::new(AtomicUsize::new(0));
            under_way.rounds.push(rounds.clone());
            let (stop, attack, target) = (under_way.stop.clone(), attack.clone(), Target::of(node));
            let attacks = move || {
                while !stop.load(Ordering::Relaxed) {
                    attack(&target);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            };
            #[expect(clippy::disallowed_methods, reason = "an attacker is no node, and blocks")]
            under_way.threads.push(std::thread::spawn(attacks));
        }
        under_way
    }

    /// The number of rounds on the node with the fewest.
    fn rounds(&self) -> usize {
        self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).min().unwrap()
    }

    /// # Panics
    /// If an attacker did: it could not even connect to a node.
    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("nodes go on accepting"));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Runs an attack on each of three nodes while other clients do their work, and checks the nodes.
fn withstand(rounds: usize, settings: &[&str], attack: impl Fn(&Target) + Send + Sync + 'static) {
    let attack = Arc::new(attack);
    run(async {
        let cluster = Cluster::start(settings).await;
        let client = cluster.client();
        // For requests that ask for a large answer.
        set(&client, "large", &"v".repeat(1 << 20)).await;
        // The memory that the allocator keeps of one round is allocated after the first.
        let first = UnderWay::start(&cluster.nodes, &attack);
        wait_for("one round on each node", async || (first.rounds() > 0).then_some(())).await;
        first.end();
        let resident = || cluster.nodes.iter().map(Node::resident_bytes);
        let before: Vec<u64> = resident().collect();
        let mut largest = before.clone();
        let under_way = UnderWay::start(&cluster.nodes, &attack);
        let mut written = 0;
        while written < WRITES || under_way.rounds() < rounds {
            let key = format!("key-{written}");
            let revision = set(&client, &key, "value").await;
            let read = client.get(key).await.unwrap();
            assert_eq!(read.revision, revision);
            largest.iter_mut().zip(resident()).for_each(|(largest, now)| *largest = now.max(*largest));
            written += 1;
        }
        under_way.end();
        for ((node, before), largest) in cluster.nodes.iter().zip(before).zip(largest) {
            assert!(largest < before + HELD_BYTES, "{}: {before} bytes grew to {largest}", node.name);
            let what = format!("{} has about {before} bytes again, after {largest}", node.name);
            wait_for(&what, async || (node.resident_bytes() < before + KEPT_BYTES).then_some(())).await;
            assert_no_panic(&node.log());
            println!(
                "{}: {before} bytes before, {largest} at most, {} after",
                node.name,
                node.resident_bytes()
            );
        }
        cluster.equal_state().await;
    });
}

/// A complete request of one message.
fn request(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let data = [&[0], &length[..], message].concat();
    [headers(END_HEADERS, stream, path), http2::frame(DATA, END_STREAM, stream, &data)].concat()
}

fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

#[test]
fn requests_that_are_reset_as_soon_as_they_are_made() {
    const CANCEL: [u8; 4] = 8_u32.to_be_bytes();
    let reset = |stream| {
        [request(stream, "/api.KV/List", &[]), http2::frame(RST_STREAM, 0, stream, &CANCEL)].concat()
    };
    let flood = [PREFACE, &streams(20_000).flat_map(reset).collect::<Vec<u8>>()].concat();
    withstand(ROUNDS, &[], move |target| {
        target.says(&flood);
    });
}

#[test]
fn header_blocks_that_never_end() {
    // A frame of literals that are not indexed, and empty frames.
    let one = http2::grpc_headers(NOT_KEPT, "/api.KV/Get", b"localhost");
    let full = http2::frame(CONTINUATION, 0, 1, &one.repeat((16 << 10) / one.len()));
    let empty = http2::frame(CONTINUATION, 0, 1, &[]);
    for frames in [full.repeat(2_000), empty.repeat(500_000)] {
        let flood = [PREFACE, &headers(0, 1, "/api.KV/Get"), &frames].concat();
        withstand(ROUNDS, &[], move |target| {
            assert!(target.says(&flood), "the node goes on listening to a block without an end");
        });
    }
}

#[test]
fn small_blocks_that_unpack_to_large_ones() {
    // RFC 7541: an indexed field of 4,000 bytes, then one byte that refers to it, as often as a frame has room.
    const NEWEST_KEPT: u8 = 0x80 | 62;
    let mut kept = vec![KEPT, 1, b'a'];
    // A length of 4,000: all ones in the seven bits of the prefix, then the rest in groups of seven bits.
    kept.extend([0x7f, 0x80 | (3_873_u32 % 128) as u8, (3_873_u32 / 128) as u8]);
    kept.extend([b'v'; 4_000]);
    for authority in [&b"localhost"[..], b""] {
        let good = http2::grpc_headers(NOT_KEPT, "/api.KV/Get", authority);
        let bomb = [&good, &kept, &vec![NEWEST_KEPT; 12_000][..]].concat();
        let flood: Vec<u8> = streams(500)
            .flat_map(|stream| http2::frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb))
            .collect();
        let flood = [PREFACE, &flood].concat();
        withstand(ROUNDS, &[], move |target| {
            target.says(&flood);
        });
    }
}

#[test]
fn settings_and_pings_with_unread_answers() {
    for frame in [http2::frame(SETTINGS, 0, 0, &[]), http2::frame(PING, 0, 0, &[7; 8])] {
        let flood = [PREFACE, &frame.repeat(1_000_000)].concat();
        withstand(ROUNDS, &[], move |target| {
            target.says(&flood);
        });
    }
}

#[test]
fn answers_without_a_receive_window() {
    // api.GetRequest: the key "large", field 1.
    let get = [&[0x0a, 5], &b"large"[..]].concat();
    let all = |path, message: &[u8]| streams(400).flat_map(|stream| request(stream, path, message)).collect();
    let [gets, lists]: [Vec<u8>; 2] = [all("/api.KV/Get", &get), all("/api.KV/List", &[])];
    let [gets, lists] = [gets, lists].map(|asked| [http2::preface_without_windows(), asked].concat());
    withstand(1, &["request-timeout: 2s", "max-list-time: 2s"], move |target| {
        std::thread::scope(|scope| {
            for asked in [&gets, &lists] {
                scope.spawn(|| {
                    let silence = common::LIMIT;
                    assert!(
                        target.says_and_waits(asked, silence),
                        "the node waits for ever for room to answer"
                    );
                });
            }
        });
    });
}

#[test]
fn frames_of_garbage() {
    let seeds = AtomicUsize::new(0);
    withstand(ROUNDS, &[], move |target| {
        let mut random = SmallRng::seed_from_u64(seeds.fetch_add(1, Ordering::Relaxed) as u64);
        for _ in 0..50 {
            let mut flood = Vec::new();
            // Random bytes after HTTP/2's preface, or after the first byte of the peer protocol.
            flood.extend_from_slice(if random.random() { PREFACE } else { &[0x01] });
            for _ in 0..random.random_range(1..200) {
                let mut payload = vec![0; random.random_range(0..2_000)];
                random.fill_bytes(&mut payload);
                let [kind, flags] = [random.random_range(0..12), random.random()];
                flood.extend(http2::frame(kind, flags, random.random_range(0..9), &payload));
            }
            target.says_and_waits(&flood, Duration::from_millis(20));
        }
    });
}

#[test]
fn datagrams_of_garbage() {
    let seeds = AtomicUsize::new(0);
    withstand(ROUNDS, &[], move |target| {
        let mut random = SmallRng::seed_from_u64(seeds.fetch_add(1, Ordering::Relaxed) as u64);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..20_000 {
            let mut datagram = vec![0; random.random_range(0..1_500)];
            random.fill_bytes(&mut datagram);
            // A full buffer drops the datagram, as networks do.
            let _ = socket.send_to(&datagram, &target.gossip);
        }
    });
}
