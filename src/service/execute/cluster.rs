//! Requests of operators to a node and to its cluster.

use std::num::NonZeroU32;

use super::refused;
use crate::map::{Answer, Command};
use crate::membership::ClusterId;
use crate::node_id::NodeId;
use crate::positions::GoneBack;
use crate::raft::wire::position;
use crate::raft::{Contradiction, SnapshotError};
use crate::replicated_settings::{MAX_SESSIONS, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_CHANGES, Settings};
use crate::rt::{self, Instant, process};
use crate::service::{
    Class, Compact, Compacted, Configure, Context, Contradicted, Freshness, Leave, MemoryUse, NodeStatus,
    Operation, RaftStatus, Refused, RemoveMember, Service, Serving, StateStatus, Status, TakeSnapshot,
    TransferLeader, WentBack,
};

impl Operation for Status {
    type Reply = NodeStatus;
    const CLASS: Class = Class::Operator;

    async fn execute(self, service: &Service, _deadline: Instant) -> Result<NodeStatus, Refused> {
        let context = &service.context;
        Ok(NodeStatus {
            name: context.name.clone(),
            node_id: context.node_id,
            boot: context.boot,
            rpc_addr: context.rpc_addr.clone(),
            role: context.role(),
            digest_alarm: context.digest_alarm(),
            reasons: context.reasons(),
            contradiction: context.contradiction().map(|found| contradicted(context, found)),
            gone_back: context.gone_back().iter().map(|(id, found)| went_back(context, *id, found)).collect(),
            raft: context.consensus().map(|consensus| RaftStatus {
                cluster_id: ClusterId(consensus.peers().local().cluster_id),
                term: consensus.metrics().current_term,
                recovered: context.recovered().map(|serving| state_status(context, serving)),
            }),
        })
    }
}

fn contradicted(context: &Context, found: &Contradiction) -> Contradicted {
    let (own, theirs) = (position(found.own), position(found.theirs));
    Contradicted {
        term: own.term,
        index: own.index,
        leader_entry_term: theirs.term,
        leader_entry_index: theirs.index,
        leader_id: found.leader,
        leader_name: context.member_name(found.leader),
        leader_term: found.leader_term,
    }
}

fn went_back(context: &Context, node_id: NodeId, found: &GoneBack) -> WentBack {
    let GoneBack { acknowledged, start } = found;
    WentBack {
        node_id,
        name: context.member_name(node_id),
        acknowledged_term: acknowledged.upto.term,
        acknowledged_index: acknowledged.upto.index,
        acknowledged_boot: acknowledged.boot,
        found_term: start.found.term,
        found_index: start.found.index,
        found_boot: start.boot,
    }
}

fn state_status(context: &Context, serving: &Serving) -> StateStatus {
    let consensus = &serving.consensus;
    let (metrics, leader_id) = (consensus.metrics(), consensus.leader());
    let digest_key;
    let mut status = {
        let state = consensus.store().read();
        digest_key = state.map.digest_key();
        StateStatus {
            leader_id,
            leader_name: leader_id.map(|id| context.member_name(id)).unwrap_or_default(),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.local_committed.map_or(0, |id| id.index),
            snapshot_index: metrics.snapshot.map_or(0, |id| id.index),
            purged_index: metrics.purged.map_or(0, |id| id.index),
            applied_index: state.applied.map_or(0, |id| id.index),
            revision: state.map.revision(),
            keys: state.map.keys(),
            bytes: state.map.bytes(),
            size_bytes: state.map.size(),
            history_bytes: state.map.history_size(),
            floor: state.map.floor(),
            sessions: state.map.sessions(),
            memory: MemoryUse::of(&state.map, &serving.log.metrics()),
            wanted_size: state.map.settings().wanted_size,
            digest: state.map.shown_digest(),
            digests: Vec::new(),
        }
    };
    // The kernel is asked without the lock that applying waits for.
    status.memory.resident = process::resident_bytes();
    if let Some(key) = digest_key {
        let digests = consensus.store().digests().into_iter();
        status.digests = digests.map(|(index, digest)| (index, key.show(digest))).collect();
    }
    status
}

impl Operation for TransferLeader {
    /// The name of the new leader.
    type Reply = String;
    const CLASS: Class = Class::Operator;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<String, Refused> {
        let serving = service.context.serving()?;
        let consensus = &serving.consensus;
        if !consensus.is_leader() {
            let leader = serving.leader_address(consensus.leader());
            return Err(Refused::NotExecuted {
                reason: "only the leader hands leadership over".into(),
                leader,
            });
        }
        let membership = consensus.membership();
        let to = match &self.to {
            None => consensus.successors().first().map(|successor| successor.node_id).ok_or_else(|| {
                Refused::Precondition("there is no other voter to hand leadership to".into())
            })?,
            Some(name) => {
                let named = membership.nodes().find(|(_, member)| member.name == *name).map(|(id, _)| *id);
                named.ok_or_else(|| Refused::NoSuchMember(name.clone()))?
            }
        };
        if to != service.context.node_id {
            if !membership.voter_ids().any(|id| id == to) {
                let name = self.to.unwrap_or_default();
                return Err(Refused::Precondition(format!("'{name}' does not vote and so cannot lead")));
            }
            let moved =
                rt::time::timeout_at(deadline, consensus.transfer_leader(to, rt::time::LONGEST)).await;
            moved
                .map_err(|_| Refused::Late("leadership was not handed over before the deadline".into()))?
                .map_err(|reason| {
                    Refused::Unavailable(format!("leadership was not handed over: {reason}"))
                })?;
        }
        Ok(membership.membership().get_node(&to).map(|member| member.name.clone()).unwrap_or_default())
    }
}

impl Operation for RemoveMember {
    /// The removed member's node id.
    type Reply = NodeId;
    const CLASS: Class = Class::Operator;

    async fn execute(self, service: &Service, _deadline: Instant) -> Result<NodeId, Refused> {
        let serving = service.context.serving()?;
        if !serving.consensus.is_leader() {
            let leader = serving.leader_address(serving.consensus.leader());
            return Err(Refused::NotExecuted { reason: "only the leader removes members".into(), leader });
        }
        serving.operator.remove_member(&self.name, self.place).await
    }
}

impl Operation for Leave {
    type Reply = ();
    const CLASS: Class = Class::Operator;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<(), Refused> {
        service.context.serving()?;
        match rt::time::timeout_at(deadline, service.context.ask_to_leave()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(Refused::Precondition(format!("this node stays a member: {reason}"))),
            Err(_) => Err(Refused::unknown("the node is about to leave, and has not left yet")),
        }
    }
}

impl Operation for TakeSnapshot {
    /// The log index of the last entry in the snapshot.
    type Reply = u64;
    const CLASS: Class = Class::Operator;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<u64, Refused> {
        let serving = service.context.serving()?;
        let late = |_| Refused::Late("the snapshot was not finished before the deadline".into());
        let taken = rt::time::timeout_at(deadline, serving.consensus.take_snapshot()).await.map_err(late)?;
        taken.map_err(|error| match error {
            SnapshotError::Stopped(reason) => Refused::Unavailable(reason),
            SnapshotError::Declined(_) => Refused::NoRoom(error.to_string()),
        })
    }
}

impl Operation for Configure {
    /// The settings, with the values of this change for those that it names. A later change may have followed.
    type Reply = Settings;
    const CLASS: Class = Class::Operator;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<Settings, Refused> {
        let serving = service.context.serving()?;
        let settings = || serving.consensus.store().read().map.settings();
        match self {
            Configure::WantedSize(wanted_size) => {
                let version = serving.consensus.store().read().map.cluster_version();
                // Members of an older version do not understand the command.
                if version < Command::WANTED_SIZE_VERSION {
                    return Ok(settings());
                }
                let voters = wanted_size.map_or(0, NonZeroU32::get);
                service.propose(Command::WantedSize(voters), deadline).await?;
                Ok(Settings { wanted_size, ..settings() })
            }
            Configure::Bounds(change) => {
                let bounded = [
                    ("max-sessions", change.max_sessions, MAX_SESSIONS),
                    ("max-transaction-changes", change.max_transaction_changes, MAX_TRANSACTION_CHANGES),
                    ("max-transaction-bytes", change.max_transaction_bytes, MAX_TRANSACTION_BYTES),
                ];
                for (name, value, bounds) in bounded {
                    if value.is_some_and(|value| !bounds.contains(&value)) {
                        let (least, most) = bounds.into_inner();
                        return Err(Refused::Invalid(format!("{name} is a number from {least} to {most}")));
                    }
                }
                match service.propose(Command::Configure(change), deadline).await?.answer {
                    Answer::Done => Ok(change.applied_to(settings())),
                    other => Err(refused(other)),
                }
            }
        }
    }
}

impl Operation for Compact {
    type Reply = Compacted;
    const CLASS: Class = Class::Operator;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<Compacted, Refused> {
        let revision = match self.revision {
            Some(revision) => revision,
            None => {
                let serving = service.ready_to_read(Freshness::Linearizable, deadline).await?;
                serving.consensus.store().read().map.revision()
            }
        };
        match service.propose(Command::Compact { revision }, deadline).await?.answer {
            Answer::Compacted { floor, raised } => Ok(Compacted { floor, raised }),
            Answer::FutureRevision { present } => Err(Refused::FutureRevision { revision, present }),
            other => Err(refused(other)),
        }
    }
}
