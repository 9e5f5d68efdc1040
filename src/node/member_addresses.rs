//! The addresses of nodes: first the one claimed in gossip, then the one in the membership.

use std::sync::Arc;

use crate::membership::Gossip;
use crate::node_id::NodeId;
use crate::raft::Store;
use crate::raft::peers::AddressBook;

/// Looks addresses up anew at every attempt: if all nodes come back at other addresses at once, only gossip has them.
pub struct MemberAddresses {
    gossip: Arc<Gossip>,
    store: Arc<Store>,
}

impl MemberAddresses {
    /// Creates the address book of a node.
    pub fn new(gossip: Arc<Gossip>, store: Arc<Store>) -> MemberAddresses {
        MemberAddresses { gossip, store }
    }
}

impl AddressBook for MemberAddresses {
    fn addresses(&self, node_id: NodeId) -> Vec<String> {
        let claimed = self.gossip.address_of(node_id);
        let state = self.store.read();
        let written = state.membership.membership().get_node(&node_id).map(|member| member.rpc_addr.clone());
        drop(state);
        let mut addresses: Vec<String> = claimed.into_iter().chain(written).collect();
        addresses.dedup();
        addresses
    }

    fn member_name(&self, node_id: NodeId) -> Option<String> {
        let state = self.store.read();
        state.membership.membership().get_node(&node_id).map(|member| member.name.clone())
    }

    fn has_successor(&self, node_id: NodeId, name: &str) -> bool {
        self.gossip.has_successor(node_id, name)
    }
}
