//! The APIs: they translate bytes to requests of the core, and its replies and refusals to the codes and texts of each
//! API.
//!
//! tonic's generated services run on hyper's HTTP/2, over the connection that the mux accepts, in production and in the
//! simulation alike. This module only translates: [`crate::service`] does what every request has in common;
//! [`crate::raft`] and [`crate::map`] decide what a request means.

mod http;
mod methods;
mod native;
mod reflection;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use mokv_proto::api::{admin_server::AdminServer, kv_server::KvServer};
use mokv_proto::tonic::body::Body;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower_service::Service;

use http::body::{self, Answer};
use http::connection::Connection;
pub use http::connection::serve_connection;
pub use methods::names as methods;
use methods::{Longest, Method};
use native::status;

use crate::rt::{self, Instant};
use crate::service::{Caller, Context, Service as Core};

/// The time until which a request's client waits for its answer.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(pub Instant);

/// All services of a node. Clones share them.
#[derive(Clone)]
pub struct Services {
    context: Arc<Context>,
    kv: KvServer<native::kv::Kv>,
    admin: AdminServer<native::admin::Admin>,
    health: HealthServer<HealthService>,
    reflection: reflection::Service,
}

impl Services {
    /// Returns the services of a node, and the reporter that sets the node's health.
    pub fn new(context: Arc<Context>) -> (Services, HealthReporter) {
        let reporter = HealthReporter::new();
        let (limit, core) = (context.limits.max_request_bytes, Core::new(context.clone()));
        let services = Services {
            kv: KvServer::new(native::kv::Kv::new(core.clone())).max_decoding_message_size(limit),
            admin: AdminServer::new(native::admin::Admin::new(core)),
            health: HealthServer::new(HealthService::from_health_reporter(reporter.clone())),
            reflection: reflection::service(),
            context,
        };
        (services, reporter)
    }

    async fn call(
        mut self,
        request: ::http::Request<Incoming>,
        connection: &Arc<Connection>,
    ) -> ::http::Response<Answer> {
        let started = rt::now();
        let context = self.context.clone();
        let (parts, incoming) = request.into_parts();
        let found = Method::of(parts.uri.path());
        let usual = context.limits.request_timeout;
        let longest = found.as_ref().ok().and_then(|(_, method)| method.within).unwrap_or(usual);
        let within = grpc_timeout(&parts.headers).map_or(usual, |asked| asked.min(longest));
        let deadline = started + within;
        let place = found.as_ref().ok().map(|(place, _)| *place);
        let stream = found.as_ref().ok().and_then(|(_, method)| method.stream);
        let call = connection.begin(match stream {
            None => deadline,
            Some(Longest::ListTime) => started + context.limits.max_list_time,
            Some(Longest::Constant(longest)) => started + longest,
        });
        let mut held_by_answer = None;
        let answered = async {
            let (_, method) = found?;
            let caller = Caller { connection: connection.kind };
            context.admission.may_call(caller, method.class).map_err(status)?;
            if method.stream.is_some() {
                held_by_answer = Some(context.admission.admit_stream().map_err(status)?);
            }
            let (body, _held) = if method.takes_stream {
                (Body::new(incoming), None)
            } else {
                let bounds = [connection.received.clone(), context.admission.received(method.class)];
                let whole = body::receive(incoming, context.limits.max_request_bytes, bounds);
                let (body, held) = rt::time::timeout_at(deadline, whole).await.map_err(|_| {
                    Status::deadline_exceeded("the request was not received completely before its deadline")
                })??;
                // The bytes count until the request is answered.
                (body, Some(held))
            };
            let mut request = ::http::Request::from_parts(parts, body);
            request.extensions_mut().insert(Deadline(deadline));
            request.extensions_mut().insert(caller);
            Ok(match method.name.service {
                "api.KV" => infallible(self.kv.call(request).await),
                "api.Admin" => infallible(self.admin.call(request).await),
                "grpc.health.v1.Health" => infallible(self.health.call(request).await),
                _ => infallible(self.reflection.call(request).await),
            })
        };
        let response = answered.await.unwrap_or_else(|status: Status| status.into_http());
        context.metrics.observe_request(place, code_of(&response), rt::now() - started);
        let bounds = [connection.unread.clone(), context.admission.unread()];
        response.map(|body| Answer::new(body, call, held_by_answer, bounds))
    }
}

fn infallible<T>(result: Result<T, std::convert::Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

/// Returns a response's code. An error without a body has its code in the headers; a response with a body is a success
/// so far.
fn code_of(response: &::http::Response<Body>) -> Code {
    (response.headers().get("grpc-status")).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// Returns the client's timeout from the header `grpc-timeout`, if that is valid.
fn grpc_timeout(headers: &::http::HeaderMap) -> Option<Duration> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timeout_of(text: &str) -> Option<Duration> {
        let mut headers = ::http::HeaderMap::new();
        headers.insert("grpc-timeout", ::http::HeaderValue::from_str(text).ok()?);
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
