//! The client's view of the cluster: members, leader, and an endpoint for every address.
//!
//! Invariants: the addresses that the user gave are never dropped; an older answer never removes the leader that a
//! newer hint named; endpoints are kept only for known addresses, so that no node can make them grow without bound.
//! Does no IO.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mokv_proto::api::Server;

use super::connection::{Endpoint, Transport};
use super::picker::{self, Node, Purpose, Role};
use crate::rt;
use crate::rt::lock::Mutex;

/// Shared by all tasks of a client.
pub(super) struct Topology {
    state: Mutex<State>,
}

struct State {
    transport: Transport,
    seeds: Vec<String>,
    members: Vec<Server>,
    leader: Option<String>,
    /// Incremented with every hint or doubt about the leader.
    leader_news: u64,
    endpoints: BTreeMap<String, Arc<Endpoint>>,
    rotation: usize,
}

/// The value of `leader_news` when a request was sent; see [`Topology::learn`].
#[derive(Debug, Clone, Copy)]
pub(super) struct AsOf(u64);

impl Topology {
    /// Starts with the addresses that the user gave.
    pub(super) fn new(seeds: Vec<String>, transport: Transport) -> Topology {
        assert!(!seeds.is_empty(), "the builder refuses a client without endpoints");
        let state = State {
            transport,
            seeds,
            members: Vec::new(),
            leader: None,
            leader_news: 0,
            endpoints: BTreeMap::new(),
            rotation: 0,
        };
        let topology = Topology { state: Mutex::new(state) };
        topology.state.lock().settle();
        topology
    }

    /// Returns the endpoint to ask next, none of `tried`; `None` when all have been tried.
    pub(super) fn pick(&self, purpose: Purpose, tried: &BTreeSet<String>) -> Option<Arc<Endpoint>> {
        let mut state = self.state.lock();
        if tried.is_empty() {
            state.rotation = state.rotation.wrapping_add(1);
        }
        let now = rt::now();
        let endpoints: Vec<&Arc<Endpoint>> = state.endpoints.values().collect();
        let nodes: Vec<Node> = endpoints
            .iter()
            .map(|endpoint| {
                let (set_aside_until, in_flight, latency) = endpoint.condition(now);
                Node {
                    role: state.role(endpoint.address()),
                    tried: tried.contains(endpoint.address()),
                    set_aside_until,
                    in_flight,
                    latency,
                }
            })
            .collect();
        picker::pick(purpose, &nodes, state.rotation, now).map(|index| endpoints[index].clone())
    }

    /// Returns the endpoint of `address`, a new one if the address is not known.
    pub(super) fn endpoint(&self, address: &str) -> Arc<Endpoint> {
        let state = self.state.lock();
        let known = state.endpoints.get(address).cloned();
        known.unwrap_or_else(|| Arc::new(Endpoint::new(address.to_owned(), state.transport.clone())))
    }

    /// Taken before a request, passed to [`Topology::learn`] with its answer.
    pub(super) fn as_of(&self) -> AsOf {
        AsOf(self.state.lock().leader_news)
    }

    /// Stores a list of members that was requested at `as_of`.
    pub(super) fn learn(&self, as_of: AsOf, members: &[Server]) {
        if members.is_empty() {
            return; // A node that is still forming its cluster lists no members.
        }
        let mut state = self.state.lock();
        state.members = members.iter().filter(|member| !member.rpc_addr.is_empty()).cloned().collect();
        if as_of.0 == state.leader_news {
            let leader = state.members.iter().find(|member| member.is_leader);
            state.leader = leader.map(|member| member.rpc_addr.clone());
        }
        state.settle();
    }

    /// Stores the leader's address, which a node reported.
    pub(super) fn learn_leader(&self, address: &str) {
        let mut state = self.state.lock();
        state.leader_news += 1;
        if state.leader.as_deref() != Some(address) {
            state.leader = Some(address.to_owned());
            state.settle();
        }
    }

    /// Drops the node at `address` as leader, because a write to it failed.
    pub(super) fn doubt_leader(&self, address: &str) {
        let mut state = self.state.lock();
        if state.leader.as_deref() == Some(address) {
            state.leader_news += 1;
            state.leader = None;
            state.settle();
        }
    }

    /// Whether a leader is known.
    pub(super) fn knows_leader(&self) -> bool {
        self.state.lock().leader.is_some()
    }
}

impl State {
    fn role(&self, address: &str) -> Role {
        if self.leader.as_deref() == Some(address) {
            return Role::Leader;
        }
        match self.members.iter().find(|member| member.rpc_addr == address) {
            Some(member) if member.is_learner => Role::Learner,
            Some(_) => Role::Follower,
            None => Role::Seed,
        }
    }

    /// Keeps an endpoint for every known address and for no other. Calls in flight keep theirs.
    fn settle(&mut self) {
        let members = self.members.iter().map(|member| &member.rpc_addr);
        let known: BTreeSet<String> = self.seeds.iter().chain(members).chain(&self.leader).cloned().collect();
        self.endpoints.retain(|address, _| known.contains(address));
        for address in known {
            self.endpoints.entry(address).or_insert_with_key(|address| {
                Arc::new(Endpoint::new(address.clone(), self.transport.clone()))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(address: &str, is_leader: bool) -> Server {
        Server { id: address.to_owned(), rpc_addr: address.to_owned(), is_leader, ..Server::default() }
    }

    fn known(topology: &Topology) -> Vec<String> {
        topology.state.lock().endpoints.keys().cloned().collect()
    }

    fn first_for_write(topology: &Topology) -> String {
        topology.pick(Purpose::Write, &BTreeSet::new()).unwrap().address().to_owned()
    }

    #[test]
    fn seeds_are_never_forgotten_and_strangers_do_not_pile_up() {
        let topology = Topology::new(vec!["seed:1".into()], Transport::default());
        for number in 0..100 {
            topology.learn_leader(&format!("hint:{number}"));
        }
        assert_eq!(known(&topology), ["hint:99", "seed:1"]);
        topology.learn(topology.as_of(), &[member("a:1", false), member("b:1", true)]);
        assert_eq!(known(&topology), ["a:1", "b:1", "seed:1"]);
        assert_eq!(first_for_write(&topology), "b:1");
    }

    #[test]
    fn an_old_list_does_not_overrule_a_newer_hint() {
        let topology = Topology::new(vec!["a:1".into(), "b:1".into()], Transport::default());
        let asked = topology.as_of();
        topology.learn_leader("b:1");
        topology.learn(asked, &[member("a:1", true), member("b:1", false)]);
        assert_eq!(first_for_write(&topology), "b:1");
        topology.learn(topology.as_of(), &[member("a:1", true), member("b:1", false)]);
        assert_eq!(first_for_write(&topology), "a:1");
        topology.doubt_leader("a:1");
        assert!(!topology.knows_leader());
    }

    #[test]
    fn a_cluster_still_forming_does_not_empty_what_is_known() {
        let topology = Topology::new(vec!["a:1".into()], Transport::default());
        topology.learn(topology.as_of(), &[member("b:1", true)]);
        topology.learn(topology.as_of(), &[]);
        assert_eq!(first_for_write(&topology), "b:1");
    }
}
