//! Decides what to do after an attempt: pure functions, no clock, no network.
//!
//! Invariants: a write whose outcome is unknown is sent again only under the same name (session and sequence) or if
//! repeating it is harmless; once an outcome is unknown, only the result of applying the log entry settles it.

use std::time::Duration;

use mokv_proto::status::{self, Outcome, Reason};
use mokv_proto::tonic::{Code, Status};

use super::error::{Error, Why};

/// The meaning of a failed write attempt, taken alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The result of applying the log entry. It settles the doubt about earlier attempts.
    Answered(Error),
    /// The node did nothing and would refuse again. Says nothing about earlier attempts.
    Refused(Error),
    /// This attempt was certainly not executed: try again.
    NotExecuted,
    /// The session has expired or its window excludes the write: this attempt was not executed, and the session is no
    /// longer usable.
    SessionLost,
    /// The write may have been executed or may still be.
    Unknown,
}

impl Verdict {
    /// Interprets a status. A status that is not definite counts as unknown.
    pub(super) fn of(status: &Status) -> Verdict {
        match Outcome::of(status) {
            Some(Outcome::None) => return Verdict::NotExecuted,
            Some(Outcome::Unknown) => return Verdict::Unknown,
            None => {}
        }
        match Reason::of(status) {
            Some(Reason::ConditionFailed) => {
                return match status::present_revision_of(status) {
                    // 0: the key does not exist.
                    Some(revision) => Verdict::Answered(Error::ConditionFailed {
                        present_revision: Some(revision).filter(|revision| *revision != 0),
                    }),
                    None => Verdict::Answered(Error::Refused(Why::of(status.message(), status))),
                };
            }
            Some(Reason::StoreFull | Reason::TransactionTooLarge) => {
                return Verdict::Answered(Error::ResourceExhausted(Why::of(status.message(), status)));
            }
            Some(Reason::Compacted | Reason::AnotherCluster) => {
                return Verdict::Answered(Error::RevisionGone(Why::of(status.message(), status)));
            }
            Some(Reason::FutureRevision) => {
                return Verdict::Answered(Error::Invalid(Why::of(status.message(), status)));
            }
            Some(Reason::SessionExpired | Reason::OutOfWindow) => return Verdict::SessionLost,
            None => {}
        }
        // No node sends it: this side found the answer too large, and a write was executed by then.
        if status.code() == Code::OutOfRange {
            return Verdict::Unknown;
        }
        Error::refusal(status).map_or(Verdict::Unknown, Verdict::Refused)
    }
}

/// Whether a write may be sent again after its first byte left and no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resend {
    /// No: it might be applied twice.
    Never,
    /// Yes: it has a name by which it is applied once, or repeating it does no harm.
    Safe,
}

/// What to do next with a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Return the error to the caller.
    Return(Error),
    /// Try again under the same name.
    Again {
        /// Whether any attempt so far had an unknown outcome.
        in_doubt: bool,
    },
    /// The session is no longer usable. With an error, the write stays in doubt: return the error to the caller.
    /// Without one, it was certainly not executed: name it again in a new session.
    SessionLost(Option<Error>),
}

/// Decides after a failed attempt. `in_doubt`: an earlier attempt of the same write had an unknown outcome.
pub(super) fn after_write(verdict: Verdict, in_doubt: bool, resend: Resend, why: &Why) -> Next {
    match verdict {
        Verdict::Answered(error) => Next::Return(error),
        Verdict::Refused(error) if !in_doubt => Next::Return(error),
        Verdict::Refused(_) => Next::Return(Error::Unknown(why.clone())),
        Verdict::SessionLost => Next::SessionLost(in_doubt.then(|| Error::Unknown(why.clone()))),
        Verdict::NotExecuted => Next::Again { in_doubt },
        Verdict::Unknown if resend == Resend::Safe => Next::Again { in_doubt: true },
        Verdict::Unknown => Next::Return(Error::Unknown(why.clone())),
    }
}

/// Returns the error if the answer to a read is definite; `None`: ask another node.
pub(super) fn after_read(status: &Status) -> Option<Error> {
    if Outcome::of(status).is_some() {
        return None;
    }
    match status.code() {
        Code::Aborted => Some(Error::RevisionGone(Why::of(status.message(), status))),
        _ => Error::refusal(status),
    }
}

/// What a failed attempt indicates about the node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// The node works.
    Healthy,
    /// The node answers but cannot serve now: it is asked last for a short time.
    Unready,
    /// The node is broken, stuck or partitioned: it is asked last, for longer after every consecutive failure.
    Failing,
}

impl Health {
    /// Interprets a status.
    pub(super) fn of(status: &Status) -> Health {
        match status.code() {
            Code::Unavailable if status::leader_of(status).is_some() => Health::Healthy,
            Code::Unavailable => Health::Unready,
            Code::ResourceExhausted if Outcome::of(status).is_some() => Health::Unready,
            Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Cancelled | Code::DataLoss => {
                Health::Failing
            }
            _ => Health::Healthy,
        }
    }
}

/// Exponential backoff up to a bound; half of each wait is random, so that clients do not retry in step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    base: Duration,
    cap: Duration,
}

impl Backoff {
    /// Between two rounds of one call over all nodes: short enough to find a new leader soon.
    pub(super) const ROUND: Backoff =
        Backoff { base: Duration::from_millis(20), cap: Duration::from_millis(500) };
    /// How long a failing node is set aside.
    pub(super) const NODE: Backoff =
        Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(2) };

    /// Returns the wait after `failures` (at least 1) consecutive failures.
    pub(super) fn after(self, failures: u32, random: u64) -> Duration {
        let doubled = self.base.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let full = doubled.min(self.cap);
        let half = full / 2;
        half + Duration::from_nanos(random % (half.as_nanos() as u64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![
            Just(Verdict::Answered(Error::ConditionFailed { present_revision: Some(3) })),
            Just(Verdict::Refused(Error::Invalid("no".into()))),
            Just(Verdict::NotExecuted),
            Just(Verdict::SessionLost),
            Just(Verdict::Unknown),
        ]
    }

    proptest! {
        /// Runs any sequence of attempts and checks what may follow an unknown outcome.
        #[test]
        fn doubt_is_never_forgotten_and_nothing_nameless_is_sent_twice(
            verdicts in proptest::collection::vec(any_verdict(), 1..12),
            named in any::<bool>(),
        ) {
            let resend = if named { Resend::Safe } else { Resend::Never };
            let mut in_doubt = false;
            let mut was_unknown = false;
            for verdict in verdicts {
                was_unknown |= verdict == Verdict::Unknown;
                match after_write(verdict.clone(), in_doubt, resend, &Why::from("why")) {
                    Next::Return(error) => {
                        let settled = matches!(verdict, Verdict::Answered(_));
                        prop_assert_eq!(error.is_unknown(), was_unknown && !settled);
                        return Ok(());
                    }
                    Next::Again { in_doubt: now } => {
                        prop_assert!(named || !was_unknown, "sent twice without a name");
                        prop_assert_eq!(now, was_unknown);
                        in_doubt = now;
                    }
                    Next::SessionLost(error) => {
                        prop_assert_eq!(error.is_none(), !was_unknown, "renamed only if never in doubt");
                        prop_assert!(error.is_none_or(|error| error.is_unknown()));
                        return Ok(());
                    }
                }
            }
        }

        #[test]
        fn backoff_grows_stays_within_its_bounds_and_never_overflows(failures in 1u32.., random: u64) {
            let wait = Backoff::NODE.after(failures, random);
            prop_assert!(wait >= Backoff::NODE.base / 2 && wait <= Backoff::NODE.cap);
        }
    }

    #[test]
    fn only_what_is_said_for_certain_is_certain() {
        assert_eq!(Verdict::of(&status::not_executed("elsewhere", None)), Verdict::NotExecuted);
        assert_eq!(Verdict::of(&status::overloaded("busy")), Verdict::NotExecuted);
        for doubtful in [
            Status::unavailable("a proxy says so"),
            Status::deadline_exceeded("late"),
            Status::internal("oops"),
            Status::cancelled("reset"),
            Status::aborted("?"),
            Status::out_of_range("the answer is larger than this client takes"),
            status::unknown("the forward broke"),
        ] {
            assert_eq!(Verdict::of(&doubtful), Verdict::Unknown, "{doubtful:?}");
        }
        assert_eq!(Verdict::of(&status::session_expired()), Verdict::SessionLost);
        assert_eq!(Verdict::of(&status::out_of_window(2)), Verdict::SessionLost);
        assert_eq!(
            Verdict::of(&status::condition_failed(7)),
            Verdict::Answered(Error::ConditionFailed { present_revision: Some(7) })
        );
        assert_eq!(
            Verdict::of(&status::condition_failed(0)),
            Verdict::Answered(Error::ConditionFailed { present_revision: None })
        );
        let answered = |status: &Status| match Verdict::of(status) {
            Verdict::Answered(error) => error,
            other => panic!("{other:?}"),
        };
        assert!(matches!(answered(&status::transaction_too_large("!")), Error::ResourceExhausted(_)));
        assert!(matches!(answered(&status::compacted(3, 20)), Error::RevisionGone(_)));
        assert!(matches!(answered(&status::future_revision(9, 3)), Error::Invalid(_)));
        assert!(matches!(Verdict::of(&Status::invalid_argument("key")), Verdict::Refused(Error::Invalid(_))));
    }

    #[test]
    fn a_node_that_shows_the_way_is_fine_and_one_that_is_stuck_is_not() {
        assert_eq!(Health::of(&status::not_executed("elsewhere", Some("b:1"))), Health::Healthy);
        assert_eq!(Health::of(&status::condition_failed(1)), Health::Healthy);
        assert_eq!(Health::of(&status::not_executed("no leader", None)), Health::Unready);
        assert_eq!(Health::of(&status::overloaded("busy")), Health::Unready);
        assert_eq!(Health::of(&Status::deadline_exceeded("late")), Health::Failing);
    }

    #[test]
    fn reads_move_on_unless_the_answer_is_definite() {
        assert!(after_read(&Status::internal("oops")).is_none());
        assert!(after_read(&status::not_executed("no leader", None)).is_none());
        assert!(matches!(after_read(&status::compacted(3, 20)), Some(Error::RevisionGone(_))));
        assert!(matches!(after_read(&Status::invalid_argument("key")), Some(Error::Invalid(_))));
    }
}
