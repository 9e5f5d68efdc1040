//! A simulated disk: every fault that a real disk inflicts on data, drawn from a seed.
//!
//! [`SimDisk`] is the device, held by the simulation; [`SimDisk::mount`] gives a process its view of it, whose calls
//! fail once the process was killed or power failed. Three faults are distinguished: [`SimDisk::kill`] (the page cache
//! survives), [`SimDisk::power_loss`] (it does not) and a failed sync (the cache shows what was never made durable). It
//! needs no runtime unless a [`Latency`] is set: calls then yield once and are done. Equal seeds and equal calls give
//! equal faults. Bugs of file systems are not simulated.

mod faults;
mod mount;
mod platter;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use super::DiskRef;
use crate::rt::lock::{Mutex, MutexGuard};
use crate::rt::splitmix::SplitMix;
use crate::rt::trace;
pub use faults::{Counts, DiskCall, Fault, FaultRates, Hook, Latency, Operation};
use mount::Mounted;
use platter::Platter;

/// The device. Cheap to clone; all clones are the same device.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

/// All files of a disk at one time, for copied and rolled-back volumes.
#[derive(Debug, Clone)]
pub struct Image(Platter);

struct State {
    platter: Platter,
    /// Its own generator, so that a disk's faults depend on its seed alone.
    dice: SplitMix,
    /// Rises with every crash of the process, so that handles of an earlier process can be rejected.
    generation: u64,
    rates: FaultRates,
    /// Fails the n-th call of an operation from now on with EIO.
    fail_next: Vec<(Operation, u64)>,
    capacity: Option<u64>,
    latency: Option<Latency>,
    hook: Option<Hook>,
    counts: Counts,
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDisk").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl SimDisk {
    /// An empty disk of unlimited size, without faults.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            platter: Platter::default(),
            dice: SplitMix::new(seed),
            generation: 0,
            rates: FaultRates::default(),
            fail_next: Vec::new(),
            capacity: None,
            latency: None,
            hook: None,
            counts: Counts::default(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// A process's view of the disk, until the next [`SimDisk::kill`] or [`SimDisk::power_loss`].
    pub fn mount(&self) -> DiskRef {
        Arc::new(Mounted::new(self.clone()))
    }

    /// Kills the process: its handles fail from now on. What it wrote stays readable, and may still be lost when power
    /// fails; of a write in progress a random prefix is there.
    pub fn kill(&self) {
        self.state().kill();
    }

    /// Power fails: of what was not synced a random part is lost, sector by sector and name by name.
    pub fn power_loss(&self) {
        self.state().lose_power();
    }

    /// Sets the rates of random EIO from now on.
    pub fn set_rates(&self, rates: FaultRates) {
        self.state().rates = rates;
    }

    /// Makes the `nth` call of this operation from now on fail with EIO; 1 is the next.
    pub fn fail_nth(&self, operation: Operation, nth: u64) {
        assert!(nth > 0, "calls are counted from 1");
        self.state().fail_next.push((operation, nth));
    }

    /// Bounds the total size of the files, in bytes; `None`: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Makes calls take time, which needs a runtime; `None`: no time at all.
    pub fn set_latency(&self, latency: Option<Latency>) {
        self.state().latency = latency;
    }

    /// Calls `hook` before every call from now on; `None` removes it. The hook may use the disk, but not replace
    /// itself.
    pub fn on_call(&self, hook: Option<Hook>) {
        self.state().hook = hook;
    }

    /// Flips a bit of a file on the device, without a call. Returns `false` if the file or the byte does not exist.
    pub fn flip(&self, name: &str, offset: u64, bit: u8) -> bool {
        let mut state = self.state();
        let Ok(inode) = state.platter.find(name) else { return false };
        let inode = state.platter.inodes.get_mut(&inode).expect("a name has a file");
        inode.flip(offset as usize, bit);
        let hit = (offset as usize) < inode.cached.len();
        state.counts.tampered += u64::from(hit);
        hit
    }

    /// The content of a file as the page cache shows it, read without a call; `None` if the file does not exist.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let inode = state.platter.find(name).ok()?;
        Some(state.platter.inodes[&inode].cached.clone())
    }

    /// Empties the disk; the process that used it is killed.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.kill();
        state.platter = Platter::default();
    }

    /// The present content of the page cache, all of it durable.
    pub fn image(&self) -> Image {
        Image(self.state().platter.image())
    }

    /// Replaces the files of this disk by those of `image`; the process that used it is killed.
    pub fn restore(&self, image: &Image) {
        self.state().counts.tampered += 1;
        self.leave(image);
    }

    /// Replaces the files by what a mökv process has made of them elsewhere, on a copy; the process that used this disk
    /// is killed. As [`SimDisk::restore`], but it does not count as tampering.
    pub fn leave(&self, image: &Image) {
        let mut state = self.state();
        state.kill();
        state.platter = image.0.clone();
    }

    /// Names and lengths of the files as the page cache shows them.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.state();
        let length = |inode| state.platter.inodes[inode].cached.len() as u64;
        state.platter.names.iter().map(|(name, inode)| (name.clone(), length(inode))).collect()
    }

    /// The counters of the calls so far, and of what a power failure would put at risk now.
    pub fn counts(&self) -> Counts {
        let state = self.state();
        Counts {
            unsynced_writes: state.platter.unsynced_writes(),
            unsynced_names: state.platter.unsynced_names(),
            ..state.counts
        }
    }
}

impl State {
    fn kill(&mut self) {
        self.generation += 1;
        self.counts.kills += 1;
        self.platter.kill(&mut self.dice);
        trace::record("disk", b"kill");
    }

    fn lose_power(&mut self) {
        self.generation += 1;
        self.counts.power_losses += 1;
        self.platter.lose_power(&mut self.dice);
        trace::record("disk", b"power loss");
    }

    /// Whether the call fails, by [`SimDisk::fail_nth`] or at random.
    fn fails(&mut self, operation: Operation) -> bool {
        let mut ordered = false;
        for (which, left) in &mut self.fail_next {
            if *which == operation {
                *left -= 1;
                ordered |= *left == 0;
            }
        }
        self.fail_next.retain(|(_, left)| *left > 0);
        let rate = match operation {
            Operation::Sync | Operation::SyncDir => self.rates.sync,
            Operation::Read | Operation::Open | Operation::List | Operation::Exists => self.rates.read,
            Operation::Len | Operation::FreeBytes => 0.0,
            _ => self.rates.write,
        };
        ordered || self.dice.chance(rate)
    }

    fn has_room_for(&self, growth: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if growth > 0 && self.platter.used_bytes() + growth > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}
