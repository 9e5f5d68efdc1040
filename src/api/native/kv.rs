//! The service `api.KV`: translates its messages to requests of the core, and replies back.

use std::num::{NonZeroU32, NonZeroU64};
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use mokv_proto::api::changes_request::Keys;
use mokv_proto::api::{self, Consistency, kv_server};
use tonic::{Request, Response, Status, async_trait};

use super::{call, status, transaction};
use crate::map::{ChangeAt, Entry};
use crate::service::{
    Changed, Changes, CloseSession, Delete, Freshness, Get, KeptPosition, KeyChange, List, ListedKey,
    Members, OpenSession, ReadAt, Service, Set, Transact, Versions, WriteName,
};
use crate::transaction::KeyRange;

/// The service for clients.
pub struct Kv {
    service: Service,
}

impl Kv {
    /// Returns the service of a node.
    pub fn new(service: Service) -> Kv {
        Kv { service }
    }
}

fn freshness(consistency: Consistency, min_revision: u64) -> Freshness {
    match consistency {
        Consistency::Linearizable => Freshness::Linearizable,
        Consistency::Stale => Freshness::Stale { min_revision },
    }
}

/// `at_revision` 0 stands for the present one.
fn read_at(at_revision: u64, consistency: Consistency, min_revision: u64) -> ReadAt {
    match at_revision {
        0 => ReadAt::Present(freshness(consistency, min_revision)),
        revision => ReadAt::Revision(revision),
    }
}

fn write_name(session: Option<api::SessionWrite>) -> Option<WriteName> {
    session.map(|api::SessionWrite { session, sequence, lowest_unanswered }| WriteName {
        session,
        sequence,
        lowest_unanswered,
    })
}

pub(super) fn to_response(key: Bytes, entry: Entry, revision: u64) -> api::GetResponse {
    let Entry { value, create_revision, mod_revision, version } = entry;
    api::GetResponse { key, value, revision, create_revision, mod_revision, version }
}

/// 0 stands for none.
fn revision(revision: u64) -> Option<u64> {
    (revision > 0).then_some(revision)
}

fn kept(api::Position { revision, place, cluster }: api::Position) -> KeptPosition {
    KeptPosition { at: ChangeAt { revision, place }, cluster: NonZeroU64::new(cluster) }
}

type ChangeStream = Pin<Box<dyn Stream<Item = Result<api::Change, Status>> + Send>>;

fn changed(Changed { revision, cluster, changes }: Changed) -> Response<ChangeStream> {
    let changes = changes.map(move |change| change.map(|change| to_change(change, cluster)).map_err(status));
    let mut response = Response::new(Box::pin(changes) as ChangeStream);
    mokv_proto::status::set_revision(response.metadata_mut(), revision);
    response
}

fn to_change(KeyChange { key, at, entry }: KeyChange, cluster: NonZeroU64) -> api::Change {
    let ChangeAt { revision, place } = at;
    let position = Some(api::Position { revision, place, cluster: cluster.get() });
    match entry {
        Some(Entry { value, create_revision, version, .. }) => {
            api::Change { key, value, position, deleted: false, create_revision, version }
        }
        None => api::Change { key, position, deleted: true, ..Default::default() },
    }
}

#[async_trait]
impl kv_server::Kv for Kv {
    async fn get(&self, request: Request<api::GetRequest>) -> Result<Response<api::GetResponse>, Status> {
        let got = call(&self.service, request, |request| Get {
            at: read_at(request.at_revision, request.consistency(), request.min_revision),
            key: request.key,
        })
        .await?;
        Ok(Response::new(to_response(got.key, got.entry, got.revision)))
    }

    async fn set(&self, request: Request<api::SetRequest>) -> Result<Response<api::SetResponse>, Status> {
        let set = |api::SetRequest { key, value, if_revision, session }| Set {
            key,
            value,
            if_revision,
            name: write_name(session),
        };
        let revision = call(&self.service, request, set).await?;
        Ok(Response::new(api::SetResponse { ok: true, revision }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        let delete = |api::DeleteRequest { key, if_revision, session }| Delete {
            key,
            if_revision,
            name: write_name(session),
        };
        let deleted = call(&self.service, request, delete).await?;
        Ok(Response::new(api::DeleteResponse {
            ok: true,
            revision: deleted.revision,
            existed: deleted.existed,
        }))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<api::GetResponse, Status>> + Send>>;

    async fn list(&self, request: Request<api::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let list = |request: api::ListRequest| List {
            at: read_at(request.at_revision, request.consistency(), request.min_revision),
            prefix: request.prefix,
            start_after: request.start_after,
            limit: (request.limit > 0).then_some(request.limit),
            keys_only: request.keys_only,
        };
        let listed = call(&self.service, request, list).await?;
        let revision = listed.revision;
        let keys = listed.keys.map(move |key| match key {
            Ok(ListedKey { key, entry }) => Ok(to_response(key, entry, revision)),
            Err(refused) => Err(status(refused)),
        });
        let mut response = Response::new(Box::pin(keys) as Self::ListStream);
        mokv_proto::status::set_revision(response.metadata_mut(), revision);
        Ok(response)
    }

    type VersionsStream = ChangeStream;

    async fn versions(
        &self,
        request: Request<api::VersionsRequest>,
    ) -> Result<Response<ChangeStream>, Status> {
        let versions = |request: api::VersionsRequest| Versions {
            to: read_at(request.to_revision, request.consistency(), request.min_revision),
            from: revision(request.from_revision),
            start_after: request.start_after.map(kept),
            limit: NonZeroU64::new(request.limit),
            key: request.key,
        };
        call(&self.service, request, versions).await.map(changed)
    }

    type ChangesStream = ChangeStream;

    async fn changes(&self, request: Request<api::ChangesRequest>) -> Result<Response<ChangeStream>, Status> {
        let changes = |request: api::ChangesRequest| Changes {
            to: read_at(request.to_revision, request.consistency(), request.min_revision),
            from: revision(request.from_revision),
            start_after: request.start_after.map(kept),
            limit: NonZeroU64::new(request.limit),
            keys_only: request.keys_only,
            range: match request.keys {
                None => KeyRange::prefix(""),
                Some(Keys::Prefix(prefix)) => KeyRange::prefix(prefix),
                Some(Keys::Range(range)) => transaction::key_range(range),
            },
        };
        call(&self.service, request, changes).await.map(changed)
    }

    async fn get_servers(
        &self,
        request: Request<api::GetServersRequest>,
    ) -> Result<Response<api::GetServersResponse>, Status> {
        let members = |request: api::GetServersRequest| Members { linearizable: request.linearizable };
        let list = call(&self.service, request, members).await?;
        let servers = (list.members.into_iter())
            .map(|member| api::Server {
                id: member.name,
                rpc_addr: member.rpc_addr,
                is_leader: member.is_leader,
                node_id: member.node_id.0,
                is_learner: member.is_learner,
            })
            .collect();
        let wanted_size = list.wanted_size.map_or(0, NonZeroU32::get);
        Ok(Response::new(api::GetServersResponse { servers, wanted_size }))
    }

    async fn transact(
        &self,
        mut request: Request<api::TransactRequest>,
    ) -> Result<Response<api::TransactResponse>, Status> {
        let message = request.get_mut();
        let [then, otherwise] = [&mut message.then, &mut message.otherwise].map(std::mem::take);
        let transaction = transaction::transaction(std::mem::take(&mut message.conditions), then, otherwise)?;
        let transacted = call(&self.service, request, |request| Transact {
            freshness: freshness(request.consistency(), request.min_revision),
            name: write_name(request.session),
            transaction,
        })
        .await?;
        Ok(Response::new(transaction::response(transacted)))
    }

    async fn open_session(
        &self,
        request: Request<api::OpenSessionRequest>,
    ) -> Result<Response<api::OpenSessionResponse>, Status> {
        let opened = call(&self.service, request, |_| OpenSession).await?;
        Ok(Response::new(api::OpenSessionResponse { session: opened.session, window: opened.window }))
    }

    async fn close_session(
        &self,
        request: Request<api::CloseSessionRequest>,
    ) -> Result<Response<api::CloseSessionResponse>, Status> {
        let close = |request: api::CloseSessionRequest| CloseSession { session: request.session };
        let existed = call(&self.service, request, close).await?;
        Ok(Response::new(api::CloseSessionResponse { ok: existed }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    /// `SetRequest` as the original declares it, whose clients work unchanged.
    #[derive(Clone, PartialEq, prost::Message)]
    struct OriginalSetRequest {
        #[prost(string, tag = "1")]
        key: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }

    proptest! {
        #[test]
        fn keys_are_the_same_on_the_wire_as_the_originals(key in any::<String>(), value in any::<Vec<u8>>()) {
            let original = OriginalSetRequest { key: key.clone(), value: value.clone() }.encode_to_vec();
            let ours = api::SetRequest { key: key.into(), value: value.into(), ..Default::default() };
            prop_assert_eq!(&ours.encode_to_vec(), &original);
            prop_assert_eq!(api::SetRequest::decode(original.as_slice()).unwrap(), ours);
        }
    }
}
