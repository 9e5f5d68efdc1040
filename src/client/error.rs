//! What a call can come to besides success.
//!
//! For writes three things are never confused: refused for certain, never executed, and unknown. Messages never
//! contain values.

use std::fmt;
use std::sync::Arc;

use mokv_proto::tonic::{Code, Status};

/// What an error says, and what is behind it.
#[derive(Clone)]
pub struct Why {
    text: String,
    /// What the node answered, or how the connection to it broke.
    status: Option<Arc<Status>>,
}

impl Why {
    /// The words.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What a node said, in words that tell more than it did.
    pub(super) fn of(text: impl Into<String>, status: &Status) -> Why {
        Why { text: text.into(), status: Some(Arc::new(status.clone())) }
    }

    /// The same cause, told in other words.
    pub(super) fn reworded(&self, text: String) -> Why {
        Why { text, status: self.status.clone() }
    }
}

impl From<String> for Why {
    fn from(text: String) -> Why {
        Why { text, status: None }
    }
}

impl From<&str> for Why {
    fn from(text: &str) -> Why {
        text.to_owned().into()
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

// By what is told: a status cannot be compared.
impl PartialEq for Why {
    fn eq(&self, other: &Why) -> bool {
        self.text == other.text
    }
}

impl Eq for Why {}

/// Why a call failed.
///
/// [`source`](std::error::Error::source) is the [`Status`] that a node or its connection gave, if there was one; what
/// that says is part of the message already.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// What the call names does not exist (a member, a node). An absent *key* is no error: see [`super::Read`].
    NotFound(Why),
    /// `if_revision` did not match; nothing was written.
    ConditionFailed {
        /// The key's mod revision; 0: it does not exist.
        present_revision: u64,
    },
    /// The write was certainly not executed and never will be; sending it again is safe.
    NotExecuted(Why),
    /// The write may have been executed, or may yet be; only reading tells.
    Unknown(Why),
    /// The request breaks a rule (empty or over-long key, key that is not UTF-8, over-large value); nothing was done.
    Invalid(Why),
    /// The store or the node is full; nothing was done.
    ResourceExhausted(Why),
    /// The revision a listing wants to go on with is no longer retained: list again from the start.
    RevisionGone(Why),
    /// The read could not be served in time by any node; reading again is safe.
    Unavailable(Why),
    /// The node refuses the request for good (not permitted, not known to it, not in this state); nothing was done.
    Refused(Why),
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
        let message = Why::of(status.message(), status);
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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::ConditionFailed { present_revision } => {
                write!(f, "condition failed: {}", present(*present_revision))
            }
            Error::NotExecuted(why) => write!(f, "{why}; it was not executed"),
            Error::Unknown(why) => {
                write!(f, "{why}; it may have been executed or not: read before you write again")
            }
            Error::NotFound(why)
            | Error::Invalid(why)
            | Error::ResourceExhausted(why)
            | Error::RevisionGone(why)
            | Error::Unavailable(why)
            | Error::Refused(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let why = match self {
            Error::ConditionFailed { .. } => return None,
            Error::NotFound(why)
            | Error::NotExecuted(why)
            | Error::Unknown(why)
            | Error::Invalid(why)
            | Error::ResourceExhausted(why)
            | Error::RevisionGone(why)
            | Error::Unavailable(why)
            | Error::Refused(why) => why,
        };
        why.status.as_deref().map(|status| status as _)
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
        let why = || Why::from("why");
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

    #[test]
    fn the_source_is_what_the_node_said() {
        let status = Status::permission_denied("go away");
        let error = Error::refusal(&status).unwrap();
        assert_eq!(error.to_string(), "go away");
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Status>());
        assert_eq!(source.map(Status::code), Some(Code::PermissionDenied));
        assert!(std::error::Error::source(&Error::Invalid(Why::from("no key"))).is_none());
    }
}
