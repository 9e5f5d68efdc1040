//! What becomes of a request that is not answered as it asked.

/// Why a request is not answered as it asked. Each API has a code and a text for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    // ---- the request is wrong: the same for ever ----
    /// The key has no bytes.
    EmptyKey,
    /// The key has so many bytes, more than [`crate::config::MAX_KEY_BYTES`].
    LongKey {
        /// How many.
        bytes: usize,
    },
    /// The value has more bytes than `max-value-bytes` allows.
    LongValue {
        /// How many.
        bytes: usize,
        /// How many are allowed.
        most: usize,
    },
    /// What was asked for makes no sense, in words.
    Invalid(String),

    // ---- answers of the store: definite ----
    /// The key does not exist at this revision of the store.
    NoSuchKey {
        /// The store's revision.
        revision: u64,
    },
    /// The revision that a listing is to go on with is no longer retained.
    RevisionGone {
        /// That one.
        revision: u64,
    },
    /// `if_revision` did not match.
    ConditionFailed {
        /// The key's mod revision; 0: it does not exist.
        present_revision: u64,
    },
    /// The session is unknown, closed or evicted, and nothing was applied.
    SessionExpired,
    /// The sequence is outside of the session's window, and nothing was applied.
    OutOfWindow {
        /// The lowest sequence in it.
        lowest: u64,
    },
    /// The store holds as many bytes as it may, and nothing was applied.
    StoreFull {
        /// The replicated bound, in bytes of keys and values.
        max_store_bytes: u64,
    },

    // ---- answers of this node: definite ----
    /// No member has this name.
    NoSuchMember(String),
    /// The cluster is not as the request needs it, in words.
    Precondition(String),
    /// The answer is larger than it may be, or there is no room on a disk, in words.
    NoRoom(String),
    /// This node cannot do it now, in words, and has not done it.
    Unavailable(String),
    /// The answer was not ready by the deadline, in words. Nothing was to be changed.
    Late(String),

    // ---- certainly not executed ----
    /// As many requests are under way as may be, in words; the caller may try again.
    Overloaded(String),
    /// The node came to execute nothing, in words: there is no leader, or it is another node.
    NotExecuted {
        /// Why.
        reason: String,
        /// Where the leader is, as `host:port`, if that is known.
        leader: Option<String>,
    },

    // ---- unknown ----
    /// It may have been executed, or may yet be.
    Unknown {
        /// Why the outcome is not known, in words.
        reason: String,
        /// The deadline has passed.
        is_late: bool,
    },

    /// A bug of this program, in words.
    Bug(String),
}

/// What is certain about the effect of a request that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// It was answered; of what it would have changed, nothing was.
    Refused,
    /// It was not executed, and will not be.
    NotExecuted,
    /// It may have been executed, or may yet be.
    Unknown,
}

impl Refused {
    /// What is certain about the request's effect.
    pub fn certainty(&self) -> Certainty {
        match self {
            Refused::Overloaded(_) | Refused::NotExecuted { .. } => Certainty::NotExecuted,
            Refused::Unknown { .. } | Refused::Bug(_) => Certainty::Unknown,
            Refused::EmptyKey
            | Refused::LongKey { .. }
            | Refused::LongValue { .. }
            | Refused::Invalid(_)
            | Refused::NoSuchKey { .. }
            | Refused::RevisionGone { .. }
            | Refused::ConditionFailed { .. }
            | Refused::SessionExpired
            | Refused::OutOfWindow { .. }
            | Refused::StoreFull { .. }
            | Refused::NoSuchMember(_)
            | Refused::Precondition(_)
            | Refused::NoRoom(_)
            | Refused::Unavailable(_)
            | Refused::Late(_) => Certainty::Refused,
        }
    }

    /// Certainly not executed; no leader is known.
    pub fn not_executed(reason: impl Into<String>) -> Refused {
        Refused::NotExecuted { reason: reason.into(), leader: None }
    }

    /// It may have been executed, or may yet be; the deadline has not passed.
    pub fn unknown(reason: impl Into<String>) -> Refused {
        Refused::Unknown { reason: reason.into(), is_late: false }
    }
}
