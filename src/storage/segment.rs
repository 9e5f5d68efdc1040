//! The files of the log: their names and contents.
//!
//! A file with a live name begins with a durable checkpoint and a complete first batch: it got its name only after both
//! were synced. Any other file of the log was being prepared and holds no state.

use bytes::Bytes;

use super::error::StorageError;
use super::record::{self, Body, Checkpoint, Nonsense, Record, Seed};

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

/// The contents of a segment.
#[derive(Debug)]
pub(super) struct Contents {
    /// Its first record.
    pub checkpoint: Box<Checkpoint>,
    /// Sequence number of the checkpoint.
    pub first_sequence: u64,
    /// Sequence number of the record after the last complete batch.
    pub next_sequence: u64,
    /// Offset of the end of the last complete batch.
    pub end: u64,
    /// All records of complete batches except the checkpoint.
    pub records: Vec<Placed>,
}

impl Contents {
    /// Reads all complete batches of segment `number` from its bytes, up to the first incomplete one.
    ///
    /// # Errors
    /// If it does not begin with a checkpoint and a complete batch, or holds what no version ever wrote.
    pub fn parse(number: u64, bytes: &Bytes) -> Result<Contents, StorageError> {
        let corrupt = |offset: usize, reason| StorageError::Corrupt {
            file: live_name(number),
            offset: offset as u64,
            reason,
        };
        let first = record::decode(bytes, 0, Seed { segment: number, salt: 0 })
            .ok_or_else(|| corrupt(0, "its checkpoint is damaged"))?;
        let Body::Checkpoint(checkpoint) = parse_body(number, 0, &first)? else {
            return Err(corrupt(0, "it does not begin with a checkpoint"));
        };
        if checkpoint.segment != number {
            return Err(corrupt(0, "it is another segment under this name"));
        }
        let seed = Seed { segment: number, salt: checkpoint.salt };

        let mut records: Vec<Placed> = Vec::new();
        let mut batch: Vec<Placed> = Vec::new();
        let (mut offset, mut end) = (0, 0);
        let (mut sequence, mut next_sequence) = (first.place.sequence, first.place.sequence);
        let mut in_batch = 0;
        while let Some(record) = record::decode(bytes, offset, seed) {
            if record.place.sequence != sequence || record.place.in_batch != in_batch {
                break;
            }
            batch.push(Placed { offset: offset as u64, body: parse_body(number, offset, &record)? });
            offset += record.size;
            sequence += 1;
            in_batch += 1;
            if record.place.last_of_batch {
                records.append(&mut batch);
                (end, next_sequence, in_batch) = (offset, sequence, 0);
            }
        }
        if records.is_empty() {
            return Err(corrupt(0, "its first batch is damaged"));
        }
        records.remove(0);
        let first_sequence = first.place.sequence;
        Ok(Contents { checkpoint, first_sequence, next_sequence, end: end as u64, records })
    }

    /// No byte of a batch is written before the previous batch is durable. So a record of a *later* batch after the
    /// first damaged one proves that the damaged one had been durable: it is corrupt, not torn.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] in that case.
    pub fn refuse_damage_before_valid_records(&self, number: u64, bytes: &Bytes) -> Result<(), StorageError> {
        let seed = Seed { segment: number, salt: self.checkpoint.salt };
        let mut offset = self.end as usize;
        while offset + record::HEADER_BYTES <= bytes.len() {
            if let Some(record) = record::decode_from(bytes, offset, seed, self.next_sequence)
                && record.place.batch() > self.next_sequence
            {
                return Err(StorageError::Corrupt {
                    file: live_name(number),
                    offset: self.end,
                    reason: "a damaged batch lies before a later one, so it had been durable",
                });
            }
            offset += record::ALIGNMENT;
        }
        Ok(())
    }
}

fn parse_body(number: u64, offset: usize, record: &Record) -> Result<Body, StorageError> {
    record.parse().map_err(|nonsense| match nonsense {
        Nonsense::Malformed => StorageError::Corrupt {
            file: live_name(number),
            offset: offset as u64,
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
    use crate::storage::record::{Place, State, encode};
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
        assert!(is_stateless(&spare_name(1)) && is_stateless(&copy_name(1)));
        for name in ["log-1.wal", "log-spare-0000000000000001.tmp", "snapshot", "log-000000000000000g.wal"] {
            assert_eq!(live_number(name), None, "{name}");
        }
    }

    #[test]
    fn a_torn_last_batch_is_dropped_whole() {
        let (mut bytes, ends) = segment(&[2, 3]);
        let torn = ends[2] - 10;
        bytes[torn] ^= 1;
        let bytes = bytes.freeze();
        let contents = Contents::parse(NUMBER, &bytes).unwrap();
        assert_eq!((contents.end as usize, contents.records.len()), (ends[1], 3));
        assert_eq!((contents.first_sequence, contents.next_sequence), (40, 44));
        contents.refuse_damage_before_valid_records(NUMBER, &bytes).unwrap();
    }

    #[test]
    fn a_torn_middle_refuses_and_names_the_place() {
        let (mut bytes, ends) = segment(&[2, 3, 1]);
        bytes[ends[1] + 30] ^= 1;
        let bytes = bytes.freeze();
        let contents = Contents::parse(NUMBER, &bytes).unwrap();
        let error = contents.refuse_damage_before_valid_records(NUMBER, &bytes).unwrap_err();
        assert!(matches!(&error, StorageError::Corrupt { offset, .. } if *offset == ends[1] as u64));
        let text = error.to_string();
        assert!(text.contains("log-0000000000000003.wal") && text.contains("mokv serve --wipe"), "{text}");
    }

    #[test]
    fn a_damaged_first_batch_is_never_taken_for_a_torn_one() {
        let (bytes, ends) = segment(&[1]);
        for at in 0..ends[0] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            Contents::parse(NUMBER, &damaged.freeze()).unwrap_err();
        }
    }
}
