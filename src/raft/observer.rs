//! The hook through which each step of a node's log, votes and state can be observed as it is taken.
//!
//! For watches, caches and the simulation's checkers. No observer is set in production; nothing waits for one, and none
//! can change what happens.

use std::sync::Arc;

use bytes::Bytes;

use super::Store;
use super::types::{LogId, Vote};
use crate::map::Change;
use crate::node_id::NodeId;

/// Receives every step of one node. Each method does nothing unless it is implemented.
pub trait Observer: Send + Sync + 'static {
    /// Raft starts under this id, with what recovery found in the log.
    fn opened(&self, _node_id: NodeId, _found: &Found) {}
    /// The store that the node will use, still empty: the simulation injects memory faults through it.
    fn holds(&self, _store: &Arc<Store>) {}
    /// A vote is durable, and may be answered now. If it is a committed vote for the node itself, the node leads that
    /// term, and its log is the one it was elected with.
    fn voted(&self, _vote: &Vote) {}
    /// An entry is appended to the log, durable or not.
    fn appended(&self, _at: LogId, _payload: &Bytes) {}
    /// Everything up to here was reported as durable; a leader may count on it.
    fn acknowledged(&self, _last: LogId) {}
    /// The entries after `last` (`None`: all) may be gone from now on.
    fn truncating(&self, _last: Option<LogId>) {}
    /// They are gone, durably.
    fn truncated(&self, _last: Option<LogId>) {}
    /// The entries up to here are gone: a snapshot replaces them.
    fn purged(&self, _upto: LogId) {}
    /// An entry was applied and made these changes; `digest` is that of the state after it.
    fn applied(&self, _at: LogId, _payload: &Bytes, _changes: &[Change], _digest: u128) {}
    /// The earliest revision that can be read in the state after an entry.
    fn readable_from(&self, _at: LogId, _floor: u64) {}
    /// A snapshot replaced the state, which has this digest now.
    fn installed(&self, _at: LogId, _digest: u128) {}
    /// The digest of the membership and its log id in the state at this position, applied or installed.
    fn members(&self, _at: LogId, _digest: u128) {}
}

/// What a node found in its log when it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The vote saved last.
    pub vote: Option<Vote>,
    /// Entries up to here are purged.
    pub purged: Option<LogId>,
    /// The last entry, or `purged` if there is none after it.
    pub last: Option<LogId>,
}
