//! A rolling upgrade under load: three nodes of an earlier program become, one after the other, nodes of this one.
//!
//! `EARLIER_MOKV` is the path of the earlier program, which `.ci/full` builds. If a change of formats makes the upgrade
//! impossible, CHANGELOG has to state it, which is allowed until the first release.

mod common;

use std::process::Command;

use common::cluster::{Cluster, set};
use common::load::Load;
use common::node::Node;
use common::{assert_no_panic, run, wait_for};

/// The sentence in CHANGELOG's unreleased section, as long as earlier data cannot be used.
const SAID: &str = "Data directories of earlier builds cannot be used";

/// How a node of this program handled the earlier program's data.
enum Upgraded {
    Serves,
    /// The end of its log.
    Refuses(String),
}

fn earlier(node: &Node) -> Command {
    let program = std::env::var_os("EARLIER_MOKV").expect("EARLIER_MOKV is the path of the earlier program");
    let mut command = Command::new(program);
    command.args(node.arguments());
    command
}

/// Ends the earlier program of this node and starts the present one on its data.
async fn upgrade(node: &mut Node) -> Upgraded {
    assert!(node.terminate().await.success(), "the earlier program ends well: {}", node.log());
    let before = node.log().len();
    node.start();
    let what = format!("{} serves, or refuses", node.name);
    let serves = wait_for(&what, async || {
        if node.has_ended() {
            return Some(false);
        }
        node.status().await.is_some_and(|status| status.applied_index > 0).then_some(true)
    })
    .await;
    if serves { Upgraded::Serves } else { Upgraded::Refuses(node.log().split_off(before)) }
}

#[test]
#[ignore = "needs an earlier program: .ci/full builds one and runs this"]
fn an_earlier_cluster_becomes_one_of_this_program_node_by_node_under_load() {
    run(async {
        let mut cluster = Cluster::prepare(3, &[]);
        for node in &mut cluster.nodes {
            let command = earlier(node);
            node.start_as(command);
        }
        cluster.leader().await;
        let client = cluster.client();
        set(&client, "before", "the upgrade").await;
        let load = Load::start(&cluster, "load");
        load.goes_on(200).await;
        for place in 0..cluster.nodes.len() {
            if let Upgraded::Refuses(said) = upgrade(&mut cluster.nodes[place]).await {
                assert_no_panic(&said);
                assert!(said.contains("format version"), "it is not for a format that it refuses:\n{said}");
                let changelog = include_str!("../CHANGELOG.md");
                let unreleased = changelog.split("\n## [").nth(1).expect("a section of what is not released");
                assert!(
                    unreleased.contains(SAID),
                    "CHANGELOG does not say '{SAID}', but a node refuses:\n{said}"
                );
                println!("a rolling upgrade is impossible, as CHANGELOG says. The node says:\n{said}");
                return;
            }
            // Versions are mixed for a while; the last time, all are new.
            load.goes_on(200).await;
        }
        cluster.leader().await;
        load.goes_on(200).await;
        let promises = load.stop().await;
        promises.verify(&cluster).await;
        let read = client.get("before").await.unwrap();
        assert_eq!(read.entry.expect("it was written").value, "the upgrade");
        cluster.equal_state().await;
        for node in &cluster.nodes {
            assert_no_panic(&node.log());
        }
        println!("a rolling upgrade of three nodes: {} acknowledged writes, none lost", promises.writes());
    });
}
