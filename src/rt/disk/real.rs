//! Real files: blocking calls on separate threads, never on those that run tasks.
//!
//! One process at a time holds the directory, by a lock on the file `LOCK`. A job runs to its end even if its caller no
//! longer waits for it, so a dropped future never leaves a half-done call to interfere with a later one.

#![allow(clippy::disallowed_types)] // The one place that opens real files.

use std::fs::{File as StdFile, OpenOptions, TryLockError};
use std::future::Future;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Disk, DiskRef, File, FileRef};
use crate::rt::sleep;
use crate::rt::time::Seldom;

const LOCK: &str = "LOCK";
/// How much one job of a long operation writes before other jobs get their turn, in bytes.
const STEP_BYTES: u64 = 1 << 20;
/// The kernel caches what one call writes as one piece; this is the smallest piece, in bytes.
const PAGE_BYTES: usize = 4 << 10;

/// No other user may read keys and values, whatever the umask.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

type Job = Box<dyn FnOnce() + Send>;

/// A directory of real files.
#[derive(Debug, Clone)]
pub struct RealDisk {
    directory: Arc<Directory>,
    jobs: Jobs,
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    handle: StdFile,
    /// Locked while any handle exists; the kernel releases the lock when the process ends.
    _lock: StdFile,
}

impl RealDisk {
    /// Opens the directory at `path`, created durably if necessary, for this process alone.
    ///
    /// Blocks briefly: call it at start.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it open; otherwise the file system's error.
    pub fn open(path: impl AsRef<Path>) -> io::Result<RealDisk> {
        let existed = path.as_ref().is_dir();
        if !existed {
            if let Some(parent) = path.as_ref().parent() {
                std::fs::create_dir_all(parent)?;
            }
            match std::fs::DirBuilder::new().mode(DIRECTORY_MODE).create(&path) {
                // Another process created it first; the lock decides which one holds it.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let path = path.as_ref().canonicalize()?;
        if !existed {
            // The names of the directories must be durable as well, or everything in them is lost.
            path.ancestors().skip(1).try_for_each(sync_directory)?;
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(FILE_MODE);
        let lock = options.open(path.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("data directory in use by another process: {}", path.display()),
            ),
            TryLockError::Error(error) => error,
        })?;
        let handle = StdFile::open(&path)?;
        let directory = Arc::new(Directory { path, handle, _lock: lock });
        Ok(RealDisk { directory, jobs: Jobs::start("mokv-disk")? })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let directory = self.directory.clone();
        self.jobs.run(move || work(&directory)).await
    }

    async fn open_with(&self, name: &str, options: OpenOptions) -> io::Result<FileRef> {
        let path = self.directory.path.join(plain(name)?);
        let open = || {
            let (options, path) = (options.clone(), path.clone());
            self.run(move |_| options.open(path))
        };
        let file = Arc::new(with_descriptors(name, open).await?);
        Ok(Arc::new(RealFile { file, jobs: self.jobs.clone() }))
    }
}

/// See [`super::open_file`].
pub(super) fn open_file(path: &Path) -> io::Result<FileRef> {
    of_user(StdFile::open(path)?)
}

/// See [`super::create_file`].
pub(super) fn create_file(path: &Path) -> io::Result<FileRef> {
    of_user(create_private(path)?)
}

/// See [`super::write_private`].
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_private(path)?.write_all(bytes)
}

/// A file that this process has locked.
#[derive(Debug)]
pub struct FileLock {
    _file: StdFile,
}

/// See [`super::lock_file`].
pub(super) fn lock_file(path: &Path) -> io::Result<FileLock> {
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(FILE_MODE).open(path)?;
    file.lock()?;
    Ok(FileLock { _file: file })
}

/// See [`super::is_in_use`].
pub(super) fn is_in_use(path: &Path) -> io::Result<bool> {
    // A directory that was never open has no lock file.
    let lock = match OpenOptions::new().write(true).open(path.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        lock => lock?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn create_private(path: &Path) -> io::Result<StdFile> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(FILE_MODE).open(path)?;
    let metadata = file.metadata()?;
    // A file that existed before keeps its mode.
    if metadata.is_file() && metadata.mode() & 0o777 != FILE_MODE {
        file.set_permissions(std::fs::Permissions::from_mode(FILE_MODE))?;
    }
    Ok(file)
}

/// See [`super::other_readers`].
pub(super) fn other_readers(path: &Path) -> io::Result<Option<&'static str>> {
    let metadata = std::fs::metadata(path)?;
    // If another user owns it, its group was chosen for this process: that is how Kubernetes mounts volumes and
    // secrets.
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
    Ok(match metadata.mode() {
        mode if mode & 0o007 != 0 && is_own => Some("every user of this machine"),
        mode if mode & 0o004 != 0 && metadata.is_file() => Some("every user of this machine"),
        mode if mode & 0o070 != 0 && is_own => Some("its group"),
        _ => None,
    })
}

fn of_user(file: StdFile) -> io::Result<FileRef> {
    Ok(Arc::new(RealFile { file: Arc::new(file), jobs: Jobs::start("mokv-file")? }))
}

/// See [`super::rename_durably`].
pub(super) fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_directory(directory.unwrap_or(Path::new(".")))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match StdFile::open(path) {
        Ok(directory) => directory.sync_all(),
        // A parent directory that may not be read existed before, so it needs no sync.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

/// Number of files in the whole process that wait for a descriptor.
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// Limits the log lines about them.
static WARNED: LazyLock<Seldom> = LazyLock::new(Seldom::default);

/// One file counted in [`WAITING`].
struct Waiting;

impl Waiting {
    fn begin() -> Waiting {
        WAITING.fetch_add(1, Ordering::Relaxed);
        Waiting
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Number of files that cannot be opened now because this process, or the system, has no descriptor left.
pub fn waiting_for_descriptors() -> usize {
    WAITING.load(Ordering::Relaxed)
}

/// Repeats `open` while the process, or the system, has no descriptor left: the file is unchanged then, and a
/// descriptor becomes free as soon as a connection ends.
async fn with_descriptors<T, F: Future<Output = io::Result<T>>>(
    name: &str,
    mut open: impl FnMut() -> F,
) -> io::Result<T> {
    const PAUSE: Duration = Duration::from_millis(50);
    let mut waiting = None;
    loop {
        match open().await {
            Err(error) if is_out_of_descriptors(&error) => {
                waiting.get_or_insert_with(Waiting::begin);
                if let Some(more) = WARNED.now() {
                    tracing::warn!(more, "cannot open {name} yet and try again: {error}");
                }
                sleep(PAUSE).await;
            }
            opened => return opened,
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error())).contains(&error.raw_os_error())
}

fn plain(name: &str) -> io::Result<&str> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." || name == LOCK {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("'{name}' is no plain file name")));
    }
    Ok(name)
}

#[async_trait]
impl Disk for RealDisk {
    async fn create(&self, name: &str) -> io::Result<FileRef> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(FILE_MODE);
        self.open_with(name, options).await
    }

    async fn open(&self, name: &str) -> io::Result<FileRef> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        self.open_with(name, options).await
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        let list = |directory: &Directory| {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&directory.path)? {
                let entry = entry?;
                match entry.file_name().into_string() {
                    Ok(name) if name != LOCK && entry.file_type()?.is_file() => names.push(name),
                    // Not ours: all our names are plain files with ASCII names.
                    _ => {}
                }
            }
            names.sort();
            Ok(names)
        };
        with_descriptors(".", || self.run(list)).await
    }

    async fn exists(&self, name: &str) -> io::Result<bool> {
        let name = plain(name)?.to_owned();
        self.run(move |directory| std::fs::exists(directory.path.join(name))).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (plain(from)?.to_owned(), plain(to)?.to_owned());
        self.run(move |directory| std::fs::rename(directory.path.join(from), directory.path.join(to))).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let name = plain(name)?.to_owned();
        self.run(move |directory| std::fs::remove_file(directory.path.join(name))).await
    }

    async fn sync_dir(&self) -> io::Result<()> {
        self.run(|directory| directory.handle.sync_all()).await
    }

    async fn free_bytes(&self) -> io::Result<u64> {
        self.run(|directory| {
            let status = rustix::fs::fstatvfs(&directory.handle)?;
            Ok(status.f_bavail.saturating_mul(status.f_frsize))
        })
        .await
    }

    fn on_own_thread(&self) -> io::Result<DiskRef> {
        let jobs = Jobs::start("mokv-disk-log")?;
        Ok(Arc::new(RealDisk { directory: self.directory.clone(), jobs }))
    }
}

#[derive(Debug)]
struct RealFile {
    file: Arc<StdFile>,
    jobs: Jobs,
}

impl RealFile {
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StdFile) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let file = self.file.clone();
        self.jobs.run(move || work(&file)).await
    }
}

#[async_trait]
impl File for RealFile {
    async fn len(&self) -> io::Result<u64> {
        self.run(|file| Ok(file.metadata()?.len())).await
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        self.run(move |file| {
            let mut buffer = vec![0; length];
            let mut filled = 0;
            while filled < length {
                match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            buffer.truncate(filled);
            Ok(buffer.into())
        })
        .await
    }

    async fn write_at(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        self.run(move |file| file.write_all_at(&bytes, offset)).await
    }

    async fn write_and_sync(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        self.run(move |file| {
            file.write_all_at(&bytes, offset)?;
            file.sync_data()
        })
        .await
    }

    async fn sync(&self) -> io::Result<()> {
        self.run(|file| file.sync_data()).await
    }

    async fn set_len(&self, length: u64) -> io::Result<()> {
        self.run(move |file| file.set_len(length)).await
    }

    async fn reserve(&self, length: u64) -> io::Result<()> {
        self.run(move |file| {
            if length == 0 {
                return Ok(());
            }
            match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length) {
                // A full disk is then found only while writing.
                Err(rustix::io::Errno::OPNOTSUPP) if length > file.metadata()?.len() => file.set_len(length),
                Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
                result => Ok(result?),
            }
        })
        .await
    }

    async fn preallocate(&self, length: u64) -> io::Result<()> {
        // Zeros are written, because blocks that are merely allocated cost a journal commit at their first sync. Page
        // by page, because the kernel caches the bytes of one call in folios as large as the call and later writes a
        // folio back as a whole: a batch of a kilobyte would cost a megabyte of disk traffic.
        let mut offset = 0;
        while offset < length {
            let end = length.min(offset + STEP_BYTES);
            self.run(move |file| {
                (offset..end).step_by(PAGE_BYTES).try_for_each(|at| {
                    file.write_all_at(&[0; PAGE_BYTES][..PAGE_BYTES.min((end - at) as usize)], at)
                })
            })
            .await?;
            offset = end;
        }
        self.run(|file| file.sync_all()).await
    }
}

/// A thread that runs one job after the other and ends when no sender is left.
#[derive(Debug, Clone)]
struct Jobs(mpsc::Sender<Job>);

impl Jobs {
    fn start(name: &str) -> io::Result<Jobs> {
        let (sender, receiver) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || receiver.into_iter().for_each(|job| job()))?;
        Ok(Jobs(sender))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let gone = || io::Error::other("the disk thread has ended");
        let (done, result) = oneshot::channel();
        // The caller may have stopped waiting for the result; the job is done nevertheless.
        let job = Box::new(move || drop(done.send(work())));
        self.0.send(job).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_written_read_renamed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(directory.path().join("made/on/demand")).unwrap();
        let file = disk.create("a").await.unwrap();
        assert_eq!(disk.create("a").await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.preallocate(3 << 20).await.unwrap();
        file.write_and_sync(5, Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(&file.read_at(4, 7).await.unwrap()[..], b"\0hello\0");
        assert_eq!(file.len().await.unwrap(), 3 << 20);
        file.set_len(7).await.unwrap();
        assert_eq!(&file.read_at(5, 100).await.unwrap()[..], b"he");
        file.reserve(100).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 100);
        disk.rename("a", "b").await.unwrap();
        disk.sync_dir().await.unwrap();
        assert_eq!(disk.list().await.unwrap(), ["b"]);
        assert!(disk.exists("b").await.unwrap() && !disk.exists("a").await.unwrap());
        disk.remove("b").await.unwrap();
        assert_eq!(disk.open("b").await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(file.len().await.unwrap(), 100, "an open file outlives its name");
        assert!(disk.free_bytes().await.unwrap() > 0);
    }

    #[tokio::test]
    async fn only_one_may_have_the_directory_open() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(directory.path()).unwrap();
        let own = disk.on_own_thread().unwrap();
        drop(disk);
        let refusal = RealDisk::open(directory.path()).unwrap_err();
        assert!(refusal.to_string().contains("in use by another process"), "{refusal}");
        assert!(super::is_in_use(directory.path()).unwrap());
        own.create("still-works").await.unwrap();
        drop(own);
        // The lock is released with the last handle; the thread may hold it briefly while it ends its last job.
        while RealDisk::open(directory.path()).is_err() {
            tokio::task::yield_now().await;
        }
        assert!(!super::is_in_use(&directory.path().join("nobody")).unwrap());
    }

    /// The limit applies to the whole process, so the shortage is simulated here.
    #[tokio::test]
    async fn an_open_that_finds_no_descriptor_is_tried_again_and_any_other_failure_is_final() {
        let mut attempts = 0;
        let opened = with_descriptors("a", || {
            attempts += 1;
            let errno = if attempts == 1 { rustix::io::Errno::MFILE } else { rustix::io::Errno::NFILE };
            let done = attempts > 2;
            async move { if done { Ok(()) } else { Err(errno.into()) } }
        });
        opened.await.unwrap();
        assert_eq!(attempts, 3);
        let failing = || async { Err::<(), _>(rustix::io::Errno::IO.into()) };
        assert!(with_descriptors("a", failing).await.is_err());
    }

    #[tokio::test]
    async fn names_with_paths_in_them_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(directory.path()).unwrap();
        for name in ["../a", "a/b", "", "..", "LOCK"] {
            assert_eq!(disk.create(name).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
