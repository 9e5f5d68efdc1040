//! Recovery: reads the log from disk at a start and makes all of it durable.
//!
//! Reading tolerates nothing but the torn end of the last segment. Afterwards nothing is left that exists only in the
//! page cache: Raft would count a record that is readable but not durable, and it could still be lost.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::config::LogConfig;
use super::error::StorageError;
use super::index::EntryIndex;
use super::record::{Body, Checkpoint, State};
use super::segment::{self, Contents};
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
    for name in names.iter().filter(|name| segment::is_stateless(name)) {
        disk.remove(name).await.map_err(StorageError::io("remove", name))?;
    }
    let numbers: Vec<u64> = names.iter().filter_map(|name| segment::live_number(name)).collect();
    if let Some(gap) = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        let file = segment::live_name(gap[0] + 1);
        return Err(StorageError::Missing { file, reason: "earlier and later segments are there" });
    }

    let mut replay = Replay::new(config, owner);
    let mut last = None;
    for &number in &numbers {
        let name = segment::live_name(number);
        let file = disk.open(&name).await.map_err(StorageError::io("open", &name))?;
        let bytes = read_all(&file, &name).await?;
        let contents = replay.segment(number, &bytes)?;
        if Some(&number) == numbers.last() {
            contents.refuse_damage_before_valid_records(number, &bytes)?;
            let dropped = bytes[contents.end as usize..].iter().filter(|byte| **byte != 0).count();
            if dropped > 0 {
                rt::sometimes("torn tail recovered");
                tracing::info!(file = name, offset = contents.end, "dropped the torn end of the log");
            }
            last = Some((number, bytes.slice(..contents.end as usize)));
        }
        replay.segments.insert(number, (file, contents.checkpoint.salt));
    }
    if !replay.index.is_whole() {
        let file = segment::live_name(numbers[0] - 1);
        return Err(StorageError::Missing { file, reason: "it holds entries that were not purged" });
    }
    if let Some((number, content)) = last {
        make_durable(disk, config, &mut replay, number, content).await?;
    }
    Ok(replay.finish())
}

async fn read_all(file: &FileRef, name: &str) -> Result<Bytes, StorageError> {
    let length = file.len().await.map_err(StorageError::io("look at", name))?;
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(u32::MAX as usize);
    file.read_at(0, length).await.map_err(StorageError::io("read", name))
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
    last: u64,
    content: Bytes,
) -> Result<(), StorageError> {
    for (number, (file, _)) in replay.segments.range(..last) {
        file.sync().await.map_err(StorageError::io("sync", segment::live_name(*number)))?;
    }
    let (copy, live) = (segment::copy_name(last), segment::live_name(last));
    let capacity = config.segment_bytes.max(content.len() as u64);
    let file = disk.create(&copy).await.map_err(StorageError::io("create", &copy))?;
    if let Err(error) = fill(&file, &copy, content, capacity).await {
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

/// Durably writes a segment of this capacity.
async fn fill(file: &FileRef, name: &str, content: Bytes, capacity: u64) -> Result<(), StorageError> {
    file.preallocate(capacity).await.map_err(StorageError::io("preallocate", name))?;
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

    fn segment(&mut self, number: u64, bytes: &Bytes) -> Result<Contents, StorageError> {
        let corrupt =
            |offset, reason| StorageError::Corrupt { file: segment::live_name(number), offset, reason };
        let contents = Contents::parse(number, bytes)?;
        self.check_owner(number, &contents.checkpoint)?;
        if self.segments.is_empty() {
            self.state = contents.checkpoint.state.clone();
            self.index =
                EntryIndex::new(self.state.purged, self.state.last, self.run_bytes, self.cache_bytes);
        } else {
            // Batches before a rotation were durable before it, so none of their records may be missing.
            if contents.first_sequence != self.tail.next_sequence {
                let file = segment::live_name(number - 1);
                let reason = "batches are missing that were durable before the next segment began";
                return Err(StorageError::Corrupt { file, offset: self.tail.end, reason });
            }
            if contents.checkpoint.state != self.state {
                return Err(corrupt(0, "its checkpoint contradicts the segments before it"));
            }
            let highest = self.tail.highest;
            self.tail.sealed.push(Sealed { number: number - 1, highest });
        }
        self.tail.number = number;
        self.tail.salt = contents.checkpoint.salt;
        self.tail.end = contents.end;
        self.tail.next_sequence = contents.next_sequence;
        self.tail.highest = None;
        for placed in &contents.records {
            self.record(number, placed.offset, &placed.body)
                .map_err(|reason| corrupt(placed.offset, reason))?;
        }
        Ok(contents)
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

    fn finish(mut self) -> Recovered {
        self.tail.state = self.state;
        self.index.detach();
        Recovered { index: self.index, segments: self.segments, tail: self.tail }
    }
}
