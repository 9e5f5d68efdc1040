//! Admission: the bounds on requests of each class, on bytes of requests and answers, and on streams.
//!
//! Each class has places of its own, so that the node serves operators while clients hold all of theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Caller;
use super::outcome::Refused;
use crate::bound::{Bound, Held};
use crate::config::Limits;
use crate::rt;
use crate::rt::time::{Elapsed, timeout_at};

/// Time for an answer that is ready to leave. After it, the caller counts as gone.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Operators' requests at a time. Few operators and programs send them.
const MAX_OPERATOR_CALLS: usize = 64;
/// Streamed answers at a time, of all services. Each holds a state of the store, or waits for changes.
const MAX_ANSWER_STREAMS: usize = 1024;
/// Bytes of clients' requests, until they are answered.
const MAX_REQUEST_BYTES: usize = 256 << 20;
/// Bytes of all other requests, which are short.
const MAX_OPERATOR_BYTES: usize = 32 << 20;
/// Bytes of answers that their clients have not read yet.
const MAX_UNREAD_BYTES: usize = 256 << 20;

/// The class of requests whose places a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Requests of clients, bounded by `max-in-flight-requests`.
    Client,
    /// Requests of operators.
    Operator,
    /// Requests that take no place. They are answered even when all places are taken, and while the node drains.
    Exempt,
}

/// The services that a client's connection may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionKind {
    /// All services.
    Client,
    /// All but those of clients: the connection was made when clients held all connections of `max-connections`.
    Operator,
}

/// The phase of a node's shutdown, for its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Every connection is served.
    Serving,
    /// Requests of clients under way finish, and new ones are refused. Peers are served, or no write would finish.
    Draining,
    /// All connections end.
    Stopped,
}

/// The bounds of one node.
pub struct Admission {
    clients: Arc<Bound>,
    operators: Arc<Bound>,
    streams: Arc<Bound>,
    received: Arc<Bound>,
    received_by_operators: Arc<Bound>,
    unread: Arc<Bound>,
    connections: Arc<Bound>,
    draining: AtomicBool,
}

impl Admission {
    /// Returns bounds of which nothing is taken.
    pub(super) fn new(limits: &Limits) -> Admission {
        Admission {
            clients: Bound::new(limits.max_in_flight_requests),
            operators: Bound::new(MAX_OPERATOR_CALLS),
            streams: Bound::new(MAX_ANSWER_STREAMS),
            received: Bound::new(MAX_REQUEST_BYTES),
            received_by_operators: Bound::new(MAX_OPERATOR_BYTES),
            unread: Bound::new(MAX_UNREAD_BYTES),
            // Only counted here; `mux::places` bounds them.
            connections: Bound::new(usize::MAX),
            draining: AtomicBool::new(false),
        }
    }

    /// Checks that a caller may send requests of a class at all. Call it before reading any part of a request.
    ///
    /// # Errors
    /// [`Refused::Overloaded`] if the caller's connection is of a kind that serves no clients.
    pub fn may_call(&self, caller: Caller, class: Class) -> Result<(), Refused> {
        match (caller.connection, class) {
            (ConnectionKind::Operator, Class::Client) => Err(Refused::Overloaded(
                "clients hold all connections they may (max-connections); this one serves api.Admin and health only"
                    .into(),
            )),
            _ => Ok(()),
        }
    }

    /// Returns a place for one request that has been read whole, held until it is answered. `None`: it needs none.
    ///
    /// # Errors
    /// [`Refused::NotExecuted`] while the node drains, [`Refused::Overloaded`] if all places are taken.
    pub(super) fn admit(&self, caller: Caller, class: Class) -> Result<Option<Held>, Refused> {
        self.may_call(caller, class)?;
        let (bound, what) = match class {
            Class::Exempt => return Ok(None),
            Class::Client => (&self.clients, "too many requests are under way on this node"),
            Class::Operator => (&self.operators, "too many operators' requests are under way on this node"),
        };
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::not_executed("this node is stopping; ask another one"));
        }
        let full = || Refused::Overloaded(format!("{what}; try again later"));
        bound.take().map(Some).ok_or_else(full)
    }

    /// Returns the bound on the bytes of all requests of a class, held until they are answered.
    pub fn received(&self, class: Class) -> Arc<Bound> {
        match class {
            Class::Client => self.received.clone(),
            Class::Operator | Class::Exempt => self.received_by_operators.clone(),
        }
    }

    /// Returns the bound on the bytes of all answers that are encoded, and that their clients have not read yet.
    pub fn unread(&self) -> Arc<Bound> {
        self.unread.clone()
    }

    /// Returns a place for a streamed answer, held until the stream ends.
    ///
    /// # Errors
    /// [`Refused::Overloaded`] if all places are taken.
    pub fn admit_stream(&self) -> Result<Held, Refused> {
        let full = || Refused::Overloaded("too many streams are open on this node; try again later".into());
        self.streams.take().ok_or_else(full)
    }

    /// Returns the count of a client's connection, held for as long as the connection has something to send.
    pub fn connected(&self) -> Option<Held> {
        self.connections.take()
    }

    /// Admits no more requests, and waits until those under way are answered and the answers have left. The caller has
    /// to enter [`Phase::Draining`] before.
    ///
    /// # Errors
    /// If that takes longer than `within`.
    pub async fn drain(&self, within: Duration) -> Result<(), Elapsed> {
        self.draining.store(true, Ordering::Relaxed);
        let until = rt::now() + within;
        timeout_at(until, self.clients.all_given_back()).await?;
        timeout_at(until, self.operators.all_given_back()).await?;
        // A client that does not read its answer now has gone away.
        let until = until.min(rt::now() + LAST_BYTES);
        let _ = timeout_at(until, self.connections.all_given_back()).await;
        Ok(())
    }
}
