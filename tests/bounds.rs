//! The table of settings states bounds; a node serves at each of them, also at the value that only just fits.

mod common;

use bytes::Bytes;
use common::cluster::SMALL_FILES;
use common::node::Node;
use common::ports::PortBlock;
use common::{LIMIT, assert_no_panic, http1, run, wait_for};
use mokv::client::{Client, Error, Operation, Transaction};
use mokv::config::settings::{Kind, SETTINGS};

/// What a node does at a bound.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// It becomes ready and takes a write.
    Serves,
    /// It becomes ready and refuses writes: nothing is left of the bound.
    RefusesWrites,
    /// It becomes ready; what it answers to a write depends on the machine's speed.
    IsReady,
    /// It runs, and waits for what the bound asks for.
    Runs,
}

/// A node at a bound: the setting, its value, and what must be set with it.
struct Case {
    key: &'static str,
    value: String,
    with: &'static [&'static str],
    expected: Expected,
    /// Length of the value that is written, in bytes.
    write_bytes: usize,
}

/// Gossip addresses of eight nodes that do not exist.
const NOBODY: &str = "start-join-addrs: [nobody-1.invalid:1, nobody-2.invalid:1, nobody-3.invalid:1, nobody-4.invalid:1, \
    nobody-5.invalid:1, nobody-6.invalid:1, nobody-7.invalid:1, nobody-8.invalid:1]";

fn case(key: &'static str, value: String, is_least: bool) -> Case {
    use Expected::*;
    // A heartbeat comes before an election, an election before a replacement; a value fits into a request, and two
    // requests into a segment.
    let (with, expected, write_bytes): (&[&str], _, _) = match (key, is_least) {
        ("heartbeat-interval", false) => (&["election-timeout: 180s", "replace-silence: 360s"], Runs, 1),
        ("election-timeout", true) => (&["heartbeat-interval: 10ms"], Serves, 1),
        ("election-timeout", false) => (&["replace-silence: 600s"], Runs, 1),
        ("request-timeout", true) => (&[], IsReady, 1),
        ("max-value-bytes", true) => (&[], Serves, 1),
        ("max-value-bytes", false) => {
            (&["max-request-bytes: 64MiB", "log-segment-bytes: 128MiB"], Serves, 48 << 20)
        }
        ("max-request-bytes", true) => (&["max-value-bytes: 8KiB"], Serves, 8 << 10),
        ("max-request-bytes", false) => (&["log-segment-bytes: 128MiB"], Serves, 1 << 20),
        ("log-segment-bytes", true) => {
            (&["max-request-bytes: 32KiB", "max-value-bytes: 24KiB"], Serves, 24 << 10)
        }
        ("snapshot-log-bytes", false) => (&["snapshot-log-max-bytes: 1TiB"], Serves, 1 << 10),
        ("snapshot-log-max-bytes", true) => (&["snapshot-log-bytes: 4KiB"], Serves, 1 << 10),
        ("min-free-bytes", false) => (&[], RefusesWrites, 1),
        // The others never come.
        ("bootstrap-expect", false) => (&[NOBODY], Runs, 1),
        _ => (&[], Serves, 1 << 10),
    };
    Case { key, value, with, expected, write_bytes }
}

/// The cases of one end of all ranges.
fn cases(is_least: bool) -> Vec<Case> {
    let value = |kind| match kind {
        Kind::Count { least, most } | Kind::Bytes { least, most } => {
            Some(if is_least { least } else { most }.to_string())
        }
        Kind::Time { least, most } => Some(format!("{}ms", if is_least { least } else { most }.as_millis())),
        _ => None,
    };
    let cases = SETTINGS.iter().filter_map(|setting| Some(case(setting.key, value(setting.kind)?, is_least)));
    cases.collect()
}

fn start_at_each(is_least: bool) {
    run(async {
        let cases = cases(is_least);
        assert!(cases.len() >= 20, "the table has {} bounds", cases.len());
        let (directory, mut ports) = (tempfile::tempdir().unwrap(), PortBlock::take());
        let mut node = Node::new(directory.path(), "node-1", &mut ports);
        for case in cases {
            println!("{}: {}", case.key, case.value);
            start_at(&mut node, &case).await;
            std::fs::remove_dir_all(&node.data_dir).unwrap();
        }
    });
}

async fn start_at(node: &mut Node, case: &Case) {
    let given = format!("{}: {}", case.key, case.value);
    let key = |line: &str| line.split(':').next().unwrap().to_owned();
    let is_free =
        |line: &&str| key(line) != case.key && case.with.iter().all(|other| key(other) != key(line));
    let common = SMALL_FILES.into_iter().chain(["drain-timeout: 1s", "bootstrap-expect: 1"]).filter(is_free);
    let lines: Vec<&str> = common.chain(case.with.iter().copied()).chain([given.as_str()]).collect();
    node.configure(&lines);
    node.start();
    let probe = if case.expected == Expected::Runs { "/livez" } else { "/readyz" };
    wait_for(&format!("a node with {given} answers {probe}"), async || {
        assert!(!node.has_ended(), "a node with {given} ended:\n{}", node.log());
        (http1::get_if_listening(&node.metrics, probe)?.0 == 200).then_some(())
    })
    .await;
    let client = Client::builder().endpoints([&node.rpc]).timeout(LIMIT).build().unwrap();
    let value = Bytes::from(vec![b'v'; case.write_bytes]);
    match case.expected {
        Expected::Serves => {
            client.set("key", value).await.map(|_| ()).expect(&given);
        }
        Expected::RefusesWrites => {
            let refused = client.set("key", value).await;
            assert!(matches!(refused, Err(Error::ResourceExhausted(_))), "{given}: {refused:?}");
        }
        Expected::IsReady | Expected::Runs => {}
    }
    let ended = node.terminate().await;
    assert!(ended.success(), "a node with {given} ended with {ended}:\n{}", node.log());
    assert_no_panic(&node.log());
}

#[test]
fn a_node_serves_at_the_least_value_of_every_setting() {
    start_at_each(true);
}

#[test]
fn a_node_serves_at_the_largest_value_of_every_setting() {
    start_at_each(false);
}

/// A frame between peers has a bound of its own. A transaction of many long values once could exceed it.
#[test]
fn a_transaction_that_no_peer_could_take_is_refused() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let mut ports = PortBlock::take();
        let mut node = Node::new(directory.path(), "only", &mut ports);
        node.configure(&["bootstrap: true", "max-request-bytes: 64MiB", "log-segment-bytes: 128MiB"]);
        node.start();
        let client = Client::builder().endpoints([&node.rpc]).timeout(LIMIT).build().unwrap();
        client.set("before", "1").await.unwrap();
        let value = Bytes::from(vec![7; 1 << 20]);
        let sets = |count: usize| {
            (0..count).fold(Transaction::new(), |all, number| {
                all.then(Operation::set(number.to_string(), value.clone()))
            })
        };
        let refused = client.transact(sets(60)).await;
        assert!(
            matches!(&refused, Err(Error::Invalid(why)) if why.as_str().contains("in the log")),
            "{refused:?}"
        );
        assert_eq!(client.get("0").await.unwrap().entry, None, "nothing was done");
        assert!(client.transact(sets(40)).await.unwrap().succeeded);
        assert_eq!(client.get("39").await.unwrap().entry.unwrap().value, value);
        assert_no_panic(&node.log());
    });
}
