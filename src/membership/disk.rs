//! What the identity asks of a disk: one flat directory whose changes of names are durable after a sync of it.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// A disk that anybody may hold.
pub type DiskRef = Arc<dyn Disk>;
/// An open file that anybody may hold.
pub type FileRef = Arc<dyn File>;

/// One flat directory of files.
#[async_trait]
pub trait Disk: Send + Sync + Debug {
    /// Creates an empty file.
    async fn create(&self, name: &str) -> io::Result<FileRef>;
    /// Opens a file.
    async fn open(&self, name: &str) -> io::Result<FileRef>;
    /// The names of all files.
    async fn list(&self) -> io::Result<Vec<String>>;
    /// Gives a file another name.
    async fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name.
    async fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all names durable.
    async fn sync_dir(&self) -> io::Result<()>;
}

/// An open file.
#[async_trait]
pub trait File: Send + Sync + Debug {
    /// Its length in bytes.
    async fn len(&self) -> io::Result<u64>;
    /// Up to `length` bytes at `offset`.
    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes>;
    /// Writes and makes durable.
    async fn write_and_sync(&self, offset: u64, bytes: Bytes) -> io::Result<()>;
}
