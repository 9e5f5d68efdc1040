//! The whole state as a sequence of blocks, and back.
//!
//! The order of blocks is fixed: the counters and settings, the versions by ascending key and revision, the sessions by
//! ascending id. A state has exactly one sequence of blocks, however it came about. Restoring checks everything: the order,
//! block by block, and the digest, recomputed from what was read, against the one in the snapshot's header. No files here,
//! and no checksums of bytes: those are part of the storage.

use super::history::{History, Progress, Rebuild};
use super::sessions::Session;
use super::{Answer, ChangeAt, DigestKey, Map, Record};
use crate::node_id::NodeId;
use crate::replicated_settings::{Settings, age_of_seconds, seconds_of_age};
use bytes::Bytes;
use mokv_proto::log;
use prost::Message;
use std::collections::VecDeque;
use std::num::{NonZeroU32, NonZeroU64};

/// Maximum size of a block, in bytes; a block may exceed it only with a single item.
const BLOCK_BYTES: usize = 256 * 1024;

pub(super) fn blocks(map: &Map) -> impl Iterator<Item = Bytes> {
    let versions = map.history.records().map(|record| log::SnapshotVersion {
        key: Bytes::copy_from_slice(record.key()),
        value: record.shared_value(),
        create_revision: record.create_revision(),
        mod_revision: record.revision(),
        version: record.version(),
        place: record.at().place,
    });
    let sessions = map.sessions.iter().map(|(id, session)| log::SnapshotSession {
        id,
        last_applied: session.last_applied,
        lowest_unanswered: session.lowest_unanswered,
        answers: session
            .answers
            .iter()
            .map(|(sequence, answer)| log::SnapshotAnswer {
                sequence: *sequence,
                answer: Some(answer.clone().into()),
            })
            .collect(),
    });
    let state = log::SnapshotBlock { state: Some(state(map)), ..Default::default() };
    std::iter::once(state.encode_to_vec().into())
        .chain(batches(versions, |versions| log::SnapshotBlock { versions, ..Default::default() }))
        .chain(batches(sessions, |sessions| log::SnapshotBlock { sessions, ..Default::default() }))
}

fn state(map: &Map) -> log::SnapshotState {
    let Progress { floor, start, settled_until } = map.history.progress();
    let change_at = |at: ChangeAt| Some(log::ChangeAt { revision: at.revision, place: at.place });
    log::SnapshotState {
        revision: map.revision(),
        floor,
        changes_start: change_at(start),
        settled_until: change_at(settled_until),
        max_sessions: map.settings.max_sessions,
        max_store_bytes: map.settings.max_store_bytes.map_or(0, NonZeroU64::get),
        history_max_age_seconds: seconds_of_age(map.settings.history_max_age),
        history_max_bytes: map.settings.history_max_bytes.map_or(0, NonZeroU64::get),
        history_min_revisions: map.settings.history_min_revisions,
        max_transaction_changes: map.settings.max_transaction_changes,
        max_transaction_bytes: map.settings.max_transaction_bytes,
        cluster_version: map.cluster_version,
        tombstones: map
            .tombstones()
            .map(|(node_id, name)| log::Tombstone { node_id: node_id.0, name: name.to_owned() })
            .collect(),
        wanted_size: map.settings.wanted_size.map_or(0, NonZeroU32::get),
        digest_key: (map.digest_key.as_ref())
            .map_or_else(Bytes::new, |key| Bytes::copy_from_slice(key.bytes())),
    }
}

/// Puts as many items into each block as fit.
fn batches<T: Message>(
    items: impl Iterator<Item = T>,
    block: impl Fn(Vec<T>) -> log::SnapshotBlock,
) -> impl Iterator<Item = Bytes> {
    // One byte for the field and up to five for the length come before each item.
    const FRAME_BYTES: usize = 6;
    let mut items = items.peekable();
    std::iter::from_fn(move || {
        let mut batch = vec![items.next()?];
        let mut bytes = FRAME_BYTES + batch[0].encoded_len();
        while let Some(item) = items.next_if(|item| {
            bytes += FRAME_BYTES + item.encoded_len();
            bytes <= BLOCK_BYTES
        }) {
            batch.push(item);
        }
        Some(block(batch).encode_to_vec().into())
    })
}

/// A map that is being restored from its blocks.
#[derive(Debug, Default)]
pub struct Restore {
    /// Everything but the history.
    map: Map,
    blocks: u64,
    stage: Stage,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    State,
    Versions(Rebuild),
    Sessions(History),
}

/// The blocks are not those of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A block is malformed or cannot follow the previous ones.
    #[error(
        "cannot restore a snapshot: block {block} {reason}; \
         use an older snapshot or restore this node from its peers"
    )]
    Block {
        /// The block's number, from 0.
        block: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There was no block.
    #[error(
        "cannot restore a snapshot: it is empty; use an older snapshot or restore this node from its peers"
    )]
    Empty,
    /// Every block is well formed, but the content is not what was written.
    // The two digests are not shown, because they would reveal the difference in content.
    #[error(
        "cannot restore a snapshot: the digest of its content is not the one in its header; \
         use an older snapshot or restore this node from its peers"
    )]
    Digest,
}

/// The replicated settings in a state block.
pub(super) fn settings(state: &log::SnapshotState) -> Settings {
    Settings {
        max_sessions: state.max_sessions,
        max_store_bytes: NonZeroU64::new(state.max_store_bytes),
        history_max_age: age_of_seconds(state.history_max_age_seconds),
        history_max_bytes: NonZeroU64::new(state.history_max_bytes),
        history_min_revisions: state.history_min_revisions,
        max_transaction_changes: state.max_transaction_changes,
        max_transaction_bytes: state.max_transaction_bytes,
        wanted_size: NonZeroU32::new(state.wanted_size),
    }
}

/// How far compaction has come, in a state block.
pub(super) fn progress(state: &log::SnapshotState) -> Progress {
    let change_at = |at: Option<log::ChangeAt>| {
        let log::ChangeAt { revision, place } = at.unwrap_or_default();
        ChangeAt { revision, place }
    };
    let (start, settled_until) = (change_at(state.changes_start), change_at(state.settled_until));
    Progress { floor: state.floor, start, settled_until }
}

/// The version in a block.
///
/// # Errors
/// The reason why no history has it.
pub(super) fn record(version: &log::SnapshotVersion) -> Result<Record, &'static str> {
    let log::SnapshotVersion { key, value, create_revision, mod_revision, version, place } = version;
    let at = ChangeAt { revision: *mod_revision, place: *place };
    check(at.revision > Map::FIRST_REVISION, "holds an impossible revision")?;
    check(!key.is_empty(), "holds an empty key")?;
    check(*version < u64::MAX, "holds an impossible version")?;
    if *version == 0 {
        check(value.is_empty() && *create_revision == 0, "holds a deletion with a value")?;
        return Ok(Record::deletion(key, at));
    }
    check(*create_revision > Map::FIRST_REVISION, "holds an impossible revision")?;
    check(create_revision <= mod_revision, "holds an impossible revision")?;
    Ok(Record::written(key, value, at, *create_revision, *version))
}

/// The key of the displayed digests; `None` if the state block holds none.
pub(super) fn digest_key(state: &log::SnapshotState) -> Result<Option<DigestKey>, &'static str> {
    match state.digest_key.as_ref() {
        [] => Ok(None),
        key => Ok(Some(DigestKey::new(key.try_into().map_err(|_| "holds a digest key of another length")?))),
    }
}

impl Restore {
    /// A restore without any block yet.
    pub fn new() -> Restore {
        Restore::default()
    }

    /// Takes the next block.
    ///
    /// # Errors
    /// [`RestoreError::Block`] if it is malformed or out of order. The restore is unusable after that.
    pub fn add_block(&mut self, block: &Bytes) -> Result<(), RestoreError> {
        let added = self.add(block);
        added.map_err(|reason| RestoreError::Block { block: self.blocks, reason })?;
        self.blocks += 1;
        Ok(())
    }

    /// The restored map; to be called after the last block.
    ///
    /// # Errors
    /// [`RestoreError`] if blocks are missing or are not those of the map with this digest.
    pub fn finish(mut self, expected: u128) -> Result<Map, RestoreError> {
        self.map.history = match self.stage {
            Stage::State => return Err(RestoreError::Empty),
            Stage::Versions(rebuild) => rebuild.finish(),
            Stage::Sessions(history) => history,
        };
        if self.map.digest() != expected {
            return Err(RestoreError::Digest);
        }
        Ok(self.map)
    }

    fn add(&mut self, block: &Bytes) -> Result<(), &'static str> {
        // Values share the block's memory until they are copied into their records.
        let block = log::SnapshotBlock::decode(block.clone()).map_err(|_| "cannot be decoded")?;
        match (block.state, block.versions.is_empty(), block.sessions.is_empty()) {
            (Some(state), true, true) => self.add_state(state),
            (None, false, true) => block.versions.iter().try_for_each(|version| self.add_version(version)),
            (None, true, false) => {
                block.sessions.into_iter().try_for_each(|session| self.add_session(session))
            }
            _ => Err("does not hold one kind of content"),
        }
    }

    fn add_state(&mut self, state: log::SnapshotState) -> Result<(), &'static str> {
        check(matches!(self.stage, Stage::State), "holds the state a second time")?;
        check(state.max_sessions > 0, "allows no sessions")?;
        check(state.revision >= Map::FIRST_REVISION, "holds a revision below the first")?;
        self.stage = Stage::Versions(Rebuild::new(state.revision, progress(&state))?);
        self.map.settings = settings(&state);
        self.map.cluster_version = state.cluster_version;
        self.map.digest_key = digest_key(&state)?;
        let mut last = None;
        for log::Tombstone { node_id, name } in state.tombstones {
            check(last < Some(node_id), "holds tombstones out of order")?;
            last = Some(node_id);
            self.map.tombstone(NodeId(node_id), &name);
        }
        Ok(())
    }

    fn add_version(&mut self, version: &log::SnapshotVersion) -> Result<(), &'static str> {
        match &mut self.stage {
            Stage::Versions(rebuild) => rebuild.add(record(version)?),
            Stage::State | Stage::Sessions(_) => Err("holds versions of keys out of place"),
        }
    }

    fn add_session(&mut self, session: log::SnapshotSession) -> Result<(), &'static str> {
        self.stage = match std::mem::take(&mut self.stage) {
            Stage::State => return Err("holds sessions out of place"),
            Stage::Versions(rebuild) => Stage::Sessions(rebuild.finish()),
            Stage::Sessions(history) => Stage::Sessions(history),
        };
        let log::SnapshotSession { id, last_applied, lowest_unanswered, answers } = session;
        let last = self.map.sessions.last_id();
        check(last < Some(id), "holds sessions out of order")?;
        check(id <= last_applied, "holds a session used before it was opened")?;
        check(self.map.sessions() < self.map.settings.max_sessions, "holds too many sessions")?;
        let mut session = Session { last_applied, lowest_unanswered, answers: VecDeque::new() };
        for log::SnapshotAnswer { sequence, answer } in answers {
            let last = session.answers.back().map(|(sequence, _)| *sequence);
            check(last < Some(sequence), "holds answers out of order")?;
            check(session.window_contains(sequence), "holds an answer outside of its window")?;
            let answer = answer.and_then(|answer| Answer::try_from(answer).ok());
            session.answers.push_back((sequence, answer.ok_or("holds an unknown answer")?));
        }
        check(self.map.sessions.insert(id, session), "holds two sessions of one last use")
    }
}

fn check(holds: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(otherwise) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Command;
    use crate::replicated_settings::SettingsChange;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn set(key: &str, value_bytes: usize, session: Option<log::SessionWrite>) -> Command {
        Command::Set(log::Set {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: vec![b'v'; value_bytes].into(),
            if_revision: None,
            session,
        })
    }

    /// Values of several blocks, sessions of two, and at least one of every other item.
    fn large_map() -> Map {
        let mut map = Map::new();
        let mut index = 0;
        let mut apply = |command| {
            index += 1;
            map.apply(index, &command);
            index
        };
        for number in 0..10 {
            apply(set(&format!("key-{number}"), 100_000, None));
        }
        apply(set("larger than a block", BLOCK_BYTES, None));
        apply(Command::Tombstone { node_id: NodeId(3), name: "node-a".into() });
        apply(Command::Tombstone { node_id: NodeId(5), name: "node-b".into() });
        apply(Command::Configure(
            SettingsChange::none().max_sessions(30).max_store_bytes(NonZeroU64::new(1 << 30)),
        ));
        apply(Command::WantedSize(3));
        apply(Command::DigestKey(DigestKey::new([7; DigestKey::BYTES])));
        for _ in 0..22 {
            let session = apply(Command::OpenSession);
            for sequence in 1..=1024 {
                apply(set("key-0", 9, Some(log::SessionWrite { session, sequence, lowest_unanswered: 1 })));
            }
        }
        map
    }

    fn small_map() -> Map {
        let mut map = Map::new();
        map.apply(1, &Command::OpenSession);
        map.apply(2, &set("a", 3, Some(log::SessionWrite { session: 1, sequence: 1, lowest_unanswered: 1 })));
        map.apply(3, &set("b", 0, None));
        map.apply(4, &Command::Tombstone { node_id: NodeId(9), name: "gone".into() });
        map.apply(5, &Command::DigestKey(DigestKey::new([7; DigestKey::BYTES])));
        map
    }

    fn restore<'a>(blocks: impl IntoIterator<Item = &'a Bytes>, digest: u128) -> Result<Map, RestoreError> {
        let mut restore = Restore::new();
        for block in blocks {
            restore.add_block(block)?;
        }
        restore.finish(digest)
    }

    #[test]
    fn blocks_are_bounded_and_a_larger_value_stands_alone() {
        let blocks: Vec<Bytes> = large_map().blocks().collect();
        let large: Vec<&Bytes> = blocks.iter().filter(|block| block.len() > BLOCK_BYTES).collect();
        assert_eq!(large.len(), 1);
        assert_eq!(log::SnapshotBlock::decode(large[0].as_ref()).unwrap().versions.len(), 1);
        assert_eq!(
            blocks.len(),
            1 + 8 + 1 + 2,
            "state, large values and the history of a small one, the largest, sessions"
        );
    }

    #[test]
    fn sessions_take_no_more_than_is_said() {
        let map = large_map();
        let blocks = map.blocks().map(|block| log::SnapshotBlock::decode(block).unwrap());
        let sessions: usize =
            blocks.flat_map(|block| block.sessions).map(|session| session.encoded_len()).sum();
        assert!((sessions as u64..8 * sessions as u64).contains(&map.session_bytes()), "{sessions}");
    }

    #[test]
    fn an_empty_map_is_restored_from_its_state_alone() {
        let map = Map::new();
        let blocks: Vec<Bytes> = map.blocks().collect();
        assert_eq!(blocks.len(), 1);
        assert_eq!(restore(&blocks, map.digest()), Ok(map));
    }

    #[test]
    fn blocks_missing_doubled_or_out_of_order_are_refused() {
        let map = large_map();
        let (blocks, digest) = (map.blocks().collect::<Vec<_>>(), map.digest());
        assert_eq!(restore(&blocks, digest), Ok(map));
        assert_eq!(restore([], digest), Err(RestoreError::Empty));
        for at in 0..blocks.len() {
            let mut missing = blocks.clone();
            missing.remove(at);
            assert!(restore(&missing, digest).is_err(), "without block {at}");

            let mut doubled = blocks.clone();
            doubled.insert(at, blocks[at].clone());
            let refused = restore(&doubled, digest);
            assert!(
                matches!(refused, Err(RestoreError::Block { block, .. }) if block == at as u64 + 1),
                "block {at} twice: {refused:?}"
            );

            for other in 0..at {
                let mut swapped = blocks.clone();
                swapped.swap(at, other);
                let refused = restore(&swapped, digest);
                assert!(matches!(refused, Err(RestoreError::Block { .. })), "{other} and {at}: {refused:?}");
            }
        }
    }

    #[test]
    fn a_block_of_two_kinds_or_of_none_is_refused() {
        let [state, entries, ..] = &small_map().blocks().collect::<Vec<_>>()[..] else {
            panic!("two blocks")
        };
        let both = Bytes::from([state.as_ref(), entries.as_ref()].concat());
        for block in [both, Bytes::new()] {
            let refused = Restore::new().add_block(&block);
            assert!(matches!(refused, Err(RestoreError::Block { block: 0, .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_snapshot_of_another_state_is_refused_by_its_digest() {
        let (ours, mut theirs) = (small_map(), small_map());
        theirs.apply(6, &Command::ClusterVersion(2));
        let blocks: Vec<Bytes> = theirs.blocks().collect();
        assert_eq!(restore(&blocks, ours.digest()), Err(RestoreError::Digest));
    }

    #[test]
    fn a_digest_key_of_another_length_is_refused() {
        for bytes in [1, 31, 33] {
            let state = log::SnapshotState {
                revision: 1,
                floor: 1,
                max_sessions: 1,
                digest_key: vec![7; bytes].into(),
                ..log::SnapshotState::default()
            };
            let block = log::SnapshotBlock { state: Some(state), ..Default::default() }.encode_to_vec();
            let refused = Restore::new().add_block(&block.into());
            let reason = "holds a digest key of another length";
            assert_eq!(refused, Err(RestoreError::Block { block: 0, reason }), "{bytes} bytes");
        }
    }

    #[test]
    fn versions_that_no_history_has_are_refused() {
        let state = log::SnapshotState {
            revision: 9,
            floor: 5,
            max_sessions: 1,
            changes_start: Some(log::ChangeAt { revision: 5, place: 0 }),
            settled_until: Some(log::ChangeAt { revision: 6, place: 0 }),
            ..log::SnapshotState::default()
        };
        let version = log::SnapshotVersion {
            key: "k".into(),
            create_revision: 4,
            mod_revision: 7,
            version: 2,
            ..log::SnapshotVersion::default()
        };
        let restore = |state: &log::SnapshotState, version: log::SnapshotVersion| {
            let mut restore = Restore::new();
            let block = log::SnapshotBlock { state: Some(state.clone()), ..Default::default() };
            restore.add_block(&block.encode_to_vec().into())?;
            let block = log::SnapshotBlock { versions: vec![version], ..Default::default() };
            restore.add_block(&block.encode_to_vec().into())
        };
        assert_eq!(restore(&state, version.clone()), Ok(()));
        let deletion = log::SnapshotVersion { create_revision: 0, version: 0, ..version.clone() };
        assert_eq!(restore(&state, deletion.clone()), Ok(()));
        let wrong = [
            log::SnapshotVersion { key: Bytes::new(), ..version.clone() },
            log::SnapshotVersion { create_revision: 8, ..version.clone() },
            log::SnapshotVersion { mod_revision: 10, ..version.clone() },
            log::SnapshotVersion { version: u64::MAX, ..version.clone() },
            log::SnapshotVersion { value: "v".into(), ..deletion.clone() },
            log::SnapshotVersion { mod_revision: 4, ..deletion },
        ];
        for version in wrong {
            let refused = restore(&state, version.clone());
            assert!(matches!(refused, Err(RestoreError::Block { block: 1, .. })), "{version:?}: {refused:?}");
        }
        let last = log::SnapshotState { revision: u64::MAX, ..state.clone() };
        let ahead = log::SnapshotState { floor: 10, ..state };
        for state in [last, ahead] {
            let refused = restore(&state, version.clone());
            assert!(matches!(refused, Err(RestoreError::Block { block: 0, .. })), "{state:?}: {refused:?}");
        }
    }

    proptest! {
        #[test]
        fn a_truncated_block_is_refused(block in 0..3usize, cut in any::<prop::sample::Index>()) {
            let map = small_map();
            let mut blocks: Vec<Bytes> = map.blocks().collect();
            let length = cut.index(blocks[block].len());
            blocks[block].truncate(length);
            prop_assert!(restore(&blocks, map.digest()).is_err());
        }

        // A bit flip that changes nothing (in a field that is not read) may pass; one that makes another map never
        // does.
        #[test]
        fn an_altered_block_never_makes_another_map(
            block in 0..3usize,
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let map = small_map();
            let mut blocks: Vec<Bytes> = map.blocks().collect();
            let mut bytes = blocks[block].to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            blocks[block] = bytes.into();
            if let Ok(restored) = restore(&blocks, map.digest()) {
                prop_assert_eq!(restored, map);
            }
        }

        #[test]
        fn garbage_is_refused_without_a_panic(blocks in vec(vec(any::<u8>(), 0..60), 0..4)) {
            let blocks: Vec<Bytes> = blocks.into_iter().map(Bytes::from).collect();
            prop_assert!(restore(&blocks, 0).is_err());
        }
    }
}
