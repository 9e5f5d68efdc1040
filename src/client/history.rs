//! What was changed: the versions of one key, or the changes of many, streamed in the order in which they were made. Each
//! is returned once, also when the node that streams them fails half way.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use mokv_proto::api;

use super::error::Error;
use super::options::wire_limit;
use super::resuming::{Opening, Rest, Resuming, connect};
use super::{Change, ChangesOptions, Client, Consistency, Position, VersionsOptions};
use crate::rt::Instant;

/// Changes in the order in which they were made: a [`Stream`] of them, which [`Changes::next`] takes one by one. Dropping it
/// ends the reading.
///
/// The stream ends after the first error: [`Error::RevisionGone`] if it was interrupted and what is still to come is
/// compacted by now, [`Error::Unavailable`] if no node continued it in time.
///
/// ```no_run
/// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
/// use futures_util::TryStreamExt;
///
/// let all: Vec<_> = client.changes("user/").await?.try_collect().await?;
/// # Ok(())
/// # }
/// ```
pub struct Changes(Resuming<ToCome>);

/// The changes that are still to come.
struct ToCome {
    asked: Asked,
    /// The last change that came.
    last: Option<Position>,
    /// About this many; `None`: as many as there are.
    limit: Option<u64>,
    consistency: Consistency,
}

enum Asked {
    Versions(api::VersionsRequest),
    /// Those of the last one's revision come beyond the limit.
    Changes(api::ChangesRequest),
}

impl Rest for ToCome {
    type Message = api::Change;
    type Item = Change;

    const WHAT: &'static str = "the history";
    const AGAIN: &'static str = "read it again from the start";

    fn open(&self, client: Client, end: Instant) -> Opening<api::Change> {
        match &self.asked {
            Asked::Versions(request) => connect(client, request.clone(), self.consistency, end),
            Asked::Changes(request) => connect(client, request.clone(), self.consistency, end),
        }
    }

    fn pin(&mut self, revision: u64) {
        let (limit, last) = (wire_limit(self.limit), self.last);
        match &mut self.asked {
            Asked::Versions(request) => {
                (request.to_revision, request.min_revision, request.limit) = (revision, revision, limit);
                if let Some(last) = last {
                    // Where it begins is behind: it may be compacted.
                    (request.from_revision, request.start_after) = (0, Some(last.wire()));
                }
            }
            Asked::Changes(request) => {
                (request.to_revision, request.min_revision, request.limit) = (revision, revision, limit);
                if let Some(last) = last {
                    (request.from_revision, request.start_after) = (0, Some(last.wire()));
                }
            }
        }
    }

    fn take(&mut self, change: api::Change) -> Option<Change> {
        let change = Change::from_wire(change);
        let is_of_last = self.last.is_some_and(|last| last.revision == change.position.revision);
        // Where the limit was reached, a node that is asked again for the rest of a revision begins the next one.
        if self.limit == Some(0) && !is_of_last {
            return None;
        }
        self.last = Some(change.position);
        self.limit = self.limit.map(|limit| limit.saturating_sub(1));
        Some(change)
    }

    fn is_over(&self) -> bool {
        let has_rest = matches!(self.asked, Asked::Changes(_)) && self.last.is_some();
        self.limit == Some(0) && !has_rest
    }
}

impl Changes {
    pub(super) async fn of_key(
        client: Client,
        key: &[u8],
        options: VersionsOptions,
    ) -> Result<Changes, Error> {
        let request = options.wire(key, client.min_revision(options.consistency))?;
        let (limit, consistency) = (options.limit, options.consistency);
        let to_come = ToCome { asked: Asked::Versions(request), last: None, limit, consistency };
        Ok(Changes(Resuming::open(client, to_come).await?))
    }

    pub(super) async fn of_keys(client: Client, options: ChangesOptions) -> Result<Changes, Error> {
        let request = options.wire(client.min_revision(options.consistency))?;
        let (limit, consistency) = (options.limit, options.consistency);
        let to_come = ToCome { asked: Asked::Changes(request), last: None, limit, consistency };
        Ok(Changes(Resuming::open(client, to_come).await?))
    }

    /// Returns the last revision that is covered: what follows it was made by later ones. Pass it to
    /// [`ChangesOptions::to_revision`] for the next page.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let changes = client.changes("user/").await?;
    /// println!("what was changed up to revision {}:", changes.revision());
    /// # Ok(())
    /// # }
    /// ```
    pub fn revision(&self) -> u64 {
        self.0.revision()
    }

    /// Returns the next change; `None` at the end.
    ///
    /// Cancel safe: no change is lost if the future is dropped.
    ///
    /// # Errors
    /// [`Error::RevisionGone`] if the stream was interrupted and what is still to come is compacted by now,
    /// [`Error::Unavailable`] if no node continued it in time. After an error nothing follows.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// let mut versions = client.versions("greeting").await?;
    /// while let Some(version) = versions.next().await? {
    ///     println!("at {}: {:?}", version.position.revision, version.entry);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Result<Option<Change>, Error> {
        self.0.next().await
    }
}

impl Stream for Changes {
    type Item = Result<Change, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().0.poll_item(cx).map(Result::transpose)
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("revision", &self.revision()).finish_non_exhaustive()
    }
}
