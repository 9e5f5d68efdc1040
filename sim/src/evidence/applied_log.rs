//! The applied log: the one sequence of entries that all nodes must agree on.
//!
//! Every node of a simulation reports each entry it applies and each snapshot it installs. Checkers of the replicated
//! state read the log; it never replaces the clients' evidence. Independent of the nodes: reports are plain values.

use std::collections::BTreeMap;

use super::history::{KeyState, Nanos};

/// An entry as a node applied it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The term it was proposed in.
    pub term: u64,
    /// A hash of its bytes.
    pub payload: u64,
    /// The digest of the whole state after the entry.
    pub digest: u128,
    /// The changes that the entry made, in order, all of one revision.
    pub changes: Vec<KeyChange>,
}

/// The change of one key from one revision to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The store's revision that it created.
    pub revision: u64,
    /// How many changes this revision made before it.
    pub place: u32,
    /// The key.
    pub key: String,
    /// The key's new state; `None`: it was deleted.
    pub new: Option<KeyState>,
}

/// A contradiction between two nodes, or within the reports of one.
#[derive(Debug, Clone)]
pub enum Conflict {
    /// Two nodes applied different entries, or had different states after the same one.
    KeyState {
        /// The first node and the one that differs.
        nodes: (String, String),
        /// The log index.
        index: u64,
        /// The entries that they applied.
        both: Box<(Applied, Applied)>,
    },
    /// A snapshot's state differs from the state at its index.
    Snapshot {
        /// The node that applied and the node that installed.
        nodes: (String, String),
        /// The log index.
        index: u64,
    },
    /// The members in a node's state differ from those at its index.
    Members {
        /// The first node and the one that differs.
        nodes: (String, String),
        /// The log index.
        index: u64,
    },
    /// A node skipped entries or applied one again.
    Order {
        /// The node.
        node: String,
        /// The index of the entry before.
        last: u64,
        /// The index of the entry that followed.
        index: u64,
    },
}

/// The merged sequence, and where reports contradict it.
#[derive(Debug, Default)]
pub struct AppliedLog {
    /// By log index; with the first node that applied it.
    entries: BTreeMap<u64, (String, Applied)>,
    /// Digests of snapshots that were installed before any node reported to have applied their index.
    installed: BTreeMap<u64, (String, u64, u128)>,
    /// By log index: a digest of the members at that entry, and the first node that reported it.
    members: BTreeMap<u64, (String, u128)>,
    /// By earliest readable revision: the log index that raised it, and when the first node had applied that.
    floors: BTreeMap<u64, (u64, Nanos)>,
    /// The last index of every node, since its log was last opened.
    positions: BTreeMap<String, u64>,
    snapshots_installed: u64,
    conflicts: Vec<Conflict>,
    reported: bool,
}

impl AppliedLog {
    /// A node opens its log, after a removal also within the same process: its next report may be of any index.
    pub fn started(&mut self, node: &str) {
        self.positions.remove(node);
    }

    /// A node applied an entry.
    pub fn applied(&mut self, node: &str, index: u64, applied: Applied) {
        if let Some(last) = self.positions.insert(node.to_owned(), index)
            && index != last + 1
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
                self.conflicts.push(Conflict::KeyState { nodes, index, both });
            }
        }
    }

    /// A node replaced its state by a snapshot's.
    pub fn installed(&mut self, node: &str, index: u64, term: u64, digest: u128) {
        self.positions.insert(node.to_owned(), index);
        self.snapshots_installed += 1;
        let applied = self.entries.get(&index).map(|(other, entry)| (other, entry.term, entry.digest));
        let installed = self.installed.get(&index).map(|(other, term, digest)| (other, *term, *digest));
        match applied.or(installed) {
            Some((other, known_term, known_digest)) if (known_term, known_digest) != (term, digest) => {
                let nodes = (other.clone(), node.to_owned());
                self.conflicts.push(Conflict::Snapshot { nodes, index });
            }
            Some(_) => {}
            None => {
                self.installed.insert(index, (node.to_owned(), term, digest));
            }
        }
    }

    /// The members in a node's state at this index, applied or installed.
    pub fn members(&mut self, node: &str, index: u64, digest: u128) {
        let (other, known) = self.members.entry(index).or_insert_with(|| (node.to_owned(), digest));
        if *known != digest {
            self.conflicts.push(Conflict::Members { nodes: (other.clone(), node.to_owned()), index });
        }
    }

    /// The earliest revision that can be read in a node's state at this index, which it has just applied.
    pub fn readable_from(&mut self, index: u64, floor: u64, now: Nanos) {
        let (raised, _) = self.floors.entry(floor).or_insert((index, now));
        // The first to report it may have begun behind the entry that raised it.
        *raised = index.min(*raised);
    }

    /// The earliest revision that can be read in the state at this index.
    pub fn floor_at(&self, index: u64) -> u64 {
        let raised = self.floors.iter().rev().find(|(_, (raised, _))| *raised <= index);
        raised.map_or(1, |(floor, _)| *floor)
    }

    /// The earliest revisions that could be read in states that some node had by this time, in ascending order.
    pub fn floors_by(&self, time: Nanos) -> impl Iterator<Item = u64> {
        self.floors.iter().filter(move |(_, (_, since))| *since <= time).map(|(floor, _)| *floor)
    }

    /// All nodes are gone, and a new cluster begins with their state: it has its own members.
    pub fn reformed(&mut self) {
        self.members.clear();
    }

    /// The last log index that a node applied or installed since its log was last opened.
    pub fn position(&self, node: &str) -> Option<u64> {
        self.positions.get(node).copied()
    }

    /// All entries, by log index.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &Applied)> {
        self.entries.iter().map(|(index, (_, applied))| (*index, applied))
    }

    /// All changes, in the order of the log.
    pub fn changes(&self) -> impl Iterator<Item = (u64, &KeyChange)> {
        self.entries().flat_map(|(index, applied)| applied.changes.iter().map(move |change| (index, change)))
    }

    /// How many snapshots were installed.
    pub fn snapshots_installed(&self) -> u64 {
        self.snapshots_installed
    }

    /// The first contradiction, returned once: all later ones follow from it.
    pub fn take_conflict(&mut self) -> Option<Conflict> {
        let first = self.conflicts.first().filter(|_| !self.reported).cloned();
        self.reported |= first.is_some();
        first
    }
}
