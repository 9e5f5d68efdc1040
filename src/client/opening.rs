//! Opens, renews and closes the client's session over the wire.
//!
//! Invariants: at most one session is being opened at a time; the first write opens it, not earlier. A session that is
//! no longer usable is closed when its last write has returned, and forgotten whether or not closing succeeds: the
//! cluster evicts unused sessions.

use std::sync::Arc;
use std::time::Duration;

use mokv_proto::api;

use super::Inner;
use super::call::Deadline;
use super::error::{Error, Why};
use super::retry::Resend;
use super::session::{Begin, Ticket, WriteSession};
use crate::rt::time::timeout_at;
use crate::rt::{self, watch};

/// The longest time of one attempt to open or close a session.
const TIMEOUT: Duration = Duration::from_secs(2);

type Opening = watch::Receiver<Option<Result<(), Error>>>;

/// The current session and the attempt to open one.
#[derive(Default)]
pub(super) struct SessionSlot {
    current: Option<Arc<WriteSession>>,
    opening: Option<Opening>,
}

enum Step {
    Begin(Arc<WriteSession>),
    Wait(Opening),
}

impl Inner {
    /// Names a write: opens a session if there is none, and waits for room in its window.
    pub(super) async fn ticket(self: &Arc<Self>, deadline: Deadline) -> Result<Ticket, Error> {
        let mut last = Why::from("no answer yet");
        loop {
            match self.step(deadline) {
                Step::Begin(session) => match session.begin() {
                    Begin::Ticket(ticket) => return Ok(ticket),
                    Begin::Wait(room) => match timeout_at(deadline.at(), room).await {
                        Ok(Ok(ticket)) => return Ok(ticket),
                        Ok(Err(_)) => self.retire(&session),
                        Err(rt::time::Elapsed) => {
                            let message = format!(
                                "too many writes of this session were unanswered for {:?}",
                                deadline.given()
                            );
                            return Err(Error::NotExecuted(message.into()));
                        }
                    },
                    Begin::Blocked => self.retire(&session),
                },
                Step::Wait(mut opening) => {
                    let opened = timeout_at(deadline.at(), opening.wait_for(Option::is_some)).await;
                    match &*opening.borrow() {
                        Some(Ok(())) => continue,
                        // The write itself was not sent, and an additional session does no harm.
                        Some(Err(Error::Unknown(why) | Error::NotExecuted(why))) => last.clone_from(why),
                        Some(Err(error)) => return Err(error.clone()),
                        None if opened.is_ok() => {
                            return Err(Error::NotExecuted("the client is being torn down".into()));
                        }
                        None => {}
                    }
                    if opened.is_err() || deadline.is_nearly_over() {
                        let message =
                            format!("no session could be opened within {:?}: {last}", deadline.given());
                        return Err(Error::NotExecuted(last.reworded(message)));
                    }
                }
            }
        }
    }

    fn step(self: &Arc<Self>, deadline: Deadline) -> Step {
        let mut sessions = self.sessions.lock();
        if let Some(session) = &sessions.current {
            return Step::Begin(session.clone());
        }
        if let Some(opening) = &sessions.opening {
            return Step::Wait(opening.clone());
        }
        let (done, opening) = watch::channel(None);
        sessions.opening = Some(opening.clone());
        // A separate task, because other callers still wait if this one gives up.
        rt::spawn(self.clone().open_session(done, deadline.but_for_the_end(TIMEOUT)));
        Step::Wait(opening)
    }

    async fn open_session(
        self: Arc<Self>,
        done: watch::Sender<Option<Result<(), Error>>>,
        deadline: Deadline,
    ) {
        let request = api::OpenSessionRequest {};
        // A session opened twice by a repeated request does no harm: it is never used and is evicted.
        let result = self.command(&request, Resend::Safe, deadline).await;
        let mut sessions = self.sessions.lock();
        sessions.opening = None;
        let result = result.map(|reply| {
            sessions.current = Some(WriteSession::new(reply.session, reply.window));
        });
        drop(sessions);
        done.send(Some(result));
    }

    /// Drops `session`, which the cluster has evicted.
    pub(super) fn forget_session(&self, session: &Arc<WriteSession>) {
        let mut sessions = self.sessions.lock();
        if sessions.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            sessions.current = None;
        }
    }

    /// The session accepts no more writes: the next write opens another, and this one is closed when it is drained.
    fn retire(self: &Arc<Self>, session: &Arc<WriteSession>) {
        let mut sessions = self.sessions.lock();
        if !sessions.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            return; // Another write has retired it already.
        }
        sessions.current = None;
        drop(sessions);
        let (inner, drained, id) = (Arc::downgrade(self), session.drained(), session.id());
        rt::spawn(async move {
            let _ = drained.await;
            if let Some(inner) = inner.upgrade() {
                let request = api::CloseSessionRequest { session: id };
                let _ = inner.command(&request, Resend::Safe, Deadline::after(TIMEOUT)).await;
            }
        });
    }

    /// Closes the current session.
    pub(super) async fn close_session(&self, deadline: Deadline) -> Result<(), Error> {
        let current = self.sessions.lock().current.take();
        let Some(session) = current else { return Ok(()) };
        let request = api::CloseSessionRequest { session: session.id() };
        match self.command(&request, Resend::Safe, deadline).await {
            Ok(_) | Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
