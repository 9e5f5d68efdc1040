//! One port: the first bytes of a connection decide where it goes.
//!
//! `0x01` is a Raft peer, `PRI` is HTTP/2 and so gRPC. HTTP/1 is told where it is; anything else, and whoever says
//! nothing for a few seconds, is closed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use crate::grpc;
use crate::raft::handler::PeerHandler;
use crate::raft::peers::{self, Gate};
use crate::rt::net::{TcpListener, TcpStream};
use crate::rt::{self, timeout, watch};

/// Whoever connects must say what he wants by then.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(5);
/// The kernel had no more file descriptors, say: accepting again at once would only burn the processor.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Open connections at a time, peers and clients together: enough for any client, and a bound on memory.
pub const MAX_CONNECTIONS: usize = 16 << 10;

const WRONG_PROTOCOL: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
    This port speaks gRPC (HTTP/2) and Raft. Metrics and health over HTTP/1 are on the metrics port.\n";

/// How far a node's life has come, for its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everybody is served.
    Serving,
    /// Clients finish what they asked for and are turned away; peers are served, or nothing would finish.
    Draining,
    /// All connections end.
    Stopped,
}

/// Where Raft peers go, once this node is part of a cluster.
pub struct PeerEntrance {
    /// Who is let in.
    pub gate: Arc<Gate>,
    /// What is done for them.
    pub handler: Arc<PeerHandler>,
}

/// What a connection may need.
#[derive(Clone)]
pub struct Entrances {
    /// For peers; `None` while the node belongs to no cluster.
    pub peers: watch::Receiver<Option<Arc<PeerEntrance>>>,
    /// For clients.
    pub services: grpc::Services,
    /// How far the node's life has come.
    pub phase: watch::Receiver<Phase>,
}

/// Accepts connections until the node stops.
pub async fn serve(listener: TcpListener, entrances: Entrances) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut phase = entrances.phase.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                rt::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(%from, "connection refused: {MAX_CONNECTIONS} are open");
            continue;
        };
        let entrances = entrances.clone();
        rt::spawn(async move {
            let _place = place;
            if let Err(error) = route(stream, entrances).await {
                tracing::debug!(%from, "connection ended: {error}");
            }
        });
    }
}

async fn route(mut stream: TcpStream, mut entrances: Entrances) -> io::Result<()> {
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
    let silent = || io::Error::new(io::ErrorKind::TimedOut, "said nothing");
    match first.await.map_err(|_| silent())?? {
        Protocol::Peer => {
            let entrance = entrances.peers.borrow().clone();
            let Some(entrance) = entrance else {
                return Err(io::Error::other("a peer came before this node belongs to a cluster"));
            };
            tokio::select! {
                biased;
                _ = entrances.phase.wait_for(|phase| *phase == Phase::Stopped) => Ok(()),
                ended = peers::serve(stream, &entrance.gate, entrance.handler.clone()) => {
                    ended.map_err(io::Error::other)
                }
            }
        }
        Protocol::Http2 => grpc::serve_connection(stream, entrances.services, entrances.phase).await,
        Protocol::Http1 => {
            stream.write_all(WRONG_PROTOCOL.as_bytes()).await?;
            stream.flush().await?;
            stream.shutdown().await
        }
    }
}

enum Protocol {
    Peer,
    Http2,
    Http1,
}
