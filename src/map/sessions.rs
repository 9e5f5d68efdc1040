//! The table of sessions: who has already been answered what, so that a write sent twice is applied once.
//!
//! A session numbers its writes and tells with each the lowest number it still awaits an answer for. The
//! table keeps the answers from there on, [`WINDOW`] of them at most, and forgets what lies below. Too many
//! sessions: the one whose last use lies furthest back in the log goes, which every node finds to be the same
//! one, because "when" is a log index. Never a clock, never a timeout: a session that nobody closes lives
//! until it is evicted.

use super::Answer;
use super::digest::{Digest, Item};
use imbl::OrdMap;
use mokv_proto::log::SessionWrite;
use std::collections::VecDeque;
use std::sync::Arc;

/// How many writes of one session may be unanswered at a time. It decides what `apply` answers and is
/// therefore a constant, not a setting: it bounds a session's answers to 32 KiB of memory.
pub(super) const WINDOW: u64 = 1024;

/// All sessions, by id and by their last use. Clones in O(1).
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sessions {
    // Behind an `Arc`, so that a write after a clone copies one session's answers, not those of a whole tree
    // node.
    by_id: OrdMap<u64, Arc<Session>>,
    // `last_applied` to id: the first is the next to be evicted.
    by_last_applied: OrdMap<u64, u64>,
    digest: Digest,
}

/// One session's standing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Session {
    /// Log index of the last entry that named this session.
    pub(super) last_applied: u64,
    /// The first sequence of the window.
    pub(super) lowest_unanswered: u64,
    /// Sequence and first answer, by rising sequence, all within the window.
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

    /// Whether a write with this sequence may be applied at all.
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

    /// Whether this session would be found by its last use.
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
        self.digest
    }

    /// Begins a session whose id is the log index of the entry that asks for it.
    ///
    /// # Panics
    /// If this index was applied before: indexes are how sessions are told apart.
    pub(super) fn open(&mut self, index: u64, max_sessions: u64) {
        let session = Session {
            last_applied: index,
            lowest_unanswered: Session::FIRST_SEQUENCE,
            answers: VecDeque::new(),
        };
        assert!(self.insert(index, session), "log index {index} was applied before");
        self.evict_beyond(max_sessions);
    }

    /// Ends a session; false if there is none of this id.
    pub(super) fn close(&mut self, id: u64) -> bool {
        let Some(session) = self.by_id.remove(&id) else { return false };
        self.by_last_applied.remove(&session.last_applied);
        self.digest.remove(session.item(id));
        for (sequence, answer) in &session.answers {
            self.digest.remove(Item::answer(id, *sequence, *answer));
        }
        true
    }

    /// Closes the sessions whose last use is the oldest, until at most `max_sessions` are left.
    pub(super) fn evict_beyond(&mut self, max_sessions: u64) {
        while self.len() > max_sessions {
            let (_, id) = *self.by_last_applied.get_min().expect("every session has a last use");
            self.close(id);
        }
    }

    /// What a session's write is answered without being applied: the first answer again if it had one, a
    /// refusal if the session or the sequence is out. `None`: apply it, and [`remember`](Sessions::remember)
    /// the answer.
    ///
    /// # Panics
    /// If `index` is not above the session's last: entries are applied once and in order.
    pub(super) fn settled(&mut self, index: u64, write: &SessionWrite) -> Option<Answer> {
        let id = write.session;
        let Some(session) = self.by_id.get_mut(&id) else { return Some(Answer::SessionExpired) };
        let session = Arc::make_mut(session);
        assert!(index > session.last_applied, "log index {index} was applied before");

        self.digest.remove(session.item(id));
        self.by_last_applied.remove(&session.last_applied);
        session.last_applied = index;
        self.by_last_applied.insert(index, id);
        session.forget_below(write.lowest_unanswered, |sequence, answer| {
            self.digest.remove(Item::answer(id, sequence, answer));
        });
        self.digest.add(session.item(id));

        if !session.window_contains(write.sequence) {
            return Some(Answer::OutOfWindow { lowest: session.lowest_unanswered });
        }
        session.position(write.sequence).ok().map(|at| session.answers[at].1)
    }

    /// Keeps the first answer to a write that [`settled`](Sessions::settled) just let pass.
    pub(super) fn remember(&mut self, write: &SessionWrite, answer: Answer) {
        let session = self.by_id.get_mut(&write.session).expect("the session was just looked up");
        let session = Arc::make_mut(session);
        let at = session.position(write.sequence).expect_err("the sequence was just found unanswered");
        session.answers.insert(at, (write.sequence, answer));
        self.digest.add(Item::answer(write.session, write.sequence, answer));
    }

    /// Adds a session as it stood; false, and nothing is added, if its id or its last use is another
    /// session's.
    pub(super) fn insert(&mut self, id: u64, session: Session) -> bool {
        if self.by_id.contains_key(&id) || self.by_last_applied.contains_key(&session.last_applied) {
            return false;
        }
        self.digest.add(session.item(id));
        for (sequence, answer) in &session.answers {
            self.digest.add(Item::answer(id, *sequence, *answer));
        }
        self.by_last_applied.insert(session.last_applied, id);
        self.by_id.insert(id, Arc::new(session));
        true
    }
}
