//! A fake node over real HTTP/2 that answers as a test scripts it and records the requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::Stream;
use hyper_util::rt::TokioIo;
use mokv_proto::api::admin_server::{Admin, AdminServer};
use mokv_proto::api::kv_server::{Kv, KvServer};
use mokv_proto::api::{self, GetResponse, Server, SessionWrite};
use mokv_proto::status;
use mokv_proto::tonic::{Request, Response, Status, body::Body, service::Routes};

use crate::rt::net::TcpListener;
use crate::rt::task::{HyperExecutor, TaskGuard, spawn_guarded};
use crate::rt::time::HyperTimer;

/// The number of the cluster that made the changes.
pub(super) const CLUSTER: u64 = 77;

/// How the next request of a method is answered instead of successfully.
pub(super) enum Play {
    /// With this error.
    Fail(Status),
    /// No answer.
    Silence,
    /// All connections are cut.
    Cut,
    /// (Streams) The connections are cut after this many messages.
    CutAfter(usize),
    /// (Streams) Nothing more comes after this many messages.
    StallAfter(usize),
}

/// A request that a node received.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Heard {
    Get(api::GetRequest),
    Set(api::SetRequest),
    Delete(api::DeleteRequest),
    List(api::ListRequest),
    Versions(api::VersionsRequest),
    Changes(api::ChangesRequest),
    Transact(api::TransactRequest),
    OpenSession,
    CloseSession(u64),
    /// An operator's command.
    Admin,
}

#[derive(Default)]
struct State {
    members: Vec<Server>,
    plays: BTreeMap<&'static str, VecDeque<Play>>,
    heard: Vec<Heard>,
    /// Requests without `grpc-timeout`.
    unbounded: usize,
    tokens: BTreeSet<Option<String>>,
    accepted: usize,
    connections: Vec<TaskGuard<()>>,
    entries: Vec<GetResponse>,
    changes: Vec<api::Change>,
    revision: u64,
    sessions: u64,
    window: u64,
    address: String,
}

/// A running fake node; it stops when dropped.
pub(super) struct Node {
    pub(super) address: String,
    state: Arc<Mutex<State>>,
    _serving: TaskGuard<()>,
}

impl Node {
    pub(super) async fn start() -> Node {
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State {
            window: 8,
            revision: 100,
            address: address.clone(),
            ..State::default()
        }));
        let _serving = spawn_guarded(serve(listener, state.clone()));
        Node { address, state, _serving }
    }

    /// Sets the members that this node lists.
    pub(super) fn set_members(&self, members: &[Server]) {
        self.state().members = members.to_vec();
    }

    /// Scripts the answer to the next request of `method`; several are used in order.
    pub(super) fn play(&self, method: &'static str, play: Play) {
        self.state().plays.entry(method).or_default().push_back(play);
    }

    pub(super) fn set_window(&self, window: u64) {
        self.state().window = window;
    }

    pub(super) fn set_entries(&self, revision: u64, keys: &[&str]) {
        let mut state = self.state();
        state.revision = revision;
        state.entries = keys
            .iter()
            .map(|key| GetResponse {
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: Bytes::from_static(b"v"),
                revision,
                create_revision: 1,
                mod_revision: 2,
                version: 3,
            })
            .collect();
    }

    /// Sets the changes of the history, as revision, place and key.
    pub(super) fn set_changes(&self, revision: u64, changes: &[(u64, u32, &str)]) {
        let mut state = self.state();
        state.revision = revision;
        state.changes = changes
            .iter()
            .map(|(revision, place, key)| api::Change {
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: Bytes::from_static(b"v"),
                position: Some(api::Position { revision: *revision, place: *place, cluster: CLUSTER }),
                deleted: false,
                create_revision: 1,
                version: 3,
            })
            .collect();
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.state().heard.clone()
    }

    pub(super) fn sets(&self) -> Vec<api::SetRequest> {
        let sets = self.heard().into_iter().filter_map(|heard| match heard {
            Heard::Set(request) => Some(request),
            _ => None,
        });
        sets.collect()
    }

    /// The names of the writes received, in order.
    pub(super) fn names(&self) -> Vec<SessionWrite> {
        self.sets().into_iter().map(|set| set.session.expect("the write has a name")).collect()
    }

    pub(super) fn unbounded(&self) -> usize {
        self.state().unbounded
    }

    /// The `authorization` values of the requests.
    pub(super) fn tokens(&self) -> BTreeSet<Option<String>> {
        self.state().tokens.clone()
    }

    pub(super) fn accepted(&self) -> usize {
        self.state().accepted
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let routes = Routes::new(KvServer::new(Service(state.clone())))
        .add_service(AdminServer::new(Service(state.clone())))
        .prepare();
    while let Ok((stream, _)) = listener.accept().await {
        let routes = routes.clone();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let mut routes = routes.clone();
            async move { tower_service::Service::call(&mut routes, request.map(Body::new)).await }
        });
        let connection = spawn_guarded(async move {
            let mut builder = hyper::server::conn::http2::Builder::new(HyperExecutor);
            let _ = builder.timer(HyperTimer).serve_connection(TokioIo::new(stream), service).await;
        });
        let mut state = state.lock().unwrap();
        state.accepted += 1;
        state.connections.push(connection);
    }
}

struct Service(Arc<Mutex<State>>);

impl Service {
    /// Records the request and does what the test scripted; `Ok` with how a stream is to break off, if it is.
    async fn hear<T>(
        &self,
        method: &'static str,
        request: Request<T>,
        heard: impl FnOnce(T) -> Option<Heard>,
    ) -> Result<Option<Play>, Status> {
        let play = {
            let mut state = self.state();
            if !request.metadata().contains_key("grpc-timeout") {
                state.unbounded += 1;
            }
            let token = request.metadata().get("authorization");
            state.tokens.insert(token.map(|token| token.to_str().unwrap().to_owned()));
            state.heard.extend(heard(request.into_inner()));
            state.plays.get_mut(method).and_then(VecDeque::pop_front)
        };
        match play {
            None => Ok(None),
            Some(play @ (Play::CutAfter(_) | Play::StallAfter(_))) => Ok(Some(play)),
            Some(Play::Fail(status)) => Err(status),
            Some(Play::Silence) => std::future::pending().await,
            Some(Play::Cut) => {
                cut(&self.0);
                std::future::pending().await
            }
        }
    }

    /// The changes after a place and up to a revision (0: all), and the revision in the response. A limit cuts no revision
    /// apart.
    fn rest_of_changes(
        &self,
        is_asked_for: impl Fn(&api::Change) -> bool,
        after: api::Position,
        to: u64,
        limit: u64,
    ) -> (Vec<api::Change>, u64) {
        let state = self.state();
        let place = |change: &api::Change| change.position.map(|at| (at.revision, at.place));
        let of = |change: &api::Change| change.position.unwrap().revision;
        let rest: Vec<_> = (state.changes.iter())
            .filter(|change| is_asked_for(change) && place(change) > Some((after.revision, after.place)))
            .filter(|change| to == 0 || of(change) <= to)
            .cloned()
            .collect();
        let last = limit.checked_sub(1).and_then(|last| rest.get(last as usize)).map(of);
        let is_within = |change: &api::Change| last.is_none_or(|last| of(change) <= last);
        let revision = if to == 0 { state.revision } else { to };
        (rest.into_iter().take_while(is_within).collect(), revision)
    }

    /// Streams messages, and breaks off as the test scripted.
    fn streamed<T: Clone + Send + 'static>(
        &self,
        messages: Vec<T>,
        revision: u64,
        play: Option<Play>,
    ) -> Response<Streamed<T>> {
        let (cut_after, stall_after) = match play {
            Some(Play::CutAfter(messages)) => (Some(messages), None),
            Some(Play::StallAfter(messages)) => (None, Some(messages)),
            _ => (None, None),
        };
        let state = self.0.clone();
        let stream = futures_util::stream::unfold(0, move |at| {
            let (message, state) = (messages.get(at).cloned(), state.clone());
            async move {
                if stall_after == Some(at) {
                    std::future::pending::<()>().await;
                }
                if cut_after == Some(at) {
                    // Lets the messages streamed so far arrive first.
                    crate::rt::sleep(std::time::Duration::from_millis(50)).await;
                    cut(&state);
                    std::future::pending::<()>().await;
                }
                message.map(|message| (Ok(message), at + 1))
            }
        });
        let mut response = Response::new(Box::pin(stream) as Streamed<T>);
        status::set_revision(response.metadata_mut(), revision);
        response
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn cut(state: &Mutex<State>) {
    let connections = std::mem::take(&mut state.lock().unwrap().connections);
    drop(connections);
}

#[mokv_proto::tonic::async_trait]
impl Kv for Service {
    async fn get(&self, request: Request<api::GetRequest>) -> Result<Response<GetResponse>, Status> {
        let key = request.get_ref().key.clone();
        self.hear("get", request, |request| Some(Heard::Get(request))).await?;
        let state = self.state();
        let entry = state.entries.iter().find(|entry| entry.key == key).cloned();
        entry.map(Response::new).ok_or_else(|| status::key_not_found(state.revision))
    }

    async fn set(&self, request: Request<api::SetRequest>) -> Result<Response<api::SetResponse>, Status> {
        self.hear("set", request, |request| Some(Heard::Set(request))).await?;
        let mut state = self.state();
        state.revision += 1;
        Ok(Response::new(api::SetResponse { ok: true, revision: state.revision }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        self.hear("delete", request, |request| Some(Heard::Delete(request))).await?;
        let revision = self.state().revision;
        Ok(Response::new(api::DeleteResponse { ok: true, revision, existed: false }))
    }

    type ListStream = Streamed<GetResponse>;

    async fn list(&self, request: Request<api::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let after = request.get_ref().start_after.clone();
        let play = self.hear("list", request, |request| Some(Heard::List(request))).await?;
        let (entries, revision) = {
            let state = self.state();
            let rest = state.entries.iter().filter(|entry| entry.key > after);
            (rest.cloned().collect::<Vec<_>>(), state.revision)
        };
        Ok(self.streamed(entries, revision, play))
    }

    type VersionsStream = Streamed<api::Change>;

    async fn versions(
        &self,
        request: Request<api::VersionsRequest>,
    ) -> Result<Response<Self::VersionsStream>, Status> {
        let asked = request.get_ref().clone();
        let play = self.hear("versions", request, |request| Some(Heard::Versions(request))).await?;
        let after = api::Position { place: u32::MAX, ..asked.start_after.unwrap_or_default() };
        let is_version = |change: &api::Change| change.key == asked.key;
        let (changes, revision) = self.rest_of_changes(is_version, after, asked.to_revision, asked.limit);
        Ok(self.streamed(changes, revision, play))
    }

    type ChangesStream = Streamed<api::Change>;

    async fn changes(
        &self,
        request: Request<api::ChangesRequest>,
    ) -> Result<Response<Self::ChangesStream>, Status> {
        let asked = request.get_ref().clone();
        let play = self.hear("changes", request, |request| Some(Heard::Changes(request))).await?;
        let after = asked.start_after.unwrap_or_default();
        let (changes, revision) = self.rest_of_changes(|_| true, after, asked.to_revision, asked.limit);
        Ok(self.streamed(changes, revision, play))
    }

    async fn transact(
        &self,
        request: Request<api::TransactRequest>,
    ) -> Result<Response<api::TransactResponse>, Status> {
        let then = request.get_ref().then.clone();
        self.hear("transact", request, |request| Some(Heard::Transact(request))).await?;
        let mut state = self.state();
        let mut result = |operation: api::Operation| {
            use api::operation::Operation as Do;
            use api::operation_result::Result as Done;
            match operation.operation.unwrap() {
                Do::Set(_) => Done::Set(api::SetResult {}),
                Do::Delete(_) => Done::Delete(api::DeleteResult { deleted: 1 }),
                // Every range has all keys.
                Do::DeleteRange(delete) => {
                    let deleted = state.entries.len().min(delete.limit as usize);
                    state.entries.drain(..deleted);
                    Done::Delete(api::DeleteResult { deleted: deleted as u64 })
                }
                Do::Get(get) => {
                    let entry = state.entries.iter().find(|entry| entry.key == get.key).cloned();
                    Done::Get(api::GetResult { entry })
                }
                Do::List(_) => Done::List(api::ListResult { entries: state.entries.clone(), more: false }),
                Do::Nested(_) => Done::Nested(api::NestedResult::default()),
            }
        };
        let results =
            then.into_iter().map(|one| api::OperationResult { result: Some(result(one)) }).collect();
        let revision = state.revision;
        Ok(Response::new(api::TransactResponse { revision, succeeded: true, results, missing: None }))
    }

    async fn get_servers(
        &self,
        request: Request<api::GetServersRequest>,
    ) -> Result<Response<api::GetServersResponse>, Status> {
        self.hear("get_servers", request, |_| None).await?;
        Ok(Response::new(api::GetServersResponse { servers: self.state().members.clone(), wanted_size: 0 }))
    }

    async fn open_session(
        &self,
        request: Request<api::OpenSessionRequest>,
    ) -> Result<Response<api::OpenSessionResponse>, Status> {
        self.hear("open_session", request, |_| Some(Heard::OpenSession)).await?;
        let mut state = self.state();
        state.sessions += 1;
        Ok(Response::new(api::OpenSessionResponse { session: state.sessions, window: state.window }))
    }

    async fn close_session(
        &self,
        request: Request<api::CloseSessionRequest>,
    ) -> Result<Response<api::CloseSessionResponse>, Status> {
        self.hear("close_session", request, |request| Some(Heard::CloseSession(request.session))).await?;
        Ok(Response::new(api::CloseSessionResponse { ok: true }))
    }
}

#[mokv_proto::tonic::async_trait]
impl Admin for Service {
    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        self.hear("status", request, |_| None).await?;
        let rpc_addr = self.state().address.clone();
        Ok(Response::new(api::StatusResponse { rpc_addr, ..api::StatusResponse::default() }))
    }

    async fn transfer_leader(
        &self,
        request: Request<api::TransferLeaderRequest>,
    ) -> Result<Response<api::TransferLeaderResponse>, Status> {
        let leader = request.get_ref().to.clone();
        self.hear("transfer_leader", request, |_| Some(Heard::Admin)).await?;
        Ok(Response::new(api::TransferLeaderResponse { leader }))
    }

    async fn remove_member(
        &self,
        request: Request<api::RemoveMemberRequest>,
    ) -> Result<Response<api::RemoveMemberResponse>, Status> {
        let name = request.get_ref().name.clone();
        self.hear("remove_member", request, |_| Some(Heard::Admin)).await?;
        let state = self.state();
        let node_id = state.members.iter().find(|member| member.id == name).map(|member| member.node_id);
        Ok(Response::new(api::RemoveMemberResponse { node_id: node_id.unwrap() }))
    }

    async fn snapshot(
        &self,
        request: Request<api::SnapshotRequest>,
    ) -> Result<Response<api::SnapshotResponse>, Status> {
        self.hear("snapshot", request, |_| None).await?;
        Ok(Response::new(api::SnapshotResponse { index: self.state().revision }))
    }

    async fn leave(
        &self,
        request: Request<api::LeaveRequest>,
    ) -> Result<Response<api::LeaveResponse>, Status> {
        self.hear("leave", request, |_| Some(Heard::Admin)).await?;
        Ok(Response::new(api::LeaveResponse {}))
    }

    type BackupStream = Pin<Box<dyn Stream<Item = Result<api::BackupChunk, Status>> + Send>>;

    async fn backup(
        &self,
        request: Request<api::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let play = self.hear("backup", request, |_| None).await?;
        let info = api::BackupInfo { keys: 7, ..api::BackupInfo::default() };
        let data = |data: &'static [u8]| Ok(api::BackupChunk { info: None, data: data.into() });
        let mut chunks = vec![Ok(api::BackupChunk { info: Some(info), data: Default::default() })];
        chunks.extend([data(b"one"), data(b"two")]);
        if let Some(Play::CutAfter(chunk)) = play {
            chunks[chunk] = Err(Status::unavailable("this node is stopping"));
        }
        Ok(Response::new(Box::pin(futures_util::stream::iter(chunks))))
    }

    async fn compact(
        &self,
        request: Request<api::CompactRequest>,
    ) -> Result<Response<api::CompactResponse>, Status> {
        let floor_revision = request.get_ref().revision.unwrap_or(0);
        self.hear("compact", request, |_| Some(Heard::Admin)).await?;
        Ok(Response::new(api::CompactResponse { floor_revision, raised: true }))
    }

    async fn configure(
        &self,
        request: Request<api::ConfigureRequest>,
    ) -> Result<Response<api::ConfigureResponse>, Status> {
        let max_sessions = request.get_ref().max_sessions.unwrap_or(1);
        self.hear("configure", request, |_| Some(Heard::Admin)).await?;
        Ok(Response::new(api::ConfigureResponse { max_sessions, ..Default::default() }))
    }
}
