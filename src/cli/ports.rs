//! Which of the ports that are about to be used are taken, asked for all at once so that one message names all.

use std::net::SocketAddr;

use crate::rt::net::{TcpListener, UdpSocket};

/// What listens on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// RPC and metrics.
    Tcp,
    /// Gossip.
    Udp,
}

/// A port that a node is going to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Where.
    pub address: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// Whose and what for: "node-1 gossip".
    pub purpose: String,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = if self.protocol == Protocol::Udp { "/udp" } else { "" };
        write!(f, "{}{protocol} ({})", self.address, self.purpose)
    }
}

/// Those of `ports` that cannot be listened on, with the reason.
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
