//! Records what one node's Raft does.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;
use mokv::map::{Change as MapChange, Command};
use mokv::node_id::NodeId;
use mokv::raft::{self, LogId, Observer, Store};
use xxhash_rust::xxh3::xxh3_64;

use crate::evidence::applied_log::{Applied, KeyChange};
use crate::evidence::history::KeyState;
use crate::evidence::node_log::{Found, Place, Vote};
use crate::evidence::values;
use crate::golden;
use crate::record::Run;
use crate::record::timeline::What;

/// The state that a process holds, for faults of its memory.
pub type Memory = Arc<Mutex<Weak<Store>>>;

/// Observes one process of a node.
pub struct NodeObserver {
    host: String,
    /// The disk on which it runs.
    disk: String,
    /// The disk was changed from outside since the node last used it.
    tampered: bool,
    run: Arc<Run>,
    /// The log index of the last snapshot that was installed.
    last_installed: Arc<AtomicU64>,
    memory: Memory,
    /// Log indexes of memberships that it has appended and not applied: in effect, and perhaps never committed.
    open_memberships: Mutex<BTreeSet<u64>>,
}

impl NodeObserver {
    /// An observer of a process on this host.
    pub fn new(
        host: &str,
        disk: String,
        tampered: bool,
        run: Arc<Run>,
        last_installed: Arc<AtomicU64>,
        memory: Memory,
    ) -> NodeObserver {
        let open_memberships = Mutex::default();
        NodeObserver { host: host.to_owned(), disk, tampered, run, last_installed, memory, open_memberships }
    }

    fn open_memberships(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.open_memberships.lock().expect("no code panics while it holds this lock")
    }
}

impl Observer for NodeObserver {
    fn opened(&self, node_id: NodeId, found: &raft::Found) {
        let found = Found {
            vote: found.vote.as_ref().map(vote),
            purged: found.purged.map(place),
            last: found.last.map(place),
        };
        self.run.with_applied_log(|applied_log| applied_log.started(&self.host));
        let now = self.run.now();
        self.run.with_logs(|logs| logs.opened(&self.host, &self.disk, self.tampered, node_id.0, found, now));
    }

    fn holds(&self, store: &Arc<Store>) {
        *self.memory.lock().expect("no code panics while it holds this lock") = Arc::downgrade(store);
    }

    fn voted(&self, saved: &raft::Vote) {
        let now = self.run.now();
        self.run.with_logs(|logs| logs.voted(&self.host, vote(saved), now));
    }

    fn appended(&self, at: LogId, payload: &Bytes) {
        let (hash, bytes) = (xxh3_64(payload), payload.len() as u64);
        let command = Command::decode(payload);
        if matches!(command, Ok(Command::Membership(_))) {
            self.open_memberships().insert(at.index);
        }
        self.run.with_logs(|logs| {
            logs.appended(&self.host, place(at), hash, bytes);
            if let Ok(Command::Tombstone { node_id, .. }) = command {
                logs.to_be_buried(node_id.0);
            }
        });
    }

    fn acknowledged(&self, last: LogId) {
        self.run.with_logs(|logs| logs.acknowledged(&self.host, place(last)));
    }

    fn truncating(&self, last: Option<LogId>) {
        if !self.open_memberships().split_off(&end_after(last)).is_empty() {
            self.run.marker("membership taken back");
        }
        self.run.with_logs(|logs| logs.truncating(&self.host, end_after(last)));
    }

    fn truncated(&self, last: Option<LogId>) {
        self.run.with_logs(|logs| logs.truncated(&self.host, end_after(last)));
    }

    fn purged(&self, upto: LogId) {
        self.run.with_logs(|logs| logs.purged(&self.host, upto.index));
    }

    fn applied(&self, at: LogId, payload: &Bytes, changes: &[MapChange], digest: u128) {
        let hash = xxh3_64(payload);
        golden::applied(&self.host, place(at));
        self.open_memberships().remove(&at.index);
        self.run.with_logs(|logs| {
            logs.applied(&self.host, place(at), hash);
            match Command::decode(payload) {
                Ok(Command::Membership(members)) => {
                    let voters = members.voter_sets.iter().map(|set| set.ids.iter().copied().collect());
                    logs.members(at.index, voters.collect(), members.nodes.keys().copied().collect());
                }
                Ok(Command::Tombstone { node_id, .. }) => logs.written(at.index, node_id.0),
                Ok(Command::Configure(change)) => {
                    if let Some(most) = change.max_sessions {
                        logs.sessions_bounded(at.index, most);
                    }
                }
                _ => {}
            }
        });
        let changes = (0..).zip(changes).map(|(place, change)| plain(place, change)).collect();
        let applied = Applied { term: at.leader_id.term, payload: hash, digest, changes };
        self.run.with_applied_log(|applied_log| applied_log.applied(&self.host, at.index, applied));
    }

    fn installed(&self, at: LogId, digest: u128) {
        golden::installed(&self.host, place(at));
        self.last_installed.store(at.index, Ordering::Relaxed);
        self.run.marker("snapshot installed");
        let covered = {
            let mut open = self.open_memberships();
            let behind = open.split_off(&(at.index + 1));
            std::mem::replace(&mut *open, behind)
        };
        if !covered.is_empty() {
            self.run.marker("snapshot installed over a membership");
        }
        let words = format!("{} installs a snapshot of log index {}", self.host, at.index);
        self.run.record(Some(&self.host), What::Snapshot, &words);
        self.run.with_applied_log(|applied_log| {
            applied_log.installed(&self.host, at.index, at.leader_id.term, digest)
        });
    }

    fn members(&self, at: LogId, digest: u128) {
        self.run.with_applied_log(|applied_log| applied_log.members(&self.host, at.index, digest));
    }

    fn readable_from(&self, at: LogId, floor: u64) {
        let now = self.run.now();
        self.run.with_applied_log(|applied_log| applied_log.readable_from(at.index, floor, now));
    }
}

fn place(at: LogId) -> Place {
    Place { term: at.leader_id.term, index: at.index }
}

fn end_after(last: Option<LogId>) -> u64 {
    last.map_or(0, |last| last.index + 1)
}

fn vote(vote: &raft::Vote) -> Vote {
    Vote { term: vote.leader_id.term, candidate: vote.leader_id.voted_for.0, committed: vote.committed }
}

fn plain(place: u32, change: &MapChange) -> KeyChange {
    let new = &change.new;
    let state = || KeyState {
        value: values::decode(new.value()).unwrap_or(u64::MAX),
        create_revision: new.create_revision(),
        mod_revision: new.revision(),
        version: new.version(),
    };
    KeyChange {
        revision: new.revision(),
        place,
        key: String::from_utf8_lossy(new.key()).into_owned(),
        new: (!new.is_deletion()).then(state),
    }
}

/// Forwards to an observer until the record is over; later events are dropped.
pub struct UntilOver {
    /// The observer.
    pub observer: NodeObserver,
    /// Whether the record is over.
    pub is_over: Arc<AtomicBool>,
}

impl UntilOver {
    fn tell(&self, what: impl FnOnce(&NodeObserver)) {
        if !self.is_over.load(Ordering::Relaxed) {
            what(&self.observer);
        }
    }
}

impl Observer for UntilOver {
    fn opened(&self, node_id: NodeId, found: &raft::Found) {
        self.tell(|observer| observer.opened(node_id, found));
    }

    fn holds(&self, store: &Arc<Store>) {
        self.tell(|observer| observer.holds(store));
    }

    fn voted(&self, saved: &raft::Vote) {
        self.tell(|observer| observer.voted(saved));
    }

    fn appended(&self, at: LogId, payload: &Bytes) {
        self.tell(|observer| observer.appended(at, payload));
    }

    fn acknowledged(&self, last: LogId) {
        self.tell(|observer| observer.acknowledged(last));
    }

    fn truncating(&self, last: Option<LogId>) {
        self.tell(|observer| observer.truncating(last));
    }

    fn truncated(&self, last: Option<LogId>) {
        self.tell(|observer| observer.truncated(last));
    }

    fn purged(&self, upto: LogId) {
        self.tell(|observer| observer.purged(upto));
    }

    fn applied(&self, at: LogId, payload: &Bytes, changes: &[MapChange], digest: u128) {
        self.tell(|observer| observer.applied(at, payload, changes, digest));
    }

    fn installed(&self, at: LogId, digest: u128) {
        self.tell(|observer| observer.installed(at, digest));
    }

    fn members(&self, at: LogId, digest: u128) {
        self.tell(|observer| observer.members(at, digest));
    }

    fn readable_from(&self, at: LogId, floor: u64) {
        self.tell(|observer| observer.readable_from(at, floor));
    }
}
