//! One port: the first bytes of a connection decide where it goes.
//!
//! `0x01` is a Raft peer, `PRI` is HTTP/2 and so gRPC. HTTP/1 is told where it is; anything else, and whoever says
//! nothing for a few seconds, is closed. What each may hold is decided in [`places`].

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

/// Whoever connects must say what he wants by then.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(5);
/// The kernel had no more file descriptors, say: accepting again at once would only burn the processor.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

const WRONG_PROTOCOL: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
    This port speaks gRPC (HTTP/2) and Raft. Metrics and health over HTTP/1 are on the metrics port.\n";

/// Where Raft peers go, once this node is part of a cluster.
pub struct PeerRoute {
    /// Who is let in.
    pub admission: Arc<PeerAdmission>,
    /// What is done for them.
    pub handler: Arc<PeerHandler>,
}

/// What a connection may need.
#[derive(Clone)]
pub struct Routes {
    /// For peers; `None` while the node belongs to no cluster.
    pub peers: watch::Receiver<Option<Arc<PeerRoute>>>,
    /// For clients.
    pub services: api::Services,
    /// How far the node's life has come.
    pub phase: watch::Receiver<Phase>,
    /// Where those are counted that find no place.
    pub metrics: Arc<Metrics>,
}

/// The places of a port.
struct Places {
    arrivals: Arc<Arrivals>,
    peers: Arc<Bound>,
    clients: Arc<Clients>,
    room: Room,
    metrics: Arc<Metrics>,
    told: Seldom,
}

impl Places {
    /// Counts a connection that is not served, and says so, but not of each one in a flood.
    fn turn_away(&self, turned: Turned, from: SocketAddr, why: String) {
        self.metrics.turned_away(turned);
        if let Some(more) = self.told.now() {
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
        told: Seldom::default(),
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
                                "refused for what was said on it: {error}{}; this port takes gRPC over HTTP/2 and peers",
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
    let (mut arrival, somebody_left) = places.arrivals.enter();
    if somebody_left {
        let most = places.room.arrivals;
        let why = format!("{most} have come that have not said what they are, and the oldest gives way");
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
                return Err(io::Error::other("a peer came before this node belongs to a cluster"));
            };
            let peer = tokio::select! {
                biased;
                met = server::meet(&mut stream, &entrance.admission) => met.map_err(io::Error::other)?,
                () = arrival.gives_way() => return Err(io::Error::other("it gave way to newer ones")),
            };
            drop(arrival);
            let Some(_place) = places.peers.take() else {
                let why = format!("peers hold {} connections already", places.room.peers);
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
                    "clients, or those of its address, hold as many as they may (max-connections, {} now)",
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

/// What the first bytes say.
async fn protocol(stream: &mut TcpStream) -> io::Result<Protocol> {
    let first = timeout(FIRST_BYTES_TIMEOUT, async {
        match stream.peek(1).await?.first().copied() {
            Some(peers::FIRST_BYTE) => Ok(Protocol::Peer),
            Some(byte) if byte.is_ascii_uppercase() => match stream.peek(3).await? {
                b"PRI" => Ok(Protocol::Http2),
                _ => Ok(Protocol::Http1),
            },
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "neither Raft nor HTTP/2")),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without a word")),
        }
    });
    first.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "said nothing"))?
}
