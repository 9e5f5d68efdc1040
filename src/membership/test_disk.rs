//! A disk in memory that stops after a given number of calls and then loses, or keeps, what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::disk::{Disk, File, FileRef};

type Content = Arc<Mutex<Vec<u8>>>;

#[derive(Debug, Default)]
struct Directory {
    live: BTreeMap<String, Content>,
    durable: BTreeMap<String, Content>,
    calls_left: Option<usize>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct TestDisk(Arc<Mutex<Directory>>);

impl TestDisk {
    /// The power fails before the call number `calls` from now on.
    pub(crate) fn fail_after(&self, calls: usize) {
        self.0.lock().unwrap().calls_left = Some(calls);
    }

    /// Whether it failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.lock().unwrap().calls_left == Some(0)
    }

    /// Power is back: unsynced names are lost, or by chance all kept.
    pub(crate) fn restart(&self, keep_unsynced: bool) {
        let mut directory = self.0.lock().unwrap();
        directory.calls_left = None;
        if keep_unsynced {
            directory.durable = directory.live.clone();
        } else {
            directory.live = directory.durable.clone();
        }
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let mut directory = self.0.lock().unwrap();
        let content: Content = Arc::new(Mutex::new(bytes.to_vec()));
        directory.live.insert(name.into(), content.clone());
        directory.durable.insert(name.into(), content);
    }

    pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().live.get(name).map(|content| content.lock().unwrap().clone())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().live.keys().cloned().collect()
    }

    fn call<T>(&self, work: impl FnOnce(&mut Directory) -> io::Result<T>) -> io::Result<T> {
        let mut directory = self.0.lock().unwrap();
        match &mut directory.calls_left {
            Some(0) => return Err(io::Error::other("power failed")),
            Some(left) => *left -= 1,
            None => {}
        }
        work(&mut directory)
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

#[async_trait]
impl Disk for TestDisk {
    async fn create(&self, name: &str) -> io::Result<FileRef> {
        self.call(|directory| {
            if directory.live.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let content = Content::default();
            directory.live.insert(name.into(), content.clone());
            Ok(Arc::new(TestFile { disk: self.clone(), content }) as FileRef)
        })
    }

    async fn open(&self, name: &str) -> io::Result<FileRef> {
        self.call(|directory| {
            let content = directory.live.get(name).cloned().ok_or_else(missing)?;
            Ok(Arc::new(TestFile { disk: self.clone(), content }) as FileRef)
        })
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        self.call(|directory| Ok(directory.live.keys().cloned().collect()))
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call(|directory| {
            let content = directory.live.remove(from).ok_or_else(missing)?;
            directory.live.insert(to.into(), content);
            Ok(())
        })
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.call(|directory| directory.live.remove(name).map(|_| ()).ok_or_else(missing))
    }

    async fn sync_dir(&self) -> io::Result<()> {
        self.call(|directory| {
            directory.durable = directory.live.clone();
            Ok(())
        })
    }
}

#[derive(Debug)]
struct TestFile {
    disk: TestDisk,
    content: Content,
}

#[async_trait]
impl File for TestFile {
    async fn len(&self) -> io::Result<u64> {
        self.disk.call(|_| Ok(self.content.lock().unwrap().len() as u64))
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        self.disk.call(|_| {
            let content = self.content.lock().unwrap();
            Ok(Bytes::copy_from_slice(&content[offset as usize..offset as usize + length]))
        })
    }

    async fn write_and_sync(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        self.disk.call(|_| {
            let mut content = self.content.lock().unwrap();
            let end = offset as usize + bytes.len();
            let length = end.max(content.len());
            content.resize(length, 0);
            content[offset as usize..end].copy_from_slice(&bytes);
            Ok(())
        })
    }
}
