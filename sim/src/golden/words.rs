//! Names the messages between nodes, and of clients, in words.
//!
//! A log id is written as term and index, `5/101`. Nonces, proofs, addresses, sizes and boot counters are left out: a
//! trace shows what is said, not how long it is.

use std::collections::BTreeMap;

use bytes::Bytes;
use mokv::map::Command;
use mokv_proto::gossip::claim::State;
use mokv_proto::raft::append_answer::Outcome;
use mokv_proto::raft::{self, forward_answer, read_index_answer, replacement_answer, request, response};
use mokv_proto::{api, gossip, log};
use prost::Message as _;

use super::script::Channel;

/// The title of a heartbeat.
pub const HEARTBEAT: &str = "heartbeat";
/// The title of an append that tells what is committed, and nothing else.
pub const NOTICE: &str = "append of nothing";

/// The names by which a trace knows what the run has drawn at random.
#[derive(Debug, Default)]
pub struct Names {
    nodes: BTreeMap<u64, String>,
    /// Values in order of appearance.
    values: Vec<Bytes>,
}

impl Names {
    /// Learns a node's name.
    pub fn learn(&mut self, node_id: u64, name: &str) {
        self.nodes.insert(node_id, name.to_owned());
    }

    fn node(&self, node_id: u64) -> &str {
        self.nodes.get(&node_id).map_or("a stranger", String::as_str)
    }

    /// Forgets the values seen so far: the next one is `v1`.
    pub fn forget_values(&mut self) {
        self.values.clear();
    }

    /// The names of nodes, sorted.
    pub fn nodes<'a>(&self, ids: impl IntoIterator<Item = &'a u64>) -> String {
        let mut names: Vec<&str> = ids.into_iter().map(|id| self.node(*id)).collect();
        names.sort_unstable();
        names.join(" ")
    }

    fn value(&mut self, value: &Bytes) -> String {
        let known = self.values.iter().position(|known| known == value);
        let number = known.unwrap_or_else(|| {
            self.values.push(value.clone());
            self.values.len() - 1
        });
        format!("v{}", number + 1)
    }

    // ---- gossip ----

    /// A claim, as its node makes it.
    pub fn claim(&self, claim: &gossip::Claim) -> String {
        let state = match &claim.state {
            Some(State::Pristine(gossip::Pristine { pledge: Some(_), .. })) => "pledged to form a cluster",
            Some(State::Pristine(_)) => "in no cluster",
            Some(State::Joining(_)) => "joining",
            Some(State::Member(_)) => "a member",
            Some(State::Left(_)) => "gone for good",
            None => "in an unknown state",
        };
        format!("{} is {state}", claim.name)
    }

    // ---- the log ----

    fn entry(&mut self, payload: &Bytes) -> String {
        match Command::decode(payload) {
            Ok(Command::Blank) => "blank".into(),
            Ok(Command::Membership(members)) => self.membership(&members),
            Ok(Command::Set(set)) => {
                format!("set {} = {}", String::from_utf8_lossy(&set.key), self.value(&set.value))
            }
            Ok(Command::Delete(delete)) => format!("delete {}", String::from_utf8_lossy(&delete.key)),
            Ok(Command::OpenSession) => "open a session".into(),
            Ok(Command::CloseSession { .. }) => "close a session".into(),
            Ok(Command::Configure { .. }) => "settings".into(),
            Ok(Command::Tombstone { node_id, .. }) => format!("tombstone of {}", self.node(node_id.0)),
            Ok(Command::ClusterVersion(version)) => format!("cluster version {version}"),
            Ok(Command::WantedSize(voters)) => format!("wanted size {voters}"),
            Ok(Command::DigestKey(_)) => "digest key".into(),
            Ok(Command::Compact { revision }) => format!("compact to revision {revision}"),
            Ok(Command::Prune) => "prune".into(),
            Ok(Command::Transaction { transaction, .. }) => format!("transaction {transaction:?}"),
            Err(error) => error.to_string(),
        }
    }

    fn membership(&self, members: &log::Membership) -> String {
        let voters: Vec<String> =
            members.voter_sets.iter().map(|set| format!("voters {}", self.nodes(&set.ids))).collect();
        let votes = |id: &u64| members.voter_sets.iter().any(|set| set.ids.contains(id));
        let learners = self.nodes(members.nodes.keys().filter(|id| !votes(id)));
        let learners = if learners.is_empty() { learners } else { format!(", learner {learners}") };
        format!("{}{learners}", voters.join(" and "))
    }

    /// The entries of an append.
    fn entries(&mut self, entries: &[raft::Entry]) -> String {
        let place = |entry: &raft::Entry| format!("{}/{}", entry.term, entry.index);
        match entries {
            [] => "nothing".into(),
            [one] => format!("{} [{}]", place(one), self.entry(&one.payload)),
            [first, .., last] => {
                let shown = match entries.len() {
                    ..=3 => {
                        entries.iter().map(|entry| self.entry(&entry.payload)).collect::<Vec<_>>().join("; ")
                    }
                    _ => "...".into(),
                };
                format!("{} to {} [{shown}]", place(first), place(last))
            }
        }
    }

    // ---- peers ----

    /// A peer's request.
    pub fn request(&mut self, request: &raft::Request, channel: Channel) -> String {
        match &request.body {
            None => "ping".into(),
            Some(request::Body::Append(append)) => {
                let term = append.vote.map_or(0, |vote| vote.term);
                let what = match &append.entries[..] {
                    [] => format!("{} in term {term}", title(request, channel)),
                    entries => format!("append {}", self.entries(entries)),
                };
                format!("{what}, previous {}, committed {}", place(append.previous), place(append.committed))
            }
            Some(request::Body::Vote(vote)) => format!("vote? {}", self.candidacy(vote)),
            Some(request::Body::PreVote(vote)) => format!("pre-vote? {}", self.candidacy(vote)),
            Some(request::Body::Transfer(transfer)) => format!("lead! up to {}", place(transfer.last_log)),
            Some(request::Body::SnapshotBegin(begin)) => {
                let meta = begin.meta.clone().unwrap_or_default();
                let members = self.membership(&meta.membership.unwrap_or_default());
                format!("snapshot up to {}/{} [{members}]", meta.term, meta.index)
            }
            Some(request::Body::SnapshotChunk(_)) => "snapshot chunk".into(),
            Some(request::Body::SnapshotEnd(_)) => "snapshot end".into(),
            Some(request::Body::ReadIndex(_)) => "read index?".into(),
            Some(request::Body::Forward(forward)) => format!("forwarded: {}", self.entry(&forward.payload)),
            Some(request::Body::Digests(_)) => "digests?".into(),
            Some(request::Body::Admission(_)) => "why am I not admitted?".into(),
            Some(request::Body::Replacement(_)) => "may I start over?".into(),
        }
    }

    fn candidacy(&self, vote: &raft::Vote) -> String {
        let state = vote.vote.unwrap_or_default();
        format!("{} in term {}, last {}", self.node(state.node_id), state.term, place(vote.last_log))
    }

    /// A peer's answer to a request of this name.
    pub fn response(&mut self, to: &str, response: &raft::Response) -> String {
        let said = match &response.body {
            None => "pong".into(),
            Some(response::Body::Append(answer)) => match answer.outcome() {
                Outcome::Success => "success".into(),
                Outcome::Partial => format!("matches up to {}", place(answer.matching)),
                Outcome::Conflict => "conflict".into(),
                Outcome::HigherVote => {
                    format!("higher vote, term {}", answer.vote.map_or(0, |vote| vote.term))
                }
            },
            Some(response::Body::Vote(answer)) if answer.granted => "granted".into(),
            Some(response::Body::Vote(_)) => "not granted".into(),
            Some(response::Body::Transfer(answer)) if answer.refused.is_empty() => "done".into(),
            Some(response::Body::Transfer(answer)) => format!("refused, {}", answer.refused),
            Some(response::Body::Snapshot(answer)) => {
                format!("installed, term {}", answer.vote.map_or(0, |vote| vote.term))
            }
            Some(response::Body::ReadIndex(answer)) => match &answer.outcome {
                Some(read_index_answer::Outcome::ReadIndex(at)) => place(Some(*at)),
                Some(read_index_answer::Outcome::NotLeader(leader)) => {
                    format!("not leader, {} is", self.node(*leader))
                }
                Some(read_index_answer::Outcome::Unconfirmed(reason)) => format!("unconfirmed, {reason}"),
                None => "nothing".into(),
            },
            Some(response::Body::Forward(answer)) => match &answer.outcome {
                Some(forward_answer::Outcome::Forwarded(done)) => {
                    format!("executed at {}", place(done.log_id))
                }
                Some(forward_answer::Outcome::NotLeader(leader)) => {
                    format!("not leader, {} is", self.node(*leader))
                }
                Some(forward_answer::Outcome::Refused(reason)) => format!("refused, {reason}"),
                Some(forward_answer::Outcome::Unknown(reason)) => format!("unknown, {reason}"),
                Some(forward_answer::Outcome::Full(_)) => "a disk is full".into(),
                None => "nothing".into(),
            },
            Some(response::Body::Digests(_)) => "these".into(),
            Some(response::Body::Failed(reason)) => format!("failed, {reason}"),
            Some(response::Body::Done(_)) => "done".into(),
            Some(response::Body::Admission(answer)) if answer.refused.is_empty() => "no objection".into(),
            Some(response::Body::Admission(answer)) => format!("'{}'", answer.refused),
            Some(response::Body::Replacement(answer)) => match &answer.outcome {
                Some(replacement_answer::Outcome::Confirmed(_)) => "yes".into(),
                Some(replacement_answer::Outcome::Refused(reason)) => format!("no, {reason}"),
                Some(replacement_answer::Outcome::NotLeader(leader)) => {
                    format!("not leader, {} is", self.node(*leader))
                }
                None => "nothing".into(),
            },
        };
        format!("{to}: {said}")
    }

    // ---- clients ----

    /// A client's request: a write if it has a value, else a read of one key.
    pub fn call(&mut self, message: &[u8]) -> String {
        match api::SetRequest::decode(message) {
            Ok(set) if !set.value.is_empty() => {
                format!("set {} = {}", text(&set.key), self.value(&set.value))
            }
            _ => match api::GetRequest::decode(message) {
                Ok(get) if get.consistency() == api::Consistency::Stale => {
                    format!("get {}, stale", text(&get.key))
                }
                Ok(get) => format!("get {}, linearizable", text(&get.key)),
                Err(error) => error.to_string(),
            },
        }
    }

    /// The answer to a client's request.
    pub fn reply(&mut self, message: &[u8]) -> String {
        match api::GetResponse::decode(message) {
            Ok(got) if !got.key.is_empty() => format!("{} = {}", text(&got.key), self.value(&got.value)),
            _ => "written".into(),
        }
    }
}

fn text(key: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(key)
}

/// What a request is called in the answer to it. An append without entries is a heartbeat on the channel of heartbeats, and
/// on that of log entries the news of what is committed.
pub fn title(request: &raft::Request, channel: Channel) -> String {
    match &request.body {
        None => "ping",
        Some(request::Body::Append(append)) => match &append.entries[..] {
            [] if channel == Channel::Control => HEARTBEAT,
            [] => NOTICE,
            [one] => {
                return format!("append {}", place(Some(raft::LogId { term: one.term, index: one.index })));
            }
            [first, .., last] => {
                return format!("append {}/{} to {}/{}", first.term, first.index, last.term, last.index);
            }
        },
        Some(request::Body::Vote(_)) => "vote",
        Some(request::Body::PreVote(_)) => "pre-vote",
        Some(request::Body::Transfer(_)) => "lead",
        Some(request::Body::SnapshotBegin(_)) => "snapshot",
        Some(request::Body::SnapshotChunk(_)) => "snapshot chunk",
        Some(request::Body::SnapshotEnd(_)) => "snapshot end",
        Some(request::Body::ReadIndex(_)) => "read index",
        Some(request::Body::Forward(_)) => "forwarded",
        Some(request::Body::Digests(_)) => "digests",
        Some(request::Body::Admission(_)) => "admission",
        Some(request::Body::Replacement(_)) => "replacement",
    }
    .to_owned()
}

fn place(at: Option<raft::LogId>) -> String {
    at.map_or_else(|| "none".into(), |at| format!("{}/{}", at.term, at.index))
}
