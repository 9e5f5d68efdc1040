//! The service `api.Admin`: translates its messages to requests of the core, and replies back.

use std::num::{NonZeroU32, NonZeroU64};
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use mokv_proto::api::{self, admin_server};
use tonic::{Request, Response, Status, async_trait};

use super::{call, status};
use crate::map::ShownDigest;
use crate::replicated_settings::{SettingsChange, age_of_seconds, seconds_of_age};
use crate::service::{
    self, Backup, Compact, Compacted, Configure, Contradicted, Leave, MemoryUse, Place, RemoveMember,
    Service, TakeSnapshot, TransferLeader, WentBack,
};

/// The service for operators.
pub struct Admin {
    service: Service,
}

impl Admin {
    /// Returns the service of a node.
    pub fn new(service: Service) -> Admin {
        Admin { service }
    }
}

#[async_trait]
impl admin_server::Admin for Admin {
    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        let node = call(&self.service, request, |_| service::Status).await?;
        let mut response = api::StatusResponse {
            node_id: node.node_id.0,
            version: env!("CARGO_PKG_VERSION").into(),
            boot_counter: node.boot,
            rpc_addr: node.rpc_addr,
            digest_alarm: node.digest_alarm,
            role: node.role.into(),
            contradiction: node.contradiction.map(contradiction),
            gone_back: node.gone_back.into_iter().map(gone_back).collect(),
            name: node.name,
            reasons: node.reasons,
            ..Default::default()
        };
        let Some(raft) = node.raft else { return Ok(Response::new(response)) };
        response.cluster_id = hex(&raft.cluster_id.0);
        response.term = raft.term;
        let Some(state) = raft.recovered else { return Ok(Response::new(response)) };
        response.leader_id = state.leader_id.map_or(0, |id| id.0);
        response.leader_name = state.leader_name;
        response.last_log_index = state.last_log_index;
        response.committed_index = state.committed_index;
        response.snapshot_index = state.snapshot_index;
        response.purged_index = state.purged_index;
        response.applied_index = state.applied_index;
        response.revision = state.revision;
        response.keys = state.keys;
        response.bytes = state.bytes;
        response.size_bytes = state.size_bytes;
        response.history_bytes = state.history_bytes;
        response.floor_revision = state.floor;
        response.sessions = state.sessions;
        response.memory = Some(memory(state.memory));
        response.wanted_size = state.wanted_size.map_or(0, NonZeroU32::get);
        response.digest = shown(state.digest);
        response.digests = (state.digests.into_iter())
            .map(|(index, digest)| api::DigestAt { index, digest: digest.to_string() })
            .collect();
        Ok(Response::new(response))
    }

    async fn transfer_leader(
        &self,
        request: Request<api::TransferLeaderRequest>,
    ) -> Result<Response<api::TransferLeaderResponse>, Status> {
        let transfer = |request: api::TransferLeaderRequest| TransferLeader {
            to: Some(request.to).filter(|name| !name.is_empty()),
        };
        let leader = call(&self.service, request, transfer).await?;
        Ok(Response::new(api::TransferLeaderResponse { leader }))
    }

    async fn remove_member(
        &self,
        request: Request<api::RemoveMemberRequest>,
    ) -> Result<Response<api::RemoveMemberResponse>, Status> {
        let remove = |api::RemoveMemberRequest { name, place_stays_open }| RemoveMember {
            name,
            place: if place_stays_open { Place::StaysOpen } else { Place::Closes },
        };
        let node_id = call(&self.service, request, remove).await?;
        Ok(Response::new(api::RemoveMemberResponse { node_id: node_id.0 }))
    }

    async fn leave(
        &self,
        request: Request<api::LeaveRequest>,
    ) -> Result<Response<api::LeaveResponse>, Status> {
        call(&self.service, request, |_| Leave).await?;
        Ok(Response::new(api::LeaveResponse {}))
    }

    async fn snapshot(
        &self,
        request: Request<api::SnapshotRequest>,
    ) -> Result<Response<api::SnapshotResponse>, Status> {
        let index = call(&self.service, request, |_| TakeSnapshot).await?;
        Ok(Response::new(api::SnapshotResponse { index }))
    }

    type BackupStream = Pin<Box<dyn Stream<Item = Result<api::BackupChunk, Status>> + Send>>;

    async fn backup(
        &self,
        request: Request<api::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let backup = call(&self.service, request, |_| Backup).await?;
        let info = api::BackupInfo {
            revision: backup.revision,
            keys: backup.keys,
            digest: shown(backup.digest),
            index: backup.index,
            expected_bytes: backup.expected_bytes,
        };
        let info = api::BackupChunk { info: Some(info), data: Bytes::new() };
        let chunks = backup.chunks.map(|chunk| match chunk {
            Ok(data) => Ok(api::BackupChunk { info: None, data }),
            Err(refused) => Err(status(refused)),
        });
        Ok(Response::new(Box::pin(stream::iter([Ok(info)]).chain(chunks))))
    }

    async fn configure(
        &self,
        request: Request<api::ConfigureRequest>,
    ) -> Result<Response<api::ConfigureResponse>, Status> {
        let asked = request.get_ref();
        let size_alone = api::ConfigureRequest { wanted_size: asked.wanted_size, ..Default::default() };
        if asked.wanted_size.is_some() && *asked != size_alone {
            return Err(Status::invalid_argument(
                "wanted_size cannot be changed together with bounds; change it in a request of its own",
            ));
        }
        let configure = |request: api::ConfigureRequest| match request.wanted_size {
            Some(wanted_size) => Configure::WantedSize(NonZeroU32::new(wanted_size)),
            None => Configure::Bounds(SettingsChange {
                max_sessions: request.max_sessions,
                max_store_bytes: request.max_store_bytes.map(NonZeroU64::new),
                history_max_age: request.history_max_age_seconds.map(age_of_seconds),
                history_max_bytes: request.history_max_bytes.map(NonZeroU64::new),
                history_min_revisions: request.history_min_revisions,
                max_transaction_changes: request.max_transaction_changes,
                max_transaction_bytes: request.max_transaction_bytes,
            }),
        };
        let settings = call(&self.service, request, configure).await?;
        Ok(Response::new(api::ConfigureResponse {
            max_sessions: settings.max_sessions,
            max_store_bytes: settings.max_store_bytes.map_or(0, NonZeroU64::get),
            wanted_size: settings.wanted_size.map_or(0, NonZeroU32::get),
            history_max_age_seconds: seconds_of_age(settings.history_max_age),
            history_max_bytes: settings.history_max_bytes.map_or(0, NonZeroU64::get),
            history_min_revisions: settings.history_min_revisions,
            max_transaction_changes: settings.max_transaction_changes,
            max_transaction_bytes: settings.max_transaction_bytes,
        }))
    }

    async fn compact(
        &self,
        request: Request<api::CompactRequest>,
    ) -> Result<Response<api::CompactResponse>, Status> {
        let compact = |api::CompactRequest { revision }| Compact { revision };
        let Compacted { floor, raised } = call(&self.service, request, compact).await?;
        Ok(Response::new(api::CompactResponse { floor_revision: floor, raised }))
    }
}

fn contradiction(found: Contradicted) -> api::Contradiction {
    let Contradicted {
        term,
        index,
        leader_entry_term,
        leader_entry_index,
        leader_id,
        leader_name,
        leader_term,
    } = found;
    api::Contradiction {
        term,
        index,
        leader_entry_term,
        leader_entry_index,
        leader_id: leader_id.0,
        leader_name,
        leader_term,
    }
}

fn memory(memory: MemoryUse) -> api::MemoryUse {
    api::MemoryUse {
        resident_bytes: memory.resident.unwrap_or(0),
        key_bytes: memory.keys,
        value_bytes: memory.values,
        history_bytes: memory.history,
        session_bytes: memory.sessions,
        log_cache_bytes: memory.log_cache,
        log_index_bytes: memory.log_index,
        log_queue_bytes: memory.log_queue,
    }
}

fn gone_back(found: WentBack) -> api::GoneBack {
    api::GoneBack {
        node_id: found.node_id.0,
        name: found.name,
        acknowledged_term: found.acknowledged_term,
        acknowledged_index: found.acknowledged_index,
        acknowledged_boot: found.acknowledged_boot,
        found_term: found.found_term,
        found_index: found.found_index,
        found_boot: found.found_boot,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Encodes a digest. Empty: the cluster has no key for digests yet.
fn shown(digest: Option<ShownDigest>) -> String {
    digest.map(|digest| digest.to_string()).unwrap_or_default()
}
