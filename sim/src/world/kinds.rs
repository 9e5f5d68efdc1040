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

            /// How often it is drawn in a world that has it, compared with others; 0: as often as the world says.
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
    /// One direction of one link is cut, until everything is healed.
    PermanentCut, "permanent cut", 1;
    /// A node is cut off from all others; clients may still reach it.
    IsolateNode, "isolated node", 2;
    /// The leader is cut off from all others; clients still reach it.
    IsolateLeader, "isolated leader", 3;
    /// The leader hears nobody and everybody hears it.
    DeafLeader, "deaf leader", 1;
    /// What the others say reaches the leader late, and then nothing of the leader reaches them: they elect another and
    /// take a write while what they said before is under way.
    LateAnswers, "late answers", 2;
    /// A node is cut off until the others' logs no longer begin where its own ends: only a snapshot helps it.
    Laggard, "laggard", 2;
    /// A leader that does not hear who has its last entries is cut off until the others' logs begin behind them: what
    /// became of its clients' writes it learns from a snapshot.
    Overtaken, "overtaken leader", 2;
    /// A leader is cut off at the very moment at which it changes the members: what it puts in force is never committed,
    /// and it learns so from others' logs or from a snapshot.
    OrphanedMembership, "orphaned membership", 2;
    /// The nodes fall into two groups.
    Split, "split", 2;
    /// Answers of a node no longer reach one client.
    MuteNode, "answers lost", 2;
    /// One link is slow.
    SlowLink, "slow link", 2;
    /// All links of a node are slow.
    SlowNode, "slow node", 1;
    /// A leader is cut off with one follower, which then leads the others without it: what only the two had survives,
    /// and the old leader has to learn it.
    Handover, "cut-off pair", 2;
    /// The leader is cut off from all others, which restart meanwhile; clients still reach it.
    DeposedLeader, "deposed leader", 2;
    /// All connections between two nodes are reset.
    Reset, "reset", 2;
    /// All connections of a node are reset, those of clients too.
    ResetAll, "reset of all connections", 2;
    /// Datagrams get lost, doubled and overtaken.
    LostDatagrams, "lost datagrams", 2;

    // Processes and power.
    /// A process dies; what it wrote stays in the page cache.
    Kill, "kill", 3;
    /// The leader's process dies.
    KillLeader, "kill of the leader", 3;
    /// Processes die during elections and are back at once, several times in a row.
    RestartVoters, "restarts during elections", 2;
    /// A process dies while it recovers, several times in a row.
    KillInRecovery, "kill in recovery", 2;
    /// Power fails on one machine.
    PowerLoss, "power loss", 3;
    /// Power fails on all machines at once.
    PowerLossOfAll, "power loss of all", 1;
    /// Power fails on one machine just before a sync.
    PowerLossAtSync, "power loss at a sync", 2;
    /// Power fails on all machines just before a sync on one of them; they come back one by one.
    PowerLossOfAllAtSync, "power loss of all at a sync", 2;
    /// Power fails on a machine, far more likely while it has writes that are not synced.
    PowerLossWhileUnsynced, "power loss while unsynced", 2;
    /// The leader's disk becomes slow, so that others have what it has not; then its power fails, and it is back at
    /// once.
    PowerLossOfSlowLeader, "power loss of a slow leader", 2;
    /// Two machines lose power in the time in which a third recovers.
    TwoWhileOneRecovers, "two lost while one recovers", 2;
    /// A node dies between an append to its log and the sync.
    CrashBeforeSync, "crash between append and sync", 2;
    /// A node dies when its log is synced and nobody has been told.
    CrashAfterSync, "crash between sync and answer", 2;
    /// The leader dies, and voters die when their vote is written and not answered.
    CrashAfterVote, "crash between vote and answer", 2;
    /// A leader dies right after leadership was handed over, on either side.
    CrashAfterTransfer, "crash after a transfer", 2;
    /// A node that lags dies while it installs or builds a snapshot.
    CrashInSnapshot, "crash in a snapshot", 2;
    /// A node stands still, dies or loses power at the very moment in which it reaches a rare situation.
    Ambush, "ambush", 4;
    /// A drawn fault strikes a node in a drawn role while the cluster is in a drawn situation. Its weight is drawn, too.
    Encounter, "encounter", 0;
    /// The leader dies again and again while a node joins.
    CrashWhileJoining, "crash while joining", 1;
    /// A node stands still for a while.
    Pause, "pause", 2;
    /// The leader stands still for a while.
    PauseLeader, "pause of the leader", 2;
    /// The leader stands still until others have elected another, again and again for short times in between: what it
    /// was about to answer it answers later.
    Stutter, "stutter", 2;

    // Disks.
    /// A disk becomes slow for a while.
    SlowDisk, "slow disk", 1;
    /// A disk is full for a while.
    FullDisk, "full disk", 1;
    /// A sync fails, and the node stops by it.
    FailedSync, "failed sync", 1;
    /// A write fails, and the node stops by it.
    FailedWrite, "failed write", 1;
    /// A read fails.
    FailedRead, "failed read", 1;
    /// A disk is lost for good; its node comes back under its name.
    WipedDisk, "wiped disk", 2;
    /// A bit of a log, a snapshot or an identity flips; the operator does what the node says.
    FlippedBit, "flipped bit", 2;
    /// The newest of two snapshots is damaged; the older one and the log since then must do.
    DamagedSnapshot, "damaged snapshot", 2;
    /// A disk is rolled back to what it was some lives ago.
    RolledBackDisk, "rolled-back disk", 1;
    /// A disk is rolled back, and its node finds only peers that lack what it had and forgot, and have started since they
    /// heard of its later lives; together they are a majority.
    RolledBackBesideLaggards, "rolled-back disk beside laggards", 2;
    /// A data directory is copied to a second machine, which comes up some lives of the first one later; both run.
    CopiedDisk, "copied disk", 1;
    /// A disk is put back to a copy of its node's present life, and all others have started since they heard of what the node
    /// acknowledged.
    PutBackDisk, "disk put back within a life", 1;
    /// Somebody speaks to a node as the leader of another history, as nodes do whose disks were put back to older copies.
    OtherHistory, "other history", 1;

    // Clocks.
    /// A clock runs much faster or slower for a while.
    ClockRate, "odd clock", 1;
    /// A clock leaps ahead.
    ClockLeap, "leaping clock", 1;

    // The operator.
    /// A node joins.
    Newcomer, "newcomer", 2;
    /// A member is removed for good.
    ScaleIn, "scale-in", 1;
    /// A living member is removed and comes back as another.
    Replacement, "replacement", 1;
    /// An operator makes the cluster's bounds small for a while: few sessions, or no room for more.
    Settings, "small bounds", 1;
    /// All nodes come back at other addresses.
    ChangedAddresses, "changed addresses", 1;
    /// An operator hands leadership to somebody else.
    Transfer, "transfer", 2;
    /// An operator has a node write a snapshot.
    Snapshot, "snapshot", 2;
    /// A node is asked to stop.
    Stop, "stop", 1;
    /// All nodes are restarted, one after the other.
    RollingRestart, "rolling restart", 1;
    /// All nodes are restarted with the next version of the program, one after the other.
    RollingUpgrade, "rolling upgrade", 1;
}
