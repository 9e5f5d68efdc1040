//! Errors on the wire: the one place where a node builds a gRPC status and a client reads it.
//!
//! A client must distinguish three outcomes: *failed* (a definite answer), *never executed* and *unknown*. gRPC's codes
//! alone cannot express them, so a status also carries the metadata named here. Independent of the services and their
//! callers.

use prost::Message as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::api;

/// Metadata of an error: whether the request was executed. See [`Outcome`].
pub const HEADER_OUTCOME: &str = "mokv-outcome";
/// Metadata of an error: `host:port` of the leader's gRPC address, where a write should go.
pub const HEADER_LEADER: &str = "mokv-leader";
/// Metadata of a reply or an error: the store's revision it was made at, in decimal.
pub const HEADER_REVISION: &str = "mokv-revision";
/// Metadata of an error: the reason, for programs. See [`Reason`].
pub const HEADER_REASON: &str = "mokv-reason";

const CONDITION_FAILED_TYPE: &str = "type.googleapis.com/api.ConditionFailed";

/// The contents of `grpc-status-details-bin`: the fields of `google.rpc.Status`.
///
/// Declared here rather than generated, so that none of our descriptors has the name of Google's message: a program
/// that loads both would have two of that name.
#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// What is certain about a request without an answer of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `none`: certainly not executed, now or later. Only valid with `UNAVAILABLE` and `RESOURCE_EXHAUSTED`.
    None,
    /// `unknown`: the request may have been executed or may still be.
    Unknown,
}

impl Outcome {
    /// Returns the outcome that `status` carries; `None` if it has none that is valid.
    pub fn of(status: &Status) -> Option<Outcome> {
        match text(status.metadata(), HEADER_OUTCOME)? {
            "none" if matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) => {
                Some(Outcome::None)
            }
            "unknown" => Some(Outcome::Unknown),
            _ => None,
        }
    }
}

/// Why a write was refused when its log entry was applied: the same on every node and at every repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `condition-failed`: `if_revision` did not match.
    ConditionFailed,
    /// `session-expired`: the session is unknown, closed or evicted; nothing was applied.
    SessionExpired,
    /// `out-of-window`: the sequence lies outside the session's window; nothing was applied.
    OutOfWindow,
    /// `store-full`: the store is over its replicated bound; nothing was applied.
    StoreFull,
    /// `transaction-too-large`: a transaction would change or look at more than its replicated bounds; nothing was applied.
    TransactionTooLarge,
    /// `compacted`: a revision is below the earliest one that can be read. A transaction that reads it is not applied; a read
    /// has this reason, too.
    Compacted,
    /// `future-revision`: a revision is not there yet, as with `compacted`.
    FutureRevision,
    /// `another-cluster`: another cluster made the change behind which to read on.
    AnotherCluster,
}

impl Reason {
    const ALL: [Reason; 8] = [
        Reason::ConditionFailed,
        Reason::SessionExpired,
        Reason::OutOfWindow,
        Reason::StoreFull,
        Reason::TransactionTooLarge,
        Reason::Compacted,
        Reason::FutureRevision,
        Reason::AnotherCluster,
    ];

    /// Returns its text in the metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::ConditionFailed => "condition-failed",
            Reason::SessionExpired => "session-expired",
            Reason::OutOfWindow => "out-of-window",
            Reason::StoreFull => "store-full",
            Reason::TransactionTooLarge => "transaction-too-large",
            Reason::Compacted => "compacted",
            Reason::FutureRevision => "future-revision",
            Reason::AnotherCluster => "another-cluster",
        }
    }

    /// Returns the reason in `status`; `None` if it carries none or an unknown one.
    pub fn of(status: &Status) -> Option<Reason> {
        let given = text(status.metadata(), HEADER_REASON)?;
        Reason::ALL.into_iter().find(|reason| reason.as_str() == given)
    }
}

/// `FAILED_PRECONDITION` with the key's present mod revision (0: it does not exist) as a typed detail.
pub fn condition_failed(present_revision: u64) -> Status {
    let message = if present_revision == 0 {
        "condition failed: the key does not exist".to_owned()
    } else {
        format!("condition failed: the key is at revision {present_revision}")
    };
    let detail = api::ConditionFailed { present_revision };
    let envelope = Details {
        code: Code::FailedPrecondition as i32,
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: CONDITION_FAILED_TYPE.to_owned(),
            value: detail.encode_to_vec(),
        }],
    };
    let status = Status::with_details(Code::FailedPrecondition, message, envelope.encode_to_vec().into());
    with_reason(status, Reason::ConditionFailed)
}

/// `FAILED_PRECONDITION`: the session is unknown, closed or evicted, and nothing was applied.
pub fn session_expired() -> Status {
    let message = "the session has expired and nothing was applied; open a new session";
    with_reason(Status::failed_precondition(message), Reason::SessionExpired)
}

/// `FAILED_PRECONDITION`: the write's sequence lies outside the session's window, which begins at `lowest`.
pub fn out_of_window(lowest: u64) -> Status {
    let message = format!("the sequence lies outside the session's window, which begins at {lowest}");
    with_reason(Status::failed_precondition(message), Reason::OutOfWindow)
}

/// `RESOURCE_EXHAUSTED`: the store is over its replicated bound.
pub fn store_full(max_store_bytes: u64) -> Status {
    let message =
        format!("the store is full: it holds at most {max_store_bytes} bytes (max-store-bytes); delete keys");
    with_reason(Status::resource_exhausted(message), Reason::StoreFull)
}

/// `NOT_FOUND`: the key does not exist at `revision` of the store.
pub fn key_not_found(revision: u64) -> Status {
    with_revision(Status::not_found("the key does not exist"), revision)
}

/// `ABORTED`: the revision is below the earliest one that can be read.
pub fn compacted(revision: u64, floor: u64) -> Status {
    let message = format!("revision {revision} is compacted; the earliest that can be read is {floor}");
    with_reason(Status::aborted(message), Reason::Compacted)
}

/// `INVALID_ARGUMENT`: the revision is not there yet; the store is at `present`.
pub fn future_revision(revision: u64, present: u64) -> Status {
    let message = format!("revision {revision} is not there yet; the store is at revision {present}");
    with_reason(Status::invalid_argument(message), Reason::FutureRevision)
}

/// `ABORTED`: another cluster made the change behind which to read on.
pub fn another_cluster() -> Status {
    let message =
        "the position is another cluster's (a restored backup is another cluster too); read from the start";
    with_reason(Status::aborted(message), Reason::AnotherCluster)
}

/// `RESOURCE_EXHAUSTED`: a transaction would change or look at more than the replicated settings allow.
pub fn transaction_too_large(message: impl Into<String>) -> Status {
    with_reason(Status::resource_exhausted(message), Reason::TransactionTooLarge)
}

/// `UNAVAILABLE`, certainly not executed. `leader`: the address to send the request to instead, as `host:port`.
///
/// Also the answer to a request that arrives while no node can execute it (an election): clients retry.
pub fn not_executed(message: impl Into<String>, leader: Option<&str>) -> Status {
    let mut status = with_text(Status::unavailable(message), HEADER_OUTCOME, "none");
    if let Some(leader) = leader {
        status = with_text(status, HEADER_LEADER, leader);
    }
    status
}

/// `RESOURCE_EXHAUSTED`, certainly not executed: the node has reached a limit on concurrent work. Clients retry.
pub fn overloaded(message: impl Into<String>) -> Status {
    with_text(Status::resource_exhausted(message), HEADER_OUTCOME, "none")
}

/// `UNKNOWN`: the request may have been executed or may still be.
pub fn unknown(message: impl Into<String>) -> Status {
    with_text(Status::unknown(message), HEADER_OUTCOME, "unknown")
}

/// Adds the store's revision to an error.
pub fn with_revision(status: Status, revision: u64) -> Status {
    with_text(status, HEADER_REVISION, &revision.to_string())
}

/// Adds the store's revision to a reply's metadata.
pub fn set_revision(metadata: &mut MetadataMap, revision: u64) {
    metadata.insert(HEADER_REVISION, MetadataValue::from(revision));
}

/// Returns the store's revision from the metadata of a reply or an error; `None` if absent or malformed.
pub fn revision_of(metadata: &MetadataMap) -> Option<u64> {
    text(metadata, HEADER_REVISION)?.parse().ok()
}

/// Returns the leader's address, `host:port`; `None` if the error carries none.
pub fn leader_of(status: &Status) -> Option<&str> {
    text(status.metadata(), HEADER_LEADER).filter(|leader| leader.contains(':'))
}

/// Returns the key's present mod revision from the typed detail of a failed condition.
pub fn present_revision_of(status: &Status) -> Option<u64> {
    let envelope = Details::decode(status.details()).ok()?;
    let detail = envelope.details.iter().find(|detail| detail.type_url == CONDITION_FAILED_TYPE)?;
    api::ConditionFailed::decode(detail.value.as_slice()).ok().map(|detail| detail.present_revision)
}

fn with_reason(status: Status, reason: Reason) -> Status {
    with_text(status, HEADER_REASON, reason.as_str())
}

fn with_text(mut status: Status, header: &'static str, value: &str) -> Status {
    // A host name that is no valid header value is left out: the address is only a hint.
    if let Ok(value) = value.parse() {
        status.metadata_mut().insert(header, value);
    }
    status
}

fn text<'a>(metadata: &'a MetadataMap, header: &str) -> Option<&'a str> {
    metadata.get(header)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the status as the other end receives it, after conversion to HTTP headers and back.
    fn travelled(status: Status) -> Status {
        Status::from_header_map(status.into_http::<tonic::body::Body>().headers()).unwrap()
    }

    #[test]
    fn a_failed_condition_carries_the_present_revision_as_a_typed_detail() {
        for present in [0, 1, 7, u64::MAX] {
            let status = travelled(condition_failed(present));
            assert_eq!(status.code(), Code::FailedPrecondition);
            assert_eq!(Reason::of(&status), Some(Reason::ConditionFailed));
            assert_eq!(present_revision_of(&status), Some(present));
            assert_eq!(Outcome::of(&status), None);
        }
    }

    #[test]
    fn every_reason_survives_the_journey() {
        let all = [
            condition_failed(1),
            session_expired(),
            out_of_window(3),
            store_full(9),
            transaction_too_large("of too many keys"),
            compacted(3, 5),
            future_revision(9, 3),
            another_cluster(),
        ];
        let read: Vec<_> = all.into_iter().map(|status| Reason::of(&travelled(status)).unwrap()).collect();
        assert_eq!(read, Reason::ALL);
        assert_eq!(Reason::of(&Status::failed_precondition("of another kind")), None);
    }

    #[test]
    fn not_executed_names_the_leader_and_unknown_does_not_claim_anything() {
        let status = travelled(not_executed("not the leader", Some("node-2.mokv:5690")));
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(
            (Outcome::of(&status), leader_of(&status)),
            (Some(Outcome::None), Some("node-2.mokv:5690"))
        );
        assert_eq!(leader_of(&travelled(not_executed("no leader", None))), None);
        assert_eq!(Outcome::of(&travelled(unknown("the forward broke"))), Some(Outcome::Unknown));
    }

    #[test]
    fn none_is_believed_with_codes_of_refusals_only() {
        assert_eq!(Outcome::of(&travelled(overloaded("busy"))), Some(Outcome::None));
        let odd = with_text(Status::internal("oops"), HEADER_OUTCOME, "none");
        assert_eq!(Outcome::of(&travelled(odd)), None);
        assert_eq!(Outcome::of(&Status::unavailable("a proxy says so")), None);
    }

    #[test]
    fn revisions_travel_with_errors_and_with_replies() {
        assert_eq!(revision_of(travelled(key_not_found(42)).metadata()), Some(42));
        let mut metadata = MetadataMap::new();
        set_revision(&mut metadata, u64::MAX);
        assert_eq!(revision_of(&metadata), Some(u64::MAX));
    }

    #[test]
    fn garbage_in_details_and_headers_reads_as_nothing() {
        let status = Status::with_details(Code::FailedPrecondition, "?", vec![0xff; 9].into());
        assert_eq!(present_revision_of(&status), None);
        let hint = not_executed("?", Some("line\nbreak:1"));
        assert_eq!(leader_of(&hint), None);
        assert_eq!(revision_of(with_text(unknown("?"), HEADER_REVISION, "ten").metadata()), None);
    }
}
