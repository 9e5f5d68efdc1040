//! The failure detector: SWIM, implemented by foca, adapted to this node.
//!
//! A member is identified by its node id. Boot counter and renewal decide which of two identities of a node is newer,
//! so a node that restarted, or was declared down by mistake, comes back at once. Input is packets, output is packets
//! and timers: no socket and no clock. foca draws its random numbers one by one from the seam.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use foca::{AccumulatingRuntime, Foca, Header, Member, Message, NoCustomBroadcast, PeriodicParams};

use super::claim::Malformed;
use super::datagram;
use crate::node_id::NodeId;
use crate::rt::{self, random};

/// One incarnation of a node as the failure detector sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SwimId {
    pub(super) node_id: NodeId,
    pub(super) boot: u64,
    /// How often it rejoined within this boot after other members had declared it down.
    renewal: u32,
}

impl foca::Identity for SwimId {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(SwimId { renewal: self.renewal.saturating_add(1), ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node_id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.boot, self.renewal) > (adversary.boot, adversary.renewal)
    }
}

/// A timer of the failure detector; the caller hands it back when it is due.
#[derive(Debug)]
pub(super) enum Timer {
    /// One of foca's own.
    Foca(foca::Timer<SwimId>),
    /// The timeout of a member's suspicion.
    Suspicion(Member<SwimId>),
}

/// How fast failures are detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// One member is probed in each period.
    pub probe_period: Duration,
    /// A probe that is not answered in this time is repeated through other members.
    pub probe_timeout: Duration,
    /// A suspect that does not refute the suspicion in this time is declared down.
    pub suspicion: Duration,
}

impl Default for Pace {
    /// For a local network: a dead node is declared down after about five seconds.
    fn default() -> Pace {
        Pace {
            probe_period: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(300),
            suspicion: Duration::from_secs(3),
        }
    }
}

/// The failure detector forgets members that have been down for this long.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// The failure detector of one node in one cluster.
pub(super) struct Swim {
    foca: Foca<SwimId, Codec, Draws, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<SwimId>,
    /// By node id, the suspicion that a timer runs for.
    suspicions: BTreeMap<NodeId, Member<SwimId>>,
    suspicion: Duration,
    timers: Vec<(Duration, Timer)>,
}

impl Swim {
    pub(super) fn new(node_id: NodeId, boot: u64, pace: Pace) -> Swim {
        let id = SwimId { node_id, boot, renewal: 0 };
        let several = NonZeroUsize::new(3).expect("three is not zero");
        let config = foca::Config {
            probe_period: pace.probe_period,
            probe_rtt: pace.probe_timeout,
            num_indirect_probes: several,
            max_transmissions: NonZeroU8::new(10).expect("ten is not zero"),
            suspect_to_down_after: pace.suspicion,
            remove_down_after: Some(FORGET_AFTER),
            max_packet_size: NonZeroUsize::new(datagram::USUAL_BYTES).expect("a packet is not empty"),
            // A member declared down by mistake learns of it and renews its identity.
            notify_down_members: true,
            // The exchange of claims announces this node to all members periodically.
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: Some(PeriodicParams { frequency: pace.probe_period / 4, num_members: several }),
        };
        Swim {
            foca: Foca::new(id, config, Draws, Codec),
            runtime: AccumulatingRuntime::new(),
            suspicions: BTreeMap::new(),
            suspicion: pace.suspicion,
            timers: Vec::new(),
        }
    }

    /// Handles a packet of another member.
    pub(super) fn receive(&mut self, packet: &[u8]) {
        let result = self.foca.handle_data(packet, &mut self.runtime);
        log_failure("a packet", result);
        self.time_suspicions();
    }

    /// Handles a timer that is due.
    pub(super) fn due(&mut self, timer: Timer) {
        let result = match timer {
            Timer::Foca(timer) => self.foca.handle_timer(timer, &mut self.runtime),
            Timer::Suspicion(suspect) => self.end_suspicion(&suspect),
        };
        log_failure("a timer", result);
        self.time_suspicions();
    }

    /// Starts a timer for each new suspicion. foca times only its own; the member that raised another one may be gone,
    /// and a suspect that answers but has not received the suspicion would stay suspect for ever. (SWIM, section 4.2: a
    /// suspicion times out wherever it is held.)
    fn time_suspicions(&mut self) {
        for member in self.foca.iter_membership_state() {
            let node_id = member.id().node_id;
            if member.state() == foca::State::Suspect && self.suspicions.get(&node_id) != Some(member) {
                self.suspicions.insert(node_id, member.clone());
                // The member that raised it should time out first.
                self.timers.push((self.suspicion * 2, Timer::Suspicion(member.clone())));
            }
        }
    }

    /// Declares a suspect down if it has been neither cleared nor declared down; on this node only. If it is alive, it
    /// learns of it after its next packet and rejoins with a renewed identity.
    fn end_suspicion(&mut self, suspect: &Member<SwimId>) -> Result<(), foca::Error> {
        let node_id = suspect.id().node_id;
        if self.suspicions.get(&node_id) != Some(suspect) {
            return Ok(());
        }
        self.suspicions.remove(&node_id);
        if !self.foca.iter_membership_state().any(|member| member == suspect) {
            return Ok(());
        }
        rt::sometimes("gossip gave up a suspicion that nobody ended");
        let down = Member::new(*suspect.id(), suspect.incarnation(), foca::State::Down);
        self.foca.apply_many([down].into_iter(), false, &mut self.runtime)
    }

    /// Announces this node to another node.
    pub(super) fn announce(&mut self, node_id: NodeId, boot: u64) {
        let result = self.foca.announce(SwimId { node_id, boot, renewal: 0 }, &mut self.runtime);
        log_failure("an introduction", result);
    }

    /// Tells some members that this node leaves permanently.
    pub(super) fn leave(&mut self) {
        let result = self.foca.leave_cluster(&mut self.runtime);
        log_failure("a farewell", result);
    }

    /// The next packet to send and the node id to send it to.
    pub(super) fn next_packet(&mut self) -> Option<(NodeId, Bytes)> {
        self.runtime.to_send().map(|(to, packet)| (to.node_id, packet))
    }

    /// The next timer to set, and in how long it is due.
    pub(super) fn next_timer(&mut self) -> Option<(Duration, Timer)> {
        let foca = self.runtime.to_schedule().map(|(after, timer)| (after, Timer::Foca(timer)));
        foca.or_else(|| self.timers.pop())
    }

    /// Returns the boot counter and state of each other member, by node id.
    pub(super) fn states(&mut self) -> BTreeMap<NodeId, (u64, foca::State)> {
        // The states are read below; changes between two calls do not matter.
        while let Some(news) = self.runtime.to_notify() {
            if matches!(news, foca::OwnedNotification::Rejoin(_)) {
                rt::sometimes("gossip rejoined under a renewed identity");
            }
        }
        let members = self.foca.iter_membership_state();
        members.map(|member| (member.id().node_id, (member.id().boot, member.state()))).collect()
    }
}

fn log_failure(what: &str, result: Result<(), foca::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "the failure detector could not handle {what}");
    }
}

/// foca's random numbers. Each draw goes to the seam, so no state is kept across awaits.
struct Draws;

impl rand::TryRng for Draws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        random::rng().try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        random::rng().try_next_u64()
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        random::rng().try_fill_bytes(bytes)
    }
}

/// The encoding of foca's packets: fixed lengths, little-endian.
struct Codec;

const ID_BYTES: usize = 20;
const MEMBER_BYTES: usize = ID_BYTES + 3;

impl foca::Codec<SwimId> for Codec {
    type Error = Malformed;

    fn encode_header(&mut self, header: &Header<SwimId>, mut buf: impl BufMut) -> Result<(), Malformed> {
        if buf.remaining_mut() < 2 * ID_BYTES + 2 + 2 + ID_BYTES {
            return Err(Malformed("no room for a header"));
        }
        put_id(&header.src, &mut buf);
        buf.put_u16_le(header.src_incarnation);
        put_id(&header.dst, &mut buf);
        let (tag, number, third) = match &header.message {
            Message::Ping(number) => (0, *number, None),
            Message::Ack(number) => (1, *number, None),
            Message::PingReq { target, probe_number } => (2, *probe_number, Some(target)),
            Message::IndirectPing { origin, probe_number } => (3, *probe_number, Some(origin)),
            Message::IndirectAck { target, probe_number } => (4, *probe_number, Some(target)),
            Message::ForwardedAck { origin, probe_number } => (5, *probe_number, Some(origin)),
            Message::Announce => (6, 0, None),
            Message::Feed => (7, 0, None),
            Message::Gossip => (8, 0, None),
            Message::Broadcast => (9, 0, None),
            Message::TurnUndead => (10, 0, None),
        };
        buf.put_u8(tag);
        buf.put_u8(number);
        if let Some(third) = third {
            put_id(third, &mut buf);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<SwimId>, Malformed> {
        let src = get_id(&mut buf)?;
        let src_incarnation = buf.try_get_u16_le().map_err(|_| SHORT)?;
        let dst = get_id(&mut buf)?;
        let tag = buf.try_get_u8().map_err(|_| SHORT)?;
        let probe_number = buf.try_get_u8().map_err(|_| SHORT)?;
        let message = match tag {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: get_id(&mut buf)?, probe_number },
            3 => Message::IndirectPing { origin: get_id(&mut buf)?, probe_number },
            4 => Message::IndirectAck { target: get_id(&mut buf)?, probe_number },
            5 => Message::ForwardedAck { origin: get_id(&mut buf)?, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            10 => Message::TurnUndead,
            _ => return Err(Malformed("an unknown message of the failure detector")),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(&mut self, member: &Member<SwimId>, mut buf: impl BufMut) -> Result<(), Malformed> {
        if buf.remaining_mut() < MEMBER_BYTES {
            return Err(Malformed("no room for a member"));
        }
        put_id(member.id(), &mut buf);
        buf.put_u16_le(member.incarnation());
        buf.put_u8(match member.state() {
            foca::State::Alive => 0,
            foca::State::Suspect => 1,
            foca::State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<SwimId>, Malformed> {
        let id = get_id(&mut buf)?;
        let incarnation = buf.try_get_u16_le().map_err(|_| SHORT)?;
        let state = match buf.try_get_u8().map_err(|_| SHORT)? {
            0 => foca::State::Alive,
            1 => foca::State::Suspect,
            2 => foca::State::Down,
            _ => return Err(Malformed("an unknown state of a member")),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

const SHORT: Malformed = Malformed("a packet of the failure detector that is too short");

fn put_id(id: &SwimId, buf: &mut impl BufMut) {
    buf.put_u64_le(id.node_id.0);
    buf.put_u64_le(id.boot);
    buf.put_u32_le(id.renewal);
}

fn get_id(buf: &mut impl Buf) -> Result<SwimId, Malformed> {
    if buf.remaining() < ID_BYTES {
        return Err(SHORT);
    }
    Ok(SwimId { node_id: NodeId(buf.get_u64_le()), boot: buf.get_u64_le(), renewal: buf.get_u32_le() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Codec as _;
    use proptest::prelude::*;

    fn ids() -> impl Strategy<Value = SwimId> {
        (any::<u64>().prop_map(NodeId), any::<u64>(), any::<u32>())
            .prop_map(|(node_id, boot, renewal)| SwimId { node_id, boot, renewal })
    }

    fn messages() -> impl Strategy<Value = Message<SwimId>> {
        (0..11, any::<u8>(), ids()).prop_map(|(tag, probe_number, id)| match tag {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: id, probe_number },
            3 => Message::IndirectPing { origin: id, probe_number },
            4 => Message::IndirectAck { target: id, probe_number },
            5 => Message::ForwardedAck { origin: id, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            _ => Message::TurnUndead,
        })
    }

    proptest! {
        #[test]
        fn headers_and_members_survive_the_wire(src in ids(), dst in ids(), message in messages(), incarnation: u16, state in 0..3_usize) {
            let header = Header { src, src_incarnation: incarnation, dst, message };
            let mut bytes = Vec::new();
            Codec.encode_header(&header, &mut bytes).unwrap();
            prop_assert_eq!(Codec.decode_header(&bytes[..]), Ok(header));

            let state = [foca::State::Alive, foca::State::Suspect, foca::State::Down][state];
            let member = Member::new(src, incarnation, state);
            let mut bytes = Vec::new();
            Codec.encode_member(&member, &mut bytes).unwrap();
            prop_assert_eq!(bytes.len(), MEMBER_BYTES);
            prop_assert_eq!(Codec.decode_member(&bytes[..]), Ok(member));
        }

        #[test]
        fn noise_does_not_shake_the_failure_detector(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            Swim::new(NodeId(1), 1, Pace::default()).receive(&noise);
        }
    }

    /// Carries packets between members until none is left.
    fn deliver(members: &mut [Swim]) {
        loop {
            let mut quiet = true;
            for from in 0..members.len() {
                while let Some((to, packet)) = members[from].next_packet() {
                    quiet = false;
                    members[to.0 as usize - 1].receive(&packet);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn state_of(member: &mut Swim, node_id: u64) -> Option<(u64, foca::State)> {
        member.states().get(&NodeId(node_id)).copied()
    }

    #[test]
    fn e8_a_restarted_node_replaces_its_earlier_incarnation() {
        let pace = Pace::default();
        let mut members = [Swim::new(NodeId(1), 1, pace), Swim::new(NodeId(2), 1, pace)];
        members[0].announce(NodeId(2), 1);
        deliver(&mut members);
        assert_eq!(state_of(&mut members[0], 2), Some((1, foca::State::Alive)));
        members[1] = Swim::new(NodeId(2), 2, pace);
        members[1].announce(NodeId(1), 1);
        deliver(&mut members);
        assert_eq!(state_of(&mut members[0], 2), Some((2, foca::State::Alive)));
    }

    #[test]
    fn a_suspicion_without_an_end_times_out_and_the_suspect_comes_back() {
        let pace = Pace::default();
        let mut members = [Swim::new(NodeId(1), 1, pace), Swim::new(NodeId(2), 1, pace)];
        members[0].announce(NodeId(2), 1);
        deliver(&mut members);
        // A third member, gone by now, passed a suspicion to the first; the second never receives it.
        let suspect =
            Member::new(SwimId { node_id: NodeId(2), boot: 1, renewal: 0 }, 0, foca::State::Suspect);
        let Swim { foca, runtime, .. } = &mut members[0];
        foca.apply_many([suspect.clone()].into_iter(), false, runtime).unwrap();
        members[0].announce(NodeId(2), 1);
        deliver(&mut members);
        assert_eq!(
            state_of(&mut members[0], 2),
            Some((1, foca::State::Suspect)),
            "it answers and stays a suspect"
        );

        let timers = std::iter::from_fn(|| members[0].next_timer());
        let [ended] = timers
            .filter(|(_, timer)| matches!(timer, Timer::Suspicion(_)))
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        assert_eq!(ended.0, pace.suspicion * 2);
        members[0].due(ended.1);
        assert_eq!(state_of(&mut members[0], 2), Some((1, foca::State::Down)));
        members[1].announce(NodeId(1), 1);
        deliver(&mut members);
        members[1].announce(NodeId(1), 1);
        deliver(&mut members);
        assert_eq!(state_of(&mut members[0], 2), Some((1, foca::State::Alive)));
    }

    #[test]
    fn a_suspicion_that_was_refuted_is_no_more() {
        let pace = Pace::default();
        let mut member = Swim::new(NodeId(1), 1, pace);
        let state = |incarnation, state| {
            Member::new(SwimId { node_id: NodeId(2), boot: 1, renewal: 0 }, incarnation, state)
        };
        for news in [state(0, foca::State::Suspect), state(1, foca::State::Alive)] {
            let Swim { foca, runtime, .. } = &mut member;
            foca.apply_many([news].into_iter(), false, runtime).unwrap();
            member.time_suspicions();
        }
        member.due(Timer::Suspicion(state(0, foca::State::Suspect)));
        assert_eq!(state_of(&mut member, 2), Some((1, foca::State::Alive)));
    }

    #[test]
    fn e8_two_that_have_buried_each_other_come_back_by_one_introduction() {
        let pace = Pace::default();
        let mut members = [Swim::new(NodeId(1), 1, pace), Swim::new(NodeId(2), 1, pace)];
        members[0].announce(NodeId(2), 1);
        deliver(&mut members);
        for (index, other) in [(0, 2), (1, 1)] {
            let written =
                Member::new(SwimId { node_id: NodeId(other), boot: 1, renewal: 0 }, 0, foca::State::Down);
            let Swim { foca, runtime, .. } = &mut members[index];
            foca.apply_many([written].into_iter(), true, runtime).unwrap();
            assert_eq!(state_of(&mut members[index], other).unwrap().1, foca::State::Down);
        }
        for _ in 0..3 {
            members[0].announce(NodeId(2), 1);
            deliver(&mut members);
        }
        assert_eq!(state_of(&mut members[0], 2).unwrap().1, foca::State::Alive);
        assert_eq!(state_of(&mut members[1], 1).unwrap().1, foca::State::Alive);
    }
}
