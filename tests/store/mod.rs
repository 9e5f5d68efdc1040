//! The smallest store with the services `api.KV` and `api.Admin`: one map in memory, in the test's own process. It
//! shows what the commands send and print, and nothing about the node. A few keys have a meaning: a write to `lost` has
//! an unknown outcome, `idle` is never written, and while `ill` exists the node is not ready.

// Every test program compiles this module and uses its own part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::Stream;
use hyper_util::rt::TokioIo;
use mokv::rt::net::TcpListener;
use mokv::rt::task::{HyperExecutor, TaskGuard, spawn_guarded};
use mokv_proto::api::admin_server::{Admin, AdminServer};
use mokv_proto::api::kv_server::{Kv, KvServer};
use mokv_proto::api::*;
use mokv_proto::status;
use mokv_proto::tonic::{self, Request, Response, Status, body::Body, service::Routes};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// A running store; it stops when dropped.
pub struct Store {
    /// `host:port`.
    pub address: String,
    _serving: TaskGuard<()>,
}

/// What a client has to pass before it reaches the store.
#[derive(Clone, Default)]
pub struct Gate {
    /// Accepts only TLS.
    pub tls: Option<TlsAcceptor>,
    /// Accepts only requests with this token.
    pub token: Option<&'static str>,
}

impl Store {
    /// Starts an empty store whose one node is called `only`.
    pub async fn start() -> Store {
        Store::start_behind(Gate::default()).await
    }

    /// The same, with TLS or a token required.
    pub async fn start_behind(gate: Gate) -> Store {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = State {
            address: address.clone(),
            entries: BTreeMap::new(),
            changes: Vec::new(),
            revision: 1,
            floor: 1,
        };
        let state = Arc::new(Mutex::new(state));
        Store { address, _serving: spawn_guarded(accept(listener, gate, Service(state))) }
    }
}

async fn accept(listener: TcpListener, gate: Gate, store: Service) {
    let mut routes = Routes::new(KvServer::new(store.clone()));
    routes = routes.add_service(AdminServer::new(store));
    let routes = routes.prepare();
    let mut connections = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (gate, routes) = (gate.clone(), routes.clone());
        connections.push(spawn_guarded(async move {
            match &gate.tls {
                None => serve(stream, gate.token, routes).await,
                // A client that fails the handshake is not served.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, gate.token, routes).await;
                    }
                }
            }
        }));
    }
}

async fn serve<S>(stream: S, token: Option<&'static str>, routes: Routes)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let expected = token.map(|token| format!("Bearer {token}"));
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let mut routes = routes.clone();
        let given = request.headers().get("authorization").and_then(|given| given.to_str().ok());
        let is_welcome = expected.is_none() || given == expected.as_deref();
        async move {
            match is_welcome {
                true => tower_service::Service::call(&mut routes, request.map(Body::new)).await,
                false => Ok(Status::unauthenticated("another token is asked for here").into_http()),
            }
        }
    });
    // The command may end its connections in any way.
    let _ = hyper::server::conn::http2::Builder::new(HyperExecutor)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

struct State {
    address: String,
    entries: BTreeMap<Bytes, GetResponse>,
    /// All that ever were.
    changes: Vec<Change>,
    revision: u64,
    /// The earliest revision that can be read.
    floor: u64,
}

impl State {
    fn check(&self, key: &[u8], if_revision: Option<u64>) -> Result<(), Status> {
        let present = self.entries.get(key).map_or(0, |entry| entry.mod_revision);
        match if_revision {
            Some(expected) if expected != present => Err(status::condition_failed(present)),
            _ => Ok(()),
        }
    }

    fn write(&mut self, key: Bytes, value: Bytes, revision: u64) {
        let before = self.entries.get(&key);
        let (create_revision, version) =
            before.map_or((revision, 1), |entry| (entry.create_revision, entry.version + 1));
        let mod_revision = revision;
        let change =
            Change { create_revision, version, value: value.clone(), ..self.next_change(&key, revision) };
        let entry = GetResponse { key: key.clone(), value, revision, create_revision, mod_revision, version };
        self.entries.insert(key, entry);
        self.changes.push(change);
        self.revision = revision;
    }

    /// Returns whether the key existed.
    fn remove(&mut self, key: &[u8], revision: u64) -> bool {
        if self.entries.remove(key).is_none() {
            return false;
        }
        let change = Change { deleted: true, ..self.next_change(key, revision) };
        self.changes.push(change);
        self.revision = revision;
        true
    }

    fn next_change(&self, key: &[u8], revision: u64) -> Change {
        let of_revision = self.changes.iter().filter(|change| made_at(change) == revision);
        let position = Position { revision, place: of_revision.count() as u32, cluster: 1 };
        Change { key: Bytes::copy_from_slice(key), position: Some(position), ..Change::default() }
    }

    /// Returns the first and the last revision of a request, in which 0 stands for the floor and for the present one.
    fn revisions(&self, from: u64, to: u64) -> Result<(u64, u64), Status> {
        for revision in [from, to].into_iter().filter(|revision| *revision > 0) {
            if revision < self.floor {
                return Err(status::compacted(revision, self.floor));
            }
            if revision > self.revision {
                return Err(status::future_revision(revision, self.revision));
            }
        }
        Ok((if from == 0 { self.floor } else { from }, if to == 0 { self.revision } else { to }))
    }
}

fn made_at(change: &Change) -> u64 {
    change.position.unwrap().revision
}

type ChangeStream = Pin<Box<dyn Stream<Item = Result<Change, Status>> + Send>>;

fn streamed(changes: Vec<Change>, revision: u64) -> Response<ChangeStream> {
    let changes = futures_util::stream::iter(changes.into_iter().map(Ok));
    let mut response = Response::new(Box::pin(changes) as ChangeStream);
    status::set_revision(response.metadata_mut(), revision);
    response
}

/// Transactions that are not nested, do not read the past, and compare mod revisions, versions and existence only.
impl State {
    fn holds(&self, condition: &Condition) -> bool {
        use condition::{Comparison, Keys, Operand};
        let passes = |entry: Option<&GetResponse>| {
            let (there, named) = match condition.operand.as_ref().unwrap() {
                Operand::ModRevision(named) => (entry.map_or(0, |entry| entry.mod_revision), *named),
                Operand::Version(named) => (entry.map_or(0, |entry| entry.version), *named),
                Operand::Exists(named) => (entry.is_some().into(), (*named).into()),
                other => panic!("{other:?}"),
            };
            match condition.comparison() {
                Comparison::Equal => there == named,
                Comparison::NotEqual => there != named,
                Comparison::Less => there < named,
                Comparison::Greater => there > named,
            }
        };
        match condition.keys.as_ref().unwrap() {
            Keys::Key(key) => passes(self.entries.get(key)),
            Keys::Range(range) => self.within(range).iter().all(|entry| passes(Some(entry))),
        }
    }

    fn within(&self, range: &KeyRange) -> Vec<GetResponse> {
        let entries = self.entries.range(range.start.clone()..).map(|(_, entry)| entry);
        entries.take_while(|entry| range.end.as_ref().is_none_or(|end| entry.key < *end)).cloned().collect()
    }

    fn execute(&mut self, operation: Operation, revision: u64) -> OperationResult {
        use operation::Operation as Do;
        use operation_result::Result as Done;
        let done = match operation.operation.unwrap() {
            Do::Set(SetOperation { key, value }) => {
                self.write(key, value, revision);
                Done::Set(SetResult {})
            }
            Do::Delete(DeleteOperation { key }) => {
                let deleted = self.remove(&key, revision);
                Done::Delete(DeleteResult { deleted: deleted.into() })
            }
            Do::DeleteRange(DeleteRangeOperation { range, limit }) => {
                let limit = if limit == 0 { usize::MAX } else { limit as usize };
                let gone = self.within(&range.unwrap());
                let gone: Vec<_> = gone.into_iter().take(limit).collect();
                gone.iter().for_each(|entry| assert!(self.remove(&entry.key, revision)));
                Done::Delete(DeleteResult { deleted: gone.len() as u64 })
            }
            Do::Get(GetOperation { key, .. }) => {
                Done::Get(GetResult { entry: self.entries.get(&key).cloned() })
            }
            Do::List(ListOperation { range, .. }) => {
                Done::List(ListResult { entries: self.within(&range.unwrap()), more: false })
            }
            other => panic!("{other:?}"),
        };
        OperationResult { result: Some(done) }
    }
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Kv for Service {
    async fn get(&self, request: Request<GetRequest>) -> Answer<GetResponse> {
        let state = self.state();
        let Some(entry) = state.entries.get(&request.get_ref().key) else {
            return Err(status::key_not_found(state.revision));
        };
        Ok(Response::new(GetResponse { revision: state.revision, ..entry.clone() }))
    }

    async fn set(&self, request: Request<SetRequest>) -> Answer<SetResponse> {
        let SetRequest { key, value, if_revision, .. } = request.into_inner();
        match &key[..] {
            b"lost" => return Err(status::unknown("the answer was lost")),
            b"idle" => return Err(status::not_executed("no leader is known", None)),
            _ => {}
        }
        let mut state = self.state();
        state.check(&key, if_revision)?;
        let revision = state.revision + 1;
        state.write(key, value, revision);
        Ok(Response::new(SetResponse { ok: true, revision }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answer<DeleteResponse> {
        let DeleteRequest { key, if_revision, .. } = request.into_inner();
        let mut state = self.state();
        state.check(&key, if_revision)?;
        let next = state.revision + 1;
        let existed = state.remove(&key, next);
        Ok(Response::new(DeleteResponse { ok: true, revision: state.revision, existed }))
    }

    async fn transact(&self, request: Request<TransactRequest>) -> Answer<TransactResponse> {
        let TransactRequest { conditions, then, otherwise, .. } = request.into_inner();
        let mut state = self.state();
        let succeeded = conditions.iter().all(|condition| state.holds(condition));
        let before = state.revision;
        let branch = if succeeded { then } else { otherwise };
        let results = branch.into_iter().map(|operation| state.execute(operation, before + 1)).collect();
        Ok(Response::new(TransactResponse { revision: state.revision, succeeded, results, missing: None }))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<GetResponse, Status>> + Send>>;

    async fn list(&self, request: Request<ListRequest>) -> Answer<Self::ListStream> {
        let ListRequest { prefix, start_after, limit, keys_only, .. } = request.into_inner();
        let limit = if limit == 0 { usize::MAX } else { limit as usize };
        let state = self.state();
        let entries: Vec<Result<GetResponse, Status>> = state
            .entries
            .values()
            .filter(|entry| entry.key.starts_with(&prefix[..]) && entry.key > start_after)
            .take(limit)
            .map(|entry| {
                let value = if keys_only { Bytes::new() } else { entry.value.clone() };
                Ok(GetResponse { value, ..entry.clone() })
            })
            .collect();
        let mut response = Response::new(Box::pin(futures_util::stream::iter(entries)) as Self::ListStream);
        status::set_revision(response.metadata_mut(), state.revision);
        Ok(response)
    }

    type VersionsStream = ChangeStream;

    async fn versions(&self, request: Request<VersionsRequest>) -> Answer<ChangeStream> {
        let VersionsRequest { key, from_revision, to_revision, limit, .. } = request.into_inner();
        let limit = if limit == 0 { usize::MAX } else { limit as usize };
        let state = self.state();
        let (from, to) = state.revisions(from_revision, to_revision)?;
        let of_key: Vec<&Change> = state.changes.iter().filter(|change| change.key == key).collect();
        let shown_first =
            of_key.iter().rfind(|change| made_at(change) <= from).filter(|change| !change.deleted);
        let versions =
            of_key.iter().filter(|change| made_at(change) >= from || Some(change) == shown_first.as_ref());
        let versions =
            versions.filter(|change| made_at(change) <= to).take(limit).copied().cloned().collect();
        Ok(streamed(versions, to))
    }

    type ChangesStream = ChangeStream;

    async fn changes(&self, request: Request<ChangesRequest>) -> Answer<ChangeStream> {
        let ChangesRequest { keys, from_revision, to_revision, limit, keys_only, .. } = request.into_inner();
        let range = match keys {
            Some(changes_request::Keys::Range(range)) => range,
            other => panic!("{other:?}"),
        };
        let state = self.state();
        let (from, to) = state.revisions(from_revision, to_revision)?;
        let mut changes: Vec<Change> = (state.changes.iter())
            .filter(|change| (from..=to).contains(&made_at(change)))
            .filter(|change| {
                change.key >= range.start && range.end.as_ref().is_none_or(|end| change.key < *end)
            })
            .cloned()
            .collect();
        // The last one's revision is whole.
        if let Some(last) = limit.checked_sub(1).and_then(|last| changes.get(last as usize)).map(made_at) {
            changes.retain(|change| made_at(change) <= last);
        }
        changes.iter_mut().filter(|_| keys_only).for_each(|change| change.value.clear());
        Ok(streamed(changes, to))
    }

    async fn get_servers(&self, _: Request<GetServersRequest>) -> Answer<GetServersResponse> {
        let server = Server {
            id: "only".to_owned(),
            rpc_addr: self.state().address.clone(),
            is_leader: true,
            node_id: 0xabc,
            is_learner: false,
        };
        Ok(Response::new(GetServersResponse { servers: vec![server], wanted_size: 0 }))
    }

    async fn open_session(&self, _: Request<OpenSessionRequest>) -> Answer<OpenSessionResponse> {
        Ok(Response::new(OpenSessionResponse { session: 1, window: 8 }))
    }

    async fn close_session(&self, _: Request<CloseSessionRequest>) -> Answer<CloseSessionResponse> {
        Ok(Response::new(CloseSessionResponse { ok: true }))
    }
}

#[tonic::async_trait]
impl Admin for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        let state = self.state();
        Ok(Response::new(StatusResponse {
            name: "only".to_owned(),
            role: "leader".to_owned(),
            leader_id: 0xabc,
            leader_name: "only".to_owned(),
            rpc_addr: state.address.clone(),
            revision: state.revision,
            keys: state.entries.len() as u64,
            reasons: state
                .entries
                .contains_key(&b"ill"[..])
                .then(|| "the key 'ill' is there".to_owned())
                .into_iter()
                .collect(),
            ..StatusResponse::default()
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Answer<TransferLeaderResponse> {
        match request.into_inner().to.as_str() {
            "" | "only" => Ok(Response::new(TransferLeaderResponse { leader: "only".to_owned() })),
            other => Err(Status::not_found(format!("there is no member '{other}'"))),
        }
    }

    async fn remove_member(&self, request: Request<RemoveMemberRequest>) -> Answer<RemoveMemberResponse> {
        let name = request.into_inner().name;
        Err(Status::not_found(format!("there is no member '{name}'")))
    }

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Answer<SnapshotResponse> {
        Ok(Response::new(SnapshotResponse { index: 7 }))
    }

    async fn leave(&self, _: Request<LeaveRequest>) -> Answer<LeaveResponse> {
        Err(Status::failed_precondition("this node stays a member: it is the last voter"))
    }

    type BackupStream = tonic::codegen::BoxStream<BackupChunk>;

    async fn backup(&self, _: Request<BackupRequest>) -> Answer<Self::BackupStream> {
        Err(Status::unimplemented("this store is gone with its process"))
    }

    async fn configure(&self, request: Request<ConfigureRequest>) -> Answer<ConfigureResponse> {
        let request = request.into_inner();
        Ok(Response::new(ConfigureResponse {
            max_sessions: request.max_sessions.unwrap_or(10_000),
            max_store_bytes: request.max_store_bytes.unwrap_or(0),
            wanted_size: request.wanted_size.unwrap_or(0),
            history_max_age_seconds: request.history_max_age_seconds.unwrap_or(300),
            history_max_bytes: request.history_max_bytes.unwrap_or(128 << 20),
            history_min_revisions: request.history_min_revisions.unwrap_or(100),
            max_transaction_changes: request.max_transaction_changes.unwrap_or(10_000),
            max_transaction_bytes: request.max_transaction_bytes.unwrap_or(64 << 20),
        }))
    }

    async fn compact(&self, request: Request<CompactRequest>) -> Answer<CompactResponse> {
        let floor_revision = request.into_inner().revision.unwrap_or(1);
        self.state().floor = floor_revision;
        Ok(Response::new(CompactResponse { floor_revision, raised: true }))
    }
}
