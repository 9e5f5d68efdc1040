//! Who may hold a connection.
//!
//! A connection has one of four kinds of place, by what it turned out to be, and none of them is another's: while
//! clients hold all of theirs, peers still meet and operators still ask. Pure but for the places that are given back.
//!
//! - *Arrivals* have not said yet what they are. The oldest gives way: whoever means it speaks at once.
//! - *Peers* have proved who they are.
//! - *Clients* speak HTTP/2. No address holds more than three quarters of their places.
//! - *Operators* are clients that came when all clients' places were taken; `api.Admin` and health are served to them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::bound::{Bound, Held};
use crate::rt::lock::Mutex;
use crate::service::ConnectionKind;

/// Connections that have not said what they are.
const MAX_ARRIVALS: usize = 1024;
/// Connections of peers: four for each other node and direction, with room for those that are being replaced.
const MAX_PEERS: usize = 1024;
/// Connections beyond the clients' own.
const MAX_OPERATORS: usize = 64;
/// Connections to the metrics port.
const MAX_METRICS: usize = 64;

/// Descriptors for this process itself: standard streams, the runtime, listeners, sockets for gossip and for names,
/// files that are open for a moment.
const OWN_DESCRIPTORS: usize = 48;
/// Descriptors for connections that this node makes to others.
const DIALED_DESCRIPTORS: usize = 64;
/// With fewer descriptors no node serves.
const LEAST_DESCRIPTORS: usize = 256;

/// How many connections of each kind there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Of those that have not said what they are.
    pub arrivals: usize,
    /// Of peers.
    pub peers: usize,
    /// Of clients.
    pub clients: usize,
    /// Beyond the clients' own.
    pub operators: usize,
    /// On the metrics port.
    pub metrics: usize,
}

impl Room {
    /// Room for `clients` connections of clients, or for as many as `descriptors` leave, the process's bound on open
    /// files (`None`: none). A quarter of that stays for files of the log, of which every segment is one.
    ///
    /// # Errors
    /// If so few descriptors serve nobody; how many would.
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
    /// Of the operators' places, for one address.
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
    /// All places are free.
    pub fn new(room: &Room) -> Arc<Clients> {
        Arc::new(Clients {
            most: room.clients,
            taken: Mutex::default(),
            operators: Bound::new(room.operators),
            operators_of_one: (room.operators / 4).max(1),
        })
    }

    /// A place for a connection from `address`, if there is any for it.
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

/// A client's place, for as long as it lives.
pub struct Place {
    clients: Arc<Clients>,
    kind: ConnectionKind,
    address: IpAddr,
    _held: Option<Held>,
}

impl Place {
    /// What it may be used for.
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

/// Whom an address stands for: whoever has one IPv6 address has 2^64 of them.
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
    fn too_few_descriptors_are_told_and_none_to_count_are_no_bound() {
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
