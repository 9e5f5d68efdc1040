//! Clusters of real processes on real sockets and real files, killed, stopped, wiped and joined while clients write.
//!
//! A test whose name begins with `unlike_the_original` covers a mistake of the original Go mökv.

mod common;

use std::process::Command;
use std::time::Duration;

use common::cluster::{ALL, Cluster, MANY_SNAPSHOTS, set, voters_are};
use common::load::Load;
use common::{run, wait_for};
use mokv::client::{
    Changes, ChangesOptions, Client, Comparison, Condition, Consistency, Error, KeyRange, KeyValue,
    ListOptions, Member, MemberRole, NodeStatus, Operation, Position, ReadOptions, Role, Transaction,
    VersionsOptions,
};
use mokv::rt;
use mokv_proto::api;
use mokv_proto::tonic::{Code, Request, Streaming};
use rustix::process::Signal;

/// An old id of a name is replaced by a new one as soon as the configuration allows.
const QUICK_REPLACEMENT: &str = "replace-silence: 2s";

/// A client with this node as its only address; it discovers the others.
fn client_of(endpoint: &str) -> Client {
    Client::builder().endpoints([endpoint]).timeout(common::cluster::PATIENCE).build().unwrap()
}

async fn get(client: &Client, key: &str) -> Option<Vec<u8>> {
    let read = client.get(key).await.unwrap();
    read.entry.map(|entry| entry.value.to_vec())
}

/// Keys and values of a listing.
async fn list(client: &Client, options: ListOptions) -> Vec<(String, String)> {
    let mut listing = client.list_with(options).await.unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = listing.next().await.unwrap() {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        entries.push((text(&entry.key), text(&entry.value)));
    }
    entries
}

#[test]
fn set_get_list_and_members_work_through_each_of_three_ports() {
    run(async {
        let cluster = Cluster::start(&[]).await;
        for (i, node) in cluster.nodes.iter().enumerate() {
            let mut kv = node.connect().await.kv();
            let key = format!("through-{}", node.name);
            let value = format!("written through port {i}").into_bytes();
            let request = api::SetRequest {
                key: key.clone().into(),
                value: value.clone().into(),
                ..api::SetRequest::default()
            };
            // Set and get, each through one node alone: it forwards the write, and confirms the read itself.
            assert!(kv.set(request).await.unwrap().into_inner().ok);
            for other in 0..cluster.nodes.len() {
                assert_eq!(cluster.get_from(other, &key).await.as_ref(), Ok(&value));
            }
            let mut listing = kv.list(api::ListRequest::default()).await.unwrap().into_inner();
            let mut keys = Vec::new();
            while let Some(entry) = listing.message().await.unwrap() {
                keys.push(entry.key);
            }
            let expected: Vec<String> = ALL[..=i].iter().map(|name| format!("through-{name}")).collect();
            assert_eq!(keys, expected, "keys in order, values or not");
        }
        let leader = cluster.nodes[cluster.leader().await].name.clone();
        // The same, by the command.
        for node in &cluster.nodes {
            let shell = |args: &[&str]| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
                let output = command.args(args).args(["--endpoints", &node.rpc]).output().unwrap();
                assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
                String::from_utf8(output.stdout).unwrap()
            };
            assert!(shell(&["set", "by-hand", &node.name]).starts_with("revision "));
            assert_eq!(shell(&["get", "by-hand"]), node.name);
            assert!(shell(&["list"]).contains("by-hand"));
            let members = shell(&["members"]);
            assert!(ALL.iter().all(|name| members.contains(name)), "{members}");
        }
        for i in 0..3 {
            let leads = |member: &&Member| member.role == MemberRole::Leader;
            let led = |members: &[Member]| members.iter().any(|member| leads(&member));
            let servers = cluster.wait_members(i, "a node knows the leader", led).await;
            assert!(voters_are(&servers, &ALL), "{servers:?}");
            let leaders: Vec<&str> =
                servers.iter().filter(leads).map(|member| member.name.as_str()).collect();
            assert_eq!(leaders, [leader.as_str()]);
            let mut addresses: Vec<&str> = servers.iter().map(|server| server.rpc_addr.as_str()).collect();
            addresses.sort();
            assert_eq!(addresses, cluster.endpoints());
        }
        cluster.equal_state().await;
    });
}

/// A warning at every healthy start teaches operators to ignore all others.
#[test]
fn a_healthy_first_start_logs_no_warning() {
    run(async {
        let cluster = Cluster::start(&["log-format: json"]).await;
        set(&cluster.client(), "key", "value").await;
        cluster.equal_state().await;
        for node in &cluster.nodes {
            assert_eq!(node.complaints(), [] as [serde_json::Value; 0], "{} complains", node.name);
        }
    });
}

#[test]
fn kill_nine_of_a_follower_and_of_the_leader_under_load_loses_nothing() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let load = Load::start(&cluster, "load");
        load.goes_on(100).await;
        let follower = cluster.follower().await;
        cluster.nodes[follower].kill();
        load.goes_on(200).await;
        cluster.nodes[follower].start();
        let reached = cluster.nodes[cluster.leader().await].status().await.unwrap().applied_index;
        let caught_up = |status: &NodeStatus| status.applied_index >= reached;
        cluster.nodes[follower].wait_status("the restarted follower catches up", caught_up).await;

        let leader = cluster.leader().await;
        cluster.nodes[leader].kill();
        load.goes_on(200).await;
        cluster.nodes[leader].start();
        load.goes_on(50).await;
        let promises = load.stop().await;
        promises.verify(&cluster).await;
        cluster.equal_state().await;
    });
}

#[test]
fn kill_nine_of_all_three_under_load_loses_nothing_acknowledged() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let load = Load::start(&cluster, "load");
        for _ in 0..2 {
            load.goes_on(100).await;
            cluster.nodes.iter_mut().for_each(|node| node.kill());
            cluster.start_all();
        }
        load.goes_on(50).await;
        let promises = load.stop().await;
        promises.verify(&cluster).await;
        cluster.equal_state().await;
    });
}

#[test]
fn a_lost_data_directory_heals_alone_under_its_name_with_a_new_id() {
    run(async {
        let mut cluster = Cluster::start(&[QUICK_REPLACEMENT]).await;
        let load = Load::start(&cluster, "load");
        load.goes_on(50).await;
        let lost = cluster.follower().await;
        let old = cluster.nodes[lost].status().await.unwrap();
        cluster.nodes[lost].kill();
        std::fs::remove_dir_all(&cluster.nodes[lost].data_dir).unwrap();
        cluster.nodes[lost].start();
        let other = cluster.leader().await;
        let name = cluster.nodes[lost].name.clone();
        let servers = cluster
            .wait_members(other, "the node without data is a voter again", |servers| {
                let back = servers.iter().any(|server| server.name == name && server.node_id != old.node_id);
                back && voters_are(servers, &ALL)
            })
            .await;
        assert!(servers.iter().all(|server| server.node_id != old.node_id), "{servers:?}");
        let new = cluster.nodes[lost].wait_status("it follows", |status| status.role == Role::Follower).await;
        assert_eq!((new.cluster_id, new.boot_counter), (old.cluster_id, 1));
        load.goes_on(50).await;
        let promises = load.stop().await;
        promises.verify(&cluster).await;
        cluster.equal_state().await;
    });
}

#[test]
fn unlike_the_original_a_follower_that_is_stopped_stays_a_member() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let stopped = cluster.follower().await;
        assert_eq!(cluster.nodes[stopped].terminate().await.code(), Some(0));
        let leader = cluster.leader().await;
        let client = client_of(&cluster.nodes[leader].rpc);
        set(&client, "while", "it was away").await;
        let servers = cluster.wait_members(leader, "the list of members is complete", |_| true).await;
        assert!(voters_are(&servers, &ALL), "{servers:?}");
        cluster.nodes[stopped].start();
        cluster.leader().await;
        assert_eq!(cluster.get_from(stopped, "while").await.as_deref(), Ok(&b"it was away"[..]));
    });
}

#[test]
fn sigterm_hands_leadership_over_under_load_and_exits_with_0() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let load = Load::start(&cluster, "load");
        load.goes_on(50).await;
        let leader = cluster.leader().await;
        assert_eq!(cluster.nodes[leader].terminate().await.code(), Some(0));
        let log = cluster.nodes[leader].log();
        assert!(log.contains("leadership handed over"), "{log}");
        common::assert_no_panic(&log);
        load.goes_on(50).await;
        let servers =
            cluster.wait_members(cluster.leader().await, "the list of members is complete", |_| true).await;
        assert!(voters_are(&servers, &ALL), "{servers:?}");
        cluster.nodes[leader].start();
        cluster.leader().await;
        load.stop().await.verify(&cluster).await;
        cluster.equal_state().await;
    });
}

#[test]
fn a_fourth_node_joins_by_gossip_under_load() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let load = Load::start(&cluster, "load");
        load.goes_on(100).await;
        let fourth = cluster.add_node();
        cluster.nodes[fourth].start();
        let four = ["node-1", "node-2", "node-3", "node-4"];
        for i in 0..4 {
            cluster.wait_members(i, "four vote", |servers| voters_are(servers, &four)).await;
        }
        load.goes_on(50).await;
        load.stop().await.verify(&cluster).await;
        cluster.equal_state().await;
    });
}

/// Nodes with different keys cannot communicate, so all of them stop in between.
#[test]
fn the_clusters_key_is_exchanged_while_all_nodes_are_stopped() {
    run(async {
        let mut cluster = Cluster::prepare(3, &["bootstrap-expect: 3"]);
        let key_file = cluster.path("key");
        let setting = format!("cluster-key-file: {}", key_file.display());
        for key in ["the first secret of this cluster", "the second secret of this cluster"] {
            std::fs::write(&key_file, key).unwrap();
            for node in &cluster.nodes {
                cluster.configure(node, &[&setting]);
            }
            cluster.start_all();
            cluster.leader().await;
            set(&cluster.client(), key, "value").await;
            for node in &mut cluster.nodes {
                assert_eq!(node.terminate().await.code(), Some(0));
            }
        }
        cluster.start_all();
        cluster.leader().await;
        assert_eq!(
            get(&cluster.client(), "the first secret of this cluster").await.as_deref(),
            Some(&b"value"[..])
        );
        cluster.equal_state().await;
    });
}

#[test]
fn unlike_the_original_a_join_is_tried_until_it_succeeds() {
    run(async {
        let mut cluster = Cluster::prepare(3, &[]);
        let fourth = cluster.add_node();
        cluster.nodes[fourth].start();
        // It tries without a time limit: no node runs there.
        let waits = |status: &NodeStatus| status.role != Role::Follower && status.leader.is_none();
        cluster.nodes[fourth].wait_status("it waits for a cluster", waits).await;
        cluster.start_all();
        let four = ["node-1", "node-2", "node-3", "node-4"];
        cluster.wait_members(0, "four vote", |servers| voters_are(servers, &four)).await;
        assert!(cluster.nodes[fourth].is_started());
    });
}

#[test]
fn unlike_the_original_all_three_restart_after_snapshots_with_the_same_state() {
    run(async {
        let mut cluster = Cluster::start(&[MANY_SNAPSHOTS]).await;
        let load = Load::start(&cluster, "load");
        // Snapshots are taken during writes: each must be of one point in time, or the digests would differ.
        load.goes_on(1000).await;
        for node in &cluster.nodes {
            let purged =
                |status: &NodeStatus| status.snapshot_index.is_some() && status.purged_index.is_some();
            node.wait_status("it takes snapshots and purges its log", purged).await;
            let snapshots = node.files().iter().filter(|name| name.ends_with(".snap")).count();
            assert!((1..=3).contains(&snapshots), "{:?}", node.files());
        }
        let client = cluster.client();
        set(&client, "odd", "\u{0}not\r\na length").await;
        load.goes_on(20).await;
        cluster.nodes.iter_mut().for_each(|node| node.kill());
        cluster.start_all();
        load.goes_on(100).await;
        load.stop().await.verify(&cluster).await;
        assert_eq!(get(&client, "odd").await.as_deref(), Some("\u{0}not\r\na length".as_bytes()));
        cluster.equal_state().await;
        for i in 0..3 {
            assert_eq!(cluster.nodes[i].terminate().await.code(), Some(0));
        }
        cluster.start_all();
        cluster.leader().await;
        cluster.equal_state().await;
        assert_eq!(get(&client, "odd").await.as_deref(), Some("\u{0}not\r\na length".as_bytes()));
    });
}

#[test]
fn a_wiped_node_behind_the_purge_catches_up_by_snapshot() {
    run(async {
        let mut cluster = Cluster::start(&[MANY_SNAPSHOTS, QUICK_REPLACEMENT]).await;
        let load = Load::start(&cluster, "load");
        load.goes_on(600).await;
        let lost = cluster.follower().await;
        cluster.nodes[lost].kill();
        std::fs::remove_dir_all(&cluster.nodes[lost].data_dir).unwrap();
        let leader = cluster.leader().await;
        let purged = |status: &NodeStatus| status.purged_index.is_some();
        cluster.nodes[leader].wait_status("the leader has purged its log", purged).await;
        cluster.nodes[lost].start();
        let name = cluster.nodes[lost].name.clone();
        let installed =
            |status: &NodeStatus| status.snapshot_index.is_some() && status.role == Role::Follower;
        cluster.nodes[lost].wait_status("it has installed a snapshot and votes", installed).await;
        load.stop().await.verify(&cluster).await;
        cluster.equal_state().await;
        let log = cluster.nodes[lost].log();
        assert!(cluster.nodes[lost].files().iter().any(|file| file.ends_with(".snap")), "{name}: {log}");
    });
}

#[test]
fn unlike_the_original_an_installed_snapshot_replaces_what_was_there() {
    run(async {
        let mut cluster = Cluster::start(&[MANY_SNAPSHOTS]).await;
        let client = cluster.client();
        for number in 0..20 {
            set(&client, &format!("doomed/{number}"), "not for long").await;
        }
        let sleeper = cluster.follower().await;
        let slept_at = cluster.nodes[sleeper].status().await.unwrap().applied_index;
        assert_eq!(cluster.nodes[sleeper].terminate().await.code(), Some(0));
        for number in 0..20 {
            client.delete(format!("doomed/{number}")).await.unwrap();
        }
        let load = Load::start(&cluster, "load");
        load.goes_on(500).await;
        load.stop().await.verify(&cluster).await;
        let leader = cluster.leader().await;
        let gone = |status: &NodeStatus| status.purged_index > Some(slept_at + 40);
        cluster.nodes[leader].wait_status("what the sleeper misses is purged", gone).await;
        cluster.nodes[sleeper].start();
        cluster.leader().await;
        let state = cluster.equal_state().await;
        assert!(state.snapshot_index > Some(slept_at));
        // From its own memory, without a read index.
        let stale = api::ListRequest {
            prefix: "doomed/".into(),
            consistency: api::Consistency::Stale.into(),
            ..api::ListRequest::default()
        };
        let mut listing = cluster.nodes[sleeper].connect().await.kv().list(stale).await.unwrap().into_inner();
        assert_eq!(listing.message().await.unwrap(), None, "deleted keys came back");
    });
}

#[test]
fn unlike_the_original_followers_never_answer_with_old_values() {
    run(async {
        let cluster = Cluster::start(&[]).await;
        let client = cluster.client();
        let mut readers = Vec::new();
        for node in &cluster.nodes {
            readers.push(node.connect().await.kv());
        }
        let question = || api::GetRequest { key: "counter".into(), ..api::GetRequest::default() };
        for number in 0..100 {
            set(&client, "counter", &number.to_string()).await;
            for (reader, node) in readers.iter_mut().zip(&cluster.nodes) {
                match reader.get(question()).await {
                    Ok(read) => assert_eq!(read.into_inner().value, number.to_string(), "{}", node.name),
                    Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
                }
            }
        }
        // A paused follower, when it resumes, finds the request before it receives the entries that it has missed.
        for number in 100..110 {
            let sleeper = cluster.follower().await;
            let mut reader = readers[sleeper].clone();
            cluster.nodes[sleeper].signal(Signal::STOP);
            let awake: Vec<String> =
                cluster.endpoints().into_iter().filter(|rpc| *rpc != cluster.nodes[sleeper].rpc).collect();
            let writer =
                Client::builder().endpoints(awake).timeout(common::cluster::PATIENCE).build().unwrap();
            set(&writer, "counter", &number.to_string()).await;
            let asked = rt::spawn(async move { reader.get(question()).await });
            rt::sleep(Duration::from_millis(50)).await;
            cluster.nodes[sleeper].signal(Signal::CONT);
            match asked.await.unwrap() {
                Ok(read) => assert_eq!(read.into_inner().value, number.to_string()),
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        }
    });
}

#[test]
fn unlike_the_original_a_deposed_leader_does_not_answer_with_old_values() {
    run(async {
        let cluster = Cluster::start(&[]).await;
        let client = cluster.client();
        set(&client, "key", "old").await;
        let deposed = cluster.leader().await;
        let mut reader = cluster.nodes[deposed].connect().await.kv();
        // SIGSTOP is like a machine that hangs: its connections stay open, and it still takes itself for the leader.
        cluster.nodes[deposed].signal(Signal::STOP);
        let others: Vec<String> =
            cluster.endpoints().into_iter().filter(|rpc| *rpc != cluster.nodes[deposed].rpc).collect();
        let others = Client::builder().endpoints(others).timeout(common::cluster::PATIENCE).build().unwrap();
        set(&others, "key", "new").await;
        // The request waits in its socket until it resumes.
        let question = rt::spawn(async move {
            let request = api::GetRequest { key: "key".into(), ..api::GetRequest::default() };
            reader.get(request).await
        });
        rt::sleep(Duration::from_millis(100)).await;
        cluster.nodes[deposed].signal(Signal::CONT);
        match question.await.unwrap() {
            Ok(read) => assert_eq!(read.into_inner().value, &b"new"[..]),
            Err(status) => assert!(matches!(status.code(), Code::Unavailable | Code::Unknown), "{status}"),
        }
        // It follows the new leader.
        cluster.leader().await;
        wait_for("the deposed leader reads the new value", async || {
            cluster.get_from(deposed, "key").await.ok().filter(|value| value == b"new")
        })
        .await;
    });
}

#[test]
fn unlike_the_original_a_node_that_replays_its_log_never_returns_not_found() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let load = Load::start(&cluster, "load");
        set(&cluster.client(), "known", "value").await;
        load.goes_on(1000).await;
        load.stop().await.verify(&cluster).await;
        let node = cluster.follower().await;
        for consistency in [api::Consistency::Linearizable, api::Consistency::Stale] {
            cluster.nodes[node].kill();
            cluster.nodes[node].start();
            let mut kv = cluster.nodes[node].connect().await.kv();
            // From the first moment at which the node accepts a request until it answers.
            let value = wait_for("the restarted node answers", async || {
                let mut request = Request::new(api::GetRequest {
                    key: "known".into(),
                    consistency: consistency.into(),
                    ..api::GetRequest::default()
                });
                request.set_timeout(Duration::from_secs(1));
                match kv.get(request).await {
                    Ok(read) => Some(read.into_inner().value),
                    Err(status) => {
                        assert_eq!(status.code(), Code::Unavailable, "{status}");
                        None
                    }
                }
            });
            assert_eq!(value.await, &b"value"[..]);
        }
    });
}

#[test]
fn unlike_the_original_the_bootstrapping_node_that_lost_its_disk_joins_its_old_cluster() {
    run(async {
        let mut cluster = Cluster::prepare(3, &[QUICK_REPLACEMENT]);
        // As in the original's example files: the first bootstraps, the others join, and the files stay as they are.
        cluster.configure(&cluster.nodes[0], &["bootstrap: true"]);
        for follower in &cluster.nodes[1..] {
            cluster.configure(follower, &[]);
        }
        cluster.start_all();
        cluster.wait_members(0, "three vote", |servers| voters_are(servers, &ALL)).await;
        set(&cluster.client(), "before", "the disk was lost").await;
        let before = cluster.nodes[0].status().await.unwrap();
        cluster.nodes[0].kill();
        std::fs::remove_dir_all(&cluster.nodes[0].data_dir).unwrap();
        cluster.nodes[0].start();
        let back = cluster.nodes[0].wait_status("it follows", |status| status.role == Role::Follower).await;
        assert_eq!(back.cluster_id, before.cluster_id, "no second cluster");
        assert_ne!(back.node_id, before.node_id);
        assert_eq!(cluster.get_from(0, "before").await.as_deref(), Ok(&b"the disk was lost"[..]));
    });
}

#[test]
fn unlike_the_original_a_client_that_knows_one_follower_writes_and_notices_a_new_leader() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let follower = cluster.follower().await;
        let client = client_of(&cluster.nodes[follower].rpc);
        let first = set(&client, "key", "by way of a follower").await;
        let leader = cluster.leader().await;
        cluster.nodes[leader].kill();
        let second = set(&client, "key", "to the new leader").await;
        assert!(second > first);
        assert_eq!(get(&client, "key").await.as_deref(), Some(&b"to the new leader"[..]));
        // Errors are values, and distinguish an absent key from a failed request.
        assert_eq!(get(&client, "absent").await, None);
        cluster.nodes.iter_mut().filter(|node| node.is_started()).for_each(|node| node.kill());
        let hasty = client.with_timeout(Duration::from_millis(500));
        let refused = hasty.get("key").await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    });
}

#[test]
fn unlike_the_original_a_listing_has_keys_and_pages_of_one_revision() {
    run(async {
        let cluster = Cluster::start(&[]).await;
        let client = cluster.client();
        for key in ["b/2", "a", "b/1", "ü", "b/3"] {
            set(&client, key, &format!("value of {key}")).await;
        }
        let everything = list(&client, ListOptions::all()).await;
        let keys: Vec<&str> = everything.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["a", "b/1", "b/2", "b/3", "ü"]);
        assert!(everything.iter().all(|(key, value)| *value == format!("value of {key}")));
        let page = ListOptions::prefix("b/").limit(2);
        let mut first = client.list_with(page.clone()).await.unwrap();
        let revision = first.revision();
        while first.next().await.unwrap().is_some() {}
        let rest = page.start_after("b/2").at_revision(revision);
        let rest = list(&client, rest).await;
        assert_eq!(rest, [("b/3".to_owned(), "value of b/3".to_owned())]);
        // An empty request, in the original's bytes, still means all keys: through any node, and also from its memory.
        for consistency in [Consistency::Linearizable, Consistency::Stale] {
            let all = list(&client, ListOptions::all().consistency(consistency)).await;
            assert_eq!(all, everything);
        }
    });
}

/// Transfers between accounts, each through any node, while the leader is killed again and again: the sum never changes,
/// whenever it is read, and each transfer happens once or not at all.
#[test]
fn transactions_are_whole_and_happen_once_while_leaders_are_killed() {
    const ACCOUNTS: u64 = 5;
    const EACH: u64 = 1_000;
    run(async {
        let mut cluster = Cluster::start(&[MANY_SNAPSHOTS]).await;
        let client = cluster.client();
        let key = |number: u64| format!("account/{number}");
        let open = (0..ACCOUNTS)
            .fold(Transaction::new(), |all, number| all.then(Operation::set(key(number), EACH.to_string())));
        let opened = client.transact(open).await.unwrap();
        let transferring: Vec<_> = (0..4)
            .map(|worker| {
                let client = client_of(&cluster.endpoints()[worker as usize % 3]);
                rt::spawn(async move {
                    let mut done = 0;
                    for number in 0.. {
                        let (from, to) =
                            (key((worker + number) % ACCOUNTS), key((worker + number + 1) % ACCOUNTS));
                        if transfer(&client, &from, &to).await {
                            done += 1;
                        }
                        if done == 60 {
                            break;
                        }
                    }
                })
            })
            .collect();
        for _ in 0..3 {
            let leader = cluster.leader().await;
            cluster.nodes[leader].kill();
            rt::sleep(Duration::from_millis(500)).await;
            cluster.nodes[leader].start();
            for node in cluster.endpoints() {
                assert_eq!(sum(&client_of(&node), None).await, ACCOUNTS * EACH);
            }
        }
        for worker in transferring {
            worker.await.unwrap();
        }
        let state = cluster.equal_state().await;
        assert_eq!(sum(&client, None).await, ACCOUNTS * EACH);
        assert_eq!(sum(&client, Some(opened.revision)).await, ACCOUNTS * EACH, "as it was at first");
        // Four workers made 60 transfers each, and whatever else was executed was no transfer.
        assert!(state.revision >= opened.revision + 240, "{}", state.revision);

        let floor = client.compact(None).await.unwrap();
        let read = ReadOptions::linearizable().at_revision(floor - 1);
        for node in cluster.endpoints() {
            assert!(matches!(
                client_of(&node).get_with("account/0", read).await,
                Err(Error::RevisionGone(_))
            ));
            assert_eq!(sum(&client_of(&node), Some(floor)).await, ACCOUNTS * EACH);
        }
    });
}

/// The history, by the library, the contract and the commands: of a transaction, on a node that was killed, and when some of
/// it is compacted.
#[test]
fn the_history_is_the_same_on_every_node_and_begins_at_the_floor() {
    run(async {
        let mut cluster = Cluster::start(&[]).await;
        let client = cluster.client();
        let first = client.set("k", "1").await.unwrap().revision;
        let both = Transaction::new()
            .then(Operation::set("k", "2"))
            .then(Operation::set("other", "x"))
            .then(Operation::set("k/below", "y"));
        let both = client.transact(both).await.unwrap().revision;
        let deleted = client.delete("k").await.unwrap().revision;
        let last = client.set("k", "3").await.unwrap().revision;
        assert_eq!([both, deleted, last], [first + 1, first + 2, first + 3]);
        cluster.nodes[0].kill();
        cluster.nodes[0].start();
        cluster.leader().await;

        let versions = [(first, 0, "k=1"), (both, 0, "k=2"), (deleted, 0, "k"), (last, 0, "k=3")];
        let below = (both, 2, "k/below=y");
        let changes = [versions[0], versions[1], below, versions[2], versions[3]];
        let of_key = async |options| shown(client.versions_with("k", options).await.unwrap()).await;
        assert_eq!(of_key(VersionsOptions::all()).await, expected(&versions));
        assert_eq!(of_key(VersionsOptions::all().to_revision(both)).await, expected(&versions[..2]));
        let page = VersionsOptions::all().from_revision(both).limit(2);
        assert_eq!(of_key(page).await, expected(&versions[1..3]));

        let of_keys = async |options| shown(client.changes_with(options).await.unwrap()).await;
        assert_eq!(of_keys(ChangesOptions::prefix("k")).await, expected(&changes));
        let page = ChangesOptions::prefix("k").from_revision(both).limit(1);
        assert_eq!(of_keys(page.clone()).await, expected(&changes[1..3]), "a whole transaction");
        let within = Position { revision: both, place: 0, cluster: None };
        assert_eq!(of_keys(page.start_after(within)).await, expected(&changes[2..3]));
        let newest = Position { revision: last, place: 0, cluster: None };
        assert_eq!(of_keys(ChangesOptions::all().start_after(newest)).await, []);
        let stale = ChangesOptions::range(KeyRange::new("a", "l")).stale();
        assert_eq!(of_keys(stale).await, expected(&changes));
        for future in [last + 1, u64::MAX] {
            let options = ChangesOptions::all().from_revision(future);
            assert!(matches!(client.changes_with(options).await, Err(Error::Invalid(_))));
            let position = Position { revision: future, place: u32::MAX, cluster: None };
            let options = ChangesOptions::all().stale().start_after(position);
            assert!(matches!(client.changes_with(options).await, Err(Error::Invalid(_))));
        }
        let reversed = ChangesOptions::all().from_revision(last).to_revision(first);
        assert!(matches!(client.changes_with(reversed).await, Err(Error::Invalid(_))));
        assert!(matches!(client.versions("").await, Err(Error::Invalid(_))));
        let all = of_one_node(&cluster, 0, api::ChangesRequest::default()).await.unwrap();
        assert_eq!(all.len(), 6);
        for node in 1..3 {
            assert_eq!(of_one_node(&cluster, node, api::ChangesRequest::default()).await.as_ref(), Ok(&all));
        }

        assert_eq!(client.compact(deleted).await, Ok(deleted));
        // A stale read might be one from before the compaction.
        assert_eq!(shown(client.versions("k").await.unwrap()).await, expected(&versions[2..]));
        assert_eq!(shown(client.versions("other").await.unwrap()).await, expected(&[(both, 1, "other=x")]));
        assert_eq!(shown(client.changes("").await.unwrap()).await, expected(&versions[2..]));
        let gone = client.versions_with("k", VersionsOptions::all().from_revision(both)).await;
        let floor = format!("the earliest that can be read is {deleted}");
        assert!(matches!(&gone, Err(Error::RevisionGone(why)) if why.as_str().contains(&floor)), "{gone:?}");
        let behind = Position { revision: both, place: 2, cluster: None };
        let gone = client.changes_with(ChangesOptions::all().start_after(behind)).await;
        assert!(matches!(gone, Err(Error::RevisionGone(_))), "{gone:?}");
        for node in 0..3 {
            let request = api::ChangesRequest::default();
            assert_eq!(of_one_node(&cluster, node, request).await.unwrap(), all[4..]);
            let request = api::ChangesRequest { from_revision: both, ..Default::default() };
            assert_eq!(of_one_node(&cluster, node, request).await, Err(Code::Aborted));
            // A page of versions goes on where none can be missing, also behind one from below the floor.
            let mut kv = cluster.nodes[node].connect().await.kv();
            for (key, start_after, expected) in [
                ("k", last, Ok(0)),
                ("k", deleted, Ok(1)),
                ("k", both, Err(Code::Aborted)),
                ("other", both, Ok(0)),
                ("other", first, Err(Code::Aborted)),
                ("other", last + 1, Err(Code::InvalidArgument)),
            ] {
                let last = Some(api::Position { revision: start_after, ..Default::default() });
                let request =
                    api::VersionsRequest { key: key.into(), start_after: last, ..Default::default() };
                let found = match kv.versions(request).await {
                    Ok(stream) => all_of(stream.into_inner()).await.map(|versions| versions.len()),
                    Err(status) => Err(status.code()),
                };
                assert_eq!(found, expected, "of {key} after {start_after}");
            }

            let shell = |args: &[&str]| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
                let output =
                    command.args(args).args(["--endpoints", &cluster.nodes[node].rpc]).output().unwrap();
                assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
                String::from_utf8(output.stdout).unwrap()
            };
            let history = format!("{deleted}\t-\t-\tdeleted\n{last}\t1\t{last}\t3\n");
            assert_eq!(shell(&["history", "k", "--output=plain"]), history);
            let changes = format!("{deleted}\tk\t-\tdeleted\n{last}\tk\t1\t3\n");
            assert_eq!(shell(&["changes", "--prefix=k"]), changes);
        }
        cluster.equal_state().await;
    });
}

/// Revision, place, and key with value, or the key alone if it was deleted.
async fn shown(mut changes: Changes) -> Vec<(u64, u32, String)> {
    let mut all = Vec::new();
    while let Some(change) = changes.next().await.unwrap() {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let value = change.entry.map(|entry| format!("={}", text(&entry.value)));
        let Position { revision, place, .. } = change.position;
        all.push((revision, place, text(&change.key) + &value.unwrap_or_default()));
    }
    all
}

fn expected(changes: &[(u64, u32, &str)]) -> Vec<(u64, u32, String)> {
    changes.iter().map(|(revision, place, change)| (*revision, *place, (*change).to_owned())).collect()
}

/// The changes as this node and no other returns them, or the code of its refusal.
async fn of_one_node(
    cluster: &Cluster,
    node: usize,
    request: api::ChangesRequest,
) -> Result<Vec<api::Change>, Code> {
    let mut kv = cluster.nodes[node].connect().await.kv();
    all_of(kv.changes(request).await.map_err(|status| status.code())?.into_inner()).await
}

async fn all_of(mut stream: Streaming<api::Change>) -> Result<Vec<api::Change>, Code> {
    let mut changes = Vec::new();
    while let Some(change) = stream.message().await.map_err(|status| status.code())? {
        changes.push(change);
    }
    Ok(changes)
}

/// Moves 1 from one account to another, if neither has changed since it was read. Returns whether it did.
async fn transfer(client: &Client, from: &str, to: &str) -> bool {
    let Ok(read) = client.get_many([from, to]).await else { return false };
    let [Some(one), Some(other)] = read.entries.as_slice() else { panic!("the accounts exist") };
    let balance = |entry: &KeyValue| str::from_utf8(&entry.value).unwrap().parse::<u64>().unwrap();
    let unchanged =
        |entry: &KeyValue| Condition::mod_revision(entry.key.clone(), Comparison::Equal, entry.mod_revision);
    let transaction = Transaction::new()
        .when(unchanged(one))
        .when(unchanged(other))
        .then(Operation::set(from, (balance(one) - 1).to_string()))
        .then(Operation::set(to, (balance(other) + 1).to_string()));
    client.transact(transaction).await.is_ok_and(|done| done.succeeded)
}

/// The sum of all accounts, at a revision or now.
async fn sum(client: &Client, revision: Option<u64>) -> u64 {
    let keys = (0..5).map(|number| format!("account/{number}"));
    let mut options = ReadOptions::linearizable();
    if let Some(revision) = revision {
        options = options.at_revision(revision);
    }
    let read =
        wait_for("the accounts are read", async || client.get_many_with(keys.clone(), options).await.ok());
    let values = read.await.entries.into_iter().map(|entry| entry.unwrap().value);
    values.map(|value| str::from_utf8(&value).unwrap().parse::<u64>().unwrap()).sum()
}
