//! The service `api.KV`.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use mokv_proto::api::{self, Consistency, kv_server};
use mokv_proto::{log, status};
use tonic::{Request, Response, Status, async_trait};

use super::Deadline;
use super::context::{Context, Serving};
use super::list::{Listing, Retained};
use crate::config::MAX_KEY_BYTES;
use crate::map::{Answer, Command, Entry};
use crate::raft::Committed;
use crate::rt::{self, Instant};

/// Keys and values for clients.
pub struct Kv {
    context: Arc<Context>,
    retained: Arc<Retained>,
}

impl Kv {
    /// The service of a node.
    pub fn new(context: Arc<Context>) -> Kv {
        Kv { context, retained: Arc::default() }
    }

    async fn execute(&self, command: Command, deadline: Instant) -> Result<Committed, Status> {
        let serving = self.context.serving()?;
        let committed = serving.consensus.propose(command.encode(), deadline).await;
        committed.map_err(|error| self.context.propose_failed(error, rt::now() >= deadline))
    }

    /// Waits until this node may answer a read, as fresh as asked.
    async fn ready_to_read(
        &self,
        consistency: Consistency,
        min_revision: u64,
        deadline: Instant,
    ) -> Result<&Serving, Status> {
        let serving = self.context.serving()?;
        match consistency {
            Consistency::Linearizable => {
                serving
                    .consensus
                    .read_barrier(deadline)
                    .await
                    .map_err(|error| self.context.read_failed(error))?;
            }
            Consistency::Stale => {
                let store = serving.consensus.store();
                if store.read().map.revision() < min_revision {
                    rt::sometimes("stale read waited for its revision");
                }
                rt::time::timeout_at(deadline, store.wait_revision(min_revision)).await.map_err(|_| {
                    rt::sometimes("stale read declined for its revision");
                    Status::unavailable(format!(
                        "this node has not reached revision {min_revision} before the deadline"
                    ))
                })?;
            }
        }
        // Meanwhile its state may have come to be doubted.
        self.context.serving()
    }
}

pub(super) fn deadline<T>(request: &Request<T>) -> Instant {
    request.extensions().get::<Deadline>().expect("every request gets one when it arrives").0
}

fn check_key(key: &str) -> Result<(), Status> {
    match key.len() {
        0 => Err(Status::invalid_argument("the key is empty; a key has 1 to 4096 bytes")),
        length if length > MAX_KEY_BYTES => Err(Status::invalid_argument(format!(
            "the key has {length} bytes; at most {MAX_KEY_BYTES} are allowed"
        ))),
        _ => Ok(()),
    }
}

fn session_write(session: Option<api::SessionWrite>) -> Option<log::SessionWrite> {
    session.map(|api::SessionWrite { session, sequence, lowest_unanswered }| log::SessionWrite {
        session,
        sequence,
        lowest_unanswered,
    })
}

/// What the store refused, for the client.
fn refused(answer: Answer) -> Status {
    match answer {
        Answer::ConditionFailed { present_revision } => status::condition_failed(present_revision),
        Answer::SessionExpired => status::session_expired(),
        Answer::OutOfWindow { lowest } => status::out_of_window(lowest),
        Answer::StoreFull { max_store_bytes } => status::store_full(max_store_bytes),
        other => Status::internal(format!("the store gave an answer to another command: {other:?}")),
    }
}

pub(super) fn to_response(key: String, entry: &Entry, revision: u64, keys_only: bool) -> api::GetResponse {
    api::GetResponse {
        key,
        value: if keys_only { Bytes::new() } else { entry.value.clone() },
        revision,
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
        version: entry.version,
    }
}

#[async_trait]
impl kv_server::Kv for Kv {
    async fn get(&self, request: Request<api::GetRequest>) -> Result<Response<api::GetResponse>, Status> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        check_key(&request.key)?;
        let serving = self.ready_to_read(request.consistency(), request.min_revision, deadline).await?;
        let state = serving.consensus.store().read();
        let revision = state.map.revision();
        match state.map.get(request.key.as_bytes()) {
            Some(entry) => Ok(Response::new(to_response(request.key, entry, revision, false))),
            None => Err(status::key_not_found(revision)),
        }
    }

    async fn set(&self, request: Request<api::SetRequest>) -> Result<Response<api::SetResponse>, Status> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        check_key(&request.key)?;
        let (length, limit) = (request.value.len(), self.context.limits.max_value_bytes);
        if length > limit {
            return Err(Status::invalid_argument(format!(
                "the value has {length} bytes; at most {limit} are allowed (max-value-bytes)"
            )));
        }
        let command = Command::Set(log::Set {
            key: request.key.into_bytes().into(),
            value: request.value,
            if_revision: request.if_revision,
            session: session_write(request.session),
        });
        match self.execute(command, deadline).await?.answer {
            Answer::Written { revision } => Ok(Response::new(api::SetResponse { ok: true, revision })),
            other => Err(refused(other)),
        }
    }

    async fn delete(
        &self,
        request: Request<api::DeleteRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        check_key(&request.key)?;
        let command = Command::Delete(log::Delete {
            key: request.key.into_bytes().into(),
            if_revision: request.if_revision,
            session: session_write(request.session),
        });
        match self.execute(command, deadline).await?.answer {
            Answer::Deleted { revision, existed } => {
                Ok(Response::new(api::DeleteResponse { ok: true, revision, existed }))
            }
            other => Err(refused(other)),
        }
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<api::GetResponse, Status>> + Send>>;

    async fn list(&self, request: Request<api::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let limits = &self.context.limits;
        let map = match request.at_revision {
            0 => {
                let serving =
                    self.ready_to_read(request.consistency(), request.min_revision, deadline).await?;
                // One revision for the whole stream, however long it takes: O(1) to clone.
                serving.consensus.store().read().map.clone()
            }
            revision => {
                let current = self.context.serving()?.consensus.store().read().map.clone();
                self.retained.at(revision, current).ok_or_else(|| status::revision_gone(revision))?
            }
        };
        let revision = map.revision();
        if request.limit > 0 {
            // More pages may follow.
            self.retained.keep(map.clone());
        }
        let listing = Listing::new(map, request, limits.max_list_bytes);
        let stream = listing.stream(rt::now() + limits.max_list_time);
        let mut response = Response::new(Box::pin(stream) as Self::ListStream);
        status::set_revision(response.metadata_mut(), revision);
        Ok(response)
    }

    async fn get_servers(
        &self,
        request: Request<api::GetServersRequest>,
    ) -> Result<Response<api::GetServersResponse>, Status> {
        let (serving, membership) = match request.get_ref().linearizable {
            true => {
                let serving = self.ready_to_read(Consistency::Linearizable, 0, deadline(&request)).await?;
                (serving, Arc::new(serving.consensus.store().read().membership.clone()))
            }
            false => {
                let serving = self.context.serving()?;
                (serving, serving.consensus.membership())
            }
        };
        let leader = serving.consensus.leader();
        let voters: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
        let servers = (membership.nodes())
            .map(|(id, member)| api::Server {
                id: member.name.clone(),
                rpc_addr: serving.address_of(*id, member),
                is_leader: leader == Some(*id),
                node_id: *id,
                is_learner: !voters.contains(id),
            })
            .collect();
        let wanted_size = serving.consensus.store().read().map.settings().wanted_size;
        Ok(Response::new(api::GetServersResponse { servers, wanted_size }))
    }

    async fn open_session(
        &self,
        request: Request<api::OpenSessionRequest>,
    ) -> Result<Response<api::OpenSessionResponse>, Status> {
        let committed = self.execute(Command::OpenSession, deadline(&request)).await?;
        match committed.answer {
            Answer::SessionOpened { session } => {
                let window = self.context.serving()?.consensus.store().read().map.session_window();
                Ok(Response::new(api::OpenSessionResponse { session, window }))
            }
            other => Err(refused(other)),
        }
    }

    async fn close_session(
        &self,
        request: Request<api::CloseSessionRequest>,
    ) -> Result<Response<api::CloseSessionResponse>, Status> {
        let deadline = deadline(&request);
        let session = request.into_inner().session;
        match self.execute(Command::CloseSession { session }, deadline).await?.answer {
            Answer::SessionClosed { existed } => Ok(Response::new(api::CloseSessionResponse { ok: existed })),
            other => Err(refused(other)),
        }
    }
}
