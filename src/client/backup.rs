//! A backup that a node streams to this client.
//!
//! Does not check the bytes: the caller that stores them must, as `mokv snapshot save` does. Never resumes: a broken
//! backup has to be requested again.

use std::time::Duration;

use bytes::Bytes;
use mokv_proto::api;
use mokv_proto::tonic::Streaming;

use super::error::{Error, Why};
use super::picker::Purpose;
use super::{BackupInfo, Client};
use crate::rt;
use crate::rt::time::timeout_at;

/// The bytes of a snapshot file, in order. Dropping it ends the stream.
pub struct Backup {
    info: BackupInfo,
    patience: Duration,
    stream: Streaming<api::BackupChunk>,
}

impl Backup {
    pub(super) async fn open(client: &Client) -> Result<Backup, Error> {
        let deadline = client.deadline();
        let asked = client.inner.read(&api::BackupRequest {}, Purpose::LinearizableRead, deadline, None);
        let stream = asked.await.map_err(|failure| failure.error)?.into_inner();
        let mut backup = Backup { info: BackupInfo::default(), patience: client.timeout, stream };
        let first = match timeout_at(deadline.at(), backup.chunk()).await {
            Ok(chunk) => chunk?.and_then(|chunk| chunk.info),
            Err(rt::time::Elapsed) => {
                let given = deadline.given();
                let message = format!("no node began to send a backup within {given:?}");
                return Err(Error::Unavailable(message.into()));
            }
        };
        backup.info = first.ok_or_else(|| Error::Unavailable("the backup does not say what it is".into()))?;
        Ok(backup)
    }

    /// The contents of the backup.
    pub fn info(&self) -> &BackupInfo {
        &self.info
    }

    /// Returns the next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the stream breaks, or nothing arrives within the timeout of one call.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        Ok(self.chunk().await?.map(|chunk| chunk.data))
    }

    async fn chunk(&mut self) -> Result<Option<api::BackupChunk>, Error> {
        match rt::timeout(self.patience, self.stream.message()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(status)) => {
                let text = format!("the backup was broken off: {}", status.message());
                Err(Error::Unavailable(Why::of(text, &status)))
            }
            Err(rt::time::Elapsed) => Err(Error::Unavailable(
                format!("nothing more of the backup came within {:?}", self.patience).into(),
            )),
        }
    }
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup").field("info", &self.info).finish_non_exhaustive()
    }
}
