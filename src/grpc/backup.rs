//! A backup on its way to a client: the store as it was when it was asked for, framed as a snapshot file.
//!
//! Holds a clone of the map (O(1)) and never more than a few blocks of bytes. A client that takes nothing for long is
//! given up, so that nobody keeps an old state alive for ever.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use mokv_proto::api;
use tokio::sync::mpsc;
use tonic::Status;

use super::{admin::shown, methods::MAX_BACKUP_TIME, timed::Timed};
use crate::map::Map;
use crate::raft::state_machine::{estimated_bytes, header};
use crate::raft::types::SnapshotMeta;
use crate::raft::wire::position;
use crate::rt;
use crate::rt::task::spawn_guarded;
use crate::storage::SnapshotEncoder;

/// Blocks that wait for the client.
const AHEAD: usize = 2;
/// A client that takes nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes in one message: gRPC clients take 4 MiB unless told otherwise.
const CHUNK_BYTES: usize = 1 << 20;

/// The backup of a state.
pub(super) fn stream(
    map: Map,
    meta: &SnapshotMeta,
) -> impl Stream<Item = Result<api::BackupChunk, Status>> + Send + use<> {
    let at = meta.last_log_id.map(position).unwrap_or_default();
    let info = api::BackupInfo {
        revision: map.revision(),
        keys: map.keys(),
        digest: shown(map.shown_digest()),
        index: at.index,
        expected_bytes: estimated_bytes(&map),
    };
    let header = header(meta, map.digest());
    let (chunks, taken) = mpsc::channel(AHEAD);
    let sending = spawn_guarded(async move {
        let mut chunks = Chunks(chunks);
        // Whoever does not want the rest has gone away.
        let _: Result<(), Gone> = async {
            chunks.send(api::BackupChunk { info: Some(info), data: Bytes::new() }).await?;
            let (mut encoder, beginning) = SnapshotEncoder::new(at, &header);
            chunks.send_bytes(beginning).await?;
            for block in map.blocks() {
                chunks.send_bytes(encoder.block(&block)).await?;
                // A large map is many blocks; heartbeats are answered in between.
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
    let late = Status::deadline_exceeded("the backup took longer than a node allows (one hour)");
    Timed::new(Box::pin(chunks), rt::now() + MAX_BACKUP_TIME, late)
}

/// The client has gone away, or takes nothing.
struct Gone;

struct Chunks(mpsc::Sender<api::BackupChunk>);

impl Chunks {
    async fn send_bytes(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let data = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            self.send(api::BackupChunk { info: None, data }).await?;
        }
        Ok(())
    }

    async fn send(&mut self, chunk: api::BackupChunk) -> Result<(), Gone> {
        match rt::timeout(PATIENCE, self.0.send(chunk)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}
