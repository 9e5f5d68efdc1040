//! Tells the ledger what one node applies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use mokv::map::Change as MapChange;
use mokv::raft::{LogId, Observer};
use xxhash_rust::xxh3::xxh3_64;

use crate::history::Entry;
use crate::ledger::{Applied, Change};
use crate::run::Run;
use crate::timeline::What;
use crate::values;

/// Hears what one node applies.
pub struct NodeObserver {
    node: String,
    run: Arc<Run>,
    /// The log index of the last snapshot that was installed.
    last_installed: Arc<AtomicU64>,
}

impl NodeObserver {
    /// For the node of this name.
    pub fn new(node: &str, run: Arc<Run>, last_installed: Arc<AtomicU64>) -> NodeObserver {
        NodeObserver { node: node.to_owned(), run, last_installed }
    }
}

impl Observer for NodeObserver {
    fn applied(&self, at: LogId, payload: &Bytes, change: Option<&MapChange>, digest: u128) {
        let applied =
            Applied { term: at.leader_id.term, payload: xxh3_64(payload), digest, change: change.map(plain) };
        self.run.with_ledger(|ledger| ledger.applied(&self.node, at.index, applied));
    }

    fn installed(&self, at: LogId, digest: u128) {
        self.last_installed.store(at.index, Ordering::Relaxed);
        self.run.situation("snapshot installed");
        let words = format!("{} installs a snapshot of log index {}", self.node, at.index);
        self.run.record(Some(&self.node), What::Snapshot, &words);
        self.run.with_ledger(|ledger| ledger.installed(&self.node, at.index, at.leader_id.term, digest));
    }
}

fn plain(change: &MapChange) -> Change {
    let entry = |entry: &mokv::map::Entry| Entry {
        value: values::decode(&entry.value).unwrap_or(u64::MAX),
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
        version: entry.version,
    };
    Change {
        revision: change.revision,
        key: String::from_utf8_lossy(change.key.as_bytes()).into_owned(),
        new: change.new.as_ref().map(entry),
    }
}
