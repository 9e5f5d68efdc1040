//! One call from start to end: the choice of node, the attempts, the deadline and the outcome.
//!
//! Invariants: no call outlives its deadline; every request carries its timeout to the node; a write without a name is
//! never sent again once its first byte may have left. `retry` interprets the outcomes, `picker` chooses the node; this
//! file is the loop around them.

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

/// The most nodes that an error message lists: as many as the largest cluster that is formed together.
const MAX_TOLD: usize = 9;
/// The longest time by which a node's timeout is shorter than the client's own wait; at most a tenth of that wait. The
/// node knows better than its client why it was late, and its answer has to arrive.
const LAST_WORD: Duration = Duration::from_millis(100);

/// The largest message accepted from a node, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A request type with its RPC method.
pub(super) trait Call: Clone + Send + Sync + 'static {
    /// The type of the reply.
    type Reply: Send;

    /// Sends the request.
    fn send(
        channel: Channel,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Reply>, Status>> + Send;
}

/// A write that can carry a name (session and sequence).
pub(super) trait NamedWrite: Call {
    /// Sets the name.
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
    KvClient::versions(api::VersionsRequest) -> Streaming<api::Change>;
    KvClient::changes(api::ChangesRequest) -> Streaming<api::Change>;
    KvClient::transact(api::TransactRequest) -> api::TransactResponse;
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
    AdminClient::compact(api::CompactRequest) -> api::CompactResponse;
}

impl NamedWrite for api::SetRequest {
    fn set_name(&mut self, name: SessionWrite) {
        self.session = Some(name);
    }
}

impl NamedWrite for api::TransactRequest {
    fn set_name(&mut self, name: SessionWrite) {
        self.session = Some(name);
    }
}

impl NamedWrite for api::DeleteRequest {
    fn set_name(&mut self, name: SessionWrite) {
        self.session = Some(name);
    }
}

/// The instant by which a call ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    /// Time from the start of the call to `at`.
    total: Duration,
    /// The timeout that the caller gave, for error messages.
    given: Duration,
    /// The deadline bounds one step of a call. Error messages then leave it out: the caller gave another time.
    is_part: bool,
}

impl Deadline {
    /// A deadline `total` from now.
    pub(super) fn after(total: Duration) -> Deadline {
        Deadline { at: rt::time::after(total), total: total.min(LONGEST), given: total, is_part: false }
    }

    /// Returns the same deadline, but no later than `end`.
    pub(super) fn no_later_than(self, end: Instant) -> Deadline {
        let at = self.at.min(end);
        Deadline { at, total: self.total.min(at.saturating_duration_since(rt::now())), ..self }
    }

    /// Returns `why`, with the caller's timeout appended if the deadline was the cause of `status`.
    fn tell(self, why: Why, status: &Status) -> Why {
        // The node's own timeout is a little shorter.
        let is_over = match status.code() {
            Code::DeadlineExceeded => self.left() <= last_word(self.total),
            _ => rt::now() >= self.at,
        };
        if !is_over || self.is_part {
            return why;
        }
        why.reworded(format!("{why} (within {:?})", self.given))
    }

    /// The timeout that the caller gave.
    pub(super) fn given(self) -> Duration {
        self.given
    }

    /// The instant.
    pub(super) fn at(self) -> Instant {
        self.at
    }

    /// Returns a deadline for a step of the call, of at most `most`. It ends a little before the call does, so that the
    /// call can still report the error.
    pub(super) fn but_for_the_end(self, most: Duration) -> Deadline {
        Deadline { is_part: true, ..Deadline::after(most.min(self.left().saturating_sub(self.total / 10))) }
    }

    /// Whether no time is left for another such step.
    pub(super) fn is_nearly_over(self) -> bool {
        self.left() <= self.total / 10
    }

    fn left(self) -> Duration {
        self.at.saturating_duration_since(rt::now())
    }

    /// Returns the end of one attempt of several: a third of the whole time, so that a silent node leaves time for
    /// another.
    fn share(self) -> Instant {
        self.at.min(rt::time::after(self.total / 3))
    }
}

/// Returns how much shorter than `allowed` the node's timeout is.
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
    /// The error of the last attempt at each node.
    last: BTreeMap<String, Why>,
}

impl<'a> Rounds<'a> {
    fn new(inner: &'a Inner, purpose: Purpose, deadline: Deadline) -> Rounds<'a> {
        Rounds { inner, purpose, deadline, tried: BTreeSet::new(), rounds: 0, last: BTreeMap::new() }
    }

    /// Returns the next node; waits for a backoff when all have been tried. `None` when the deadline has passed.
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
        // The error of an attempt that the deadline cut off says less about the node than the error before it.
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
    /// Return this error to the caller.
    Error(Error),
    /// The session is gone. Return the error to the caller; without one, the write was certainly not executed.
    SessionLost(Option<Error>),
}

impl Inner {
    /// Sends one request to one node. `until` bounds the wait here; the node's timeout follows from `allowed`.
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

    /// A read: asks one node after the other until one answers. `allowed`: the end of the answer itself, if that is
    /// later than the deadline (a stream).
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

    /// A write, or any other command for the leader. `in_doubt` is correct at every moment, also when this future is
    /// dropped: it is true while the write may have been executed without an answer.
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

    /// A write, named by a session if the client uses sessions.
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

    /// Sends a read-only request to one particular node, once.
    pub(super) async fn ask<C: Call>(
        &self,
        address: &str,
        call: C,
        deadline: Deadline,
    ) -> Result<C::Reply, Error> {
        let said = self.say_once(address, call, deadline).await;
        said.map_err(|(status, why)| retry::after_read(&status).unwrap_or(Error::Unavailable(why)))
    }

    /// Sends a command to one particular node, once.
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

    /// Returns the answer of one particular node, or its status and an error message.
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

    /// Records the highest revision seen, so that stale reads never go back.
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
