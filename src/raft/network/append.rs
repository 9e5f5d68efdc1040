//! An append on its way: what is added to it for the peer, and what its answer means.

use std::sync::Arc;

use mokv_proto::raft::{request::Body as Request, response::Body as Response};
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};

use super::super::peers::{FollowerState, Peers};
use super::super::types::{LogId, TypeConfig};
use super::super::wire::*;
use super::{broken, unexpected, unreachable};
use crate::node_id::NodeId;
use crate::positions::{Acknowledgement, Delivered, Reach};
use crate::rt;
use crate::storage::Log;

/// Adds to the appends for one peer how far members have acknowledged. Positions that the peer has not confirmed are
/// sent again with the next append.
pub struct Appender {
    peers: Arc<Peers>,
    log: Log,
    target: NodeId,
    delivered: Delivered,
}

impl Appender {
    pub fn new(peers: Arc<Peers>, log: Log, target: NodeId) -> Appender {
        Appender { peers, log, target, delivered: Delivered::default() }
    }

    /// Records that the peer voted for this node in `term`.
    pub fn granted(&self, boot: u64, term: u64) {
        self.peers.granted(self.target, boot, term);
    }

    /// Returns an append with the positions that are new to the peer.
    pub fn append(&self, request: &AppendEntriesRequest<TypeConfig>) -> (Request, Sent) {
        let me = self.peers.local();
        let durable = self.log.durable();
        let mut positions = self.peers.positions();
        if let Some(durable) = durable {
            // An entry is durable after the vote for the leader that made it, and no leader of that term truncates it.
            let upto = Reach { term: durable.term, index: Some(durable.index) };
            positions.remember(me.node_id, Acknowledgement { boot: me.boot, upto });
        }
        let news = positions.news(self.delivered.version(), self.target);
        let sent = Sent::of(request, positions.version());
        drop(positions);
        (Request::Append(append_to_wire(request, news)), sent)
    }
}

/// What is kept of an append that was sent, to interpret its answer.
pub struct Sent {
    term: u64,
    pub previous: Option<LogId>,
    pub last: Option<LogId>,
    /// It carried all positions up to this version.
    version: u64,
}

impl Sent {
    fn of(request: &AppendEntriesRequest<TypeConfig>, version: u64) -> Sent {
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        Sent { term: request.vote.leader_id.term, previous, last, version }
    }

    /// Returns a follower's answer for openraft, and records what it reports.
    pub fn process_answer(
        &self,
        answer: Response,
        appender: &mut Appender,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = match answer {
            Response::Append(answer) => answer,
            other => return Err(unexpected(other)),
        };
        let (peers, follower, boot) = (&appender.peers, appender.target, answer.boot);
        let state = FollowerState { disk_full: answer.disk_full, is_doubted: answer.doubted };
        peers.report(follower, self.term, state);
        let answer = append_answer_from_wire(answer).map_err(broken)?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            appender.delivered.confirm(boot, self.version);
        }
        match &answer {
            AppendEntriesResponse::Success => self.acknowledged(self.last, peers, follower, boot),
            AppendEntriesResponse::PartialSuccess(upto) => self.acknowledged(*upto, peers, follower, boot),
            AppendEntriesResponse::HigherVote(_) => {}
            AppendEntriesResponse::Conflict => self.check_conflict(peers, follower)?,
        }
        Ok(answer)
    }

    /// Checks that a follower in conflict denies no entry that it acknowledged to this leader: otherwise its disk has
    /// lost synced data, and counting on it again could lose a committed entry.
    fn check_conflict(&self, peers: &Peers, follower: NodeId) -> Result<(), RPCError<TypeConfig>> {
        let index = self.previous.ok_or_else(|| broken("a conflict before the first entry"))?.index;
        let Some(denied) = peers.denies(follower, self.term, index) else { return Ok(()) };
        rt::sometimes("follower had lost what it acknowledged");
        // This recurs at every heartbeat until an operator acts: it is logged once.
        if denied.is_news {
            tracing::error!(
                node = %follower,
                index,
                "a follower has lost entries that it had acknowledged; wipe it with 'mokv serve --wipe'"
            );
        }
        Err(unreachable("the follower has lost entries that it had acknowledged"))
    }

    /// Returns `true` if openraft would take the answer to an earlier append, which ended at `matching`, for an
    /// answer to this one. openraft identifies appends by their entries, so one without entries seems answered by the
    /// append sent right before it. The follower would then seem to have received from this leader later than it did,
    /// and a read index would be confirmed by an answer that is older than the read (chaos seed 7605705).
    pub fn seems_answered_by(&self, matching: Option<LogId>) -> bool {
        self.last <= matching || self.previous < matching
    }

    fn acknowledged(&self, upto: Option<LogId>, peers: &Peers, follower: NodeId, boot: u64) {
        if let Some(upto) = upto {
            peers.acknowledge(follower, boot, self.term, upto.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::types::log_id;
    use super::*;

    #[test]
    fn only_an_append_that_carries_more_distinguishes_its_answer_from_the_one_before() {
        let append = |previous, last| Sent {
            term: 2,
            previous: Some(log_id(2, previous)),
            last: Some(log_id(2, last)),
            version: 0,
        };
        let matching = append(5, 8).last;
        assert!(append(8, 8).seems_answered_by(matching), "without entries");
        assert!(append(6, 9).seems_answered_by(matching), "sent again, with one more");
        assert!(!append(8, 9).seems_answered_by(matching), "the next entry");
    }
}
