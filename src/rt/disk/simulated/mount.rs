//! A process's calls to a simulated disk: each is counted, passed to the hook, delayed, failed or executed, and traced.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::faults::{DiskCall, Fault, Operation};
use super::platter::Inode;
use super::{SimDisk, State};
use crate::rt::disk::{Disk, DiskRef, File, FileRef};
use crate::rt::{sleep, trace};

fn dead() -> io::Error {
    io::Error::other("the process that mounted this disk was killed")
}

fn eio(operation: Operation) -> io::Error {
    io::Error::other(format!("input/output error (simulated) in {operation:?}"))
}

/// The disk as one process sees it, until that process is killed.
#[derive(Debug, Clone)]
pub(super) struct Mounted {
    disk: SimDisk,
    generation: u64,
}

/// What a call refers to.
#[derive(Clone, Copy)]
enum Subject<'a> {
    Directory,
    Name(&'a str),
    Inode(u64),
}

impl Mounted {
    pub fn new(disk: SimDisk) -> Mounted {
        let generation = disk.state().generation;
        Mounted { disk, generation }
    }

    fn current(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.generation == self.generation { Ok(state) } else { Err(dead()) }
    }

    /// Every call goes through here: counted, passed to the hook, failed by request or at random, delayed, traced.
    ///
    /// `effect` is what the call does; `broken` is its effect when it fails with EIO.
    async fn call<T>(
        &self,
        operation: Operation,
        subject: Subject<'_>,
        (offset, length): (u64, u64),
        effect: impl FnOnce(&mut State) -> io::Result<T>,
        broken: impl FnOnce(&mut State),
    ) -> io::Result<T> {
        let (call, delay) = {
            let mut state = self.current()?;
            state.counts.calls += 1;
            let name = match subject {
                Subject::Directory => String::new(),
                Subject::Name(name) => name.to_owned(),
                Subject::Inode(inode) => state
                    .platter
                    .names
                    .iter()
                    .find(|(_, other)| **other == inode)
                    .map_or_else(String::new, |(name, _)| name.clone()),
            };
            let range = state.latency.as_ref().map(|latency| latency.of(operation).clone());
            let delay = range.map(|range| {
                let spread = range.end.saturating_sub(range.start).as_nanos() as u64;
                range.start + Duration::from_nanos(state.dice.up_to(spread))
            });
            (DiskCall { number: state.counts.calls, operation, name, offset, length }, delay)
        };
        self.pause(delay).await;
        let result = self.carry_out(&call, effect, broken);
        let mut event = [0; 18];
        event[..2].copy_from_slice(&[operation as u8, outcome(&result)]);
        event[2..10].copy_from_slice(&offset.to_le_bytes());
        event[10..].copy_from_slice(&length.to_le_bytes());
        trace::record_of("disk", call.name.as_bytes(), &event);
        self.pause(delay).await;
        // The result of a call that outlived its process is not delivered.
        drop(self.current()?);
        result
    }

    fn carry_out<T>(
        &self,
        call: &DiskCall,
        effect: impl FnOnce(&mut State) -> io::Result<T>,
        broken: impl FnOnce(&mut State),
    ) -> io::Result<T> {
        // The hook runs without the lock: it may use the disk.
        let mut hook = self.current()?.hook.take();
        let fault = hook.as_mut().map_or(Fault::None, |hook| hook(call));
        let mut state = self.disk.state();
        state.hook = state.hook.take().or(hook);
        if state.generation != self.generation {
            return Err(dead());
        }
        match fault {
            Fault::KillBefore => state.kill(),
            Fault::PowerLossBefore => state.lose_power(),
            _ => {}
        }
        if state.generation != self.generation {
            return Err(dead());
        }
        let by_chance = state.fails(call.operation);
        let result = if fault == Fault::Full {
            Err(io::ErrorKind::StorageFull.into())
        } else if fault == Fault::Error || by_chance {
            state.counts.errors += 1;
            broken(&mut state);
            Err(eio(call.operation))
        } else {
            effect(&mut state)
        };
        match fault {
            Fault::KillAfter => state.kill(),
            Fault::PowerLossAfter => state.lose_power(),
            _ => {}
        }
        result
    }

    async fn pause(&self, delay: Option<Duration>) {
        match delay {
            Some(delay) if !delay.is_zero() => sleep(delay / 2).await,
            Some(_) => {}
            None => YieldOnce::default().await,
        }
    }

    fn file(&self, inode: u64, state: &mut State) -> FileRef {
        *state.platter.handles.entry(inode).or_default() += 1;
        Arc::new(Handle { mounted: self.clone(), inode })
    }
}

fn outcome<T>(result: &io::Result<T>) -> u8 {
    match result {
        Ok(_) => 0,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => 1,
            io::ErrorKind::AlreadyExists => 2,
            io::ErrorKind::StorageFull => 3,
            _ => 4,
        },
    }
}

/// Lets other tasks run once, in any runtime or without one.
#[derive(Debug, Default)]
struct YieldOnce(bool);

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[async_trait]
impl Disk for Mounted {
    async fn create(&self, name: &str) -> io::Result<FileRef> {
        let effect = |state: &mut State| {
            let inode = state.platter.create(name)?;
            Ok(self.file(inode, state))
        };
        self.call(Operation::Create, Subject::Name(name), (0, 0), effect, |_| {}).await
    }

    async fn open(&self, name: &str) -> io::Result<FileRef> {
        let effect = |state: &mut State| {
            let inode = state.platter.find(name)?;
            Ok(self.file(inode, state))
        };
        self.call(Operation::Open, Subject::Name(name), (0, 0), effect, |_| {}).await
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        let effect = |state: &mut State| Ok(state.platter.names.keys().cloned().collect());
        self.call(Operation::List, Subject::Directory, (0, 0), effect, |_| {}).await
    }

    async fn exists(&self, name: &str) -> io::Result<bool> {
        let effect = |state: &mut State| Ok(state.platter.names.contains_key(name));
        self.call(Operation::Exists, Subject::Name(name), (0, 0), effect, |_| {}).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let effect = |state: &mut State| state.platter.rename(from, to);
        self.call(Operation::Rename, Subject::Name(to), (0, 0), effect, |_| {}).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let effect = |state: &mut State| state.platter.remove(name);
        self.call(Operation::Remove, Subject::Name(name), (0, 0), effect, |_| {}).await
    }

    async fn sync_dir(&self) -> io::Result<()> {
        let effect = |state: &mut State| {
            state.counts.syncs += 1;
            state.platter.sync_dir();
            Ok(())
        };
        // Names go through the file system's journal: after a failed sync they are still pending, not lost.
        self.call(Operation::SyncDir, Subject::Directory, (0, 0), effect, |_| {}).await
    }

    async fn free_bytes(&self) -> io::Result<u64> {
        let effect = |state: &mut State| {
            Ok(state
                .capacity
                .map_or(u64::MAX, |capacity| capacity.saturating_sub(state.platter.used_bytes())))
        };
        self.call(Operation::FreeBytes, Subject::Directory, (0, 0), effect, |_| {}).await
    }

    fn on_own_thread(&self) -> io::Result<DiskRef> {
        Ok(Arc::new(self.clone()))
    }
}

#[derive(Debug)]
struct Handle {
    mounted: Mounted,
    inode: u64,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let Ok(mut state) = self.mounted.current() else { return };
        if let Some(handles) = state.platter.handles.get_mut(&self.inode) {
            *handles -= 1;
            if *handles == 0 {
                state.platter.handles.remove(&self.inode);
            }
        }
    }
}

impl Handle {
    async fn call<T>(
        &self,
        operation: Operation,
        place: (u64, u64),
        effect: impl FnOnce(&mut State) -> io::Result<T>,
        broken: impl FnOnce(&mut State),
    ) -> io::Result<T> {
        self.mounted.call(operation, Subject::Inode(self.inode), place, effect, broken).await
    }

    fn inode<'a>(&self, state: &'a mut State) -> &'a mut Inode {
        state.platter.inodes.get_mut(&self.inode).expect("an open file is kept")
    }

    fn grow(&self, state: &mut State, length: u64) -> io::Result<()> {
        let present = self.inode(state).cached.len() as u64;
        state.has_room_for(length.saturating_sub(present))?;
        if length > present {
            self.inode(state).set_len(length);
        }
        Ok(())
    }
}

/// A write that was requested: if the process is killed before it is done, a prefix of it may be there.
struct UnderWay<'a> {
    mounted: &'a Mounted,
    ticket: u64,
}

impl<'a> UnderWay<'a> {
    fn begin(mounted: &'a Mounted, write: (u64, u64, Bytes)) -> io::Result<UnderWay<'a>> {
        let ticket = mounted.current()?.platter.begin_write(write);
        Ok(UnderWay { mounted, ticket })
    }

    fn end(&self, state: &mut State) {
        state.platter.end_write(self.ticket);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        // A write that its caller dropped is never executed; one that was executed is no longer registered.
        if let Ok(mut state) = self.mounted.current() {
            self.end(&mut state);
        }
    }
}

#[async_trait]
impl File for Handle {
    async fn len(&self) -> io::Result<u64> {
        let effect = |state: &mut State| Ok(self.inode(state).cached.len() as u64);
        self.call(Operation::Len, (0, 0), effect, |_| {}).await
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let effect = |state: &mut State| {
            let cached = &self.inode(state).cached;
            let start = (offset as usize).min(cached.len());
            let end = start.saturating_add(length).min(cached.len());
            Ok(Bytes::copy_from_slice(&cached[start..end]))
        };
        self.call(Operation::Read, (offset, length as u64), effect, |_| {}).await
    }

    async fn write_at(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        // A separate copy: the caller may reuse the buffer once the call has returned.
        let bytes = Bytes::copy_from_slice(&bytes);
        let length = bytes.len() as u64;
        let under_way = UnderWay::begin(&self.mounted, (self.inode, offset, bytes.clone()))?;
        let torn = bytes.clone();
        let effect = |state: &mut State| {
            under_way.end(state);
            state.counts.writes += 1;
            let growth = (offset + length).saturating_sub(self.inode(state).cached.len() as u64);
            state.has_room_for(growth)?;
            state.counts.bytes_written += length;
            trace::record("disk write", &bytes);
            self.inode(state).write(offset, bytes);
            Ok(())
        };
        let broken = |state: &mut State| {
            under_way.end(state);
            let written = state.dice.up_to(length) as usize;
            self.inode(state).write(offset, torn.slice(..written));
        };
        self.call(Operation::Write, (offset, length), effect, broken).await
    }

    async fn write_and_sync(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        self.write_at(offset, bytes).await?;
        self.sync().await
    }

    async fn sync(&self) -> io::Result<()> {
        let effect = |state: &mut State| {
            state.counts.syncs += 1;
            self.inode(state).sync();
            Ok(())
        };
        let broken = |state: &mut State| {
            let mut dice = state.dice.split();
            self.inode(state).fail_sync(&mut dice);
        };
        self.call(Operation::Sync, (0, 0), effect, broken).await
    }

    async fn set_len(&self, length: u64) -> io::Result<()> {
        let effect = |state: &mut State| {
            let growth = length.saturating_sub(self.inode(state).cached.len() as u64);
            state.has_room_for(growth)?;
            self.inode(state).set_len(length);
            Ok(())
        };
        self.call(Operation::SetLen, (0, length), effect, |_| {}).await
    }

    async fn reserve(&self, length: u64) -> io::Result<()> {
        self.call(Operation::Reserve, (0, length), |state| self.grow(state, length), |_| {}).await
    }

    async fn preallocate(&self, length: u64) -> io::Result<()> {
        self.call(Operation::Preallocate, (0, length), |state| self.grow(state, length), |_| {}).await?;
        self.sync().await
    }
}
