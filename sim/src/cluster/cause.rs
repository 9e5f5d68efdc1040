//! What was done to a node that may make it end by itself: an end is excused by what really happened, never by what
//! might have.

use mokv::rt::disk::SimDisk;

/// One thing that was done.
pub struct Cause {
    /// What, for the story.
    pub words: String,
    /// How it shows that it happened.
    pub proof: Proof,
}

/// How a cause shows that it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// It cannot show it: scenarios vouch for it.
    Told,
    /// The disk has answered more EIO than these.
    Errors(u64),
    /// The process died in the middle of a call: the disk has seen more deaths than these.
    Deaths(u64),
    /// The disk has no room: a node may refuse to start for want of it, and a running one may not end by it.
    Full,
    /// The disk had no room while the node lacked much of what the others had: what it missed it has to take.
    Backlog,
    /// The disk holds damage that the node must find, and must ask for a wipe; holds until the wipe.
    Damage,
    /// A process on a copy of the disk says that it is this node, and may have started as often: the node may be told
    /// that it is the copy.
    Copied,
}

impl Cause {
    /// Whether it explains why a node ended with these words.
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

    /// Whether it explains as many ends as there are, and not one only.
    pub fn lasts(&self) -> bool {
        matches!(self.proof, Proof::Damage | Proof::Copied | Proof::Full | Proof::Backlog)
    }

    /// Whether it has come to pass.
    pub fn has_happened(&self, disk: &SimDisk) -> bool {
        match self.proof {
            Proof::Told | Proof::Damage | Proof::Copied | Proof::Full | Proof::Backlog => true,
            Proof::Errors(before) => disk.counts().errors > before,
            Proof::Deaths(before) => deaths(disk) > before,
        }
    }
}

/// How often the process on a disk died.
pub fn deaths(disk: &SimDisk) -> u64 {
    let counts = disk.counts();
    counts.kills + counts.power_losses
}
