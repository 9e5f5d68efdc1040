//! A gRPC connection to one node and no other: no routing, no retries. For tests about the answers of *this* node;
//! everything else goes through the client library.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use mokv::rt;
use mokv::rt::net::TcpStream;
use mokv::rt::task::HyperExecutor;
use mokv_proto::api::kv_client::KvClient;
use mokv_proto::tonic::body::Body;

/// An open connection, over which generated stubs send their requests.
#[derive(Clone)]
pub struct Direct(SendRequest<Body>);

impl Direct {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// If no process listens there, or it does not use HTTP/2.
    pub async fn connect(address: &str) -> io::Result<Direct> {
        let stream = TcpStream::connect(address).await?;
        let handshake = Builder::new(HyperExecutor).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        // Its error reaches every call under way.
        rt::spawn(async move { drop(connection.await) });
        Ok(Direct(sender))
    }

    /// The keys and values, through this connection.
    pub fn kv(&self) -> KvClient<Direct> {
        KvClient::new(self.clone())
    }
}

impl tower_service::Service<http::Request<Body>> for Direct {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // hyper needs an authority; the stubs give only a path.
        let path = request.uri().path().to_owned();
        *request.uri_mut() = format!("http://node{path}").parse().expect("a path makes a URI");
        Box::pin(self.0.send_request(request))
    }
}
