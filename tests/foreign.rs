//! Clients in other languages against real clusters: the wire contract as seen by a client that has only `kv.proto`.
//! `tests/foreign/README.md` describes what each proves.

#![cfg(unix)]

mod common;
#[path = "foreign/grpcurl.rs"]
mod grpcurl;
#[path = "foreign/program.rs"]
mod program;
#[path = "foreign/tools.rs"]
mod tools;

use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::cluster::Cluster;
use common::run;
use grpcurl::Grpcurl;
use serde_json::json;

/// The claims that the Go program proves, as it prints them.
const GO_PROVES: [&str; 14] = [
    "three members answer and one of them leads",
    "a set takes the next revision and a get returns all of it",
    "a target mokv://HOST:PORT, which leaves :authority empty, writes and reads",
    "a delete says whether the key was there, and a get then NOT_FOUND",
    "a failed condition returns the present revision in google.rpc.Status",
    "a list is one revision in byte order, page by page",
    "the bytes of google.protobuf.Empty list everything",
    "a linearizable get on each follower sees the last write",
    "a write of a session that is sent twice is applied once",
    "writes went to the leader and none to a follower, reads to each follower and none to the leader",
    "writes go on with a new leader when the leader is killed",
    "every acknowledged write is there and was applied once",
    "writes went to the new leader and reads to the follower that is left",
    "the killed node comes back, sees the last write and is read from",
];

/// The claims that the Python program proves, as it prints them.
const PYTHON_PROVES: [&str; 10] = [
    "every member is listed, and one of them leads",
    "the standard health service says SERVING of every node and service",
    "a value is returned byte by byte as it was written, with its revisions",
    "a delete says whether the key was there",
    "writes and linearizable reads work through any node",
    "a conditional write happens once, and its refusal returns the present revision",
    "an absent key is NOT_FOUND at a revision, wrong arguments are INVALID_ARGUMENT",
    "a stale read waits for min_revision, and is refused rather than older",
    "pages of a list are of one revision, whatever is written in between",
    "without a majority writes are not executed, and reads are refused unless stale",
];

/// So that leaders change only when the programs ask for it, and not because this machine is loaded.
const PATIENT: &str = "election-timeout: 3s";

// A cluster is prepared before anything is built and started afterwards: `prepare` waits for the clusters of the other
// tests, so that nothing is built beside a running cluster.

#[test]
fn a_client_on_grpc_go_follows_the_leader_and_loses_nothing() {
    if !tools::go_is_here() {
        return;
    }
    run(async {
        let mut cluster = Cluster::prepare(3, &[PATIENT]);
        let mut client = Command::new(tools::go_program().await);
        cluster.start_all();
        // The client starts with the node that will be killed.
        client.arg(&cluster.nodes[cluster.leader().await].rpc);
        assert_eq!(program::play(client, &mut cluster).await, GO_PROVES);
        cluster.equal_state().await;
    });
}

#[test]
fn a_client_on_grpcio_sees_values_errors_and_a_lost_majority() {
    if !tools::python_is_here() {
        return;
    }
    run(async {
        let mut cluster = Cluster::prepare(3, &[PATIENT]);
        let mut client = Command::new(tools::python().await);
        cluster.start_all();
        // -B: writes no bytecode into the sources' folder.
        client.arg("-B").arg(tools::sources("python").join("main.py"));
        client.arg(&cluster.nodes[cluster.follower().await].rpc);
        assert_eq!(program::play(client, &mut cluster).await, PYTHON_PROVES);
        cluster.equal_state().await;
    });
}

#[test]
fn grpcurl_finds_and_calls_everything_by_reflection() {
    if !tools::go_is_here() {
        return;
    }
    run(async {
        let mut cluster = Cluster::prepare(3, &[PATIENT]);
        let program = tools::grpcurl().await;
        cluster.start_all();
        let leader = cluster.leader().await;
        let all: Vec<Grpcurl> = (cluster.endpoints().into_iter())
            .map(|address| Grpcurl { program: program.clone(), address })
            .collect();
        let any = &all[cluster.follower().await];

        services_are_described(any);
        keys_and_values(&all);
        members_and_status(&cluster, leader, any).await;
    });
}

fn ok(claim: &str) {
    println!("ok  {claim}");
}

fn services_are_described(grpcurl: &Grpcurl) {
    let services = "api.Admin\napi.KV\ngrpc.health.v1.Health\ngrpc.reflection.v1.ServerReflection\n";
    assert_eq!(grpcurl.ask(&["list"]), services);
    ok("list names the services");

    let methods = [
        ("Changes", "stream .api.Change"),
        ("CloseSession", ".api.CloseSessionResponse"),
        ("Delete", ".api.DeleteResponse"),
        ("Get", ".api.GetResponse"),
        ("GetServers", ".api.GetServersResponse"),
        ("List", "stream .api.GetResponse"),
        ("OpenSession", ".api.OpenSessionResponse"),
        ("Set", ".api.SetResponse"),
        ("Transact", ".api.TransactResponse"),
        ("Versions", "stream .api.Change"),
    ];
    let listed = grpcurl.ask(&["list", "api.KV"]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), methods.map(|(method, _)| format!("api.KV.{method}")));
    let described = grpcurl.ask(&["describe", "api.KV"]);
    for (method, response) in methods {
        let rpc = format!("rpc {method} ( .api.{method}Request ) returns ( {response} );");
        assert!(described.contains(&rpc), "'{rpc}' is missing from\n{described}");
    }
    let request = grpcurl.ask(&["describe", "api.SetRequest"]);
    assert!(request.contains("optional uint64 if_revision = 3;"), "{request}");
    ok("describe shows methods, messages and fields");
}

fn keys_and_values(all: &[Grpcurl]) {
    let (first, last) = (&all[0], &all[2]);
    // JSON has bytes in base64, keys too.
    let [bytes_key, greeting, prefix] = ["bytes", "greeting", "g"].map(|key| BASE64_STANDARD.encode(key));
    let bytes = BASE64_STANDARD.encode((0..=255).collect::<Vec<u8>>());
    let set = first.answer("api.KV/Set", json!({"key": bytes_key, "value": bytes}));
    assert_eq!(set, json!({"ok": true, "revision": "2"}));
    first.answer("api.KV/Set", json!({"key": greeting, "value": BASE64_STANDARD.encode("hello")}));
    ok("Set writes and returns the revision");

    let entry = json!({
        "key": bytes_key, "value": bytes, "revision": "3", "createRevision": "2", "modRevision": "2", "version": "1",
    });
    for node in all {
        assert_eq!(node.answer("api.KV/Get", json!({"key": bytes_key})), entry);
    }
    ok("Get returns the same on every node");

    let listed = last.call("api.KV/List", json!({})).unwrap();
    let values: Vec<_> = listed.iter().map(|entry| (&entry["key"], &entry["value"])).collect();
    assert_eq!(values, [(&json!(bytes_key), &json!(bytes)), (&json!(greeting), &json!("aGVsbG8="))]);
    let page = last.call("api.KV/List", json!({"prefix": prefix, "keys_only": true, "limit": 1})).unwrap();
    assert_eq!(page.len(), 1);
    assert_eq!((&page[0]["key"], page[0].get("value")), (&json!(greeting), None));
    ok("List streams keys in order");

    let refusal = first.call("api.KV/Set", json!({"key": greeting, "if_revision": 2})).unwrap_err();
    let expected = json!({
        "code": 9,
        "message": "condition failed: the key is at revision 3",
        "details": [{"@type": "type.googleapis.com/api.ConditionFailed", "presentRevision": "3"}],
    });
    assert_eq!((refusal.exit_code, refusal.status), (Some(64 + 9), expected));
    ok("a failed condition has its detail");

    let transaction = json!({
        "conditions": [{"key": greeting, "comparison": "EQUAL", "modRevision": "3"}],
        "then": [{"get": {"key": bytes_key}}, {"delete": {"key": greeting}}],
    });
    let done = last.answer("api.KV/Transact", transaction);
    assert_eq!((&done["revision"], &done["succeeded"]), (&json!("4"), &json!(true)));
    assert_eq!(done["results"][0]["get"]["entry"]["value"], bytes);
    assert_eq!(done["results"][1], json!({"delete": {"deleted": "1"}}));
    ok("Transact tests, reads and writes");

    let changes = first.call("api.KV/Changes", json!({"fromRevision": "3"})).unwrap();
    let hello = BASE64_STANDARD.encode("hello");
    let cluster = &changes[0]["position"]["cluster"];
    assert!(cluster.as_str().is_some_and(|number| number != "0"), "{changes:?}");
    let at = |revision: &str| json!({"revision": revision, "cluster": cluster});
    let written = json!({
        "key": greeting, "value": hello, "position": at("3"), "createRevision": "3", "version": "1",
    });
    let deleted = json!({"key": greeting, "position": at("4"), "deleted": true});
    assert_eq!(changes, [written.clone(), deleted.clone()]);
    let versions = last.call("api.KV/Versions", json!({"key": greeting})).unwrap();
    assert_eq!(versions, [written, deleted]);
    let refusal = first.call("api.KV/Changes", json!({"fromRevision": "9"})).unwrap_err();
    assert_eq!((refusal.exit_code, &refusal.status["code"]), (Some(64 + 3), &json!(3)));
    let elsewhere = json!({"startAfter": {"revision": "3", "cluster": "1"}});
    let refusal = first.call("api.KV/Changes", elsewhere).unwrap_err();
    assert_eq!((refusal.exit_code, &refusal.status["code"]), (Some(64 + 10), &json!(10)));
    ok("Changes and Versions stream the history");

    first.answer("api.KV/Set", json!({"key": greeting, "value": BASE64_STANDARD.encode("hello")}));
    let delete = last.answer("api.KV/Delete", json!({"key": greeting, "if_revision": 5}));
    assert_eq!(delete, json!({"ok": true, "revision": "6", "existed": true}));
    let refusal = first.call("api.KV/Get", json!({"key": greeting})).unwrap_err();
    assert_eq!((refusal.exit_code, &refusal.status["code"]), (Some(64 + 5), &json!(5)));
    ok("Delete deletes, and the key is NOT_FOUND");
}

async fn members_and_status(cluster: &Cluster, leader: usize, grpcurl: &Grpcurl) {
    let answer = grpcurl.answer("api.KV/GetServers", json!({}));
    let mut servers = answer["servers"].as_array().unwrap().clone();
    servers.sort_by_key(|server| server["id"].to_string());
    assert_eq!(servers.len(), cluster.nodes.len());
    for (i, (server, node)) in servers.iter().zip(&cluster.nodes).enumerate() {
        assert_eq!((&server["id"], &server["rpcAddr"]), (&json!(node.name), &json!(node.rpc)));
        // False values are omitted.
        assert_eq!(server.get("isLeader"), (i == leader).then_some(&json!(true)), "{answer}");
    }
    ok("GetServers names the leader");

    for node in &cluster.nodes {
        let grpcurl = Grpcurl { program: grpcurl.program.clone(), address: node.rpc.clone() };
        let status = grpcurl.answer("api.Admin/Status", json!({}));
        let known = node.status().await.unwrap();
        let expected = [
            ("name", known.name),
            // The contract has a number, which JSON shows in decimal.
            ("nodeId", known.node_id.0.to_string()),
            ("clusterId", known.cluster_id.unwrap_or_default()),
            ("role", known.role.to_string()),
            ("term", known.term.to_string()),
            ("leaderName", cluster.nodes[leader].name.clone()),
            ("revision", "6".to_owned()),
            ("keys", "1".to_owned()),
            ("rpcAddr", node.rpc.clone()),
        ];
        for (field, value) in expected {
            assert_eq!(status[field], json!(value), "{field} of {status}");
        }
    }
    ok("Status returns the same as the client library");

    let health = grpcurl.answer("grpc.health.v1.Health/Check", json!({"service": "api.KV"}));
    assert_eq!(health, json!({"status": "SERVING"}));
    ok("the standard health service can be called");
}
