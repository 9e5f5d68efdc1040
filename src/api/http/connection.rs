//! One HTTP/2 connection: how it is served, and when it is ended though its client says nothing.
//!
//! A connection ends when it has had nothing to do for long, and when an answer on it is not taken long after its call
//! should have been over: what the client does not read is held here for as long as the connection lives.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;

use super::authority::AuthorityFilter;
use crate::api::Services;
use crate::bound::Bound;
use crate::rt::lock::Mutex;
use crate::rt::net::TcpStream;
use crate::rt::{self, Instant, watch};
use crate::service::{ConnectionKind, Phase};

/// A client that is gone without a word is noticed after the two together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests under way on one connection.
const MAX_STREAMS: u32 = 1024;
/// What a client may send ahead of our reading it, on a connection and on a stream of it.
const RECEIVE_WINDOW_BYTES: u32 = 256 << 10;
/// What is encoded of an answer ahead of the client's reading it.
pub(super) const SEND_BUFFER_BYTES: usize = 64 << 10;

/// A connection on which nothing was ever asked is ended after this.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer that is not taken so long after its call should have been over ends its connection.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that is told to end has so long for what is under way.
const LAST_CALLS: Duration = Duration::from_secs(10);

/// What the calls of one connection share.
pub(in crate::api) struct Connection {
    /// What it may be used for.
    pub kind: ConnectionKind,
    /// Bytes of requests on it, until they are answered. Counted; how many it may hold depends on the others.
    pub received: Arc<Bound>,
    /// Bytes of answers on it that are not taken.
    pub unread: Arc<Bound>,
    calls: Mutex<Calls>,
}

struct Calls {
    next: u64,
    /// Until when each that is under way should be over.
    under_way: BTreeMap<u64, Instant>,
    has_asked: bool,
    /// When the last one ended.
    idle_since: Instant,
}

/// Why a connection is ended by the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    Idle,
    Unread,
}

impl Connection {
    fn new(kind: ConnectionKind, most_unread: usize) -> Arc<Connection> {
        let calls = Calls { next: 0, under_way: BTreeMap::new(), has_asked: false, idle_since: rt::now() };
        Arc::new(Connection {
            kind,
            received: Bound::new(usize::MAX),
            unread: Bound::new(most_unread),
            calls: Mutex::new(calls),
        })
    }

    /// A call begins that should be over by `until`.
    pub fn begin(self: &Arc<Self>, until: Instant) -> Call {
        let mut calls = self.calls.lock();
        calls.has_asked = true;
        calls.next += 1;
        let number = calls.next;
        calls.under_way.insert(number, until);
        Call { connection: self.clone(), number }
    }

    /// Why this connection is to be ended now, or when to look again.
    fn look(&self, now: Instant, idle_timeout: Duration) -> Result<Instant, Overdue> {
        let calls = self.calls.lock();
        let (due, why) = match calls.under_way.values().min() {
            Some(until) => (*until + UNREAD_TIMEOUT, Overdue::Unread),
            None if calls.has_asked => (calls.idle_since + idle_timeout, Overdue::Idle),
            None => (calls.idle_since + idle_timeout.min(FIRST_REQUEST_TIMEOUT), Overdue::Idle),
        };
        // Shorter calls may begin meanwhile.
        if due <= now { Err(why) } else { Ok(due.min(now + UNREAD_TIMEOUT)) }
    }

    async fn overdue(&self, idle_timeout: Duration) -> Overdue {
        loop {
            match self.look(rt::now(), idle_timeout) {
                Ok(then) => rt::sleep_until(then).await,
                Err(why) => return why,
            }
        }
    }
}

/// A call under way, until its answer was taken.
pub(in crate::api) struct Call {
    connection: Arc<Connection>,
    number: u64,
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = self.connection.calls.lock();
        calls.under_way.remove(&self.number);
        calls.idle_since = rt::now();
    }
}

/// Serves one HTTP/2 connection until it ends; when the node drains, until its requests are answered.
///
/// # Errors
/// If the connection breaks, or, of the kind `InvalidData`, if its client breaks the rules of HTTP/2.
pub async fn serve_connection(
    stream: TcpStream,
    services: Services,
    kind: ConnectionKind,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let mut server = hyper::server::conn::http2::Builder::new(rt::task::HyperExecutor);
    server
        .timer(rt::time::HyperTimer)
        .keep_alive_interval(Some(KEEPALIVE_INTERVAL))
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_connection_window_size(RECEIVE_WINDOW_BYTES)
        .initial_stream_window_size(RECEIVE_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(MAX_STREAMS);
    let context = services.context.clone();
    let _counted = context.metrics.connection();
    let _connected = context.admission.connected();
    let calls = Connection::new(kind, 2 * context.limits.max_request_bytes);
    let service = {
        let calls = calls.clone();
        hyper::service::service_fn(move |request| {
            let (services, calls) = (services.clone(), calls.clone());
            async move { Ok::<_, std::convert::Infallible>(services.call(request, &calls).await) }
        })
    };
    let mut connection =
        std::pin::pin!(server.serve_connection(TokioIo::new(AuthorityFilter::new(stream)), service));
    let idle_timeout = context.limits.idle_timeout;
    let last_calls = tokio::select! {
        biased;
        ended = connection.as_mut() => return ended.map_err(connection_error),
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => None,
        why = calls.overdue(idle_timeout) => {
            tracing::debug!(?why, "a client's connection is ended");
            Some(rt::sleep(LAST_CALLS))
        }
    };
    connection.as_mut().graceful_shutdown();
    let given_up = async {
        match last_calls {
            Some(patience) => patience.await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        ended = connection => ended.map_err(connection_error),
        _ = phase.wait_for(|phase| *phase == Phase::Stopped) => Ok(()),
        () = given_up => Ok(()),
    }
}

fn connection_error(error: hyper::Error) -> io::Error {
    let broken = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<io::Error>());
    let kind = match broken {
        Some(broken) => broken.kind(),
        None if error.is_timeout() || error.is_closed() => io::ErrorKind::TimedOut,
        None => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(300);

    #[test]
    fn who_asks_nothing_is_ended_soon_and_who_has_asked_later() {
        let connection = Connection::new(ConnectionKind::Client, 1);
        let began = connection.calls.lock().idle_since;
        let late = |after| connection.look(began + after, IDLE);
        assert!(late(FIRST_REQUEST_TIMEOUT / 2).is_ok());
        assert_eq!(late(FIRST_REQUEST_TIMEOUT), Err(Overdue::Idle));
        drop(connection.begin(began));
        let ended = connection.calls.lock().idle_since;
        assert!(connection.look(ended + FIRST_REQUEST_TIMEOUT, IDLE).is_ok());
        assert_eq!(connection.look(ended + IDLE, IDLE), Err(Overdue::Idle));
    }

    #[test]
    fn an_answer_that_nobody_takes_ends_its_connection_and_one_under_way_does_not() {
        let connection = Connection::new(ConnectionKind::Client, 1);
        let now = rt::now();
        let _stream = connection.begin(now + 2 * IDLE);
        assert!(connection.look(now + IDLE, IDLE).is_ok(), "it is not idle");
        let unread = connection.begin(now);
        assert!(connection.look(now + UNREAD_TIMEOUT / 2, IDLE).is_ok());
        assert_eq!(connection.look(now + UNREAD_TIMEOUT, IDLE), Err(Overdue::Unread));
        drop(unread);
        assert!(connection.look(now + UNREAD_TIMEOUT, IDLE).is_ok());
    }
}
