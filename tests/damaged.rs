//! Real nodes whose files are damaged: with `replace-damaged` they come back as new ones, without it they refuse.

mod common;

use std::path::PathBuf;

use common::cluster::{ALL, Cluster, set, voters_are};
use common::node::Node;
use common::run;
use mokv::client::Role;

/// This many values of [`VALUE_BYTES`] fill more than a segment of the log.
const VALUES: usize = 12;
const VALUE_BYTES: usize = 512 << 10;

/// Flips a bit in the middle of the oldest segment of a node's log, which is sealed. Returns its path.
fn damage_a_cold_segment(node: &Node) -> PathBuf {
    let segments: Vec<String> = node.files().into_iter().filter(|file| file.ends_with(".wal")).collect();
    assert!(segments.len() > 1, "one segment is sealed: {segments:?}");
    let path = node.data_dir.join(&segments[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_node_with_a_damaged_log_refuses_to_start_and_with_replace_damaged_comes_back_as_a_newcomer() {
    run(async {
        let mut cluster = Cluster::start(&["replace-silence: 2s"]).await;
        let client = cluster.client();
        set(&client, "key", "value").await;
        for number in 0..VALUES {
            let key = format!("large/{number}");
            client.set(key, vec![b'x'; VALUE_BYTES]).await.unwrap();
        }
        cluster.equal_state().await;
        let damaged = cluster.follower().await;
        let other = cluster.leader().await;
        let old = cluster.nodes[damaged].status().await.unwrap();
        assert!(cluster.nodes[damaged].terminate().await.success());
        let segment = damage_a_cold_segment(&cluster.nodes[damaged]);
        let name = segment.file_name().unwrap().to_str().unwrap().to_owned();

        // The default: the node reports what is damaged and what to do, and changes nothing.
        let before = cluster.nodes[damaged].files();
        cluster.nodes[damaged].start();
        assert!(!cluster.nodes[damaged].ended().await.success());
        let log = cluster.nodes[damaged].log();
        assert!(log.contains(&name) && log.contains("mokv serve --wipe"), "{log}");
        let moved = |files: &[String]| files.iter().any(|file| file.starts_with("left-"));
        assert!(!moved(&cluster.nodes[damaged].files()), "{before:?}");

        let mut command = cluster.nodes[damaged].command();
        command.arg("--replace-damaged");
        cluster.nodes[damaged].start_as(command);
        cluster
            .wait_members(other, "it votes again, under a new id", |servers| {
                voters_are(servers, &ALL) && servers.iter().all(|server| server.node_id != old.node_id)
            })
            .await;
        let node = &cluster.nodes[damaged];
        let back = node.wait_status("it follows", |status| status.role == Role::Follower).await;
        assert_eq!(back.cluster_id, old.cluster_id);
        let files = node.files();
        let kept = files.iter().any(|file| file.starts_with("left-") && file.ends_with(&name));
        assert!(kept, "what is damaged is kept: {files:?}");
        assert_eq!(cluster.get_from(damaged, "key").await.as_deref(), Ok(&b"value"[..]));
        cluster.equal_state().await;
    });
}
