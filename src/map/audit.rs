//! Recomputes the digest and size of a map from its contents and compares them with those maintained incrementally.
//!
//! A map updates its digest and size with each command applied; its contents lie in memory, where bits flip. The two
//! agree as long as only [`Map::apply`](super::Map::apply) changes anything. Recomputing costs O(keys), so it is done
//! in steps; the caller decides what happens between two steps. The revision, the settings and the cluster version are
//! maintained and stored in one place, so a bit flip in them is not found here, but only when the digests of several
//! nodes are compared.

use std::fmt;

use bytes::Bytes;
use mokv_proto::log;
use prost::Message;

use super::digest::{Digest, Item};
use super::{Answer, Map, Record, snapshot};
use crate::node_id::NodeId;

/// Work for an item in addition to its bytes, expressed in bytes.
const ITEM_COST: u64 = 64;

/// A recomputation in progress over one map.
pub struct Audit<'a> {
    map: &'a Map,
    /// The items, each with the bytes of keys and values that it adds and whether it is consistent with the rest.
    items: Box<dyn Iterator<Item = Part> + Send + 'a>,
    digest: Digest,
    present_bytes: u64,
    key_bytes: u64,
    bytes: u64,
    misfit: Option<&'static str>,
}

struct Part {
    item: Item,
    bytes: u64,
    /// It is the present version of a key of so many bytes.
    present_key: Option<u64>,
    misfit: Option<&'static str>,
}

/// The contents are not what was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsound {
    /// The digests differ. They are not shown, because they would reveal the difference in content.
    Digest,
    /// Keys and values have another total length than was counted.
    Bytes {
        /// The length maintained incrementally, in bytes.
        carried: u64,
        /// The recomputed length, in bytes.
        summed: u64,
    },
    /// Two parts of the state contradict each other.
    Misfit(&'static str),
}

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsound::Digest => f.write_str("what it holds has another digest than what was applied to it"),
            Unsound::Bytes { carried, summed } => {
                write!(f, "keys and values take {summed} bytes, and those that were applied take {carried}")
            }
            Unsound::Misfit(what) => f.write_str(what),
        }
    }
}

impl<'a> Audit<'a> {
    pub(super) fn of(map: &'a Map) -> Audit<'a> {
        let version = move |record: &Record, is_present: bool| Part {
            item: Item::record(record),
            bytes: record.payload_bytes(),
            present_key: is_present.then(|| record.key().len() as u64),
            misfit: (record.revision() > map.revision()).then_some("a key was written at a revision to come"),
        };
        let present = map.history.present().map(move |record| version(record, true));
        let past = map.history.past().map(move |record| version(record, false));
        let tombstones = map.tombstones().map(|(node_id, name)| Part {
            item: Item::tombstone(node_id, name),
            bytes: 0,
            present_key: None,
            misfit: None,
        });
        let sessions = map.sessions.iter().flat_map(move |(id, session)| {
            let misfit = !map.sessions.is_listed(id, session.last_applied);
            let standing = Part {
                item: Item::session(id, session.last_applied, session.lowest_unanswered),
                bytes: 0,
                present_key: None,
                misfit: misfit.then_some("a session is not where its last use puts it"),
            };
            let answers = session.answers.iter().map(move |(sequence, answer)| Part {
                item: Item::answer(id, *sequence, answer),
                bytes: 0,
                present_key: None,
                misfit: None,
            });
            std::iter::once(standing).chain(answers)
        });
        Audit {
            map,
            items: Box::new(present.chain(past).chain(tombstones).chain(sessions)),
            digest: Digest::default(),
            present_bytes: 0,
            key_bytes: 0,
            bytes: 0,
            misfit: None,
        }
    }

    /// Adds items worth about `bytes` bytes of work. Returns `false` after the last item.
    pub fn step(&mut self, bytes: u64) -> bool {
        let mut left = bytes;
        while left > 0 {
            let Some(part) = self.items.next() else { return false };
            self.digest.add(part.item);
            self.bytes += part.bytes;
            if let Some(key_bytes) = part.present_key {
                self.present_bytes += part.bytes;
                self.key_bytes += key_bytes;
            }
            self.misfit = self.misfit.or(part.misfit);
            left = left.saturating_sub(ITEM_COST + part.bytes);
        }
        true
    }

    /// Compares the sums; to be called after the last step.
    ///
    /// # Errors
    /// If the map's contents differ from what was applied.
    pub fn verdict(&self) -> Result<(), Unsound> {
        let (carried, summed) = (self.map.digest(), self.digest.total([], self.map.standing()));
        if carried != summed {
            return Err(Unsound::Digest);
        }
        let all = self.map.bytes() + self.map.history_bytes();
        let sums = [
            (self.map.key_bytes(), self.key_bytes),
            (self.map.bytes(), self.present_bytes),
            (all, self.bytes),
        ];
        for (carried, summed) in sums {
            if carried != summed {
                return Err(Unsound::Bytes { carried, summed });
            }
        }
        self.misfit.map_or(Ok(()), |misfit| Err(Unsound::Misfit(misfit)))
    }
}

/// The digest of a map, computed from its snapshot blocks without building the map: checking takes the memory of one
/// block.
#[derive(Debug, Default)]
pub struct BlockSum {
    digest: Digest,
}

impl BlockSum {
    /// Adds a block.
    ///
    /// # Errors
    /// The reason, if the bytes are not a valid block.
    pub fn add(&mut self, block: &Bytes) -> Result<(), &'static str> {
        let block = log::SnapshotBlock::decode(block.clone()).map_err(|_| "a block cannot be decoded")?;
        if let Some(state) = block.state {
            let (settings, key) = (snapshot::settings(&state), snapshot::digest_key(&state)?);
            Item::standing(
                state.revision,
                snapshot::progress(&state),
                &settings,
                state.cluster_version,
                key.as_ref(),
            )
            .for_each(|item| self.digest.add(item));
            for log::Tombstone { node_id, name } in &state.tombstones {
                self.digest.add(Item::tombstone(NodeId(*node_id), name));
            }
        }
        for version in &block.versions {
            self.digest.add(Item::record(&snapshot::record(version)?));
        }
        for log::SnapshotSession { id, last_applied, lowest_unanswered, answers } in block.sessions {
            self.digest.add(Item::session(id, last_applied, lowest_unanswered));
            for log::SnapshotAnswer { sequence, answer } in answers {
                let answer = answer.and_then(|answer| Answer::try_from(answer).ok());
                let answer = answer.ok_or("a block holds an unknown answer")?;
                self.digest.add(Item::answer(id, sequence, &answer));
            }
        }
        Ok(())
    }

    /// The digest of the map whose blocks were added.
    pub fn digest(self) -> u128 {
        self.digest.total([], [])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{Command, DigestKey};
    use mokv_proto::log::{Delete, SessionWrite, Set};

    fn full() -> Map {
        let mut map = Map::new();
        map.apply(1, &Command::OpenSession);
        for index in 2..200_u64 {
            let session =
                SessionWrite { session: 1, sequence: index, lowest_unanswered: index.saturating_sub(3) };
            let key = Bytes::from(format!("key/{:03}", index % 70));
            let command = match index % 9 {
                0 => Command::Delete(Delete { key, if_revision: None, session: None }),
                _ => Command::Set(Set {
                    key,
                    value: Bytes::from(vec![index as u8; index as usize * 5]),
                    if_revision: None,
                    session: (index % 2 == 0).then_some(session),
                }),
            };
            map.apply(index, &command);
        }
        map.apply(200, &Command::Tombstone { node_id: NodeId(7), name: "gone".into() });
        map.apply(201, &Command::WantedSize(3));
        map.apply(202, &Command::DigestKey(DigestKey::new([7; DigestKey::BYTES])));
        map
    }

    fn audit(map: &Map, step: u64) -> Result<(), Unsound> {
        let mut audit = map.audit();
        while audit.step(step) {}
        audit.verdict()
    }

    #[test]
    fn what_was_applied_sums_up_to_what_is_carried_along_in_whatever_steps() {
        for map in [Map::new(), full()] {
            for step in [1, 1_000, u64::MAX] {
                assert_eq!(audit(&map, step), Ok(()));
            }
            let mut sum = BlockSum::default();
            map.blocks().for_each(|block| sum.add(&block).unwrap());
            assert_eq!(sum.digest(), map.digest());
        }
    }

    #[test]
    fn a_bit_that_flips_in_a_value_shows_in_every_clone_that_shares_it() {
        let mut map = full();
        let digest = map.digest();
        assert!(map.flip_bit(b"key/014", 17));
        assert!(!map.flip_bit(b"no such key", 17));
        assert_eq!(map.digest(), digest, "no change was reported to the running sum");
        assert!(matches!(audit(&map.clone(), 500), Err(Unsound::Digest)));
        assert!(map.flip_bit(b"key/014", 17));
        assert_eq!(audit(&map, 500), Ok(()));
    }

    #[test]
    fn what_the_sums_do_not_cover_is_compared_by_itself() {
        for present in [false, true] {
            let mut map = full();
            map.history.miscount(present);
            assert!(matches!(audit(&map, 500), Err(Unsound::Bytes { .. })));
        }
        let mut map = full();
        map.sessions.misplace(1);
        assert!(matches!(audit(&map, 500), Err(Unsound::Misfit(_))));
    }
}
