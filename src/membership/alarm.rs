//! Alarms: what gossip noticed and an operator has to look at.
//!
//! Each alarm is raised once, however often its cause repeats, and their number is bounded. An alarm changes nothing by
//! itself.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use super::claim::ClusterId;
use super::datagram::Rejected;
use crate::node_id::NodeId;

/// The most alarms that are kept: anyone who can send datagrams can cause alarms.
const MAX_ALARMS: usize = 64;

/// What gossip noticed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// Two processes other than this one run with the same identity.
    TwinIdentity {
        /// The node id of that identity.
        node_id: NodeId,
        /// The address the second one sends from.
        from: SocketAddr,
    },
    /// A node of another cluster sends datagrams to this one.
    ForeignCluster {
        /// The other node.
        node_id: NodeId,
        /// Its cluster.
        cluster_id: ClusterId,
        /// The address it sends from.
        from: SocketAddr,
    },
    /// Datagrams cannot be read.
    Unreadable {
        /// The address they come from.
        from: SocketAddr,
        /// Why.
        why: String,
    },
}

impl Alarm {
    pub(super) fn unreadable(from: SocketAddr, rejected: Rejected) -> Alarm {
        Alarm::Unreadable { from, why: rejected.to_string() }
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Alarm::TwinIdentity { node_id, from } => write!(
                f,
                "two processes run as node id {node_id}, one of them at {from}: its data directory was copied; stop \
                 one of the two and wipe its data directory"
            ),
            Alarm::ForeignCluster { node_id, cluster_id, from } => write!(
                f,
                "two clusters meet: node id {node_id} at {from} belongs to cluster {cluster_id}; correct the \
                 start-join-addrs of one of the two, or wipe the node that should change its cluster"
            ),
            Alarm::Unreadable { from, why } => write!(
                f,
                "datagrams from {from} are dropped: {why}; give all nodes the same cluster-key-file and a compatible \
                 version of mokv"
            ),
        }
    }
}

/// The alarms raised so far.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeSet<Alarm>);

impl Alarms {
    /// Raises an alarm, unless it was raised before.
    pub(super) fn raise(&mut self, alarm: Alarm) {
        let known = self.0.contains(&alarm);
        if !known && self.0.len() < MAX_ALARMS {
            tracing::error!("{alarm}");
            self.0.insert(alarm);
        }
    }

    pub(super) fn all(&self) -> &BTreeSet<Alarm> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_stands_once_and_a_flood_is_bounded() {
        let mut alarms = Alarms::default();
        let from: SocketAddr = "127.0.0.1:1".parse().unwrap();
        for node_id in (0..1000).map(NodeId) {
            alarms.raise(Alarm::TwinIdentity { node_id, from });
            alarms.raise(Alarm::TwinIdentity { node_id, from });
        }
        assert_eq!(alarms.all().len(), MAX_ALARMS);
    }
}
