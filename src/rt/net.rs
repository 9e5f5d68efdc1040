//! TCP, UDP and name resolution.
//!
//! The simulator's TCP differs from a kernel's in ways that would make tests of a node misleading: empty flushes send
//! packets, connections over a cut link are refused at once, ends of streams pass through partitions. The wrappers here
//! make both behave alike.

#[cfg(madsim)]
pub mod link_faults;
mod race;
mod resolver;

pub use resolver::Resolver;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Looks up the addresses of `host:port` once, in the system's order of preference. Not bounded in time.
async fn lookup(host_port: &str) -> io::Result<Vec<SocketAddr>> {
    world::wait_for_name_server().await;
    let mut addresses = Vec::new();
    for address in tokio::net::lookup_host(host_port).await? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("'{host_port}' resolves to no address")));
    }
    Ok(addresses)
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::new(world::connect(address).await?)
}

/// Listens for TCP connections.
pub struct TcpListener(tokio::net::TcpListener);

impl TcpListener {
    /// Listens on `address`.
    ///
    /// # Errors
    /// If the address is in use or not of this machine.
    pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        tokio::net::TcpListener::bind(address).await.map(TcpListener)
    }

    /// The next connection and the peer's address.
    ///
    /// # Errors
    /// If the kernel has no more file descriptors, among others: the caller tries again a little later.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((TcpStream::new(stream)?, peer))
    }

    /// The local address.
    ///
    /// # Errors
    /// If the kernel does not report it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A TCP connection whose next bytes can be read ahead.
pub struct TcpStream {
    stream: tokio::net::TcpStream,
    /// Bytes read ahead by [`TcpStream::peek`] and not yet delivered.
    peeked: Vec<u8>,
    /// Whether bytes were written since the last flush. The simulator sends a packet at every flush, even an empty one,
    /// and two HTTP/2 peers would answer each other's packets for ever.
    dirty: bool,
    link: world::Link,
}

impl TcpStream {
    fn new(stream: tokio::net::TcpStream) -> io::Result<TcpStream> {
        stream.set_nodelay(true)?;
        let link = world::Link::new(&stream)?;
        Ok(TcpStream { stream, peeked: Vec::new(), dirty: false, link })
    }

    /// Connects to `host:port` once. A caller that connects repeatedly keeps a [`Resolver`]. Not bounded in time: use a
    /// timeout.
    ///
    /// # Errors
    /// If the name does not resolve, or no address answers; then the last address's error.
    pub async fn connect(host_port: &str) -> io::Result<TcpStream> {
        Resolver::default().connect(host_port).await
    }

    /// Waits for the next `count` bytes, or fewer at the end of the stream. They can still be read afterwards.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        let mut peeked = std::mem::take(&mut self.peeked);
        while peeked.len() < count {
            let mut ahead = (&mut *self).take((count - peeked.len()) as u64);
            if ahead.read_buf(&mut peeked).await? == 0 {
                break;
            }
        }
        self.peeked = peeked;
        Ok(&self.peeked)
    }

    /// The peer's address.
    ///
    /// # Errors
    /// If the connection is closed.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !self.peeked.is_empty() {
            let count = self.peeked.len().min(buf.remaining());
            buf.put_slice(&self.peeked[..count]);
            self.peeked.drain(..count);
            return Poll::Ready(Ok(()));
        }
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(this.link.poll_readable(cx))?;
        let result = ready!(this.link.poll_read(&mut this.stream, cx, buf));
        if result.is_ok() && buf.filled().len() == before {
            // A partition delays the end of the stream like everything else.
            ready!(this.link.poll_end(cx));
        }
        this.link.record_read(&buf.filled()[before..]);
        Poll::Ready(result)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.link.check()?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.dirty = true;
        self.link.record_write(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if cfg!(madsim) {
            // One slice at a time, so that the bytes are recorded in the trace.
            let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return self.poll_write(cx, first);
        }
        self.dirty = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.dirty {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.dirty = false;
        match result {
            // A reset does not pass over a cut link either: the sender detects the failure only by its own timeouts.
            Err(_) if self.link.is_cut_outwards() => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The simulator's shutdown does not even flush.
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A UDP socket.
pub struct UdpSocket {
    socket: tokio::net::UdpSocket,
    overtaken: world::Overtaken,
}

impl UdpSocket {
    /// Binds to `address`.
    ///
    /// # Errors
    /// If the address is in use or not of this machine.
    pub async fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = tokio::net::UdpSocket::bind(address).await?;
        Ok(UdpSocket { socket, overtaken: world::Overtaken::default() })
    }

    /// The local address.
    ///
    /// # Errors
    /// If the kernel does not report it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// If the kernel rejects it; a datagram that gets lost is no error.
    #[allow(clippy::let_unit_value, clippy::unit_arg)] // The simulator's send_to returns nothing.
    pub async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        world::record_datagram("udp-send", to, datagram);
        world::send_to(&self.socket, &self.overtaken, datagram, to).await
    }

    /// Receives one datagram into `buffer`. Returns its length and the sender's address.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (length, from) = self.socket.recv_from(buffer).await?;
        world::record_datagram("udp-receive", from, &buffer[..length]);
        Ok((length, from))
    }
}

#[cfg(not(madsim))]
mod world {
    use super::*;

    /// A kernel's connection needs no additions.
    pub(super) struct Link;

    impl Link {
        pub(super) fn new(_stream: &tokio::net::TcpStream) -> io::Result<Link> {
            Ok(Link)
        }

        pub(super) fn check(&self) -> io::Result<()> {
            Ok(())
        }

        pub(super) fn poll_readable(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        pub(super) fn poll_read(
            &mut self,
            stream: &mut tokio::net::TcpStream,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(stream).poll_read(cx, buf)
        }

        pub(super) fn poll_end(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }

        pub(super) fn is_cut_outwards(&self) -> bool {
            false
        }

        pub(super) fn record_read(&self, _bytes: &[u8]) {}

        pub(super) fn record_write(&self, _bytes: &[u8]) {}
    }

    /// The system's resolver takes its own time.
    pub(super) async fn wait_for_name_server() {}

    pub(super) async fn connect(address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        tokio::net::TcpStream::connect(address).await
    }

    /// Empty: the network reorders datagrams by itself.
    #[derive(Default)]
    pub(super) struct Overtaken(());

    pub(super) async fn send_to(
        socket: &tokio::net::UdpSocket,
        _overtaken: &Overtaken,
        datagram: &[u8],
        to: SocketAddr,
    ) -> io::Result<()> {
        socket.send_to(datagram, to).await.map(|_| ())
    }

    pub(super) fn record_datagram(_kind: &'static str, _peer: SocketAddr, _datagram: &[u8]) {}
}

#[cfg(madsim)]
mod world {
    use super::link_faults::{self, Fate};
    use super::partition::is_cut;
    use super::*;
    use crate::rt::lock::Mutex;
    use crate::rt::{Instant, now, sleep, sleep_until, time::Sleep, trace};
    use std::collections::VecDeque;
    use std::future::Future;
    use std::net::IpAddr;
    use std::time::Duration;

    const POLL_CUT: Duration = Duration::from_millis(20);
    /// Bytes read at a time from a slow link, and the maximum number of such chunks in transit.
    const CHUNK_BYTES: usize = 16 << 10;
    const MOST_CHUNKS: usize = 64;

    /// The addresses of a simulated connection, and its link faults.
    pub(super) struct Link {
        me: SocketAddr,
        peer: SocketAddr,
        held: Option<Sleep>,
        /// Number of resets between the two hosts before this connection was made.
        resets: u64,
        /// The chunks in transit over a slow link, with their time of arrival. The last may be the end of the stream.
        late: VecDeque<(Instant, io::Result<Vec<u8>>)>,
        alarm: Option<Sleep>,
        has_ended: bool,
    }

    impl Link {
        pub(super) fn new(stream: &tokio::net::TcpStream) -> io::Result<Link> {
            let (me, peer) = (stream.local_addr()?, stream.peer_addr()?);
            let resets = link_faults::resets(me.ip(), peer.ip());
            let late = VecDeque::new();
            Ok(Link { me, peer, held: None, resets, late, alarm: None, has_ended: false })
        }

        /// An error if the connection was reset.
        pub(super) fn check(&self) -> io::Result<()> {
            if link_faults::resets(self.me.ip(), self.peer.ip()) == self.resets {
                return Ok(());
            }
            trace::record("tcp-reset", &endpoint(self.peer));
            Err(io::ErrorKind::ConnectionReset.into())
        }

        pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.check()?;
            // While an end of stream is delayed the stream is not read again.
            if self.held.is_some() { self.poll_end(cx).map(Ok) } else { Poll::Ready(Ok(())) }
        }

        pub(super) fn poll_read(
            &mut self,
            stream: &mut tokio::net::TcpStream,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let delay = link_faults::delay(self.peer.ip(), self.me.ip());
            if delay.is_zero() && self.late.is_empty() && !self.has_ended {
                let result = ready!(Pin::new(stream).poll_read(cx, buf));
                // A reset connection delivers nothing that was still in transit.
                return Poll::Ready(self.check().and(result));
            }
            while !self.has_ended && self.late.len() < MOST_CHUNKS {
                let mut chunk = vec![0; CHUNK_BYTES];
                let mut read = ReadBuf::new(&mut chunk);
                let Poll::Ready(result) = Pin::new(&mut *stream).poll_read(cx, &mut read) else { break };
                let bytes = read.filled().to_vec();
                self.has_ended = bytes.is_empty();
                self.late.push_back((now() + delay, result.map(|()| bytes)));
            }
            let Some((due, _)) = self.late.front() else {
                return if self.has_ended { Poll::Ready(Ok(())) } else { Poll::Pending };
            };
            if *due > now() {
                let alarm = self.alarm.get_or_insert_with(|| sleep_until(*due));
                ready!(Pin::new(alarm).poll(cx));
            }
            self.alarm = None;
            self.check()?;
            let (due, arrived) = self.late.pop_front().expect("it was looked at");
            let mut bytes = arrived?;
            let rest = bytes.split_off(bytes.len().min(buf.remaining()));
            buf.put_slice(&bytes);
            if !rest.is_empty() {
                self.late.push_front((due, Ok(rest)));
            }
            Poll::Ready(Ok(()))
        }

        pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            while is_cut(self.peer.ip(), self.me.ip()) {
                let held = self.held.get_or_insert_with(|| sleep(POLL_CUT));
                ready!(Pin::new(held).poll(cx));
                self.held = None;
            }
            self.held = None;
            Poll::Ready(())
        }

        pub(super) fn is_cut_outwards(&self) -> bool {
            is_cut(self.me.ip(), self.peer.ip())
        }

        pub(super) fn record_read(&self, bytes: &[u8]) {
            record("tcp-read", self.me, self.peer, bytes);
        }

        pub(super) fn record_write(&self, bytes: &[u8]) {
            record("tcp-write", self.me, self.peer, bytes);
        }
    }

    fn record(kind: &'static str, me: SocketAddr, peer: SocketAddr, bytes: &[u8]) {
        let mut ends = [0; 12];
        ends[..6].copy_from_slice(&endpoint(me));
        ends[6..].copy_from_slice(&endpoint(peer));
        trace::record_of(kind, &ends, bytes);
    }

    fn endpoint(address: SocketAddr) -> [u8; 6] {
        let mut bytes = [0; 6];
        if let IpAddr::V4(ip) = address.ip() {
            bytes[..4].copy_from_slice(&ip.octets());
        }
        bytes[4..].copy_from_slice(&address.port().to_le_bytes());
        bytes
    }

    pub(super) async fn wait_for_name_server() {
        let delay = link_faults::name_server_delay();
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }

    pub(super) async fn connect(address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        loop {
            let result = tokio::net::TcpStream::connect(address).await;
            trace::record("tcp-connect", &endpoint(address));
            let me = super::partition::own_address();
            match result {
                // A kernel receives no answer over a cut link and keeps trying.
                Err(_) if me.is_some_and(|me| is_cut(me, address.ip()) || is_cut(address.ip(), me)) => {
                    sleep(POLL_CUT).await;
                }
                result => return result,
            }
        }
    }

    /// A datagram that is sent only after the next one.
    #[derive(Default)]
    pub(super) struct Overtaken(Mutex<Option<(Vec<u8>, SocketAddr)>>);

    impl Overtaken {
        fn replace(&self, datagram: Option<(Vec<u8>, SocketAddr)>) -> Option<(Vec<u8>, SocketAddr)> {
            std::mem::replace(&mut *self.0.lock(), datagram)
        }
    }

    pub(super) async fn send_to(
        socket: &tokio::net::UdpSocket,
        overtaken: &Overtaken,
        datagram: &[u8],
        to: SocketAddr,
    ) -> io::Result<()> {
        let fate = link_faults::fate();
        let waits = fate == Fate::Overtaken;
        let earlier = overtaken.replace(waits.then(|| (datagram.to_vec(), to)));
        let times = match fate {
            Fate::Lost | Fate::Overtaken => 0,
            Fate::Once => 1,
            Fate::Twice => 2,
        };
        // The simulator returns an error if no socket listens; a real datagram would just be lost.
        for _ in 0..times {
            let _ = socket.send_to(to, datagram).await;
        }
        if let Some((datagram, to)) = earlier {
            let _ = socket.send_to(to, &datagram).await;
        }
        Ok(())
    }

    pub(super) fn record_datagram(kind: &'static str, peer: SocketAddr, datagram: &[u8]) {
        trace::record_of(kind, &endpoint(peer), datagram);
    }
}

/// The cut links of the simulation. The harness sets them here as well as in the simulator, which does not expose them.
#[cfg(madsim)]
pub mod partition {
    use madsim::task::NodeId;
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;

    #[derive(Default)]
    struct State {
        cut: BTreeSet<(IpAddr, IpAddr)>,
        addresses: BTreeMap<NodeId, IpAddr>,
    }

    thread_local!(static STATE: RefCell<State> = RefCell::default());

    /// Sets the address of a simulated host.
    pub fn set_address(node: NodeId, address: IpAddr) {
        STATE.with_borrow_mut(|state| state.addresses.insert(node, address));
    }

    /// Cuts or restores one direction of a link.
    pub fn set_cut(from: IpAddr, to: IpAddr, cut: bool) {
        STATE.with_borrow_mut(|state| {
            if cut {
                state.cut.insert((from, to))
            } else {
                state.cut.remove(&(from, to))
            };
        });
    }

    /// Whether packets from `from` to `to` are dropped.
    pub fn is_cut(from: IpAddr, to: IpAddr) -> bool {
        STATE.with_borrow(|state| state.cut.contains(&(from, to)))
    }

    pub(super) fn own_address() -> Option<IpAddr> {
        STATE.with_borrow(|state| state.addresses.get(&madsim::plugin::node()).copied())
    }
}
