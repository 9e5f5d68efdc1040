//! Bounds on the connections of each kind.
//!
//! Every connection takes a place of one of four kinds. The kinds have separate bounds: while clients hold all of theirs,
//! peers and operators still connect. This module does no IO.
//!
//! - *Arrivals* have not sent their first bytes yet. A new one displaces the oldest: a working client sends at once.
//! - *Peers* have finished the handshake.
//! - *Clients* use HTTP/2. One address holds at most three quarters of their places.
//! - *Operators* are clients that connected when all clients' places were taken. They are served `api.Admin` and health.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::bound::{Bound, Held};
use crate::rt::lock::Mutex;
use crate::service::ConnectionKind;

/// Most connections that have not sent their first bytes.
const MAX_ARRIVALS: usize = 1024;
/// Most connections of peers: four for each other node and direction, with room for those that are being replaced.
const MAX_PEERS: usize = 1024;
/// Most connections of operators, beyond those of clients.
const MAX_OPERATORS: usize = 64;
/// Most connections to the metrics port.
const MAX_METRICS: usize = 64;

/// File descriptors for this process itself: standard streams, the runtime, listeners, sockets for gossip and name
/// lookups, files that are open for a moment.
const OWN_DESCRIPTORS: usize = 48;
/// File descriptors for connections that this node makes to others.
const DIALED_DESCRIPTORS: usize = 64;
/// Fewest file descriptors with which a node starts.
const LEAST_DESCRIPTORS: usize = 256;

/// The bounds on connections of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Connections that have not sent their first bytes.
    pub arrivals: usize,
    /// Connections of peers.
    pub peers: usize,
    /// Connections of clients.
    pub clients: usize,
    /// Connections of operators, beyond those of clients.
    pub operators: usize,
    /// Connections to the metrics port.
    pub metrics: usize,
}

impl Room {
    /// Returns bounds for `clients` connections of clients, or for as many as `descriptors` allow. `descriptors` is the
    /// process's limit on open files (`None`: no limit). A quarter of it is reserved for files of the log, one for every
    /// segment.
    ///
    /// # Errors
    /// If `descriptors` are too few for a node to serve. Returns the fewest that suffice.
    pub fn within(descriptors: Option<u64>, clients: usize) -> Result<Room, usize> {
        let descriptors = descriptors.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        if descriptors < LEAST_DESCRIPTORS {
            return Err(LEAST_DESCRIPTORS);
        }
        let left = descriptors - descriptors / 4 - OWN_DESCRIPTORS - DIALED_DESCRIPTORS;
        let share = |part: usize, most: usize| (left / part).min(most);
        let [arrivals, peers] = [share(8, MAX_ARRIVALS), share(4, MAX_PEERS)];
        let [operators, metrics] = [share(8, MAX_OPERATORS), share(8, MAX_METRICS)];
        let clients = clients.min(left - arrivals - peers - operators - metrics);
        Ok(Room { arrivals, peers, clients, operators, metrics })
    }
}

/// The places of clients.
pub struct Clients {
    most: usize,
    taken: Mutex<Taken>,
    operators: Arc<Bound>,
    /// Most of the operators' places for one address.
    operators_of_one: usize,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_address: BTreeMap<IpAddr, usize>,
    operators_by_address: BTreeMap<IpAddr, usize>,
}

impl Taken {
    fn of(&mut self, kind: ConnectionKind) -> &mut BTreeMap<IpAddr, usize> {
        match kind {
            ConnectionKind::Client => &mut self.by_address,
            ConnectionKind::Operator => &mut self.operators_by_address,
        }
    }
}

impl Clients {
    /// Returns places of which none is taken.
    pub fn new(room: &Room) -> Arc<Clients> {
        Arc::new(Clients {
            most: room.clients,
            taken: Mutex::default(),
            operators: Bound::new(room.operators),
            operators_of_one: (room.operators / 4).max(1),
        })
    }

    /// Takes a place for a connection from `address`: of clients, else of operators. `None` if neither has one for it.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut taken = self.taken.lock();
        let of_one = |taken: &BTreeMap<_, usize>| taken.get(&address).copied().unwrap_or(0);
        let share = self.most - self.most / 4;
        let (kind, held) = if taken.all < self.most && of_one(&taken.by_address) < share {
            taken.all += 1;
            (ConnectionKind::Client, None)
        } else if of_one(&taken.operators_by_address) < self.operators_of_one {
            (ConnectionKind::Operator, Some(self.operators.take()?))
        } else {
            return None;
        };
        *taken.of(kind).entry(address).or_default() += 1;
        Some(Place { clients: self.clone(), kind, address, _held: held })
    }
}

/// A client's place, held until this is dropped.
pub struct Place {
    clients: Arc<Clients>,
    kind: ConnectionKind,
    address: IpAddr,
    _held: Option<Held>,
}

impl Place {
    /// Returns which services the connection may use.
    pub fn kind(&self) -> ConnectionKind {
        self.kind
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.clients.taken.lock();
        taken.all -= usize::from(self.kind == ConnectionKind::Client);
        let here = taken.of(self.kind);
        let count = here.get_mut(&self.address).expect("counted when the place was taken");
        *count -= 1;
        if *count == 0 {
            here.remove(&self.address);
        }
    }
}

/// Returns the network for which an address is counted. One client with an IPv6 address has 2^64 of them, a /64 network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_connections_together_leave_descriptors_for_files(descriptors in 256_u64..2_000_000, clients in 1_usize..1_000_000) {
            let room = Room::within(Some(descriptors), clients).unwrap();
            let connections = room.arrivals + room.peers + room.clients + room.operators + room.metrics;
            let all = connections + OWN_DESCRIPTORS + DIALED_DESCRIPTORS + descriptors as usize / 4;
            prop_assert!(all <= descriptors as usize);
            prop_assert!(room.clients >= 16.min(clients) && room.clients <= clients);
            prop_assert!(room.arrivals > 0 && room.peers >= 16 && room.operators > 0 && room.metrics > 0);
        }
    }

    #[test]
    fn too_few_descriptors_are_an_error_and_no_limit_is_no_bound() {
        assert_eq!(Room::within(Some(255), 10), Err(LEAST_DESCRIPTORS));
        assert_eq!(Room::within(None, 16 << 10).unwrap().clients, 16 << 10);
    }

    #[test]
    fn one_address_leaves_places_to_others_and_operators_come_in_when_clients_have_all() {
        let room = Room { arrivals: 1, peers: 1, clients: 8, operators: 8, metrics: 1 };
        let clients = Clients::new(&room);
        let [near, far]: [IpAddr; 2] = [[127, 0, 0, 1].into(), [127, 0, 0, 2].into()];
        let of_near: Vec<_> = (0..8).map(|_| clients.enter(near).unwrap()).collect();
        assert_eq!(of_near.iter().filter(|place| place.kind() == ConnectionKind::Client).count(), 6);
        assert!(clients.enter(near).is_none(), "it has its share of everything");
        let of_far: Vec<_> = (0..4).map(|_| clients.enter(far).unwrap().kind()).collect();
        assert_eq!(of_far, [ConnectionKind::Client; 4], "each was given back at once");
        drop(of_near);
        assert_eq!(clients.enter(near).unwrap().kind(), ConnectionKind::Client);
        assert_eq!(clients.taken.lock().by_address.len(), 0);
    }

    #[test]
    fn addresses_of_one_network_count_as_one() {
        let [one, two, other]: [IpAddr; 3] =
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        assert_eq!(network(one), network(two));
        assert_ne!(network(one), network(other));
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), IpAddr::from([10, 0, 0, 1]));
    }
}
