//! Members of clusters of real processes that are removed, that leave, or that a resize removes, and what they do then.

mod common;

use std::process::{Command, Output};
use std::time::Duration;

use common::cluster::{ALL, Cluster, set, voters_are};
use common::{http1, run, wait_for};
use mokv::client::{Member, NodeId, NodeStatus, Role};
use mokv::rt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Waits until the member at `asked` reports three voters, none of them with the id of the removed one.
async fn votes_again_without(cluster: &Cluster, asked: usize, removed: NodeId) -> Vec<Member> {
    cluster
        .wait_members(asked, "it votes again, under a new id", |servers| {
            voters_are(servers, &ALL) && servers.iter().all(|server| server.node_id != removed)
        })
        .await
}

/// Whether these words are among the reasons that a node reports.
fn gives_reason(status: &NodeStatus, words: &str) -> bool {
    status.reasons.iter().any(|reason| reason.contains(words))
}

#[test]
fn a_member_is_replaced_by_command_and_one_that_runs_on_comes_back_as_a_newcomer() {
    run(async {
        let cluster = Cluster::start(&[]).await;
        set(&cluster.client(), "key", "value").await;
        let removed = cluster.follower().await;
        let node = &cluster.nodes[removed];
        let old = node.status().await.unwrap();
        let other = cluster.leader().await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
        command.args(["members", "remove", &node.name, "--replace", "--timeout", "100s"]);
        let output = command.args(["--endpoints", &cluster.nodes[other].rpc]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(votes_again_without(&cluster, other, old.node_id).await.len(), 3);
        let back = node.wait_status("it follows", |status| status.role == Role::Follower).await;
        assert_eq!(back.cluster_id, old.cluster_id);
        assert!(
            node.files().iter().any(|file| file.starts_with("left-")),
            "its old data is kept: {:?}",
            node.files()
        );
        assert_eq!(cluster.get_from(removed, "key").await.as_deref(), Ok(&b"value"[..]));
        cluster.equal_state().await;
    });
}

/// Runs `mokv members` with these arguments and all nodes as addresses.
fn members(cluster: &Cluster, arguments: &[&str]) -> Output {
    let endpoints = cluster.endpoints().join(",");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
    command.arg("members").args(arguments).args(["--timeout=60s", "--endpoints", &endpoints]);
    command.output().unwrap()
}

/// Resizes. Repeated until all members support a wanted size, so the first call should ask for the present size.
async fn resize(cluster: &Cluster, to: &str) -> String {
    let resized = wait_for("the members know of wanted sizes", async || {
        let resized = members(cluster, &["resize", "--to", to]);
        assert!(resized.status.success(), "{}", String::from_utf8_lossy(&resized.stderr));
        resized.stderr.is_empty().then_some(resized)
    });
    String::from_utf8(resized.await.stdout).unwrap()
}

/// In the past, the two that were removed were voters again three seconds after a resize to three.
#[test]
fn members_that_are_removed_by_a_resize_run_on_outside_until_more_are_wanted() {
    run(async {
        let mut cluster = Cluster::prepare(5, &[]);
        cluster.start_all();
        let five = ["node-1", "node-2", "node-3", "node-4", "node-5"];
        cluster.leader().await;
        cluster.wait_members(0, "five vote", |servers| voters_are(servers, &five)).await;
        set(&cluster.client(), "key", "value").await;
        resize(&cluster, "5").await;
        let said = resize(&cluster, "3").await;
        assert!(said.ends_with("the cluster is to have 3 members\n"), "{said}");
        let reason = "the cluster is to have 3 members; 'mokv members resize --to 4' lets it in";
        // The log has the first reason, which can be an earlier one: the other node may still be a member.
        let logged = "the cluster does not admit this node: the cluster is to have 3 members";
        for removed in [3, 4] {
            let node = &cluster.nodes[removed];
            node.wait_status("it waits and says why", |status| gives_reason(status, reason)).await;
            let (ready, body) = http1::get(&node.metrics, "/readyz");
            assert!(ready == 503 && body.contains(reason), "{body}");
            // The status is there at once, a line of the log a moment later: it goes through a queue.
            wait_for("its log says so", async || node.log().contains(logged).then_some(())).await;
        }
        let listed = String::from_utf8(members(&cluster, &[]).stdout).unwrap();
        assert!(listed.ends_with("(the cluster is to have 3 members)\n"), "{listed}");
        assert!(!listed.contains("node-4") && !listed.contains("node-5"), "{listed}");
        // Long enough after they began to wait: a node that may join does so within a second or two.
        for _ in 0..20 {
            let servers = cluster.client().members().await.unwrap().members;
            assert!(voters_are(&servers, &ALL), "{servers:?}");
            rt::sleep(Duration::from_millis(250)).await;
        }
        for removed in [3, 4] {
            assert_eq!(cluster.nodes[removed].log().matches(logged).count(), 1, "its log says so once");
        }
        resize(&cluster, "4").await;
        cluster.wait_members(0, "four vote", |servers| servers.len() == 4).await;
        resize(&cluster, "any").await;
        cluster.wait_members(0, "five vote", |servers| voters_are(servers, &five)).await;
        for removed in [3, 4] {
            let node = &cluster.nodes[removed];
            node.wait_status("it is in", |status| status.role == Role::Follower && status.reasons.is_empty())
                .await;
        }
        cluster.equal_state().await;
    });
}

/// A removal closes the place: the removed member does not come back by itself, nor does another node take the place.
#[test]
fn a_member_that_is_removed_stays_out_while_it_runs_and_when_it_is_started_again() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        set(&cluster.client(), "key", "value").await;
        // Until all members support wanted sizes, no node is kept out.
        resize(&cluster, "3").await;
        let removed = cluster.follower().await;
        let name = cluster.nodes[removed].name.clone();
        let old = cluster.nodes[removed].status().await.unwrap();
        assert!(members(&cluster, &["remove", &name]).status.success());
        let reason = "the cluster is to have 2 members; 'mokv members resize --to 3' lets it in";
        let waits = |status: &NodeStatus| gives_reason(status, reason);
        cluster.nodes[removed].wait_status("it waits", waits).await;
        cluster.nodes[removed].kill();
        cluster.nodes[removed].start();
        cluster.nodes[removed].wait_status("it still waits", waits).await;
        resize(&cluster, "3").await;
        votes_again_without(&cluster, (removed + 1) % 3, old.node_id).await;
        cluster.equal_state().await;
    });
}

/// Sends requests on one connection, as a monitoring system does, until it closes. Returns the number of answers.
async fn ask_until_closed(address: String) -> u64 {
    let mut stream = rt::net::TcpStream::connect(&address).await.unwrap();
    let question = format!("GET /livez HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let mut answered = 0;
    while stream.write_all(question.as_bytes()).await.is_ok() && stream.flush().await.is_ok() {
        match stream.read(&mut [0; 1024]).await {
            Ok(1..) => answered += 1,
            _ => break,
        }
        rt::sleep(Duration::from_millis(200)).await;
    }
    answered
}

#[test]
fn a_member_that_is_removed_comes_back_although_a_client_keeps_asking_for_its_status() {
    run(async {
        let cluster = Cluster::start(&[]).await;
        let removed = cluster.follower().await;
        let old = cluster.nodes[removed].status().await.unwrap();
        let metrics = cluster.nodes[removed].metrics.clone();
        let asking = rt::spawn(ask_until_closed(metrics));
        let other = cluster.leader().await;
        cluster.client().replace_member(&cluster.nodes[removed].name).await.unwrap();
        votes_again_without(&cluster, other, old.node_id).await;
        assert!(asking.await.unwrap() > 0, "it answered as long as it was a member");
        cluster.equal_state().await;
    });
}

#[test]
fn a_member_that_is_removed_and_may_not_rejoin_waits_outside_until_it_is_started_again() {
    run(async {
        let mut cluster = Cluster::start(&["rejoin: false"]).await;
        set(&cluster.client(), "key", "value").await;
        let removed = cluster.follower().await;
        let name = cluster.nodes[removed].name.clone();
        let old = cluster.nodes[removed].status().await.unwrap();
        let other = cluster.leader().await;
        let client = cluster.client();
        client.replace_member(&name).await.unwrap();
        cluster.nodes[removed].wait_status("it is outside", |status| status.role == Role::Removed).await;
        let metrics = cluster.nodes[removed].metrics.clone();
        assert_eq!(http1::get(&metrics, "/livez").0, 200, "an orchestrator must not restart it");
        let (ready, reason) = http1::get(&metrics, "/readyz");
        assert!(ready == 503 && reason.contains("was removed"), "{reason}");
        let two: Vec<&str> = ALL.into_iter().filter(|member| *member != name).collect();
        cluster.wait_members(other, "two are left", |servers| voters_are(servers, &two)).await;
        assert_eq!(cluster.nodes[removed].terminate().await.code(), Some(0));
        cluster.nodes[removed].start();
        votes_again_without(&cluster, other, old.node_id).await;
        cluster.equal_state().await;
    });
}

#[test]
fn a_member_that_was_removed_while_it_was_away_joins_again_when_it_is_started_whatever_rejoin_is() {
    run(async {
        let mut cluster = Cluster::start(&["rejoin: false"]).await;
        let away = cluster.follower().await;
        let name = cluster.nodes[away].name.clone();
        let old = cluster.nodes[away].status().await.unwrap();
        cluster.nodes[away].kill();
        let other = cluster.leader().await;
        cluster.client().replace_member(&name).await.unwrap();
        cluster.nodes[away].start();
        votes_again_without(&cluster, other, old.node_id).await;
        cluster.equal_state().await;
    });
}

#[test]
fn a_node_with_leave_on_terminate_is_no_member_afterwards() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let fourth = cluster.add_node();
        cluster.configure(&cluster.nodes[fourth], &["leave-on-terminate: true"]);
        cluster.nodes[fourth].start();
        let four = ["node-1", "node-2", "node-3", "node-4"];
        cluster.wait_members(fourth, "four vote", |servers| voters_are(servers, &four)).await;
        assert_eq!(cluster.nodes[fourth].terminate().await.code(), Some(0));
        cluster.wait_members(0, "three vote", |servers| voters_are(servers, &ALL)).await;
        set(&cluster.client(), "key", "value").await;
        cluster.equal_state().await;
    });
}

#[test]
fn a_node_leaves_by_command_and_comes_back_as_another() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let leaver = cluster.leader().await;
        let before = cluster.nodes[leaver].status().await.unwrap();
        let leave = |cluster: &Cluster, node: usize| {
            let args = ["leave", "--yes", "--timeout=30s", "--endpoints", &cluster.nodes[node].rpc];
            Command::new(env!("CARGO_BIN_EXE_mokv")).args(args).output().unwrap()
        };
        let left = leave(&cluster, leaver);
        assert!(left.status.success(), "{}", String::from_utf8_lossy(&left.stderr));
        assert_eq!(cluster.nodes[leaver].ended().await.code(), Some(0), "its process ends");
        let stays = cluster.follower().await;
        let two: Vec<&str> = ALL.into_iter().filter(|name| *name != before.name).collect();
        cluster.wait_members(stays, "two vote", |servers| voters_are(servers, &two)).await;
        set(&cluster.client(), "key", "value").await;
        cluster.nodes[leaver].start();
        cluster.wait_members(stays, "three vote again", |servers| voters_are(servers, &ALL)).await;
        let after =
            cluster.nodes[leaver].wait_status("it follows", |status| status.role == Role::Follower).await;
        assert_ne!(after.node_id, before.node_id);
        cluster.equal_state().await;
    });
}

#[test]
fn the_last_member_does_not_leave_and_a_cluster_shrinks_by_numbers() {
    run(async {
        let cluster = Cluster::start(&[]).await;
        resize(&cluster, "3").await;
        assert_eq!(members(&cluster, &["resize", "--to", "3", "--output=plain"]).stdout, b"");
        for (to, node) in [("2", 2), ("1", 1)] {
            let shrunk = members(&cluster, &["resize", "--to", to, "--output=plain"]);
            let said = String::from_utf8(shrunk.stdout).unwrap();
            let gone: Vec<&str> = said.lines().map(|line| line.split('\t').next().unwrap()).collect();
            assert_eq!(gone, [format!("node-{}", node + 1)], "{}", String::from_utf8_lossy(&shrunk.stderr));
        }
        cluster.wait_members(0, "one is left", |servers| voters_are(servers, &["node-1"])).await;
        let last = ["leave", "--yes", "--endpoints", &cluster.nodes[0].rpc];
        let refused = Command::new(env!("CARGO_BIN_EXE_mokv")).args(last).output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("stays a member"), "{refused:?}");
        set(&cluster.client(), "key", "it goes on").await;
    });
}

/// What an operator requests and what succeeds needs no warning.
#[test]
fn an_ordinary_course_of_resizes_removals_wipes_and_restarts_logs_no_warning() {
    run(async {
        let mut cluster = Cluster::prepare(5, &["log-format: json", "replace-silence: 8s"]);
        cluster.start_all();
        let five = ["node-1", "node-2", "node-3", "node-4", "node-5"];
        cluster.leader().await;
        cluster.wait_members(0, "five vote", |servers| voters_are(servers, &five)).await;
        set(&cluster.client(), "key", "value").await;
        let warns_of_nothing = |cluster: &Cluster, when: &str| {
            for node in &cluster.nodes {
                assert_eq!(node.complaints(), [] as [serde_json::Value; 0], "{} complains {when}", node.name);
            }
        };
        warns_of_nothing(&cluster, "of its first start");
        resize(&cluster, "5").await;
        resize(&cluster, "3").await;
        let reason = "the cluster is to have 3 members";
        for removed in [3, 4] {
            let waits = |status: &NodeStatus| gives_reason(status, reason);
            cluster.nodes[removed].wait_status("it waits and says why", waits).await;
            assert_eq!(cluster.nodes[removed].terminate().await.code(), Some(0));
        }
        warns_of_nothing(&cluster, "of a resize");

        let restarted = cluster.follower().await;
        assert_eq!(cluster.nodes[restarted].terminate().await.code(), Some(0));
        cluster.nodes[restarted].start();
        let ready = |status: &NodeStatus| status.role == Role::Follower && status.reasons.is_empty();
        cluster.nodes[restarted].wait_status("it follows again", ready).await;
        let leads = cluster.leader().await;
        assert_eq!(cluster.nodes[leads].terminate().await.code(), Some(0));
        cluster.nodes[leads].start();
        cluster.nodes[leads].wait_status("it follows", ready).await;
        warns_of_nothing(&cluster, "of a restart");

        let wiped = cluster.follower().await;
        let old = cluster.nodes[wiped].status().await.unwrap();
        assert_eq!(cluster.nodes[wiped].terminate().await.code(), Some(0));
        std::fs::remove_dir_all(&cluster.nodes[wiped].data_dir).unwrap();
        cluster.nodes[wiped].start();
        votes_again_without(&cluster, (wiped + 1) % 3, old.node_id).await;
        warns_of_nothing(&cluster, "of a wiped disk");

        let removed = cluster.follower().await;
        assert!(members(&cluster, &["remove", &cluster.nodes[removed].name]).status.success());
        let reason = "the cluster is to have 2 members";
        let waits = |status: &NodeStatus| gives_reason(status, reason);
        cluster.nodes[removed].wait_status("it waits", waits).await;
        warns_of_nothing(&cluster, "of a removal");
        set(&cluster.client(), "key", "another").await;
    });
}
