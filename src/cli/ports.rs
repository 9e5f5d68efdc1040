//! Finds the ports that are in use before a start, all at once, so that one message names them all.

use std::net::SocketAddr;

use crate::rt::net::{TcpListener, UdpSocket};

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// RPC and metrics.
    Tcp,
    /// Gossip.
    Udp,
}

/// A port that a node will listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its address.
    pub address: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// The node and the purpose: "node-1 gossip".
    pub purpose: String,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = if self.protocol == Protocol::Udp { "/udp" } else { "" };
        write!(f, "{}{protocol} ({})", self.address, self.purpose)
    }
}

/// Returns the ports that cannot be listened on, each with the error.
pub async fn unavailable(ports: &[Port]) -> Vec<(Port, std::io::Error)> {
    let mut taken = Vec::new();
    for port in ports {
        let tried = match port.protocol {
            Protocol::Tcp => TcpListener::bind(port.address).await.map(drop),
            Protocol::Udp => UdpSocket::bind(port.address).await.map(drop),
        };
        if let Err(error) = tried {
            taken.push((port.clone(), error));
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ports_in_use_are_named_and_free_ones_are_not() {
        crate::rt::process::block_on(async {
            let tcp = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let udp = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let port =
                |address, protocol, purpose: &str| Port { address, protocol, purpose: purpose.to_owned() };
            let taken_tcp = port(tcp.local_addr().unwrap(), Protocol::Tcp, "n rpc");
            let taken_udp = port(udp.local_addr().unwrap(), Protocol::Udp, "n gossip");
            let free = port("127.0.0.1:0".parse().unwrap(), Protocol::Tcp, "n metrics");
            let found = unavailable(&[taken_tcp.clone(), free, taken_udp.clone()]).await;
            let found: Vec<Port> = found.into_iter().map(|(port, _)| port).collect();
            assert_eq!(found, [taken_tcp, taken_udp]);
        })
        .unwrap();
    }
}
