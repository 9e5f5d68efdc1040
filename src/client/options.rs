//! The options of reads, writes and listings. The calls without options ([`Client::get`](super::Client::get) and its
//! like) use the defaults.

use bytes::Bytes;
use mokv_proto::api;

use super::answers::Position;
use super::error::Error;
use super::picker::Purpose;
use crate::transaction::KeyRange;

/// How recent the result of a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// The read sees every write that was acknowledged before the read was sent.
    #[default]
    Linearizable,
    /// One node answers at once from its memory. The result may be arbitrarily old, but never older than what this
    /// client has seen before.
    Stale,
}

impl Consistency {
    pub(super) fn purpose(self) -> Purpose {
        match self {
            Consistency::Linearizable => Purpose::LinearizableRead,
            Consistency::Stale => Purpose::StaleRead,
        }
    }

    pub(super) fn wire(self) -> i32 {
        match self {
            Consistency::Linearizable => api::Consistency::Linearizable as i32,
            Consistency::Stale => api::Consistency::Stale as i32,
        }
    }
}

/// How to read one key, or the members; linearizable by default.
///
/// ```no_run
/// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
/// use mokv::client::ReadOptions;
///
/// let read = client.get_with("feature/dark-mode", ReadOptions::stale()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    pub(super) consistency: Consistency,
    at_revision: Option<u64>,
}

impl ReadOptions {
    /// Sees every write that was acknowledged before the read was sent; the default.
    ///
    /// ```
    /// # use mokv::client::ReadOptions;
    /// assert_eq!(ReadOptions::linearizable(), ReadOptions::default());
    /// ```
    pub fn linearizable() -> ReadOptions {
        Consistency::Linearizable.into()
    }

    /// Is answered at once by one node, also without a leader, and may be old: see [`Consistency::Stale`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ReadOptions;
    /// let read = client.get_with("greeting", ReadOptions::stale()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stale() -> ReadOptions {
        Consistency::Stale.into()
    }

    /// The key as it was at this revision, from the earliest one that the store still has to the present one. Any node
    /// answers; how fresh does not matter then. For a key only: the members have no revision.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ReadOptions;
    /// let written = client.set("greeting", "hello").await?;
    /// client.delete("greeting").await?;
    /// let before = ReadOptions::linearizable().at_revision(written.revision);
    /// assert_eq!(client.get_with("greeting", before).await?.entry.unwrap().value, "hello");
    /// # Ok(())
    /// # }
    /// ```
    pub fn at_revision(mut self, revision: u64) -> ReadOptions {
        self.at_revision = Some(revision);
        self
    }

    pub(super) fn of_revision(at_revision: Option<u64>) -> ReadOptions {
        ReadOptions { at_revision, ..ReadOptions::default() }
    }

    /// Returns the revision in a request, where 0 stands for the present one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for revision 0, at which no store ever is.
    pub(super) fn wire_revision(&self) -> Result<u64, Error> {
        wire_revision(self.at_revision)
    }
}

impl From<Consistency> for ReadOptions {
    fn from(consistency: Consistency) -> ReadOptions {
        ReadOptions { consistency, at_revision: None }
    }
}

fn wire_revision(at_revision: Option<u64>) -> Result<u64, Error> {
    match at_revision {
        Some(0) => Err(Error::Invalid("no store is ever at revision 0".into())),
        revision => Ok(revision.unwrap_or(0)),
    }
}

/// Under which condition to write or delete one key; unconditionally by default.
///
/// ```no_run
/// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
/// use mokv::client::{Error, WriteOptions};
///
/// match client.set_with("lock", "me", WriteOptions::if_absent()).await {
///     Ok(written) => println!("mine, at revision {}", written.revision),
///     Err(Error::ConditionFailed { .. }) => println!("another client has it"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteOptions {
    condition: Option<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Absent,
    Revision(u64),
}

impl WriteOptions {
    /// Whatever the key holds; the default.
    ///
    /// ```
    /// # use mokv::client::WriteOptions;
    /// assert_eq!(WriteOptions::unconditional(), WriteOptions::default());
    /// ```
    pub fn unconditional() -> WriteOptions {
        WriteOptions { condition: None }
    }

    /// Only if the key does not exist.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::WriteOptions;
    /// client.set_with("lock", "me", WriteOptions::if_absent()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn if_absent() -> WriteOptions {
        WriteOptions { condition: Some(Condition::Absent) }
    }

    /// Only if the key's [`mod_revision`](super::KeyValue::mod_revision) is this one. No key is ever at revision 0: the
    /// call then returns [`Error::Invalid`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::WriteOptions;
    /// let written = client.set("lock", "me").await?;
    /// client.delete_with("lock", WriteOptions::if_revision(written.revision)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn if_revision(revision: u64) -> WriteOptions {
        WriteOptions { condition: Some(Condition::Revision(revision)) }
    }

    /// Only if the key is still as it was read: at the same revision, or still absent.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::WriteOptions;
    /// let read = client.get("visits").await?;
    /// client.set_with("visits", "1", WriteOptions::if_unchanged(&read)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn if_unchanged(read: &super::Read) -> WriteOptions {
        match &read.entry {
            Some(entry) => WriteOptions::if_revision(entry.mod_revision),
            None => WriteOptions::if_absent(),
        }
    }

    /// Returns the value of `if_revision` in a request.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the condition that the key is at revision 0.
    pub(super) fn wire(self) -> Result<Option<u64>, Error> {
        match self.condition {
            None => Ok(None),
            Some(Condition::Absent) => Ok(Some(0)),
            // In a request this would mean that the key must not exist.
            Some(Condition::Revision(0)) => Err(Error::Invalid("no key is ever at revision 0".into())),
            Some(Condition::Revision(revision)) => Ok(Some(revision)),
        }
    }
}

/// What to list; everything, linearizable, by default.
///
/// ```no_run
/// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
/// use mokv::client::ListOptions;
///
/// let mut first = client.list_with(ListOptions::prefix("user/").limit(100).keys_only()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListOptions {
    prefix: Bytes,
    start_after: Bytes,
    pub(super) limit: Option<u64>,
    keys_only: bool,
    pub(super) consistency: Consistency,
    at_revision: Option<u64>,
}

impl ListOptions {
    /// All keys; the default.
    ///
    /// ```
    /// # use mokv::client::ListOptions;
    /// assert_eq!(ListOptions::all(), ListOptions::prefix(""));
    /// ```
    pub fn all() -> ListOptions {
        ListOptions::default()
    }

    /// Only keys that begin with this.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ListOptions;
    /// let mut users = client.list_with(ListOptions::prefix("user/").stale()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn prefix(prefix: impl AsRef<[u8]>) -> ListOptions {
        ListOptions { prefix: Bytes::copy_from_slice(prefix.as_ref()), ..ListOptions::default() }
    }

    /// Only keys after this one, in byte order: the last key of the page before.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ListOptions;
    /// let options = ListOptions::prefix("user/").start_after("user/0100").limit(100);
    /// let mut second_page = client.list_with(options).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn start_after(mut self, key: impl AsRef<[u8]>) -> ListOptions {
        self.start_after = Bytes::copy_from_slice(key.as_ref());
        self
    }

    /// At most this many keys; as many as there are by default.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ListOptions;
    /// let mut first = client.list_with(ListOptions::prefix("queue/").limit(1)).await?;
    /// let oldest = first.next().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn limit(mut self, keys: u64) -> ListOptions {
        self.limit = Some(keys);
        self
    }

    /// Leaves the values out.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ListOptions;
    /// let mut keys = client.list_with(ListOptions::all().keys_only()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn keys_only(mut self) -> ListOptions {
        self.keys_only = true;
        self
    }

    /// Is answered at once by one node, also without a leader, and may be old: see [`Consistency::Stale`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ListOptions;
    /// let mut config = client.list_with(ListOptions::prefix("config/").stale()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stale(self) -> ListOptions {
        self.consistency(Consistency::Stale)
    }

    /// Sets how recent the listing must be; linearizable by default.
    ///
    /// ```
    /// # use mokv::client::{Consistency, ListOptions};
    /// let options = ListOptions::all().consistency(Consistency::Stale);
    /// assert_eq!(options, ListOptions::all().stale());
    /// ```
    pub fn consistency(mut self, consistency: Consistency) -> ListOptions {
        self.consistency = consistency;
        self
    }

    /// Lists this revision, the one of an earlier page ([`Listing::revision`](super::Listing::revision)), so that all
    /// pages show one state of the store. By default the newest. Any node answers, and how fresh does not matter then.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ListOptions;
    /// let options = ListOptions::prefix("user/").limit(100);
    /// let mut page = client.list_with(options.clone()).await?;
    /// let mut last = None;
    /// while let Some(entry) = page.next().await? {
    ///     last = Some(entry.key);
    /// }
    /// if let Some(last) = last {
    ///     let next = options.start_after(last).at_revision(page.revision());
    ///     page = client.list_with(next).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn at_revision(mut self, revision: u64) -> ListOptions {
        self.at_revision = Some(revision);
        self
    }

    /// Returns the request; `min_revision` is what a stale listing must show.
    ///
    /// # Errors
    /// [`Error::Invalid`] for revision 0, at which no store ever is.
    pub(super) fn wire(&self, min_revision: u64) -> Result<api::ListRequest, Error> {
        Ok(api::ListRequest {
            prefix: self.prefix.clone(),
            start_after: self.start_after.clone(),
            limit: wire_limit(self.limit),
            keys_only: self.keys_only,
            consistency: self.consistency.wire(),
            min_revision,
            at_revision: wire_revision(self.at_revision)?,
        })
    }
}

/// Which versions of a key to read; all that the history has, linearizable, by default.
///
/// ```no_run
/// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
/// use mokv::client::VersionsOptions;
///
/// let since = VersionsOptions::all().from_revision(8);
/// let mut versions = client.versions_with("greeting", since).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VersionsOptions {
    from_revision: Option<u64>,
    to_revision: Option<u64>,
    pub(super) limit: Option<u64>,
    pub(super) consistency: Consistency,
}

impl VersionsOptions {
    /// All versions that the history has; the default.
    ///
    /// ```
    /// # use mokv::client::VersionsOptions;
    /// assert_eq!(VersionsOptions::all(), VersionsOptions::default());
    /// ```
    pub fn all() -> VersionsOptions {
        VersionsOptions::default()
    }

    /// Only what this revision and later ones show: the version that this one shows comes first, also if it was written
    /// before. By default from the earliest revision on that can be read.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::VersionsOptions;
    /// let options = VersionsOptions::all().from_revision(8);
    /// let as_of_8 = client.versions_with("greeting", options).await?.next().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_revision(mut self, revision: impl Into<Option<u64>>) -> VersionsOptions {
        self.from_revision = revision.into();
        self
    }

    /// Only versions of this revision and earlier ones; the present one by default. Any node that has reached it answers,
    /// and how fresh does not matter then.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::VersionsOptions;
    /// let options = VersionsOptions::all().to_revision(12);
    /// let mut versions = client.versions_with("greeting", options).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn to_revision(mut self, revision: impl Into<Option<u64>>) -> VersionsOptions {
        self.to_revision = revision.into();
        self
    }

    /// At most this many versions, the first ones; as many as there are by default.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::VersionsOptions;
    /// let options = VersionsOptions::all().limit(1);
    /// let earliest = client.versions_with("greeting", options).await?.next().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn limit(mut self, versions: impl Into<Option<u64>>) -> VersionsOptions {
        self.limit = versions.into();
        self
    }

    /// Is answered at once by one node, also without a leader, and may lack the newest: see [`Consistency::Stale`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::VersionsOptions;
    /// let mut versions = client.versions_with("greeting", VersionsOptions::all().stale()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stale(self) -> VersionsOptions {
        self.consistency(Consistency::Stale)
    }

    /// Sets how recent the answer must be; linearizable by default.
    ///
    /// ```
    /// # use mokv::client::{Consistency, VersionsOptions};
    /// let options = VersionsOptions::all().consistency(Consistency::Stale);
    /// assert_eq!(options, VersionsOptions::all().stale());
    /// ```
    pub fn consistency(mut self, consistency: Consistency) -> VersionsOptions {
        self.consistency = consistency;
        self
    }

    /// Returns the request; `min_revision` is what a stale answer must cover.
    ///
    /// # Errors
    /// [`Error::Invalid`] for revision 0, at which no store ever is.
    pub(super) fn wire(&self, key: &[u8], min_revision: u64) -> Result<api::VersionsRequest, Error> {
        Ok(api::VersionsRequest {
            key: Bytes::copy_from_slice(key),
            from_revision: wire_revision(self.from_revision)?,
            to_revision: wire_revision(self.to_revision)?,
            start_after: None,
            limit: wire_limit(self.limit),
            consistency: self.consistency.wire(),
            min_revision,
        })
    }
}

/// Which changes to read; all that the history has, linearizable, by default.
///
/// ```no_run
/// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
/// use mokv::client::ChangesOptions;
///
/// let since = ChangesOptions::prefix("user/").from_revision(8).keys_only();
/// let mut changes = client.changes_with(since).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangesOptions {
    /// `None`: all keys.
    range: Option<KeyRange>,
    from_revision: Option<u64>,
    to_revision: Option<u64>,
    start_after: Option<Position>,
    pub(super) limit: Option<u64>,
    keys_only: bool,
    pub(super) consistency: Consistency,
}

impl ChangesOptions {
    /// Changes of all keys; the default.
    ///
    /// ```
    /// # use mokv::client::ChangesOptions;
    /// assert_eq!(ChangesOptions::all(), ChangesOptions::default());
    /// ```
    pub fn all() -> ChangesOptions {
        ChangesOptions::default()
    }

    /// Only changes of keys that begin with this.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ChangesOptions;
    /// let mut changes = client.changes_with(ChangesOptions::prefix("user/").stale()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn prefix(prefix: impl AsRef<[u8]>) -> ChangesOptions {
        ChangesOptions::range(KeyRange::prefix(prefix))
    }

    /// Only changes of keys in this range.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::{ChangesOptions, KeyRange};
    /// let options = ChangesOptions::range(KeyRange::new("user/a", "user/n"));
    /// let mut changes = client.changes_with(options).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn range(range: KeyRange) -> ChangesOptions {
        ChangesOptions { range: Some(range), ..ChangesOptions::default() }
    }

    /// Only changes of this revision and later ones. By default from the earliest revision on that can be read.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ChangesOptions;
    /// let mut changes = client.changes_with(ChangesOptions::all().from_revision(8)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_revision(mut self, revision: impl Into<Option<u64>>) -> ChangesOptions {
        self.from_revision = revision.into();
        self
    }

    /// Only changes of this revision and earlier ones; the present one by default. Any node that has reached it answers,
    /// and how fresh does not matter then.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ChangesOptions;
    /// let of_revision_8 = ChangesOptions::all().from_revision(8).to_revision(8);
    /// let mut changes = client.changes_with(of_revision_8).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn to_revision(mut self, revision: impl Into<Option<u64>>) -> ChangesOptions {
        self.to_revision = revision.into();
        self
    }

    /// Only changes after this one: the last of the page before, or the last that is known. Nothing comes if it is the
    /// newest.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ChangesOptions;
    /// let options = ChangesOptions::prefix("user/").limit(100);
    /// let mut page = client.changes_with(options.clone()).await?;
    /// let mut last = None;
    /// while let Some(change) = page.next().await? {
    ///     last = Some(change.position);
    /// }
    /// if let Some(last) = last {
    ///     let next = options.start_after(last).to_revision(page.revision());
    ///     page = client.changes_with(next).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn start_after(mut self, position: Position) -> ChangesOptions {
        self.start_after = Some(position);
        self
    }

    /// Ends after this many changes; as many as there are by default. A transaction is never cut apart: the changes of the
    /// last one's revision come whole, so there may be more.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ChangesOptions;
    /// let mut first = client.changes_with(ChangesOptions::all().limit(100)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn limit(mut self, changes: impl Into<Option<u64>>) -> ChangesOptions {
        self.limit = changes.into();
        self
    }

    /// Leaves the values out.
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ChangesOptions;
    /// let mut changes = client.changes_with(ChangesOptions::all().keys_only()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn keys_only(mut self) -> ChangesOptions {
        self.keys_only = true;
        self
    }

    /// Is answered at once by one node, also without a leader, and may lack the newest: see [`Consistency::Stale`].
    ///
    /// ```no_run
    /// # async fn example(client: mokv::client::Client) -> Result<(), mokv::client::Error> {
    /// # use mokv::client::ChangesOptions;
    /// let mut changes = client.changes_with(ChangesOptions::all().stale()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stale(self) -> ChangesOptions {
        self.consistency(Consistency::Stale)
    }

    /// Sets how recent the answer must be; linearizable by default.
    ///
    /// ```
    /// # use mokv::client::{ChangesOptions, Consistency};
    /// let options = ChangesOptions::all().consistency(Consistency::Stale);
    /// assert_eq!(options, ChangesOptions::all().stale());
    /// ```
    pub fn consistency(mut self, consistency: Consistency) -> ChangesOptions {
        self.consistency = consistency;
        self
    }

    /// Returns the request; `min_revision` is what a stale answer must cover.
    ///
    /// # Errors
    /// [`Error::Invalid`] for revision 0, at which no store ever is.
    pub(super) fn wire(&self, min_revision: u64) -> Result<api::ChangesRequest, Error> {
        let range = self.range.clone().map(|KeyRange { start, end }| api::KeyRange { start, end });
        Ok(api::ChangesRequest {
            keys: range.map(api::changes_request::Keys::Range),
            from_revision: wire_revision(self.from_revision)?,
            to_revision: wire_revision(self.to_revision)?,
            start_after: self.start_after.map(Position::wire),
            limit: wire_limit(self.limit),
            keys_only: self.keys_only,
            consistency: self.consistency.wire(),
            min_revision,
        })
    }
}

/// Returns the limit in a request, where 0 means none. A listing of no keys asks for one: it still has a revision.
pub(super) fn wire_limit(limit: Option<u64>) -> u64 {
    limit.map_or(0, |keys| keys.max(1))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::super::{KeyValue, Read};
    use super::*;

    #[test]
    fn a_condition_is_what_it_says_and_0_is_none() {
        assert_eq!(WriteOptions::default().wire(), Ok(None));
        assert_eq!(WriteOptions::if_absent().wire(), Ok(Some(0)));
        assert_eq!(WriteOptions::if_revision(7).wire(), Ok(Some(7)));
        assert!(matches!(WriteOptions::if_revision(0).wire(), Err(Error::Invalid(_))));
    }

    #[test]
    fn unchanged_is_the_same_revision_or_still_absent() {
        let mut read = Read { revision: 9, entry: None };
        assert_eq!(WriteOptions::if_unchanged(&read), WriteOptions::if_absent());
        let entry = api::GetResponse { mod_revision: 4, ..Default::default() };
        read.entry = Some(KeyValue::from_wire(entry));
        assert_eq!(WriteOptions::if_unchanged(&read), WriteOptions::if_revision(4));
    }

    #[test]
    fn what_a_listing_leaves_open_is_absent_from_its_request() {
        let all = ListOptions::all().wire(0).unwrap();
        assert_eq!(all, api::ListRequest::default());
        let page = ListOptions::prefix("a/").start_after("a/b").limit(3).keys_only().stale().at_revision(8);
        let page = page.wire(5).unwrap();
        assert_eq!((&page.prefix[..], &page.start_after[..]), (&b"a/"[..], &b"a/b"[..]));
        assert_eq!((page.limit, page.keys_only, page.at_revision, page.min_revision), (3, true, 8, 5));
        assert_eq!(page.consistency(), api::Consistency::Stale);
        assert_eq!(ListOptions::all().limit(0).wire(0).unwrap().limit, 1, "none would be all");
        assert!(matches!(ListOptions::all().at_revision(0).wire(0), Err(Error::Invalid(_))));
    }

    #[test]
    fn what_a_reading_of_the_history_leaves_open_is_absent_from_its_request() {
        let all = ChangesOptions::all().wire(0).unwrap();
        assert_eq!(all, api::ChangesRequest::default());
        let last = Position { revision: 7, place: 2, cluster: NonZeroU64::new(5) };
        let page = ChangesOptions::prefix("a/").from_revision(3).to_revision(9).start_after(last).limit(4);
        let page = page.keys_only().stale().wire(5).unwrap();
        let range = api::KeyRange { start: "a/".into(), end: Some("a0".into()) };
        assert_eq!(page.keys, Some(api::changes_request::Keys::Range(range)));
        assert_eq!(page.start_after, Some(api::Position { revision: 7, place: 2, cluster: 5 }));
        assert_eq!((page.from_revision, page.to_revision, page.limit, page.keys_only), (3, 9, 4, true));
        assert_eq!((page.consistency(), page.min_revision), (api::Consistency::Stale, 5));

        let key = || api::VersionsRequest { key: "k".into(), ..Default::default() };
        assert_eq!(VersionsOptions::all().wire(b"k", 0).unwrap(), key());
        let some = VersionsOptions::all().from_revision(3).to_revision(9).limit(4).stale().wire(b"k", 5);
        let consistency = api::Consistency::Stale as i32;
        let expected = api::VersionsRequest { from_revision: 3, to_revision: 9, limit: 4, ..key() };
        assert_eq!(some.unwrap(), api::VersionsRequest { consistency, min_revision: 5, ..expected });
        for wrong in [VersionsOptions::all().from_revision(0), VersionsOptions::all().to_revision(0)] {
            assert!(matches!(wrong.wire(b"k", 0), Err(Error::Invalid(_))));
        }
        for wrong in [ChangesOptions::all().from_revision(0), ChangesOptions::all().to_revision(0)] {
            assert!(matches!(wrong.wire(0), Err(Error::Invalid(_))));
        }
    }
}
