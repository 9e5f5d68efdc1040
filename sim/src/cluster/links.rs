//! Faults of links: cut, slow, reset; and of clocks, which a node cannot influence either.

use std::time::Duration;

use mokv::rt::clock;
use mokv::rt::net::link_faults::{self, DatagramRates};

use super::Cluster;

impl Cluster {
    /// Cuts one direction of a link.
    pub fn cut(&self, from: &str, to: &str) {
        if self.state().network.set_cut(from, to, true) {
            self.run().link(from, to, true, &format!("nothing arrives from {from} at {to}"));
        }
    }

    /// Mends one direction of a link.
    pub fn mend(&self, from: &str, to: &str) {
        if self.state().network.set_cut(from, to, false) {
            self.run().link(from, to, false, &format!("{from} reaches {to} again"));
        }
    }

    /// Mends both directions of a link.
    pub fn mend_both(&self, one: &str, other: &str) {
        self.mend(one, other);
        self.mend(other, one);
    }

    /// Mends both directions between a node and each of the others.
    pub fn mend_with(&self, name: &str, others: &[String]) {
        others.iter().for_each(|other| self.mend_both(name, other));
    }

    /// Cuts both directions between a node and each of the others.
    pub fn isolate(&self, name: &str) {
        let others: Vec<String> = self.names().into_iter().filter(|other| other != name).collect();
        self.split(&[name.to_owned()], &others);
    }

    /// Cuts both directions between two groups.
    pub fn split(&self, one: &[String], other: &[String]) {
        {
            let mut state = self.state();
            for (from, to) in one.iter().flat_map(|from| other.iter().map(move |to| (from, to))) {
                for (from, to) in [(from, to), (to, from)] {
                    if state.network.set_cut(from, to, true) {
                        self.run().link(from, to, true, "");
                    }
                }
            }
        }
        self.run().tell(format!("{} cut off from {}", one.join(", "), other.join(", ")));
    }

    /// Adds a delay to one direction; zero restores the world's latency.
    pub fn slow_link(&self, from: &str, to: &str, delay: Duration) {
        let state = self.state();
        link_faults::set_delay(state.network.address(from), state.network.address(to), delay);
    }

    /// Delays every lookup of a name.
    pub fn slow_name_server(&self, delay: Duration) {
        link_faults::set_name_server_delay(delay);
        self.run().tell(format!("every lookup of a name takes {delay:?}"));
    }

    /// Resets all connections between two hosts.
    pub fn reset_connections(&self, one: &str, other: &str) {
        let state = self.state();
        link_faults::reset(state.network.address(one), state.network.address(other));
    }

    /// Resets all connections of a host.
    pub fn reset_all_connections(&self, name: &str) {
        let state = self.state();
        let address = state.network.address(name);
        state.network.addresses().into_iter().for_each(|other| link_faults::reset(address, other));
    }

    /// Sets the fault rates of datagrams; `None` restores the world's.
    pub fn set_datagrams(&self, rates: Option<DatagramRates>) {
        let world = self.world();
        link_faults::set_datagrams(rates.unwrap_or(DatagramRates {
            loss: world.datagrams.loss,
            duplication: world.datagrams.duplication,
            reordering: world.datagrams.reordering,
        }));
    }

    /// Mends all links and restores the world's latency and datagram rates.
    pub fn heal_network(&self) {
        {
            for (from, to) in self.state().network.heal() {
                self.run().link(&from, &to, false, "");
            }
            link_faults::clear_delays();
            link_faults::set_name_server_delay(Duration::ZERO);
        }
        self.set_datagrams(None);
        self.run().tell("all links are whole");
    }

    /// Sets the rate of a node's clock, in thousandths of true time; `None` restores the world's.
    pub fn set_clock_rate(&self, name: &str, per_mille: Option<u32>) {
        let mut state = self.state();
        let host = self.host(&mut state, name);
        host.disturbances += 1;
        host.has_odd_clock = per_mille.is_some();
        let drawn = host.clock;
        clock::set_rate(state.network.id(name), per_mille.unwrap_or(drawn));
    }

    /// A node's clock leaps ahead.
    pub fn leap_clock(&self, name: &str, by: Duration) {
        clock::leap(self.state().network.id(name), by);
    }
}
