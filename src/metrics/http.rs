//! The metrics port: `/metrics`, `/livez` and `/readyz` over HTTP/1.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;

use super::Metrics;
use crate::bound::Arrivals;
use crate::rt;
use crate::rt::net::TcpListener;
use crate::rt::task::spawn_guarded;
use crate::rt::time::Seldom;

/// The node's readiness, for `/readyz`.
pub trait Health: Send + Sync + 'static {
    /// Returns `Ok` if the node is ready to serve, otherwise the reasons in one line.
    fn ready(&self) -> Result<(), String>;
}

/// Serves the metrics port forever, at most `most` connections at a time: a new connection is accepted and the oldest
/// is closed. Dropping the future closes all connections, so that probes of the node's next incarnation connect again.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, health: Arc<dyn Health>, most: usize) {
    let mut connections = FuturesUnordered::new();
    let (arrivals, failed) = (Arrivals::new(most), Seldom::default());
    loop {
        let accepted = tokio::select! {
            biased;
            Some(_) = connections.next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(more) = failed.now() {
                    tracing::warn!(more, "cannot accept a connection on the metrics port: {error}");
                }
                rt::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let (metrics, health) = (metrics.clone(), health.clone());
        let (mut arrival, _) = arrivals.enter();
        connections.push(spawn_guarded(async move {
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let response = answer(request.method(), request.uri().path(), &metrics, &*health);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            // A connection without a request is closed.
            server.timer(rt::time::HyperTimer).header_read_timeout(std::time::Duration::from_secs(10));
            tokio::select! {
                biased;
                ended = server.serve_connection(TokioIo::new(stream), service) => {
                    if let Err(error) = ended {
                        tracing::debug!("a connection to the metrics port ended: {error}");
                    }
                }
                () = arrival.gives_way() => {}
            }
        }));
    }
}

fn answer(method: &Method, path: &str, metrics: &Metrics, health: &dyn Health) -> Response<Full<Bytes>> {
    let plain = "text/plain; charset=utf-8";
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.render())
        }
        // A node that answers is live: if it replays its log or has no leader, a restart does not help.
        (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, plain, "ok\n".into()),
        (&Method::GET | &Method::HEAD, "/readyz") => match health.ready() {
            Ok(()) => (StatusCode::OK, plain, "ok\n".into()),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, plain, format!("not ready: {reason}\n")),
        },
        (_, "/metrics" | "/livez" | "/readyz") => (StatusCode::METHOD_NOT_ALLOWED, plain, "use GET\n".into()),
        _ => (StatusCode::NOT_FOUND, plain, "this port serves /metrics, /livez and /readyz\n".into()),
    };
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .body(Full::new(Bytes::from(body)))
        .expect("these parts make a response")
}
