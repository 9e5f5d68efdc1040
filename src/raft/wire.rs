//! Conversions between openraft's types, the messages between peers and the bytes on disk.
//!
//! Everything that comes from a peer is checked here: a message that does not parse is an error of the connection,
//! never a panic.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mokv_proto::{log, raft};
use openraft::EntryPayload;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::vote::RaftLeaderId;
use prost::Message as _;

use super::peers::FollowerState;
use super::types::{
    LogId, Member, Membership, Payload, RaftEntry, SnapshotMeta, StoredMembership, TypeConfig, Vote, log_id,
};
use crate::map::Command;
use crate::node_id::NodeId;
use crate::storage;

/// A peer sent, or this node's own log holds, something that is no message of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

/// A log id in a message.
pub fn log_id_to_wire(id: LogId) -> raft::LogId {
    raft::LogId { term: *id.leader_id, index: id.index }
}

/// A log id from a message.
pub fn log_id_from_wire(id: raft::LogId) -> LogId {
    log_id(id.term, id.index)
}

/// A log id as a storage position.
pub fn position(id: LogId) -> storage::Position {
    storage::Position { term: *id.leader_id, index: id.index }
}

/// A storage position as a log id.
pub fn log_id_at(position: storage::Position) -> LogId {
    log_id(position.term, position.index)
}

/// The leader's node id in a message that names the leader; 0: none is known.
pub fn leader_to_wire(leader: Option<NodeId>) -> u64 {
    leader.map_or(0, |id| id.0)
}

/// Returns the leader from a message that names it.
pub fn leader_from_wire(leader: u64) -> Option<NodeId> {
    (leader != 0).then_some(NodeId(leader))
}

/// A vote in a message.
pub fn vote_to_wire(vote: &Vote) -> raft::VoteState {
    raft::VoteState {
        term: vote.leader_id.term,
        node_id: vote.leader_id.voted_for.0,
        committed: vote.committed,
    }
}

/// A vote from a message.
pub fn vote_from_wire(vote: Option<raft::VoteState>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed("vote"))?;
    let leader_id = RaftLeaderId::new(vote.term, NodeId(vote.node_id));
    Ok(Vote { leader_id, committed: vote.committed })
}

/// A vote as the log stores it.
pub fn encode_vote(vote: &Vote) -> Bytes {
    vote_to_wire(vote).encode_to_vec().into()
}

/// A vote from the log.
pub fn decode_vote(bytes: &Bytes) -> Result<Vote, Malformed> {
    vote_from_wire(Some(raft::VoteState::decode(bytes.clone()).map_err(|_| Malformed("vote in the log"))?))
}

/// A membership as the log and snapshots store it.
pub fn membership_to_wire(membership: &Membership) -> log::Membership {
    log::Membership {
        voter_sets: (membership.get_joint_config().iter())
            .map(|ids| log::NodeSet { ids: ids.iter().map(|id| id.0).collect() })
            .collect(),
        nodes: (membership.nodes())
            .map(|(id, node)| {
                (id.0, log::Member { name: node.name.clone(), rpc_addr: node.rpc_addr.clone() })
            })
            .collect(),
    }
}

/// A membership from the log or a snapshot.
pub fn membership_from_wire(membership: &log::Membership) -> Result<Membership, Malformed> {
    let sets = (membership.voter_sets.iter())
        .map(|set| set.ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>())
        .collect();
    let nodes: BTreeMap<NodeId, Member> = (membership.nodes.iter())
        .map(|(id, node)| (NodeId(*id), Member { name: node.name.clone(), rpc_addr: node.rpc_addr.clone() }))
        .collect();
    Membership::new(sets, nodes).map_err(|_| Malformed("membership"))
}

/// An entry as the storage holds it.
pub fn entry_to_storage(entry: &RaftEntry) -> storage::LogEntry {
    storage::LogEntry {
        term: *entry.log_id.leader_id,
        index: entry.log_id.index,
        payload: encode_payload(entry),
    }
}

/// An entry from the storage.
pub fn entry_from_storage(entry: storage::LogEntry) -> Result<RaftEntry, Malformed> {
    decode_entry(entry.term, entry.index, entry.payload)
}

/// An entry's bytes; those of a client's command are verbatim.
fn encode_payload(entry: &RaftEntry) -> Bytes {
    match &entry.payload {
        EntryPayload::Blank => Command::Blank.encode(),
        EntryPayload::Normal(payload) => payload.0.clone(),
        EntryPayload::Membership(membership) => Command::Membership(membership_to_wire(membership)).encode(),
    }
}

/// Decodes only Raft's own entries; a client's command stays bytes until it is applied.
fn decode_entry(term: u64, index: u64, payload: Bytes) -> Result<RaftEntry, Malformed> {
    let payload = if Command::is_rafts_own(&payload) {
        match Command::decode(&payload).map_err(|_| Malformed("entry of Raft's own"))? {
            Command::Membership(membership) => EntryPayload::Membership(membership_from_wire(&membership)?),
            _ => EntryPayload::Blank,
        }
    } else {
        EntryPayload::Normal(Payload(payload))
    };
    Ok(RaftEntry { log_id: log_id(term, index), payload })
}

/// An append for a follower, with the acknowledged positions that are new to it.
pub fn append_to_wire(
    request: &AppendEntriesRequest<TypeConfig>,
    acknowledged: Vec<raft::Acknowledgement>,
) -> raft::AppendEntries {
    raft::AppendEntries {
        vote: Some(vote_to_wire(&request.vote)),
        previous: request.prev_log_id.map(log_id_to_wire),
        committed: request.leader_commit.map(log_id_to_wire),
        entries: (request.entries.iter())
            .map(|entry| raft::Entry {
                term: *entry.log_id.leader_id,
                index: entry.log_id.index,
                payload: encode_payload(entry),
            })
            .collect(),
        acknowledged,
    }
}

/// An append from a leader. Each payload is copied to an allocation of its own, so that one value kept in the map does
/// not keep the whole message in memory.
pub fn append_from_wire(request: raft::AppendEntries) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    let entries = (request.entries.into_iter())
        .map(|entry| decode_entry(entry.term, entry.index, Bytes::copy_from_slice(&entry.payload)))
        .collect::<Result<Vec<_>, _>>()?;
    let first = request.previous.map_or(0, |id| id.index + 1);
    if !entries.iter().zip(first..).all(|(entry, index)| entry.log_id.index == index) {
        return Err(Malformed("entries: their indexes have a gap"));
    }
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(request.vote)?,
        prev_log_id: request.previous.map(log_id_from_wire),
        entries,
        leader_commit: request.committed.map(log_id_from_wire),
    })
}

/// A follower's answer; `boot` is its boot counter.
pub fn append_answer_to_wire(
    answer: AppendEntriesResponse<TypeConfig>,
    FollowerState { disk_full, is_doubted }: FollowerState,
    boot: u64,
) -> raft::AppendAnswer {
    use raft::append_answer::Outcome;
    let (outcome, matching, vote) = match answer {
        AppendEntriesResponse::Success => (Outcome::Success, None, None),
        AppendEntriesResponse::PartialSuccess(matching) => (Outcome::Partial, matching, None),
        AppendEntriesResponse::Conflict => (Outcome::Conflict, None, None),
        AppendEntriesResponse::HigherVote(vote) => (Outcome::HigherVote, None, Some(vote_to_wire(&vote))),
    };
    let matching = matching.map(log_id_to_wire);
    raft::AppendAnswer { outcome: outcome.into(), matching, vote, disk_full, boot, doubted: is_doubted }
}

/// A follower's answer, as the leader receives it.
pub fn append_answer_from_wire(
    answer: raft::AppendAnswer,
) -> Result<AppendEntriesResponse<TypeConfig>, Malformed> {
    use raft::append_answer::Outcome;
    Ok(match answer.outcome() {
        Outcome::Success => AppendEntriesResponse::Success,
        Outcome::Partial => AppendEntriesResponse::PartialSuccess(answer.matching.map(log_id_from_wire)),
        Outcome::Conflict => AppendEntriesResponse::Conflict,
        Outcome::HigherVote => AppendEntriesResponse::HigherVote(vote_from_wire(answer.vote)?),
    })
}

/// A candidate's request.
pub fn vote_request_to_wire(request: &VoteRequest<TypeConfig>) -> raft::Vote {
    raft::Vote {
        vote: Some(vote_to_wire(&request.vote)),
        last_log: request.last_log_id.map(log_id_to_wire),
        leadership_transfer: request.leadership_transfer,
    }
}

/// A candidate's request, as a voter receives it.
pub fn vote_request_from_wire(request: raft::Vote) -> Result<VoteRequest<TypeConfig>, Malformed> {
    let mut vote = VoteRequest::new(vote_from_wire(request.vote)?, request.last_log.map(log_id_from_wire));
    vote.leadership_transfer = request.leadership_transfer;
    Ok(vote)
}

/// A voter's answer.
pub fn vote_answer_to_wire(answer: &VoteResponse<TypeConfig>, boot: u64) -> raft::VoteAnswer {
    raft::VoteAnswer {
        vote: Some(vote_to_wire(&answer.vote)),
        granted: answer.vote_granted,
        last_log: answer.last_log_id.map(log_id_to_wire),
        boot,
    }
}

/// A voter's answer, as the candidate receives it.
pub fn vote_answer_from_wire(answer: raft::VoteAnswer) -> Result<VoteResponse<TypeConfig>, Malformed> {
    let vote = vote_from_wire(answer.vote)?;
    Ok(VoteResponse::new(vote, answer.last_log.map(log_id_from_wire), answer.granted))
}

/// A leadership transfer, as the leader sends it.
pub fn transfer_to_wire(request: &TransferLeaderRequest<TypeConfig>) -> raft::TransferLeader {
    raft::TransferLeader {
        from_leader: Some(vote_to_wire(request.from_leader())),
        to: request.to_node_id().0,
        last_log: request.last_log_id().copied().map(log_id_to_wire),
    }
}

/// A leadership transfer, as the voter receives it.
pub fn transfer_from_wire(
    request: raft::TransferLeader,
) -> Result<TransferLeaderRequest<TypeConfig>, Malformed> {
    let vote = vote_from_wire(request.from_leader)?;
    Ok(TransferLeaderRequest::new(vote, NodeId(request.to), request.last_log.map(log_id_from_wire)))
}

/// A snapshot's metadata and the digest of its state, in its header.
pub fn snapshot_meta_to_wire(meta: &SnapshotMeta, digest: u128) -> log::SnapshotMeta {
    let at = meta.last_log_id.map(position).unwrap_or_default();
    let membership_at = meta.last_membership.log_id().map(position).unwrap_or_default();
    log::SnapshotMeta {
        term: at.term,
        index: at.index,
        membership_term: membership_at.term,
        membership_index: membership_at.index,
        has_membership: meta.last_membership.log_id().is_some(),
        membership: Some(membership_to_wire(meta.last_membership.membership())),
        digest: digest.to_be_bytes().to_vec().into(),
        nothing_applied: meta.last_log_id.is_none(),
    }
}

/// A snapshot's metadata and the digest of its state, from its header.
pub fn snapshot_meta_from_wire(meta: &log::SnapshotMeta) -> Result<(SnapshotMeta, u128), Malformed> {
    let membership = match &meta.membership {
        Some(membership) if meta.has_membership => StoredMembership::new(
            Some(log_id(meta.membership_term, meta.membership_index)),
            membership_from_wire(membership)?,
        ),
        _ => StoredMembership::default(),
    };
    let digest = meta.digest.as_ref().try_into().map_err(|_| Malformed("digest of a snapshot"))?;
    let last_log_id = (!meta.nothing_applied).then(|| log_id(meta.term, meta.index));
    let meta = SnapshotMeta { last_log_id, last_membership: membership };
    Ok((meta, u128::from_be_bytes(digest)))
}

/// The text of an error, as the peer receives it.
pub fn text(error: impl ToString) -> String {
    error.to_string()
}
