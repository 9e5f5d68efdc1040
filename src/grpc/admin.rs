//! The service `api.Admin`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use mokv_proto::api::{self, admin_server};
use mokv_proto::status;
use tonic::{Request, Response, Status, async_trait};

use super::backup;
use super::context::{Context, Place};
use super::kv::deadline;
use crate::map::{Answer, Command, MAX_SESSIONS, Settings, ShownDigest};
use crate::positions::GoneBack;
use crate::raft::wire::position;
use crate::raft::{Consensus, Contradiction, SnapshotError};
use crate::rt;

/// What operators do.
pub struct Admin {
    context: Arc<Context>,
}

impl Admin {
    /// The service of a node.
    pub fn new(context: Arc<Context>) -> Admin {
        Admin { context }
    }
}

#[async_trait]
impl admin_server::Admin for Admin {
    async fn status(
        &self,
        _request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        let context = &self.context;
        let mut response = api::StatusResponse {
            name: context.name.clone(),
            node_id: context.node_id,
            version: env!("CARGO_PKG_VERSION").into(),
            boot_counter: context.boot,
            rpc_addr: context.rpc_addr.clone(),
            digest_alarm: context.digest_alarm(),
            role: context.role().into(),
            contradiction: context.contradiction().map(|found| contradiction(context, found)),
            reasons: context.reasons(),
            gone_back: context.gone_back().iter().map(|(id, found)| gone_back(context, *id, found)).collect(),
            ..Default::default()
        };
        let Some(consensus) = context.consensus() else { return Ok(Response::new(response)) };
        let metrics = consensus.metrics();
        response.cluster_id = hex(&consensus.peers().local().cluster_id);
        response.term = metrics.current_term;
        if context.recovered().is_none() {
            return Ok(Response::new(response));
        }
        response.leader_id = consensus.leader().unwrap_or(0);
        response.leader_name = (metrics.membership_config.membership().get_node(&response.leader_id))
            .map(|member| member.name.clone())
            .unwrap_or_default();
        response.last_log_index = metrics.last_log_index.unwrap_or(0);
        response.committed_index = metrics.local_committed.map_or(0, |id| id.index);
        response.snapshot_index = metrics.snapshot.map_or(0, |id| id.index);
        response.purged_index = metrics.purged.map_or(0, |id| id.index);
        let digest_key;
        {
            let state = consensus.store().read();
            response.applied_index = state.applied.map_or(0, |id| id.index);
            response.revision = state.map.revision();
            response.keys = state.map.keys();
            response.bytes = state.map.bytes();
            response.sessions = state.map.sessions();
            response.wanted_size = state.map.settings().wanted_size;
            response.digest = shown(state.map.shown_digest());
            digest_key = state.map.digest_key();
        }
        if let Some(key) = digest_key {
            response.digests = (consensus.store().digests().into_iter())
                .map(|(index, digest)| api::DigestAt { index, digest: key.show(digest).to_string() })
                .collect();
        }
        Ok(Response::new(response))
    }

    async fn transfer_leader(
        &self,
        request: Request<api::TransferLeaderRequest>,
    ) -> Result<Response<api::TransferLeaderResponse>, Status> {
        let deadline = deadline(&request);
        let serving = self.context.serving()?;
        let consensus = &serving.consensus;
        if !consensus.is_leader() {
            let leader = serving.leader_address(consensus.leader());
            return Err(status::not_executed("only the leader hands leadership over", leader.as_deref()));
        }
        let name = request.into_inner().to;
        let membership = consensus.membership();
        let named =
            |name: &str| membership.nodes().find(|(_, member)| member.name == name).map(|(id, _)| *id);
        let to = match name.as_str() {
            "" => consensus.successors().first().map(|successor| successor.node_id),
            name => {
                Some(named(name).ok_or_else(|| Status::not_found(format!("no member is called '{name}'")))?)
            }
        };
        let to =
            to.ok_or_else(|| Status::failed_precondition("there is no other voter to hand leadership to"))?;
        if to != self.context.node_id {
            if !membership.voter_ids().any(|id| id == to) {
                return Err(Status::failed_precondition(format!(
                    "'{name}' does not vote and so cannot lead"
                )));
            }
            let moved =
                rt::time::timeout_at(deadline, consensus.transfer_leader(to, rt::time::LONGEST)).await;
            moved
                .map_err(|_| Status::deadline_exceeded("leadership was not handed over before the deadline"))?
                .map_err(|reason| Status::unavailable(format!("leadership was not handed over: {reason}")))?;
        }
        let leader =
            membership.membership().get_node(&to).map(|member| member.name.clone()).unwrap_or_default();
        Ok(Response::new(api::TransferLeaderResponse { leader }))
    }

    async fn remove_member(
        &self,
        request: Request<api::RemoveMemberRequest>,
    ) -> Result<Response<api::RemoveMemberResponse>, Status> {
        let serving = self.context.serving()?;
        if !serving.consensus.is_leader() {
            let leader = serving.leader_address(serving.consensus.leader());
            return Err(status::not_executed("only the leader removes members", leader.as_deref()));
        }
        let api::RemoveMemberRequest { name, place_stays_open } = request.into_inner();
        let place = if place_stays_open { Place::StaysOpen } else { Place::Closes };
        let node_id = serving.operator.remove_member(&name, place).await?;
        Ok(Response::new(api::RemoveMemberResponse { node_id }))
    }

    async fn leave(
        &self,
        request: Request<api::LeaveRequest>,
    ) -> Result<Response<api::LeaveResponse>, Status> {
        let deadline = deadline(&request);
        self.context.serving()?;
        match rt::time::timeout_at(deadline, self.context.ask_to_leave()).await {
            Ok(Ok(())) => Ok(Response::new(api::LeaveResponse {})),
            Ok(Err(reason)) => {
                Err(Status::failed_precondition(format!("this node stays a member: {reason}")))
            }
            Err(_) => Err(status::unknown("the node is about to leave, and has not left yet")),
        }
    }

    async fn snapshot(
        &self,
        request: Request<api::SnapshotRequest>,
    ) -> Result<Response<api::SnapshotResponse>, Status> {
        let deadline = deadline(&request);
        let serving = self.context.serving()?;
        let late = |_| Status::deadline_exceeded("the snapshot was not finished before the deadline");
        let taken = rt::time::timeout_at(deadline, serving.consensus.take_snapshot()).await.map_err(late)?;
        let index = taken.map_err(|error| match error {
            SnapshotError::Stopped(reason) => Status::unavailable(reason),
            SnapshotError::Declined(_) => Status::resource_exhausted(error.to_string()),
        })?;
        Ok(Response::new(api::SnapshotResponse { index }))
    }

    type BackupStream = Pin<Box<dyn Stream<Item = Result<api::BackupChunk, Status>> + Send>>;

    async fn backup(
        &self,
        request: Request<api::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let deadline = deadline(&request);
        let serving = self.context.serving()?;
        // It holds every write that was answered before it was asked for.
        let confirmed = serving.consensus.read_barrier(deadline).await;
        confirmed.map_err(|error| self.context.read_failed(error))?;
        let (map, meta) = serving.consensus.store().read().frozen();
        Ok(Response::new(Box::pin(backup::stream(map, &meta))))
    }

    async fn configure(
        &self,
        request: Request<api::ConfigureRequest>,
    ) -> Result<Response<api::ConfigureResponse>, Status> {
        let deadline = deadline(&request);
        let api::ConfigureRequest { max_sessions, max_store_bytes, wanted_size } = request.into_inner();
        let serving = self.context.serving()?;
        let settings = || serving.consensus.store().read().map.settings();
        if let Some(wanted_size) = wanted_size {
            if max_sessions.is_some() || max_store_bytes.is_some() {
                return Err(Status::invalid_argument("the wanted size is changed by itself"));
            }
            let version = serving.consensus.store().read().map.cluster_version();
            if version >= Command::WANTED_SIZE_VERSION {
                let command = Command::WantedSize(wanted_size);
                let committed = serving.consensus.propose(command.encode(), deadline).await;
                committed.map_err(|error| self.context.propose_failed(error, rt::now() >= deadline))?;
            }
            let Settings { max_sessions, max_store_bytes, wanted_size: present } = settings();
            // What this change came to: another one may have followed it. Members of an older version know of no size.
            let wanted_size = if version >= Command::WANTED_SIZE_VERSION { wanted_size } else { present };
            return Ok(Response::new(api::ConfigureResponse { max_sessions, max_store_bytes, wanted_size }));
        }
        if max_sessions.is_some_and(|sessions| !MAX_SESSIONS.contains(&sessions)) {
            let (least, most) = MAX_SESSIONS.into_inner();
            return Err(Status::invalid_argument(format!("max-sessions is a number from {least} to {most}")));
        }
        let command = Command::Configure { max_sessions, max_store_bytes };
        let committed = serving.consensus.propose(command.encode(), deadline).await;
        match committed.map_err(|error| self.context.propose_failed(error, rt::now() >= deadline))?.answer {
            Answer::Configured { max_sessions, max_store_bytes } => {
                let Settings { wanted_size, .. } = settings();
                Ok(Response::new(api::ConfigureResponse { max_sessions, max_store_bytes, wanted_size }))
            }
            other => Err(Status::internal(format!("the store gave an answer to another command: {other:?}"))),
        }
    }
}

fn contradiction(context: &Context, found: &Contradiction) -> api::Contradiction {
    let (own, theirs) = (position(found.own), position(found.theirs));
    api::Contradiction {
        term: own.term,
        index: own.index,
        leader_entry_term: theirs.term,
        leader_entry_index: theirs.index,
        leader_id: found.leader,
        leader_name: member_name(context, found.leader),
        leader_term: found.leader_term,
    }
}

fn gone_back(context: &Context, node_id: u64, found: &GoneBack) -> api::GoneBack {
    let GoneBack { acknowledged, start } = found;
    api::GoneBack {
        node_id,
        name: member_name(context, node_id),
        acknowledged_term: acknowledged.upto.term,
        acknowledged_index: acknowledged.upto.index,
        acknowledged_boot: acknowledged.boot,
        found_term: start.found.term,
        found_index: start.found.index,
        found_boot: start.boot,
    }
}

/// Empty: no member, or this node has not recovered yet.
fn member_name(context: &Context, node_id: u64) -> String {
    let membership = context.consensus().map(Consensus::membership);
    let member = membership.and_then(|members| members.membership().get_node(&node_id).cloned());
    member.map(|member| member.name).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Empty: the cluster has no key for its digests yet.
pub(super) fn shown(digest: Option<ShownDigest>) -> String {
    digest.map(|digest| digest.to_string()).unwrap_or_default()
}
