//! Listens to what crosses the simulated network, and keeps what a golden trace shows.
//!
//! There is one recorder for each simulating thread. Without one, nothing here does anything. It listens from before
//! the first node starts, because a connection can be cut into messages only from its beginning, and keeps messages
//! between [`begin`] and [`end`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use madsim::task::NodeId;
use mokv::membership::datagram::{Datagram, Key, Kind};
use mokv::rt::clock::true_now;
use mokv::rt::{Instant, trace};
use mokv_proto::gossip;
use mokv_proto::raft::{self, append_answer::Outcome, request, response};

use super::script::{APPLIES, Channel, Event, Routine};
use super::streams::{Connection, Message};
use super::words::{HEARTBEAT, NOTICE, Names, title};
use crate::evidence::node_log::Place;

/// An address as the trace writes it: four bytes and the port, little-endian.
const ENDPOINT_BYTES: usize = 6;

thread_local!(static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) });

/// Starts to record what the hosts of a cluster send whose nodes have this RPC port. Datagrams are read without a cluster
/// key. No host is known yet: see [`meet`].
pub fn listen(rpc_port: u16) {
    RECORDER.set(Some(Recorder {
        started: true_now(),
        rpc_port,
        addresses: BTreeMap::new(),
        hosts: BTreeMap::new(),
        names: Names::default(),
        conversations: BTreeMap::new(),
        told: BTreeMap::new(),
        acquainted: BTreeSet::new(),
        heartbeats: 0,
        events: None,
    }));
    trace::listen(hear);
}

/// Records one more host, a node's or a client's, that has sent nothing yet. The trace calls it `name`.
pub fn meet(id: NodeId, address: IpAddr, name: &str) {
    with(|recorder| {
        recorder.addresses.insert(address, name.to_owned());
        recorder.hosts.insert(id, name.to_owned());
    });
}

/// The number of heartbeats so far.
pub fn heartbeats() -> u64 {
    let mut heartbeats = 0;
    with(|recorder| heartbeats = recorder.heartbeats);
    heartbeats
}

/// Keeps messages from here on.
pub fn begin() {
    with(|recorder| {
        recorder.names.forget_values();
        recorder.events = Some(Vec::new());
    });
}

/// Ends the trace. Returns what was sent since [`begin`].
pub fn end() -> Vec<Event> {
    let mut events = None;
    with(|recorder| events = recorder.events.take());
    events.unwrap_or_default()
}

/// Adds a remark to the trace.
pub fn note(words: &str) {
    with(|recorder| recorder.keep("", "", Channel::Note, words.to_owned(), None));
}

/// A node has applied an entry.
pub fn applied(host: &str, at: Place) {
    with(|recorder| recorder.step(host, format!("{APPLIES}{}/{}", at.term, at.index)));
}

/// A node has installed a snapshot.
pub fn installed(host: &str, at: Place) {
    with(|recorder| recorder.step(host, format!("installs the snapshot up to {}/{}", at.term, at.index)));
}

fn with(act: impl FnOnce(&mut Recorder)) {
    RECORDER.with_borrow_mut(|recorder| recorder.as_mut().map(act));
}

/// Hears an event of the run's trace.
fn hear(kind: &'static str, whose: &[u8], bytes: &[u8]) {
    with(|recorder| match kind {
        "tcp-write" => recorder.write(whose, bytes),
        "udp-send" => recorder.send(whose, bytes),
        _ => {}
    });
}

/// An address and a port.
type Endpoint = (IpAddr, u16);

struct Recorder {
    started: Instant,
    rpc_port: u16,
    addresses: BTreeMap<IpAddr, String>,
    hosts: BTreeMap<NodeId, String>,
    names: Names,
    /// By dialer and listener.
    conversations: BTreeMap<(Endpoint, Endpoint), Conversation>,
    /// What a node has told another.
    told: BTreeMap<(String, String), Told>,
    /// Which node has dialed which other one.
    acquainted: BTreeSet<(String, String)>,
    heartbeats: u64,
    /// `None`: nothing is kept now.
    events: Option<Vec<Event>>,
}

/// What one node has told another, so that a repetition is known as one.
#[derive(Default)]
struct Told {
    claim: String,
    committed: u64,
    /// It has asked why it is not admitted.
    has_asked: bool,
}

/// One TCP connection.
#[derive(Default)]
struct Conversation {
    connection: Connection,
    channel: Option<Channel>,
    /// [`Routine::Handshake`] if its dialer has dialed the other one before.
    handshake: Option<Routine>,
    /// What is asked and not answered: a title, and whether the question is routine.
    asked: BTreeMap<u64, (String, Option<Routine>)>,
}

impl Conversation {
    fn channel(&self) -> Channel {
        self.channel.expect("a connection begins with a hello or a call")
    }
}

impl Recorder {
    fn keep(&mut self, from: &str, to: &str, channel: Channel, words: String, routine: Option<Routine>) {
        let at = true_now() - self.started;
        let (from, to) = (from.to_owned(), to.to_owned());
        if let Some(events) = &mut self.events {
            events.push(Event { at, from, to, channel, words, routine });
        }
    }

    fn step(&mut self, host: &str, words: String) {
        self.keep(host, "", Channel::Step, words, None);
    }

    // ---- datagrams ----

    fn send(&mut self, whose: &[u8], bytes: &[u8]) {
        let from = self.hosts.get(&madsim::plugin::node()).cloned();
        let to = endpoint(whose).and_then(|(address, _)| self.addresses.get(&address).cloned());
        let (Some(from), Some(to)) = (from, to) else { return };
        let datagram = Datagram::open(bytes, &Key::open()).expect("nodes without a cluster key sent it");
        let kind = match datagram.kind {
            Kind::Ask => "ask",
            Kind::Answer => "answer",
            // The failure detector's packets are its library's own.
            Kind::Swim => return,
        };
        let gossip::Exchange { claims, .. } = read(&datagram.payload);
        claims.iter().for_each(|claim| self.names.learn(claim.node_id, &claim.name));
        let claim = self.names.claim(claims.first().expect("an exchange begins with the sender's claim"));
        let told = self.told.entry((from.clone(), to.clone())).or_default();
        let routine = (told.claim == claim).then_some(Routine::Claim);
        told.claim.clone_from(&claim);
        self.keep(&from, &to, Channel::Gossip, format!("{kind}: {claim}"), routine);
    }

    // ---- connections ----

    fn write(&mut self, whose: &[u8], bytes: &[u8]) {
        let ends = whose.split_at_checked(ENDPOINT_BYTES);
        let Some((me, peer)) = ends.and_then(|(me, peer)| Some((endpoint(me)?, endpoint(peer)?))) else {
            return;
        };
        let names = (self.addresses.get(&me.0).cloned(), self.addresses.get(&peer.0).cloned());
        let (Some(from), Some(to)) = names else { return };
        let is_dialer = peer.1 == self.rpc_port;
        let ends = if is_dialer { (me, peer) } else { (peer, me) };
        let mut conversation = self.conversations.remove(&ends).unwrap_or_default();
        for message in conversation.connection.write(is_dialer, bytes) {
            self.message(&mut conversation, &from, &to, message);
        }
        self.conversations.insert(ends, conversation);
    }

    fn message(&mut self, conversation: &mut Conversation, from: &str, to: &str, message: Message) {
        let (words, routine) = match message {
            Message::Hello(bytes) => {
                let hello: raft::Hello = read(&bytes);
                self.names.learn(hello.from, &hello.from_name);
                conversation.channel = Some(match hello.channel() {
                    raft::Channel::Control => Channel::Control,
                    raft::Channel::Log => Channel::Log,
                    raft::Channel::Snapshot => Channel::Snapshot,
                    raft::Channel::Forward => Channel::Forward,
                });
                let is_first = self.acquainted.insert((from.to_owned(), to.to_owned()));
                conversation.handshake = (!is_first).then_some(Routine::Handshake);
                let words = format!("hello from {} to {}", hello.from_name, self.names.nodes([&hello.to]));
                (words, conversation.handshake)
            }
            Message::Welcome(bytes) => {
                let welcome: raft::Welcome = read(&bytes);
                let words = format!("welcome from {}", self.names.nodes([&welcome.id]));
                (handshake(&words, welcome.refusal), conversation.handshake)
            }
            Message::Proof(bytes) => {
                (handshake("proof", read::<raft::Proof>(&bytes).refusal), conversation.handshake)
            }
            Message::Accepted(bytes) => {
                (handshake("accepted", read::<raft::Accepted>(&bytes).refusal), conversation.handshake)
            }
            Message::Request(bytes) => {
                let (request, channel) = (read::<raft::Request>(&bytes), conversation.channel());
                let routine = self.routine(from, to, &request, channel);
                conversation.asked.insert(request.id, (title(&request, channel), routine));
                (self.names.request(&request, channel), routine)
            }
            Message::Response(bytes) => {
                let response: raft::Response = read(&bytes);
                let asked = conversation.asked.remove(&response.id);
                let (title, routine) = asked.expect("an answer answers a request");
                let routine = match title.as_str() {
                    HEARTBEAT | NOTICE if !is_success(&response) => None,
                    HEARTBEAT => Some(Routine::Heartbeat),
                    NOTICE => Some(Routine::Again),
                    _ => routine,
                };
                (self.names.response(&title, &response), routine)
            }
            Message::Call(bytes) => {
                conversation.channel = Some(Channel::Client);
                (self.names.call(&bytes), None)
            }
            Message::Reply(bytes) => (self.names.reply(&bytes), None),
        };
        self.keep(from, to, conversation.channel(), words, routine);
    }

    /// Which kind of routine a request is, by what its sender has told the receiver before.
    fn routine(
        &mut self,
        from: &str,
        to: &str,
        request: &raft::Request,
        channel: Channel,
    ) -> Option<Routine> {
        let told = self.told.entry((from.to_owned(), to.to_owned())).or_default();
        match &request.body {
            None => Some(Routine::Heartbeat),
            Some(request::Body::Append(append)) => {
                let committed = append.committed.map_or(0, |at| at.index);
                let is_news = committed > told.committed;
                told.committed = told.committed.max(committed);
                self.heartbeats += u64::from(append.entries.is_empty() && channel == Channel::Control);
                match (append.entries.is_empty(), channel) {
                    (false, _) => None,
                    (true, Channel::Control) => (!is_news).then_some(Routine::Heartbeat),
                    (true, _) => Some(if is_news { Routine::Notice } else { Routine::Again }),
                }
            }
            Some(request::Body::Digests(_)) => Some(Routine::Digests),
            Some(request::Body::Admission(_)) => {
                std::mem::replace(&mut told.has_asked, true).then_some(Routine::Again)
            }
            Some(_) => None,
        }
    }
}

/// A message of the cluster's nodes, none of which sends what another cannot read.
fn read<M: prost::Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).expect("nodes send what they can read")
}

fn handshake(words: &str, refusal: Option<raft::Refusal>) -> String {
    refusal.map_or_else(|| words.to_owned(), |refusal| format!("{words}, refused: {}", refusal.reason))
}

fn is_success(response: &raft::Response) -> bool {
    matches!(&response.body, Some(response::Body::Append(answer)) if answer.outcome() == Outcome::Success)
}

fn endpoint(bytes: &[u8]) -> Option<Endpoint> {
    let (address, port) = bytes.split_first_chunk::<4>()?;
    Some((IpAddr::V4(Ipv4Addr::from(*address)), u16::from_le_bytes(port.try_into().ok()?)))
}
