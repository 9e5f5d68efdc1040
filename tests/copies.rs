//! Copied data directories: two real processes run under one node id. The one that the others are connected to goes on,
//! and the other one ends.

mod common;

use std::path::Path;

use common::cluster::{ALL, Cluster, set, voters_are};
use common::{http1, run};
use mokv::client::{NodeStatus, ReadOptions, Role};

/// Adds a node with the name of another one, on a copy of that node's present data directory. It is not started yet.
fn add_copy(cluster: &mut Cluster, original: usize) -> usize {
    let copy = cluster.add_node();
    cluster.nodes[copy].name = cluster.nodes[original].name.clone();
    cluster.configure(&cluster.nodes[copy], &[]);
    copy_files(&cluster.nodes[original].data_dir, &cluster.nodes[copy].data_dir);
    copy
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // The log may remove segments in the meantime.
        let _ = std::fs::copy(entry.path(), to.join(entry.file_name()));
    }
}

/// Waits until the process of a node has ended by itself, and asserts that its log has these words.
async fn ends_and_says(cluster: &mut Cluster, node: usize, words: &[&str]) {
    assert_eq!(cluster.nodes[node].ended().await.code(), Some(1));
    let said = cluster.nodes[node].log();
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} in: {said}");
}

/// The others would take a copy for a restart, as its boot counter is higher, so it must send nothing to them. In the
/// past, both ended.
#[test]
fn a_copy_of_a_running_node_ends_before_it_takes_part_and_the_original_notices_nothing() {
    run(async {
        let mut cluster = Cluster::start(&["log-format: json"]).await;
        set(&cluster.client(), "key", "value").await;
        cluster.equal_state().await;
        for original in [cluster.leader().await, cluster.follower().await] {
            let copy = add_copy(&mut cluster, original);
            let there = format!("still runs at {}", cluster.nodes[original].rpc);
            // Twice, as under a supervisor that restarts it.
            for _ in 0..2 {
                cluster.nodes[copy].start();
                ends_and_says(&mut cluster, copy, &[&there, "this one is a copy", "mokv serve --wipe"]).await;
            }
        }
        set(&cluster.client(), "key", "another").await;
        let members = cluster.client().members_with(ReadOptions::stale()).await.unwrap().members;
        assert!(voters_are(&members, &ALL), "{members:?}");
        cluster.equal_state().await;
        for node in &cluster.nodes[..3] {
            assert_eq!(node.complaints(), [] as [serde_json::Value; 0], "{} complains", node.name);
        }
    });
}

/// Two copies of a stopped node have equal boot counters, and neither has the node's address.
#[test]
fn of_two_copies_the_one_that_the_others_know_goes_on_and_reports_the_other_one() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        set(&cluster.client(), "key", "value").await;
        cluster.equal_state().await;
        let old = cluster.follower().await;
        let name = cluster.nodes[old].name.clone();
        assert_eq!(cluster.nodes[old].terminate().await.code(), Some(0));
        let (moved, copy) = (add_copy(&mut cluster, old), add_copy(&mut cluster, old));
        cluster.nodes[moved].start();
        cluster.nodes[moved].wait_status("it follows", |status| status.role == Role::Follower).await;
        // The leader has a connection to every other node.
        cluster.client().transfer_leader(Some(&name)).await.unwrap();
        cluster.nodes[moved].wait_status("it leads", |status| status.role == Role::Leader).await;

        cluster.nodes[copy].start();
        ends_and_says(&mut cluster, copy, &["this node's identity is in use by another process"]).await;
        let reported = format!("a copy of this node's data directory runs at {}", cluster.nodes[copy].gossip);
        let reports = |status: &NodeStatus| status.reasons.iter().any(|reason| reason.contains(&reported));
        cluster.nodes[moved].wait_status("it reports the copy", reports).await;
        assert_eq!(http1::get(&cluster.nodes[moved].metrics, "/readyz").0, 200);
        assert_eq!(cluster.nodes[moved].log().matches(&reported).count(), 1, "once a minute");
        set(&cluster.client(), "key", "another").await;
        assert!(!cluster.nodes[moved].has_ended());
        cluster.nodes[moved].wait_status("it is over", |status| status.reasons.is_empty()).await;
        cluster.equal_state().await;
    });
}

/// No node can decide which of the two is the right one.
#[test]
fn a_single_voter_that_meets_a_copy_ends() {
    run(async {
        let mut cluster = Cluster::prepare(1, &[]);
        cluster.start_all();
        cluster.leader().await;
        assert_eq!(cluster.nodes[0].terminate().await.code(), Some(0));
        let (moved, copy) = (add_copy(&mut cluster, 0), add_copy(&mut cluster, 0));
        cluster.nodes[moved].start();
        cluster.nodes[moved].wait_status("it leads", |status| status.role == Role::Leader).await;
        cluster.nodes[copy].start();
        for node in [moved, copy] {
            ends_and_says(&mut cluster, node, &["this node's identity is in use by another process"]).await;
        }
    });
}
