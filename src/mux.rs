//! The multiplexer of the rpc port: the first bytes of a connection select its protocol.
//!
//! `0x01` is a Raft peer, `PRI` is HTTP/2 and so gRPC. An HTTP/1 client gets an error that names the metrics port. Any
//! other connection is closed, as is one that sends nothing within `FIRST_BYTES_TIMEOUT`. [`places`] bounds the
//! connections of each kind.

pub mod places;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::api;
use crate::bound::{Arrivals, Bound};
use crate::metrics::{Metrics, Turned};
use crate::raft::handler::PeerHandler;
use crate::raft::peers::{self, PeerAdmission, server};
use crate::rt::net::{TcpListener, TcpStream};
use crate::rt::time::Seldom;
use crate::rt::{self, timeout, watch};
use crate::service::Phase;

use places::{Clients, Room};

/// Time for the first bytes of a connection to arrive.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed `accept`, which may fail again at once, for example without a free file descriptor.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

const WRONG_PROTOCOL: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
    This port serves gRPC (HTTP/2) and Raft. Metrics and health over HTTP/1 are on the metrics port.\n";

/// The handlers of Raft peers, once this node is part of a cluster.
pub struct PeerRoute {
    /// Decides which peers to admit.
    pub admission: Arc<PeerAdmission>,
    /// Answers their requests.
    pub handler: Arc<PeerHandler>,
}

/// The handlers of all connections.
#[derive(Clone)]
pub struct Routes {
    /// The route of peers; `None` while the node belongs to no cluster.
    pub peers: watch::Receiver<Option<Arc<PeerRoute>>>,
    /// The services for clients.
    pub services: api::Services,
    /// The phase of the node's shutdown.
    pub phase: watch::Receiver<Phase>,
    /// Counts the connections that are refused.
    pub metrics: Arc<Metrics>,
}

/// The bounds on the connections of a port.
struct Places {
    arrivals: Arc<Arrivals>,
    peers: Arc<Bound>,
    clients: Arc<Clients>,
    room: Room,
    metrics: Arc<Metrics>,
    log_limit: Seldom,
}

impl Places {
    /// Counts a connection that is refused, and logs a warning; of many within a short time only some are logged.
    fn turn_away(&self, turned: Turned, from: SocketAddr, why: String) {
        self.metrics.turned_away(turned);
        if let Some(more) = self.log_limit.now() {
            tracing::warn!(%from, more, "connection ended: {why}");
        }
    }
}

/// Accepts connections until the node stops.
pub async fn serve(listener: TcpListener, routes: Routes, room: Room) {
    let places = Arc::new(Places {
        arrivals: Arrivals::new(room.arrivals),
        peers: Bound::new(room.peers),
        clients: Clients::new(&room),
        room,
        metrics: routes.metrics.clone(),
        log_limit: Seldom::default(),
    });
    let failed = Seldom::default();
    let mut phase = routes.phase.clone();
    let mut stopped = std::pin::pin!(phase.wait_for(|phase| *phase == Phase::Stopped));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let (routes, places) = (routes.clone(), places.clone());
                rt::spawn(async move {
                    if let Err(error) = route(stream, from, routes, &places).await {
                        if error.kind() == io::ErrorKind::InvalidData {
                            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                            let why = format!(
                                "it breaks the protocol: {error}{}; this port serves gRPC over HTTP/2 and Raft peers",
                                cause.unwrap_or_default()
                            );
                            places.turn_away(Turned::Protocol, from, why);
                        }
                        tracing::debug!(%from, "connection ended: {error}");
                    }
                });
            }
            Err(error) => {
                if let Some(more) = failed.now() {
                    tracing::warn!(more, "cannot accept a connection: {error}");
                }
                rt::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn route(
    mut stream: TcpStream,
    from: SocketAddr,
    mut routes: Routes,
    places: &Places,
) -> io::Result<()> {
    let (mut arrival, has_displaced) = places.arrivals.enter();
    if has_displaced {
        let most = places.room.arrivals;
        let why =
            format!("{most} connections have not sent their first bytes; a new one replaces the oldest");
        places.turn_away(Turned::Arrival, from, why);
    }
    let protocol = tokio::select! {
        biased;
        protocol = protocol(&mut stream) => protocol?,
        () = arrival.gives_way() => return Err(io::Error::other("it gave way to newer ones")),
    };
    match protocol {
        Protocol::Peer => {
            let entrance = routes.peers.borrow().clone();
            let Some(entrance) = entrance else {
                return Err(io::Error::other("a peer connected before this node belongs to a cluster"));
            };
            let peer = tokio::select! {
                biased;
                met = server::meet(&mut stream, &entrance.admission) => met.map_err(io::Error::other)?,
                () = arrival.gives_way() => return Err(io::Error::other("it gave way to newer ones")),
            };
            drop(arrival);
            let Some(_place) = places.peers.take() else {
                let why = format!("peers hold {} connections, which is the bound", places.room.peers);
                places.turn_away(Turned::Peer, from, why);
                return Ok(());
            };
            until_stopped(&mut routes.phase, async {
                let served = server::serve(stream, peer, &entrance.admission, entrance.handler.clone()).await;
                served.map_err(io::Error::other)
            })
            .await
        }
        Protocol::Http2 => {
            drop(arrival);
            let Some(place) = places.clients.enter(from.ip()) else {
                let why = format!(
                    "all clients, or those of its address, hold all connections they may (max-connections, {} now)",
                    places.room.clients
                );
                places.turn_away(Turned::Client, from, why);
                return Ok(());
            };
            api::serve_connection(stream, routes.services, place.kind(), routes.phase).await
        }
        Protocol::Http1 => {
            stream.write_all(WRONG_PROTOCOL.as_bytes()).await?;
            stream.flush().await?;
            stream.shutdown().await
        }
    }
}

async fn until_stopped(
    phase: &mut watch::Receiver<Phase>,
    served: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    tokio::select! {
        biased;
        _ = phase.wait_for(|phase| *phase == Phase::Stopped) => Ok(()),
        ended = served => ended,
    }
}

enum Protocol {
    Peer,
    Http2,
    Http1,
}

/// Reads the first bytes of a connection, and returns its protocol.
async fn protocol(stream: &mut TcpStream) -> io::Result<Protocol> {
    let first = timeout(FIRST_BYTES_TIMEOUT, async {
        match stream.peek(1).await?.first().copied() {
            Some(peers::FIRST_BYTE) => Ok(Protocol::Peer),
            Some(byte) if byte.is_ascii_uppercase() => match stream.peek(3).await? {
                b"PRI" => Ok(Protocol::Http2),
                _ => Ok(Protocol::Http1),
            },
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "neither Raft nor HTTP/2")),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before its first byte")),
        }
    });
    first
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the first bytes did not arrive in time"))?
}
