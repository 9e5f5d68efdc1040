//! What a call can come to besides success.
//!
//! For writes three things are never confused: refused for certain, never executed, and unknown. Messages never
//! contain values.

use mokv_proto::tonic::{Code, Status};

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the call names does not exist (a member, a node). An absent *key* is no error: see [`super::Read`].
    #[error("{0}")]
    NotFound(String),
    /// `if_revision` did not match; nothing was written.
    #[error("condition failed: {}", present(*present_revision))]
    ConditionFailed {
        /// The key's mod revision; 0: it does not exist.
        present_revision: u64,
    },
    /// The write was certainly not executed and never will be; sending it again is safe.
    #[error("{0}; it was not executed")]
    NotExecuted(String),
    /// The write may have been executed, or may yet be; only reading tells.
    #[error("{0}; it may have been executed or not: read before you write again")]
    Unknown(String),
    /// The request breaks a rule (empty or over-long key, key that is not UTF-8, over-large value); nothing was done.
    #[error("{0}")]
    Invalid(String),
    /// The store or the node is full; nothing was done.
    #[error("{0}")]
    ResourceExhausted(String),
    /// The revision a listing wants to go on with is no longer retained: list again from the start.
    #[error("{0}")]
    RevisionGone(String),
    /// The read could not be served in time by any node; reading again is safe.
    #[error("{0}")]
    Unavailable(String),
    /// The node refuses the request for good (not permitted, not known to it, not in this state); nothing was done.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// Whether a write that failed so may have been executed all the same.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Error::Unknown(_))
    }

    /// Whether making the same call again is safe and may succeed: nothing was done, and what stood in the way passes by
    /// itself. Of a write whose outcome is unknown it is false, and of what needs somebody to do something first (make
    /// room, correct the request, list from the start).
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::NotExecuted(_) | Error::Unavailable(_))
    }

    /// A definite refusal: the answering node did nothing, and would refuse the same request again. `None` if
    /// the status does not mean that.
    pub(super) fn refusal(status: &Status) -> Option<Error> {
        let message = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Some(Error::Invalid(message)),
            Code::NotFound => Some(Error::NotFound(message)),
            Code::ResourceExhausted => Some(Error::ResourceExhausted(message)),
            Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented => Some(Error::Refused(message)),
            _ => None,
        }
    }
}

fn present(revision: u64) -> String {
    match revision {
        0 => "the key does not exist".to_owned(),
        revision => format!("the key is at revision {revision}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_did_nothing_and_passes_by_itself_is_retryable() {
        let why = || "why".to_owned();
        let retryable = [Error::NotExecuted(why()), Error::Unavailable(why())];
        assert!(retryable.iter().all(Error::is_retryable));
        let others = [
            Error::NotFound(why()),
            Error::ConditionFailed { present_revision: 1 },
            Error::Unknown(why()),
            Error::Invalid(why()),
            Error::ResourceExhausted(why()),
            Error::RevisionGone(why()),
            Error::Refused(why()),
        ];
        assert!(!others.iter().any(Error::is_retryable));
    }
}
