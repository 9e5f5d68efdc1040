//! A client without the library, as any language has one: one connection to one node, one request, no other node to
//! fall back on, and no deadline but the one sent to the node.
//!
//! It shows what the library hides: the library remembers the highest revision it has seen, retries other nodes, and
//! gives up by its own clock. Each of these clients is new, so it has seen no revision.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use mokv::rt::net::TcpStream;
use mokv::rt::task::HyperExecutor;
use mokv::rt::time::{Elapsed, HyperTimer};
use mokv_proto::api;
use mokv_proto::status::Outcome as Certainty;
use mokv_proto::tonic::{Code, Status};
use prost::Message;

use crate::checkers::Finding;
use crate::checkers::direct::{self, Spoken};
use crate::cluster::network::dns_name;
use crate::cluster::{Cluster, RPC_PORT};
use crate::evidence::history::{Answer, Call, KeyState, Nanos, Outcome};
use crate::evidence::values;
use crate::record::Run;

/// A client of one node. It can send one request.
pub struct Direct {
    run: Arc<Run>,
    cluster: Cluster,
    host: String,
    number: u32,
    node: String,
}

/// How a request ended.
#[derive(Debug)]
pub struct Reply {
    /// What the client may conclude.
    pub outcome: Outcome,
    /// The status with which the node refused. `None`: it granted the request, or the client received no answer.
    pub refusal: Option<Status>,
}

impl Direct {
    /// A client on a new host.
    pub fn new(cluster: &Cluster, node: &str) -> Direct {
        let (host, number) = cluster.add_client_host();
        Direct { run: cluster.run().clone(), cluster: cluster.clone(), host, number, node: node.to_owned() }
    }

    /// The name of its host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Writes a new value, without a session. `deadline` is sent to the node; the client itself waits for `patience`.
    pub async fn set(self, key: &str, deadline: Duration, patience: Duration) -> Reply {
        let value = self.run.next_value();
        let call = Call::Set { value, if_revision: None };
        let request = api::SetRequest {
            key: key.to_owned().into(),
            value: values::encode(value, 16),
            ..api::SetRequest::default()
        };
        self.ask(key, call, "/api.KV/Set", &request, deadline, patience, |answer: api::SetResponse| {
            Answer::Written { revision: answer.revision }
        })
        .await
    }

    /// Reads a key.
    pub async fn get(self, key: &str, stale: bool, deadline: Duration, patience: Duration) -> Reply {
        let consistency = if stale { api::Consistency::Stale } else { api::Consistency::Linearizable };
        let request = api::GetRequest {
            key: key.to_owned().into(),
            consistency: consistency.into(),
            ..api::GetRequest::default()
        };
        let call = Call::Get { stale };
        self.ask(key, call, "/api.KV/Get", &request, deadline, patience, |answer: api::GetResponse| {
            let entry = KeyState {
                value: values::decode(&answer.value).unwrap_or(u64::MAX),
                create_revision: answer.create_revision,
                mod_revision: answer.mod_revision,
                version: answer.version,
            };
            Answer::Read { revision: answer.revision, entry: Some(entry) }
        })
        .await
    }

    #[allow(clippy::too_many_arguments)] // One call, from its bytes to its record.
    async fn ask<A: Message + Default + 'static>(
        self,
        key: &str,
        call: Call,
        path: &'static str,
        request: &impl Message,
        deadline: Duration,
        patience: Duration,
        read: impl FnOnce(A) -> Answer,
    ) -> Reply {
        let writes = matches!(call, Call::Set { .. } | Call::Delete { .. });
        let ticket = self.run.invoked(self.number, key, call);
        let pace = self.cluster.pace(&self.node);
        let is_doubted = self.cluster.is_doubted(&self.node);
        let (invoked, disk) = (self.run.now(), self.cluster.disk_of(&self.node));
        let work = call_once(format!("{}:{RPC_PORT}", dns_name(&self.node)), path, frame(request), deadline);
        let answer = self.cluster.try_on(&self.host, mokv::rt::timeout(patience, work)).await;
        let is_silent = matches!(answer, Some(Err(Elapsed)));
        let (outcome, refusal) = match answer {
            Some(Ok(Ok(bytes))) => match A::decode(bytes) {
                Ok(answer) => (Outcome::Ok(read(answer)), None),
                Err(error) => (Outcome::Unknown, Some(Status::internal(error.to_string()))),
            },
            Some(Ok(Err(Broken::Refused(status)))) => (concluded(&status, writes), Some(status)),
            Some(Ok(Err(Broken::NotSent))) => (Outcome::Failed, None),
            Some(Ok(Err(Broken::Lost)) | Err(_)) | None if writes => (Outcome::Unknown, None),
            Some(Ok(Err(Broken::Lost)) | Err(_)) | None => (Outcome::Failed, None),
        };
        let asked = Asked { invoked, disk, pace, is_doubted };
        if self.cluster.is_here(&self.node) {
            self.check(&asked, is_silent, &outcome, || direct::late(&self.node, key, deadline, patience));
        }
        self.run.returned(ticket, outcome.clone());
        Reply { outcome, refusal }
    }

    /// Checks what a checker that sees only one client's answers cannot see.
    fn check(&self, asked: &Asked, is_silent: bool, outcome: &Outcome, late: impl FnOnce() -> Finding) {
        let (cluster, node) = (&self.cluster, &self.node);
        if is_silent && asked.pace.is_some() && cluster.pace(node) == asked.pace {
            self.run.find(late());
        }
        let Some(revision) = revision_of(outcome) else { return };
        if asked.is_doubted && cluster.is_doubted(node) {
            self.run.find(direct::doubted(node, &format!("{outcome:?}")));
        }
        if cluster.disk_of(node) == asked.disk {
            let Asked { invoked, disk, .. } = *asked;
            self.run.spoke(Spoken { node: node.clone(), disk, invoked, returned: self.run.now(), revision });
        }
    }
}

/// The state of the node and of the run when the request was sent.
struct Asked {
    invoked: Nanos,
    disk: (u64, u64),
    pace: Option<u64>,
    is_doubted: bool,
}

/// The store's revision in an answer.
fn revision_of(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Ok(Answer::Written { revision } | Answer::Read { revision, .. }) => Some(*revision),
        _ => None,
    }
}

/// What a client may conclude from a refusal, according to README. "No such key" is an answer.
fn concluded(status: &Status, writes: bool) -> Outcome {
    let is_certain = match Certainty::of(status) {
        Some(certainty) => certainty == Certainty::None,
        None => matches!(
            status.code(),
            Code::InvalidArgument | Code::FailedPrecondition | Code::ResourceExhausted | Code::NotFound
        ),
    };
    match mokv_proto::status::revision_of(status.metadata()) {
        Some(revision) if status.code() == Code::NotFound => {
            Outcome::Ok(Answer::Read { revision, entry: None })
        }
        _ if is_certain || !writes => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

enum Broken {
    /// No byte was sent.
    NotSent,
    /// The request was sent, or may have been, and no answer arrived.
    Lost,
    /// The node refused the request.
    Refused(Status),
}

/// One unary call over a connection of its own.
async fn call_once(address: String, path: &str, body: Bytes, deadline: Duration) -> Result<Bytes, Broken> {
    let stream = TcpStream::connect(&address).await.map_err(|_| Broken::NotSent)?;
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(HyperExecutor)
        .timer(HyperTimer)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Broken::NotSent)?;
    let _connection = mokv::rt::task::spawn_guarded(async move {
        let _ = connection.await;
    });
    let request = Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", format!("{}m", deadline.as_millis()))
        .body(Full::new(body))
        .expect("all parts are well-formed");
    let response = sender.send_request(request).await.map_err(|_| Broken::Lost)?;
    let refused = |headers: &HeaderMap| {
        Status::from_header_map(headers).filter(|status| status.code() != Code::Ok).map(Broken::Refused)
    };
    if let Some(refused) = refused(response.headers()) {
        return Err(refused);
    }
    let collected = response.into_body().collect().await.map_err(|_| Broken::Lost)?;
    if let Some(refused) = collected.trailers().and_then(refused) {
        return Err(refused);
    }
    let bytes = collected.to_bytes();
    // One message, after its flag and its length.
    if bytes.len() < 5 { Err(Broken::Lost) } else { Ok(bytes.slice(5..)) }
}

/// A message as gRPC frames it: a flag, the length, the bytes.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    message.encode(&mut bytes).expect("the buffer grows");
    bytes.freeze()
}
