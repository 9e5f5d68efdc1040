//! What was done to a node that may make it exit: an exit is excused by a fault that really happened, never by one that
//! might have.

use mokv::rt::disk::SimDisk;

/// One thing that was done to a node.
pub struct Cause {
    /// Description for the timeline.
    pub words: String,
    /// The evidence that it happened.
    pub proof: Proof,
}

/// The evidence that a cause happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// None needed: the scenario declares it.
    Told,
    /// The disk has returned EIO more often than this.
    Errors(u64),
    /// The process died in the middle of a call: the disk has counted more deaths than this.
    Deaths(u64),
    /// The disk has no room: a node may refuse to start for it, but a running one must not exit.
    Full,
    /// The disk had no room while the node lacked much of the others' log, which it has to take.
    Backlog,
    /// The disk holds damage that the node must find, and then ask for a wipe; holds until the wipe.
    Damage,
    /// A process on a copy of the disk claims to be this node, and may have started as often: peers may take the node
    /// for the copy.
    Copied,
}

impl Cause {
    /// Whether it explains why a node exited with this message.
    pub fn explains(&self, disk: &SimDisk, reason: &str) -> bool {
        match self.proof {
            Proof::Damage => reason.contains("wipe"),
            Proof::Copied => reason.contains("copied") && reason.contains("wipe"),
            Proof::Full => {
                reason.starts_with("cannot open the data of this node") && reason.contains("the disk is full")
                    || reason.starts_with("cannot write the node's identity")
                        && reason.contains("no storage space")
            }
            Proof::Backlog => reason.contains("the disk is full"),
            _ => self.has_happened(disk),
        }
    }

    /// Whether it excuses any number of exits rather than one.
    pub fn lasts(&self) -> bool {
        matches!(self.proof, Proof::Damage | Proof::Copied | Proof::Full | Proof::Backlog)
    }

    /// Whether it has happened.
    pub fn has_happened(&self, disk: &SimDisk) -> bool {
        match self.proof {
            Proof::Told | Proof::Damage | Proof::Copied | Proof::Full | Proof::Backlog => true,
            Proof::Errors(before) => disk.counts().errors > before,
            Proof::Deaths(before) => deaths(disk) > before,
        }
    }
}

/// How often the process on a disk was killed or lost power.
pub fn deaths(disk: &SimDisk) -> u64 {
    let counts = disk.counts();
    counts.kills + counts.power_losses
}
