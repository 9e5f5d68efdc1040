//! One call from beginning to end: which node, how often, until when, and what it came to.
//!
//! Invariants: no call outlives its deadline; every request tells the node how long it may take; a write without a
//! name is never sent again once its first byte may have left. What to conclude is decided in `retry`, whom to ask
//! in `picker`; this is the loop around them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mokv_proto::api::admin_client::AdminClient;
use mokv_proto::api::kv_client::KvClient;
use mokv_proto::api::{self, SessionWrite};
use mokv_proto::status;
use mokv_proto::tonic::{Code, Request, Response, Status, Streaming};

use super::Inner;
use super::connection::{Channel, Endpoint};
use super::error::{Error, Why};
use super::picker::Purpose;
use super::retry::{self, Backoff, Health, Next, Resend, Verdict};
use crate::rt::time::{LONGEST, timeout_at};
use crate::rt::{self, random};

/// A message tells of so many nodes at most: those of the largest cluster that is formed together.
const MAX_TOLD: usize = 9;
/// A node is told a little less than it is waited for, a tenth at most: it knows better than its client why it was not in
/// time, and its word has to arrive.
const LAST_WORD: Duration = Duration::from_millis(100);

/// The largest message taken from a node.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A request that knows its method.
pub(super) trait Call: Clone + Send + Sync + 'static {
    /// What it is answered with.
    type Reply: Send;

    /// Sends it.
    fn send(
        channel: Channel,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Reply>, Status>> + Send;
}

/// A write that can be named.
pub(super) trait NamedWrite: Call {
    /// Gives it its name.
    fn set_name(&mut self, name: SessionWrite);
}

macro_rules! calls {
    ($($stub:ident :: $method:ident ($request:ty) -> $reply:ty;)*) => {$(
        impl Call for $request {
            type Reply = $reply;

            async fn send(
                channel: Channel,
                request: Request<Self>,
            ) -> Result<Response<Self::Reply>, Status> {
                let origin = channel.origin();
                let mut stub = $stub::with_origin(channel, origin)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES);
                stub.$method(request).await
            }
        }
    )*};
}

calls! {
    KvClient::get(api::GetRequest) -> api::GetResponse;
    KvClient::set(api::SetRequest) -> api::SetResponse;
    KvClient::delete(api::DeleteRequest) -> api::DeleteResponse;
    KvClient::list(api::ListRequest) -> Streaming<api::GetResponse>;
    KvClient::get_servers(api::GetServersRequest) -> api::GetServersResponse;
    KvClient::open_session(api::OpenSessionRequest) -> api::OpenSessionResponse;
    KvClient::close_session(api::CloseSessionRequest) -> api::CloseSessionResponse;
    AdminClient::status(api::StatusRequest) -> api::StatusResponse;
    AdminClient::transfer_leader(api::TransferLeaderRequest) -> api::TransferLeaderResponse;
    AdminClient::remove_member(api::RemoveMemberRequest) -> api::RemoveMemberResponse;
    AdminClient::leave(api::LeaveRequest) -> api::LeaveResponse;
    AdminClient::backup(api::BackupRequest) -> Streaming<api::BackupChunk>;
    AdminClient::snapshot(api::SnapshotRequest) -> api::SnapshotResponse;
    AdminClient::configure(api::ConfigureRequest) -> api::ConfigureResponse;
}

impl NamedWrite for api::SetRequest {
    fn set_name(&mut self, name: SessionWrite) {
        self.session = Some(name);
    }
}

impl NamedWrite for api::DeleteRequest {
    fn set_name(&mut self, name: SessionWrite) {
        self.session = Some(name);
    }
}

/// Until when a call may go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    /// How long that is from the beginning.
    total: Duration,
    /// What the caller gave, and is told.
    given: Duration,
    /// It bounds a step of a call. The caller, who gave another time, is told that one and not this.
    is_part: bool,
}

impl Deadline {
    /// From now on.
    pub(super) fn after(total: Duration) -> Deadline {
        Deadline { at: rt::time::after(total), total: total.min(LONGEST), given: total, is_part: false }
    }

    /// The same, but no later than `end`.
    pub(super) fn no_later_than(self, end: Instant) -> Deadline {
        let at = self.at.min(end);
        Deadline { at, total: self.total.min(at.saturating_duration_since(rt::now())), ..self }
    }

    /// What went wrong, in words and as a status, and if it did because this is over, how long that was.
    fn tell(self, why: Why, status: &Status) -> Why {
        // A node is told to answer a little earlier.
        let is_over = match status.code() {
            Code::DeadlineExceeded => self.left() <= last_word(self.total),
            _ => rt::now() >= self.at,
        };
        if !is_over || self.is_part {
            return why;
        }
        why.reworded(format!("{why} (within {:?})", self.given))
    }

    /// What the caller gave.
    pub(super) fn given(self) -> Duration {
        self.given
    }

    /// The instant.
    pub(super) fn at(self) -> Instant {
        self.at
    }

    /// For a part of the call, which may take `most`: it ends a little before the call, which can then say what went wrong.
    pub(super) fn but_for_the_end(self, most: Duration) -> Deadline {
        Deadline { is_part: true, ..Deadline::after(most.min(self.left().saturating_sub(self.total / 10))) }
    }

    /// Whether no time is left for another such part.
    pub(super) fn is_nearly_over(self) -> bool {
        self.left() <= self.total / 10
    }

    fn left(self) -> Duration {
        self.at.saturating_duration_since(rt::now())
    }

    /// For one attempt of several: a part of the whole, so that a silent node leaves time for another.
    fn share(self) -> Instant {
        self.at.min(rt::time::after(self.total / 3))
    }
}

/// How long before the end of so long a time a node is to answer.
fn last_word(allowed: Duration) -> Duration {
    (allowed / 10).min(LAST_WORD)
}

/// The rounds of one call over the nodes.
struct Rounds<'a> {
    inner: &'a Inner,
    purpose: Purpose,
    deadline: Deadline,
    tried: BTreeSet<String>,
    rounds: u32,
    /// What the last attempt at each node came to, in words.
    last: BTreeMap<String, Why>,
}

impl<'a> Rounds<'a> {
    fn new(inner: &'a Inner, purpose: Purpose, deadline: Deadline) -> Rounds<'a> {
        Rounds { inner, purpose, deadline, tried: BTreeSet::new(), rounds: 0, last: BTreeMap::new() }
    }

    /// The next node; waits a little when all have been asked. `None` when the deadline has passed.
    async fn next(&mut self) -> Option<Arc<Endpoint>> {
        loop {
            let now = rt::now();
            if now >= self.deadline.at {
                return None;
            }
            if let Some(endpoint) = self.inner.topology.pick(self.purpose, &self.tried) {
                self.tried.insert(endpoint.address().to_owned());
                return Some(endpoint);
            }
            self.tried.clear();
            self.rounds += 1;
            let wait = Backoff::ROUND.after(self.rounds, random::random_u64());
            rt::sleep_until((now + wait).min(self.deadline.at)).await;
        }
    }

    fn failed(&mut self, endpoint: &Endpoint, status: &Status) {
        // What an attempt that the deadline broke off says of the node is less than what one before it said.
        let address = endpoint.address();
        if !self.last.contains_key(address) || rt::now() < self.deadline.at {
            self.last.insert(address.to_owned(), describe(endpoint, status));
        }
        self.inner.refresh_soon();
    }

    fn exhausted(&self, what: &str) -> Why {
        let nobody = Why::from("no node was asked");
        let any = self.last.values().next().unwrap_or(&nobody);
        let told: Vec<&str> = self.last.values().take(MAX_TOLD).map(Why::as_str).collect();
        let mut told = if told.is_empty() { nobody.to_string() } else { told.join("; ") };
        if self.last.len() > MAX_TOLD {
            told.push_str("; and others");
        }
        if self.deadline.is_part {
            return any.reworded(told);
        }
        any.reworded(format!("{what} within {:?}: {told}", self.deadline.given))
    }
}

fn describe(endpoint: &Endpoint, status: &Status) -> Why {
    Why::of(format!("{}: {}", endpoint.address(), status.message()), status)
}

/// How a write to the leader ended without success.
pub(super) enum WriteFailure {
    /// Tell the caller.
    Error(Error),
    /// The session is gone. Tell the caller, or if there is nothing to tell, the write was certainly not executed.
    SessionLost(Option<Error>),
}

impl Inner {
    /// One request to one node. `until` bounds the wait here; the node is told `allowed`.
    pub(super) async fn attempt<C: Call>(
        &self,
        endpoint: &Arc<Endpoint>,
        call: C,
        until: Instant,
        allowed: Instant,
    ) -> Result<Response<C::Reply>, Status> {
        let channel = match timeout_at(until, endpoint.channel()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(why)) => {
                endpoint.failed();
                return Err(status::not_executed(format!("cannot connect: {why}"), None));
            }
            Err(rt::time::Elapsed) => {
                endpoint.failed();
                return Err(status::not_executed("cannot connect in time", None));
            }
        };
        let since = rt::now();
        let _in_flight = endpoint.begin();
        let mut request = Request::new(call);
        let allowed = allowed.saturating_duration_since(since);
        request.set_timeout(allowed - last_word(allowed));
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        match timeout_at(until, C::send(channel, request)).await {
            Ok(Ok(response)) => {
                endpoint.answered(since);
                if let Some(revision) = status::revision_of(response.metadata()) {
                    self.saw(revision);
                }
                Ok(response)
            }
            Ok(Err(status)) => {
                match Health::of(&status) {
                    Health::Healthy => endpoint.answered(since),
                    Health::Unready => endpoint.unfit(),
                    Health::Failing => endpoint.failed(),
                }
                if let Some(revision) = status::revision_of(status.metadata()) {
                    self.saw(revision);
                }
                Err(status)
            }
            Err(rt::time::Elapsed) => {
                endpoint.timed_out(since);
                Err(status::unknown("no answer in time"))
            }
        }
    }

    /// A read: asks one node after the other until one answers. `allowed`: how long the answer itself may take, if
    /// that is longer than the deadline (a stream).
    pub(super) async fn read<C: Call>(
        &self,
        call: &C,
        purpose: Purpose,
        deadline: Deadline,
        allowed: Option<Instant>,
    ) -> Result<Response<C::Reply>, ReadFailure> {
        let mut rounds = Rounds::new(self, purpose, deadline);
        while let Some(endpoint) = rounds.next().await {
            let until = deadline.share();
            match self.attempt(&endpoint, call.clone(), until, allowed.unwrap_or(until)).await {
                Ok(response) => return Ok(response),
                Err(status) => {
                    self.hear_of_leader(&status);
                    if let Some(error) = retry::after_read(&status) {
                        return Err(ReadFailure { error, status: Some(status) });
                    }
                    rounds.failed(&endpoint, &status);
                }
            }
        }
        let error = Error::Unavailable(rounds.exhausted("no node served the read"));
        Err(ReadFailure { error, status: None })
    }

    /// A write, or anything else that is the leader's to do. `in_doubt` says at every moment, also when this future
    /// is dropped, whether the write may have been executed unnoticed.
    pub(super) async fn write<C: Call>(
        &self,
        call: &C,
        resend: Resend,
        deadline: Deadline,
        in_doubt: &mut bool,
    ) -> Result<C::Reply, WriteFailure> {
        let mut rounds = Rounds::new(self, Purpose::Write, deadline);
        while let Some(endpoint) = rounds.next().await {
            let until = match resend {
                Resend::Safe => deadline.share(),
                Resend::Never => deadline.at,
            };
            let doubt_before = std::mem::replace(in_doubt, true);
            let status = match self.attempt(&endpoint, call.clone(), until, until).await {
                Ok(response) => {
                    *in_doubt = false;
                    if !self.topology.knows_leader() {
                        self.refresh_soon();
                    }
                    return Ok(response.into_inner());
                }
                Err(status) => status,
            };
            let verdict = Verdict::of(&status);
            if matches!(verdict, Verdict::NotExecuted | Verdict::Unknown) {
                self.topology.doubt_leader(endpoint.address());
                self.hear_of_leader(&status);
                rounds.failed(&endpoint, &status);
            }
            let why = deadline.tell(describe(&endpoint, &status), &status);
            match retry::after_write(verdict, doubt_before, resend, &why) {
                Next::Return(error) => {
                    *in_doubt = error.is_unknown();
                    return Err(WriteFailure::Error(error));
                }
                Next::SessionLost(error) => {
                    rt::sometimes("client lost its session");
                    *in_doubt = error.is_some();
                    return Err(WriteFailure::SessionLost(error));
                }
                Next::Again { in_doubt: now } => {
                    if now {
                        rt::sometimes("client repeats a write in doubt");
                    }
                    *in_doubt = now;
                }
            }
        }
        let why = rounds.exhausted("no node answered the write");
        Err(WriteFailure::Error(if *in_doubt { Error::Unknown(why) } else { Error::NotExecuted(why) }))
    }

    /// A write, by the name that the session gives it if the client uses sessions.
    pub(super) async fn named_write<C: NamedWrite>(
        self: &Arc<Self>,
        mut call: C,
        deadline: Deadline,
    ) -> Result<C::Reply, Error> {
        if !self.use_sessions {
            return self.command(&call, Resend::Never, deadline).await;
        }
        loop {
            let mut ticket = self.ticket(deadline).await?;
            call.set_name(ticket.name());
            match self.write(&call, Resend::Safe, deadline, &mut ticket.in_doubt).await {
                Ok(reply) => return Ok(reply),
                Err(WriteFailure::Error(error)) => return Err(error),
                Err(WriteFailure::SessionLost(told)) => {
                    self.forget_session(ticket.session());
                    if let Some(error) = told {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// A write without a name, or another command for the leader.
    pub(super) async fn command<C: Call>(
        &self,
        call: &C,
        resend: Resend,
        deadline: Deadline,
    ) -> Result<C::Reply, Error> {
        match self.write(call, resend, deadline, &mut false).await {
            Ok(reply) => Ok(reply),
            Err(WriteFailure::Error(error)) => Err(error),
            Err(WriteFailure::SessionLost(told)) => {
                Err(told.unwrap_or_else(|| Error::NotFound("the session has expired".into())))
            }
        }
    }

    /// A question to one particular node, asked once.
    pub(super) async fn ask<C: Call>(
        &self,
        address: &str,
        call: C,
        deadline: Deadline,
    ) -> Result<C::Reply, Error> {
        let said = self.say_once(address, call, deadline).await;
        said.map_err(|(status, why)| retry::after_read(&status).unwrap_or(Error::Unavailable(why)))
    }

    /// An order to one particular node, given once.
    pub(super) async fn order<C: Call>(
        &self,
        address: &str,
        call: C,
        deadline: Deadline,
    ) -> Result<C::Reply, Error> {
        let said = self.say_once(address, call, deadline).await;
        said.map_err(|(status, why)| {
            match retry::after_write(Verdict::of(&status), false, Resend::Never, &why) {
                Next::Return(error) => error,
                Next::Again { .. } | Next::SessionLost(_) => Error::NotExecuted(why),
            }
        })
    }

    /// The answer of one particular node, or its status, and that in words.
    async fn say_once<C: Call>(
        &self,
        address: &str,
        call: C,
        deadline: Deadline,
    ) -> Result<C::Reply, (Status, Why)> {
        let endpoint = self.topology.endpoint(address);
        match self.attempt(&endpoint, call, deadline.at, deadline.at).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => {
                let why = deadline.tell(describe(&endpoint, &status), &status);
                Err((status, why))
            }
        }
    }

    /// Remembers the highest revision seen, for stale reads that never go back.
    pub(super) fn saw(&self, revision: u64) {
        self.seen_revision.fetch_max(revision, Ordering::Relaxed);
    }

    fn hear_of_leader(&self, status: &Status) {
        if let Some(leader) = status::leader_of(status) {
            self.topology.learn_leader(leader);
        }
    }
}

/// Why a read failed, with the status of the definite answer if there was one.
pub(super) struct ReadFailure {
    pub(super) error: Error,
    pub(super) status: Option<Status>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_late_is_told_with_the_time_that_was_given() {
        let (given, late) = (Duration::from_secs(1), Status::deadline_exceeded("late"));
        let told = |left: Duration, status: &Status| {
            let deadline = Deadline { at: rt::now() + left, total: given, given, is_part: false };
            deadline.tell("late".into(), status).to_string()
        };
        assert_eq!(told(Duration::ZERO, &Status::internal("broken")), "late (within 1s)");
        assert_eq!(told(LAST_WORD / 2, &late), "late (within 1s)", "the node answers before the end");
        assert_eq!(told(Duration::from_secs(60), &late), "late", "its own bound is a shorter one");
    }
}
