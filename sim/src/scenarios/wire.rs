//! Bytes on the wire: clients really use TCP, and malformed input does not harm a node.

use std::sync::Arc;
use std::time::Duration;

use mokv::rt;
use mokv::rt::net::{TcpListener, TcpStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::setup::{ELECTION_BOUND, client, client_of, ensure, expect, set, set_many, three_nodes};
use crate::clients::SimClient;
use crate::cluster::network::dns_name;
use crate::cluster::{Cluster, RPC_PORT};
use crate::evidence::values;
use crate::record::Run;

/// One byte of an answer changes on its way: the value that arrives is not the value that was written, and the check
/// detects it. So real bytes travel, and the checkers see them.
pub async fn corrupted_byte(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, leader) = three_nodes(&run).await?;
    let client = client(&cluster);
    let (value, outcome) = client.set("key", None, 200).await;
    ensure(matches!(outcome, crate::evidence::history::Outcome::Ok(_)), || {
        format!("the write was {outcome:?}")
    })?;
    let (middle, _) = cluster.add_client_host();
    let target = format!("{}:{RPC_PORT}", dns_name(&leader));
    let address = (cluster.address(&middle), RPC_PORT).into();
    // In the middle of the value's bytes, which the answer holds as they are.
    let expected = values::encode(value, 200).slice(20..60);
    let forwarding = {
        let cluster = cluster.clone();
        rt::spawn(async move { cluster.on(&middle.clone(), forward(address, target, expected)).await })
    };
    let reader = SimClient::new(&cluster, &["c2".to_owned()], Duration::from_secs(5), false);
    for name in cluster.names() {
        cluster.cut(&name, reader.host());
        cluster.cut(reader.host(), &name);
    }
    let read = reader
        .with_library(|library| async move { library.get("key").await })
        .await
        .map_err(|error| format!("nothing came through the middle: {error}"))?;
    forwarding.abort();
    let bytes = read.entry.ok_or("the key is absent")?.value;
    ensure(values::decode(&bytes).is_none(), || {
        "a byte was changed and the value is the one written".into()
    })?;
    ensure(values::decode(&values::encode(value, 200)) == Some(value), || "the check cannot tell".into())?;
    Ok(cluster)
}

/// Forwards connections, and changes the first byte of `pattern` where it occurs in an answer.
async fn forward(address: std::net::SocketAddr, target: String, pattern: bytes::Bytes) {
    let Ok(listener) = TcpListener::bind(address).await else { return };
    while let Ok((client, _)) = listener.accept().await {
        let Ok(node) = TcpStream::connect(&target).await else { continue };
        let pattern = pattern.clone();
        rt::spawn(async move {
            let (mut from_client, mut to_client) = tokio::io::split(client);
            let (mut from_node, mut to_node) = tokio::io::split(node);
            rt::spawn(async move {
                let mut buffer = vec![0; 16 << 10];
                while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                    if to_node.write_all(&buffer[..length]).await.is_err() || to_node.flush().await.is_err() {
                        return;
                    }
                }
            });
            let mut buffer = vec![0; 16 << 10];
            while let Ok(length @ 1..) = from_node.read(&mut buffer).await {
                let bytes = &mut buffer[..length];
                if let Some(place) = bytes.windows(pattern.len()).position(|window| window == pattern) {
                    bytes[place] ^= 1;
                }
                if to_client.write_all(bytes).await.is_err() || to_client.flush().await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Garbage after the first byte of the peers' protocol, an HTTP/1 request, half a frame and then silence: the
/// connections end, the node goes on.
pub async fn nonsense(run: Arc<Run>) -> Result<Cluster, String> {
    let (cluster, _) = three_nodes(&run).await?;
    let client = client(&cluster);
    set_many(&client, 10).await?;
    let (host, _) = cluster.add_client_host();
    let huge_frame = [&[1u8][..], &u32::MAX.to_le_bytes(), &[7; 64]].concat();
    let half_a_frame = [&[1u8][..], &500u32.to_le_bytes(), &[7; 20]].concat();
    let texts: Vec<Vec<u8>> = vec![
        [&[1u8][..], &[0xff; 400]].concat(),
        huge_frame,
        half_a_frame,
        b"GET / HTTP/1.1\r\nHost: n1\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand then something else entirely".to_vec(),
        vec![1],
        Vec::new(),
    ];
    for text in &texts {
        for name in cluster.names() {
            let (address, text) = (format!("{}:{RPC_PORT}", dns_name(&name)), text.clone());
            run.fault("nonsense", format!("{} bytes of nonsense to {name}", text.len()));
            let heard = cluster.on(
                &host,
                rt::timeout(Duration::from_secs(60), async move {
                    let mut stream = TcpStream::connect(&address).await?;
                    stream.write_all(&text).await?;
                    stream.flush().await?;
                    let mut answer = Vec::new();
                    stream.read_to_end(&mut answer).await
                }),
            );
            let heard = heard.await;
            ensure(heard.is_ok(), || {
                format!("{name} kept a connection that says nothing of sense for a minute")
            })?;
        }
        set(&client, "key").await?;
    }
    for name in cluster.names() {
        let (value, _) = set(&client_of(&cluster, &name), "key").await?;
        expect(&client, "key", value).await?;
    }
    cluster.wait_for_leader(&cluster.names(), ELECTION_BOUND).await?;
    Ok(cluster)
}
