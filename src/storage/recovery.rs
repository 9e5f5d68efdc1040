//! Recovery: reads the log from disk at a start and makes all of it durable.
//!
//! Reading tolerates nothing but the torn end of the last segment. Afterwards nothing is left that exists only in the
//! page cache: Raft would count a record that is readable but not durable, and it could still be lost.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::config::LogConfig;
use super::error::StorageError;
use super::index::EntryIndex;
use super::pieces::{PIECE_BYTES, Pieces};
use super::record::{Body, Checkpoint, State};
use super::segment::{self, Batches};
use super::shared::Spare;
use super::writer::{Sealed, Tail};
use super::{LogEntry, Owner};
use crate::rt;
use crate::rt::disk::{DiskRef, FileRef};

/// Bytes written at a time when a segment is copied.
const STEP_BYTES: usize = 1 << 20;

/// The recovered log.
pub(super) struct Recovered {
    pub index: EntryIndex,
    /// Segments open for reading, each with the salt of its checksums.
    pub segments: BTreeMap<u64, (FileRef, u64)>,
    /// Segments that an earlier process prepared.
    pub spares: VecDeque<Spare>,
    pub tail: Tail,
}

/// Reads the log of `owner` and makes all of it durable.
///
/// # Errors
/// If acknowledged data may be missing or damaged, if the log is not `owner`'s, or if the disk fails.
pub(super) async fn recover(
    disk: &DiskRef,
    config: &LogConfig,
    owner: Owner,
) -> Result<Recovered, StorageError> {
    let names = disk.list().await.map_err(StorageError::io("list", "."))?;
    let numbers: Vec<u64> = names.iter().filter_map(|name| segment::live_number(name)).collect();
    if let Some(gap) = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        let file = segment::live_name(gap[0] + 1);
        return Err(StorageError::Missing { file, reason: "earlier and later segments are there" });
    }

    let mut spares = keep_spares(disk, config, &names).await?;
    let mut replay = Replay::new(config, owner);
    let mut last = None;
    for &number in &numbers {
        let name = segment::live_name(number);
        let file = disk.open(&name).await.map_err(StorageError::io("open", &name))?;
        // What is written again is what was checked, so the last segment stays in memory.
        let is_last = Some(&number) == numbers.last();
        let pieces = match is_last {
            true => Pieces::whole(file.clone(), number).await?,
            false => Pieces::new(file.clone(), number, PIECE_BYTES, None),
        };
        let batches = replay.segment(pieces).await?;
        if is_last {
            batches.refuse_damage_before_valid_records()?;
            let (content, end) = (batches.bytes(), batches.end as usize);
            if content[end..].iter().any(|byte| *byte != 0) {
                rt::sometimes("torn tail recovered");
                tracing::info!(file = name, offset = end, "dropped the torn end of the log");
            }
            last = Some((number, content.slice(..end)));
        }
        replay.segments.insert(number, (file, batches.checkpoint.salt));
    }
    if !replay.index.is_whole() {
        let file = segment::live_name(numbers[0] - 1);
        return Err(StorageError::Missing { file, reason: "it holds entries that were not purged" });
    }
    if let Some((number, content)) = last {
        make_durable(disk, config, &mut replay, &mut spares, number, content).await?;
    }
    Ok(replay.finish(spares))
}

/// Keeps the spares that an earlier process prepared: their blocks are allocated, and what they contain does not matter.
/// Other files without state are removed, and where space is short, all of them.
async fn keep_spares(
    disk: &DiskRef,
    config: &LogConfig,
    names: &[String],
) -> Result<VecDeque<Spare>, StorageError> {
    let free = disk.free_bytes().await.map_err(StorageError::io("look for free space in", "."))?;
    let has_room = free >= config.segment_bytes + config.reserve_bytes;
    let mut spares = VecDeque::new();
    for name in names.iter().filter(|name| segment::is_stateless(name)) {
        if has_room && segment::spare_number(name).is_some() {
            let file = disk.open(name).await.map_err(StorageError::io("open", name))?;
            let capacity = file.len().await.map_err(StorageError::io("look at", name))?;
            // One that is shorter was not finished.
            if capacity == config.segment_bytes {
                spares.push_back(Spare { name: name.clone(), file, capacity });
                continue;
            }
        }
        disk.remove(name).await.map_err(StorageError::io("remove", name))?;
    }
    Ok(spares)
}

/// Makes everything durable, so that recovery relies on nothing that was not synced.
///
/// The page cache may hold records that no sync covered (after a kill), or pages that look clean and were never written
/// (after a failed sync). All batches but the last were durable before the next one was begun, so only the end is in
/// doubt: the last segment is rewritten into another file, which gets its name once it is durable. A process thus
/// appends only to files that it wrote itself, and the torn end is removed as well.
async fn make_durable(
    disk: &DiskRef,
    config: &LogConfig,
    replay: &mut Replay,
    spares: &mut VecDeque<Spare>,
    last: u64,
    content: Bytes,
) -> Result<(), StorageError> {
    for (number, (file, _)) in replay.segments.range(..last) {
        file.sync().await.map_err(StorageError::io("sync", segment::live_name(*number)))?;
    }
    let (copy, live) = (segment::copy_name(last), segment::live_name(last));
    let capacity = config.segment_bytes.max(content.len() as u64);
    let spare = if capacity == config.segment_bytes { spares.pop_front() } else { None };
    let file = match &spare {
        Some(spare) => {
            // Another start must never take the copy for a spare: beyond what that start writes, batches of the same segment
            // would follow that its log has lost.
            disk.rename(&spare.name, &copy).await.map_err(StorageError::io("rename", &spare.name))?;
            disk.sync_dir().await.map_err(StorageError::io("sync", "."))?;
            spare.file.clone()
        }
        None => disk.create(&copy).await.map_err(StorageError::io("create", &copy))?,
    };
    let to_prepare = spare.is_none().then_some(capacity);
    if let Err(error) = fill(&file, &copy, content, to_prepare).await {
        // On a disk too full for the copy, its beginning would take the last space; otherwise it would stay until the
        // next start.
        let _ = disk.remove(&copy).await;
        return Err(error);
    }
    disk.rename(&copy, &live).await.map_err(StorageError::io("rename", &copy))?;
    disk.sync_dir().await.map_err(StorageError::io("sync", "."))?;

    replay.tail.capacity = capacity;
    let salt = replay.segments[&last].1;
    replay.segments.insert(last, (file, salt));
    Ok(())
}

/// Durably writes a segment, of which so many bytes are prepared first.
async fn fill(
    file: &FileRef,
    name: &str,
    content: Bytes,
    to_prepare: Option<u64>,
) -> Result<(), StorageError> {
    if let Some(capacity) = to_prepare {
        file.preallocate(capacity).await.map_err(StorageError::io("preallocate", name))?;
    }
    for (step, chunk) in content.chunks(STEP_BYTES).enumerate() {
        let offset = (step * STEP_BYTES) as u64;
        let chunk = content.slice_ref(chunk);
        file.write_at(offset, chunk).await.map_err(StorageError::io("write", name))?;
    }
    file.sync().await.map_err(StorageError::io("sync", name))
}

/// Applies the records of all segments in order.
struct Replay {
    owner: Owner,
    run_bytes: u64,
    cache_bytes: u64,
    state: State,
    index: EntryIndex,
    segments: BTreeMap<u64, (FileRef, u64)>,
    tail: Tail,
}

impl Replay {
    fn new(config: &LogConfig, owner: Owner) -> Replay {
        Replay {
            owner,
            run_bytes: config.run_bytes(),
            cache_bytes: config.cache_bytes,
            state: State::default(),
            index: EntryIndex::new(None, None, config.run_bytes(), config.cache_bytes),
            segments: BTreeMap::new(),
            tail: Tail::default(),
        }
    }

    /// Applies the records of the next segment.
    async fn segment(&mut self, pieces: Pieces) -> Result<Batches, StorageError> {
        let number = pieces.number();
        let corrupt =
            |offset, reason| StorageError::Corrupt { file: segment::live_name(number), offset, reason };
        let mut batches = Batches::open(pieces).await?;
        self.check_owner(number, &batches.checkpoint)?;
        if self.segments.is_empty() {
            self.state = batches.checkpoint.state.clone();
            self.index =
                EntryIndex::new(self.state.purged, self.state.last, self.run_bytes, self.cache_bytes);
        } else {
            // Batches before a rotation were durable before it, so none of their records may be missing.
            if batches.first_sequence != self.tail.next_sequence {
                let file = segment::live_name(number - 1);
                let reason = "batches are missing that were durable before the next segment began";
                return Err(StorageError::Corrupt { file, offset: self.tail.end, reason });
            }
            if batches.checkpoint.state != self.state {
                return Err(corrupt(0, "its checkpoint contradicts the segments before it"));
            }
            let highest = self.tail.highest;
            self.tail.sealed.push(Sealed { number: number - 1, highest });
        }
        self.tail.highest = None;
        loop {
            for placed in batches.batch() {
                let applied = self.record(number, placed.offset, &placed.body);
                applied.map_err(|reason| corrupt(placed.offset, reason))?;
            }
            if !batches.advance().await? {
                break;
            }
        }
        self.tail.number = number;
        self.tail.salt = batches.checkpoint.salt;
        self.tail.end = batches.end;
        self.tail.next_sequence = batches.next_sequence;
        Ok(batches)
    }

    fn check_owner(&self, number: u64, checkpoint: &Checkpoint) -> Result<(), StorageError> {
        let hexadecimal = |id: [u8; 16]| format!("{:032x}", u128::from_be_bytes(id));
        if checkpoint.owner == self.owner {
            return Ok(());
        }
        Err(StorageError::Foreign {
            file: segment::live_name(number),
            found_node: checkpoint.owner.node_id,
            found_cluster: hexadecimal(checkpoint.owner.cluster_id),
            node: self.owner.node_id,
            cluster: hexadecimal(self.owner.cluster_id),
        })
    }

    fn record(&mut self, segment: u64, offset: u64, body: &Body) -> Result<(), &'static str> {
        match body {
            Body::Checkpoint(_) => return Err("a checkpoint in the middle"),
            Body::LogEntry { term, index, payload } => {
                if !self.index.continues_at(*index) {
                    return Err("an entry leaves a hole");
                }
                let entry = LogEntry { term: *term, index: *index, payload: payload.clone() };
                let offset = u32::try_from(offset).map_err(|_| "a segment is too long")?;
                self.index.recovered(&entry, segment, offset);
                self.tail.highest = self.tail.highest.max(Some(*index));
            }
            Body::Truncate(last) => self.index.truncate_after(*last),
            Body::Purge(upto) => drop(self.index.purge(*upto)),
            Body::Vote(_) | Body::Committed(_) | Body::Acknowledged(_) | Body::Mark => {}
        }
        self.state.apply(body);
        if self.state.last != self.index.last() {
            return Err("a record contradicts the entries before it");
        }
        Ok(())
    }

    fn finish(mut self, spares: VecDeque<Spare>) -> Recovered {
        self.tail.state = self.state;
        self.index.detach();
        Recovered { index: self.index, segments: self.segments, spares, tail: self.tail }
    }
}
