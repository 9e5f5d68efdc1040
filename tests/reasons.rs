//! A node that is not ready reports the same reasons to a probe, to an operator and to a client.

mod common;

use std::process::{Command, Output};

use common::cluster::{Cluster, set};
use common::{http1, run, wait_for};

/// Runs a user's command against these nodes.
fn mokv(endpoints: &str, args: &[&str]) -> Output {
    let given = ["--endpoints", endpoints, "--timeout", "5s"];
    Command::new(env!("CARGO_BIN_EXE_mokv")).args(args).args(given).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Waits until `/readyz` of a node answers 503 with all of these words. Returns the body.
async fn not_ready(cluster: &Cluster, node: usize, words: &[&str]) -> String {
    let what = format!("/readyz says {words:?}");
    let found = wait_for(&what, async || {
        let (status, body) = http1::get_if_listening(&cluster.nodes[node].metrics, "/readyz")?;
        (status == 503 && words.iter().all(|word| body.contains(word))).then_some(body)
    });
    found.await
}

/// Waits until `mokv status` of this node, and a client's error, contain all of these words. What a node waits for
/// changes from one attempt to the next.
async fn status_and_client_say(endpoint: &str, words: &[&str]) {
    let says = |said: &str| words.iter().all(|word| said.contains(word));
    let status = wait_for(&format!("mokv status of {endpoint} says {words:?}"), async || {
        let status = mokv(endpoint, &["status"]);
        says(&text(&status.stdout)).then_some(status)
    })
    .await;
    let (said, errors) = (text(&status.stdout), text(&status.stderr));
    assert_eq!(status.status.code(), Some(7), "{said}{errors}");
    println!("mokv status:\n{said}{errors}");
    wait_for(&format!("mokv status --output json of {endpoint} says {words:?}"), async || {
        let json = text(&mokv(endpoint, &["status", "--output", "json"]).stdout);
        let rows = json.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        says(&rows.map(|row| row["reasons"].to_string()).collect::<String>()).then_some(())
    })
    .await;
    let read = wait_for(&format!("mokv get from {endpoint} says {words:?}"), async || {
        let read = mokv(endpoint, &["get", "key"]);
        says(&text(&read.stderr)).then_some(read)
    })
    .await;
    let said = text(&read.stderr);
    assert_eq!(read.status.code(), Some(6), "{said}");
    println!("mokv get: {said}");
}

#[test]
fn one_of_three_names_the_missing_voters_and_why() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        set(&cluster.client(), "key", "value").await;
        cluster.equal_state().await;
        let survivor = cluster.follower().await;
        let lost: Vec<usize> = (0..3).filter(|node| *node != survivor).collect();
        lost.iter().for_each(|node| cluster.nodes[*node].kill());
        let others = lost.iter().map(|node| &cluster.nodes[*node]);
        let missing: Vec<String> =
            others.map(|node| format!("at {} (Connection refused", node.rpc)).collect();
        let names: Vec<String> = lost.iter().map(|node| format!("'{}'", cluster.nodes[*node].name)).collect();
        let mut words = vec!["no quorum: 1 of 3 voters reachable, no leader; not reachable: "];
        words.extend(missing.iter().chain(&names).map(String::as_str));
        println!("/readyz: {}", not_ready(&cluster, survivor, &words).await);
        status_and_client_say(&cluster.nodes[survivor].rpc, &words).await;
        let write = mokv(&cluster.endpoints().join(","), &["set", "key", "other"]);
        let said = text(&write.stderr);
        assert_eq!(write.status.code(), Some(6), "{said}");
        assert!(said.contains(words[0]), "also where dead nodes are asked: {said}");
        println!("mokv set: {said}");
        // All rows have names, and are sorted by them.
        let table = text(&mokv(&cluster.endpoints().join(","), &["status"]).stdout);
        let rows: Vec<&str> =
            table.lines().skip(1).take(3).map(|row| row.split(' ').next().unwrap()).collect();
        assert_eq!(rows, common::cluster::ALL, "{table}");
    });
}

#[test]
fn two_sizes_of_one_cluster_are_reported_with_their_nodes() {
    run(async {
        let mut cluster = Cluster::prepare(3, &[]);
        cluster.configure(&cluster.nodes[2], &["bootstrap-expect: 2"]);
        cluster.start_all();
        let words = ["bootstrap-expect is 2 on 'node-3' and 3 on this node"];
        println!("/readyz: {}", not_ready(&cluster, 0, &words).await);
        status_and_client_say(&cluster.nodes[0].rpc, &words).await;
        not_ready(&cluster, 2, &["bootstrap-expect is 3 on 'node-", "and 2 on this node"]).await;
    });
}

#[test]
fn another_key_is_reported_by_nodes_that_form_a_cluster_and_by_members() {
    run(async {
        let mut cluster = Cluster::prepare(3, &[]);
        let key = |name: &str| {
            let path = cluster.path(name);
            std::fs::write(&path, format!("{name} of sixteen bytes and more")).unwrap();
            format!("cluster-key-file: {}", path.display())
        };
        let (own, other) = (key("own"), key("other"));
        let expect = "bootstrap-expect: 3";
        for (node, key) in cluster.nodes.iter().zip([&own, &own, &other]) {
            cluster.configure(node, &[expect, key]);
        }
        cluster.start_all();
        let stranger = cluster.nodes[2].gossip.clone();
        let words = [
            &format!("waiting for an answer of {stranger}"),
            &format!("datagrams from {stranger} cannot be read: "),
            "another cluster key",
        ];
        println!("/readyz: {}", not_ready(&cluster, 0, &words).await);
        status_and_client_say(&cluster.nodes[0].rpc, &words).await;

        cluster.nodes[2].kill();
        cluster.configure(&cluster.nodes[2], &[expect, &own]);
        cluster.nodes[2].start();
        cluster.leader().await;
        // They could not have formed a cluster without being able to read its messages.
        for node in &cluster.nodes[..2] {
            let reasons = node.status().await.unwrap().reasons;
            assert!(reasons.iter().all(|reason| !reason.contains("cannot be read")), "{reasons:?}");
        }
        set(&cluster.client(), "key", "value").await;
        cluster.equal_state().await;
        cluster.nodes[2].kill();
        cluster.configure(&cluster.nodes[2], &[expect, &other]);
        cluster.nodes[2].start();
        let words = ["no quorum: 1 of 3 voters", "does not know this cluster's key", "'node-1'", "'node-2'"];
        println!("/readyz of the one: {}", not_ready(&cluster, 2, &words).await);
        // The others go on without it, and report what is wrong with it.
        let reported = |reasons: &[String]| {
            let reasons = reasons.join("; ");
            ["no connection with 'node-3'", "key"]
                .iter()
                .all(|word| reasons.contains(word))
                .then_some(reasons)
        };
        let reasons = wait_for("a node reports the other's key", async || {
            let mut statuses = vec![cluster.nodes[0].status().await?, cluster.nodes[1].status().await?];
            statuses.retain(|status| reported(&status.reasons).is_some());
            reported(&statuses.first()?.reasons)
        });
        println!("a node with a quorum: {}", reasons.await);
        set(&cluster.client(), "key", "another").await;
    });
}
