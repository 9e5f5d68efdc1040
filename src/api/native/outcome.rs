//! The gRPC code and text of each refusal.

use mokv_proto::status;
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::config::MAX_KEY_BYTES;
use crate::service::Refused;

/// Returns the gRPC status of a refusal.
pub fn status(refused: Refused) -> Status {
    match refused {
        Refused::EmptyKey => Status::invalid_argument("the key is empty; a key has 1 to 4096 bytes"),
        Refused::LongKey { bytes } => Status::invalid_argument(format!(
            "the key has {bytes} bytes; at most {MAX_KEY_BYTES} are allowed"
        )),
        Refused::LongValue { bytes, most } => Status::invalid_argument(format!(
            "the value has {bytes} bytes; at most {most} are allowed (max-value-bytes)"
        )),
        Refused::Invalid(reason) => Status::invalid_argument(reason),
        Refused::NoSuchKey { revision } => status::key_not_found(revision),
        Refused::Compacted { revision, floor } => status::compacted(revision, floor),
        Refused::FutureRevision { revision, present } => status::future_revision(revision, present),
        Refused::AnotherCluster => status::another_cluster(),
        Refused::ConditionFailed { present_revision } => status::condition_failed(present_revision),
        Refused::SessionExpired => status::session_expired(),
        Refused::OutOfWindow { lowest } => status::out_of_window(lowest),
        Refused::StoreFull { max_store_bytes } => status::store_full(max_store_bytes),
        Refused::TransactionTooLarge(reason) => status::transaction_too_large(reason),
        Refused::NoSuchMember(name) => Status::not_found(format!("no member is called '{name}'")),
        Refused::Precondition(reason) => Status::failed_precondition(reason),
        Refused::NoRoom(reason) => Status::resource_exhausted(reason),
        Refused::Unavailable(reason) => Status::unavailable(reason),
        Refused::Late(reason) => Status::deadline_exceeded(reason),
        Refused::Overloaded(reason) => status::overloaded(reason),
        Refused::NotExecuted { reason, leader } => status::not_executed(reason, leader.as_deref()),
        Refused::Unknown { reason, is_late: true } => {
            let mut status = Status::deadline_exceeded(format!("{reason}; it may still be executed"));
            status.metadata_mut().insert(status::HEADER_OUTCOME, MetadataValue::from_static("unknown"));
            status
        }
        Refused::Unknown { reason, is_late: false } => status::unknown(reason),
        Refused::Bug(reason) => Status::internal(reason),
    }
}

#[cfg(test)]
mod tests {
    use mokv_proto::status::Outcome;

    use super::*;
    use crate::service::Certainty;

    #[test]
    fn what_is_certain_of_a_refusal_is_what_its_status_says() {
        let reason = || "a reason".to_owned();
        let all = [
            Refused::EmptyKey,
            Refused::LongKey { bytes: 5000 },
            Refused::LongValue { bytes: 2, most: 1 },
            Refused::Invalid(reason()),
            Refused::NoSuchKey { revision: 3 },
            Refused::Compacted { revision: 3, floor: 5 },
            Refused::FutureRevision { revision: 3, present: 2 },
            Refused::AnotherCluster,
            Refused::ConditionFailed { present_revision: 3 },
            Refused::SessionExpired,
            Refused::OutOfWindow { lowest: 3 },
            Refused::StoreFull { max_store_bytes: 3 },
            Refused::TransactionTooLarge(reason()),
            Refused::NoSuchMember(reason()),
            Refused::Precondition(reason()),
            Refused::NoRoom(reason()),
            Refused::Unavailable(reason()),
            Refused::Late(reason()),
            Refused::Overloaded(reason()),
            Refused::NotExecuted { reason: reason(), leader: Some("n1:1".into()) },
            Refused::Unknown { reason: reason(), is_late: true },
            Refused::Unknown { reason: reason(), is_late: false },
        ];
        for refused in all {
            let said = match Outcome::of(&status(refused.clone())) {
                Some(Outcome::None) => Certainty::NotExecuted,
                Some(Outcome::Unknown) => Certainty::Unknown,
                None => Certainty::Refused,
            };
            assert_eq!(said, refused.certainty(), "{refused:?}");
        }
    }
}
