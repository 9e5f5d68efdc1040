//! The log's records and their framing.
//!
//! A record begins at a multiple of 8 bytes:
//!
//! ```text
//! crc32c u32 | body length u32 | sequence u64 | place in batch u32 | kind u8 | flags u8 | 0 u16 | body | zeros to 8
//! ```
//!
//! all little endian. The checksum covers everything after it. It is seeded by the segment's number and salt and by the
//! sequence number, so that neither leftover bytes of another segment nor a client's value that looks like a record can
//! ever verify. `sequence` numbers all records of the log and is never reused after it was durable; a batch is
//! identified by the sequence number of its first record, and its last record has a flag. No IO here.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Owner, Position};
use crate::node_id::NodeId;

/// The version of everything in this file.
pub(super) const FORMAT_VERSION: u32 = 3;
const MAGIC: &[u8; 8] = b"mokv-log";

/// Bytes before a record's body.
pub(super) const HEADER_BYTES: usize = 24;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;
const LAST_OF_BATCH: u8 = 1;

/// The values that make the checksums of a segment unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seed {
    /// The segment's number.
    pub segment: u64,
    /// Drawn at random when the segment became active. Zero for the checkpoint, which contains the salt.
    pub salt: u64,
}

impl Seed {
    fn checksum(self, sequence: u64, covered: &[u8]) -> u32 {
        let mut seed = [0; 24];
        seed[..8].copy_from_slice(&self.segment.to_le_bytes());
        seed[8..16].copy_from_slice(&self.salt.to_le_bytes());
        seed[16..].copy_from_slice(&sequence.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c(&seed), covered)
    }
}

/// The decoded content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    Checkpoint(Box<Checkpoint>),
    LogEntry {
        term: u64,
        index: u64,
        payload: Bytes,
    },
    Vote(Bytes),
    /// Removes the entries after this position.
    Truncate(Option<Position>),
    /// Removes the entries up to this position.
    Purge(Position),
    Committed(Position),
    /// The acknowledgements of members, opaque here.
    Acknowledged(Bytes),
    /// No content; proves that everything before it is durable.
    Mark,
}

/// The state of the log before its segment, so that earlier segments can be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub segment: u64,
    pub salt: u64,
    pub owner: Owner,
    pub state: State,
}

/// The state of the log besides its entries, as of some record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub vote: Option<Bytes>,
    pub committed: Option<Position>,
    pub purged: Option<Position>,
    pub last: Option<Position>,
    pub acknowledged: Option<Bytes>,
}

impl State {
    /// Applies one record.
    pub fn apply(&mut self, body: &Body) {
        match body {
            Body::Checkpoint(checkpoint) => *self = checkpoint.state.clone(),
            Body::LogEntry { term, index, .. } => self.last = Some(Position { term: *term, index: *index }),
            Body::Vote(vote) => self.vote = Some(vote.clone()),
            Body::Truncate(last) => self.last = *last,
            Body::Purge(upto) => {
                self.purged = Some(*upto);
                if self.last.is_none_or(|last| last.index <= upto.index) {
                    self.last = Some(*upto);
                }
            }
            Body::Committed(position) => self.committed = Some(*position),
            Body::Acknowledged(acknowledged) => self.acknowledged = Some(acknowledged.clone()),
            Body::Mark => {}
        }
    }
}

const CHECKPOINT: u8 = 1;
const ENTRY: u8 = 2;
const VOTE: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const COMMITTED: u8 = 6;
const MARK: u8 = 7;
const ACKNOWLEDGED: u8 = 8;

/// The bytes an entry takes in a segment.
pub(super) fn entry_bytes(payload: usize) -> u64 {
    padded(HEADER_BYTES + 16 + payload) as u64
}

/// The maximum of bytes that any other record takes, given the length of the opaque bytes that it carries.
pub(super) fn small_record_bytes(opaque: usize) -> u64 {
    padded(HEADER_BYTES + 256 + opaque) as u64
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT)
}

/// A record's place in the stream of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub sequence: u64,
    pub in_batch: u32,
    pub last_of_batch: bool,
}

impl Place {
    /// The batch's identifier: the sequence number of its first record.
    pub fn batch(self) -> u64 {
        self.sequence - u64::from(self.in_batch)
    }
}

/// Appends a record to `buffer`, whose length is a multiple of [`ALIGNMENT`].
pub(super) fn encode(buffer: &mut BytesMut, seed: Seed, place: Place, body: &Body) {
    let start = buffer.len();
    assert_eq!(start % ALIGNMENT, 0, "records are aligned");
    buffer.put_bytes(0, HEADER_BYTES);
    let kind = encode_body(buffer, body);
    let length = buffer.len() - start - HEADER_BYTES;
    buffer.put_bytes(0, padded(buffer.len() - start) - (buffer.len() - start));

    let record = &mut buffer[start..];
    record[4..8].copy_from_slice(&u32::try_from(length).expect("a record is bounded").to_le_bytes());
    record[8..16].copy_from_slice(&place.sequence.to_le_bytes());
    record[16..20].copy_from_slice(&place.in_batch.to_le_bytes());
    record[20] = kind;
    record[21] = if place.last_of_batch { LAST_OF_BATCH } else { 0 };
    let seed = if kind == CHECKPOINT { Seed { salt: 0, ..seed } } else { seed };
    let checksum = seed.checksum(place.sequence, &record[4..]);
    record[..4].copy_from_slice(&checksum.to_le_bytes());
}

fn encode_body(buffer: &mut BytesMut, body: &Body) -> u8 {
    match body {
        Body::Checkpoint(checkpoint) => {
            buffer.put_slice(MAGIC);
            buffer.put_u32_le(FORMAT_VERSION);
            buffer.put_u64_le(checkpoint.segment);
            buffer.put_u64_le(checkpoint.salt);
            buffer.put_u64_le(checkpoint.owner.node_id.0);
            buffer.put_slice(&checkpoint.owner.cluster_id);
            let State { vote, committed, purged, last, acknowledged } = &checkpoint.state;
            for position in [committed, purged, last] {
                put_position(buffer, *position);
            }
            put_opaque(buffer, vote.as_ref());
            put_opaque(buffer, acknowledged.as_ref());
            CHECKPOINT
        }
        Body::LogEntry { term, index, payload } => {
            buffer.put_u64_le(*term);
            buffer.put_u64_le(*index);
            buffer.put_slice(payload);
            ENTRY
        }
        Body::Vote(vote) => {
            buffer.put_slice(vote);
            VOTE
        }
        Body::Truncate(last) => {
            put_position(buffer, *last);
            TRUNCATE
        }
        Body::Purge(upto) => {
            put_position(buffer, Some(*upto));
            PURGE
        }
        Body::Committed(position) => {
            put_position(buffer, Some(*position));
            COMMITTED
        }
        Body::Acknowledged(acknowledged) => {
            buffer.put_slice(acknowledged);
            ACKNOWLEDGED
        }
        Body::Mark => MARK,
    }
}

fn put_opaque(buffer: &mut BytesMut, opaque: Option<&Bytes>) {
    buffer.put_u8(u8::from(opaque.is_some()));
    let bytes = opaque.map_or(&[][..], |bytes| bytes);
    buffer.put_u32_le(u32::try_from(bytes.len()).expect("a record is bounded"));
    buffer.put_slice(bytes);
}

fn put_position(buffer: &mut BytesMut, position: Option<Position>) {
    buffer.put_u8(u8::from(position.is_some()));
    let Position { term, index } = position.unwrap_or_default();
    buffer.put_u64_le(term);
    buffer.put_u64_le(index);
}

/// A record whose checksum is valid.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub place: Place,
    pub body: Bytes,
    kind: u8,
    /// The size of the whole record, including padding.
    pub size: usize,
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

/// The size of the record at `offset` according to its header; `None` if the bytes end before that. Nothing is
/// verified.
pub(super) fn size_at(bytes: &[u8], offset: usize) -> Option<usize> {
    let header = bytes.get(offset..offset.checked_add(HEADER_BYTES)?)?;
    Some(padded(HEADER_BYTES + u32_at(header, 4) as usize))
}

/// The record at `offset`, if there is one with a valid checksum.
pub(super) fn decode(bytes: &Bytes, offset: usize, seed: Seed) -> Option<Record> {
    decode_from(bytes, offset, seed, 0)
}

/// As [`decode`], but only if its sequence number is at least `lowest`: leftovers are not worth computing a checksum.
pub(super) fn decode_from(bytes: &Bytes, offset: usize, seed: Seed, lowest: u64) -> Option<Record> {
    let header = bytes.get(offset..offset.checked_add(HEADER_BYTES)?)?;
    let length = u32_at(header, 4) as usize;
    let place = Place {
        sequence: u64_at(header, 8),
        in_batch: u32_at(header, 16),
        last_of_batch: header[21] & LAST_OF_BATCH != 0,
    };
    let kind = header[20];
    // A checkpoint is not salted, so it is valid only at the beginning, where no client's bytes can be.
    let sane = (CHECKPOINT..=ACKNOWLEDGED).contains(&kind)
        && (kind != CHECKPOINT || offset == 0)
        && place.sequence >= lowest
        && place.sequence >= u64::from(place.in_batch);
    if !sane {
        return None;
    }
    let size = padded(HEADER_BYTES + length);
    let record = bytes.get(offset..offset.checked_add(size)?)?;
    let seed = if kind == CHECKPOINT { Seed { salt: 0, ..seed } } else { seed };
    if seed.checksum(place.sequence, &record[4..]) != u32_at(record, 0) {
        return None;
    }
    let body = bytes.slice(offset + HEADER_BYTES..offset + HEADER_BYTES + length);
    Some(Record { place, body, kind, size })
}

/// Why bytes with a valid checksum cannot be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nonsense {
    /// No version of this program wrote the record.
    Malformed,
    /// Another version of this program wrote it.
    Version(u32),
}

impl Record {
    /// The record's content.
    pub fn parse(self) -> Result<Body, Nonsense> {
        let mut rest = self.body;
        let body = match self.kind {
            CHECKPOINT => return parse_checkpoint(rest),
            ENTRY => {
                let (term, index) = (take_u64(&mut rest), take_u64(&mut rest));
                Body::LogEntry {
                    term: term.ok_or(Nonsense::Malformed)?,
                    index: index.ok_or(Nonsense::Malformed)?,
                    payload: std::mem::take(&mut rest),
                }
            }
            // A copy: a slice would keep the whole segment in memory.
            VOTE => Body::Vote(Bytes::copy_from_slice(&std::mem::take(&mut rest))),
            TRUNCATE => Body::Truncate(take_position(&mut rest).ok_or(Nonsense::Malformed)?),
            PURGE => Body::Purge(take_position(&mut rest).flatten().ok_or(Nonsense::Malformed)?),
            COMMITTED => Body::Committed(take_position(&mut rest).flatten().ok_or(Nonsense::Malformed)?),
            ACKNOWLEDGED => Body::Acknowledged(Bytes::copy_from_slice(&std::mem::take(&mut rest))),
            MARK => Body::Mark,
            _ => return Err(Nonsense::Malformed),
        };
        if rest.is_empty() { Ok(body) } else { Err(Nonsense::Malformed) }
    }
}

fn parse_checkpoint(mut rest: Bytes) -> Result<Body, Nonsense> {
    if take(&mut rest, 8).as_deref() != Some(&MAGIC[..]) {
        return Err(Nonsense::Malformed);
    }
    let version = take(&mut rest, 4).map(|bytes| u32_at(&bytes, 0)).ok_or(Nonsense::Malformed)?;
    if version != FORMAT_VERSION {
        return Err(Nonsense::Version(version));
    }
    let mut parse = || {
        let segment = take_u64(&mut rest)?;
        let salt = take_u64(&mut rest)?;
        let node_id = NodeId(take_u64(&mut rest)?);
        let cluster_id = take(&mut rest, 16)?[..].try_into().ok()?;
        let committed = take_position(&mut rest)?;
        let purged = take_position(&mut rest)?;
        let last = take_position(&mut rest)?;
        let vote = take_opaque(&mut rest)?;
        let acknowledged = take_opaque(&mut rest)?;
        let state = State { vote, committed, purged, last, acknowledged };
        rest.is_empty().then_some(Checkpoint { segment, salt, owner: Owner { node_id, cluster_id }, state })
    };
    parse().map(|checkpoint| Body::Checkpoint(Box::new(checkpoint))).ok_or(Nonsense::Malformed)
}

fn take(rest: &mut Bytes, length: usize) -> Option<Bytes> {
    (rest.len() >= length).then(|| rest.split_to(length))
}

fn take_u64(rest: &mut Bytes) -> Option<u64> {
    rest.try_get_u64_le().ok()
}

/// Returns a copy: a slice would keep the whole segment in memory.
fn take_opaque(rest: &mut Bytes) -> Option<Option<Bytes>> {
    let present = take(rest, 1)?[0] == 1;
    let length = u32_at(&take(rest, 4)?, 0) as usize;
    let bytes = take(rest, length)?;
    Some(present.then(|| Bytes::copy_from_slice(&bytes)))
}

fn take_position(rest: &mut Bytes) -> Option<Option<Position>> {
    let present = take(rest, 1)?[0] == 1;
    let (term, index) = (take_u64(rest)?, take_u64(rest)?);
    Some(present.then_some(Position { term, index }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: Seed = Seed { segment: 7, salt: 99 };

    fn position() -> impl Strategy<Value = Position> {
        (any::<u64>(), any::<u64>()).prop_map(|(term, index)| Position { term, index })
    }

    fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
    }

    fn checkpoint() -> impl Strategy<Value = Checkpoint> {
        let position = || proptest::option::of(position());
        let opaque = |most| proptest::option::of(bytes(most));
        let state = (opaque(40), position(), position(), position(), opaque(400)).prop_map(
            |(vote, committed, purged, last, acknowledged)| State {
                vote,
                committed,
                purged,
                last,
                acknowledged,
            },
        );
        let owner = (any::<u64>(), any::<[u8; 16]>())
            .prop_map(|(id, cluster_id)| Owner { node_id: NodeId(id), cluster_id });
        (any::<u64>(), any::<u64>(), owner, state).prop_map(|(segment, salt, owner, state)| Checkpoint {
            segment,
            salt,
            owner,
            state,
        })
    }

    fn body() -> impl Strategy<Value = Body> {
        prop_oneof![
            checkpoint().prop_map(|checkpoint| Body::Checkpoint(Box::new(checkpoint))),
            (position(), bytes(300)).prop_map(|(Position { term, index }, payload)| Body::LogEntry {
                term,
                index,
                payload
            }),
            bytes(60).prop_map(Body::Vote),
            proptest::option::of(position()).prop_map(Body::Truncate),
            position().prop_map(Body::Purge),
            position().prop_map(Body::Committed),
            bytes(400).prop_map(Body::Acknowledged),
            Just(Body::Mark),
        ]
    }

    fn place() -> impl Strategy<Value = Place> {
        (0..u64::MAX / 2, any::<u32>(), any::<bool>()).prop_map(|(first, in_batch, last_of_batch)| Place {
            sequence: first + u64::from(in_batch),
            in_batch,
            last_of_batch,
        })
    }

    fn encoded(place: Place, body: &Body) -> Bytes {
        let mut buffer = BytesMut::new();
        encode(&mut buffer, SEED, place, body);
        buffer.freeze()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(place in place(), body in body()) {
            let bytes = encoded(place, &body);
            prop_assert_eq!(bytes.len() % ALIGNMENT, 0);
            let record = decode(&bytes, 0, SEED).unwrap();
            prop_assert_eq!(record.size, bytes.len());
            prop_assert_eq!(record.place, place);
            prop_assert_eq!(record.parse().unwrap(), body);
        }

        #[test]
        fn any_flipped_bit_is_noticed(place in place(), body in body(), at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut bytes = encoded(place, &body).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            prop_assert!(decode(&bytes.into(), 0, SEED).is_none());
        }

        #[test]
        fn a_record_of_another_segment_never_verifies(place in place(), body in body(), segment in any::<u64>()) {
            prop_assume!(segment != SEED.segment);
            let other = Seed { segment, ..SEED };
            prop_assert!(decode(&encoded(place, &body), 0, other).is_none());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in bytes(200), offset in 0..300usize) {
            if let Some(record) = decode(&bytes, offset, SEED) {
                let _ = record.parse();
            }
        }

        #[test]
        fn room_is_never_underestimated(place in place(), body in body()) {
            let room = match &body {
                Body::LogEntry { payload, .. } => entry_bytes(payload.len()),
                Body::Vote(opaque) | Body::Acknowledged(opaque) => small_record_bytes(opaque.len()),
                Body::Checkpoint(checkpoint) => {
                    let State { vote, acknowledged, .. } = &checkpoint.state;
                    small_record_bytes([vote, acknowledged].into_iter().flatten().map(Bytes::len).sum())
                }
                _ => small_record_bytes(0),
            };
            prop_assert!(encoded(place, &body).len() as u64 <= room);
        }
    }

    #[test]
    fn a_value_cannot_pose_as_a_record_without_the_salt() {
        let forged = encoded(Place { sequence: 5, in_batch: 0, last_of_batch: true }, &Body::Mark);
        assert!(decode(&forged, 0, SEED).is_some());
        assert!(decode(&forged, 0, Seed { salt: 100, ..SEED }).is_none());
    }
}
