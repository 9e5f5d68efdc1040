//! The listening side of a peer connection: hello, then requests handled many at a time, each answered when it is done.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use mokv_proto::raft::{self, Channel, request, response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frame::{FrameReader, MAX_FRAME_BYTES, put_frame};
use super::handshake::{Dialer, HandshakeError, PeerAdmission, answer};
use crate::rt::net::TcpStream;
use crate::rt::timeout;

/// A dialer that does not finish its hello by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests of one connection under way at a time.
const MAX_HANDLED: usize = 1024;

/// A boxed future, as handlers return it.
pub type Handling = Pin<Box<dyn Future<Output = response::Body> + Send>>;

/// Serves the requests of peers.
pub trait Handler: Send + Sync + 'static {
    /// State of one connection; a snapshot under way, say.
    type Session: Send;

    /// A peer connected.
    fn open(&self, peer: &Dialer) -> Self::Session;

    /// Handles one request. Called in the order of arrival; what it returns may finish in any.
    fn handle(&self, session: &mut Self::Session, request: request::Body) -> Handling;
}

/// Hears and answers the hello of a connection whose first byte was seen but not read.
///
/// # Errors
/// If it is refused, takes too long, or the connection breaks.
pub async fn meet(stream: &mut TcpStream, admission: &PeerAdmission) -> Result<Dialer, HandshakeError> {
    let peer = timeout(HANDSHAKE_TIMEOUT, async {
        stream.read_u8().await?;
        answer(stream, admission).await
    });
    peer.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the hello took too long"))?
}

/// Serves a connection on which `peer` was met, until it ends.
///
/// # Errors
/// If the connection breaks, or the peer sends what is no frame or is let in no longer.
pub async fn serve<H: Handler>(
    stream: TcpStream,
    peer: Dialer,
    admission: &PeerAdmission,
    handler: Arc<H>,
) -> Result<(), HandshakeError> {
    let mut session = handler.open(&peer);
    // A snapshot's chunks are taken one after the other; everything else overtakes freely.
    let max_handled = if peer.channel == Channel::Snapshot { 1 } else { MAX_HANDLED };

    let (read, mut write) = tokio::io::split(stream);
    let mut reader = FrameReader::new(read, MAX_FRAME_BYTES);
    let mut handled = FuturesUnordered::new();
    let mut answers = BytesMut::new();
    loop {
        tokio::select! {
            biased;
            Some(response) = handled.next(), if !handled.is_empty() => put_frame(&mut answers, &response),
            request = reader.next::<raft::Request>(), if handled.len() < max_handled => {
                let Some(raft::Request { id, body }) = request? else { return Ok(()) };
                admission.admit_again(&peer)?;
                match body {
                    Some(body) => handled.push(handler.handle(&mut session, body).map(move |body| {
                        raft::Response { id, body: Some(body) }
                    })),
                    // A ping: the dialer wonders whether anybody is there.
                    None => put_frame(&mut answers, &raft::Response { id, body: None }),
                }
            }
        }
        // Whatever else is done by now goes with the same flush.
        while let Some(Some(response)) = handled.next().now_or_never() {
            put_frame(&mut answers, &response);
        }
        if !answers.is_empty() {
            write.write_all(&answers).await?;
            write.flush().await?;
            answers.clear();
        }
    }
}
