//! A cluster of nodes on this machine.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mokv::client::{Client, Member, MemberRole, NodeStatus, ReadOptions, Role};
use mokv_proto::api;
use mokv_proto::tonic::Code;
use tempfile::TempDir;

use super::node::Node;
use super::ports::PortBlock;
use super::wait_for;

/// A call of a test's client is retried through elections and restarts on a loaded machine for this long.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The names of three nodes.
pub const ALL: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Settings of every node in a test: small files, and little free disk space needed.
pub const SMALL_FILES: [&str; 3] =
    ["log-segment-bytes: 4MiB", "min-free-bytes: 1MiB", "log-cache-bytes: 1MiB"];

/// The settings of a node whose snapshots, and the purges that follow them, come often.
pub const MANY_SNAPSHOTS: &str = "snapshot-log-bytes: 8KiB\nsnapshot-log-max-bytes: 8KiB";

/// Clusters of one test program run one after the other: several at a time would cause elections by their load.
static TURN: Mutex<()> = Mutex::new(());

/// A cluster. Dropping it ends its processes and removes its files.
pub struct Cluster {
    // Dropped in this order: processes, files, ports, turn.
    pub nodes: Vec<Node>,
    directory: TempDir,
    ports: PortBlock,
    settings: Vec<String>,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Three nodes that form a cluster, with these lines in all configuration files. Waits until they have a leader.
    pub async fn start(settings: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(3, settings);
        cluster.start_all();
        cluster.leader().await;
        cluster
    }

    /// Nodes that will form one cluster. They are not started yet.
    pub fn prepare(size: usize, settings: &[&str]) -> Cluster {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cluster = Cluster {
            nodes: Vec::new(),
            directory: tempfile::tempdir().unwrap(),
            ports: PortBlock::take(),
            settings: settings.iter().map(|&line| line.to_owned()).collect(),
            _turn: turn,
        };
        for _ in 0..size {
            cluster.new_node();
        }
        for node in &cluster.nodes {
            cluster.configure(node, &[&format!("bootstrap-expect: {size}")]);
        }
        cluster
    }

    /// One more node, which joins through all others. It is not started yet.
    pub fn add_node(&mut self) -> usize {
        let new = self.new_node();
        self.configure(&self.nodes[new], &[]);
        new
    }

    fn new_node(&mut self) -> usize {
        let name = format!("node-{}", self.nodes.len() + 1);
        self.nodes.push(Node::new(self.directory.path(), &name, &mut self.ports));
        self.nodes.len() - 1
    }

    /// Writes a node's configuration file: the common settings, how it joins, and these lines.
    pub fn configure(&self, node: &Node, more: &[&str]) {
        let joins: Vec<&str> = self.nodes.iter().map(|node| node.gossip.as_str()).collect();
        let joins = format!("start-join-addrs: [{}]", joins.join(", "));
        let given = self.settings.iter().map(String::as_str);
        // A test may override a common setting: a key may occur only once in a file.
        let key = |line: &str| line.split(':').next().map(str::to_owned);
        let common = SMALL_FILES.into_iter().filter(|line| given.clone().all(|own| key(own) != key(line)));
        let lines: Vec<&str> =
            common.chain(given.clone()).chain([joins.as_str()]).chain(more.iter().copied()).collect();
        node.configure(&lines);
    }

    /// Starts every node that has no process.
    pub fn start_all(&mut self) {
        self.nodes.iter_mut().filter(|node| !node.is_started()).for_each(Node::start);
    }

    /// The path of a file beside the nodes' own files.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// The RPC addresses of all nodes.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.rpc.clone()).collect()
    }

    /// A client with a long time limit and all nodes as its addresses.
    pub fn client(&self) -> Client {
        Client::builder().endpoints(self.endpoints()).timeout(PATIENCE).build().unwrap()
    }

    fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_started())
    }

    /// Waits until one running node leads and all others follow it. Returns its index.
    pub async fn leader(&self) -> usize {
        wait_for("one node leads and the others know", async || {
            let statuses = self.statuses().await?;
            let leader = statuses.iter().max_by_key(|status| (status.role == Role::Leader, status.term))?;
            let follows = |status: &NodeStatus| {
                status.leader.as_ref().is_some_and(|known| known.node_id == leader.node_id)
            };
            let agreed = statuses.iter().all(|status| follows(status) && status.term == leader.term);
            (leader.role == Role::Leader && agreed)
                .then(|| self.nodes.iter().position(|node| node.name == leader.name))?
        })
        .await
    }

    /// Returns the index of a running node that is not the leader.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        let follows = |(i, node): (usize, &Node)| (i != leader && node.is_started()).then_some(i);
        self.nodes.iter().enumerate().find_map(follows).expect("more than one node runs")
    }

    /// The status of all running nodes; `None` if one does not answer.
    pub async fn statuses(&self) -> Option<Vec<NodeStatus>> {
        let mut statuses = Vec::new();
        for node in self.running() {
            statuses.push(node.status().await?);
        }
        Some(statuses)
    }

    /// Waits until all running nodes have applied the same entries and report digests, and compares their states.
    pub async fn equal_state(&self) -> NodeStatus {
        let same = wait_for("all nodes have applied the same", async || {
            let statuses = self.statuses().await?;
            let index = statuses.first()?.applied_index;
            let shows = |status: &NodeStatus| status.applied_index == index && status.digest.is_some();
            (index > 0 && statuses.iter().all(shows)).then_some(statuses)
        });
        let statuses = same.await;
        for status in &statuses {
            assert_eq!(status.digest, statuses[0].digest, "{} differs at the same index", status.name);
            assert!(!status.digest_alarm, "{} raises the alarm", status.name);
        }
        statuses.into_iter().next().expect("a node runs")
    }

    /// A linearizable read through one node, without retries.
    pub async fn get_from(&self, node: usize, key: &str) -> Result<Vec<u8>, Code> {
        let request =
            api::GetRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..api::GetRequest::default() };
        let answer = self.nodes[node].connect().await.kv().get(request).await;
        answer.map(|response| response.into_inner().value.to_vec()).map_err(|status| status.code())
    }

    /// Waits until the membership that `node` reports is as wanted.
    pub async fn wait_members(
        &self,
        node: usize,
        what: &str,
        wanted: impl Fn(&[Member]) -> bool,
    ) -> Vec<Member> {
        let asks = Client::builder().endpoints([&self.nodes[node].rpc]).build().unwrap();
        wait_for(what, async || {
            let members = asks.members_with(ReadOptions::stale()).await.ok()?;
            Some(members.members).filter(|members| wanted(members))
        })
        .await
    }
}

/// Writes a value. Returns its revision.
pub async fn set(client: &Client, key: &str, value: &str) -> u64 {
    client.set(key, value.to_owned()).await.unwrap().revision
}

/// Whether exactly these members vote.
pub fn voters_are(members: &[Member], names: &[&str]) -> bool {
    let voters = members.iter().filter(|member| member.role != MemberRole::Learner);
    let mut voters: Vec<&str> = voters.map(|member| member.name.as_str()).collect();
    voters.sort();
    voters == names && members.len() == names.len()
}
