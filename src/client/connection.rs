//! One node's address and the connection to it: HTTP/2 over the runtime's TCP or TLS, shared by all tasks.
//!
//! Invariants: at most one connection attempt at a time, however many calls wait for it; every attempt resolves the
//! address again, by a lookup that continues if the attempt times out; a call that fails here reports correctly whether
//! its first byte may have left. Never retries and never chooses a node: the layers above do.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use http_body_util::combinators::MapErr;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use mokv_proto::status;
use mokv_proto::tonic::{Status, body::Body};
use tokio::io::{AsyncRead, AsyncWrite};

use super::retry::Backoff;
use crate::rt::lock::Mutex;
use crate::rt::net::Resolver;
use crate::rt::task::HyperExecutor;
use crate::rt::time::HyperTimer;
use crate::rt::{self, random, watch};

/// Timeout of a connection attempt. A name lookup that takes longer continues for the next attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A silent connection is probed after this time, and closed if the probe is not answered within the same time.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Age at which a node's latency is dropped, so that it is measured again.
const LATENCY_HORIZON: Duration = Duration::from_secs(10);

/// An address with its connection and health. Cheap while unused.
pub(super) struct Endpoint {
    address: String,
    transport: Transport,
    link: Mutex<Link>,
    health: Mutex<Health>,
}

type Connecting = watch::Receiver<Option<Result<Channel, String>>>;

enum Link {
    Idle,
    Connecting(Connecting),
    Ready(Channel),
}

#[derive(Default)]
struct Health {
    failures: u32,
    set_aside_until: Option<Instant>,
    in_flight: u32,
    latency: Option<(Duration, Instant)>,
    last_answer: Option<Instant>,
}

impl Endpoint {
    /// Does not connect yet.
    pub(super) fn new(address: String, transport: Transport) -> Endpoint {
        Endpoint { address, transport, link: Mutex::new(Link::Idle), health: Mutex::default() }
    }

    /// `host:port`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Returns the connection; makes one if there is none, or waits for the attempt in progress.
    ///
    /// # Errors
    /// An error message if the attempt fails; nothing was sent.
    pub(super) async fn channel(self: &Arc<Self>) -> Result<Channel, String> {
        let mut connecting = match &mut *self.link.lock() {
            Link::Ready(channel) if !channel.sender.is_closed() => return Ok(channel.clone()),
            Link::Connecting(connecting) => connecting.clone(),
            link => {
                let (done, connecting) = watch::channel(None);
                *link = Link::Connecting(connecting.clone());
                // A separate task, because other callers still wait if this one gives up.
                rt::spawn(self.clone().connect(done));
                connecting
            }
        };
        let _ = connecting.wait_for(Option::is_some).await;
        let result = connecting.borrow().clone();
        result.unwrap_or_else(|| {
            // The runtime dropped the task.
            *self.link.lock() = Link::Idle;
            Err("the attempt to connect was abandoned".to_owned())
        })
    }

    async fn connect(self: Arc<Self>, done: watch::Sender<Option<Result<Channel, String>>>) {
        let result = match rt::timeout(CONNECT_TIMEOUT, self.transport.connect(&self.address)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(rt::time::Elapsed) if self.transport.resolver.awaits(&self.address) => {
                Err(format!("the name has not been resolved within {CONNECT_TIMEOUT:?}"))
            }
            Err(rt::time::Elapsed) => Err(format!("no connection within {CONNECT_TIMEOUT:?}")),
        };
        *self.link.lock() = result.clone().map_or(Link::Idle, Link::Ready);
        done.send(Some(result));
    }

    /// Counts a call as in flight until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.health.lock().in_flight += 1;
        InFlight(self.clone())
    }

    /// Records that the node answered a call that began at `since`, with success or an error.
    pub(super) fn answered(&self, since: Instant) {
        let now = rt::now();
        let took = now.duration_since(since);
        let mut health = self.health.lock();
        health.failures = 0;
        health.set_aside_until = None;
        health.last_answer = Some(now);
        let smoothed = health.recent_latency(now).map_or(took, |before| (before * 7 + took) / 8);
        health.latency = Some((smoothed, now));
    }

    /// Records that the node cannot serve now: it is asked last for a short time.
    pub(super) fn unfit(&self) {
        let now = rt::now();
        let mut health = self.health.lock();
        health.last_answer = Some(now);
        let until = now + Backoff::NODE.after(1, random::random_u64());
        health.set_aside_until = health.set_aside_until.max(Some(until));
    }

    /// Records a failure: the node is asked last for a time that grows with every consecutive failure.
    pub(super) fn failed(&self) {
        let mut health = self.health.lock();
        health.failures = health.failures.saturating_add(1);
        let wait = Backoff::NODE.after(health.failures, random::random_u64());
        health.set_aside_until = Some(rt::now() + wait);
    }

    /// Records that a call that began at `since` timed out. A connection that has been silent since then is not used
    /// again: after a partition it may recover late or never.
    pub(super) fn timed_out(&self, since: Instant) {
        self.failed();
        if self.health.lock().last_answer.is_none_or(|answer| answer < since) {
            let mut link = self.link.lock();
            if matches!(*link, Link::Ready(_)) {
                *link = Link::Idle;
            }
        }
    }

    /// Returns until when the node is set aside, its calls in flight, and its recent latency.
    pub(super) fn condition(&self, now: Instant) -> (Option<Instant>, u32, Option<Duration>) {
        let health = self.health.lock();
        (health.set_aside_until, health.in_flight, health.recent_latency(now))
    }
}

impl Health {
    fn recent_latency(&self, now: Instant) -> Option<Duration> {
        self.latency.filter(|(_, at)| now.duration_since(*at) < LATENCY_HORIZON).map(|(latency, _)| latency)
    }
}

/// A call in flight.
pub(super) struct InFlight(Arc<Endpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.health.lock().in_flight -= 1;
    }
}

/// The transport below HTTP/2: TCP, and TLS on top of it if the user configured it.
#[derive(Clone, Default)]
pub(super) struct Transport {
    /// Shared by all endpoints of a client.
    pub(super) resolver: Resolver,
    /// `None`: plain text.
    #[cfg(feature = "tls")]
    pub(super) tls: Option<super::tls::Handshake>,
}

impl Transport {
    async fn connect(&self, address: &str) -> std::io::Result<Channel> {
        let stream = self.resolver.connect(address).await?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Channel::over(tls.with(address, stream).await?, "https", address).await;
        }
        Channel::over(stream, "http", address).await
    }
}

/// An established connection, over which the generated stubs send their requests.
#[derive(Clone)]
pub(super) struct Channel {
    sender: SendRequest<Body>,
    /// Scheme and authority of every request.
    origin: http::Uri,
}

impl Channel {
    async fn over<S>(stream: S, scheme: &str, address: &str) -> std::io::Result<Channel>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let origin = http::Uri::builder().scheme(scheme).authority(address).path_and_query("/").build();
        let origin = origin.map_err(std::io::Error::other)?;
        let (sender, connection) = Builder::new(HyperExecutor)
            .timer(HyperTimer)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        // Ends when the connection breaks or the last sender is dropped. Its error reaches every call in flight.
        rt::spawn(async move {
            let _ = connection.await;
        });
        Ok(Channel { sender, origin })
    }

    /// Scheme and authority of every request.
    pub(super) fn origin(&self) -> http::Uri {
        self.origin.clone()
    }
}

type ResponseBody = MapErr<Incoming, fn(hyper::Error) -> Status>;
type ResponseFuture = Pin<Box<dyn Future<Output = Result<http::Response<ResponseBody>, Status>> + Send>>;

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    /// Always ready: [`Self::call`] reports a closed connection, because it can state that nothing was sent.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        let response = self.sender.try_send_request(request);
        Box::pin(async move {
            match response.await {
                Ok(response) => Ok(response.map(|body| body.map_err(broken as fn(_) -> _))),
                // hyper returns the request only if it never put it on the connection.
                Err(error) if error.message().is_some() => {
                    Err(status::not_executed("the connection was closed before the request was sent", None))
                }
                Err(error) => Err(broken(error.into_error())),
            }
        })
    }
}

/// The status of a connection that broke after the request left or may have left.
fn broken(error: hyper::Error) -> Status {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let mut status =
        status::unknown(format!("the connection broke before the answer was complete: {error}{cause}"));
    status.set_source(Arc::new(error));
    status
}
