//! Every kind of fault, in one table: what it does, its name, how often it is drawn.

/// Makes the enumeration, its list, its names and its weights from one table, so that no kind is missing in one of
/// them.
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

            /// Its name in reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(FaultKind::$kind => $name,)*
                }
            }

            /// Its weight against the other kinds of a world that has it; 0: the world draws the weight.
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
    /// One direction of one link is cut, until the network is healed at the end.
    PermanentCut, "permanent cut", 1;
    /// A node is cut off from all others; clients may still reach it.
    IsolateNode, "isolated node", 2;
    /// The leader is cut off from all others; clients still reach it.
    IsolateLeader, "isolated leader", 3;
    /// The leader receives nothing from the others, and they receive everything from it.
    DeafLeader, "deaf leader", 1;
    /// The others' messages reach the leader late, and then none of the leader's reach them: they elect another leader
    /// and take a write while their earlier messages are still under way.
    LateAnswers, "late answers", 2;
    /// A node is cut off until the others have purged the entries that follow its log: it needs a snapshot.
    Laggard, "laggard", 2;
    /// A leader that receives no acknowledgement of its last entries is cut off until the others have purged them: it
    /// learns the outcome of its clients' writes from a snapshot.
    Overtaken, "overtaken leader", 2;
    /// A leader is cut off at the moment at which it changes the membership. The new membership takes effect but is
    /// never committed; the leader learns so from another log or from a snapshot.
    OrphanedMembership, "orphaned membership", 2;
    /// The nodes fall into two groups.
    Split, "split", 2;
    /// Answers of a node no longer reach one client.
    MuteNode, "answers lost", 2;
    /// One link is slow.
    SlowLink, "slow link", 2;
    /// All links of a node are slow.
    SlowNode, "slow node", 1;
    /// A leader and one follower are cut off; then the follower joins the others and leads them without the old leader.
    /// Entries that only the two had survive, and the old leader has to learn it.
    Handover, "cut-off pair", 2;
    /// The leader is cut off from all others, which restart meanwhile; clients still reach it.
    DeposedLeader, "deposed leader", 2;
    /// All connections between two nodes are reset.
    Reset, "reset", 2;
    /// All connections of a node are reset, those of clients too.
    ResetAll, "reset of all connections", 2;
    /// Datagrams are lost, duplicated and reordered.
    LostDatagrams, "lost datagrams", 2;

    // Processes and power.
    /// A process is killed; its writes stay in the page cache.
    Kill, "kill", 3;
    /// The leader's process is killed.
    KillLeader, "kill of the leader", 3;
    /// Processes are killed during elections and restarted at once, several times in a row.
    RestartVoters, "restarts during elections", 2;
    /// A process is killed while it recovers, several times in a row.
    KillInRecovery, "kill in recovery", 2;
    /// Power fails on one machine.
    PowerLoss, "power loss", 3;
    /// Power fails on all machines at once.
    PowerLossOfAll, "power loss of all", 1;
    /// Power fails on one machine just before a sync.
    PowerLossAtSync, "power loss at a sync", 2;
    /// Power fails on all machines just before a sync on one of them; most often they come back one by one.
    PowerLossOfAllAtSync, "power loss of all at a sync", 2;
    /// Power fails on a machine, far more likely while it has writes that are not synced.
    PowerLossWhileUnsynced, "power loss while unsynced", 2;
    /// The leader's disk becomes slow, so that others have entries that it has not synced; then it loses power and is
    /// back at once.
    PowerLossOfSlowLeader, "power loss of a slow leader", 2;
    /// Two machines lose power while a third recovers.
    TwoWhileOneRecovers, "two lost while one recovers", 2;
    /// A node crashes between an append to its log and the sync.
    CrashBeforeSync, "crash between append and sync", 2;
    /// A node crashes after a sync of its log, before it reports the result.
    CrashAfterSync, "crash between sync and answer", 2;
    /// The leader is killed, and voters crash after they have written their vote and before they answer.
    CrashAfterVote, "crash between vote and answer", 2;
    /// After a leadership transfer, the old or the new leader loses power.
    CrashAfterTransfer, "crash after a transfer", 2;
    /// A node crashes while it installs a snapshot, because it lags, or builds one.
    CrashInSnapshot, "crash in a snapshot", 2;
    /// A node is paused, killed or loses power at the moment in which it reaches a rare marker.
    Ambush, "ambush", 4;
    /// A drawn fault is injected into a node in a drawn role while the cluster is in a drawn situation. Its weight is
    /// drawn, too.
    Encounter, "encounter", 0;
    /// The leader crashes again and again while a node joins.
    CrashWhileJoining, "crash while joining", 1;
    /// A node is paused for a while.
    Pause, "pause", 2;
    /// The leader is paused for a while.
    PauseLeader, "pause of the leader", 2;
    /// The leader is paused again and again, mostly for short times, sometimes until the others have elected another:
    /// its pending answers leave it late.
    Stutter, "stutter", 2;

    // Disks.
    /// A disk becomes slow for a while.
    SlowDisk, "slow disk", 1;
    /// A disk is full for a while.
    FullDisk, "full disk", 1;
    /// A sync fails, and the node must stop.
    FailedSync, "failed sync", 1;
    /// A write fails, and the node must stop.
    FailedWrite, "failed write", 1;
    /// A read fails.
    FailedRead, "failed read", 1;
    /// A disk is lost for good; its node comes back under its name with an empty one.
    WipedDisk, "wiped disk", 2;
    /// A bit of a log, a snapshot or an identity flips; the operator wipes the disk when the node asks for it.
    FlippedBit, "flipped bit", 2;
    /// The newest of two snapshots is damaged; the older one and the log since then must suffice.
    DamagedSnapshot, "damaged snapshot", 2;
    /// A disk is rolled back to its content of some incarnations ago.
    RolledBackDisk, "rolled-back disk", 1;
    /// A disk is rolled back, and its node then reaches only peers that lack the entries it has lost, and that have
    /// restarted since they recorded its later incarnations; together they are a majority.
    RolledBackBesideLaggards, "rolled-back disk beside laggards", 2;
    /// A data directory is copied to a second machine, which starts some incarnations of the first one later; both run.
    CopiedDisk, "copied disk", 1;
    /// A disk is put back to a copy from its node's present incarnation, and all others have restarted since they
    /// recorded what the node acknowledged.
    PutBackDisk, "disk put back within a life", 1;
    /// A node receives an append request from a leader of another history, as after a majority's disks were put back to
    /// older copies.
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
    /// A running member is removed and comes back under a new id.
    Replacement, "replacement", 1;
    /// An operator makes the cluster's bounds small for a while: few sessions, or no room for more data.
    Settings, "small bounds", 1;
    /// All nodes are restarted at other addresses.
    ChangedAddresses, "changed addresses", 1;
    /// An operator transfers leadership to any node.
    Transfer, "transfer", 2;
    /// An operator makes a node write a snapshot.
    Snapshot, "snapshot", 2;
    /// A node is asked to stop.
    Stop, "stop", 1;
    /// All nodes are restarted, one after the other.
    RollingRestart, "rolling restart", 1;
    /// All nodes are restarted with the next version of the program, one after the other.
    RollingUpgrade, "rolling upgrade", 1;
}
