//! The listening side of a peer connection: the handshake, then requests handled concurrently, each answered when it is
//! done.

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

use super::admission::{Dialer, HandshakeError, PeerAdmission};
use super::frame::{FrameReader, MAX_FRAME_BYTES, put_frame};
use super::handshake::answer;
use crate::rt::net::TcpStream;
use crate::rt::timeout;

/// A dialer that has not finished its handshake by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests of one connection under way at a time.
const MAX_HANDLED: usize = 1024;

/// A boxed future, as handlers return it.
pub type Handling = Pin<Box<dyn Future<Output = response::Body> + Send>>;

/// Serves the requests of peers.
pub trait Handler: Send + Sync + 'static {
    /// State of one connection, such as a snapshot under way.
    type Session: Send;

    /// A peer connected.
    fn open(&self, peer: &Dialer) -> Self::Session;

    /// Handles one request. Called in the order of arrival; the returned futures may finish in any order.
    fn handle(&self, session: &mut Self::Session, request: request::Body) -> Handling;
}

/// Runs the listener's side of the handshake on a connection whose first byte was seen but not read.
///
/// # Errors
/// If either side refuses, the handshake takes too long, or the connection breaks.
pub async fn meet(stream: &mut TcpStream, admission: &PeerAdmission) -> Result<Dialer, HandshakeError> {
    let peer = timeout(HANDSHAKE_TIMEOUT, async {
        stream.read_u8().await?;
        answer(stream, admission).await
    });
    peer.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))?
}

/// Serves the requests of `peer`, after its handshake, until the connection ends.
///
/// # Errors
/// If the connection breaks, the peer sends what is no frame, or the peer is no longer admitted.
pub async fn serve<H: Handler>(
    stream: TcpStream,
    peer: Dialer,
    admission: &PeerAdmission,
    handler: Arc<H>,
) -> Result<(), HandshakeError> {
    let mut session = handler.open(&peer);
    // The chunks of a snapshot are handled one after the other; other requests may overtake each other.
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
                    // A ping: the dialer checks whether the connection is alive.
                    None => put_frame(&mut answers, &raft::Response { id, body: None }),
                }
            }
        }
        // Other answers that are ready go with the same flush.
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
