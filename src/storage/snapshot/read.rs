//! Reads a snapshot: block by block for loading it, in raw chunks for sending it. Every block is checked.

use bytes::Bytes;

use super::format::{self, FORMAT_VERSION, FRAME_BYTES, Footer, Frame, Kind};
use crate::rt::disk::{DiskRef, FileRef};
use crate::storage::{Position, StorageError};

/// A snapshot open for reading. It stays readable after its name is removed.
#[derive(Debug)]
pub struct SnapshotReader {
    file: FileRef,
    name: String,
    length: u64,
    header: Bytes,
    offset: u64,
    next_frame: u32,
    /// CRC32C of all bytes so far.
    checksum: u32,
    finished: bool,
}

impl SnapshotReader {
    /// Opens the file and checks its header.
    pub(super) async fn open(
        disk: &DiskRef,
        name: &str,
        position: Position,
    ) -> Result<SnapshotReader, StorageError> {
        let file = disk.open(name).await.map_err(StorageError::io("open", name))?;
        SnapshotReader::of_file(file, name.to_owned(), position).await
    }

    /// As [`SnapshotReader::open`], for a file that is already open.
    pub(super) async fn of_file(
        file: FileRef,
        name: String,
        position: Position,
    ) -> Result<SnapshotReader, StorageError> {
        let (reader, found) = SnapshotReader::of_any(file, name).await?;
        match found == position {
            true => Ok(reader),
            false => Err(reader.corrupt(0, "it is the snapshot of another position")),
        }
    }

    /// Reads a file that holds a snapshot of any position, in any directory. Returns the position too.
    ///
    /// # Errors
    /// If it cannot be read, has another format version, or does not begin with a snapshot's header.
    pub async fn of_any(file: FileRef, name: String) -> Result<(SnapshotReader, Position), StorageError> {
        let length = file.len().await.map_err(StorageError::io("look at", &name))?;
        let header = Bytes::new();
        let mut reader = SnapshotReader {
            file,
            name,
            length,
            header,
            offset: 0,
            next_frame: 0,
            checksum: 0,
            finished: false,
        };
        let (kind, body) = reader.next_frame().await?;
        let parsed = format::parse_header(&body).filter(|_| kind == Kind::Header);
        let (version, found, header) = parsed.ok_or_else(|| reader.corrupt(0, "it has no header"))?;
        if version != FORMAT_VERSION {
            return Err(StorageError::Version { file: reader.name, found: version, known: FORMAT_VERSION });
        }
        reader.header = header;
        Ok((reader, found))
    }

    /// Checks every byte of a file. Returns its length.
    pub(super) async fn check(disk: &DiskRef, name: &str, position: Position) -> Result<u64, StorageError> {
        let mut reader = SnapshotReader::open(disk, name, position).await?;
        while reader.next_block().await?.is_some() {}
        Ok(reader.length)
    }

    /// The opaque header that it was created with.
    pub fn header(&self) -> &Bytes {
        &self.header
    }

    /// Length of the whole file in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.length
    }

    /// The next block; `None` after the last one, when the whole file has been verified.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if a block or the footer is not what was written; the blocks read before may then be
    /// incomplete and must be discarded.
    pub async fn next_block(&mut self) -> Result<Option<Bytes>, StorageError> {
        if self.finished {
            return Ok(None);
        }
        let (offset, checksum) = (self.offset, self.checksum);
        let (kind, body) = self.next_frame().await?;
        match kind {
            Kind::Block => Ok(Some(body)),
            Kind::Header => Err(self.corrupt(offset, "a header in the middle")),
            Kind::Footer => {
                let blocks = u64::from(self.next_frame) - 2;
                if Footer::parse(&body) != Some(Footer { blocks, offset, checksum }) {
                    return Err(self.corrupt(offset, "its end does not match the rest"));
                }
                if self.offset != self.length {
                    return Err(self.corrupt(self.offset, "there is more than its end"));
                }
                self.finished = true;
                Ok(None)
            }
        }
    }

    /// Raw bytes of the file, to be sent to a peer; fewer than `length` only at its end. The receiver checks them.
    ///
    /// # Errors
    /// If the disk cannot be read.
    pub async fn read_chunk(&self, offset: u64, length: usize) -> Result<Bytes, StorageError> {
        self.file.read_at(offset, length).await.map_err(StorageError::io("read", &self.name))
    }

    async fn next_frame(&mut self) -> Result<(Kind, Bytes), StorageError> {
        let offset = self.offset;
        let beginning = self.read_chunk(offset, FRAME_BYTES).await?;
        let frame = Frame::parse(&beginning)
            .filter(|frame| offset + (FRAME_BYTES + frame.length) as u64 <= self.length)
            .filter(|frame| frame.number == self.next_frame);
        let frame = frame.ok_or_else(|| self.corrupt(offset, "a block does not begin where it should"))?;
        let whole = self.read_chunk(offset, FRAME_BYTES + frame.length).await?;
        if !frame.holds(&whole) {
            return Err(self.corrupt(offset, "a block is not what was written"));
        }
        self.offset += whole.len() as u64;
        self.next_frame += 1;
        self.checksum = crc32c::crc32c_append(self.checksum, &whole);
        Ok((frame.kind, whole.slice(FRAME_BYTES..)))
    }

    /// The error for a file that is not what was written.
    pub(crate) fn corrupt(&self, offset: u64, reason: &'static str) -> StorageError {
        StorageError::Corrupt { file: self.name.clone(), offset, reason }
    }
}
