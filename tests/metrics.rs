//! What a node reports to machines: metrics, probes, health, reflection, logs.

mod common;

use std::io::{BufRead, BufReader, Lines, PipeReader};
use std::process::Command;
use std::time::Duration;

use common::cluster::{Cluster, MANY_SNAPSHOTS};
use common::node::Node;
use common::ports::PortBlock;
use common::{LIMIT, http1, run, wait_for};
use mokv::client::{Client, WriteOptions};
use mokv::rt;
use mokv_proto::api;
use mokv_proto::tonic::{Code, Request};
use rustix::process::Signal;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use common::direct::Direct;

async fn http_get(address: &str, path: &str) -> (u16, String) {
    let (address, path) = (address.to_owned(), path.to_owned());
    mokv::rt::spawn_blocking(move || http1::get(&address, &path)).await.unwrap()
}

/// Waits until the readiness probe answers with this status. Returns the body.
async fn readyz_says(address: &str, status: u16) -> String {
    let (_, words) = wait_for(&format!("/readyz answers {status}"), async || {
        Some(http_get(address, "/readyz").await).filter(|(said, _)| *said == status)
    })
    .await;
    words
}

/// The value of a metric: without labels, or with exactly the labels in `name`.
fn value_of(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// The number of requests of this method that were answered with this code.
fn requests(metrics: &str, method: &str, code: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| {
        line.starts_with("mokv_grpc_requests_total{")
            && line.contains(&format!("method=\"{method}\""))
            && line.contains(&format!("code=\"{code}\""))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

async fn health_of(direct: &Direct, service: &str) -> Result<i32, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(direct.clone()).check(request).await;
    answer.map(|response| response.into_inner().status).map_err(|status| status.code())
}

#[test]
fn metrics_name_the_state_of_raft_log_snapshots_requests_sessions_and_gossip() {
    run(async {
        let cluster = Cluster::start(&[]).await;
        let client = cluster.client();
        for number in 0..10 {
            client.set(format!("key-{number}"), "value").await.unwrap();
        }
        let leader = &cluster.nodes[cluster.leader().await];
        leader.connect().await.kv().get(api::GetRequest::default()).await.unwrap_err();
        let (status, metrics) = http_get(&leader.metrics, "/metrics").await;
        assert_eq!(status, 200);
        let names = [
            "mokv_raft_term",
            "mokv_raft_has_leader",
            "mokv_raft_last_log_index",
            "mokv_raft_committed_index",
            "mokv_raft_applied_index",
            "mokv_raft_snapshot_index",
            "mokv_snapshot_log_bytes",
            "mokv_snapshot_due_bytes",
            "mokv_memory_key_bytes",
            "mokv_memory_value_bytes",
            "mokv_memory_history_bytes",
            "mokv_memory_session_bytes",
            "mokv_memory_log_cache_bytes",
            "mokv_memory_log_index_bytes",
            "mokv_raft_purged_index",
            "mokv_raft_voters",
            "mokv_raft_members",
            "mokv_store_revision",
            "mokv_store_keys",
            "mokv_store_bytes",
            "mokv_store_size_bytes",
            "mokv_store_max_bytes",
            "mokv_store_versions",
            "mokv_store_history_bytes",
            "mokv_store_history_max_bytes",
            "mokv_store_floor_revision",
            "mokv_store_sessions",
            "mokv_store_max_sessions",
            "mokv_log_segments",
            "mokv_log_queued_bytes",
            "mokv_log_batches_total",
            "mokv_log_entries_total",
            "mokv_log_written_bytes_total",
            "mokv_log_fsync_duration_seconds_count",
            "mokv_apply_duration_seconds_count",
            "mokv_gossip_members",
            "mokv_gossip_members_alive",
            "mokv_digest_alarm",
            "mokv_quarantined",
            "mokv_members_gone_back",
            "mokv_disk_free_bytes",
            "mokv_boot_count",
            "mokv_ready",
            "mokv_leader_lag_entries",
            "mokv_resident_memory_bytes",
            "mokv_grpc_connections",
            "mokv_connections_refused_total{kind=\"client\"}",
            "mokv_damage_found_total{what=\"log\"}",
            "mokv_damage_found_total{what=\"snapshot\"}",
            "mokv_damage_found_total{what=\"memory\"}",
        ];
        for name in names {
            assert!(value_of(&metrics, name).is_some(), "{name} is missing from\n{metrics}");
        }
        assert_eq!(value_of(&metrics, "mokv_raft_voters"), Some(3.0));
        assert_eq!(value_of(&metrics, "mokv_store_keys"), Some(10.0));
        assert_eq!(value_of(&metrics, "mokv_store_floor_revision"), Some(1.0));
        assert_eq!(value_of(&metrics, "mokv_digest_alarm"), Some(0.0));
        assert_eq!(value_of(&metrics, "mokv_role{role=\"leader\"}"), Some(1.0));
        assert!(value_of(&metrics, "mokv_log_fsync_duration_seconds_count").unwrap() >= 10.0);
        let mut sets = 0.0;
        for node in &cluster.nodes {
            // Before the client has learned the leader, a follower forwards its writes.
            sets += requests(&http_get(&node.metrics, "/metrics").await.1, "Set", "OK").unwrap_or(0.0);
        }
        assert!(sets >= 10.0, "{sets} in all; the leader's:\n{metrics}");
        assert_eq!(requests(&metrics, "Get", "INVALID_ARGUMENT"), Some(1.0), "{metrics}");
        // Every name has a help text and a type, and the text ends as OpenMetrics requires.
        let families: Vec<&str> =
            metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        for family in &families {
            assert!(metrics.contains(&format!("# HELP {family} ")), "{family} has no help");
        }
        assert!(metrics.ends_with("# EOF\n"));
        assert_eq!(http_get(&leader.metrics, "/other").await.0, 404);
    });
}

#[test]
fn a_leader_without_followers_is_not_ready() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let leader = cluster.leader().await;
        let metrics = cluster.nodes[leader].metrics.clone();
        readyz_says(&metrics, 200).await;
        for other in (0..3).filter(|other| *other != leader) {
            cluster.nodes[other].kill();
        }
        let reason = readyz_says(&metrics, 503).await;
        assert!(reason.contains("no quorum: 1 of 3 voters reachable, no leader"), "{reason}");
        let (_, metrics) = http_get(&metrics, "/metrics").await;
        assert_eq!(value_of(&metrics, "mokv_raft_has_leader"), Some(0.0));
        assert_eq!(value_of(&metrics, "mokv_ready"), Some(0.0));
    });
}

#[test]
fn a_check_tries_everything_out_and_leaves_nothing_behind() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let endpoints = cluster.endpoints().join(",");
        let mokv = |args: &[&str]| {
            let args = [args, &["--endpoints", &endpoints, "--timeout", "20s"]].concat();
            Command::new(env!("CARGO_BIN_EXE_mokv")).args(args).output().unwrap()
        };
        let said = String::from_utf8(mokv(&["check"]).stdout).unwrap();
        for step in ["set", "get", "delete", "status"] {
            assert!(said.lines().any(|line| line.starts_with(step)), "{step} is missing from\n{said}");
        }
        assert!(said.contains("3 members, one leader, no alarm"), "{said}");
        assert_eq!(mokv(&["list", "--prefix", "mokv-check/", "--count"]).stdout, b"0\n");

        let dead = cluster.follower().await;
        cluster.nodes[dead].kill();
        let failed = mokv(&["check"]);
        assert_eq!(failed.status.code(), Some(6), "a member does not answer");
        let said = String::from_utf8(failed.stderr).unwrap();
        assert!(said.contains(&cluster.nodes[dead].rpc) && said.contains("next:"), "{said}");
    });
}

#[test]
fn without_a_quorum_a_node_is_live_and_not_ready_and_health_says_so() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let survivor = cluster.follower().await;
        let metrics = cluster.nodes[survivor].metrics.clone();
        let direct = cluster.nodes[survivor].connect().await;
        let serving = ServingStatus::Serving as i32;
        for service in ["", "api.KV", "api.Admin"] {
            wait_for("a node that knows a leader is SERVING", async || {
                (health_of(&direct, service).await == Ok(serving)).then_some(())
            })
            .await;
        }
        assert_eq!(health_of(&direct, "nonsense").await, Err(Code::NotFound));
        readyz_says(&metrics, 200).await;

        for other in (0..3).filter(|other| *other != survivor) {
            cluster.nodes[other].kill();
        }
        let reason = readyz_says(&metrics, 503).await;
        assert!(reason.contains("leader"), "{reason}");
        assert_eq!(http_get(&metrics, "/livez").await.0, 200);
        let probe = |question: &str, address: &str| {
            let args = ["probe", question, "--metrics-addr", address, "--timeout", "20s"];
            Command::new(env!("CARGO_BIN_EXE_mokv")).args(args).output().unwrap()
        };
        assert_eq!(probe("live", &metrics).status.code(), Some(0));
        let refused = probe("ready", &metrics);
        assert_eq!(refused.status.code(), Some(7));
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains(&metrics) && said.contains("no quorum"), "{said}");
        assert_eq!(probe("live", "127.0.0.1:9").status.code(), Some(6), "no node is there");
        wait_for("health is NOT_SERVING", async || {
            let not_serving = ServingStatus::NotServing as i32;
            (health_of(&direct, "api.KV").await == Ok(not_serving)).then_some(())
        })
        .await;
        // A linearizable read fails with an error that differs from an absent key.
        let mut request = Request::new(api::GetRequest { key: "key".into(), ..Default::default() });
        request.set_timeout(Duration::from_millis(500));
        let refused = direct.kv().get(request).await.unwrap_err();
        assert!(matches!(refused.code(), Code::Unavailable | Code::DeadlineExceeded), "{refused}");

        cluster.start_all();
        readyz_says(&metrics, 200).await;
        wait_for("health is SERVING again", async || {
            (health_of(&direct, "").await == Ok(serving)).then_some(())
        })
        .await;
    });
}

#[test]
fn a_node_that_waits_for_its_cluster_is_live_and_not_serving() {
    run(async {
        let mut cluster = Cluster::prepare(3, &[]);
        cluster.nodes[0].start();
        let direct = cluster.nodes[0].connect().await;
        assert_eq!(health_of(&direct, "").await, Ok(ServingStatus::NotServing as i32));
        let metrics = cluster.nodes[0].metrics.clone();
        assert_eq!(http_get(&metrics, "/livez").await.0, 200);
        assert_eq!(http_get(&metrics, "/readyz").await.0, 503);
        let (status, text) = http_get(&metrics, "/metrics").await;
        assert_eq!((status, value_of(&text, "mokv_role{role=\"waiting\"}")), (200, Some(1.0)), "{text}");
    });
}

#[test]
fn reflection_lists_our_services_and_unlike_the_original_raft_is_not_among_them() {
    run(async {
        let cluster = Cluster::start(&[]).await;
        let direct = cluster.nodes[0].connect().await;
        let ask = |question| {
            let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
            let mut client = ServerReflectionClient::new(direct.clone());
            async move {
                let questions = futures_util::stream::iter([request]);
                let mut answers = client.server_reflection_info(questions).await.unwrap().into_inner();
                answers.message().await.unwrap().unwrap().message_response.unwrap()
            }
        };
        let MessageResponse::ListServicesResponse(listed) =
            ask(MessageRequest::ListServices(String::new())).await
        else {
            panic!("another answer");
        };
        let services: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
        for expected in ["api.KV", "api.Admin"] {
            assert!(services.contains(&expected), "{services:?}");
        }
        assert!(services.iter().all(|service| !service.to_lowercase().contains("raft")), "{services:?}");
        let found = ask(MessageRequest::FileContainingSymbol("api.KV.Get".into())).await;
        assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{found:?}");
    });
}

#[test]
fn unlike_the_original_values_never_end_up_in_logs() {
    const MARK: &str = "t0p-s3cret-v4lue";
    run(async {
        // The most detailed log level.
        let mut cluster = Cluster::start(&["log-level: trace", MANY_SNAPSHOTS]).await;
        let client = cluster.client();
        for number in 0..150 {
            let value = format!("{MARK}-{number}");
            client.set(format!("key-{}", number % 7), value).await.unwrap();
        }
        // A refused value is not logged either.
        let long = MARK.repeat(100_000);
        client.set("key", long).await.unwrap_err();
        let mismatch = WriteOptions::if_revision(1 << 40);
        client.set_with("key-0", MARK, mismatch).await.unwrap_err();
        let follower = cluster.follower().await;
        cluster.nodes[follower].kill();
        cluster.nodes[follower].start();
        cluster.equal_state().await;
        for node in &cluster.nodes {
            let log = node.log();
            assert!(log.contains("TRACE"), "the level was set");
            let line = log.lines().find(|line| line.contains(MARK));
            assert_eq!(line, None, "{} shows a value", node.name);
            // As a list of bytes, as a derived Debug would print it.
            let bytes = format!("{:?}", MARK.as_bytes());
            let listed = log.lines().find(|line| line.contains(bytes.trim_matches(['[', ']'])));
            assert_eq!(listed, None, "{} shows a value as numbers", node.name);
        }
    });
}

#[test]
fn unlike_the_original_the_log_level_decides_what_is_logged() {
    run(async {
        let mut cluster = Cluster::prepare(3, &[]);
        for (node, level) in cluster.nodes.iter().zip(["error", "info", "debug"]) {
            cluster.configure(node, &["bootstrap-expect: 3", &format!("log-level: {level}")]);
        }
        cluster.start_all();
        cluster.leader().await;
        let [quiet, usual, chatty] = [0, 1, 2].map(|i| cluster.nodes[i].log());
        assert!(!quiet.contains(" INFO ") && !quiet.contains(" WARN "), "{quiet}");
        assert!(usual.contains(" INFO ") && !usual.contains(" DEBUG "), "{usual}");
        assert!(chatty.contains(" DEBUG "));
    });
}

/// Its log is a pipe that is not read for a while. If lines were written by the threads that log them, the node would
/// stop as soon as the pipe is full.
#[test]
fn a_node_with_an_unread_log_serves_and_reports_the_missing_lines_later() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        // Kept until the end: the node needs its ports as long.
        let mut ports = PortBlock::take();
        let mut node = Node::new(directory.path(), "unheard", &mut ports);
        node.configure(&["bootstrap: true", "log-level: trace"]);
        let (log, stderr) = std::io::pipe().unwrap();
        node.start_saying_to(stderr);
        node.wait_status("leads", |status| {
            status.leader.as_ref().is_some_and(|leader| leader.node_id == status.node_id)
        })
        .await;
        let client = Client::builder().endpoints([&node.rpc]).timeout(LIMIT).build().unwrap();
        for number in 0..400 {
            client.set(format!("key-{number}"), "value").await.unwrap();
        }
        let lines = BufReader::new(log).lines();
        let lines = read_log_until(lines, "this log misses lines").await;
        node.signal(Signal::TERM);
        read_log_until(lines, "stopped").await;
        assert!(node.ended().await.success());
    });
}

/// Reads the log up to a line that contains `words`. Returns the rest.
async fn read_log_until(
    mut log: Lines<BufReader<PipeReader>>,
    words: &'static str,
) -> Lines<BufReader<PipeReader>> {
    let reading = rt::spawn_blocking(move || {
        let found = log.any(|line| line.expect("its log is text").contains(words));
        assert!(found, "its log ended without '{words}'");
        log
    });
    rt::timeout(LIMIT, reading).await.expect("the log goes on, but does not say it").unwrap()
}
