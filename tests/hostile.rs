//! Clients that hold resources: connections, half requests, places. The node serves others, and what was held is freed.
//!
//! `bad_input.rs` tests bytes that are no protocol and requests that break rules; `floods.rs` tests floods.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use common::cluster::{Cluster, PATIENCE, set};
use common::http2::{self, PREFACE};
use common::node::Node;
use common::{http1, run, wait_for};
use futures_util::future::join_all;
use mokv::client::Client;
use mokv_proto::api;
use mokv_proto::tonic::Code;

/// A store of one node with these settings.
async fn store_of_one(settings: &[&str]) -> Cluster {
    let mut cluster = Cluster::prepare(1, settings);
    cluster.start_all();
    cluster.leader().await;
    cluster
}

/// The command that serves a node with a limit on open files.
fn with_descriptors(node: &Node, most: u32) -> Command {
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_mokv")]).args(node.arguments());
    command
}

/// Opens a connection, sends `said`, and keeps it open.
fn hold(address: &str, said: &[u8]) -> TcpStream {
    let mut stream = http1::connect(address);
    stream.write_all(said).unwrap();
    stream
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    const ROUND: usize = 4_000;
    const KEPT_BYTES: u64 = 6 << 20;
    run(async {
        let cluster = store_of_one(&[]).await;
        let node = &cluster.nodes[0];
        let round = || {
            for _ in 0..ROUND {
                drop(hold(&node.rpc, &[0x01]));
            }
        };
        // The memory that the allocator keeps for this many connections is allocated after the first round.
        round();
        let before = node.resident_bytes();
        round();
        round();
        let client = cluster.client();
        set(&client, "key", "value").await;
        let after = node.resident_bytes();
        assert!(
            after < before + KEPT_BYTES,
            "{} connections left {} bytes behind",
            2 * ROUND,
            after.saturating_sub(before)
        );
    });
}

#[test]
fn idle_connections_do_not_end_nodes_that_may_open_few_files() {
    const IDLE: usize = 250;
    run(async {
        let mut cluster = Cluster::prepare(3, &[]);
        for node in &mut cluster.nodes {
            let command = with_descriptors(node, 256);
            node.start_as(command);
        }
        cluster.leader().await;
        let idle: Vec<TcpStream> = (cluster.nodes.iter())
            .flat_map(|node| (0..IDLE).map(|_| hold(&node.rpc, b"")).collect::<Vec<_>>())
            .collect();
        // Enough data for new segments of the log, which are new files.
        let client = cluster.client();
        let value = "v".repeat(512 << 10);
        for number in 0..24 {
            set(&client, &format!("key-{number}"), &value).await;
        }
        cluster.equal_state().await;
        drop(idle);
        for node in &cluster.nodes {
            assert!(!node.log().contains("ERROR"), "{}", node.log());
        }
    });
}

#[test]
fn a_limit_on_open_files_that_is_too_low_is_reported_at_the_start() {
    run(async {
        let mut cluster = Cluster::prepare(1, &[]);
        let node = &mut cluster.nodes[0];
        let command = with_descriptors(node, 100);
        node.start_as(command);
        let status = node.ended().await;
        let said = node.log();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("may open 100 files") && said.contains("ulimit -n"), "{said}");
        common::assert_no_panic(&said);
    });
}

#[test]
fn half_a_request_holds_no_place_and_is_ended_by_its_deadline() {
    run(async {
        let cluster = store_of_one(&["max-in-flight-requests: 8", "request-timeout: 2s"]).await;
        let node = &cluster.nodes[0];
        let halves: Vec<u8> = (0..200)
            .flat_map(|number| http2::headers(http2::END_HEADERS, 2 * number + 1, "/api.KV/Set"))
            .collect();
        let mut held = hold(&node.rpc, &[PREFACE, &halves].concat());
        wait_for("all places are free for whole requests", async || {
            let mut kv = node.connect().await.kv();
            let request = api::SetRequest { key: "key".into(), ..api::SetRequest::default() };
            kv.set(request).await.ok()
        })
        .await;
        let (_, metrics) = http1::get(&node.metrics, "/metrics");
        let refused = "method=\"Set\",code=\"RESOURCE_EXHAUSTED\"";
        assert!(!metrics.contains(refused), "a whole request was refused:\n{metrics}");
        // The node answers each half request: DEADLINE_EXCEEDED, in a HEADERS frame of its stream.
        let mut answered = 0;
        while answered < 200 {
            let mut header = [0; 9];
            held.read_exact(&mut header).unwrap();
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            held.read_exact(&mut vec![0; length as usize]).unwrap();
            answered += u32::from(header[3] == http2::HEADERS);
        }
        let (_, metrics) = http1::get(&node.metrics, "/metrics");
        assert!(metrics.contains("method=\"Set\",code=\"DEADLINE_EXCEEDED\"} 200\n"), "{metrics}");
    });
}

#[test]
fn large_values_that_come_all_at_once_on_one_connection_are_all_taken() {
    const VALUES: usize = 32;
    run(async {
        let cluster = store_of_one(&[]).await;
        let node = &cluster.nodes[0];
        let client = Client::builder().endpoints([&node.rpc]).timeout(PATIENCE).build().unwrap();
        let value = "v".repeat(1 << 20);
        let keys: Vec<String> = (0..VALUES).map(|number| format!("key-{number}")).collect();
        join_all(keys.iter().map(|key| set(&client, key, &value))).await;
        // A write that waits for the others until its deadline would be retried by the client, and succeed by chance.
        let (_, metrics) = http1::get(&node.metrics, "/metrics");
        assert!(!metrics.contains("method=\"Set\",code=\"DEADLINE_EXCEEDED\""), "{metrics}");
    });
}

#[test]
fn operators_are_served_when_clients_hold_all_their_connections() {
    run(async {
        let cluster = store_of_one(&["max-connections: 16"]).await;
        let node = &cluster.nodes[0];
        // One address gets three quarters of the places. The connections that hold them are silent and are closed after
        // a while, so a slow machine has to try again.
        let held = wait_for("clients have all places that they may", async || {
            let held: Vec<TcpStream> = (0..12).map(|_| hold(&node.rpc, PREFACE)).collect();
            wait_for("they are let in", async || {
                let (_, metrics) = http1::get(&node.metrics, "/metrics");
                let open = metrics.lines().find_map(|line| line.strip_prefix("mokv_grpc_connections "))?;
                (open.parse::<usize>().unwrap() >= held.len()).then_some(())
            })
            .await;
            let mut kv = node.connect().await.kv();
            let request = api::GetRequest { key: "key".into(), ..api::GetRequest::default() };
            let refused = kv.get(request).await.expect_err("there is no such key");
            (refused.code() == Code::ResourceExhausted).then_some(held)
        })
        .await;
        let operator = Client::builder().endpoints([&node.rpc]).build().unwrap();
        wait_for("an operator is answered", async || operator.status(&node.rpc).await.ok()).await;
        drop(held);
        wait_for("clients are served again", async || {
            let client = Client::builder().endpoints([&node.rpc]).build().unwrap();
            client.get("key").await.ok()
        })
        .await;
    });
}
