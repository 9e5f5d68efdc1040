//! Backups as files: what one holds, and a new cluster made of it.
//!
//! A backup is a snapshot file that lies anywhere. Restoring mints a new cluster id, a new node id and a membership of
//! that one node; the others join it. Directories of the old cluster belong to another cluster from then on. The log
//! and the snapshot are durable before the identity is written: a restore that was broken off leaves a directory that
//! no node starts on, and one that failed leaves nothing.
//!
//! A cluster that has lost its quorum is recovered the same way, of what one of its nodes has left on its disk
//! ([`recover`]).

use std::collections::BTreeMap;

use super::log_config;
use crate::config::StorageConfig;
use crate::map::ShownDigest;
use crate::membership::identity::{self, IdentityError};
use crate::membership::{ClusterId, Identity};
use crate::raft::offline_state;
use crate::raft::state_machine::{self, estimated_bytes};
use crate::raft::store::State;
use crate::raft::types::{Member, Membership, SnapshotMeta, StoredMembership, Vote, log_id};
use crate::raft::wire::{encode_vote, position};
use crate::rt::disk::{DiskRef, FileRef};
use crate::storage::{Log, LogConfig, Owner, Position, SnapshotReader, Snapshots, StorageError};

/// Why a backup is of no use, or could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It cannot be read, is damaged, or is none.
    #[error("{0}")]
    Unsound(String),
    /// Something is there already.
    #[error("the data directory is not empty: '{0}' is in it")]
    NotEmpty(String),
    /// The new log or snapshot could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The identity could not be read, or a new one not be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// What a backup holds. Every byte of it was read and its digest is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The last log entry in it.
    pub position: Position,
    /// The store's revision.
    pub revision: u64,
    /// How many keys there are.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// How many client sessions there are.
    pub sessions: u64,
    /// Of the whole state; `None`: its cluster had no key for it.
    pub digest: Option<ShownDigest>,
    /// Length of the file.
    pub file_bytes: u64,
    /// Name and address of each member of the cluster that it was taken of.
    pub members: BTreeMap<String, String>,
}

/// What a backup was restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster.
    pub cluster_id: ClusterId,
    /// Its only member so far.
    pub node_id: u64,
    /// How many keys it begins with.
    pub keys: u64,
    /// The store's revision.
    pub revision: u64,
    /// Of the whole state; `None`: its cluster had no key for it.
    pub digest: Option<ShownDigest>,
}

/// Reads the whole backup and checks it. `name` stands in messages.
///
/// # Errors
/// [`BackupError::Unsound`].
pub async fn inspect(file: FileRef, name: &str) -> Result<Contents, BackupError> {
    Ok(read(file, name).await?.1)
}

async fn read(file: FileRef, name: &str) -> Result<(State, Contents), BackupError> {
    // A backup is no node's data: that it is damaged is no reason to wipe one.
    let unsound = |error: StorageError| BackupError::Unsound(error.finding());
    let opened = SnapshotReader::of_any(file, name.to_owned()).await;
    let (reader, position) = opened.map_err(unsound)?;
    let file_bytes = reader.total_bytes();
    let state =
        state_machine::load(reader).await.map_err(|error| match error.downcast::<StorageError>() {
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

/// What a stopped node has left of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineState {
    /// The node's name.
    pub name: String,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// The last entry of its log, or of its snapshot if that reaches further.
    pub last: Position,
    /// How many entries before it were not known to be committed.
    pub uncertain: u64,
    /// What all of them make.
    pub revision: u64,
    /// How many keys there are.
    pub keys: u64,
    /// Of the whole state; `None`: its cluster had no key for it.
    pub digest: Option<ShownDigest>,
    /// Name and address of each member of the cluster.
    pub members: BTreeMap<String, String>,
}

/// What the data directory of a stopped node holds: its newest snapshot and all of its log, committed or not.
///
/// # Errors
/// [`BackupError`], if the directory is no node's, or its data is damaged.
pub async fn offline_state(disk: DiskRef, sizes: &StorageConfig) -> Result<OfflineState, BackupError> {
    Ok(read_offline_state(disk, sizes).await?.1)
}

async fn read_offline_state(
    disk: DiskRef,
    sizes: &StorageConfig,
) -> Result<(State, OfflineState), BackupError> {
    let identity = Identity::read(disk.clone()).await?;
    let empty =
        || BackupError::Unsound("this node was never part of a cluster, or holds nothing of it".into());
    let cluster_id = identity.cluster_id().filter(|_| identity.log_formatted()).ok_or_else(empty)?;
    let (snapshots, _) = Snapshots::open(disk.clone()).await?;
    let owner = Owner { node_id: identity.node_id(), cluster_id: cluster_id.0 };
    let log = Log::open(disk, log_config(sizes), owner).await?;
    let committed = log.state().committed;
    let state = offline_state::state(&log, &snapshots).await;
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

/// Makes a new cluster of what one node of an old one has left: of all entries of its log, committed or not, with this
/// node, under this address, as its only member. The old data stays on the disk under names that begin with `left-`.
///
/// # Errors
/// [`BackupError`]. The old data is set aside before anything is written: a directory where that was broken off holds a
/// node that forms no cluster.
pub async fn recover(
    disk: DiskRef,
    sizes: &StorageConfig,
    rpc_addr: String,
) -> Result<Restored, BackupError> {
    let (state, offline_state) = read_offline_state(disk.clone(), sizes).await?;
    Identity::read(disk.clone()).await?.set_aside().await?;
    let member = Member { name: offline_state.name, rpc_addr };
    let (cluster_id, node_id) = found(&state, offline_state.last, disk, member).await?;
    Ok(Restored {
        cluster_id,
        node_id,
        keys: offline_state.keys,
        revision: offline_state.revision,
        digest: offline_state.digest,
    })
}

/// Makes a new cluster of a backup: on an empty `disk`, with one member of this name and address.
///
/// # Errors
/// [`BackupError`]; unless the disk was not empty, what was begun is removed. If the process ends before that, it has to
/// be emptied before the next attempt.
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
    let (cluster_id, node_id) = found(&state, contents.position, disk, member).await?;
    let Contents { keys, revision, digest, .. } = contents;
    Ok(Restored { cluster_id, node_id, keys, revision, digest })
}

/// Writes the data directory of a new cluster's first member, which begins with this state; the cluster and the member.
async fn found(
    state: &State,
    at: Position,
    disk: DiskRef,
    member: Member,
) -> Result<(ClusterId, u64), BackupError> {
    let cluster_id = ClusterId::random();
    let identity = Identity::of_member(disk.clone(), &member.name, cluster_id)?;
    let node_id = identity.node_id();
    let owner = Owner { node_id, cluster_id: cluster_id.0 };
    if let Err(error) = write_data(state, at, disk.clone(), owner, member).await {
        // What could not be finished would only be in the way of the next attempt, and of whoever needs the space.
        let _ = remove_data(&disk).await;
        return Err(error.into());
    }
    identity.establish().await?;
    Ok((cluster_id, node_id))
}

async fn write_data(
    state: &State,
    at: Position,
    disk: DiskRef,
    owner: Owner,
    member: Member,
) -> Result<(), StorageError> {
    // No node starts on a log without an identity; on a snapshot alone one would.
    let log = Log::open(disk.clone(), LogConfig::default(), owner).await?;
    let written = async {
        write_snapshot(state, at, disk, owner.node_id, member).await?;
        log.purge(at).await?;
        // The next term is a later one than that of any entry in the snapshot.
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
    node_id: u64,
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
    let header = state_machine::header(&meta, state.map.digest());
    let mut writer = snapshots.create(at, header, estimated_bytes(&state.map)).await?;
    for block in state.map.blocks() {
        writer.add_block(block).await?;
    }
    writer.finish().await?;
    Ok(())
}

/// Removes what there is besides an identity and what earlier nodes have left.
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
        let state = State { applied: Some(log_id(1, 5)), ..State::default() };
        for nth in 1.. {
            let disk = SimDisk::new(nth);
            disk.on_call(Some(Box::new(move |call| match call.number == nth {
                true => Fault::Error,
                false => Fault::None,
            })));
            let member = Member { name: "a".into(), rpc_addr: "a:1".into() };
            match found(&state, at, disk.mount(), member).await {
                Err(BackupError::Storage(_)) => assert_eq!(disk.files(), [], "call {nth} failed"),
                Err(BackupError::Identity(_)) | Ok(_) => {
                    assert!(nth > 10, "all of it was tried");
                    assert!(disk.files().iter().any(|(name, _)| name.ends_with(".snap")));
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}
