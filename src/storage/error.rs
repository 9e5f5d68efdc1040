//! What can go wrong with what is stored, told so that an operator knows what to do.

use std::io;

use crate::node_id::NodeId;

/// What to do about a log that cannot be trusted any more.
const REMEDY: &str = "restore this node from its peers with 'mokv serve --wipe'";

/// An error of the log or of the snapshots. Cheap to clone: one failure is told to everybody who waits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// A call of the disk failed.
    #[error("cannot {operation} '{file}': {message}; check the disk, then start this node again")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file; `.` is the data directory.
        file: String,
        /// Its kind.
        kind: io::ErrorKind,
        /// What the disk said.
        message: String,
    },
    /// There is no space left.
    #[error("cannot {operation} '{file}': the disk is full; free space in the data directory's file system")]
    Full {
        /// What was tried.
        operation: &'static str,
        /// For which file.
        file: String,
    },
    /// Bytes are not what was written: data that was acknowledged may be gone.
    #[error("'{file}' is corrupt at offset {offset} ({reason}); {REMEDY}")]
    Corrupt {
        /// Which file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What gave it away.
        reason: &'static str,
    },
    /// A file of the log is missing from among the others.
    #[error("'{file}' is missing ({reason}); {REMEDY}")]
    Missing {
        /// Which file.
        file: String,
        /// How that is known.
        reason: &'static str,
    },
    /// The log was written by another node, or for another cluster.
    #[error(
        "'{file}' belongs to node id {} of cluster {found_cluster}, but this is node id {} of cluster \
         {cluster}; start it with its own data directory, or wipe this one with 'mokv serve --wipe'",
        NodeId(*.found_node), NodeId(*.node)
    )]
    Foreign {
        /// Which file.
        file: String,
        /// The node id in it.
        found_node: u64,
        /// The cluster id in it, hexadecimal.
        found_cluster: String,
        /// This node's id.
        node: u64,
        /// This node's cluster id, hexadecimal.
        cluster: String,
    },
    /// The file was written by another version of this program.
    #[error(
        "'{file}' has format version {found}, and this program reads version {known}; use the version of mokv that wrote it"
    )]
    Version {
        /// Which file.
        file: String,
        /// Its format version.
        found: u32,
        /// The one that this program reads.
        known: u32,
    },
    /// An earlier write or sync failed, so nothing may be acknowledged any more.
    #[error("the log has stopped for good: {0}")]
    Stopped(Box<StorageError>),
    /// The log was closed, or its runtime is shutting down.
    #[error("the log is closed")]
    Closed,
}

impl StorageError {
    /// What is wrong, without what to do about it: that is another thing where the file is no node's.
    pub fn finding(&self) -> String {
        match self {
            StorageError::Io { operation, file, message, .. } => {
                format!("cannot {operation} '{file}': {message}")
            }
            StorageError::Corrupt { .. } | StorageError::Missing { .. } => {
                let text = self.to_string();
                text.strip_suffix(&format!("; {REMEDY}")).unwrap_or(&text).to_owned()
            }
            other => other.to_string(),
        }
    }

    /// Tells what was tried on which file; for `map_err`.
    pub(crate) fn io(
        operation: &'static str,
        file: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> StorageError {
        let file = file.into();
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StorageError::Full { operation, file }
            }
            kind => StorageError::Io { operation, file, kind, message: error.to_string() },
        }
    }

    /// What everybody hears after this error stopped the log.
    pub(super) fn stopped(self) -> StorageError {
        match self {
            already @ (StorageError::Stopped(_) | StorageError::Closed) => already,
            cause => StorageError::Stopped(Box::new(cause)),
        }
    }

    /// Whether it is only space that is missing.
    pub fn is_full(&self) -> bool {
        matches!(self, StorageError::Full { .. })
    }
}
