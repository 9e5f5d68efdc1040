//! Backups as files: reading one, and creating a new cluster from it.
//!
//! A backup is a snapshot file in any place. Restoring draws a new cluster id and a new node id, and writes a
//! membership of that one node; other nodes join it. The old cluster's directories belong to another cluster from then
//! on. Revisions and log indexes, and so the ids of sessions, rise by a gap ([`Map::RENEWAL_GAP`]): no client or cache of
//! the old cluster, which may have gone on after the backup, takes what the new one makes for what it knows. The log and the snapshot are durable before the identity is written: an interrupted restore leaves a directory
//! that no node starts on, and a failed one leaves nothing.
//!
//! A cluster that has lost its quorum is recovered the same way, from the data directory of one of its nodes
//! ([`recover`]).

use std::collections::BTreeMap;

use super::log_config;
use crate::config::StorageConfig;
use crate::map::{Map, ShownDigest};
use crate::membership::identity::{self, IdentityError};
use crate::membership::{ClusterId, Identity};
use crate::node_id::NodeId;
use crate::raft::replay;
use crate::raft::snapshot::{self, estimated_bytes};
use crate::raft::store::State;
use crate::raft::types::{Member, Membership, SnapshotMeta, StoredMembership, Vote, log_id};
use crate::raft::wire::{encode_vote, position};
use crate::rt::disk::{DiskRef, FileRef};
use crate::storage::{Log, LogConfig, Owner, Position, SnapshotReader, Snapshots, StorageError};

/// Why a backup cannot be read or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The backup cannot be read, is damaged, or is not one.
    #[error("{0}")]
    Unsound(String),
    /// The data directory is not empty.
    #[error("the data directory is not empty: '{0}' is in it")]
    NotEmpty(String),
    /// The new log or snapshot could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The identity could not be read, or a new one could not be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The contents of a backup. All of it was read, and its digest was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The last log entry in it.
    pub position: Position,
    /// The store's revision.
    pub revision: u64,
    /// The number of keys.
    pub keys: u64,
    /// The bytes of keys and values.
    pub bytes: u64,
    /// The number of client sessions.
    pub sessions: u64,
    /// The digest of the whole state; `None` if the cluster had no key for it.
    pub digest: Option<ShownDigest>,
    /// The length of the file in bytes.
    pub file_bytes: u64,
    /// Name and address of each member of the cluster that was backed up.
    pub members: BTreeMap<String, String>,
}

/// The result of a restore or a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster.
    pub cluster_id: ClusterId,
    /// The node id of its only member so far.
    pub node_id: NodeId,
    /// The number of keys.
    pub keys: u64,
    /// The revision of the old cluster's store.
    pub old_revision: u64,
    /// The revision with which the new cluster begins, the earliest that can be read.
    pub revision: u64,
    /// The digest of the whole state with which it begins; `None` if the old cluster had no key for it.
    pub digest: Option<ShownDigest>,
}

/// Reads the whole backup and verifies it. `name` is used in messages.
///
/// # Errors
/// [`BackupError::Unsound`].
pub async fn inspect(file: FileRef, name: &str) -> Result<Contents, BackupError> {
    Ok(read(file, name).await?.1)
}

async fn read(file: FileRef, name: &str) -> Result<(State, Contents), BackupError> {
    // A backup is not a node's data: if it is damaged, the message must not advise to wipe a node.
    let unsound = |error: StorageError| BackupError::Unsound(error.finding());
    let opened = SnapshotReader::of_any(file, name.to_owned()).await;
    let (reader, position) = opened.map_err(unsound)?;
    let file_bytes = reader.total_bytes();
    let state = snapshot::load(reader).await.map_err(|error| match error.downcast::<StorageError>() {
        Ok(error) => unsound(error),
        Err(error) => BackupError::Unsound(error.to_string()),
    })?;
    let contents = Contents {
        position,
        revision: state.map.revision(),
        keys: state.map.keys(),
        bytes: state.map.bytes(),
        sessions: state.map.sessions(),
        digest: state.map.shown_digest(),
        file_bytes,
        members: members_of(&state),
    };
    Ok((state, contents))
}

/// The cluster state in the data directory of a stopped node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineState {
    /// The node's name.
    pub name: String,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// The last entry of its log, or of its snapshot if that reaches further.
    pub last: Position,
    /// The number of entries up to `last` that are not known to be committed.
    pub uncertain: u64,
    /// The store's revision with all entries applied.
    pub revision: u64,
    /// The number of keys.
    pub keys: u64,
    /// The digest of the whole state; `None` if the cluster had no key for it.
    pub digest: Option<ShownDigest>,
    /// Name and address of each member of the cluster.
    pub members: BTreeMap<String, String>,
}

/// Reads the state in the data directory of a stopped node: its newest snapshot and all of its log, committed or not.
///
/// # Errors
/// [`BackupError`] if the directory belongs to no node, or its data is damaged.
pub async fn offline_state(disk: DiskRef, sizes: &StorageConfig) -> Result<OfflineState, BackupError> {
    Ok(read_offline_state(disk, sizes).await?.1)
}

async fn read_offline_state(
    disk: DiskRef,
    sizes: &StorageConfig,
) -> Result<(State, OfflineState), BackupError> {
    let identity = Identity::read(disk.clone()).await?;
    let empty = || BackupError::Unsound("this node was never part of a cluster, or has no log of one".into());
    let cluster_id = identity.cluster_id().filter(|_| identity.log_formatted()).ok_or_else(empty)?;
    let (snapshots, _) = Snapshots::open(disk.clone()).await?;
    let owner = Owner { node_id: identity.node_id(), cluster_id: cluster_id.0 };
    let log = Log::open(disk, log_config(sizes), owner).await?;
    let committed = log.state().committed;
    let state = replay::everything(&log, &snapshots).await;
    log.close().await?;
    let state = state.map_err(|error| BackupError::Unsound(error.to_string()))?;
    let last = position(state.applied.ok_or_else(empty)?);
    let in_snapshot = snapshots.newest().map(|newest| newest.position);
    let certain = committed.max(in_snapshot).map_or(0, |position| position.index);
    let offline_state = OfflineState {
        name: identity.name().to_owned(),
        cluster_id,
        last,
        uncertain: last.index.saturating_sub(certain),
        revision: state.map.revision(),
        keys: state.map.keys(),
        digest: state.map.shown_digest(),
        members: members_of(&state),
    };
    Ok((state, offline_state))
}

fn members_of(state: &State) -> BTreeMap<String, String> {
    state.membership.nodes().map(|(_, member)| (member.name.clone(), member.rpc_addr.clone())).collect()
}

/// Creates a new cluster from the data of one node of an old one: from all entries of its log, committed or not, with
/// this node, at this address, as its only member. The old data stays on the disk under names that begin with `left-`.
///
/// # Errors
/// [`BackupError`]. The old data is set aside before anything is written: if that is interrupted, the directory holds a
/// node that forms no cluster.
pub async fn recover(
    disk: DiskRef,
    sizes: &StorageConfig,
    rpc_addr: String,
) -> Result<Restored, BackupError> {
    let (state, offline_state) = read_offline_state(disk.clone(), sizes).await?;
    Identity::read(disk.clone()).await?.set_aside().await?;
    let member = Member { name: offline_state.name, rpc_addr };
    found(state, offline_state.last, disk, member).await
}

/// Creates a new cluster from a backup, on an empty `disk`, with one member of this name and address.
///
/// # Errors
/// [`BackupError`]. Unless the disk was not empty, partial data is removed. If the process ends before that, the disk
/// has to be emptied before the next attempt.
pub async fn restore(
    file: FileRef,
    name: &str,
    disk: DiskRef,
    member: Member,
) -> Result<Restored, BackupError> {
    let there = disk.list().await.map_err(StorageError::io("list", "."))?;
    if let Some(present) = there.into_iter().next() {
        return Err(BackupError::NotEmpty(present));
    }
    let (state, contents) = read(file, name).await?;
    found(state, contents.position, disk, member).await
}

/// Writes the data directory of a new cluster's first member, which begins with this state.
async fn found(
    mut state: State,
    at: Position,
    disk: DiskRef,
    member: Member,
) -> Result<Restored, BackupError> {
    let old_revision = state.map.revision();
    state.map.begin_anew();
    let at = Position { index: at.index + Map::RENEWAL_GAP, ..at };
    let cluster_id = ClusterId::random();
    let identity = Identity::of_member(disk.clone(), &member.name, cluster_id)?;
    let node_id = identity.node_id();
    let owner = Owner { node_id, cluster_id: cluster_id.0 };
    if let Err(error) = write_data(&state, at, disk.clone(), owner, member).await {
        // Partial data would only block the next attempt and occupy space.
        let _ = remove_data(&disk).await;
        return Err(error.into());
    }
    identity.establish().await?;
    let (keys, revision) = (state.map.keys(), state.map.revision());
    let digest = state.map.shown_digest();
    Ok(Restored { cluster_id, node_id, keys, old_revision, revision, digest })
}

async fn write_data(
    state: &State,
    at: Position,
    disk: DiskRef,
    owner: Owner,
    member: Member,
) -> Result<(), StorageError> {
    // A node does not start on a log without an identity, but it would on a snapshot alone.
    let log = Log::open(disk.clone(), LogConfig::default(), owner).await?;
    let written = async {
        write_snapshot(state, at, disk, owner.node_id, member).await?;
        log.purge(at).await?;
        // The next term is higher than that of any entry in the snapshot.
        log.save_vote(encode_vote(&Vote::new(at.term, owner.node_id))).await
    };
    let written = written.await;
    let closed = log.close().await;
    written.and(closed)
}

async fn write_snapshot(
    state: &State,
    at: Position,
    disk: DiskRef,
    node_id: NodeId,
    member: Member,
) -> Result<(), StorageError> {
    let (snapshots, _) = Snapshots::open(disk).await?;
    let membership = Membership::new(vec![[node_id].into()], BTreeMap::from([(node_id, member)]))
        .expect("the only voter is a member");
    let last = log_id(at.term, at.index);
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(last), membership),
    };
    let header = snapshot::header(&meta, state.map.digest());
    let mut writer = snapshots.create(at, header, estimated_bytes(&state.map)).await?;
    for block in state.map.blocks() {
        writer.add_block(block).await?;
    }
    writer.finish().await?;
    Ok(())
}

/// Removes everything except an identity and the data set aside for earlier nodes.
async fn remove_data(disk: &DiskRef) -> Result<(), StorageError> {
    for name in disk.list().await.map_err(StorageError::io("list", "."))? {
        if name != identity::FILE && identity::without_left_prefix(&name).is_none() {
            disk.remove(&name).await.map_err(StorageError::io("remove", &name))?;
        }
    }
    disk.sync_dir().await.map_err(StorageError::io("sync", "."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::disk::{Fault, SimDisk};

    #[tokio::test]
    async fn what_fails_to_become_a_cluster_leaves_nothing() {
        let at = Position { term: 1, index: 5 };
        for nth in 1.. {
            let state = State { applied: Some(log_id(1, 5)), ..State::default() };
            let disk = SimDisk::new(nth);
            disk.on_call(Some(Box::new(move |call| match call.number == nth {
                true => Fault::Error,
                false => Fault::None,
            })));
            let member = Member { name: "a".into(), rpc_addr: "a:1".into() };
            match found(state, at, disk.mount(), member).await {
                Err(BackupError::Storage(_)) => assert_eq!(disk.files(), [], "call {nth} failed"),
                Err(BackupError::Identity(_)) | Ok(_) => {
                    assert!(nth > 10, "every call has failed once");
                    assert!(disk.files().iter().any(|(name, _)| name.ends_with(".snap")));
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}
