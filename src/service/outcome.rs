//! The outcomes of a request that does not succeed.

/// The reason why a request did not succeed. Each API has a code and a text for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    // ---- the request is invalid: sending it again gives the same answer ----
    /// The key has no bytes.
    EmptyKey,
    /// The key has more bytes than [`crate::config::MAX_KEY_BYTES`].
    LongKey {
        /// The key's bytes.
        bytes: usize,
    },
    /// The value has more bytes than `max-value-bytes` allows.
    LongValue {
        /// The value's bytes.
        bytes: usize,
        /// The bytes that are allowed.
        most: usize,
    },
    /// An argument of the request is invalid; the text says which.
    Invalid(String),

    // ---- answers of the store: definite ----
    /// The key does not exist at this revision of the store.
    NoSuchKey {
        /// The store's revision.
        revision: u64,
    },
    /// The revision is below the earliest one that can be read.
    Compacted {
        /// The revision that was requested.
        revision: u64,
        /// The earliest that can be read.
        floor: u64,
    },
    /// The store has not reached the revision.
    FutureRevision {
        /// The revision that was requested.
        revision: u64,
        /// The store's revision.
        present: u64,
    },
    /// Another cluster made the change behind which to read on.
    AnotherCluster,
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
    /// The store has reached `max-store-bytes`, and nothing was applied.
    StoreFull {
        /// The replicated bound, in bytes.
        max_store_bytes: u64,
    },

    /// The transaction would change or look at more than the replicated settings allow; the text says which.
    TransactionTooLarge(String),

    // ---- answers of this node: definite ----
    /// No member has this name.
    NoSuchMember(String),
    /// The cluster is not in the state that the request requires; the text says why.
    Precondition(String),
    /// The answer is larger than its bound, or a disk has no room; the text says which.
    NoRoom(String),
    /// This node cannot execute the request now, and has not; the text says why.
    Unavailable(String),
    /// The answer was not ready by the deadline; the text says of what. The request changes nothing.
    Late(String),

    // ---- certainly not executed ----
    /// A bound of this node is reached; the text says which. The caller may try again.
    Overloaded(String),
    /// The node did not execute the request: for example there is no leader, or the leader is another node.
    NotExecuted {
        /// The reason, as a sentence.
        reason: String,
        /// The leader's address as `host:port`, if it is known.
        leader: Option<String>,
    },

    // ---- unknown ----
    /// The request may have been executed, or may yet be.
    Unknown {
        /// The reason why the outcome is not known, as a sentence.
        reason: String,
        /// Whether the deadline has passed.
        is_late: bool,
    },

    /// A bug of this program; the text says where.
    Bug(String),
}

/// What is certain about the effect of a request that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// It was answered, and changed nothing.
    Refused,
    /// It was not executed, and will not be.
    NotExecuted,
    /// It may have been executed, or may yet be.
    Unknown,
}

impl Refused {
    /// Returns what is certain about the request's effect.
    pub fn certainty(&self) -> Certainty {
        match self {
            Refused::Overloaded(_) | Refused::NotExecuted { .. } => Certainty::NotExecuted,
            Refused::Unknown { .. } | Refused::Bug(_) => Certainty::Unknown,
            Refused::EmptyKey
            | Refused::LongKey { .. }
            | Refused::LongValue { .. }
            | Refused::Invalid(_)
            | Refused::NoSuchKey { .. }
            | Refused::Compacted { .. }
            | Refused::FutureRevision { .. }
            | Refused::AnotherCluster
            | Refused::ConditionFailed { .. }
            | Refused::SessionExpired
            | Refused::OutOfWindow { .. }
            | Refused::StoreFull { .. }
            | Refused::TransactionTooLarge(_)
            | Refused::NoSuchMember(_)
            | Refused::Precondition(_)
            | Refused::NoRoom(_)
            | Refused::Unavailable(_)
            | Refused::Late(_) => Certainty::Refused,
        }
    }

    /// Returns the refusal of a request that was certainly not executed, with no leader's address.
    pub fn not_executed(reason: impl Into<String>) -> Refused {
        Refused::NotExecuted { reason: reason.into(), leader: None }
    }

    /// Returns the refusal of a request that may have been executed, or may yet be; its deadline has not passed.
    pub fn unknown(reason: impl Into<String>) -> Refused {
        Refused::Unknown { reason: reason.into(), is_late: false }
    }
}
