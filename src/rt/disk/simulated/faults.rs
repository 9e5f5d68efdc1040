//! The faults of a simulated disk, and the counters that it reports.

use std::ops::Range;
use std::time::Duration;

/// The kind of a call to the disk.
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
    /// Whether the call may change the disk.
    pub fn changes(self) -> bool {
        use Operation::*;
        matches!(self, Create | Rename | Remove | SyncDir | Write | Sync | SetLen | Reserve | Preallocate)
    }
}

/// One call, before it is executed. `write_and_sync` is two calls: a write and a sync.
#[derive(Debug, Clone)]
pub struct DiskCall {
    /// The number of the call on this disk, from 1.
    pub number: u64,
    /// The requested operation.
    pub operation: Operation,
    /// The file's name (of a rename: the new one); empty for the directory's own calls.
    pub name: String,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// The decision of a [`Hook`] on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No fault from the hook: random faults may still occur.
    None,
    /// The call fails with EIO, as by a random fault.
    Error,
    /// The call fails because the disk is full.
    Full,
    /// The process is killed just before the call.
    KillBefore,
    /// The process is killed just after the call was executed.
    KillAfter,
    /// Power fails just before the call.
    PowerLossBefore,
    /// Power fails just after the call was executed.
    PowerLossAfter,
}

/// Called before every call is executed, to inject faults at chosen points.
pub type Hook = Box<dyn FnMut(&DiskCall) -> Fault + Send>;

/// Probabilities, each from 0 to 1, that a call fails with EIO.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FaultRates {
    /// Of creations, renames and the like, and of writes, which then write a part of their bytes.
    pub write: f64,
    /// Of syncs of files and of the directory.
    pub sync: f64,
    /// Of reads.
    pub read: f64,
}

/// How long calls take; half of it before and half after their effect. An empty range takes no time.
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

/// Counters of the calls so far, and of what would be lost if power failed now.
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
    /// Changes of files that no sync has covered yet, including writes in progress.
    pub unsynced_writes: u64,
    /// Changes of names that no sync of the directory has covered yet.
    pub unsynced_names: u64,
    /// Calls that failed with EIO.
    pub errors: u64,
    /// Times the process was killed.
    pub kills: u64,
    /// Times power failed.
    pub power_losses: u64,
    /// Times the content was changed from outside: flipped bits, restored images.
    pub tampered: u64,
}
