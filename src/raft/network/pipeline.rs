//! The appends of one replication stream: several are in flight, and their answers reach openraft in order.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use mokv_proto::raft::response::Body as Response;
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};

use super::super::peers::{CallError, Link};
use super::super::types::TypeConfig;
use super::append::{Appender, Sent};
use super::{call_failed, unreachable};
use crate::rt::time::InactivityTimer;
use crate::rt::{self, timeout};

/// The in-flight window: appends sent but not answered on one replication stream. A larger one only lengthens queues:
/// a batch grows while the window is full.
const APPEND_WINDOW: usize = 4;
/// A replication stream that receives no answer for this long fails. Large entries on slow links need more than a
/// heartbeat interval.
const NO_PROGRESS: Duration = Duration::from_secs(3);

type Answer = Pin<Box<dyn Future<Output = Result<Response, CallError>> + Send>>;

struct Unanswered {
    sent: Sent,
    answer: Answer,
}

/// The in-flight appends of one stream, answered in the order in which they were sent.
pub struct Pipeline<'a, S> {
    link: Arc<Link>,
    appender: &'a mut Appender,
    input: S,
    input_ended: bool,
    unanswered: VecDeque<Unanswered>,
    /// Expires when an append is unanswered and no answer has come for [`NO_PROGRESS`].
    inactivity: InactivityTimer,
}

/// One answer for openraft.
type Answered = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

impl<'a, S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Pipeline<'a, S> {
    /// Sends the appends of `input` over `link`.
    pub fn new(link: Arc<Link>, appender: &'a mut Appender, input: S) -> Pipeline<'a, S> {
        let inactivity = InactivityTimer::new(NO_PROGRESS);
        Pipeline { link, appender, input, input_ended: false, unanswered: VecDeque::new(), inactivity }
    }

    /// The answers. The stream ends once its input has ended and every append is answered: openraft sends a heartbeat
    /// as a stream of one and waits for that end.
    pub fn answers(self) -> impl Stream<Item = Answered> + use<'a, S> {
        futures_util::stream::unfold(Some(self), |pipeline| async move {
            let mut pipeline = pipeline?;
            match pipeline.next().await {
                Ok(None) => None,
                Ok(Some(Ok(matching))) => Some((Ok(Ok(matching)), Some(pipeline))),
                // All later appends meet the same conflict.
                Ok(Some(Err(rejected))) => Some((Ok(Err(rejected)), None)),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Returns the next answer; `None` when all input is answered.
    async fn next(&mut self) -> Result<Option<StreamAppendResult<TypeConfig>>, RPCError<TypeConfig>> {
        self.inactivity.reset();
        while !self.input_ended || !self.unanswered.is_empty() {
            let may_send = !self.input_ended && self.unanswered.len() < APPEND_WINDOW;
            let idle = self.unanswered.is_empty();
            tokio::select! {
                biased;
                answer = oldest(&mut self.unanswered) => {
                    if let Some(answer) = self.interpret(answer)? {
                        return Ok(Some(answer));
                    }
                    self.inactivity.reset();
                }
                request = self.input.next(), if may_send => match request {
                    None => self.input_ended = true,
                    Some(request) => {
                        if idle {
                            self.inactivity.reset();
                        }
                        self.send(request).await?;
                    }
                },
                () = self.inactivity.expired(), if !idle => {
                    rt::sometimes("replication made no progress");
                    return Err(unreachable(format!("no append was answered for {NO_PROGRESS:?}")));
                }
            }
        }
        Ok(None)
    }

    /// Interprets the answer to the oldest append. Returns `None` for one that openraft would take for the next
    /// append's answer too: that answer confirms as much and comes a little later.
    fn interpret(
        &mut self,
        answer: Result<Response, CallError>,
    ) -> Result<Option<StreamAppendResult<TypeConfig>>, RPCError<TypeConfig>> {
        let Unanswered { sent, .. } = self.unanswered.pop_front().expect("the one just answered");
        let is_next_alike =
            self.unanswered.front().is_some_and(|next| next.sent.seems_answered_by(sent.last));
        let answer = sent.process_answer(answer.map_err(call_failed)?, self.appender)?;
        if is_next_alike && matches!(answer, AppendEntriesResponse::Success) {
            rt::sometimes("answer to an append held back");
            return Ok(None);
        }
        Ok(Some(answer.into_stream_result(sent.previous, sent.last)))
    }

    async fn send(&mut self, request: AppendEntriesRequest<TypeConfig>) -> Result<(), RPCError<TypeConfig>> {
        let (append, sent) = self.appender.append(&request);
        let sending = self.link.start(append);
        let answer = timeout(NO_PROGRESS, sending).await.map_err(unreachable)?.map_err(call_failed)?;
        self.unanswered.push_back(Unanswered { sent, answer: Box::pin(answer) });
        Ok(())
    }
}

async fn oldest(unanswered: &mut VecDeque<Unanswered>) -> Result<Response, CallError> {
    match unanswered.front_mut() {
        Some(oldest) => (&mut oldest.answer).await,
        None => std::future::pending().await,
    }
}
