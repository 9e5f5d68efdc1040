//! One HTTP/2 connection: how the node serves it, and when the node closes it.
//!
//! The node closes a connection that was idle for too long. It also closes one on which the client has not read an answer
//! long after the call's deadline, because the unread bytes stay in memory until the connection ends.

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

/// HTTP/2 pings: a client that has vanished is noticed after the interval and the timeout together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most requests under way on one connection.
const MAX_STREAMS: u32 = 1024;
/// Flow-control window: the bytes that a client may send before the node reads them, per connection and per stream.
const RECEIVE_WINDOW_BYTES: u32 = 256 << 10;
/// Bytes of an answer that are encoded before the client reads them.
pub(super) const SEND_BUFFER_BYTES: usize = 64 << 10;

/// A connection without any request is closed after this time.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection is closed if the client has not read an answer for this long after the call's deadline.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for calls under way to finish after the node has decided to close a connection.
const LAST_CALLS: Duration = Duration::from_secs(10);

/// The state that the calls of one connection share.
pub(in crate::api) struct Connection {
    /// The services that it may use.
    pub kind: ConnectionKind,
    /// Bytes of requests on it, until they are answered. Only counted: its share depends on the other connections.
    pub received: Arc<Bound>,
    /// Bytes of answers on it that the client has not read.
    pub unread: Arc<Bound>,
    calls: Mutex<Calls>,
}

struct Calls {
    next: u64,
    /// The time by which each call under way should be over.
    under_way: BTreeMap<u64, Instant>,
    has_called: bool,
    /// The time at which the last call ended.
    idle_since: Instant,
}

/// The reason why the node closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    Idle,
    Unread,
}

impl Connection {
    fn new(kind: ConnectionKind, most_unread: usize) -> Arc<Connection> {
        let calls = Calls { next: 0, under_way: BTreeMap::new(), has_called: false, idle_since: rt::now() };
        Arc::new(Connection {
            kind,
            received: Bound::new(usize::MAX),
            unread: Bound::new(most_unread),
            calls: Mutex::new(calls),
        })
    }

    /// Notes that a call begins, which should be over by `until`. The guard ends it.
    pub fn begin(self: &Arc<Self>, until: Instant) -> Call {
        let mut calls = self.calls.lock();
        calls.has_called = true;
        calls.next += 1;
        let number = calls.next;
        calls.under_way.insert(number, until);
        Call { connection: self.clone(), number }
    }

    /// Returns the time at which to check again.
    ///
    /// # Errors
    /// The reason why the connection has to be closed now.
    fn look(&self, now: Instant, idle_timeout: Duration) -> Result<Instant, Overdue> {
        let calls = self.calls.lock();
        let (due, why) = match calls.under_way.values().min() {
            Some(until) => (*until + UNREAD_TIMEOUT, Overdue::Unread),
            None if calls.has_called => (calls.idle_since + idle_timeout, Overdue::Idle),
            None => (calls.idle_since + idle_timeout.min(FIRST_REQUEST_TIMEOUT), Overdue::Idle),
        };
        // A shorter call may begin in the meantime.
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

/// A call under way. Dropped when the client has read its answer.
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

/// Serves one HTTP/2 connection until it ends. While the node drains, it ends when its requests are answered.
///
/// # Errors
/// If the connection breaks. The kind is `InvalidData` if the client violates HTTP/2.
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
            tracing::debug!(?why, "this node closes a client's connection");
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
    fn an_idle_connection_is_closed_soon_without_a_request_and_later_after_one() {
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
    fn an_unread_answer_closes_its_connection_and_one_under_way_does_not() {
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
