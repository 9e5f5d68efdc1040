//! Node ids are unique: an id belongs to one disk for ever, acts in one process at a time, and never returns once it
//! has a tombstone and has left the members.
//!
//! The meaning of a node's vote, acknowledgement or tombstone depends on this. A copied disk may be opened; its process
//! must not act while the original's does.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;

const NAME: &str = "node ids are unique";

/// The disks, processes and tombstones of node ids.
#[derive(Debug, Default)]
pub struct NodeIds {
    /// The disk on which an id was first seen, and the disks that it was copied to.
    disks: BTreeMap<u64, Vec<String>>,
    /// The host of the process that acts under an id.
    acting: BTreeMap<u64, String>,
    /// Ids with a tombstone, and the log index that wrote it.
    written: BTreeMap<u64, u64>,
    members: (u64, BTreeSet<u64>),
}

impl NodeIds {
    /// A process opens its data. `tampered`: the disk was changed from outside.
    pub fn opened(&mut self, host: &str, disk: &str, tampered: bool, id: u64) -> Option<Finding> {
        let disks = self.disks.entry(id).or_default();
        if disks.iter().any(|known| known == disk) {
            return None;
        }
        disks.push(disk.to_owned());
        if tampered || disks.len() == 1 {
            return None;
        }
        let words = format!("{host} runs under the id {id:016x} on {disk}, which belongs to {}", disks[0]);
        Some(Finding::violation(NAME, words))
    }

    /// The process under this id takes part: it votes, leads, or appends entries to its log.
    pub fn active(&mut self, host: &str, id: u64) -> Option<Finding> {
        match self.acting.get(&id) {
            Some(first) if first == host => None,
            Some(first) => {
                let words = format!("{host} and {first} both act under the id {id:016x}");
                Some(Finding::violation(NAME, words))
            }
            None => {
                self.acting.insert(id, host.to_owned());
                None
            }
        }
    }

    /// The process on this host has ended.
    pub fn ended(&mut self, host: &str, id: u64) {
        if self.acting.get(&id).is_some_and(|acting| acting == host) {
            self.acting.remove(&id);
        }
    }

    /// An applied entry writes a tombstone for an id.
    pub fn written(&mut self, index: u64, id: u64) {
        self.written.entry(id).or_insert(index);
    }

    /// An applied entry names the members. Nodes apply the same entries at different times.
    pub fn members(&mut self, index: u64, ids: BTreeSet<u64>) -> Option<Finding> {
        if index <= self.members.0 && self.members.0 > 0 {
            return None;
        }
        let (_, before) = std::mem::replace(&mut self.members, (index, ids));
        let returned =
            |id: &&u64| !before.contains(id) && self.written.get(id).is_some_and(|written| *written < index);
        let id = self.members.1.iter().find(returned)?;
        let words =
            format!("the id {id:016x} was buried and is a member again by the entry of index {index}");
        Some(Finding::violation(NAME, words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_with_its_disk_and_acts_once_at_a_time() {
        let mut ids = NodeIds::default();
        assert_eq!(ids.opened("n1", "n1's disk", false, 7), None);
        assert_eq!(ids.active("n1", 7), None);
        assert_eq!(ids.opened("copy", "copy's disk", true, 7), None, "a copy may open");
        assert!(ids.active("copy", 7).is_some(), "and must not act");
        ids.ended("n1", 7);
        assert_eq!(ids.active("copy", 7), None, "a disk that was moved");
        assert!(ids.opened("n2", "n2's disk", false, 7).is_some(), "an id drawn twice");
    }

    #[test]
    fn a_buried_id_may_still_vote_but_never_returns() {
        let mut ids = NodeIds::default();
        assert_eq!(ids.members(1, BTreeSet::from([7, 8, 9])), None);
        ids.written(5, 9);
        assert_eq!(ids.members(6, BTreeSet::from([7, 8, 9, 10])), None, "it has not left yet");
        assert_eq!(ids.members(7, BTreeSet::from([7, 8, 10])), None);
        assert_eq!(ids.members(6, BTreeSet::from([7, 8, 9, 10])), None, "another node applies it later");
        assert!(ids.members(9, BTreeSet::from([7, 8, 9, 10])).is_some());
    }
}
