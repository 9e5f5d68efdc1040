//! The files of the log: their names and contents.
//!
//! A file with a live name begins with a durable checkpoint and a complete first batch: it got its name only after both
//! were synced. Any other file of the log was being prepared and holds no state.

use bytes::Bytes;

use super::error::StorageError;
use super::pieces::Pieces;
use super::record::{self, Body, Checkpoint, Nonsense, Place, Record, Seed};
use crate::rt::disk::FileRef;

/// Name of segment `number` when it holds state.
pub(super) fn live_name(number: u64) -> String {
    format!("log-{number:016x}.wal")
}

/// Name of a file that is being prepared.
pub(super) fn spare_name(number: u64) -> String {
    format!("log-spare-{number:016x}.tmp")
}

/// Name of recovery's copy of the last segment.
pub(super) fn copy_name(number: u64) -> String {
    format!("log-copy-{number:016x}.tmp")
}

/// The segment number in a live name; `None` for any other name.
pub(super) fn live_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?.strip_suffix(".wal")?;
    u64::from_str_radix(digits, 16).ok().filter(|number| live_name(*number) == name)
}

/// The number in the name of a spare; `None` for any other name.
pub(super) fn spare_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-spare-")?.strip_suffix(".tmp")?;
    u64::from_str_radix(digits, 16).ok().filter(|number| spare_name(*number) == name)
}

/// Whether a file of this name was being prepared and holds no state.
pub(super) fn is_stateless(name: &str) -> bool {
    (name.starts_with("log-spare-") || name.starts_with("log-copy-")) && name.ends_with(".tmp")
}

/// A record of a segment and its offset.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub offset: u64,
    pub body: Body,
}

/// A segment that is read from its beginning, batch by batch, up to the first incomplete one.
pub(super) struct Batches {
    pieces: Pieces,
    /// Its first record.
    pub checkpoint: Box<Checkpoint>,
    /// Sequence number of the checkpoint.
    pub first_sequence: u64,
    /// Sequence number of the record after the last batch that was read.
    pub next_sequence: u64,
    /// Offset of the end of that batch.
    pub end: u64,
    batch: Vec<Placed>,
}

impl Batches {
    /// Reads the first batch.
    ///
    /// # Errors
    /// If the segment does not begin with a checkpoint and a complete batch, or holds what no version ever wrote.
    pub async fn open(mut pieces: Pieces) -> Result<Batches, StorageError> {
        let first = pieces.record(0, 0).await?;
        let first = first.ok_or_else(|| pieces.corrupt(0, "its checkpoint is damaged"))?;
        let sequence = first.place.sequence;
        let Body::Checkpoint(checkpoint) = parse_body(pieces.number(), 0, first)? else {
            return Err(pieces.corrupt(0, "it does not begin with a checkpoint"));
        };
        if checkpoint.segment != pieces.number() {
            return Err(pieces.corrupt(0, "it is another segment under this name"));
        }
        let mut batches = Batches {
            pieces,
            checkpoint,
            first_sequence: sequence,
            next_sequence: sequence,
            end: 0,
            batch: Vec::new(),
        };
        if !batches.advance().await? {
            return Err(batches.pieces.corrupt(0, "its first batch is damaged"));
        }
        batches.batch.remove(0);
        Ok(batches)
    }

    /// The records of the batch that was read last, except the checkpoint.
    pub fn batch(&self) -> &[Placed] {
        &self.batch
    }

    /// Reads the next batch; `false` if there is no complete one.
    ///
    /// # Errors
    /// If it holds what no version ever wrote, or the disk fails.
    pub async fn advance(&mut self) -> Result<bool, StorageError> {
        self.batch.clear();
        let (mut offset, mut sequence) = (self.end, self.next_sequence);
        while let Some(record) = self.pieces.record(offset, self.checkpoint.salt).await? {
            let Place { sequence: found, in_batch, last_of_batch } = record.place;
            if found != sequence || in_batch as usize != self.batch.len() {
                break;
            }
            let next = offset + record.size as u64;
            self.batch.push(Placed { offset, body: parse_body(self.pieces.number(), offset, record)? });
            offset = next;
            sequence += 1;
            if last_of_batch {
                (self.end, self.next_sequence) = (offset, sequence);
                return Ok(true);
            }
        }
        self.batch.clear();
        Ok(false)
    }

    /// All bytes of a segment that is read at once.
    pub fn bytes(&self) -> &Bytes {
        self.pieces.last_read()
    }

    /// No byte of a batch is written before the previous batch is durable. So a record of a *later* batch after the
    /// first damaged one proves that the damaged one had been durable: it is corrupt, not torn. To be called after the
    /// last batch of a segment that is read at once.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] in that case.
    pub fn refuse_damage_before_valid_records(&self) -> Result<(), StorageError> {
        let (bytes, number) = (self.bytes(), self.pieces.number());
        let seed = Seed { segment: number, salt: self.checkpoint.salt };
        let mut offset = self.end as usize;
        while offset + record::HEADER_BYTES <= bytes.len() {
            if let Some(record) = record::decode_from(bytes, offset, seed, self.next_sequence)
                && record.place.batch() > self.next_sequence
            {
                return Err(self
                    .pieces
                    .corrupt(self.end, "a damaged batch lies before a later one, so it had been durable"));
            }
            offset += record::ALIGNMENT;
        }
        Ok(())
    }
}

/// Where the last complete batch of a segment ends.
///
/// # Errors
/// If the segment is damaged, or the disk fails.
pub(super) async fn sound_end(file: FileRef, number: u64) -> Result<u64, StorageError> {
    let mut batches = Batches::open(Pieces::whole(file, number).await?).await?;
    while batches.advance().await? {}
    batches.refuse_damage_before_valid_records()?;
    Ok(batches.end)
}

fn parse_body(number: u64, offset: u64, record: Record) -> Result<Body, StorageError> {
    record.parse().map_err(|nonsense| match nonsense {
        Nonsense::Malformed => StorageError::Corrupt {
            file: live_name(number),
            offset,
            reason: "a record cannot be decoded although its checksum matches",
        },
        Nonsense::Version(found) => {
            StorageError::Version { file: live_name(number), found, known: record::FORMAT_VERSION }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_id::NodeId;
    use crate::rt::disk::SimDisk;
    use crate::storage::record::{State, encode};
    use crate::storage::{Owner, Position};
    use bytes::BytesMut;

    const NUMBER: u64 = 3;

    /// A segment with one batch of a checkpoint and a vote, then one batch for each given number of entries.
    fn segment(batches: &[usize]) -> (BytesMut, Vec<usize>) {
        let mut buffer = BytesMut::new();
        let mut ends = Vec::new();
        let mut sequence = 40;
        let checkpoint = Body::Checkpoint(Box::new(Checkpoint {
            segment: NUMBER,
            salt: 5,
            owner: Owner { node_id: NodeId(1), cluster_id: [2; 16] },
            state: State { last: Some(Position { term: 1, index: 9 }), ..State::default() },
        }));
        let mut index = 9;
        let mut put = |bodies: Vec<Body>| {
            for (place, body) in bodies.iter().enumerate() {
                let place =
                    Place { sequence, in_batch: place as u32, last_of_batch: place + 1 == bodies.len() };
                encode(&mut buffer, Seed { segment: NUMBER, salt: 5 }, place, body);
                sequence += 1;
            }
            ends.push(buffer.len());
        };
        put(vec![checkpoint, Body::Vote(Bytes::from_static(b"vote"))]);
        for count in batches {
            let entries = (0..*count).map(|_| {
                index += 1;
                Body::LogEntry { term: 1, index, payload: Bytes::from_static(b"some payload") }
            });
            put(entries.collect());
        }
        buffer.resize(buffer.len() + 256, 0);
        (buffer, ends)
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!(live_number(&live_name(0x1234)), Some(0x1234));
        assert_eq!(spare_number(&spare_name(0x1234)), Some(0x1234));
        assert!(is_stateless(&spare_name(1)) && is_stateless(&copy_name(1)));
        for name in ["log-1.wal", "log-spare-0000000000000001.tmp", "snapshot", "log-000000000000000g.wal"] {
            assert_eq!(live_number(name), None, "{name}");
        }
    }

    /// Reads all batches of a segment at once, and how many records they have.
    async fn read(bytes: BytesMut) -> Result<(Batches, usize), StorageError> {
        let disk = SimDisk::new(1).mount();
        let file = disk.create(&live_name(NUMBER)).await.unwrap();
        file.write_at(0, bytes.freeze()).await.unwrap();
        let mut batches = Batches::open(Pieces::whole(file, NUMBER).await?).await?;
        let mut records = batches.batch().len();
        while batches.advance().await? {
            records += batches.batch().len();
        }
        Ok((batches, records))
    }

    #[tokio::test]
    async fn a_torn_last_batch_is_dropped_whole() {
        let (mut bytes, ends) = segment(&[2, 3]);
        let torn = ends[2] - 10;
        bytes[torn] ^= 1;
        let (batches, records) = read(bytes).await.unwrap();
        assert_eq!((batches.end as usize, records), (ends[1], 3));
        assert_eq!((batches.first_sequence, batches.next_sequence), (40, 44));
        batches.refuse_damage_before_valid_records().unwrap();
    }

    #[tokio::test]
    async fn a_torn_middle_refuses_and_names_the_place() {
        let (mut bytes, ends) = segment(&[2, 3, 1]);
        bytes[ends[1] + 30] ^= 1;
        let (batches, _) = read(bytes).await.unwrap();
        let error = batches.refuse_damage_before_valid_records().unwrap_err();
        assert!(matches!(&error, StorageError::Corrupt { offset, .. } if *offset == ends[1] as u64));
        let text = error.to_string();
        assert!(text.contains("log-0000000000000003.wal") && text.contains("mokv serve --wipe"), "{text}");
    }

    #[tokio::test]
    async fn a_segment_that_is_full_to_its_last_byte_ends_there() {
        let (mut bytes, ends) = segment(&[2, 3]);
        bytes.truncate(ends[2]);
        let (batches, records) = read(bytes.clone()).await.unwrap();
        assert_eq!((batches.end as usize, records), (ends[2], 6));
        assert_eq!(batches.bytes(), &bytes);
        batches.refuse_damage_before_valid_records().unwrap();
    }

    #[tokio::test]
    async fn a_damaged_first_batch_is_never_taken_for_a_torn_one() {
        let (bytes, ends) = segment(&[1]);
        for at in 0..ends[0] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(read(damaged).await.is_err(), "at {at}");
        }
    }
}
