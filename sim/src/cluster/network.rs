//! The simulated network: hosts with addresses and names, and the links between them that are cut.
//!
//! A cut has two parts: the simulator stops carrying packets, and the node's own TCP wrapper makes the simulator's TCP
//! behave like a kernel's over a cut link. Both are set here and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use madsim::net::NetSim;
use madsim::runtime::Handle;
use madsim::task::NodeId;
use mokv::rt::net::partition;

use crate::world::World;

/// Hosts and cuts.
#[derive(Default)]
pub struct Network {
    hosts: BTreeMap<String, (NodeId, IpAddr)>,
    /// Directions in which nothing arrives.
    cuts: BTreeSet<(String, String)>,
}

impl Network {
    /// Adds a host and its name `NAME.sim`.
    pub fn add(&mut self, name: &str, address: [u8; 4]) -> NodeId {
        let address = IpAddr::V4(Ipv4Addr::from(address));
        let id = Handle::current().create_node().name(name).ip(address).build().id();
        self.hosts.insert(name.to_owned(), (id, address));
        NetSim::current().add_dns_record(&dns_name(name), address);
        partition::set_address(id, address);
        id
    }

    /// The simulator's id of a host.
    pub fn id(&self, name: &str) -> NodeId {
        self.hosts[name].0
    }

    /// The present address of a host.
    pub fn address(&self, name: &str) -> IpAddr {
        self.hosts[name].1
    }

    /// Moves a host to another address. Nothing may run on it, and none of its links may be cut.
    pub fn move_to(&mut self, name: &str, address: [u8; 4]) {
        assert!(self.cuts.iter().all(|(from, to)| from != name && to != name), "heal {name}'s links first");
        let address = IpAddr::V4(Ipv4Addr::from(address));
        let host = self.hosts.get_mut(name).expect("the host exists");
        host.1 = address;
        NetSim::current().set_ip(host.0, address);
        NetSim::current().add_dns_record(&dns_name(name), address);
        partition::set_address(host.0, address);
    }

    /// Cuts or mends one direction of a link. Returns `true` if that changed anything.
    pub fn set_cut(&mut self, from: &str, to: &str, cut: bool) -> bool {
        let link = (from.to_owned(), to.to_owned());
        let changed = if cut { self.cuts.insert(link) } else { self.cuts.remove(&link) };
        if changed {
            let ((from, from_address), (to, to_address)) = (self.hosts[from], self.hosts[to]);
            if cut {
                NetSim::current().clog_link(from, to);
            } else {
                NetSim::current().unclog_link(from, to);
            }
            partition::set_cut(from_address, to_address, cut);
        }
        changed
    }

    /// The present addresses of all hosts.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.hosts.values().map(|(_, address)| *address).collect()
    }

    /// Mends all links. Returns those that were cut.
    pub fn heal(&mut self) -> BTreeSet<(String, String)> {
        let cuts = self.cuts.clone();
        for (from, to) in &cuts {
            self.set_cut(from, to, false);
        }
        cuts
    }
}

/// Applies the world's latencies and loss to the network.
pub fn apply(world: &World) {
    NetSim::current().update_config(|config| {
        config.send_latency = world.network_latency.clone();
        config.packet_loss_rate = world.packet_loss;
    });
}

/// The DNS name of a host.
pub fn dns_name(name: &str) -> String {
    format!("{name}.sim")
}
