//! A backup that a node streams to this client.
//!
//! Does not check the bytes: the caller that stores them must, as `mokv snapshot save` does. Never resumes: a broken
//! backup has to be requested again.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use mokv_proto::api;

use super::Client;
use super::arriving::Arriving;
use super::error::{Error, Why};
use super::node_status::not_empty;
use super::picker::Purpose;
use crate::rt;
use crate::rt::time::timeout_at;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupInfo {
    /// The store's revision.
    pub revision: u64,
    /// The number of keys.
    pub keys: u64,
    /// The digest of the whole state, 32 hexadecimal digits, as in [`NodeStatus`](super::NodeStatus); `None`: the cluster
    /// has no key for digests yet.
    pub digest: Option<String>,
    /// The position of the last log entry in it.
    pub index: u64,
    /// A little more than the bytes to come.
    pub expected_bytes: u64,
}

impl BackupInfo {
    fn from_wire(info: api::BackupInfo) -> BackupInfo {
        BackupInfo {
            revision: info.revision,
            keys: info.keys,
            digest: not_empty(info.digest),
            index: info.index,
            expected_bytes: info.expected_bytes,
        }
    }
}

/// The bytes of a snapshot file, in order: a [`Stream`] of pieces, which [`Backup::next`] takes one by one. Dropping it
/// ends the backup.
///
/// The stream ends after the first error: [`Error::Unavailable`] if it breaks, or nothing arrives within the timeout of one
/// call.
///
/// ```no_run
/// # async fn example(client: mokv::client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use std::io::Write;
///
/// let mut backup = client.backup().await?;
/// let mut file = std::fs::File::create("backup.snap")?;
/// while let Some(bytes) = backup.next().await? {
///     file.write_all(&bytes)?;
/// }
/// file.sync_all()?;
/// # Ok(())
/// # }
/// ```
pub struct Backup {
    info: BackupInfo,
    chunks: Chunks,
}

struct Chunks {
    patience: Duration,
    /// `None`: the end was reached.
    arriving: Option<Arriving<api::BackupChunk>>,
}

impl Backup {
    pub(super) async fn open(client: &Client) -> Result<Backup, Error> {
        let deadline = client.deadline();
        let asked = client.inner.read(&api::BackupRequest {}, Purpose::LinearizableRead, deadline, None);
        let stream = asked.await.map_err(|failure| failure.error)?.into_inner();
        let mut chunks = Chunks { patience: client.timeout, arriving: Some(Arriving::new(stream)) };
        let first = match timeout_at(deadline.at(), poll_fn(|cx| chunks.poll_chunk(cx))).await {
            Ok(chunk) => chunk?.and_then(|chunk| chunk.info),
            Err(rt::time::Elapsed) => {
                let given = deadline.given();
                let message = format!("no node began to send a backup within {given:?}");
                return Err(Error::Unavailable(message.into()));
            }
        };
        let info = first.ok_or_else(|| Error::Unavailable("the backup does not say what it is".into()))?;
        Ok(Backup { info: BackupInfo::from_wire(info), chunks })
    }

    /// The contents of the backup.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let backup = client.backup().await?;
    /// println!("{} keys at revision {}", backup.info().keys, backup.info().revision);
    /// # Ok(())
    /// # }
    /// ```
    pub fn info(&self) -> &BackupInfo {
        &self.info
    }

    /// Returns the next bytes; `None` at the end.
    ///
    /// Cancel safe: no bytes are lost if the future is dropped.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the stream breaks, or nothing arrives within the timeout of one call. A backup that
    /// failed returns no more bytes.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let mut backup = client.backup().await?;
    /// let mut length = 0;
    /// while let Some(bytes) = backup.next().await? {
    ///     length += bytes.len();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        poll_fn(|cx| self.poll_bytes(cx)).await
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        self.chunks.poll_chunk(cx).map_ok(|chunk| chunk.map(|chunk| chunk.data))
    }
}

impl Chunks {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<api::BackupChunk>, Error>> {
        let Some(arriving) = &mut self.arriving else { return Poll::Ready(Ok(None)) };
        let patience = self.patience;
        let chunk = match ready!(arriving.poll_message(cx, || rt::time::after(patience))) {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(status)) => {
                let text = format!("the backup was broken off: {}", status.message());
                Err(Error::Unavailable(Why::of(text, &status)))
            }
            Err(rt::time::Elapsed) => {
                let text = format!("nothing more of the backup came within {patience:?}");
                Err(Error::Unavailable(text.into()))
            }
        };
        if !matches!(chunk, Ok(Some(_))) {
            self.arriving = None;
        }
        Poll::Ready(chunk)
    }
}

impl Stream for Backup {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_bytes(cx).map(Result::transpose)
    }
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup").field("info", &self.info).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_without_a_digest_says_none() {
        let wire =
            api::BackupInfo { revision: 1, keys: 2, digest: String::new(), index: 3, expected_bytes: 4 };
        let info = BackupInfo::from_wire(wire.clone());
        assert_eq!((info.revision, info.keys, info.index, info.expected_bytes), (1, 2, 3, 4));
        assert_eq!(info.digest, None);
        let shown = BackupInfo::from_wire(api::BackupInfo { digest: "d".into(), ..wire });
        assert_eq!(shown.digest.as_deref(), Some("d"));
    }
}
