//! What a node tells whoever watches it: each step of its log, its votes and its state, as it is taken.
//!
//! The place that watches, caches and judges listen to. Nobody listens in production; nothing waits for a listener,
//! and none can change what happens.

use std::sync::Arc;

use bytes::Bytes;

use super::Store;
use super::types::{LogId, Vote};
use crate::map::Change;

/// Hears of every step of one node. What it does not care for it leaves out.
pub trait Observer: Send + Sync + 'static {
    /// Raft starts under this id, with what recovery found in the log.
    fn opened(&self, _node_id: u64, _found: &Found) {}
    /// This is the state that it will hold, empty as yet: whoever plays with failing memory finds it here.
    fn holds(&self, _store: &Arc<Store>) {}
    /// A vote is durable, and may be answered now. A committed vote for the node itself: it leads that term, and its
    /// log is what it was elected with.
    fn voted(&self, _vote: &Vote) {}
    /// An entry stands at the end of the log, durable or not.
    fn appended(&self, _at: LogId, _payload: &Bytes) {}
    /// Everything up to here was called durable; a leader may count on it.
    fn acknowledged(&self, _last: LogId) {}
    /// The entries behind `last` (`None`: all) may be gone from now on.
    fn truncating(&self, _last: Option<LogId>) {}
    /// They are gone, durably.
    fn truncated(&self, _last: Option<LogId>) {}
    /// The entries up to here are gone: a snapshot stands for them.
    fn purged(&self, _upto: LogId) {}
    /// An entry was applied and made this change; `digest` is that of the state after it.
    fn applied(&self, _at: LogId, _payload: &Bytes, _change: Option<&Change>, _digest: u128) {}
    /// A snapshot replaced the state, which has this digest now.
    fn installed(&self, _at: LogId, _digest: u128) {}
    /// The state of this position, applied or installed, has these members: a digest of who they are and since when.
    fn members(&self, _at: LogId, _digest: u128) {}
}

/// What a node found in its log when it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The vote saved last.
    pub vote: Option<Vote>,
    /// Entries up to here are gone.
    pub purged: Option<LogId>,
    /// The last entry, or `purged` if there is none behind it.
    pub last: Option<LogId>,
}
