//! What the nodes applied: the one sequence of entries that all of them must agree on.
//!
//! Every node of a simulation reports each entry it applies and each snapshot it installs. Judges of the replicated
//! state look here; it is not the clients' evidence and never stands in for it. Knows no node: reports are plain
//! values.

use std::collections::BTreeMap;

use crate::history::Entry;
use crate::judges::Finding;
use crate::judges::state_machine::Conflict;

/// An entry as a node applied it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The term it was proposed in.
    pub term: u64,
    /// A hash of its bytes.
    pub payload: u64,
    /// The digest of the whole state after it.
    pub digest: u128,
    /// What it changed.
    pub change: Option<Change>,
}

/// One key's step from one revision to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The store's revision by it.
    pub revision: u64,
    /// The key.
    pub key: String,
    /// What it holds now; `None`: it was deleted.
    pub new: Option<Entry>,
}

/// The merged sequence, and where it was contradicted.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By log index; who applied it first.
    entries: BTreeMap<u64, (String, Applied)>,
    /// Digests of snapshots that were installed before anybody was seen to apply their position.
    installed: BTreeMap<u64, (String, u64, u128)>,
    /// The last position of every node's present life.
    positions: BTreeMap<String, u64>,
    snapshots_installed: u64,
    conflicts: Vec<Conflict>,
}

impl Ledger {
    /// A node starts anew: its next report may be of any position.
    pub fn started(&mut self, node: &str) {
        self.positions.remove(node);
    }

    /// A node applied an entry.
    pub fn applied(&mut self, node: &str, index: u64, applied: Applied) {
        // A node that was removed starts over from the beginning within one life.
        if let Some(last) = self.positions.insert(node.to_owned(), index)
            && index != last + 1
            && index > 1
        {
            self.conflicts.push(Conflict::Order { node: node.to_owned(), last, index });
        }
        if let Some((other, term, digest)) = self.installed.get(&index)
            && (*term, *digest) != (applied.term, applied.digest)
        {
            let nodes = (other.clone(), node.to_owned());
            self.conflicts.push(Conflict::Snapshot { nodes, index });
        }
        match self.entries.get(&index) {
            None => {
                self.entries.insert(index, (node.to_owned(), applied));
            }
            Some((_, first)) if *first == applied => {}
            Some((other, first)) => {
                let nodes = (other.clone(), node.to_owned());
                let both = Box::new((first.clone(), applied));
                self.conflicts.push(Conflict::Entry { nodes, index, both });
            }
        }
    }

    /// A node replaced its state by a snapshot's.
    pub fn installed(&mut self, node: &str, index: u64, term: u64, digest: u128) {
        self.positions.insert(node.to_owned(), index);
        self.snapshots_installed += 1;
        let known = self.entries.get(&index).map(|(other, entry)| (other, entry.term, entry.digest));
        match known {
            Some((other, known_term, known_digest)) if (known_term, known_digest) != (term, digest) => {
                let nodes = (other.clone(), node.to_owned());
                self.conflicts.push(Conflict::Snapshot { nodes, index });
            }
            Some(_) => {}
            None => {
                self.installed.entry(index).or_insert_with(|| (node.to_owned(), term, digest));
            }
        }
    }

    /// The last log index a node applied or installed in its present life.
    pub fn position(&self, node: &str) -> Option<u64> {
        self.positions.get(node).copied()
    }

    /// All entries, by log index.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &Applied)> {
        self.entries.iter().map(|(index, (_, applied))| (*index, applied))
    }

    /// All changes, in the order of the log.
    pub fn changes(&self) -> impl Iterator<Item = (u64, &Change)> {
        self.entries().filter_map(|(index, applied)| Some((index, applied.change.as_ref()?)))
    }

    /// How many snapshots were installed.
    pub fn snapshots_installed(&self) -> u64 {
        self.snapshots_installed
    }

    /// Where nodes contradicted each other or themselves.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// The first contradiction so far, for those who look continuously.
    pub fn first_finding(&self) -> Option<Finding> {
        self.conflicts.first().map(Conflict::finding)
    }
}
