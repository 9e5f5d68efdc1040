//! How far each member has acknowledged its leaders' logs, and which members have gone back behind an acknowledgement.
//!
//! A leader sends with its appends how far each member's log is durable, according to that member's responses. Every
//! member records it and can thus distinguish a member whose data directory was restored to an older state from one
//! that merely restarted. Votes count as well: a member that loses a granted vote could grant another one in the same
//! term. A member has *gone back* if and only if one of its starts after the acknowledgement found an older vote term
//! than the acknowledgement's, or the same term and a lower last index: when a later leader makes a member truncate its
//! log, the vote for that leader is durable before the truncation, and so the term is higher.
//!
//! Invariants: of each member the highest acknowledgement by (term, index) is kept; an acknowledgement is compared only
//! with starts after the one in which it was made; missing information proves nothing. No IO here.

use std::collections::BTreeMap;
use std::fmt;

use crate::node_id::NodeId;
use bytes::Bytes;
use mokv_proto::raft as wire;
use prost::Message;

/// How far a node's durable state reaches, compared first by the term of its vote, then by its last log index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach {
    /// The term of the vote.
    pub term: u64,
    /// Index of the last entry of the log, or of the newest snapshot; `None` if there is neither.
    pub index: Option<u64>,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "log index {index} in term {}", self.term),
            None => write!(f, "an empty log in term {}", self.term),
        }
    }
}

/// What a start of a node found on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The boot counter of the start.
    pub boot: u64,
    /// How far the durable state reached.
    pub found: Reach,
}

/// What a member has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The boot counter of the start in which it acknowledged.
    pub boot: u64,
    /// The log is durable up to here, and so is a vote of this term or a later one. Without an index only the vote was
    /// acknowledged.
    pub upto: Reach,
}

/// A start of a member found less than the member had acknowledged before that start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoneBack {
    /// What it had acknowledged.
    pub acknowledged: Acknowledgement,
    /// The first of its starts that found less.
    pub start: Start,
}

impl fmt::Display for GoneBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GoneBack { acknowledged, start } = self;
        match acknowledged.upto {
            Reach { term, index: None } => write!(f, "voted in term {term}")?,
            upto => write!(f, "acknowledged {upto}")?,
        }
        write!(
            f,
            " with boot counter {}, and found {} when it started with boot counter {}",
            acknowledged.boot, start.found, start.boot
        )
    }
}

/// A member that must be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The reason.
    pub gone_back: GoneBack,
    /// `true` if it was not refused for this start before.
    pub is_news: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    acknowledgement: Acknowledgement,
    /// The [`Positions::version`] with which this became known.
    since: u64,
}

/// The acknowledgements of all members that a node has received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions {
    members: BTreeMap<NodeId, Known>,
    /// Rises with every new acknowledgement.
    version: u64,
    /// The version last returned to be made durable.
    saved: u64,
    refused: BTreeMap<NodeId, GoneBack>,
}

impl Positions {
    /// Decodes what an earlier start made durable.
    ///
    /// # Errors
    /// If the bytes are not a record as encoded by [`Positions::unsaved`].
    pub fn decode(bytes: &Bytes) -> Result<Positions, prost::DecodeError> {
        let message = wire::Acknowledgements::decode(bytes.clone())?;
        let mut positions = Positions::default();
        for delivered in message.members {
            positions.record(delivered);
        }
        positions.saved = positions.version;
        Ok(positions)
    }

    /// Records what a member has acknowledged, if it is more than what is recorded. Returns `true` if it is.
    pub fn remember(&mut self, node_id: NodeId, acknowledgement: Acknowledgement) -> bool {
        // Of equal ones the first is worth more: it applies to more starts.
        if self.members.get(&node_id).is_some_and(|known| known.acknowledgement.upto >= acknowledgement.upto)
        {
            return false;
        }
        self.version += 1;
        self.members.insert(node_id, Known { acknowledgement, since: self.version });
        true
    }

    /// Records an acknowledgement that another node has sent, as [`Positions::remember`] does.
    pub fn record(&mut self, delivered: wire::Acknowledgement) -> bool {
        let upto = Reach { term: delivered.term, index: delivered.index };
        self.remember(NodeId(delivered.node_id), Acknowledgement { boot: delivered.boot, upto })
    }

    /// Discards all nodes that are not members.
    pub fn retain(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.members.retain(|id, _| is_member(*id));
        self.refused.retain(|id, _| is_member(*id));
    }

    /// Number of members recorded.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// Identifies the present state of the record; see [`Positions::news`].
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What was recorded after `version`, for a peer; without its own acknowledgement, which it has itself.
    pub fn news(&self, version: u64, peer: NodeId) -> Vec<wire::Acknowledgement> {
        let is_news = |(id, known): &(&NodeId, &Known)| known.since > version && **id != peer;
        self.members.iter().filter(is_news).map(|(id, known)| to_wire(*id, known.acknowledgement)).collect()
    }

    /// The encoded record, if it has changed since the last call; `None` otherwise.
    pub fn unsaved(&mut self) -> Option<Bytes> {
        if self.saved == self.version {
            return None;
        }
        self.saved = self.version;
        let members = self.members.iter().map(|(id, known)| to_wire(*id, known.acknowledgement)).collect();
        Some(wire::Acknowledgements { members }.encode_to_vec().into())
    }

    /// Checks a member's starts against its acknowledgement, and records whether it is refused.
    ///
    /// # Errors
    /// If the member has gone back.
    pub fn check(&mut self, node_id: NodeId, starts: &[Start]) -> Result<(), Refused> {
        let Some(gone_back) = self.objection(node_id, starts) else {
            self.refused.remove(&node_id);
            return Ok(());
        };
        let before = self.refused.insert(node_id, gone_back);
        Err(Refused { gone_back, is_news: before.map(|before| before.start) != Some(gone_back.start) })
    }

    fn objection(&self, node_id: NodeId, starts: &[Start]) -> Option<GoneBack> {
        let acknowledged = self.members.get(&node_id)?.acknowledgement;
        let contradicts = |start: &&Start| start.boot > acknowledged.boot && start.found < acknowledged.upto;
        let start = *starts.iter().filter(contradicts).min_by_key(|start| start.boot)?;
        Some(GoneBack { acknowledged, start })
    }

    /// The members that were refused at their last check.
    pub fn refused(&self) -> &BTreeMap<NodeId, GoneBack> {
        &self.refused
    }
}

/// Which part of the record one peer has received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    boot: u64,
    version: u64,
}

impl Delivered {
    /// The peer has received everything up to this version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The peer, in its start `boot`, has received what was new up to `version`. A peer that has restarted may have
    /// lost what it had not yet made durable, so everything is sent again.
    pub fn confirm(&mut self, boot: u64, version: u64) {
        self.version = if boot == self.boot { self.version.max(version) } else { 0 };
        self.boot = boot;
    }
}

fn to_wire(node_id: NodeId, acknowledgement: Acknowledgement) -> wire::Acknowledgement {
    let Acknowledgement { boot, upto: Reach { term, index } } = acknowledgement;
    wire::Acknowledgement { node_id: node_id.0, boot, term, index }
}

impl From<Start> for wire::Start {
    fn from(start: Start) -> wire::Start {
        let Start { boot, found: Reach { term, index } } = start;
        wire::Start { boot, term, index }
    }
}

impl From<&wire::Start> for Start {
    fn from(start: &wire::Start) -> Start {
        Start { boot: start.boot, found: Reach { term: start.term, index: start.index } }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reach(term: u64, index: u64) -> Reach {
        Reach { term, index: Some(index) }
    }

    fn acknowledgement(boot: u64, term: u64, index: u64) -> Acknowledgement {
        Acknowledgement { boot, upto: reach(term, index) }
    }

    fn start(boot: u64, term: u64, index: u64) -> Start {
        Start { boot, found: reach(term, index) }
    }

    /// A node's disk: a vote's term and the terms of the log's entries, durable and not yet durable.
    #[derive(Debug, Clone, Default)]
    struct Node {
        vote: u64,
        durable: Vec<u64>,
        pending: Vec<u64>,
        starts: Vec<Start>,
        boot: u64,
    }

    impl Node {
        fn start(&mut self, keeps_pending: bool) {
            if keeps_pending {
                self.sync();
            }
            self.pending.clear();
            self.boot += 1;
            let index = (self.durable.len() as u64).checked_sub(1);
            self.starts.push(Start { boot: self.boot, found: Reach { term: self.vote, index } });
        }

        fn sync(&mut self) {
            self.durable.append(&mut self.pending);
        }

        /// What it sends to the leader of its term, once what it received is durable.
        fn acknowledgement(&self) -> Option<Acknowledgement> {
            let index = (self.durable.len() as u64).checked_sub(1)?;
            Some(Acknowledgement { boot: self.boot, upto: reach(self.vote, index) })
        }
    }

    /// What can happen to a node.
    #[derive(Debug, Clone)]
    enum Step {
        /// The leader of its term sends this many entries.
        Append(u64),
        Sync,
        /// Its leader receives its acknowledgement.
        Acknowledge,
        /// Another leader is elected, this many terms later, and may have received its vote. The leader makes it
        /// truncate its log to this part.
        Elect(u64, bool, prop::sample::Index),
        /// It crashes and restarts; what was not synced is kept or lost.
        Restart(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1..4_u64).prop_map(Step::Append),
            Just(Step::Sync),
            Just(Step::Acknowledge),
            (1..3_u64, any::<bool>(), any::<prop::sample::Index>())
                .prop_map(|(terms, is_answered, to)| Step::Elect(terms, is_answered, to)),
            any::<bool>().prop_map(Step::Restart),
        ];
        proptest::collection::vec(step, 1..40)
    }

    fn take(step: &Step, node: &mut Node, positions: &mut Positions) {
        match step {
            Step::Append(entries) => {
                let term = node.vote;
                node.pending.extend((0..*entries).map(|_| term));
            }
            Step::Sync => node.sync(),
            Step::Acknowledge => {
                if let Some(acknowledgement) = node.acknowledgement() {
                    positions.remember(NodeId(1), acknowledgement);
                }
            }
            Step::Elect(terms, is_answered, to) => {
                node.sync();
                node.vote += terms;
                if *is_answered {
                    let upto = Reach { term: node.vote, index: None };
                    positions.remember(NodeId(1), Acknowledgement { boot: node.boot, upto });
                }
                node.durable.truncate(to.index(node.durable.len() + 1));
            }
            Step::Restart(keeps_pending) => node.start(*keeps_pending),
        }
    }

    proptest! {
        /// A member is not refused if it merely restarts, loses what it had not acknowledged, or was made to truncate
        /// by a later leader. A member restored to a state behind its acknowledgement is refused from then on, however
        /// often it starts and votes.
        #[test]
        fn exactly_those_are_refused_that_go_back_behind_their_word(
            before in steps(),
            after in steps(),
            again in steps(),
        ) {
            let (mut node, mut positions) = (Node::default(), Positions::default());
            node.start(false);
            for step in &before {
                take(step, &mut node, &mut positions);
                prop_assert_eq!(positions.check(NodeId(1), &node.starts), Ok(()));
            }
            let mut back = node.clone();
            // Within one incarnation: peers detect a later one by the incarnations.
            for step in after.iter().filter(|step| !matches!(step, Step::Restart(_))) {
                take(step, &mut node, &mut positions);
            }
            let acknowledged = positions.members.get(&NodeId(1)).map(|known| known.acknowledgement);
            back.start(true);
            let found = back.starts.last().unwrap().found;
            let has_gone_back = acknowledged.is_some_and(|acknowledged| found < acknowledged.upto);
            for step in &again {
                // Its leaders are others, and none of them reports on it.
                match step {
                    Step::Acknowledge => {}
                    Step::Elect(terms, _, to) => take(&Step::Elect(*terms, false, *to), &mut back, &mut positions),
                    step => take(step, &mut back, &mut positions),
                }
                prop_assert_eq!(positions.check(NodeId(1), &back.starts).is_err(), has_gone_back);
            }
        }

        #[test]
        fn what_is_saved_is_known_again_and_what_is_sent_makes_a_peer_know_as_much(
            received in proptest::collection::vec((0..4_u64, 0..5_u64, 0..5_u64, 0..9_u64), 0..30),
        ) {
            let (mut knows, mut is_reported) = (Positions::default(), Positions::default());
            let mut version = 0;
            for (node_id, boot, term, index) in received {
                knows.remember(NodeId(node_id), acknowledgement(boot, term, index));
                for news in knows.news(version, NodeId(3)) {
                    is_reported.record(news);
                }
                version = knows.version();
                prop_assert_eq!(knows.news(version, NodeId(3)), vec![]);
            }
            let plain = |positions: &Positions| -> BTreeMap<NodeId, Acknowledgement> {
                positions.members.iter().map(|(id, known)| (*id, known.acknowledgement)).collect()
            };
            let all_but_its_own: BTreeMap<NodeId, Acknowledgement> =
                plain(&knows).into_iter().filter(|(id, _)| *id != NodeId(3)).collect();
            prop_assert_eq!(plain(&is_reported), all_but_its_own);
            match knows.unsaved() {
                Some(bytes) => prop_assert_eq!(plain(&Positions::decode(&bytes).unwrap()), plain(&knows)),
                None => prop_assert_eq!(knows.members(), 0),
            }
            prop_assert_eq!(knows.unsaved(), None);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Positions::decode(&bytes.into());
        }
    }

    #[test]
    fn the_rule_by_its_cases() {
        let mut positions = Positions::default();
        assert!(positions.remember(NodeId(1), acknowledgement(3, 5, 20)));
        assert!(
            !positions.remember(NodeId(1), acknowledgement(4, 5, 20)),
            "the first report holds for more starts"
        );
        assert!(!positions.remember(NodeId(1), acknowledgement(4, 4, 90)), "an older leader's");
        let mut refuses = |start| positions.check(NodeId(1), &[start]).is_err();
        assert!(!refuses(start(4, 5, 20)), "a restart");
        assert!(!refuses(start(4, 6, 7)), "a later leader made it truncate");
        assert!(!refuses(start(3, 5, 2)), "the very start in which it acknowledged");
        assert!(refuses(start(4, 5, 19)));
        assert!(refuses(start(4, 4, 90)));
        assert!(refuses(Start { boot: 4, found: Reach { term: 5, index: None } }));
        assert_eq!(positions.check(NodeId(2), &[start(9, 0, 0)]), Ok(()), "no node reported it");
        assert!(
            positions.remember(NodeId(1), Acknowledgement { boot: 4, upto: Reach { term: 6, index: None } })
        );
        let forgets_its_vote = positions.check(NodeId(1), &[start(5, 5, 99)]).unwrap_err().gone_back;
        assert_eq!(
            forgets_its_vote.to_string(),
            "voted in term 6 with boot counter 4, and found log index 99 in term 5 when it started with boot counter 5"
        );
        assert_eq!(
            positions.check(NodeId(1), &[start(5, 6, 3)]),
            Ok(()),
            "it keeps its vote, and had acknowledged nothing since"
        );
    }

    #[test]
    fn a_peer_that_has_started_again_is_sent_everything() {
        let mut delivered = Delivered::default();
        let mut confirm = |boot, version| {
            delivered.confirm(boot, version);
            delivered.version()
        };
        assert_eq!([confirm(1, 5), confirm(1, 5), confirm(1, 4)], [0, 5, 5]);
        assert_eq!([confirm(2, 6), confirm(2, 6)], [0, 6]);
    }

    #[test]
    fn a_refusal_is_news_once_a_start_and_is_forgotten_with_its_cause() {
        let mut positions = Positions::default();
        positions.remember(NodeId(1), acknowledgement(3, 5, 20));
        let back = [start(5, 6, 30), start(4, 5, 11)];
        let first = positions.check(NodeId(1), &back).unwrap_err();
        assert_eq!(
            (first.is_news, first.gone_back.to_string().as_str()),
            (
                true,
                "acknowledged log index 20 in term 5 with boot counter 3, and found log index 11 in term 5 when it started \
                 with boot counter 4"
            )
        );
        assert!(!positions.check(NodeId(1), &back).unwrap_err().is_news);
        assert_eq!(positions.refused().keys().collect::<Vec<_>>(), [&NodeId(1)]);
        positions.check(NodeId(1), &[start(4, 5, 20)]).unwrap();
        assert!(positions.refused().is_empty(), "the right directory is back");
        positions.check(NodeId(1), &back).unwrap_err();
        positions.retain(|id| id != NodeId(1));
        assert!(positions.refused().is_empty() && positions.members() == 0);
    }
}
