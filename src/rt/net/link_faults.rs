//! Link faults of the simulated network: slow links, reset connections, datagrams that are lost, duplicated or
//! reordered, and a slow name server.
//!
//! The simulator has one latency for all links and only reliable connections; what is missing is added here, between it
//! and the nodes. Links that are cut altogether are kept in [`super::partition`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::rt::splitmix::SplitMix;

/// Probabilities, each from 0 to 1, of faults of a datagram.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DatagramRates {
    /// It is lost.
    pub loss: f64,
    /// It arrives twice.
    pub duplication: f64,
    /// It is sent only after the next one.
    pub reordering: f64,
}

/// What happens to one datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Lost,
    Once,
    Twice,
    Overtaken,
}

struct State {
    /// In addition to the simulator's latency, by direction.
    delays: BTreeMap<(IpAddr, IpAddr), Duration>,
    /// Number of resets of the connections between two hosts, the smaller address first.
    resets: BTreeMap<(IpAddr, IpAddr), u64>,
    datagrams: DatagramRates,
    /// How long every lookup of a name takes.
    name_server: Duration,
    dice: SplitMix,
}

thread_local!(static STATE: RefCell<State> = RefCell::new(State {
    delays: BTreeMap::new(),
    resets: BTreeMap::new(),
    datagrams: DatagramRates::default(),
    name_server: Duration::ZERO,
    dice: SplitMix::new(0),
}));

/// Seeds the random draws of this module.
pub fn seed(seed: u64) {
    STATE.with_borrow_mut(|state| state.dice = SplitMix::new(seed));
}

/// Delays connections in one direction; zero: as fast as all others.
pub fn set_delay(from: IpAddr, to: IpAddr, delay: Duration) {
    STATE.with_borrow_mut(|state| {
        state.delays.insert((from, to), delay);
        state.delays.retain(|_, delay| !delay.is_zero());
    });
}

/// Removes all delays of connections.
pub fn clear_delays() {
    STATE.with_borrow_mut(|state| state.delays.clear());
}

/// Resets all connections between two hosts, in both directions. A host detects it at the next use of a connection.
pub fn reset(one: IpAddr, other: IpAddr) {
    STATE.with_borrow_mut(|state| *state.resets.entry(pair(one, other)).or_default() += 1);
}

/// Sets the faults of datagrams from now on.
pub fn set_datagrams(rates: DatagramRates) {
    STATE.with_borrow_mut(|state| state.datagrams = rates);
}

/// Sets how long every lookup of a name takes from now on.
pub fn set_name_server_delay(delay: Duration) {
    STATE.with_borrow_mut(|state| state.name_server = delay);
}

pub(super) fn name_server_delay() -> Duration {
    STATE.with_borrow(|state| state.name_server)
}

pub(super) fn delay(from: IpAddr, to: IpAddr) -> Duration {
    STATE.with_borrow(|state| state.delays.get(&(from, to)).copied().unwrap_or_default())
}

pub(super) fn resets(one: IpAddr, other: IpAddr) -> u64 {
    STATE.with_borrow(|state| state.resets.get(&pair(one, other)).copied().unwrap_or_default())
}

pub(super) fn fate() -> Fate {
    STATE.with_borrow_mut(|state| {
        let State { datagrams: rates, dice, .. } = state;
        if dice.chance(rates.loss) {
            Fate::Lost
        } else if dice.chance(rates.duplication) {
            Fate::Twice
        } else if dice.chance(rates.reordering) {
            Fate::Overtaken
        } else {
            Fate::Once
        }
    })
}

fn pair(one: IpAddr, other: IpAddr) -> (IpAddr, IpAddr) {
    (one.min(other), one.max(other))
}
