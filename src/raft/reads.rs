//! Read indexes: how far a node must have applied before it serves a read (Ongaro's thesis, section 6.4).
//!
//! Reads that wait together share one confirmation round, and only a round that *started after* they came: a round
//! already under way may confirm a leader that was deposed before the read began. Nothing is cached.

use std::sync::Arc;
use std::time::Duration;

use mokv_proto::raft::{self as wire, Channel, read_index_answer::Outcome, request, response};
use openraft::ReadPolicy;
use tokio::sync::{mpsc, oneshot};

use super::Raft;
use super::peers::Peers;
use super::types::LogId;
use super::wire::{leader_from_wire, leader_to_wire, log_id_from_wire, log_id_to_wire};
use crate::node_id::NodeId;
use crate::rt::{self, timeout};

/// A round that takes longer fails.
const ROUND_TIMEOUT: Duration = Duration::from_secs(1);
/// Rounds under way at a time: a slow one must not hold up the next.
const MAX_ROUNDS: usize = 8;
/// Reads that wait for a round to start.
const MAX_WAITING: usize = 16 << 10;

/// Why there is no read index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadIndexError {
    /// This node does not lead. Holds the leader's node id, if one is known.
    #[error("this node is not the leader")]
    NotLeader(Option<NodeId>),
    /// The leader could not be asked, or could not confirm that it still leads.
    #[error("{0}")]
    Unconfirmed(String),
}

type Waiter = oneshot::Sender<Result<LogId, ReadIndexError>>;

/// The queues in which reads wait for a confirmation round.
#[derive(Clone)]
pub struct Reads {
    /// Reads of this node's clients: another node may lead.
    anywhere: mpsc::Sender<Waiter>,
    /// Reads that followers sent to this node: never forwarded again.
    here: mpsc::Sender<Waiter>,
}

impl Reads {
    /// Starts the rounds of a node.
    pub fn start(raft: Raft, peers: Arc<Peers>) -> Reads {
        let (anywhere, waiting) = mpsc::channel(MAX_WAITING);
        let asking = raft.clone();
        rt::spawn(run_rounds(waiting, move || ask_leader(asking.clone(), peers.clone())));
        let (here, waiting) = mpsc::channel(MAX_WAITING);
        rt::spawn(run_rounds(waiting, move || confirm(raft.clone())));
        Reads { anywhere, here }
    }

    /// A read index from whichever node leads.
    ///
    /// # Errors
    /// If there is no leader or it cannot confirm itself.
    pub async fn read_index(&self) -> Result<LogId, ReadIndexError> {
        wait_in(&self.anywhere).await
    }

    /// A read index if this node leads.
    ///
    /// # Errors
    /// If it does not, or cannot confirm itself.
    pub async fn read_index_here(&self) -> Result<LogId, ReadIndexError> {
        wait_in(&self.here).await
    }
}

async fn wait_in(queue: &mpsc::Sender<Waiter>) -> Result<LogId, ReadIndexError> {
    let stopped = || ReadIndexError::Unconfirmed("this node is stopping".into());
    let (waiter, answered) = oneshot::channel();
    queue.send(waiter).await.map_err(|_| stopped())?;
    answered.await.map_err(|_| stopped())?
}

/// Starts a round for the reads that wait, until every sender is dropped.
async fn run_rounds<F, R>(mut waiting: mpsc::Receiver<Waiter>, round: F)
where
    F: Fn() -> R,
    R: Future<Output = Result<LogId, ReadIndexError>> + Send + 'static,
{
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_ROUNDS));
    while let Some(first) = waiting.recv().await {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let mut waiters = vec![first];
        while let Ok(waiter) = waiting.try_recv() {
            waiters.push(waiter);
        }
        if waiters.len() > 1 {
            rt::sometimes("reads shared a confirmation");
        }
        let confirmed = round();
        rt::spawn(async move {
            let result = confirmed.await;
            drop(place);
            for waiter in waiters {
                // The caller may have given up.
                let _ = waiter.send(result.clone());
            }
        });
    }
}

async fn ask_leader(raft: Raft, peers: Arc<Peers>) -> Result<LogId, ReadIndexError> {
    match confirm(raft).await {
        Err(ReadIndexError::NotLeader(Some(leader))) => {
            let link = peers.link(leader, Channel::Forward);
            let asked = link.call(request::Body::ReadIndex(wire::ReadIndex {}));
            match timeout(ROUND_TIMEOUT, asked).await {
                Ok(Ok(response::Body::ReadIndex(answer))) => from_wire(answer),
                Ok(Ok(_)) => Err(ReadIndexError::Unconfirmed(
                    "the leader's answer is to another kind of \
                                                              request"
                        .into(),
                )),
                Ok(Err(error)) => {
                    Err(ReadIndexError::Unconfirmed(format!("the leader cannot be asked: {error}")))
                }
                Err(_) => Err(ReadIndexError::Unconfirmed(format!(
                    "no answer from the leader within {ROUND_TIMEOUT:?}"
                ))),
            }
        }
        other => other,
    }
}

/// One round of confirmation, if this node leads.
async fn confirm(raft: Raft) -> Result<LogId, ReadIndexError> {
    match timeout(ROUND_TIMEOUT, raft.get_read_log_id(ReadPolicy::ReadIndex)).await {
        Ok(Ok((read_index, _))) => Ok(*read_index.log_id()),
        Ok(Err(error)) => Err(match error.forward_to_leader() {
            Some(forward) => ReadIndexError::NotLeader(forward.leader_id),
            None => ReadIndexError::Unconfirmed(error.to_string()),
        }),
        Err(_) => Err(ReadIndexError::Unconfirmed(format!(
            "no quorum confirmed this leader within {ROUND_TIMEOUT:?}"
        ))),
    }
}

/// A read index in an answer to a follower.
pub(super) fn to_wire(result: Result<LogId, ReadIndexError>) -> wire::ReadIndexAnswer {
    let outcome = match result {
        Ok(read_index) => Outcome::ReadIndex(log_id_to_wire(read_index)),
        Err(ReadIndexError::NotLeader(leader)) => Outcome::NotLeader(leader_to_wire(leader)),
        Err(ReadIndexError::Unconfirmed(reason)) => Outcome::Unconfirmed(reason),
    };
    wire::ReadIndexAnswer { outcome: Some(outcome) }
}

fn from_wire(answer: wire::ReadIndexAnswer) -> Result<LogId, ReadIndexError> {
    match answer.outcome {
        Some(Outcome::ReadIndex(read_index)) => Ok(log_id_from_wire(read_index)),
        Some(Outcome::NotLeader(leader)) => Err(ReadIndexError::NotLeader(leader_from_wire(leader))),
        Some(Outcome::Unconfirmed(reason)) => Err(ReadIndexError::Unconfirmed(reason)),
        None => Err(ReadIndexError::Unconfirmed("the leader's answer is empty".into())),
    }
}
