//! Ports that no other program takes, not even between two starts of the same node.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// Below the ephemeral range of operating systems, so that no outgoing connection takes one in the meantime.
const RANGE: std::ops::Range<u16> = 11_000..31_000;
/// The ports of a block, including the first, which is its lock.
const BLOCK: u16 = 20;

/// A block of ports. Test programs that run at the same time stay apart: each holds the first port of its block.
pub struct PortBlock {
    ticket: TcpListener,
    next: u16,
}

impl PortBlock {
    /// Takes a block.
    pub fn take() -> PortBlock {
        PortBlock::take_where(|_| true)
    }

    /// Takes a block whose first usable port satisfies `suits`.
    pub fn take_where(suits: impl Fn(u16) -> bool) -> PortBlock {
        let blocks = (RANGE.end - RANGE.start) / BLOCK;
        // Programs that run at the same time start searching in different places.
        let first = std::process::id() as u16 % blocks;
        let found = (0..blocks).map(|i| RANGE.start + (first + i) % blocks * BLOCK).find_map(|start| {
            let ticket = TcpListener::bind((Ipv4Addr::LOCALHOST, start)).ok()?;
            let fits = (start + 1..start + BLOCK).all(is_free) && suits(start + 1);
            fits.then_some(PortBlock { ticket, next: start + 1 })
        });
        found.expect("this machine has a block of free ports")
    }

    /// Its first usable port, handed out or not.
    pub fn first(&self) -> u16 {
        self.ticket.local_addr().expect("it is bound").port() + 1
    }

    /// The next port of the block.
    pub fn next(&mut self) -> u16 {
        assert!(self.next < self.first() + BLOCK - 1, "a block has {BLOCK} ports");
        self.next += 1;
        self.next - 1
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
