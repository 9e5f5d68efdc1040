//! Tools for tampering. The data on a stopped node's disk is rewritten by the product's own log, so that every checksum
//! fits and only the meaning is wrong. And an outside node uses the peers' protocol.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mokv::client::NodeStatus;
use mokv::node_id::NodeId;
use mokv::positions::Positions;
use mokv::raft::peers::{AddressBook, Link, LocalNode, PeerAdmission, Peers};
use mokv::raft::wire::decode_vote;
use mokv::rt::net::Resolver;
use mokv::storage::{Log, LogConfig, LogEntry, Owner};
use mokv_proto::raft::Channel;

use super::network::dns_name;
use super::{Cluster, Power, RPC_PORT};

/// The node id of a node that is no member.
pub const STRANGER: NodeId = NodeId(0xbad);

/// Rewrites a stopped node's log: `change` gets its entries, and from the first difference on the result replaces them.
/// `status` is the node's last status.
pub async fn rewrite_log(
    cluster: &Cluster,
    status: &NodeStatus,
    change: impl FnOnce(&mut Vec<LogEntry>),
) -> Result<(), String> {
    let node = &status.name;
    let words = |error: mokv::storage::StorageError| format!("{node}'s log cannot be rewritten: {error}");
    let log = open_log(cluster, status).await?;
    let state = log.state();
    let first = state.purged.map_or(1, |purged| purged.index + 1);
    let end = state.last.map_or(first, |last| last.index + 1);
    let before = log.read(first..end, u64::MAX).await.map_err(words)?;
    let mut after = before.clone();
    change(&mut after);
    let kept = before.iter().zip(&after).take_while(|(one, other)| one == other).count();
    let last_kept = before[..kept].last().map(|entry| entry.index);
    log.truncate_after(last_kept).await.map_err(words)?;
    if let (Some(last), Some(committed)) = (after.last(), state.committed) {
        // No commit index beyond the end of the log.
        log.save_committed(committed.min(last.position()));
    }
    let (durable, is_durable) = tokio::sync::oneshot::channel();
    let rest = after.split_off(kept);
    if !rest.is_empty() {
        log.append(rest, |result| drop(durable.send(result))).map_err(words)?;
        is_durable.await.map_err(|_| "the log has ended")?.map_err(words)?;
    }
    cluster.tampered(node);
    log.close().await.map_err(words)
}

/// The term of the vote in a stopped node's log, as its own recovery finds it; 0 if there is none.
pub async fn saved_term(cluster: &Cluster, status: &NodeStatus) -> Result<u64, String> {
    let log = open_log(cluster, status).await?;
    let vote = log.state().vote;
    log.close().await.map_err(|error| error.to_string())?;
    let vote = vote.map(|bytes| decode_vote(&bytes)).transpose();
    Ok(vote.map_err(|error| error.to_string())?.map_or(0, |vote| vote.leader_id.term))
}

/// Removes the members' acknowledged positions from a stopped node's log.
pub async fn forget_acknowledged(cluster: &Cluster, status: &NodeStatus) -> Result<(), String> {
    let words =
        |error: mokv::storage::StorageError| format!("{}'s log cannot be rewritten: {error}", status.name);
    let log = open_log(cluster, status).await?;
    log.save_acknowledged(Bytes::new());
    // It is written with the next record, here the vote.
    if let Some(vote) = log.state().vote {
        log.save_vote(vote).await.map_err(words)?;
    }
    cluster.tampered(&status.name);
    log.close().await.map_err(words)
}

async fn open_log(cluster: &Cluster, status: &NodeStatus) -> Result<Log, String> {
    let node = &status.name;
    assert_eq!(cluster.power(node), Power::Off, "{node} uses its log");
    let owner = Owner { node_id: status.node_id, cluster_id: cluster_id(status) };
    let config = LogConfig { segment_bytes: 256 << 10, reserve_bytes: 0, ..LogConfig::default() };
    let log = Log::open(cluster.disk(node).mount(), config, owner).await;
    log.map_err(|error| format!("{node}'s log cannot be opened: {error}"))
}

/// A link to a node from a node that is no member but names the right cluster.
pub fn stranger(status: &NodeStatus) -> Arc<Link> {
    let local = LocalNode {
        cluster_id: cluster_id(status),
        node_id: STRANGER,
        name: "stranger".into(),
        boot: 1,
        incarnation: 1,
        past: Vec::new(),
        starts: Vec::new(),
        supports: 1,
        key: None,
    };
    let address = format!("{}:{RPC_PORT}", dns_name(&status.name));
    let peers = Peers::new(
        Arc::new(PeerAdmission::new(local, BTreeMap::new(), Positions::default(), |_| false)),
        Arc::new(OnePlace(address)),
        Resolver::default(),
    );
    peers.link(status.node_id, Channel::Forward)
}

struct OnePlace(String);

impl AddressBook for OnePlace {
    fn addresses(&self, _node_id: NodeId) -> Vec<String> {
        vec![self.0.clone()]
    }

    fn member_name(&self, _node_id: NodeId) -> Option<String> {
        None
    }

    fn has_successor(&self, _node_id: NodeId, _name: &str) -> bool {
        false
    }
}

fn cluster_id(status: &NodeStatus) -> [u8; 16] {
    let id = status.cluster_id.as_deref().expect("the node has a cluster");
    let id = u128::from_str_radix(id, 16).expect("a status names its cluster in hexadecimal");
    id.to_be_bytes()
}
