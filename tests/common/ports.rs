//! Ports that nobody else takes, also not between two starts of the same node.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// Below what operating systems hand out by themselves, so that no outgoing connection takes one meanwhile.
const RANGE: std::ops::Range<u16> = 11_000..31_000;
/// How many ports belong together, with the one that is the ticket.
const BLOCK: u16 = 20;

/// A block of ports. Test programs that run at the same time keep out of each other's way by holding its ticket.
pub struct PortBlock {
    ticket: TcpListener,
    next: u16,
}

impl PortBlock {
    /// Takes a block.
    pub fn take() -> PortBlock {
        PortBlock::take_where(|_| true)
    }

    /// Takes a block whose first port suits.
    pub fn take_where(suits: impl Fn(u16) -> bool) -> PortBlock {
        let blocks = (RANGE.end - RANGE.start) / BLOCK;
        // Programs that run at the same time begin to look in different places.
        let first = std::process::id() as u16 % blocks;
        let found = (0..blocks).map(|i| RANGE.start + (first + i) % blocks * BLOCK).find_map(|start| {
            let ticket = TcpListener::bind((Ipv4Addr::LOCALHOST, start)).ok()?;
            let fits = (start + 1..start + BLOCK).all(is_free) && suits(start + 1);
            fits.then_some(PortBlock { ticket, next: start + 1 })
        });
        found.expect("this machine has a block of free ports")
    }

    /// Its first port, whether it was handed out or not.
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
