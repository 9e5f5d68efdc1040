//! Faults of disks: they fail, fill up, slow down, take the power with them, lose or change their data.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mokv::membership::Identity;
use mokv::node_id::NodeId;
use mokv::positions::{Positions, Reach, Start};
use mokv::raft::wire::decode_vote;
use mokv::rt;
use mokv::rt::disk::{DiskCall, Fault, Image, Latency, Operation, SimDisk};
use mokv::storage::{Log, LogConfig, Owner, Snapshots};
use tokio::sync::oneshot;

use super::cause::{Cause, Proof, deaths};
use super::network::dns_name;
use super::{Cluster, GOSSIP_PORT, Power};
use crate::checkers::stops;

/// What a start on a disk would find and remember.
pub struct DiskState {
    /// The id of the node on the disk.
    pub node_id: NodeId,
    /// What the start would find.
    pub start: Start,
    /// The other nodes' positions that it would know.
    pub positions: Positions,
}

impl DiskState {
    /// Returns `true` if it would detect that `other` was rolled back.
    pub fn refuses(&self, other: &DiskState) -> bool {
        self.positions.clone().check(other.node_id, &[other.start]).is_err()
    }
}

impl Cluster {
    /// The disk of a node, for faults at chosen calls.
    pub fn disk(&self, name: &str) -> SimDisk {
        self.host(&mut self.state(), name).disk.clone()
    }

    /// Identifies a node's disk and its content: the number of the disk, which rises with every loss, and how often it
    /// was changed from outside.
    pub fn disk_of(&self, name: &str) -> (u64, u64) {
        let mut state = self.state();
        let host = self.host(&mut state, name);
        (host.disks, host.disk.counts().tampered)
    }

    /// Reads the identity on a node's disk: its id, its starts, and the others' starts that it knows. `None` if the
    /// disk holds none.
    pub async fn identity(&self, name: &str) -> Option<Identity> {
        let copy = SimDisk::new(0);
        copy.restore(&self.disk(name).image());
        Identity::read(copy.mount()).await.ok()
    }

    /// What a node's next start on this disk would find and remember. `None` if the disk holds no node of a cluster.
    pub async fn disk_state(image: &Image) -> Option<DiskState> {
        let copy = || {
            let copy = SimDisk::new(0);
            copy.restore(image);
            copy.mount()
        };
        let identity = Identity::read(copy()).await.ok()?;
        let config = LogConfig { segment_bytes: 256 << 10, reserve_bytes: 0, ..LogConfig::default() };
        let owner = Owner { node_id: identity.node_id(), cluster_id: identity.cluster_id()?.0 };
        let log = Log::open(copy(), config, owner).await.ok()?;
        let state = log.state();
        log.close().await.ok()?;
        let (snapshots, _) = Snapshots::open(copy()).await.ok()?;
        let snapshot = snapshots.newest().map(|snapshot| snapshot.position);
        let index = [state.last, snapshot].into_iter().flatten().map(|position| position.index).max();
        let term = state.vote.and_then(|vote| decode_vote(&vote).ok()).map_or(0, |vote| vote.leader_id.term);
        let positions = state.acknowledged.and_then(|known| Positions::decode(&known).ok());
        Some(DiskState {
            node_id: identity.node_id(),
            start: Start { boot: identity.boot() + 1, found: Reach { term, index } },
            positions: positions.unwrap_or_default(),
        })
    }

    /// Excuses every exit of the node from now on, whatever its disk shows.
    pub fn excuse(&self, name: &str, words: &str) {
        self.blame(name, words, Proof::Told);
    }

    /// Excuses exits for want of room: a node whose disk is full lacks much of the others' log.
    pub fn excuse_backlog(&self, name: &str) {
        self.blame(name, "its disk was full when it had much to catch up on", Proof::Backlog);
    }

    fn blame(&self, name: &str, words: &str, proof: Proof) {
        self.host(&mut self.state(), name).causes.push(Cause { words: words.to_owned(), proof });
    }

    /// Removes pending faults and the capacity limit from a node's disk.
    pub fn mend_disk(&self, name: &str) {
        let mut state = self.state();
        let host = self.host(&mut state, name);
        host.disk.on_call(None);
        host.disk.set_capacity(None);
        // A fault that has happened may still make the node exit.
        let disk = host.disk.clone();
        host.causes.retain(|cause| cause.proof != Proof::Told && cause.has_happened(&disk));
    }

    /// Makes the `nth` call of this kind from now on fail. After a write, which fails half-way, or a sync everything
    /// fails until the node is started again, and the node must stop; a failed read succeeds when it is repeated.
    pub fn fail_call(&self, name: &str, operation: Operation, nth: u64) {
        let kind = match operation {
            Operation::Sync => "failed sync",
            Operation::Write => "failed write",
            Operation::Read => "failed read",
            other => panic!("nobody has let {other:?} fail yet"),
        };
        let for_good = operation.changes();
        let disk = self.disk(name);
        self.blame(name, &format!("a {kind} of its disk"), Proof::Errors(disk.counts().errors));
        let (sender, log_failed) = oneshot::channel();
        let (mut sender, mut left, mut over) = (Some(sender), nth, false);
        disk.on_call(Some(Box::new(move |call| {
            if over {
                return Fault::None;
            }
            left -= u64::from(left > 0 && call.operation == operation);
            over = left == 0 && !for_good;
            if left > 0 {
                return Fault::None;
            }
            if for_good && call.operation.changes() && call.name.ends_with(".wal") {
                // The receiver may be gone by then.
                sender.take().map(|sender| sender.send(()));
            }
            Fault::Error
        })));
        self.run().fault(kind, format!("the {operation:?} number {nth} from now on {name}'s disk will fail"));
        let (cluster, name) = (self.clone(), name.to_owned());
        rt::spawn(async move {
            if log_failed.await.is_ok() {
                cluster.must_stop(&name).await;
            }
        });
    }

    /// Checks that a node whose log has failed exits once it runs.
    async fn must_stop(&self, name: &str) {
        const PATIENCE: Duration = Duration::from_secs(10);
        const LOOK_AGAIN: Duration = Duration::from_millis(100);
        let number = self.process_number(name);
        let mut ran_on = Duration::ZERO;
        while ran_on < PATIENCE {
            rt::sleep(LOOK_AGAIN).await;
            match self.power(name) {
                _ if self.process_number(name) != number => return,
                Power::Off => return,
                Power::On => ran_on += LOOK_AGAIN,
                Power::Paused => {}
            }
        }
        self.run().find(stops::lives_on(name, PATIENCE));
    }

    /// Power fails on a node's machine just before its `nth` sync from now. Resolves when it has, or when another fault
    /// came first.
    pub async fn power_loss_at_sync(&self, name: &str, nth: u64) {
        let mut left = nth;
        let meant = move |call: &DiskCall| {
            left -= u64::from(left > 0 && call.operation == Operation::Sync);
            left == 0
        };
        if self.crash_at_call(name, Fault::PowerLossBefore, meant).await {
            self.run().marker("power lost just before a sync");
        }
    }

    /// The node dies, or its machine loses power, at the first call of its disk for which `meant` returns `true`.
    /// Resolves to `true` when it has, and to `false` if another fault came first.
    ///
    /// # Panics
    /// If `crash` is a fault that kills no process.
    pub async fn crash_at_call(
        &self,
        name: &str,
        crash: Fault,
        mut meant: impl FnMut(&DiskCall) -> bool + Send + 'static,
    ) -> bool {
        let loses_power = match crash {
            Fault::PowerLossBefore | Fault::PowerLossAfter => true,
            Fault::KillBefore | Fault::KillAfter => false,
            Fault::None | Fault::Error | Fault::Full => panic!("nobody dies of {crash:?}"),
        };
        let (sender, struck) = oneshot::channel();
        let mut sender = Some(sender);
        let hook = move |call: &DiskCall| {
            let injections = sender.is_some()
                && meant(call)
                && sender.take().is_some_and(|sender| sender.send(()).is_ok());
            if injections { crash } else { Fault::None }
        };
        let disk = self.disk(name);
        self.blame(name, "it died in the middle of a call", Proof::Deaths(deaths(&disk)));
        disk.on_call(Some(Box::new(hook)));
        // The caller may be gone by then; the process must die with its disk all the same.
        let (cluster, name) = (self.clone(), name.to_owned());
        let finished = rt::spawn(async move {
            // A replaced hook injects nothing more.
            let has_struck = struck.await.is_ok();
            if has_struck && loses_power {
                cluster.power_loss(&name);
            } else if has_struck {
                cluster.kill(&name);
            }
            has_struck
        });
        // The task ends with the run at the latest.
        finished.await.unwrap_or(false)
    }

    /// Makes a node's disk slower by this factor; 1 restores the world's latency.
    pub fn slow_disk(&self, name: &str, factor: u32) {
        let world = self.world();
        let times = |range: &Range<Duration>| range.start * factor..range.end * factor;
        self.disk(name).set_latency(Some(Latency {
            read: Duration::ZERO..Duration::ZERO,
            write: world.write_latency.clone(),
            sync: times(&world.sync_latency),
        }));
        self.host(&mut self.state(), name).has_slow_disk = factor > 1;
        if factor > 1 {
            self.run().fault("slow disk", format!("{name}'s disk is {factor} times slower"));
        }
    }

    /// Whether a node's disk was made slow.
    pub fn has_slow_disk(&self, name: &str) -> bool {
        self.host(&mut self.state(), name).has_slow_disk
    }

    /// Leaves room for `room` more bytes; `None` removes the limit.
    pub fn fill_disk(&self, name: &str, room: Option<u64>) {
        let disk = self.disk(name);
        let used: u64 = disk.files().iter().map(|(_, length)| length).sum();
        disk.set_capacity(room.map(|room| used + room));
        if let Some(room) = room {
            self.blame(name, "its disk is full", Proof::Full);
            self.run().fault("full disk", format!("{name}'s disk has room for {room} bytes more"));
        }
    }

    /// The disk comes back empty. The node must not run.
    pub fn wipe(&self, name: &str) {
        assert_eq!(self.power(name), Power::Off, "{name} still uses its disk");
        let here = self.names().iter().map(|name| format!("{}:{GOSSIP_PORT}", dns_name(name))).collect();
        let mut state = self.state();
        let host = self.host(&mut state, name);
        host.disk.wipe();
        host.has_to_be_wiped = false;
        host.doubted = None;
        // An operator who replaces a disk configures the node for the present cluster, which may have grown.
        host.config.start_join_addrs = here;
        host.installed.store(0, Ordering::Relaxed);
        host.causes.retain(|cause| !matches!(cause.proof, Proof::Damage | Proof::Copied));
        host.disks += 1;
        drop(state);
        self.may_go(name);
        self.run().fault("wiped disk", format!("{name}'s disk is empty"));
    }

    /// A bit of a file flips. The node must not run. Once it finds the damage it has to ask for a wipe, and gets it.
    pub fn flip_bit(&self, name: &str, file: &str, offset: u64, bit: u8) {
        assert_eq!(self.power(name), Power::Off, "{name} still uses its disk");
        assert!(self.disk(name).flip(file, offset, bit), "{name} has no byte {offset} in {file}");
        self.blame(name, "a bit of its disk flipped", Proof::Damage);
        self.run().fault("flipped bit", format!("bit {bit} at offset {offset} of {name}'s {file} flips"));
    }

    /// A bit of a file flips, whether its node runs or not, and no exit is excused: the scenario checks the
    /// consequences.
    ///
    /// # Panics
    /// If the file has no such byte.
    pub fn rot(&self, name: &str, file: &str, offset: u64, bit: u8) {
        assert!(self.disk(name).flip(file, offset, bit), "{name} has no byte {offset} in {file}");
        self.run().fault("flipped bit", format!("bit {bit} at offset {offset} of {name}'s {file} flips"));
    }

    /// A bit of a key's value flips in the memory of a running node. Returns `false` if the node does not hold the key.
    pub fn rot_in_memory(&self, name: &str, key: &str, bit: usize) -> bool {
        let memory = self.host(&mut self.state(), name).memory.clone();
        let store = memory.lock().expect("no code panics while it holds this lock").upgrade();
        let hit = store.is_some_and(|store| store.flip_bit(key.as_bytes(), bit));
        if hit {
            self.run().fault("flipped bit in memory", format!("bit {bit} of {key} flips in {name}'s memory"));
        }
        hit
    }

    /// The log index of the last snapshot that a node has installed or loaded; 0: none.
    pub fn installed(&self, name: &str) -> u64 {
        let mut state = self.state();
        self.host(&mut state, name).installed.load(Ordering::Relaxed)
    }

    /// A node's newest snapshot file, if the node can recover without it: there is an older one, and since that one no
    /// snapshot that jumped a gap in the log was installed.
    pub fn snapshot_with_fallback(&self, name: &str) -> Option<String> {
        let mut state = self.state();
        let host = self.host(&mut state, name);
        let files = host.disk.files().into_iter().map(|file| file.0);
        // Files that were set aside have another prefix.
        let own = |file: &String| file.starts_with("snapshot-") && file.ends_with(".snap");
        let snapshots: Vec<String> = files.filter(own).collect();
        let [.., older, newest] = snapshots.as_slice() else { return None };
        // snapshot-TERM-INDEX.snap
        let index = older.strip_suffix(".snap")?.rsplit('-').next()?;
        let index = u64::from_str_radix(index, 16).ok()?;
        (index >= host.installed.load(Ordering::Relaxed)).then(|| newest.clone())
    }

    /// A bit flips in a snapshot without which the node can recover.
    pub fn damage_snapshot(&self, name: &str, file: &str, offset: u64, bit: u8) {
        assert_eq!(self.power(name), Power::Off, "{name} still uses its disk");
        if self.disk(name).flip(file, offset, bit) {
            self.run()
                .fault("damaged snapshot", format!("bit {bit} at offset {offset} of {name}'s {file} flips"));
        }
    }

    /// Restores the disk from an image. The node must not run; it has to be wiped in the end.
    pub fn roll_back(&self, name: &str, image: &Image) {
        assert_eq!(self.power(name), Power::Off, "{name} still uses its disk");
        // Its last node id may be another one than in the image, and is lost with the disk's content.
        self.may_go(name);
        self.disk(name).restore(image);
        self.blame(name, "its disk was rolled back", Proof::Damage);
        self.run().fault("rolled-back disk", format!("{name}'s disk is what it once was"));
    }

    /// Puts an image of a node's disk on another machine, which is no member: it acts under the first one's identity.
    pub fn copy_disk(&self, name: &str, image: &Image, to: &str) {
        self.disk(to).restore(image);
        self.blame(to, "its disk is a copy of another one", Proof::Damage);
        self.blame(name, "its disk was copied", Proof::Copied);
        self.set_outsider(to, true);
        self.run().fault("copied disk", format!("{name}'s disk is copied to {to}"));
    }

    /// Declares that a node is about to receive another history than its own: it takes no part any more, and has to be
    /// wiped in the end.
    pub fn expect_conflicting_history(&self, name: &str) {
        self.may_go(name);
        self.blame(name, "it was told of another history", Proof::Damage);
        self.run()
            .fault("other history", format!("somebody speaks to {name} as the leader of another history"));
    }

    /// Marks the state of a node that is off as quarantined, as if a majority had outvoted it; its log stays valid. The
    /// node has to be wiped in the end. Returns `false` if its disk holds no identity, or one without a cluster, or if
    /// the node was started meanwhile.
    pub async fn doubt(&self, name: &str) -> bool {
        assert_eq!(self.power(name), Power::Off, "{name} still uses its disk");
        let number = self.host(&mut self.state(), name).process_number;
        let copy = SimDisk::new(0);
        copy.restore(&self.disk(name).image());
        let Ok(mut identity) = Identity::read(copy.mount()).await else { return false };
        if identity.cluster_id().is_none() || identity.quarantine().await.is_err() {
            return false;
        }
        // Other faults hit this node, too.
        if self.power(name) != Power::Off || self.host(&mut self.state(), name).process_number != number {
            return false;
        }
        self.disk(name).leave(&copy.image());
        self.host(&mut self.state(), name).doubted = Some(identity.node_id());
        self.run().fault("doubted state", format!("{name}'s state is doubted"));
        true
    }

    /// Whether a node is quarantined, and since then was neither wiped nor removed, after which it has another id.
    pub fn is_doubted(&self, name: &str) -> bool {
        let doubted = self.host(&mut self.state(), name).doubted;
        doubted.is_some() && self.run().with_logs(|logs| logs.node_on(name)).map(NodeId) == doubted
    }

    /// Whether a node's disk was damaged and has not been wiped since.
    pub fn is_damaged(&self, name: &str) -> bool {
        self.host(&mut self.state(), name).causes.iter().any(|cause| cause.proof == Proof::Damage)
    }
}
