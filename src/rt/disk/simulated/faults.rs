//! What can be told to go wrong on a simulated disk, and what it tells about itself.

use std::ops::Range;
use std::time::Duration;

/// What a call asks of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // Named after the methods of `Disk` and `File`.
pub enum Operation {
    Create,
    Open,
    List,
    Exists,
    Rename,
    Remove,
    SyncDir,
    FreeBytes,
    Len,
    Read,
    Write,
    Sync,
    SetLen,
    Reserve,
    Preallocate,
}

impl Operation {
    /// Whether the call leaves the disk other than it was.
    pub fn changes(self) -> bool {
        use Operation::*;
        matches!(self, Create | Rename | Remove | SyncDir | Write | Sync | SetLen | Reserve | Preallocate)
    }
}

/// One call, before it is carried out. `write_and_sync` is two: a write and a sync.
#[derive(Debug, Clone)]
pub struct DiskCall {
    /// Counts the calls of this disk from 1.
    pub number: u64,
    /// What is asked.
    pub operation: Operation,
    /// The file's name (of a rename: the new one); empty for the directory's own calls.
    pub name: String,
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// What a [`Hook`] makes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: random faults may still hit it.
    None,
    /// It fails with EIO, as a random fault would make it fail.
    Error,
    /// It fails for want of space.
    Full,
    /// The process dies just before it.
    KillBefore,
    /// The process dies just after it was carried out.
    KillAfter,
    /// Power fails just before it.
    PowerLossBefore,
    /// Power fails just after it was carried out.
    PowerLossAfter,
}

/// Sees every call before it is carried out, for faults that are aimed.
pub type Hook = Box<dyn FnMut(&DiskCall) -> Fault + Send>;

/// Probabilities, each from 0 to 1, that a call fails with EIO.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FaultRates {
    /// Of writes, which then leave a part of their bytes behind, of creations, renames and the like.
    pub write: f64,
    /// Of syncs of files and of the directory.
    pub sync: f64,
    /// Of reads.
    pub read: f64,
}

/// How long calls take; half before and half after their effect. An empty range takes no time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// Reads.
    pub read: Range<Duration>,
    /// Writes and changes of names.
    pub write: Range<Duration>,
    /// Syncs.
    pub sync: Range<Duration>,
}

impl Latency {
    pub(super) fn of(&self, operation: Operation) -> &Range<Duration> {
        use Operation::*;
        match operation {
            Sync | SyncDir | Preallocate => &self.sync,
            Create | Rename | Remove | Write | SetLen | Reserve => &self.write,
            Open | List | Exists | FreeBytes | Len | Read => &self.read,
        }
    }
}

/// What a disk has been asked so far, and what is at stake if power failed now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All calls.
    pub calls: u64,
    /// Writes to files.
    pub writes: u64,
    /// Syncs of files and of the directory.
    pub syncs: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Changes of files that no sync has covered yet, those under way included.
    pub unsynced_writes: u64,
    /// Changes of names that no sync of the directory has covered yet.
    pub unsynced_names: u64,
    /// EIO answers given.
    pub errors: u64,
    /// Times the process died.
    pub kills: u64,
    /// Times power failed.
    pub power_losses: u64,
    /// Times somebody outside changed what lies on it: flipped bits, restored images.
    pub tampered: u64,
}
