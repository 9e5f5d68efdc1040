//! The ports and the configuration file of every node of a development cluster. Pure: opens and starts nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;
use crate::cli::ports::{Port, Protocol};

/// The most nodes: more of them show nothing new about votes and quorums, and share one machine.
pub const MAX_NODES: u16 = 9;

/// How far the first metrics port lies below the first RPC port: 4000 for 8400.
const METRICS_BELOW_RPC: u16 = 4400;

/// Lower ports are reserved for the system.
const FIRST_USER_PORT: u16 = 1024;

/// A cluster on 127.0.0.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its nodes, node-1 first.
    pub nodes: Vec<NodePlan>,
}

/// One node of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// `node-1`, `node-2`, ...
    pub name: String,
    /// TCP, for clients and peers.
    pub rpc: SocketAddr,
    /// UDP.
    pub gossip: SocketAddr,
    /// TCP.
    pub metrics: SocketAddr,
    /// Its data directory, absolute.
    pub data_dir: PathBuf,
    /// Its configuration file, absolute.
    pub config_file: PathBuf,
    /// The file for its log lines, absolute.
    pub log_file: PathBuf,
}

impl Plan {
    /// Plans `nodes` nodes: RPC ports `base_port`, + 2, + 4, ..., each gossip port one above, metrics ports from
    /// `base_port` - 4400 in steps of 3 (from behind the gossip ports if that would be a system port).
    ///
    /// # Errors
    /// If the ports do not fit below 65536.
    pub fn new(data_dir: &Path, nodes: u16, base_port: u16) -> Result<Plan, Failure> {
        let behind_gossip = u32::from(base_port) + 2 * u32::from(nodes);
        let first_metrics = match base_port.checked_sub(METRICS_BELOW_RPC) {
            Some(port) if port >= FIRST_USER_PORT => u32::from(port),
            _ => behind_gossip,
        };
        let last = (first_metrics + 3 * u32::from(nodes - 1)).max(behind_gossip - 1);
        if last > u32::from(u16::MAX) {
            return Err(Failure::usage(
                format!("{nodes} nodes from port {base_port} need ports up to {last}"),
                "give a lower --base-port",
            ));
        }
        let address = |port: u32| {
            let port = u16::try_from(port).expect("the last port was checked");
            SocketAddr::from((Ipv4Addr::LOCALHOST, port))
        };
        let nodes = (0..u32::from(nodes)).map(|i| {
            let name = format!("node-{}", i + 1);
            NodePlan {
                rpc: address(u32::from(base_port) + 2 * i),
                gossip: address(u32::from(base_port) + 2 * i + 1),
                metrics: address(first_metrics + 3 * i),
                data_dir: data_dir.join(&name),
                config_file: data_dir.join(format!("{name}.yaml")),
                log_file: data_dir.join(format!("{name}.log")),
                name,
            }
        });
        Ok(Plan { nodes: nodes.collect() })
    }

    /// Returns all ports of all nodes.
    pub fn ports(&self) -> Vec<Port> {
        let ports = self.nodes.iter().flat_map(|node| {
            [
                (node.rpc, Protocol::Tcp, "rpc"),
                (node.gossip, Protocol::Udp, "gossip"),
                (node.metrics, Protocol::Tcp, "metrics"),
            ]
            .map(|(address, protocol, purpose)| Port {
                address,
                protocol,
                purpose: format!("{} {purpose}", node.name),
            })
        });
        ports.collect()
    }

    /// Returns the text of a node's configuration file.
    ///
    /// # Errors
    /// If the path of the data directory is not UTF-8, which YAML requires.
    pub fn config_text(&self, node: &NodePlan) -> Result<String, Failure> {
        let Some(data_dir) = node.data_dir.to_str() else {
            return Err(Failure::usage(
                format!("the path {} is not UTF-8", node.data_dir.display()),
                "give another --data-dir",
            ));
        };
        let join: String = self.nodes.iter().map(|other| format!("  - {}\n", other.gossip)).collect();
        Ok(format!(
            "# {name} of the cluster that 'mokv dev' runs on this machine. Written anew each time it starts.\n\
             # To run this node by itself: mokv serve --config-file {name}.yaml\n\
             node-name: {name}\n\
             data-dir: {data_dir}\n\
             bind-addr: {gossip}\n\
             rpc-port: {rpc}\n\
             metrics-port: {metrics}\n\
             # Form the cluster when this many nodes with empty directories know of each other.\n\
             bootstrap-expect: {count}\n\
             start-join-addrs:\n\
             {join}",
            name = node.name,
            // A JSON string is valid YAML.
            data_dir = serde_json::Value::from(data_dir),
            gossip = node.gossip,
            rpc = node.rpc.port(),
            metrics = node.metrics.port(),
            count = self.nodes.len(),
        ))
    }

    /// Returns the `--endpoints` flag for this cluster; empty if the default applies.
    pub fn endpoints_flag(&self) -> String {
        let first = self.nodes[0].rpc;
        if first.to_string() == crate::cli::connect::DEFAULT_ENDPOINT {
            return String::new();
        }
        format!(" --endpoints {first}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn ports(base_port: u16) -> Vec<[u16; 3]> {
        let plan = Plan::new(Path::new("/d"), 3, base_port).unwrap();
        plan.nodes.iter().map(|node| [node.rpc.port(), node.gossip.port(), node.metrics.port()]).collect()
    }

    #[test]
    fn the_default_ports_are_those_of_the_examples() {
        assert_eq!(ports(8400), [[8400, 8401, 4000], [8402, 8403, 4003], [8404, 8405, 4006]]);
    }

    #[test]
    fn another_base_port_moves_all_ports_and_none_meets_another() {
        assert_eq!(ports(18400)[0], [18400, 18401, 14000]);
        assert_eq!(ports(5423)[0], [5423, 5424, 5429], "1023 would be a system port");
        for base_port in [1024, 5424, 8400, 65510] {
            for nodes in [1, 3, MAX_NODES] {
                let Ok(plan) = Plan::new(Path::new("/d"), nodes, base_port) else { continue };
                let mut all: Vec<SocketAddr> = plan.ports().into_iter().map(|port| port.address).collect();
                let count = all.len();
                all.sort();
                all.dedup();
                assert_eq!((all.len(), count), (count, 3 * usize::from(nodes)), "{base_port} {nodes}");
            }
        }
    }

    #[test]
    fn ports_beyond_the_last_are_refused() {
        assert!(Plan::new(Path::new("/d"), 3, 65535).is_err());
        assert!(Plan::new(Path::new("/d"), 9, 65510).is_ok());
        assert!(Plan::new(Path::new("/d"), 9, 65519).is_err());
    }

    #[test]
    fn the_file_written_out_is_one_that_serve_reads() {
        let directory = tempfile::tempdir().unwrap();
        let odd = directory.path().join("a \"b\": #c");
        std::fs::create_dir(&odd).unwrap();
        let plan = Plan::new(&odd, 3, 8400).unwrap();
        let node = &plan.nodes[1];
        std::fs::write(&node.config_file, plan.config_text(node).unwrap()).unwrap();
        let file = node.config_file.to_str().unwrap().to_owned();
        let read = config::load(&config::flags([("config-file", vec![file])]), |_| None).unwrap();
        assert_eq!((read.node_name.as_str(), &read.data_dir), ("node-2", &node.data_dir));
        assert_eq!(
            (read.rpc_bind(), read.bind_addr, read.metrics_bind()),
            (node.rpc, node.gossip, node.metrics)
        );
        assert_eq!((read.bootstrap_expect, read.start_join_addrs.len(), read.bootstrap), (Some(3), 3, false));
    }
}
