//! The content of a simulated disk: for every file what is durable, what only the page cache holds, and the changes
//! between the two.
//!
//! A sync makes pending changes durable. A failed sync drops them, though the cache still shows them: that is how Linux
//! behaves (fsyncgate). A power loss keeps a random part of them, sector by sector, and the cache starts again from
//! what is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;

use crate::rt::splitmix::SplitMix;

/// The unit that a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone)]
enum ContentChange {
    Write(usize, Bytes),
    SetLen(usize),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub cached: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<ContentChange>,
}

/// One atomic change of the directory.
#[derive(Debug, Clone)]
enum NameChange {
    Link(String, u64),
    Unlink(String),
    Rename(String, String, u64),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            NameChange::Unlink(name) => {
                names.remove(name);
            }
            NameChange::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }

    fn inode(&self) -> Option<u64> {
        match self {
            NameChange::Link(_, inode) | NameChange::Rename(_, _, inode) => Some(*inode),
            NameChange::Unlink(_) => None,
        }
    }
}

/// The files and names of a disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Platter {
    pub names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<NameChange>,
    pub inodes: BTreeMap<u64, Inode>,
    /// Number of open handles by inode: an unlinked file exists as long as a handle is open.
    pub handles: BTreeMap<u64, u64>,
    /// Writes requested and not yet executed: when the process is killed, a random prefix of each is applied.
    in_flight: BTreeMap<u64, (u64, u64, Bytes)>,
    next_ticket: u64,
    next_inode: u64,
}

fn put(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    if bytes.len() < offset + new.len() {
        bytes.resize(offset + new.len(), 0);
    }
    bytes[offset..offset + new.len()].copy_from_slice(new);
}

impl Inode {
    pub fn write(&mut self, offset: u64, bytes: Bytes) {
        put(&mut self.cached, offset as usize, &bytes);
        self.pending.push(ContentChange::Write(offset as usize, bytes));
    }

    pub fn set_len(&mut self, length: u64) {
        self.cached.resize(length as usize, 0);
        self.pending.push(ContentChange::SetLen(length as usize));
    }

    pub fn sync(&mut self) {
        for change in self.pending.drain(..) {
            match change {
                ContentChange::Write(offset, bytes) => put(&mut self.durable, offset, &bytes),
                ContentChange::SetLen(length) => self.durable.resize(length, 0),
            }
        }
    }

    /// The error is reported once; from now on the pages count as clean, whether they reached the platter or not.
    pub fn fail_sync(&mut self, dice: &mut SplitMix) {
        let shown = self.cached.clone();
        self.lose_power(if dice.chance(0.5) { Loss::Everything } else { Loss::AnySectors }, dice);
        self.cached = shown;
    }

    pub fn flip(&mut self, offset: usize, bit: u8) {
        for bytes in [&mut self.cached, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    fn lose_power(&mut self, loss: Loss, dice: &mut SplitMix) {
        let pending = std::mem::take(&mut self.pending);
        let kept = match loss {
            Loss::Everything => 0,
            Loss::ATail => dice.up_to(pending.len() as u64) as usize,
            Loss::AnySectors | Loss::Nothing => pending.len(),
        };
        for (position, change) in pending.into_iter().take(kept).enumerate() {
            let torn = loss == Loss::ATail && position + 1 == kept;
            match change {
                ContentChange::SetLen(length) => self.durable.resize(length, 0),
                ContentChange::Write(offset, bytes) => {
                    let whole = if torn { dice.up_to(bytes.len() as u64) as usize } else { bytes.len() };
                    let mut start = 0;
                    while start < bytes.len() {
                        let end =
                            (((offset + start) / SECTOR_BYTES + 1) * SECTOR_BYTES - offset).min(bytes.len());
                        let survives = end <= whole && (loss != Loss::AnySectors || dice.chance(0.5));
                        if survives {
                            put(&mut self.durable, offset + start, &bytes[start..end]);
                        }
                        start = end;
                    }
                }
            }
        }
        self.cached = self.durable.clone();
    }
}

/// What a power failure does to changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Nothing,
    Everything,
    /// A prefix survives; its last write is torn at a sector boundary.
    ATail,
    /// Each sector survives or not, independently.
    AnySectors,
}

impl Loss {
    fn draw(dice: &mut SplitMix) -> Loss {
        [Loss::Nothing, Loss::Everything, Loss::ATail, Loss::AnySectors][dice.up_to(3) as usize]
    }
}

impl Platter {
    pub fn find(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    pub fn create(&mut self, name: &str) -> io::Result<u64> {
        if self.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.next_inode += 1;
        self.inodes.insert(self.next_inode, Inode::default());
        self.change(NameChange::Link(name.to_owned(), self.next_inode));
        Ok(self.next_inode)
    }

    pub fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let inode = self.find(from)?;
        self.change(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    pub fn remove(&mut self, name: &str) -> io::Result<()> {
        self.find(name)?;
        self.change(NameChange::Unlink(name.to_owned()));
        Ok(())
    }

    pub fn sync_dir(&mut self) {
        for change in self.pending_names.drain(..) {
            change.apply(&mut self.durable_names);
        }
        self.forget_unreachable();
    }

    /// Removes files that no name and no handle can reach, not even after a power failure.
    fn forget_unreachable(&mut self) {
        let mut reachable: BTreeSet<u64> =
            self.names.values().chain(self.durable_names.values()).copied().collect();
        reachable.extend(self.pending_names.iter().filter_map(NameChange::inode));
        reachable.extend(self.handles.keys());
        self.inodes.retain(|inode, _| reachable.contains(inode));
    }

    pub fn used_bytes(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[inode].cached.len() as u64).sum()
    }

    pub fn unsynced_writes(&self) -> u64 {
        let pending: usize = self.inodes.values().map(|inode| inode.pending.len()).sum();
        (pending + self.in_flight.len()) as u64
    }

    pub fn unsynced_names(&self) -> u64 {
        self.pending_names.len() as u64
    }

    /// Registers a write (inode, offset, bytes) before it is executed. Returns its ticket.
    pub fn begin_write(&mut self, write: (u64, u64, Bytes)) -> u64 {
        self.next_ticket += 1;
        self.in_flight.insert(self.next_ticket, write);
        self.next_ticket
    }

    /// Removes a write that was executed or never will be.
    pub fn end_write(&mut self, ticket: u64) {
        self.in_flight.remove(&ticket);
    }

    /// The process was killed: what it wrote stays in the page cache; of each write in progress a random prefix is
    /// applied.
    pub fn kill(&mut self, dice: &mut SplitMix) {
        for (_, (inode, offset, bytes)) in std::mem::take(&mut self.in_flight) {
            let written = dice.up_to(bytes.len() as u64) as usize;
            if written > 0
                && let Some(inode) = self.inodes.get_mut(&inode)
            {
                inode.write(offset, bytes.slice(..written));
            }
        }
        self.handles.clear();
        self.forget_unreachable();
    }

    /// Power failed: only what was synced is certain to survive.
    pub fn lose_power(&mut self, dice: &mut SplitMix) {
        self.kill(dice);
        let loss = Loss::draw(dice);
        for inode in self.inodes.values_mut() {
            inode.lose_power(loss, dice);
        }
        let pending = std::mem::take(&mut self.pending_names);
        let loss = Loss::draw(dice);
        let kept = match loss {
            Loss::Everything => 0,
            Loss::ATail => dice.up_to(pending.len() as u64) as usize,
            Loss::AnySectors | Loss::Nothing => pending.len(),
        };
        for change in pending.into_iter().take(kept) {
            if loss != Loss::AnySectors || dice.chance(0.5) {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        self.forget_unreachable();
    }

    /// A copy of everything that the page cache shows, as if it had been copied to a new disk and synced.
    pub fn image(&self) -> Platter {
        let mut copy = Platter { next_inode: self.next_inode, ..Platter::default() };
        for (name, inode) in &self.names {
            let cached = self.inodes[inode].cached.clone();
            copy.inodes.insert(*inode, Inode { durable: cached.clone(), cached, pending: Vec::new() });
            copy.names.insert(name.clone(), *inode);
        }
        copy.durable_names = copy.names.clone();
        copy
    }
}
