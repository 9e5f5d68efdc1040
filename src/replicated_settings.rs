//! The replicated settings: those on which all nodes agree, because they decide the result of a write or who may join.
//!
//! One type for the state, the core, the command line and the client. Plain values: no IO, no wire format. A node's own
//! settings are in `config`.

use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::time::Duration;

/// The values that [`Settings::max_sessions`] may be set to. A log entry with another value is older than this bound.
pub const MAX_SESSIONS: RangeInclusive<u64> = 1..=1_000_000;

/// The values that [`Settings::max_transaction_changes`] may be set to. The store stands still for a few seconds at most.
pub const MAX_TRANSACTION_CHANGES: RangeInclusive<u64> = 1..=1_000_000;

/// The values that [`Settings::max_transaction_bytes`] may be set to.
pub const MAX_TRANSACTION_BYTES: RangeInclusive<u64> = 4 << 10..=1 << 30;

/// The settings of a cluster; only log entries change them. The default is what a new cluster starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Maximum number of client sessions, at least 1. Beyond it the least recently used session is evicted.
    pub max_sessions: u64,
    /// Maximum size of what must be kept, in bytes: keys, values and sessions, each with what it takes besides its content;
    /// `None`: no bound. The store may exceed a bound that was lowered. History counts as well, and gives way.
    pub max_store_bytes: Option<NonZeroU64>,
    /// How long a revision can be read after later ones, in whole seconds; `None`: no matter how long. The leader measures
    /// it, and a new leader from its election on: a revision may reach twice the age.
    pub history_max_age: Option<Duration>,
    /// Maximum size of earlier versions, in bytes; `None`: no bound. The leader keeps the history below it, a moment late.
    pub history_max_bytes: Option<NonZeroU64>,
    /// So many revisions before the present one can be read, whatever their age and size, unless the store or a disk is
    /// full.
    pub history_min_revisions: u64,
    /// Most keys that one transaction changes, at least 1. The store stands still while it is executed.
    pub max_transaction_changes: u64,
    /// Most bytes of keys and values that one transaction looks at to test conditions on ranges and to delete ranges, with a
    /// fixed amount for each version.
    pub max_transaction_bytes: u64,
    /// The number of voters that the cluster is to have; `None`: as many as join. Affects which nodes are admitted, but
    /// no answer to a read or a write.
    pub wanted_size: Option<NonZeroU32>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            max_sessions: 10_000,
            max_store_bytes: None,
            history_max_age: Some(Duration::from_secs(5 * 60)),
            history_max_bytes: NonZeroU64::new(128 << 20),
            history_min_revisions: 100,
            max_transaction_changes: 10_000,
            max_transaction_bytes: 64 << 20,
            wanted_size: None,
        }
    }
}

/// A change of the bounds among the [`Settings`]. What it does not name stays as it is. (The wanted size is changed by
/// itself.)
///
/// ```
/// use std::num::NonZeroU64;
///
/// use mokv::client::SettingsChange;
///
/// let change = SettingsChange::none().max_sessions(20_000).max_store_bytes(NonZeroU64::new(2 << 30));
/// assert_eq!(change.max_sessions, Some(20_000));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SettingsChange {
    /// The new [`Settings::max_sessions`].
    pub max_sessions: Option<u64>,
    /// The new [`Settings::max_store_bytes`], `Some(None)` for no bound.
    pub max_store_bytes: Option<Option<NonZeroU64>>,
    /// The new [`Settings::history_max_age`], `Some(None)` for no bound. Parts of a second are cut off.
    pub history_max_age: Option<Option<Duration>>,
    /// The new [`Settings::history_max_bytes`], `Some(None)` for no bound.
    pub history_max_bytes: Option<Option<NonZeroU64>>,
    /// The new [`Settings::history_min_revisions`].
    pub history_min_revisions: Option<u64>,
    /// The new [`Settings::max_transaction_changes`].
    pub max_transaction_changes: Option<u64>,
    /// The new [`Settings::max_transaction_bytes`].
    pub max_transaction_bytes: Option<u64>,
}

/// Returns the age for which a wire or stored format has this number of seconds. 0: no bound.
pub(crate) fn age_of_seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds)).filter(|age| !age.is_zero())
}

/// Returns the number of seconds for an age, at least 1; 0: no bound.
pub(crate) fn seconds_of_age(age: Option<Duration>) -> u64 {
    age.map_or(0, |age| age.as_secs().max(1))
}

impl SettingsChange {
    /// Changes nothing.
    pub fn none() -> SettingsChange {
        SettingsChange::default()
    }

    /// Keeps at most so many client sessions, 1 to 1,000,000.
    pub fn max_sessions(self, sessions: u64) -> SettingsChange {
        SettingsChange { max_sessions: Some(sessions), ..self }
    }

    /// Bounds what the store must keep to so many bytes; `None`: no bound.
    pub fn max_store_bytes(self, bytes: impl Into<Option<NonZeroU64>>) -> SettingsChange {
        SettingsChange { max_store_bytes: Some(bytes.into()), ..self }
    }

    /// Keeps revisions for so long, in whole seconds, at least one; `None`: no matter how long.
    pub fn history_max_age(self, age: impl Into<Option<Duration>>) -> SettingsChange {
        SettingsChange { history_max_age: Some(age.into()), ..self }
    }

    /// Bounds earlier versions to so many bytes; `None`: no bound.
    pub fn history_max_bytes(self, bytes: impl Into<Option<NonZeroU64>>) -> SettingsChange {
        SettingsChange { history_max_bytes: Some(bytes.into()), ..self }
    }

    /// Keeps so many revisions before the present one, whatever their age and size.
    pub fn history_min_revisions(self, revisions: u64) -> SettingsChange {
        SettingsChange { history_min_revisions: Some(revisions), ..self }
    }

    /// Bounds the keys that one transaction changes.
    pub fn max_transaction_changes(self, changes: u64) -> SettingsChange {
        SettingsChange { max_transaction_changes: Some(changes), ..self }
    }

    /// Bounds what one transaction looks at, in bytes.
    pub fn max_transaction_bytes(self, bytes: u64) -> SettingsChange {
        SettingsChange { max_transaction_bytes: Some(bytes), ..self }
    }

    /// Returns `settings` with this change.
    pub fn applied_to(self, settings: Settings) -> Settings {
        Settings {
            // At least one: otherwise opening a session would evict it.
            max_sessions: self.max_sessions.map_or(settings.max_sessions, |sessions| sessions.max(1)),
            max_store_bytes: self.max_store_bytes.unwrap_or(settings.max_store_bytes),
            history_max_age: self.history_max_age.unwrap_or(settings.history_max_age),
            history_max_bytes: self.history_max_bytes.unwrap_or(settings.history_max_bytes),
            history_min_revisions: self.history_min_revisions.unwrap_or(settings.history_min_revisions),
            // A write of one key is a transaction, too.
            max_transaction_changes: (self.max_transaction_changes)
                .map_or(settings.max_transaction_changes, |changes| changes.max(1)),
            max_transaction_bytes: self.max_transaction_bytes.unwrap_or(settings.max_transaction_bytes),
            ..settings
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let bound = NonZeroU64::new(9);
        let settings =
            Settings { max_store_bytes: bound, wanted_size: NonZeroU32::new(3), ..Settings::default() };
        assert_eq!(SettingsChange::none().applied_to(settings), settings);
        let fewer = SettingsChange::none().max_sessions(5).applied_to(settings);
        assert_eq!(fewer, Settings { max_sessions: 5, ..settings });
        let unbounded = SettingsChange::none().max_store_bytes(None).applied_to(settings);
        assert_eq!(unbounded, Settings { max_store_bytes: None, ..settings });
        assert_eq!(SettingsChange::none().max_sessions(0).applied_to(settings).max_sessions, 1);
    }
}
