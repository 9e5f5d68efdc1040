//! The session table: the answers given to each session, so that a write sent twice is applied once.
//!
//! A session numbers its writes and sends with each one the lowest number for which it still awaits an answer. The
//! table keeps the answers from that number on, at most [`WINDOW`] of them, and discards those below. When there are
//! too many sessions, the one whose last use lies furthest back in the log is evicted; every node evicts the same one,
//! because "last use" is a log index. There is no clock and no timeout: a session that is not closed stays until it is
//! evicted.

use super::Answer;
use super::digest::{Digest, Item};
use imbl::OrdMap;
use mokv_proto::log::SessionWrite;
use std::collections::VecDeque;
use std::sync::Arc;

/// Maximum number of unanswered writes of one session. It affects what `apply` answers and is therefore a constant, not
/// a setting: it bounds a session's answers to 32 KiB of memory, and outcomes of transactions to 1.3 MiB more, which count
/// against the bound of the store.
pub(super) const WINDOW: u64 = 1024;

/// All sessions, by id and by last use. Cloning is O(1).
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sessions {
    // Behind an `Arc`, so that a write after a clone copies the answers of one session, not those of a whole tree node.
    by_id: OrdMap<u64, Arc<Session>>,
    // `last_applied` to id: the first one is evicted next.
    by_last_applied: OrdMap<u64, u64>,
    sums: Sums,
}

/// What is counted of all sessions as they change.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sums {
    /// What the answers take in a snapshot, at most, in bytes.
    answer_bytes: u64,
    /// What the outcomes of transactions take besides.
    outcome_bytes: u64,
    digest: Digest,
}

impl Sums {
    fn add(&mut self, id: u64, sequence: u64, answer: &Answer) {
        self.digest.add(Item::answer(id, sequence, answer));
        self.answer_bytes += answer.max_encoded_bytes();
        self.outcome_bytes += answer.outcome_bytes();
    }

    fn remove(&mut self, id: u64, sequence: u64, answer: &Answer) {
        self.digest.remove(Item::answer(id, sequence, answer));
        self.answer_bytes -= answer.max_encoded_bytes();
        self.outcome_bytes -= answer.outcome_bytes();
    }
}

/// The state of one session.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Session {
    /// Log index of the last entry that named this session.
    pub(super) last_applied: u64,
    /// The first sequence number of the window.
    pub(super) lowest_unanswered: u64,
    /// Sequence number and first answer, in ascending order of sequence number, all within the window.
    pub(super) answers: VecDeque<(u64, Answer)>,
}

impl Session {
    /// A client numbers its writes from 1.
    const FIRST_SEQUENCE: u64 = 1;

    fn forget_below(&mut self, lowest_unanswered: u64, mut forgotten: impl FnMut(u64, Answer)) {
        self.lowest_unanswered = self.lowest_unanswered.max(lowest_unanswered);
        let below = self.answers.partition_point(|(sequence, _)| *sequence < self.lowest_unanswered);
        self.answers.drain(..below).for_each(|(sequence, answer)| forgotten(sequence, answer));
    }

    /// Whether a write with this sequence number may be applied.
    pub(super) fn window_contains(&self, sequence: u64) -> bool {
        sequence.checked_sub(self.lowest_unanswered).is_some_and(|offset| offset < WINDOW)
    }

    fn position(&self, sequence: u64) -> Result<usize, usize> {
        self.answers.binary_search_by_key(&sequence, |(sequence, _)| *sequence)
    }

    fn item(&self, id: u64) -> Item {
        Item::session(id, self.last_applied, self.lowest_unanswered)
    }
}

impl Sessions {
    pub(super) fn len(&self) -> u64 {
        self.by_id.len() as u64
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Session)> {
        self.by_id.iter().map(|(id, session)| (*id, &**session))
    }

    /// Whether the order of last use lists this session.
    pub(super) fn is_listed(&self, id: u64, last_applied: u64) -> bool {
        self.by_last_applied.get(&last_applied) == Some(&id)
    }

    /// Damages the table as failing memory does.
    #[cfg(test)]
    pub(super) fn misplace(&mut self, id: u64) {
        let last_applied = self.by_id[&id].last_applied;
        self.by_last_applied.remove(&last_applied);
    }

    pub(super) fn last_id(&self) -> Option<u64> {
        self.by_id.get_max().map(|(id, _)| *id)
    }

    pub(super) fn digest(&self) -> Digest {
        self.sums.digest
    }

    /// Opens a session whose id is the log index of the entry that requests it.
    ///
    /// # Panics
    /// If this index was applied before: sessions are distinguished by their index.
    pub(super) fn open(&mut self, index: u64, max_sessions: u64) {
        let session = Session {
            last_applied: index,
            lowest_unanswered: Session::FIRST_SEQUENCE,
            answers: VecDeque::new(),
        };
        assert!(self.insert(index, session), "log index {index} was applied before");
        self.evict_beyond(max_sessions);
    }

    /// Closes a session. Returns `false` if no session has this id.
    pub(super) fn close(&mut self, id: u64) -> bool {
        let Some(session) = self.by_id.remove(&id) else { return false };
        self.by_last_applied.remove(&session.last_applied);
        self.sums.digest.remove(session.item(id));
        for (sequence, answer) in &session.answers {
            self.sums.remove(id, *sequence, answer);
        }
        true
    }

    /// What the outcomes of transactions take in memory, in bytes.
    pub(super) fn outcome_bytes(&self) -> u64 {
        self.sums.outcome_bytes
    }

    /// What the answers take in a snapshot, at most, in bytes.
    pub(super) fn answer_bytes(&self) -> u64 {
        self.sums.answer_bytes
    }

    /// Closes the least recently used sessions until at most `max_sessions` are left.
    pub(super) fn evict_beyond(&mut self, max_sessions: u64) {
        while self.len() > max_sessions {
            let (_, id) = *self.by_last_applied.get_min().expect("every session has a last use");
            self.close(id);
        }
    }

    /// The answer to a session's write that must not be applied: the first answer if it had one, a rejection if the
    /// session or the sequence number is not valid. `None`: the caller applies the write and passes the answer to
    /// [`remember`](Sessions::remember).
    ///
    /// # Panics
    /// If `index` is not above the session's last one: entries are applied once and in order.
    pub(super) fn settled(&mut self, index: u64, write: &SessionWrite) -> Option<Answer> {
        let id = write.session;
        let Some(session) = self.by_id.get_mut(&id) else { return Some(Answer::SessionExpired) };
        let session = Arc::make_mut(session);
        assert!(index > session.last_applied, "log index {index} was applied before");

        self.sums.digest.remove(session.item(id));
        self.by_last_applied.remove(&session.last_applied);
        session.last_applied = index;
        self.by_last_applied.insert(index, id);
        session.forget_below(write.lowest_unanswered, |sequence, answer| {
            self.sums.remove(id, sequence, &answer);
        });
        self.sums.digest.add(session.item(id));

        if !session.window_contains(write.sequence) {
            return Some(Answer::OutOfWindow { lowest: session.lowest_unanswered });
        }
        session.position(write.sequence).ok().map(|at| session.answers[at].1.clone())
    }

    /// Stores the first answer to a write for which [`settled`](Sessions::settled) just returned `None`.
    pub(super) fn remember(&mut self, write: &SessionWrite, answer: Answer) {
        let session = self.by_id.get_mut(&write.session).expect("the session was just looked up");
        let session = Arc::make_mut(session);
        let at = session.position(write.sequence).expect_err("the sequence was just found unanswered");
        self.sums.add(write.session, write.sequence, &answer);
        session.answers.insert(at, (write.sequence, answer));
    }

    /// Adds a session in the given state. Returns `false` and adds nothing if another session has its id or its last
    /// use.
    pub(super) fn insert(&mut self, id: u64, session: Session) -> bool {
        if self.by_id.contains_key(&id) || self.by_last_applied.contains_key(&session.last_applied) {
            return false;
        }
        self.sums.digest.add(session.item(id));
        for (sequence, answer) in &session.answers {
            self.sums.add(id, *sequence, answer);
        }
        self.by_last_applied.insert(session.last_applied, id);
        self.by_id.insert(id, Arc::new(session));
        true
    }
}
