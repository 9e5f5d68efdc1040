//! The errors of a call.
//!
//! For writes three outcomes are never confused: definitely refused, never executed, and unknown. Messages never
//! contain values.

use std::fmt;
use std::sync::Arc;

use mokv_proto::tonic::{Code, Status};

/// The message of an error and its cause.
#[derive(Clone)]
pub struct Why {
    text: String,
    /// The status that the node returned or that the broken connection produced.
    status: Option<Arc<Status>>,
}

impl Why {
    /// The message.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A message that tells more than the node's `status`, with `status` as the cause.
    pub(super) fn of(text: impl Into<String>, status: &Status) -> Why {
        Why { text: text.into(), status: Some(Arc::new(status.clone())) }
    }

    /// Returns the same cause with another message.
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

// Compares messages only: a status cannot be compared.
impl PartialEq for Why {
    fn eq(&self, other: &Why) -> bool {
        self.text == other.text
    }
}

impl Eq for Why {}

/// Why a call failed.
///
/// [`source`](std::error::Error::source) is the [`Status`] that a node or its connection returned, if any; the message
/// already includes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The member or node named in the call does not exist. An absent *key* is no error: see [`super::Read`].
    NotFound(Why),
    /// The condition of the write ([`super::WriteOptions`]) does not hold; nothing was written.
    ConditionFailed {
        /// The key's mod revision; `None`: the key does not exist.
        present_revision: Option<u64>,
    },
    /// The write was certainly not executed and never will be; it is safe to send it again.
    NotExecuted(Why),
    /// The write may have been executed or may still be; only a read can tell.
    Unknown(Why),
    /// The request is invalid (empty or over-long key, over-large value); nothing was done.
    Invalid(Why),
    /// The store or the node is full; nothing was done.
    ResourceExhausted(Why),
    /// The revision at which to read is compacted, or a position is another cluster's: read the present revision, and list
    /// again from the start.
    RevisionGone(Why),
    /// No node served the read in time; it is safe to read again.
    Unavailable(Why),
    /// The node rejects the request permanently (not permitted, not implemented, not possible in its state); nothing
    /// was done.
    Refused(Why),
}

impl Error {
    /// Whether a write that failed with this error may have been executed.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Error::Unknown(_))
    }

    /// Whether it is safe to repeat the call and the repetition may succeed: nothing was done, and the cause is
    /// temporary. False for a write whose outcome is unknown, and if something has to be changed first (free space,
    /// correct the request, list from the start).
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::NotExecuted(_) | Error::Unavailable(_))
    }

    /// Returns the error of a definite refusal: the node did nothing and would refuse the same request again. `None` if
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

fn present(revision: Option<u64>) -> String {
    match revision {
        None => "the key does not exist".to_owned(),
        Some(revision) => format!("the key is at revision {revision}"),
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
            Error::ConditionFailed { present_revision: Some(1) },
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
