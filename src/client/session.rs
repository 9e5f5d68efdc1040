//! Sessions: names for writes, so that a write is applied once however often it is sent.
//!
//! Invariants: a sequence is used for one write only; no write is sent with a sequence beyond the window, which begins
//! at the lowest unanswered one; a write given up in doubt stays unanswered for the rest of its session, so that the
//! answer kept for it is never taken for another write's. The caller opens and closes sessions over the wire.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mokv_proto::api::SessionWrite;
use tokio::sync::oneshot;

use crate::rt::lock::Mutex;

/// The unanswered sequences of a session. Pure.
#[derive(Debug)]
struct Window {
    size: u64,
    next: u64,
    /// `true`: given up in doubt.
    unanswered: BTreeMap<u64, bool>,
}

/// Whether the window has room for the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// There is room; the sequence of the write.
    Sequence(u64),
    /// No room until the lowest unanswered write is answered.
    Full,
    /// No room any more: the lowest unanswered write was given up.
    Blocked,
}

impl Window {
    fn new(size: u64) -> Window {
        Window { size: size.max(1), next: 1, unanswered: BTreeMap::new() }
    }

    fn begin(&mut self) -> Room {
        if let Some((&lowest, &given_up)) = self.unanswered.first_key_value()
            && self.next - lowest >= self.size
        {
            return if given_up { Room::Blocked } else { Room::Full };
        }
        let sequence = self.next;
        self.next += 1;
        self.unanswered.insert(sequence, false);
        Room::Sequence(sequence)
    }

    fn lowest_unanswered(&self) -> u64 {
        self.unanswered.first_key_value().map_or(self.next, |(&lowest, _)| lowest)
    }

    fn end(&mut self, sequence: u64, in_doubt: bool) {
        let ended =
            if in_doubt { self.unanswered.insert(sequence, true) } else { self.unanswered.remove(&sequence) };
        assert_eq!(ended, Some(false), "a write ends once");
    }

    fn is_drained(&self) -> bool {
        self.unanswered.values().all(|&given_up| given_up)
    }
}

/// An open session.
pub(super) struct WriteSession {
    id: u64,
    state: Mutex<State>,
}

struct State {
    window: Window,
    /// Writes that wait for room, in order of arrival. As many as the callers make concurrently.
    waiting: VecDeque<oneshot::Sender<Ticket>>,
    /// Signalled when no write is in flight.
    drained: Option<oneshot::Sender<()>>,
}

/// The result of [`WriteSession::begin`].
pub(super) enum Begin {
    /// The name of the write.
    Ticket(Ticket),
    /// The write has to wait for room; an error means that this session accepts no more writes.
    Wait(oneshot::Receiver<Ticket>),
    /// This session accepts no more writes: open another.
    Blocked,
}

impl WriteSession {
    /// A session with the id and the window size that the cluster returned.
    pub(super) fn new(id: u64, window: u64) -> Arc<WriteSession> {
        let state = State { window: Window::new(window), waiting: VecDeque::new(), drained: None };
        Arc::new(WriteSession { id, state: Mutex::new(state) })
    }

    /// Its id.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Names a write.
    pub(super) fn begin(self: &Arc<Self>) -> Begin {
        let mut state = self.state.lock();
        let room = if state.waiting.is_empty() { state.window.begin() } else { Room::Full };
        match room {
            Room::Sequence(sequence) => {
                Begin::Ticket(Ticket { session: self.clone(), sequence, in_doubt: false })
            }
            Room::Full => {
                let (sender, receiver) = oneshot::channel();
                state.waiting.push_back(sender);
                Begin::Wait(receiver)
            }
            Room::Blocked => Begin::Blocked,
        }
    }

    /// Resolves when no write is in flight; writes given up do not count.
    pub(super) fn drained(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        if state.window.is_drained() {
            let _ = sender.send(());
        } else {
            state.drained = Some(sender);
        }
        receiver
    }

    fn end(self: &Arc<Self>, sequence: u64, in_doubt: bool) {
        let mut state = self.state.lock();
        state.window.end(sequence, in_doubt);
        if state.window.is_drained()
            && let Some(drained) = state.drained.take()
        {
            let _ = drained.send(());
        }
        drop(state);
        self.admit();
    }

    /// Gives room to the waiting writes.
    fn admit(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            // Their callers gave up waiting.
            while state.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                state.waiting.pop_front();
            }
            if state.waiting.is_empty() {
                return;
            }
            match state.window.begin() {
                Room::Full => return,
                Room::Blocked => {
                    let disappointed = std::mem::take(&mut state.waiting);
                    drop(state);
                    drop(disappointed);
                    return;
                }
                Room::Sequence(sequence) => {
                    let waiting = state.waiting.pop_front();
                    drop(state);
                    let ticket = Ticket { session: self.clone(), sequence, in_doubt: false };
                    // If the caller has just gone, the ticket is dropped here and its write is never sent.
                    let _ = waiting.map(|waiting| waiting.send(ticket));
                }
            }
        }
    }
}

/// The name of one write. Dropping it ends the write: as given up if it is in doubt, otherwise as answered or never
/// sent.
pub(super) struct Ticket {
    session: Arc<WriteSession>,
    sequence: u64,
    /// The write may have been executed, and no answer has arrived.
    pub(super) in_doubt: bool,
}

impl Ticket {
    /// The session of the write.
    pub(super) fn session(&self) -> &Arc<WriteSession> {
        &self.session
    }

    /// The name in its wire format.
    pub(super) fn name(&self) -> SessionWrite {
        SessionWrite {
            session: self.session.id,
            sequence: self.sequence,
            lowest_unanswered: self.session.state.lock().window.lowest_unanswered(),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.end(self.sequence, self.in_doubt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ticket(session: &Arc<WriteSession>) -> Ticket {
        match session.begin() {
            Begin::Ticket(ticket) => ticket,
            Begin::Wait(_) | Begin::Blocked => panic!("there is room"),
        }
    }

    #[tokio::test]
    async fn a_full_window_waits_for_its_lowest_write_in_order() {
        let session = WriteSession::new(7, 2);
        let (first, second) = (ticket(&session), ticket(&session));
        assert_eq!(first.name(), SessionWrite { session: 7, sequence: 1, lowest_unanswered: 1 });
        let Begin::Wait(mut third) = session.begin() else { panic!("the window is full") };
        drop(second);
        assert!(third.try_recv().is_err(), "1 is unanswered, so 3 lies beyond a window of 2");
        let Begin::Wait(fourth) = session.begin() else { panic!("3 comes first") };
        drop(first);
        let third = third.await.unwrap();
        assert_eq!(third.name(), SessionWrite { session: 7, sequence: 3, lowest_unanswered: 3 });
        assert_eq!(fourth.await.unwrap().name().sequence, 4);
    }

    #[tokio::test]
    async fn a_write_given_up_stays_unanswered_until_it_ends_the_session() {
        let session = WriteSession::new(7, 3);
        let (mut lost, mut other) = (ticket(&session), ticket(&session));
        (lost.in_doubt, other.in_doubt) = (true, false);
        drop(lost);
        drop(other);
        assert_eq!(ticket(&session).name().lowest_unanswered, 1);
        assert!(matches!(session.begin(), Begin::Blocked));
    }

    #[tokio::test]
    async fn those_who_wait_behind_a_write_that_is_given_up_are_sent_away() {
        let session = WriteSession::new(7, 1);
        let mut lost = ticket(&session);
        let Begin::Wait(waiting) = session.begin() else { panic!("the window is full") };
        let drained = session.drained();
        lost.in_doubt = true;
        drop(lost);
        assert!(waiting.await.is_err());
        drained.await.unwrap();
    }

    #[tokio::test]
    async fn a_caller_that_no_longer_waits_does_not_cost_the_others_their_turn() {
        let session = WriteSession::new(7, 1);
        let first = ticket(&session);
        let Begin::Wait(gone) = session.begin() else { panic!("the window is full") };
        let Begin::Wait(patient) = session.begin() else { panic!("the window is full") };
        drop(gone);
        drop(first);
        assert_eq!(patient.await.unwrap().name().sequence, 2);
    }

    proptest! {
        /// Compares the window with a model that records every sequence ever assigned.
        #[test]
        fn the_window_is_never_overrun_and_no_sequence_is_used_twice(
            size in 1u64..5,
            steps in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..4), 1..60),
        ) {
            let mut window = Window::new(size);
            let (mut used, mut open, mut given_up) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for (which, action) in steps {
                if action < 2 {
                    let lowest = window.lowest_unanswered();
                    match window.begin() {
                        Room::Sequence(sequence) => {
                            prop_assert!(used.insert(sequence));
                            open.insert(sequence);
                            prop_assert!(sequence < lowest + size);
                        }
                        Room::Full => prop_assert!(open.contains(&lowest)),
                        Room::Blocked => prop_assert!(given_up.contains(&lowest)),
                    }
                } else if !open.is_empty() {
                    let sequence = *which.get(&open.iter().copied().collect::<Vec<_>>());
                    open.remove(&sequence);
                    window.end(sequence, action == 2);
                    if action == 2 {
                        given_up.insert(sequence);
                    }
                }
                let lowest = open.iter().chain(&given_up).min().copied();
                prop_assert_eq!(window.lowest_unanswered(), lowest.unwrap_or(window.next));
                prop_assert_eq!(window.is_drained(), open.is_empty());
            }
        }
    }
}
