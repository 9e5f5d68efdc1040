//! The disk: one flat directory of files, with all its possible failures.
//!
//! All durable state of a node goes through these two traits, so the log, the snapshots and the identity run unchanged
//! on real files ([`RealDisk`]) and on a simulated disk ([`SimDisk`]) that loses, tears and rejects writes. The traits
//! guarantee what a POSIX file system guarantees and no more: a write is durable only after a sync of its file, a name
//! only after a sync of the directory, and after a failed sync nothing is certain. Nothing here retries, caches or
//! depends on a file format.

#[cfg(not(madsim))]
mod real;
mod simulated;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

#[cfg(not(madsim))]
pub use real::{FileLock, RealDisk, waiting_for_descriptors};
pub use simulated::{Counts, DiskCall, Fault, FaultRates, Hook, Image, Latency, Operation, SimDisk};

/// In simulation no file is locked.
#[cfg(madsim)]
#[derive(Debug)]
pub struct FileLock;

/// Number of files that cannot be opened for want of a descriptor: always 0, a simulated process has no limit.
#[cfg(madsim)]
pub fn waiting_for_descriptors() -> usize {
    0
}

/// A shared disk.
pub type DiskRef = Arc<dyn Disk>;

/// A shared open file.
pub type FileRef = Arc<dyn File>;

/// One flat directory of files. Names are plain: no separators, not `.` or `..`.
#[async_trait]
pub trait Disk: Send + Sync + Debug {
    /// Creates an empty file, open for reading and writing. Its name is durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken.
    async fn create(&self, name: &str) -> io::Result<FileRef>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    async fn open(&self, name: &str) -> io::Result<FileRef>;

    /// The names of all files, sorted.
    ///
    /// # Errors
    /// If the directory cannot be read.
    async fn list(&self) -> io::Result<Vec<String>>;

    /// Whether a file of this name exists.
    ///
    /// # Errors
    /// If the directory cannot be read.
    async fn exists(&self, name: &str) -> io::Result<bool>;

    /// Renames a file and replaces any file that had the new name. Atomic, durable only after [`Disk::sync_dir`]. Open
    /// handles stay valid.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    async fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Durable only after [`Disk::sync_dir`]. Open handles stay valid.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    async fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all names durable: creations, renames and removals so far.
    ///
    /// # Errors
    /// If the directory cannot be synced; which names survive is then unknown.
    async fn sync_dir(&self) -> io::Result<()>;

    /// The space that this process may still allocate, in bytes.
    ///
    /// # Errors
    /// If the file system does not report it.
    async fn free_bytes(&self) -> io::Result<u64>;

    /// The same directory, served by a separate thread, so that other work does not delay it.
    ///
    /// # Errors
    /// If the thread cannot be started.
    fn on_own_thread(&self) -> io::Result<DiskRef>;
}

/// An open file. It stays usable after its name is changed or removed.
#[async_trait]
#[allow(clippy::len_without_is_empty)] // No caller needs it.
pub trait File: Send + Sync + Debug {
    /// Its length in bytes.
    ///
    /// # Errors
    /// If the file system does not report it.
    async fn len(&self) -> io::Result<u64>;

    /// Reads up to `length` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// If the disk cannot be read.
    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes>;

    /// Writes all of `bytes` at `offset`, growing the file as needed. Not durable before [`File::sync`].
    ///
    /// # Errors
    /// Any part of the bytes may have been written nevertheless.
    async fn write_at(&self, offset: u64, bytes: Bytes) -> io::Result<()>;

    /// [`File::write_at`] and [`File::sync`] in one step.
    ///
    /// # Errors
    /// As theirs; which bytes are durable is then unknown.
    async fn write_and_sync(&self, offset: u64, bytes: Bytes) -> io::Result<()>;

    /// Makes the content and the length durable (fdatasync).
    ///
    /// # Errors
    /// What was not durable before may be lost even if later syncs succeed: never retry.
    async fn sync(&self) -> io::Result<()>;

    /// Truncates the file, or extends it by zeros that take no space. Not durable before [`File::sync`].
    ///
    /// # Errors
    /// If the file system rejects it.
    async fn set_len(&self, length: u64) -> io::Result<()>;

    /// Reserves space for `length` bytes where the file system supports it, so that writing them does not find the disk
    /// full. The content does not change; the length grows to `length`.
    ///
    /// # Errors
    /// `StorageFull` if there is not enough space.
    async fn reserve(&self, length: u64) -> io::Result<()>;

    /// Fills an empty file with `length` zero bytes and syncs it. Overwriting them later costs no allocation.
    ///
    /// # Errors
    /// `StorageFull` if there is not enough space.
    async fn preallocate(&self, length: u64) -> io::Result<()>;
}

/// Opens a file for reading that is not part of a data directory: one that a user gives to a command.
///
/// # Errors
/// The file system's error. In simulation always: there all files are on a simulated disk.
pub fn open_file(path: &Path) -> io::Result<FileRef> {
    #[cfg(not(madsim))]
    return real::open_file(path);
    #[cfg(madsim)]
    return Err(outside(path));
}

/// Opens a file for writing that is not part of a data directory, readable by this user only; its content is discarded.
///
/// # Errors
/// The file system's error. In simulation always: there all files are on a simulated disk.
pub fn create_file(path: &Path) -> io::Result<FileRef> {
    #[cfg(not(madsim))]
    return real::create_file(path);
    #[cfg(madsim)]
    return Err(outside(path));
}

/// Writes a file that is not part of a data directory, readable by this user only; its old content is replaced.
///
/// # Errors
/// The file system's error. In simulation always: there all files are on a simulated disk.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    #[cfg(not(madsim))]
    return real::write_private(path, bytes);
    #[cfg(madsim)]
    return {
        let _ = bytes;
        Err(outside(path))
    };
}

/// Which users besides this process's user may read a file or list a directory, as text; `None` if none may, or only
/// users that its owner chose.
///
/// # Errors
/// The file system's error. In simulation always: there all files are on a simulated disk.
pub fn other_readers(path: &Path) -> io::Result<Option<&'static str>> {
    #[cfg(not(madsim))]
    return real::other_readers(path);
    #[cfg(madsim)]
    return Err(outside(path));
}

/// Renames a file within its directory and replaces any file that had the new name. Durable when it returns.
///
/// # Errors
/// The file system's error. In simulation always: there all files are on a simulated disk.
pub fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(not(madsim))]
    return real::rename_durably(from, to);
    #[cfg(madsim)]
    return [from, to].into_iter().try_for_each(|path| Err(outside(path)));
}

/// Locks a file that is not part of a data directory, and creates it if necessary. Blocks while another process has the
/// lock. The lock is held until the returned value is dropped or the process ends.
///
/// # Errors
/// The file system's error. In simulation always: there all files are on a simulated disk.
pub fn lock_file(path: &Path) -> io::Result<FileLock> {
    #[cfg(not(madsim))]
    return real::lock_file(path);
    #[cfg(madsim)]
    return Err(outside(path));
}

/// Whether another process has the data directory at `path` open; changes nothing in it.
///
/// # Errors
/// The file system's error. In simulation always: there a node receives its disk from the harness.
pub fn is_in_use(path: &Path) -> io::Result<bool> {
    #[cfg(not(madsim))]
    return real::is_in_use(path);
    #[cfg(madsim)]
    return Err(outside(path));
}

/// Opens a directory of this machine, created durably if necessary, for this process alone.
///
/// # Errors
/// `WouldBlock` if another process has it open; otherwise the file system's error. In simulation always: there a node
/// receives its disk from the harness.
pub fn open_directory(path: &Path) -> io::Result<DiskRef> {
    #[cfg(not(madsim))]
    return Ok(Arc::new(RealDisk::open(path)?));
    #[cfg(madsim)]
    return Err(outside(path));
}

#[cfg(madsim)]
fn outside(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{} is no part of the simulation", path.display()))
}
