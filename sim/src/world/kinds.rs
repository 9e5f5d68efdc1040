//! Every kind of fault, in one table: what it is, what people call it, how often it is drawn.

/// Writes the enumeration, its list, its names and its weights off one table, so that none forgets a kind.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $name:literal, $weight:literal;)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[$doc])* $kind,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: &[FaultKind] = &[$(FaultKind::$kind),*];

            /// As people call it.
            pub fn name(self) -> &'static str {
                match self {
                    $(FaultKind::$kind => $name,)*
                }
            }

            /// How often it is drawn in a world that has it, compared with others.
            pub fn weight(self) -> u32 {
                match self {
                    $(FaultKind::$kind => $weight,)*
                }
            }
        }
    };
}

kinds! {
    // The network.
    /// One direction of one link is cut.
    OneWayCut, "one-way cut", 2;
    /// One link is cut.
    TwoWayCut, "two-way cut", 2;
    /// A node is cut off from all others; clients may still reach it.
    IsolateNode, "isolated node", 2;
    /// The leader is cut off from all others; clients still reach it.
    IsolateLeader, "isolated leader", 3;
    /// The nodes fall into two groups.
    Split, "split", 2;
    /// Answers of a node no longer reach one client.
    MuteNode, "answers lost", 2;

    // Processes and power.
    /// A process dies; what it wrote stays in the page cache.
    Kill, "kill", 3;
    /// The leader's process dies.
    KillLeader, "kill of the leader", 3;
    /// Processes die during elections and are back at once, several times in a row.
    RestartVoters, "restarts during elections", 2;
    /// Power fails on one machine.
    PowerLoss, "power loss", 3;
    /// Power fails on all machines at once.
    PowerLossOfAll, "power loss of all", 1;
    /// Power fails on one machine just before a sync.
    PowerLossAtSync, "power loss at a sync", 2;
    /// Power fails on all machines just before a sync on one of them; they come back one by one.
    PowerLossOfAllAtSync, "power loss of all at a sync", 2;
    /// The leader's disk becomes slow, so that others have what it has not; then its power fails, and it is back at
    /// once.
    PowerLossOfSlowLeader, "power loss of a slow leader", 2;
    /// A node stands still for a while.
    Pause, "pause", 2;
    /// The leader stands still for a while.
    PauseLeader, "pause of the leader", 2;

    // Disks.
    /// A disk becomes slow for a while.
    SlowDisk, "slow disk", 1;
    /// A sync fails, and the node stops by it.
    FailedSync, "failed sync", 1;
    /// A disk is lost for good, once in a run; its node comes back under its name.
    WipedDisk, "wiped disk", 2;

    // The operator.
    /// A node joins, once in a run.
    Newcomer, "newcomer", 2;
    /// An operator hands leadership to somebody else.
    Transfer, "transfer", 2;
    /// An operator has a node write a snapshot.
    Snapshot, "snapshot", 2;
    /// A node is asked to stop.
    Stop, "stop", 1;
}
