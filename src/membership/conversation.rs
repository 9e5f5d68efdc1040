//! The gossip protocol of one node, without a socket and without a clock.
//!
//! Claims travel by *exchanges*: an ask carries the sender's claim, the answer carries the answering node's, and
//! members of one cluster add claims of other members. Liveness comes from the failure detector, which receives packets
//! of this cluster only; everything of another cluster is dropped before. If a node answers that the failure detector
//! does not see alive, this node announces itself to it, so two sides that have declared each other down come back as
//! soon as they can communicate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mokv_proto::gossip as wire;
use prost::Message;

use super::alarm::{Alarm, Alarms};
use super::claim::{Claim, ClusterId, Malformed, State};
use super::datagram::{self, Datagram, Key, Kind, ReplayGuard, Sealer, Verdict};
use super::joins::{JoinAnswers, NameAnswer, reachable_from};
use super::swim::{Pace, Swim, Timer};
use super::view::{Liveness, OtherSelf, Peer, UnreadableSenders, View};
use crate::node_id::NodeId;
use crate::rt::time::Seldom;
use crate::rt::{Instant, random};

/// The most claims that are kept: far more than a cluster has nodes.
const MAX_PEERS: usize = 256;
/// A node is forgotten if it is down, is no member of Raft and has sent nothing for this long.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// How many senders of unreadable datagrams are remembered, and for how long after the last datagram. Anyone may send
/// them.
const MAX_UNREADABLE: usize = 16;
const FORGET_UNREADABLE: Duration = Duration::from_secs(60);
/// The interval at which a node exchanges claims with another one.
pub(super) const EXCHANGE_EVERY: Duration = Duration::from_secs(1);
/// The interval at which a node without a cluster repeats the questions of an attempt: one lost datagram makes a name
/// seem silent, and one silent name makes the whole attempt useless.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The addresses of all names, resolved for one attempt.
#[derive(Debug, Default)]
pub(super) struct Resolved(pub(super) BTreeMap<String, Vec<SocketAddr>>);

/// Work that is due at a certain time.
#[derive(Debug)]
pub(super) enum Due {
    Swim(Timer),
    Exchange,
    AskAgain { attempt: u64 },
}

/// Another node, known by its claim.
#[derive(Debug)]
struct Known {
    claim: Claim,
    /// The address it last sent from.
    address: Option<SocketAddr>,
    received_at: Instant,
}

/// The gossip state of one node.
pub(super) struct Conversation {
    me: Claim,
    local: SocketAddr,
    joins: Vec<String>,
    pace: Pace,
    key: Arc<Key>,
    sealer: Sealer,
    guard: ReplayGuard,
    alarms: Alarms,
    /// Limits the warning that there are more nodes than are remembered.
    crowded: Seldom,
    known: BTreeMap<NodeId, Known>,
    /// Raft's members and their RPC addresses in the Raft membership.
    members: BTreeMap<NodeId, String>,
    resolved: BTreeMap<String, Vec<SocketAddr>>,
    swim: Option<Swim>,
    answers: JoinAnswers,
    /// The open questions of this attempt: nonce to join name and address.
    questions: BTreeMap<u64, (String, SocketAddr)>,
    /// The node id at which the next exchange goes on adding claims.
    cursor: NodeId,
    outbox: Vec<(SocketAddr, Vec<u8>)>,
    schedule: Vec<(Duration, Due)>,
    unreadable: UnreadableSenders,
    other_self: Option<OtherSelf>,
}

impl Conversation {
    pub(super) fn new(
        me: Claim,
        local: SocketAddr,
        joins: Vec<String>,
        key: Arc<Key>,
        pace: Pace,
    ) -> Conversation {
        let sealer = Sealer::new(key.clone(), me.node_id, me.boot);
        let mut conversation = Conversation {
            me,
            local,
            joins,
            pace,
            key,
            sealer,
            guard: ReplayGuard::default(),
            alarms: Alarms::default(),
            crowded: Seldom::default(),
            known: BTreeMap::new(),
            members: BTreeMap::new(),
            resolved: BTreeMap::new(),
            swim: None,
            answers: JoinAnswers::default(),
            questions: BTreeMap::new(),
            cursor: NodeId(0),
            outbox: Vec::new(),
            schedule: vec![(EXCHANGE_EVERY, Due::Exchange)],
            unreadable: UnreadableSenders::new(),
            other_self: None,
        };
        conversation.start_swim();
        conversation
    }

    // ---- this node's own claim ----

    /// Takes on a new cluster and state and sends the new claim to all known nodes.
    pub(super) fn state(&mut self, cluster_id: Option<ClusterId>, state: State) {
        if (self.me.cluster_id, &self.me.state) == (cluster_id, &state) {
            return;
        }
        self.me.cluster_id = cluster_id;
        self.me.state = state;
        self.me.sequence += 1;
        self.start_swim();
        if self.me.state == State::Left
            && let Some(swim) = &mut self.swim
        {
            swim.leave();
        }
        let all: Vec<NodeId> = self.known.keys().copied().collect();
        all.into_iter().for_each(|node_id| self.ask_node(node_id));
        self.drain_swim();
    }

    /// Sets Raft's members and their RPC addresses in the Raft membership.
    pub(super) fn set_members(&mut self, members: BTreeMap<NodeId, String>) {
        self.members = members;
    }

    /// The names to resolve for the next attempt: join addresses, Raft's members, and all known nodes.
    pub(super) fn names(&self) -> Vec<String> {
        let known = self.known.values().filter(|known| known.claim.state != State::Left);
        let claimed = known.map(|known| known.claim.gossip_addr.clone());
        let members = self.members.iter().filter(|(id, _)| **id != self.me.node_id);
        let unclaimed = members
            .filter(|(id, _)| !self.known.contains_key(id))
            .filter_map(|(_, rpc_addr)| self.gossip_address_like_mine(rpc_addr));
        let mut names: Vec<String> = self.joins.iter().cloned().chain(claimed).chain(unclaimed).collect();
        names.sort();
        names.dedup();
        names
    }

    /// A member whose claim has not been received most likely gossips on the same port as this node.
    fn gossip_address_like_mine(&self, rpc_addr: &str) -> Option<String> {
        let (host, _) = rpc_addr.rsplit_once(':')?;
        let (_, port) = self.me.gossip_addr.rsplit_once(':')?;
        Some(format!("{host}:{port}"))
    }

    /// Begins an attempt: asks every address of every name.
    pub(super) fn attempt(&mut self, Resolved(mut resolved): Resolved, now: Instant) {
        self.forget(now);
        for addresses in resolved.values_mut() {
            *addresses = reachable_from(self.local, addresses);
        }
        self.resolved = resolved;
        self.questions.clear();
        self.answers.attempt += 1;
        self.answers.names.clear();
        let joins = self.joins.clone();
        for name in joins {
            let addresses = self.resolved.get(&name).cloned().unwrap_or_default();
            for address in &addresses {
                let nonce = random::random_u64();
                self.questions.insert(nonce, (name.clone(), *address));
                self.say(Kind::Ask, nonce, *address, None);
            }
            let addresses = addresses.into_iter().map(|address| (address, None)).collect();
            self.answers.names.insert(name, NameAnswer { addresses });
        }
        let others: Vec<SocketAddr> = self
            .resolved
            .iter()
            .filter(|(name, _)| !self.joins.contains(name))
            .flat_map(|(_, addresses)| addresses.iter().copied())
            .collect();
        for address in others {
            if !self.is_own(address) {
                self.say(Kind::Ask, 0, address, None);
            }
        }
        self.ask_again_soon();
    }

    fn ask_again_soon(&mut self) {
        if matches!(self.me.state, State::Pristine { .. }) && !self.questions.is_empty() {
            self.schedule.push((ASK_AGAIN_AFTER, Due::AskAgain { attempt: self.answers.attempt }));
        }
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        address == self.local
    }

    /// Does the work that is due.
    pub(super) fn due(&mut self, due: Due) {
        match due {
            Due::Swim(timer) => {
                if let Some(swim) = &mut self.swim {
                    swim.due(timer);
                }
                self.drain_swim();
            }
            // A later attempt has questions of its own.
            Due::AskAgain { attempt } if attempt == self.answers.attempt => {
                let open: Vec<(u64, SocketAddr)> =
                    self.questions.iter().map(|(nonce, (_, address))| (*nonce, *address)).collect();
                for (nonce, address) in open {
                    self.say(Kind::Ask, nonce, address, None);
                }
                self.ask_again_soon();
            }
            Due::AskAgain { .. } => {}
            Due::Exchange => {
                if !self.known.is_empty() {
                    let index = random::below(self.known.len() as u64) as usize;
                    let node_id = *self.known.keys().nth(index).expect("the index is below the length");
                    self.ask_node(node_id);
                }
                self.schedule.push((EXCHANGE_EVERY, Due::Exchange));
            }
        }
    }

    // ---- received datagrams ----

    /// Handles a received datagram.
    pub(super) fn receive(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        let datagram = match Datagram::open(bytes, &self.key) {
            Ok(datagram) => datagram,
            Err(datagram::Rejected::Noise) => return,
            Err(rejected) => return self.cannot_read(from, rejected, now),
        };
        // It can be read again: its key was corrected, for example.
        self.unreadable.remove(&from);
        if datagram.sender == self.me.node_id {
            return self.receive_own(from, &datagram, now);
        }
        match self.guard.check(&datagram) {
            Verdict::Fresh => {}
            Verdict::Stale => return,
            Verdict::Twin => {
                return self.alarms.raise(Alarm::TwinIdentity { node_id: datagram.sender, from });
            }
        }
        if let (Some(own), Some(other)) = (self.me.cluster_id, datagram.cluster_id)
            && own != other
        {
            let alarm = Alarm::ForeignCluster { node_id: datagram.sender, cluster_id: other, from };
            self.alarms.raise(alarm);
            // The sender of an ask must learn of it too: it may be the one that has another cluster's directory.
            if datagram.kind == Kind::Ask
                && let Ok((nonce, _)) = open_exchange(&datagram)
            {
                self.say(Kind::Answer, nonce, from, None);
            }
            return;
        }
        if let Some(known) = self.known.get_mut(&datagram.sender)
            && known.claim.boot <= datagram.boot
        {
            known.address = Some(from);
            known.received_at = now;
        }
        match datagram.kind {
            Kind::Swim if datagram.cluster_id.is_some() => self.receive_swim(&datagram),
            Kind::Swim => {}
            Kind::Ask | Kind::Answer => self.receive_exchange(from, &datagram, now),
        }
    }

    fn cannot_read(&mut self, from: SocketAddr, rejected: datagram::Rejected, now: Instant) {
        let room = self.unreadable.len() < MAX_UNREADABLE;
        let why = || rejected.to_string();
        match self.unreadable.get_mut(&from) {
            // Every change is published, so it is limited to one per interval.
            Some((received_at, _)) if now.saturating_duration_since(*received_at) < EXCHANGE_EVERY => {}
            Some(known) => *known = (now, why()),
            None if room => drop(self.unreadable.insert(from, (now, why()))),
            None => {}
        }
        self.alarms.raise(Alarm::unreadable(from, rejected));
    }

    /// Handles a datagram with this node's own id: sent by itself to its own join address, or by a copy of its
    /// directory.
    fn receive_own(&mut self, from: SocketAddr, datagram: &Datagram, now: Instant) {
        if datagram.instance == self.sealer.instance() {
            if datagram.kind != Kind::Swim {
                self.receive_exchange(from, datagram, now);
            }
            return;
        }
        // The other process must learn of this one, too: no other node answers it, and one of the two has to stop.
        if datagram.kind == Kind::Ask
            && let Ok((nonce, _)) = open_exchange(datagram)
        {
            self.say(Kind::Answer, nonce, from, None);
        }
        let is_news = self.other_self.is_none_or(|other| {
            other.boot < datagram.boot || now.saturating_duration_since(other.received_at) >= EXCHANGE_EVERY
        });
        if datagram.boot >= self.me.boot && is_news {
            self.other_self = Some(OtherSelf { boot: datagram.boot, from, received_at: now });
        }
    }

    fn receive_swim(&mut self, datagram: &Datagram) {
        let known = self.known.contains_key(&datagram.sender);
        if let Some(swim) = &mut self.swim
            && (known || self.known.len() < MAX_PEERS)
        {
            swim.receive(&datagram.payload);
            self.drain_swim();
        }
    }

    fn receive_exchange(&mut self, from: SocketAddr, datagram: &Datagram, now: Instant) {
        let Ok((nonce, claims)) = open_exchange(datagram) else {
            return tracing::debug!(%from, "an exchange is invalid");
        };
        let direct = claims[0].clone();
        if direct.node_id != self.me.node_id {
            for claim in claims {
                self.learn(claim, now);
            }
            self.received_directly(&direct, from);
        }
        if datagram.kind == Kind::Ask {
            if self.key.is_secret() && self.me.cluster_id.is_none() && direct.cluster_id.is_some() {
                self.invited_by(direct.clone(), from);
            }
            self.say(Kind::Answer, nonce, from, direct.cluster_id);
        } else if let Some((name, address)) = self.questions.remove(&nonce) {
            if direct.node_id != self.me.node_id {
                self.answers.note(&direct, &name);
            }
            if let Some(answer) = self.answers.names.get_mut(&name) {
                answer.addresses.insert(address, Some(direct));
            }
        }
    }

    fn learn(&mut self, claim: Claim, now: Instant) {
        if claim.node_id == self.me.node_id
            || claim.cluster_id.is_none()
            || claim.cluster_id != self.me.cluster_id
        {
            return;
        }
        let room = self.known.len() < MAX_PEERS;
        match self.known.get_mut(&claim.node_id) {
            Some(known) if claim.is_newer_than(&known.claim) => known.claim = claim,
            Some(_) => {}
            None if room => {
                self.known.insert(claim.node_id, Known { claim, address: None, received_at: now });
            }
            None => {
                if let Some(more) = self.crowded.now() {
                    let most = MAX_PEERS;
                    tracing::warn!(
                        name = claim.name,
                        more,
                        most,
                        "too many nodes gossip: this one is ignored"
                    );
                }
            }
        }
    }

    /// Notes the sender's address, and announces this node to a sender that the failure detector does not see alive.
    fn received_directly(&mut self, claim: &Claim, from: SocketAddr) {
        let Some(known) = self.known.get_mut(&claim.node_id) else { return };
        known.address = Some(from);
        let Some(swim) = &mut self.swim else { return };
        if matches!(claim.state, State::Left) || matches!(self.me.state, State::Left) {
            return;
        }
        let seen = swim.states().get(&claim.node_id).copied();
        let alive = seen.is_some_and(|(boot, state)| boot == claim.boot && state == foca::State::Alive);
        if !alive {
            swim.announce(claim.node_id, claim.boot);
            self.drain_swim();
        }
    }

    fn invited_by(&mut self, claim: Claim, from: SocketAddr) {
        self.answers.note(&claim, &from.to_string());
        if self.answers.invitations.len() < MAX_PEERS {
            self.answers.invitations.insert(claim.node_id, claim);
        }
    }

    fn forget(&mut self, now: Instant) {
        self.unreadable
            .retain(|_, (received_at, _)| now.saturating_duration_since(*received_at) < FORGET_UNREADABLE);
        let dead = |known: &Known| now.saturating_duration_since(known.received_at) > FORGET_AFTER;
        let alive = self.swim_states();
        let members = &self.members;
        self.known.retain(|node_id, known| {
            members.contains_key(node_id) || alive.get(node_id).is_some_and(is_active) || !dead(known)
        });
    }

    // ---- sending ----

    fn start_swim(&mut self) {
        if self.me.cluster_id.is_some() && self.swim.is_none() {
            self.swim = Some(Swim::new(self.me.node_id, self.me.boot, self.pace));
        }
    }

    fn ask_node(&mut self, node_id: NodeId) {
        if let Some(address) = self.address_of(node_id) {
            self.say(Kind::Ask, 0, address, self.me.cluster_id);
        }
    }

    /// Where datagrams for a node are sent: the address it last sent from, or else its claimed gossip address; `None`
    /// if neither is known.
    fn address_of(&self, node_id: NodeId) -> Option<SocketAddr> {
        let known = self.known.get(&node_id)?;
        known.address.or_else(|| self.resolved.get(&known.claim.gossip_addr)?.first().copied())
    }

    /// Sends this node's claim; to members of its own cluster also claims of others.
    fn say(&mut self, kind: Kind, nonce: u64, to: SocketAddr, listener: Option<ClusterId>) {
        let mut exchange = wire::Exchange { nonce, claims: vec![self.me.to_wire()] };
        if listener.is_some() && listener == self.me.cluster_id {
            self.add_claims_of_others(&mut exchange);
        }
        let bytes = self.sealer.seal(kind, self.me.cluster_id, exchange.encode_to_vec());
        self.outbox.push((to, bytes));
    }

    /// Adds claims of live members until a datagram has its usual size, going on where the last exchange stopped.
    fn add_claims_of_others(&mut self, exchange: &mut wire::Exchange) {
        let states = self.swim_states();
        let mut room = datagram::USUAL_BYTES
            .saturating_sub(datagram::OVERHEAD_BYTES)
            .saturating_sub(exchange.encoded_len());
        let after = self.known.range(self.cursor..);
        let before = self.known.range(..self.cursor);
        for (node_id, known) in after.chain(before) {
            if !states.get(node_id).is_some_and(is_active) {
                continue;
            }
            let claim = known.claim.to_wire();
            // A field costs its tag and its length besides its bytes.
            let cost = claim.encoded_len() + 4;
            if cost > room {
                self.cursor = *node_id;
                return;
            }
            room -= cost;
            exchange.claims.push(claim);
        }
    }

    /// Sends the failure detector's packets and sets its timers.
    fn drain_swim(&mut self) {
        let Some(mut swim) = self.swim.take() else { return };
        while let Some((node_id, packet)) = swim.next_packet() {
            // If no address is known, another member is asked for this one's claim, which names its address.
            if let Some(address) = self.address_of(node_id) {
                let bytes = self.sealer.seal(Kind::Swim, self.me.cluster_id, packet.to_vec());
                self.outbox.push((address, bytes));
            }
        }
        while let Some((after, timer)) = swim.next_timer() {
            self.schedule.push((after, Due::Swim(timer)));
        }
        self.swim = Some(swim);
    }

    fn swim_states(&mut self) -> BTreeMap<NodeId, (u64, foca::State)> {
        self.swim.as_mut().map(Swim::states).unwrap_or_default()
    }

    // ---- results ----

    /// The datagrams to send now.
    pub(super) fn take_outbox(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.outbox)
    }

    /// The work to hand back to [`Conversation::due`], each with its delay.
    pub(super) fn take_schedule(&mut self) -> Vec<(Duration, Due)> {
        std::mem::take(&mut self.schedule)
    }

    /// All nodes in this node's cluster, this node included.
    pub(super) fn view(&mut self) -> View {
        let states = self.swim_states();
        let liveness = |claim: &Claim| match (&claim.state, states.get(&claim.node_id)) {
            (State::Left, _) => Liveness::Left,
            (_, Some((_, foca::State::Alive))) => Liveness::Alive,
            (_, Some((_, foca::State::Suspect))) => Liveness::Suspect,
            (_, Some((_, foca::State::Down)) | None) => Liveness::Down,
        };
        let others = self.known.values().map(|known| {
            let claim = known.claim.clone();
            (claim.node_id, Peer { liveness: liveness(&claim), claim })
        });
        let mut view: View = others.collect();
        let own = if self.me.state == State::Left { Liveness::Left } else { Liveness::Alive };
        view.insert(self.me.node_id, Peer { claim: self.me.clone(), liveness: own });
        view
    }

    /// The answers of the join addresses in this attempt.
    pub(super) fn answers(&self) -> &JoinAnswers {
        &self.answers
    }

    /// Senders of unreadable datagrams.
    pub(super) fn unreadable(&self) -> &UnreadableSenders {
        &self.unreadable
    }

    pub(super) fn other_self(&self) -> Option<OtherSelf> {
        self.other_self
    }

    pub(super) fn alarms(&self) -> &Alarms {
        &self.alarms
    }
}

fn is_active((_, state): &(u64, foca::State)) -> bool {
    *state != foca::State::Down
}

/// Decodes the nonce and the claims; the first claim is the sender's own.
fn open_exchange(datagram: &Datagram) -> Result<(u64, Vec<Claim>), Malformed> {
    let exchange = wire::Exchange::decode(&datagram.payload[..]).map_err(|_| Malformed("not an exchange"))?;
    let claims = exchange.claims.into_iter().map(Claim::from_wire).collect::<Result<Vec<_>, _>>()?;
    let first = claims.first().ok_or(Malformed("an exchange without a claim"))?;
    let own = (first.node_id, first.boot, first.cluster_id);
    if own != (datagram.sender, datagram.boot, datagram.cluster_id) {
        return Err(Malformed("a claim that is not the sender's"));
    }
    Ok((exchange.nonce, claims))
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
