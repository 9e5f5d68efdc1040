//! The answer to an applied command.
//!
//! An answer is small, holds no key and no value, and is the same on every node. Sessions remember answers, forwarding
//! nodes carry them back and snapshots keep them: [`log::Answer`] is the encoded form.

use mokv_proto::log::{self, answer::Outcome as Wire};
use std::sync::Arc;

use super::Outcome;
use super::sizes::OUTCOME_BYTES;

/// The answer to one applied command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The value was written; the store is now at `revision`.
    Written {
        /// The revision that the write made.
        revision: u64,
    },
    /// The key does not exist any more.
    Deleted {
        /// The store's revision after the delete; deleting an absent key does not advance it.
        revision: u64,
        /// Whether the key existed.
        existed: bool,
    },
    /// `if_revision` did not match; nothing was written.
    ConditionFailed {
        /// The key's mod revision; 0 if the key does not exist.
        present_revision: u64,
    },
    /// A session was opened.
    SessionOpened {
        /// Its id: the log index of the entry that opened it.
        session: u64,
    },
    /// The session is closed.
    SessionClosed {
        /// `false` if it was closed or evicted before, or never opened.
        existed: bool,
    },
    /// The write names a session that is unknown, closed or evicted; nothing was written.
    SessionExpired,
    /// The write's sequence number is outside its session's window; nothing was written.
    OutOfWindow {
        /// The lowest sequence number in the window.
        lowest: u64,
    },
    /// The write would grow the store beyond its replicated bound; nothing was written.
    StoreFull {
        /// The bound, in bytes.
        max_store_bytes: u64,
    },
    /// Revisions below the floor cannot be read any more.
    Compacted {
        /// The earliest revision that can be read.
        floor: u64,
        /// `false` if the floor was there before, or higher than asked for.
        raised: bool,
    },
    /// The revision is not there yet; nothing was done.
    FutureRevision {
        /// The present revision.
        present: u64,
    },
    /// A transaction was executed.
    Transaction(Arc<Outcome>),
    /// The transaction would change too many keys; nothing was done.
    TooManyChanges {
        /// [`Settings::max_transaction_changes`](crate::replicated_settings::Settings::max_transaction_changes).
        max_changes: u64,
    },
    /// The transaction would look at too many bytes; nothing was done.
    TooManyBytes {
        /// [`Settings::max_transaction_bytes`](crate::replicated_settings::Settings::max_transaction_bytes).
        max_bytes: u64,
    },
    /// The transaction reads a revision that cannot be read any more; nothing was done.
    BelowFloor {
        /// The earliest revision that can be read.
        floor: u64,
    },
    /// Applied; the command has no result.
    Done,
}

impl Answer {
    /// The bytes that it takes in a snapshot, together with its sequence number, at most.
    pub(super) fn max_encoded_bytes(&self) -> u64 {
        const NUMBER: u64 = 10;
        const FRAME: u64 = 20;
        let numbers = match self {
            Answer::Transaction(outcome) => outcome.branches.len() + outcome.deleted.len(),
            _ => 1,
        };
        FRAME + NUMBER * (2 + numbers as u64)
    }

    /// What the outcome of a transaction takes in memory besides an answer, in bytes.
    pub(super) fn outcome_bytes(&self) -> u64 {
        match self {
            Answer::Transaction(outcome) => {
                OUTCOME_BYTES + outcome.branches.len() as u64 + 8 * outcome.deleted.len() as u64
            }
            _ => 0,
        }
    }
}

/// The bytes hold an answer of a kind that this version cannot decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an answer is of a kind this version of mokv does not know; upgrade this node to its peers' version")]
pub struct UnknownAnswer;

impl From<Answer> for log::Answer {
    fn from(answer: Answer) -> log::Answer {
        let outcome = match answer {
            Answer::Written { revision } => Wire::Written(log::Written { revision }),
            Answer::Deleted { revision, existed } => Wire::Deleted(log::Deleted { revision, existed }),
            Answer::ConditionFailed { present_revision } => {
                Wire::ConditionFailed(log::ConditionFailed { present_revision })
            }
            Answer::SessionOpened { session } => Wire::SessionOpened(log::SessionOpened { session }),
            Answer::SessionClosed { existed } => Wire::SessionClosed(log::SessionClosed { existed }),
            Answer::SessionExpired => Wire::SessionExpired(log::SessionExpired {}),
            Answer::OutOfWindow { lowest } => Wire::OutOfWindow(log::OutOfWindow { lowest }),
            Answer::StoreFull { max_store_bytes } => Wire::StoreFull(log::StoreFull { max_store_bytes }),
            Answer::Compacted { floor, raised } => Wire::Compacted(log::Compacted { floor, raised }),
            Answer::FutureRevision { present } => Wire::FutureRevision(log::FutureRevision { present }),
            Answer::Transaction(outcome) => Wire::Transaction(outcome.as_ref().into()),
            Answer::TooManyChanges { max_changes } => {
                Wire::TooManyChanges(log::TooManyChanges { max_changes })
            }
            Answer::TooManyBytes { max_bytes } => Wire::TooManyBytes(log::TooManyBytes { max_bytes }),
            Answer::BelowFloor { floor } => Wire::BelowFloor(log::BelowFloor { floor }),
            Answer::Done => Wire::Done(log::Done {}),
        };
        log::Answer { outcome: Some(outcome) }
    }
}

impl TryFrom<log::Answer> for Answer {
    type Error = UnknownAnswer;

    fn try_from(answer: log::Answer) -> Result<Answer, UnknownAnswer> {
        Ok(match answer.outcome.ok_or(UnknownAnswer)? {
            Wire::Written(log::Written { revision }) => Answer::Written { revision },
            Wire::Deleted(log::Deleted { revision, existed }) => Answer::Deleted { revision, existed },
            Wire::ConditionFailed(log::ConditionFailed { present_revision }) => {
                Answer::ConditionFailed { present_revision }
            }
            Wire::SessionOpened(log::SessionOpened { session }) => Answer::SessionOpened { session },
            Wire::SessionClosed(log::SessionClosed { existed }) => Answer::SessionClosed { existed },
            Wire::SessionExpired(log::SessionExpired {}) => Answer::SessionExpired,
            Wire::OutOfWindow(log::OutOfWindow { lowest }) => Answer::OutOfWindow { lowest },
            Wire::StoreFull(log::StoreFull { max_store_bytes }) => Answer::StoreFull { max_store_bytes },
            Wire::Compacted(log::Compacted { floor, raised }) => Answer::Compacted { floor, raised },
            Wire::FutureRevision(log::FutureRevision { present }) => Answer::FutureRevision { present },
            Wire::Transaction(outcome) => Answer::Transaction(Arc::new(outcome.into())),
            Wire::TooManyChanges(log::TooManyChanges { max_changes }) => {
                Answer::TooManyChanges { max_changes }
            }
            Wire::TooManyBytes(log::TooManyBytes { max_bytes }) => Answer::TooManyBytes { max_bytes },
            Wire::BelowFloor(log::BelowFloor { floor }) => Answer::BelowFloor { floor },
            Wire::Done(log::Done {}) => Answer::Done,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn every_answer_survives_its_bytes() {
        let answers = [
            Answer::Written { revision: 7 },
            Answer::Deleted { revision: 8, existed: true },
            Answer::Deleted { revision: 8, existed: false },
            Answer::ConditionFailed { present_revision: 0 },
            Answer::SessionOpened { session: u64::MAX },
            Answer::SessionClosed { existed: true },
            Answer::SessionExpired,
            Answer::OutOfWindow { lowest: 3 },
            Answer::StoreFull { max_store_bytes: 1 << 40 },
            Answer::Compacted { floor: 9, raised: true },
            Answer::FutureRevision { present: 4 },
            Answer::Transaction(Arc::new(Outcome {
                revision: 9,
                branches: vec![true, false],
                deleted: vec![3, 0],
            })),
            Answer::TooManyChanges { max_changes: 5 },
            Answer::TooManyBytes { max_bytes: 6 },
            Answer::BelowFloor { floor: 7 },
            Answer::Done,
        ];
        for answer in answers {
            let bytes = log::Answer::from(answer.clone()).encode_to_vec();
            let read = log::Answer::decode(bytes.as_slice()).unwrap();
            assert_eq!(Answer::try_from(read), Ok(answer));
        }
    }

    #[test]
    fn an_answer_of_the_future_is_refused() {
        let field_99_empty = [0x9a, 0x06, 0x00];
        let read = log::Answer::decode(field_99_empty.as_slice()).unwrap();
        assert_eq!(Answer::try_from(read), Err(UnknownAnswer));
    }
}
