//! Backups: a stream of the whole store at one revision, framed as a snapshot file.
//!
//! A backup holds a clone of the map (O(1)) and never more than a few blocks of bytes. It ends if the client reads
//! nothing for [`PATIENCE`], so that a client cannot keep an old state in memory for ever.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::mpsc;

use crate::map::{Map, ShownDigest};
use crate::raft::snapshot::{estimated_bytes, header};
use crate::raft::types::SnapshotMeta;
use crate::raft::wire::position;
use crate::rt::task::spawn_guarded;
use crate::rt::{self, Instant};
use crate::service::timed::Timed;
use crate::service::{Backup, Class, Operation, Refused, Service};
use crate::storage::SnapshotEncoder;

/// Longest time of a backup. Then the node drops its state and ends the stream with an error.
pub const MAX_BACKUP_TIME: Duration = Duration::from_secs(3600);
/// Most chunks that wait for the client.
const AHEAD: usize = 2;
/// Longest time that a client may read nothing. Then the backup ends.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes in one message. The default limit of gRPC clients is 4 MiB.
const CHUNK_BYTES: usize = 1 << 20;

/// The bytes of a backup, in order. After an error nothing follows.
pub type BackupChunks = Pin<Box<dyn Stream<Item = Result<Bytes, Refused>> + Send>>;

/// The beginning of a backup.
pub struct BackupStart {
    /// The store's revision.
    pub revision: u64,
    /// The number of keys.
    pub keys: u64,
    /// The digest of the whole state; `None`: the cluster has no key for digests yet.
    pub digest: Option<ShownDigest>,
    /// The log index of the last entry in it; 0: none.
    pub index: u64,
    /// An estimate of the bytes that follow.
    pub expected_bytes: u64,
    /// The bytes.
    pub chunks: BackupChunks,
}

impl Operation for Backup {
    type Reply = BackupStart;
    const CLASS: Class = Class::Operator;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<BackupStart, Refused> {
        let serving = service.context.serving()?;
        // The backup holds every write that was answered before the request arrived.
        let confirmed = serving.consensus.read_barrier(deadline).await;
        confirmed.map_err(|error| service.context.read_failed(error))?;
        let (map, meta) = serving.consensus.store().read().frozen();
        Ok(start(map, &meta))
    }
}

/// Returns the backup of a state.
fn start(map: Map, meta: &SnapshotMeta) -> BackupStart {
    let at = meta.last_log_id.map(position).unwrap_or_default();
    let (revision, keys, digest) = (map.revision(), map.keys(), map.shown_digest());
    let expected_bytes = estimated_bytes(&map);
    let header = header(meta, map.digest());
    let (chunks, taken) = mpsc::channel(AHEAD);
    let sending = spawn_guarded(async move {
        let mut chunks = Chunks(chunks);
        // If the client has gone away, the backup just ends.
        let _: Result<(), Gone> = async {
            let (mut encoder, beginning) = SnapshotEncoder::new(at, &header);
            chunks.send_bytes(beginning).await?;
            for block in map.blocks() {
                chunks.send_bytes(encoder.block(&block)).await?;
                // A large map has many blocks. Yield, so that heartbeats are answered in between.
                rt::task::yield_now().await;
            }
            chunks.send_bytes(encoder.end()).await
        }
        .await;
    });
    let chunks = stream::unfold((taken, sending), |(mut taken, sending)| async move {
        let chunk = taken.recv().await?;
        Some((Ok(chunk), (taken, sending)))
    });
    let late = Refused::Late("the backup took longer than a node allows (one hour)".into());
    let chunks = Box::pin(Timed::new(Box::pin(chunks), rt::now() + MAX_BACKUP_TIME, late));
    BackupStart { revision, keys, digest, index: at.index, expected_bytes, chunks }
}

/// The client has gone away, or reads nothing.
struct Gone;

struct Chunks(mpsc::Sender<Bytes>);

impl Chunks {
    async fn send_bytes(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            self.send(bytes.split_to(bytes.len().min(CHUNK_BYTES))).await?;
        }
        Ok(())
    }

    async fn send(&mut self, chunk: Bytes) -> Result<(), Gone> {
        match rt::timeout(PATIENCE, self.0.send(chunk)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}
