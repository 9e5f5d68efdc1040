//! Wrong input from outside: requests, bytes, files, directories, ports. Each gets a clear error (what failed, on what,
//! what to do next), causes no loss, and causes no panic.
//!
//! `cli.rs` tests a typo in the configuration file.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::cluster::{ALL, Cluster, set, voters_are};
use common::node::Node;
use common::{assert_no_panic, http1, http2, run, wait_for};
use mokv::client::{Client, Role};
use mokv_proto::api;
use mokv_proto::tonic::{Code, Request, Status};

/// A store of one node, with `count` keys in it.
async fn store_of_one(count: usize) -> Cluster {
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.start_all();
    cluster.leader().await;
    let client = cluster.client();
    for number in 0..count {
        set(&client, &format!("key-{number}"), &format!("value {number}")).await;
    }
    cluster
}

async fn assert_all_there(cluster: &Cluster, count: usize) {
    let client = cluster.client();
    for number in 0..count {
        let read = client.get(format!("key-{number}")).await.unwrap();
        assert_eq!(read.entry.expect("no key is lost").value, format!("value {number}"));
    }
}

/// Runs a shell command to its end.
fn mokv(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

/// Starts a node that must refuse. Returns the end of its log: the error and what to do next.
async fn refuses_to_start(node: &mut Node) -> String {
    let before = node.log().len();
    node.start();
    let status = node.ended().await;
    let said = node.log().split_off(before);
    assert_eq!(status.code(), Some(1), "{said}");
    assert_no_panic(&said);
    let refusal = said.find("error: ").map(|at| said[at..].to_owned());
    let refusal = refusal.unwrap_or_else(|| panic!("it refused without a message:\n{said}"));
    assert!(refusal.contains(" next: "), "nothing is said to do next:\n{refusal}");
    refusal
}

/// The content of the files that hold acknowledged data.
fn data(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".wal") || name.ends_with(".snap") {
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    files
}

#[test]
fn keys_and_values_out_of_bounds_are_refused_as_what_they_are() {
    run(async {
        let cluster = store_of_one(1).await;
        let node = &cluster.nodes[0];
        let mut kv = node.connect().await.kv();
        let longest = "k".repeat(4096);
        let mut set = async |key: &str, value: Vec<u8>| {
            let request =
                api::SetRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() };
            kv.set(request).await.map(|_| ()).map_err(|status: Status| status)
        };
        let empty = set("", b"value".to_vec()).await.unwrap_err();
        assert_eq!(
            (empty.code(), empty.message().contains("1 to 4096 bytes")),
            (Code::InvalidArgument, true)
        );
        let long = set(&"k".repeat(5 << 10), b"value".to_vec()).await.unwrap_err();
        assert_eq!(long.code(), Code::InvalidArgument);
        assert!(long.message().contains("5120 bytes") && long.message().contains("4096"), "{long}");
        let large = set("key", vec![b'v'; (1 << 20) + 1]).await.unwrap_err();
        assert_eq!(large.code(), Code::InvalidArgument);
        assert!(large.message().contains("1048577 bytes") && large.message().contains("max-value-bytes"));
        // Larger than any request that is read.
        let huge = set("key", vec![b'v'; 5 << 20]).await.unwrap_err();
        assert!(matches!(huge.code(), Code::OutOfRange | Code::ResourceExhausted), "{huge}");
        // Values just within the bounds are accepted.
        set(&longest, vec![b'v'; 1 << 20]).await.unwrap();

        let mut kv = node.connect().await.kv();
        for key in [String::new(), "k".repeat(5 << 10)] {
            let get = api::GetRequest { key: key.clone().into(), ..Default::default() };
            assert_eq!(kv.get(get).await.unwrap_err().code(), Code::InvalidArgument);
            let delete = api::DeleteRequest { key: key.into(), ..Default::default() };
            assert_eq!(kv.delete(delete).await.unwrap_err().code(), Code::InvalidArgument);
        }
        let read =
            kv.get(api::GetRequest { key: longest.into(), ..Default::default() }).await.unwrap().into_inner();
        assert_eq!((read.value.len(), read.revision), (1 << 20, 3), "what was refused took no revision");

        // The same in a user's shell.
        let value_file = cluster.path("value");
        std::fs::write(&value_file, vec![b'v'; (1 << 20) + 1]).unwrap();
        let long = "k".repeat(5 << 10);
        for (key, value, reason) in [
            ("", "value", "1 to 4096 bytes"),
            (long.as_str(), "value", "4096"),
            ("key", "-", "1048577 bytes"),
        ] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
            let stdin = std::fs::OpenOptions::new().read(true).open(&value_file).unwrap();
            command.args(["set", key, value, "--endpoints", &node.rpc]).stdin(stdin);
            let output = command.output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("error: cannot write") && said.contains(" next: "), "{said}");
            assert!(said.contains(reason) && said.contains(&node.rpc), "{said}");
            assert_no_panic(&said);
        }
        assert_all_there(&cluster, 1).await;
        assert_no_panic(&node.log());
    });
}

#[test]
fn unlike_the_original_errors_of_different_kinds_have_different_codes() {
    run(async {
        let mut cluster = Cluster::start(&["request-timeout: 1s"]).await;
        let node = cluster.follower().await;
        let mut kv = cluster.nodes[node].connect().await.kv();
        let get = |key: &str| api::GetRequest { key: key.to_owned().into(), ..Default::default() };
        assert_eq!(kv.get(get("absent")).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(kv.get(get("")).await.unwrap_err().code(), Code::InvalidArgument);
        let conditional = api::SetRequest {
            key: "key".into(),
            value: "value".into(),
            if_revision: Some(9),
            ..Default::default()
        };
        assert_eq!(kv.set(conditional).await.unwrap_err().code(), Code::FailedPrecondition);
        for other in (0..3).filter(|other| *other != node) {
            cluster.nodes[other].kill();
        }
        let unavailable = kv.get(get("absent")).await.unwrap_err();
        assert!(matches!(unavailable.code(), Code::Unavailable | Code::DeadlineExceeded), "{unavailable}");
    });
}

/// Bytes that are sent to the one port, and the answer before the node closes the connection.
fn abuses() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let frame = |length: u32, body: &[u8]| [&[1], &length.to_le_bytes()[..], body].concat();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    vec![
        ("garbage after the byte of peers", [&[1u8; 300][..], b"\xff\x00garbage"].concat(), None),
        ("a frame of 4 GiB from a peer", frame(u32::MAX, b"x"), None),
        ("a whole frame that is no Hello", frame(5, b"\xff\xff\xff\xff\xff"), None),
        ("an empty Hello", frame(0, b""), None),
        ("half a Hello, then silence", frame(100, b"half"), None),
        ("the byte of peers, then silence", vec![1], None),
        ("silence", vec![], None),
        ("half of HTTP/2's preface, then silence", b"PR".to_vec(), None),
        ("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), None),
        ("zeros", vec![0; 64], None),
        ("HTTP/2 that is none", [&preface[..], &[0xff; 64]].concat(), None),
        ("an HTTP/1 request", b"GET / HTTP/1.1\r\nhost: here\r\n\r\n".to_vec(), Some("HTTP/1.1 400 ")),
        (
            "an HTTP/1 upload",
            b"POST /x HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc".to_vec(),
            Some("HTTP/1.1 400 "),
        ),
    ]
}

#[test]
fn bytes_that_are_no_protocol_are_answered_or_closed_and_the_node_goes_on_serving() {
    run(async {
        let cluster = store_of_one(3).await;
        let rpc = cluster.nodes[0].rpc.clone();
        // All concurrently: the node closes each after a time of its own.
        let abusers = abuses().into_iter().map(|(what, bytes, answer)| {
            let rpc = rpc.clone();
            mokv::rt::spawn(async move {
                let said = mokv::rt::spawn_blocking(move || {
                    let mut stream = http1::connect(&rpc);
                    // The node may close before it has read everything.
                    let _ = stream.write_all(&bytes);
                    http1::read_until_closed(&mut stream)
                });
                let said = String::from_utf8_lossy(&said.await.unwrap()).into_owned();
                if let Some(answer) = answer {
                    assert!(said.starts_with(answer), "{what}: {said}");
                    assert!(
                        said.contains("gRPC (HTTP/2)") && said.contains("metrics port"),
                        "{what}: {said}"
                    );
                }
            })
        });
        let abusers: Vec<_> = abusers.collect();
        // Clients are served meanwhile and afterwards.
        assert_all_there(&cluster, 3).await;
        for abuser in abusers {
            abuser.await.unwrap();
        }
        // A client that disconnects in the middle of a message.
        for (_, bytes, _) in abuses() {
            let mut stream = http1::connect(&rpc);
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Both);
        }
        set(&cluster.client(), "key-3", "value 3").await;
        assert_all_there(&cluster, 4).await;
        assert_no_panic(&cluster.nodes[0].log());
    });
}

/// Asks for the members in HTTP/2 written by hand, with this `:authority`. Returns the payload of the answer's DATA, or
/// the code of RST_STREAM.
fn members_by_hand(rpc: &str, authority: &[u8]) -> Result<Vec<u8>, u32> {
    // With indexing, as grpc-go does.
    let block = http2::grpc_headers(http2::KEPT, "/api.KV/GetServers", authority);
    let mut stream = http1::connect(rpc);
    let said = [
        http2::PREFACE,
        &http2::frame(http2::HEADERS, http2::END_HEADERS, 1, &block),
        // gRPC's frame of an empty message, and the end of the request.
        &http2::frame(http2::DATA, http2::END_STREAM, 1, &[0; 5]),
    ];
    stream.write_all(&said.concat()).unwrap();
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).unwrap();
        match header[3] {
            0x0 => return Ok(payload),
            0x3 => return Err(u32::from_be_bytes(payload.try_into().unwrap())),
            0x1 => assert_eq!(header[4] & 0x1, 0, "the answer ends without a message"),
            _ => {}
        }
    }
}

#[test]
fn a_request_is_served_whatever_its_authority_is() {
    run(async {
        let cluster = store_of_one(1).await;
        let node = &cluster.nodes[0];
        let odd =
            ["", "localhost", "%2Ftmp%2Fx.sock", "/tmp/x.sock", "#initially=[http://a:2379;http://b:2379]"];
        for authority in odd {
            let answer = members_by_hand(&node.rpc, authority.as_bytes());
            let answer = answer.unwrap_or_else(|code| panic!("':authority: {authority}' is refused: {code}"));
            let name = node.name.as_bytes();
            assert!(answer.windows(name.len()).any(|part| part == name), "{authority}: {answer:?}");
        }
        let (_, metrics) = http1::get(&node.metrics, "/metrics");
        assert!(metrics.contains("mokv_connections_refused_total{kind=\"protocol\"} 0\n"), "{metrics}");
        // Bytes that are no protocol are counted each time, and logged the first time.
        for number in 1..=3 {
            let mut stream = http1::connect(&node.rpc);
            stream.write_all(&[0; 64]).unwrap();
            http1::read_until_closed(&mut stream);
            wait_for("it is counted", async || {
                let (_, metrics) = http1::get(&node.metrics, "/metrics");
                metrics
                    .contains(&format!("mokv_connections_refused_total{{kind=\"protocol\"}} {number}\n"))
                    .then_some(())
            })
            .await;
        }
        let warning = "it breaks the protocol";
        wait_for("it is logged", async || node.log().contains(warning).then_some(())).await;
        assert_eq!(node.log().matches(warning).count(), 1);
    });
}

#[test]
fn garbage_in_datagrams_and_on_the_metrics_port_does_no_harm() {
    run(async {
        let cluster = Cluster::start(&[]).await;
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let node = &cluster.nodes[0];
        for length in [0, 1, 7, 64, 1400, 60_000] {
            socket.send_to(&vec![0xa5; length], &node.gossip).unwrap();
        }
        // Random datagrams are not logged. A datagram in the format of mökv that is not authenticated is.
        let forged = [&b"mkv~\x01"[..], &[0xa5; 200]].concat();
        socket.send_to(&forged, &node.gossip).unwrap();
        let metrics = node.metrics.clone();
        mokv::rt::spawn_blocking(move || {
            let mut stream = http1::connect(&metrics);
            stream.write_all(b"\x00\xff not HTTP\r\n\r\n").unwrap();
            http1::read_until_closed(&mut stream);
            assert_eq!(http1::get(&metrics, "/livez").0, 200);
        })
        .await
        .unwrap();
        let servers = cluster.wait_members(0, "three vote", |servers| servers.len() == 3).await;
        assert!(voters_are(&servers, &ALL));
        wait_for("the forged datagram is reported", async || {
            node.log().contains("datagrams from").then_some(())
        })
        .await;
        assert!(node.log().contains("give all nodes the same cluster-key-file"), "{}", node.log());
        assert_no_panic(&node.log());
    });
}

#[test]
fn no_client_can_act_as_a_raft_peer_unlike_in_the_original() {
    run(async {
        let cluster = store_of_one(1).await;
        let direct = cluster.nodes[0].connect().await;
        for path in ["/api.Raft/AppendEntries", "/raft.Raft/Vote", "/api.KV/Raft", "/nothing"] {
            let request = http::Request::post(path)
                .header("content-type", "application/grpc")
                .body(mokv_proto::tonic::body::Body::empty())
                .unwrap();
            let response = tower_service::Service::call(&mut direct.clone(), request).await.unwrap();
            let code = response.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
            assert_eq!(code, Some(Code::Unimplemented), "{path}");
        }
    });
}

#[test]
fn unlike_the_original_a_node_without_the_clusters_key_is_kept_out() {
    run(async {
        let mut cluster = Cluster::prepare(3, &[]);
        let [right, wrong] = ["right", "wrong"].map(|name| cluster.path(name));
        std::fs::write(&right, "the secret of this cluster\n").unwrap();
        std::fs::write(&wrong, "the secret of another cluster\n").unwrap();
        let key_file = |path: &Path| format!("cluster-key-file: {}", path.display());
        for node in &cluster.nodes {
            cluster.configure(node, &["bootstrap-expect: 3", &key_file(&right)]);
        }
        cluster.start_all();
        cluster.leader().await;
        set(&cluster.client(), "key", "value").await;
        for intruder_file in [key_file(&wrong), String::new()] {
            let intruder = cluster.add_node();
            cluster.configure(&cluster.nodes[intruder], &[&intruder_file]);
            cluster.nodes[intruder].start();
            // A node that cannot authenticate gets no answer; the members log its address, and what to do.
            let knocked = format!("datagrams from {} are dropped", cluster.nodes[intruder].gossip);
            wait_for("the members report the node that they exclude", async || {
                let log = cluster.nodes[0].log();
                let line = log.lines().find(|line| line.contains(&knocked))?;
                line.contains("give all nodes the same cluster-key-file").then_some(())
            })
            .await;
            let servers = cluster.wait_members(0, "the list of members is complete", |_| true).await;
            assert!(voters_are(&servers, &ALL), "{servers:?}");
            let kept_out = cluster.nodes[intruder].connect().await.kv();
            let refused =
                kept_out.clone().get(api::GetRequest { key: "key".into(), ..Default::default() }).await;
            assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
            cluster.nodes[intruder].kill();
        }
        for node in &cluster.nodes {
            assert!(!node.log().contains("the secret of"), "keys are no news either");
        }
    });
}

#[test]
fn a_port_in_use_is_named_with_its_purpose_and_its_setting() {
    run(async {
        let mut cluster = Cluster::prepare(1, &["bootstrap: false"]);
        let node = &mut cluster.nodes[0];
        let (rpc, metrics, gossip) = (node.rpc.clone(), node.metrics.clone(), node.gossip.clone());
        for (address, key) in [(&rpc, "rpc-port"), (&metrics, "metrics-port")] {
            let _taken = TcpListener::bind(address).unwrap();
            let said = refuses_to_start(node).await;
            assert!(said.contains(&format!("cannot listen on {address}")) && said.contains(key), "{said}");
            assert!(said.contains("choose another"), "{said}");
        }
        let taken = UdpSocket::bind(&gossip).unwrap();
        let said = refuses_to_start(node).await;
        assert!(said.contains(&format!("cannot listen on {gossip}")) && said.contains("bind-addr"), "{said}");
        drop(taken);
        cluster.start_all();
        cluster.leader().await;
    });
}

#[test]
fn a_data_directory_in_use_by_another_process_is_refused() {
    run(async {
        let mut cluster = store_of_one(3).await;
        let second = cluster.add_node();
        cluster.nodes[second].data_dir = cluster.nodes[0].data_dir.clone();
        cluster.configure(&cluster.nodes[second], &[]);
        let said = refuses_to_start(&mut cluster.nodes[second]).await;
        let directory = cluster.nodes[0].data_dir.display().to_string();
        assert!(said.contains("in use by another process") && said.contains(&directory), "{said}");
        assert_all_there(&cluster, 3).await;
    });
}

#[test]
fn the_data_directory_of_another_node_is_refused_by_name() {
    run(async {
        let mut cluster = store_of_one(3).await;
        let second = cluster.add_node();
        cluster.nodes[second].data_dir = cluster.nodes[0].data_dir.clone();
        cluster.configure(&cluster.nodes[second], &[]);
        assert_eq!(cluster.nodes[0].terminate().await.code(), Some(0));
        let before = data(&cluster.nodes[0].data_dir);
        let said = refuses_to_start(&mut cluster.nodes[second]).await;
        assert!(said.contains("belongs to node 'node-1', not to 'node-2'"), "{said}");
        assert!(said.contains("set node-name to 'node-1'"), "{said}");
        assert_eq!(data(&cluster.nodes[0].data_dir), before);
        cluster.nodes[0].start();
        cluster.nodes[0].wait_status("it leads", |status| status.role == Role::Leader).await;
        assert_all_there(&cluster, 3).await;
    });
}

#[test]
fn the_data_directory_of_another_cluster_never_becomes_part_of_this_one() {
    run(async {
        // A node of a cluster of one is configured to join three others, with its data still there.
        let mut cluster = Cluster::prepare(3, &[]);
        let stranger = cluster.add_node();
        let stranger = &mut cluster.nodes[stranger];
        stranger.configure(&["log-segment-bytes: 4MiB", "min-free-bytes: 1MiB", "bootstrap: true"]);
        stranger.start();
        stranger.wait_status("it leads a cluster of its own", |status| status.role == Role::Leader).await;
        let own = client_of_one(stranger);
        set(&own, "whose", "the stranger's").await;
        let strangers_cluster = stranger.status().await.unwrap().cluster_id;
        assert_eq!(stranger.terminate().await.code(), Some(0));
        cluster.nodes[..3].iter_mut().for_each(Node::start);
        cluster.leader().await;
        let client = Client::builder().endpoints([&cluster.nodes[0].rpc]).build().unwrap();
        set(&client, "whose", "the cluster's").await;
        cluster.configure(&cluster.nodes[3], &[]);
        cluster.nodes[3].start();
        for node in &cluster.nodes {
            wait_for("both sides say that two clusters meet, and what to do", async || {
                let log = node.log();
                let is_reported =
                    log.lines().any(|line| line.contains("ERROR") && line.contains("two clusters meet"));
                (is_reported && log.contains("correct the start-join-addrs")).then_some(())
            })
            .await;
        }
        // Neither cluster has lost data, and nothing is mixed.
        let servers = cluster.wait_members(0, "the list of members is complete", |_| true).await;
        assert!(voters_are(&servers, &ALL), "{servers:?}");
        let status =
            cluster.nodes[3].wait_status("it leads itself alone", |status| status.role == Role::Leader).await;
        assert_eq!(status.cluster_id, strangers_cluster);
        for (node, value) in [(0, "the cluster's"), (3, "the stranger's")] {
            let read = client_of_one(&cluster.nodes[node]).get("whose").await.unwrap();
            assert_eq!(read.entry.unwrap().value, value);
        }
        // Following the advice in the message: wiped, it joins.
        assert_eq!(cluster.nodes[3].terminate().await.code(), Some(0));
        start_wiped(&mut cluster.nodes[3]);
        let four = ["node-1", "node-2", "node-3", "node-4"];
        cluster.wait_members(0, "the wiped node joins", |servers| voters_are(servers, &four)).await;
        cluster.equal_state().await;
    });
}

fn client_of_one(node: &Node) -> Client {
    Client::builder().endpoints([&node.rpc]).timeout(common::cluster::PATIENCE).build().unwrap()
}

/// Starts a node with the command that most refusals recommend.
fn start_wiped(node: &mut Node) {
    let mut command = node.command();
    command.args(["--wipe", "--yes"]);
    node.start_as(command);
}

#[test]
fn a_deleted_log_is_refused_and_serve_wipe_restores_the_node_as_the_message_says() {
    run(async {
        let mut cluster = Cluster::start(&["replace-silence: 2s"]).await;
        set(&cluster.client(), "key", "value").await;
        let node = cluster.follower().await;
        cluster.nodes[node].kill();
        for file in data(&cluster.nodes[node].data_dir).keys() {
            std::fs::remove_file(cluster.nodes[node].data_dir.join(file)).unwrap();
        }
        let name = cluster.nodes[node].name.clone();
        let said = refuses_to_start(&mut cluster.nodes[node]).await;
        assert!(said.contains(&format!("'{name}' has lost its log")), "{said}");
        assert!(said.contains("mokv serve --wipe"), "{said}");
        start_wiped(&mut cluster.nodes[node]);
        cluster.nodes[node]
            .wait_status("the wiped node follows", |status| status.role == Role::Follower)
            .await;
        cluster.equal_state().await;
    });
}

#[test]
fn a_log_without_its_identity_is_refused() {
    run(async {
        let mut cluster = store_of_one(5).await;
        cluster.nodes[0].kill();
        let identity = cluster.nodes[0].data_dir.join("identity");
        let kept = std::fs::read(&identity).unwrap();
        std::fs::remove_file(&identity).unwrap();
        let before = data(&cluster.nodes[0].data_dir);
        let said = refuses_to_start(&mut cluster.nodes[0]).await;
        assert!(said.contains("a log and no identity") && said.contains("restore the file"), "{said}");
        assert_eq!(data(&cluster.nodes[0].data_dir), before);
        std::fs::write(&identity, kept).unwrap();
        cluster.start_all();
        assert_all_there(&cluster, 5).await;
    });
}

#[test]
fn a_flipped_bit_in_the_identity_is_refused() {
    run(async {
        let mut cluster = store_of_one(5).await;
        cluster.nodes[0].kill();
        let identity = cluster.nodes[0].data_dir.join("identity");
        let kept = std::fs::read(&identity).unwrap();
        let before = data(&cluster.nodes[0].data_dir);
        // In the magic number, in the header, in the middle, at the end.
        for at in [0, 9, kept.len() / 2, kept.len() - 1] {
            let mut damaged = kept.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&identity, &damaged).unwrap();
            let said = refuses_to_start(&mut cluster.nodes[0]).await;
            assert!(said.contains("identity"), "{said}");
            assert_eq!(std::fs::read(&identity).unwrap(), damaged, "the evidence is kept");
        }
        assert_eq!(data(&cluster.nodes[0].data_dir), before);
        std::fs::write(&identity, kept).unwrap();
        cluster.start_all();
        assert_all_there(&cluster, 5).await;
    });
}

#[test]
fn a_flipped_bit_in_the_middle_of_the_log_is_refused_with_file_and_offset() {
    run(async {
        let mut cluster = store_of_one(50).await;
        cluster.nodes[0].kill();
        let directory = cluster.nodes[0].data_dir.clone();
        let before = data(&directory);
        let (name, log) = before.last_key_value().map(|(name, bytes)| (name.clone(), bytes.clone())).unwrap();
        // A value in the middle: complete and durable batches are before and after it.
        let value = b"value 25";
        let at =
            log.windows(value.len()).position(|window| window == value).expect("the value is in the log");
        let mut damaged = log.clone();
        damaged[at] ^= 1;
        std::fs::write(directory.join(&name), &damaged).unwrap();
        let said = refuses_to_start(&mut cluster.nodes[0]).await;
        let offset: usize = {
            let (_, after) = said.split_once(&format!("'{name}' is corrupt at offset ")).expect(&said);
            after.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        assert!(offset <= at && at < offset + 200, "the damage is at {at}: {said}");
        assert!(said.contains("mokv serve --wipe"), "{said}");
        assert_eq!(std::fs::read(directory.join(&name)).unwrap(), damaged, "the evidence is kept");
        std::fs::write(directory.join(&name), log).unwrap();
        cluster.start_all();
        assert_all_there(&cluster, 50).await;
    });
}

/// The offset at which the records of a segment end and its preallocated zeros begin. A record has a header of 24 bytes
/// with the length of its body at offset 4, and begins at a multiple of 8.
fn end_of_records(log: &[u8]) -> usize {
    let mut end = 0;
    while log[end..end + 24].iter().any(|byte| *byte != 0) {
        let length = u32::from_le_bytes(log[end + 4..end + 8].try_into().unwrap()) as usize;
        end += (24 + length).next_multiple_of(8);
    }
    end
}

#[test]
fn a_torn_end_of_the_log_is_dropped_and_what_was_acknowledged_stays() {
    run(async {
        let mut cluster = store_of_one(20).await;
        cluster.nodes[0].kill();
        let (name, mut log) = data(&cluster.nodes[0].data_dir).pop_last().unwrap();
        // As if power had failed while the next batch was being written: half of a record.
        let end = end_of_records(&log);
        let torn = log[..40].to_vec();
        log[end..end + torn.len()].copy_from_slice(&torn);
        std::fs::write(cluster.nodes[0].data_dir.join(name), log).unwrap();
        cluster.start_all();
        assert_all_there(&cluster, 20).await;
        assert!(cluster.nodes[0].log().contains("dropped the torn end of the log"));
    });
}

#[test]
fn a_corrupt_node_of_three_is_refused_while_the_others_serve_and_heals_when_wiped() {
    run(async {
        let mut cluster = Cluster::start(&["replace-silence: 2s"]).await;
        let client = cluster.client();
        for number in 0..50 {
            set(&client, &format!("key-{number}"), &format!("value {number}")).await;
        }
        cluster.equal_state().await;
        let node = cluster.follower().await;
        cluster.nodes[node].kill();
        let (name, mut log) = data(&cluster.nodes[node].data_dir).pop_last().unwrap();
        let at = log.windows(8).position(|window| window == b"value 25").unwrap();
        log[at] ^= 1;
        std::fs::write(cluster.nodes[node].data_dir.join(&name), log).unwrap();
        let said = refuses_to_start(&mut cluster.nodes[node]).await;
        assert!(said.contains("is corrupt at offset"), "{said}");
        set(&client, "key-50", "value 50").await;
        start_wiped(&mut cluster.nodes[node]);
        cluster.nodes[node]
            .wait_status("the wiped node follows", |status| status.role == Role::Follower)
            .await;
        assert_all_there(&cluster, 51).await;
        cluster.equal_state().await;
    });
}

#[test]
fn commands_against_a_node_that_waits_for_its_cluster_report_that() {
    run(async {
        let mut cluster = Cluster::prepare(3, &[]);
        cluster.nodes[0].start();
        let mut kv = cluster.nodes[0].connect().await.kv();
        let refused = kv.get(Request::new(api::GetRequest { key: "key".into(), ..Default::default() })).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("belongs to no cluster"), "{refused}");
        let rpc = cluster.nodes[0].rpc.clone();
        let output =
            mokv::rt::spawn_blocking(move || mokv(&["get", "key", "--endpoints", &rpc, "--timeout", "1s"]));
        let output = output.await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(6), "not found would be 3: {said}");
        assert!(said.contains("error: ") && said.contains(" next: "), "{said}");
    });
}

#[test]
fn a_node_outlives_the_terminal_that_it_was_started_on() {
    run(async {
        let mut cluster = store_of_one(1).await;
        let before = cluster.nodes[0].status().await.unwrap().term;
        cluster.nodes[0].signal(rustix::process::Signal::HUP);
        set(&cluster.client(), "after", "all").await;
        assert_all_there(&cluster, 1).await;
        let term = cluster.nodes[0].status().await.unwrap().term;
        assert_eq!(term, before, "no new election was needed");
        assert!(cluster.nodes[0].terminate().await.success());
    });
}
