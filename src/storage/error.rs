//! Errors of stored data, with text that states what an operator must do.

use std::io;

use crate::node_id::NodeId;

/// The remedy for a log that cannot be trusted any more.
const REMEDY: &str = "restore this node from its peers with 'mokv serve --wipe'";

/// An error of the log or of the snapshots. Cheap to clone: one failure is reported to all waiting callers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// A disk operation failed.
    #[error("cannot {operation} '{file}': {message}; check the disk, then start this node again")]
    Io {
        /// The attempted operation.
        operation: &'static str,
        /// The file's name; `.` is the data directory.
        file: String,
        /// The kind of the error.
        kind: io::ErrorKind,
        /// The disk's error message.
        message: String,
    },
    /// The disk is full.
    #[error("cannot {operation} '{file}': the disk is full; free space in the data directory's file system")]
    Full {
        /// The attempted operation.
        operation: &'static str,
        /// The file's name.
        file: String,
    },
    /// Bytes differ from what was written: data that was acknowledged may be lost.
    #[error("'{file}' is corrupt at offset {offset} ({reason}); {REMEDY}")]
    Corrupt {
        /// The file's name.
        file: String,
        /// Offset in the file, in bytes.
        offset: u64,
        /// How it was detected.
        reason: &'static str,
    },
    /// A file of the log is missing, although others exist.
    #[error("'{file}' is missing ({reason}); {REMEDY}")]
    Missing {
        /// The file's name.
        file: String,
        /// How it was detected.
        reason: &'static str,
    },
    /// The log was written by another node, or for another cluster.
    #[error(
        "'{file}' belongs to node id {found_node} of cluster {found_cluster}, but this is node id {node} of cluster \
         {cluster}; start it with its own data directory, or wipe this one with 'mokv serve --wipe'"
    )]
    Foreign {
        /// The file's name.
        file: String,
        /// The node id in it.
        found_node: NodeId,
        /// The cluster id in it, hexadecimal.
        found_cluster: String,
        /// This node's id.
        node: NodeId,
        /// This node's cluster id, hexadecimal.
        cluster: String,
    },
    /// The file has a format version that this program cannot read.
    #[error(
        "'{file}' has format version {found}, and this program reads version {known}; use the version of mokv that wrote it"
    )]
    Version {
        /// The file's name.
        file: String,
        /// Its format version.
        found: u32,
        /// The version that this program reads.
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
    /// The error without the remedy, for a file that belongs to no node: there the remedy does not apply.
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

    /// Adds the operation and the file to an `io::Error`; for `map_err`.
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

    /// The error returned to all callers after this error has stopped the log.
    pub(super) fn stopped(self) -> StorageError {
        match self {
            already @ (StorageError::Stopped(_) | StorageError::Closed) => already,
            cause => StorageError::Stopped(Box::new(cause)),
        }
    }

    /// Whether the only cause is a lack of space.
    pub fn is_full(&self) -> bool {
        matches!(self, StorageError::Full { .. })
    }
}
