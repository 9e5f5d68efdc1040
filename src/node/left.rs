//! Data set aside for earlier nodes of a data directory: files whose names begin with `left-`.
//!
//! A node that was removed from its cluster, or recovered from, starts over as another one on the same disk; its old
//! data is kept until an operator deletes it. No node ever reads it again.

use crate::membership::identity::without_left_prefix;
use crate::rt::disk::DiskRef;
use crate::storage::{Log, StorageError};

/// The amount of this data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// The number of files.
    pub files: u64,
    /// The sum of their lengths.
    pub bytes: u64,
}

async fn names(disk: &DiskRef) -> Result<Vec<String>, StorageError> {
    let mut names = disk.list().await.map_err(StorageError::io("list", "."))?;
    names.retain(|name| without_left_prefix(name).is_some());
    Ok(names)
}

/// Returns the amount of data that earlier nodes have left.
///
/// # Errors
/// If the disk cannot be read.
pub async fn measure(disk: &DiskRef) -> Result<Left, StorageError> {
    let mut left = Left::default();
    for name in names(disk).await? {
        let file = disk.open(&name).await.map_err(StorageError::io("open", &name))?;
        left.bytes += file.len().await.map_err(StorageError::io("look at", &name))?;
        left.files += 1;
    }
    Ok(left)
}

/// Truncates the preallocated, never written part of log segments: usually most of the last one.
///
/// # Errors
/// If the disk fails.
pub async fn cut_unused(disk: &DiskRef) -> Result<(), StorageError> {
    for name in names(disk).await? {
        let segment = without_left_prefix(&name).expect("names() returns no others");
        Log::cut_unused(disk, &name, segment).await?;
    }
    Ok(())
}

/// Deletes the data of earlier nodes; returns how much it was.
///
/// # Errors
/// If the disk fails; the rest can be deleted with another call.
pub async fn remove(disk: &DiskRef) -> Result<Left, StorageError> {
    let left = measure(disk).await?;
    for name in names(disk).await? {
        disk.remove(&name).await.map_err(StorageError::io("remove", &name))?;
    }
    disk.sync_dir().await.map_err(StorageError::io("sync", "."))?;
    Ok(left)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::membership::Identity;
    use crate::rt::disk::SimDisk;
    use crate::storage::{LogConfig, LogEntry, Owner};

    const SEGMENT_BYTES: u64 = 64 << 10;

    /// Creates a log of one entry and sets it aside.
    async fn write_and_set_aside(disk: &DiskRef) {
        let identity = Identity::load_or_create(disk.clone(), "a", Log::is_log_file).await.unwrap();
        let owner = Owner { node_id: identity.node_id(), cluster_id: [7; 16] };
        let config = LogConfig { segment_bytes: SEGMENT_BYTES, reserve_bytes: 0, ..LogConfig::default() };
        let log = Log::open(disk.clone(), config, owner).await.unwrap();
        log.append(vec![LogEntry { term: 1, index: 1, payload: Bytes::from(vec![0; 5_000]) }], |_| {})
            .unwrap();
        // One or two spare segments exist by then.
        crate::rt::sleep(std::time::Duration::from_millis(50)).await;
        log.close().await.unwrap();
        identity.set_aside().await.unwrap();
        cut_unused(disk).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_left_holds_no_empty_segments_is_measured_and_can_be_removed() {
        let device = SimDisk::new(1);
        let disk = device.mount();
        for round in 1..=4 {
            write_and_set_aside(&disk).await;
            let left = measure(&disk).await.unwrap();
            assert_eq!(left.files, round * 2, "an identity and a segment each: {:?}", device.files());
            assert!(left.bytes > round * 5_000 && left.bytes < round * 8_000, "{left:?}");
        }
        let segment = device.files().into_iter().find(|(name, _)| name.ends_with(".wal")).unwrap().0;
        let before = device.contents(&segment).unwrap();
        cut_unused(&disk).await.unwrap();
        assert_eq!(
            device.contents(&segment).unwrap(),
            before,
            "cut once, though its last entry ends in zeros"
        );
        let removed = remove(&disk).await.unwrap();
        assert_eq!(removed.files, 8);
        assert_eq!(measure(&disk).await.unwrap(), Left::default());
        assert_eq!(device.files().len(), 1, "the identity of the node that is");
    }
}
