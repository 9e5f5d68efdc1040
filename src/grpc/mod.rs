//! gRPC: requests in, statuses out.
//!
//! tonic's generated services on hyper's HTTP/2, over whatever connection the mux hands in, the same in both worlds.
//! This room translates; what a request means is decided in [`crate::raft`] and [`crate::map`].

mod admin;
mod backup;
mod context;
mod kv;
mod list;
mod reflection;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mokv_proto::api::{admin_server::AdminServer, kv_server::KvServer};
use mokv_proto::tonic::body::Body;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower_service::Service;

pub use context::{AskedToLeave, Context, Operator, Serving};

use crate::mux::Phase;
use crate::rt::net::TcpStream;
use crate::rt::{self, Instant, watch};

/// A client that is gone without a word is noticed after the two together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests under way on one connection.
const MAX_STREAMS: u32 = 1024;

/// Until when a request's client waits for its answer.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(pub Instant);

/// All services of a node. Clones share them.
#[derive(Clone)]
pub struct Services {
    context: Arc<Context>,
    kv: KvServer<kv::Kv>,
    admin: AdminServer<admin::Admin>,
    health: HealthServer<HealthService>,
    reflection: reflection::Service,
}

impl Services {
    /// The services of a node, and where its health is told.
    pub fn new(context: Arc<Context>) -> (Services, HealthReporter) {
        let reporter = HealthReporter::new();
        let limit = context.limits.max_request_bytes;
        let services = Services {
            kv: KvServer::new(kv::Kv::new(context.clone())).max_decoding_message_size(limit),
            admin: AdminServer::new(admin::Admin::new(context.clone())),
            health: HealthServer::new(HealthService::from_health_reporter(reporter.clone())),
            reflection: reflection::service(),
            context,
        };
        (services, reporter)
    }

    async fn call(mut self, mut request: http::Request<Incoming>) -> http::Response<Body> {
        let started = rt::now();
        let longest = self.context.limits.request_timeout;
        let within = grpc_timeout(request.headers()).map_or(longest, |asked| asked.min(longest));
        request.extensions_mut().insert(Deadline(started + within));
        let Some((service, method)) = split_path(request.uri().path()) else {
            return Status::unimplemented("no such method").into_http();
        };
        let (service, method) = (service.to_string(), method.to_string());
        let request = request.map(Body::new);
        // A service of ours takes a place; health and reflection are answered even when all are taken.
        let response = match service.as_str() {
            "api.KV" | "api.Admin" => match self.context.admit() {
                Ok(_place) => match service.as_str() {
                    "api.KV" => infallible(self.kv.call(request).await),
                    _ => infallible(self.admin.call(request).await),
                },
                Err(status) => status.into_http(),
            },
            "grpc.health.v1.Health" => infallible(self.health.call(request).await),
            "grpc.reflection.v1.ServerReflection" => infallible(self.reflection.call(request).await),
            _ => Status::unimplemented(format!("this server has no service {service}")).into_http(),
        };
        self.context.metrics.observe_request(&service, &method, code_of(&response), rt::now() - started);
        response
    }
}

fn infallible<T>(result: Result<T, std::convert::Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

fn split_path(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}

/// An error without a body says its code in the headers; what has a body is a success so far.
fn code_of(response: &http::Response<Body>) -> Code {
    (response.headers().get("grpc-status")).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// The client's deadline, relative, from the header that gRPC defines for it.
fn grpc_timeout(headers: &http::HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    // The specification allows eight digits.
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Serves one HTTP/2 connection until it ends; when the node drains, until its requests are answered.
///
/// # Errors
/// If the connection breaks or is not HTTP/2.
pub async fn serve_connection(
    stream: TcpStream,
    services: Services,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let mut server = hyper::server::conn::http2::Builder::new(rt::task::HyperExecutor);
    server
        .timer(rt::time::HyperTimer)
        .keep_alive_interval(Some(KEEPALIVE_INTERVAL))
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS);
    let _counted = services.context.metrics.connection();
    let _connected = services.context.connected();
    let service = hyper::service::service_fn(move |request| {
        let services = services.clone();
        async move { Ok::<_, std::convert::Infallible>(services.call(request).await) }
    });
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended.map_err(io::Error::other),
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        biased;
        ended = connection => ended.map_err(io::Error::other),
        _ = phase.wait_for(|phase| *phase == Phase::Stopped) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timeout_of(text: &str) -> Option<Duration> {
        let mut headers = http::HeaderMap::new();
        headers.insert("grpc-timeout", http::HeaderValue::from_str(text).ok()?);
        grpc_timeout(&headers)
    }

    #[test]
    fn the_deadline_header_is_read_as_grpc_defines_it() {
        assert_eq!(timeout_of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout_of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "m", "123456789S", "1.5S", "-1S", "1x", "+1S", "é"] {
            assert_eq!(timeout_of(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(text in "\\PC*") {
            let _ = timeout_of(&text);
        }
    }
}
