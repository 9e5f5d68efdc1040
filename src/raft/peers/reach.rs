//! Which peers were reached at the last attempt, and why the others were not.
//!
//! Every attempt is recorded. The node's log reports a peer once it has been unreachable for some time, then once a
//! minute, and when it is reachable again. Decides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::node_id::{Named, NodeId};
use crate::rt::lock::{Mutex, MutexGuard};
use crate::rt::time::Seldom;
use crate::rt::{self, Instant};

/// How long a peer is unreachable before the log reports it: nodes that are started together, or one after the other,
/// come up one after the other.
const WORTH_TELLING: Duration = Duration::from_secs(5);

/// Moreover, the failure before the current one must be at least this much later than the first one. One failure at the
/// formation of a cluster and one now, at its next restart, do not show that the peer was unreachable in between.
const APART: Duration = Duration::from_secs(1);

/// The result of the last attempt to reach a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contact {
    /// No attempt was made yet.
    Untried,
    /// A connection was made.
    Reached,
    /// No connection was made.
    Failing {
        /// The address and the reason.
        why: String,
        /// One of the two refuses the other; trying again does not help.
        is_refusal: bool,
    },
}

/// The results of the attempts to reach each peer.
#[derive(Default)]
pub(super) struct Reach(Mutex<BTreeMap<NodeId, Attempts>>);

struct Attempts {
    contact: Contact,
    /// When a connection was made or, if attempts fail, when the first of them failed.
    since: Instant,
    /// When the last attempt was.
    last: Instant,
    log_limit: Seldom,
    is_logged: bool,
}

impl Attempts {
    fn new(contact: Contact) -> Attempts {
        let now = rt::now();
        Attempts { contact, since: now, last: now, log_limit: Seldom::default(), is_logged: false }
    }

    /// Records a failed attempt. Returns how long the peer has been unreachable, if that is long enough to report.
    fn out_of_reach(&mut self, now: Instant) -> Option<Duration> {
        let before = std::mem::replace(&mut self.last, now);
        let was_so = before.saturating_duration_since(self.since) >= APART;
        let lasts = now.saturating_duration_since(self.since);
        (was_so && lasts >= WORTH_TELLING).then_some(lasts)
    }
}

impl Reach {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Attempts>> {
        self.0.lock()
    }

    /// Records that a connection to a peer was made.
    pub(super) fn reached(&self, peer: Named<'_>) {
        let before = self.lock().insert(peer.1, Attempts::new(Contact::Reached));
        if before.is_some_and(|before| before.is_logged) {
            tracing::info!("{peer} is within reach again");
        }
    }

    /// Records that no connection to a peer could be made. The log reports it only if the peer `is_missed`.
    pub(super) fn failed(&self, peer: Named<'_>, why: &str, is_refusal: bool, is_missed: bool) {
        let mut all = self.lock();
        let contact = Contact::Failing { why: why.to_owned(), is_refusal };
        let attempts = all.entry(peer.1).or_insert_with(|| Attempts::new(contact.clone()));
        if attempts.contact == Contact::Reached {
            *attempts = Attempts::new(contact);
        } else {
            attempts.contact = contact;
        }
        let lasts = attempts.out_of_reach(rt::now());
        if is_missed
            && let Some(lasts) = lasts
            && let Some(more) = attempts.log_limit.now()
        {
            attempts.is_logged = true;
            tracing::warn!(seconds = lasts.as_secs(), more, "{peer} cannot be reached: {why}");
        }
    }

    /// The result of the last attempt.
    pub(super) fn contact(&self, peer: NodeId) -> Contact {
        self.lock().get(&peer).map_or(Contact::Untried, |attempts| attempts.contact.clone())
    }

    /// When the newest connection to a peer was made; `None` if the last attempt failed or there was none.
    pub(super) fn reached_at(&self, peer: NodeId) -> Option<Instant> {
        let all = self.lock();
        all.get(&peer).filter(|attempts| attempts.contact == Contact::Reached).map(|attempts| attempts.since)
    }

    /// Keeps only the peers for which `is_member` returns `true`.
    pub(super) fn retain(&self, is_member: impl Fn(NodeId) -> bool) {
        self.lock().retain(|id, _| is_member(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node was once reported as unreachable for five seconds at its first restart, because it had been the last to
    /// start.
    #[test]
    fn two_failures_far_apart_are_no_time_out_of_reach() {
        let failing = || Attempts::new(Contact::Failing { why: "a:1: refused".into(), is_refusal: false });
        let told_at = |seconds: &[u64]| {
            let mut attempts = failing();
            let times = seconds.iter().map(|after| attempts.since + Duration::from_secs(*after));
            let logged =
                times.collect::<Vec<_>>().into_iter().map(|now| attempts.out_of_reach(now).is_some());
            logged.collect::<Vec<bool>>()
        };
        assert_eq!(told_at(&[0, 5]), [false, false], "nothing is known of the time in between");
        assert_eq!(told_at(&[0, 5, 10]), [false, false, true]);
        assert_eq!(told_at(&[1, 2, 4, 5]), [false, false, false, true]);
    }

    #[test]
    fn the_last_attempt_counts() {
        let (reach, peer) = (Reach::default(), Named(Some("n2"), NodeId(2)));
        assert_eq!(reach.contact(NodeId(2)), Contact::Untried);
        let failing = |why: &str, is_refusal| Contact::Failing { why: why.to_owned(), is_refusal };
        reach.failed(peer, "a:1: refused", false, true);
        assert_eq!(reach.contact(NodeId(2)), failing("a:1: refused", false));
        reach.reached(peer);
        assert_eq!(reach.contact(NodeId(2)), Contact::Reached);
        reach.failed(peer, "a:1: another key", true, true);
        assert_eq!(reach.contact(NodeId(2)), failing("a:1: another key", true));
        reach.retain(|id| id != NodeId(2));
        assert_eq!(reach.contact(NodeId(2)), Contact::Untried);
    }
}
