//! Who is served at a time: a place for each request of a class, bytes of requests and answers, streams, connections.
//!
//! Each class has places of its own, so that operators are served while clients hold all of theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Caller;
use super::outcome::Refused;
use crate::bound::{Bound, Held};
use crate::config::Limits;
use crate::rt;
use crate::rt::time::{Elapsed, timeout_at};

/// An answer that is ready leaves within this, or its caller is not there to take it.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Operators' requests at a time: they are people, and a few programs.
const MAX_OPERATOR_CALLS: usize = 64;
/// Answers that are streams, of all services: each holds a state of the store or waits for news.
const MAX_ANSWER_STREAMS: usize = 1024;
/// Bytes of clients' requests, until they are answered.
const MAX_REQUEST_BYTES: usize = 256 << 20;
/// Bytes of all other requests, which are short.
const MAX_OPERATOR_BYTES: usize = 32 << 20;
/// Bytes of answers that are not taken.
const MAX_UNREAD_BYTES: usize = 256 << 20;

/// Among whose requests a request is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Those of `max-in-flight-requests`.
    Client,
    /// Those of operators.
    Operator,
    /// None: answered even when all places are taken, and while the node drains.
    Exempt,
}

/// What a client's connection may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionKind {
    /// All services.
    Client,
    /// All but clients' requests: it was made when clients held all the connections that they may.
    Operator,
}

/// How far a node's life has come, for its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Every connection is served.
    Serving,
    /// Clients finish what they asked for and are turned away; peers are served, or nothing would finish.
    Draining,
    /// All connections end.
    Stopped,
}

/// The places of one node.
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
    /// All places are free.
    pub(super) fn new(limits: &Limits) -> Admission {
        Admission {
            clients: Bound::new(limits.max_in_flight_requests),
            operators: Bound::new(MAX_OPERATOR_CALLS),
            streams: Bound::new(MAX_ANSWER_STREAMS),
            received: Bound::new(MAX_REQUEST_BYTES),
            received_by_operators: Bound::new(MAX_OPERATOR_BYTES),
            unread: Bound::new(MAX_UNREAD_BYTES),
            // Counted, and bounded by those who accept them.
            connections: Bound::new(usize::MAX),
            draining: AtomicBool::new(false),
        }
    }

    /// Whether a caller may send requests of a class at all. To be asked before anything of one is read.
    ///
    /// # Errors
    /// [`Refused::Overloaded`].
    pub fn may_call(&self, caller: Caller, class: Class) -> Result<(), Refused> {
        match (caller.connection, class) {
            (ConnectionKind::Operator, Class::Client) => Err(Refused::Overloaded(
                "clients hold all connections they may (max-connections); this one serves api.Admin and health only"
                    .into(),
            )),
            _ => Ok(()),
        }
    }

    /// A place for one request that is there whole, until it is answered. `None`: it needs none.
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

    /// Counts the bytes of all requests of a class, until they are answered.
    pub fn received(&self, class: Class) -> Arc<Bound> {
        match class {
            Class::Client => self.received.clone(),
            Class::Operator | Class::Exempt => self.received_by_operators.clone(),
        }
    }

    /// Counts the bytes of all answers that are encoded and not taken.
    pub fn unread(&self) -> Arc<Bound> {
        self.unread.clone()
    }

    /// A place for an answer that is a stream, until it ends.
    ///
    /// # Errors
    /// [`Refused::Overloaded`] if all places are taken.
    pub fn admit_stream(&self) -> Result<Held, Refused> {
        let full = || Refused::Overloaded("too many streams are open on this node; try again later".into());
        self.streams.take().ok_or_else(full)
    }

    /// Held by a client's connection for as long as it has something to send.
    pub fn connected(&self) -> Option<Held> {
        self.connections.take()
    }

    /// Admits no more requests, and waits until those under way are answered and the answers have left. Connections
    /// have to be told to end before.
    ///
    /// # Errors
    /// If that takes longer than `within`.
    pub async fn drain(&self, within: Duration) -> Result<(), Elapsed> {
        self.draining.store(true, Ordering::Relaxed);
        let until = rt::now() + within;
        timeout_at(until, self.clients.all_given_back()).await?;
        timeout_at(until, self.operators.all_given_back()).await?;
        // A caller that does not take its answer now has gone away.
        let until = until.min(rt::now() + LAST_BYTES);
        let _ = timeout_at(until, self.connections.all_given_back()).await;
        Ok(())
    }
}
