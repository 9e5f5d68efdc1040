//! The members of a cluster, as a client sees them.

use std::fmt;
use std::num::NonZeroU32;

use mokv_proto::api;

use crate::node_id::NodeId;

/// The members of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Members {
    /// In no particular order.
    pub members: Vec<Member>,
    /// The number of voters that the cluster is to have; `None`: as many as join.
    pub wanted_size: Option<NonZeroU32>,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its name. Two members may share one for a while: a lost node and its successor.
    pub name: String,
    /// Its id, which no other node ever gets.
    pub node_id: NodeId,
    /// Where it serves clients, as `host:port`.
    pub rpc_addr: String,
    /// Its part in the cluster.
    pub role: MemberRole,
}

/// A member's part in the cluster, as the node that was asked knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum MemberRole {
    /// It votes and leads.
    Leader,
    /// It votes.
    Voter,
    /// It does not vote yet.
    Learner,
}

impl MemberRole {
    /// Returns "leader", "voter" or "learner".
    pub fn as_str(self) -> &'static str {
        match self {
            MemberRole::Leader => "leader",
            MemberRole::Voter => "voter",
            MemberRole::Learner => "learner",
        }
    }
}

impl fmt::Display for MemberRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Members {
    pub(super) fn from_wire(members: api::GetServersResponse) -> Members {
        Members {
            members: members.servers.into_iter().map(Member::from_wire).collect(),
            wanted_size: NonZeroU32::new(members.wanted_size),
        }
    }
}

impl Member {
    pub(crate) fn from_wire(server: api::Server) -> Member {
        let role = match (server.is_leader, server.is_learner) {
            (true, _) => MemberRole::Leader,
            (false, true) => MemberRole::Learner,
            (false, false) => MemberRole::Voter,
        };
        Member { name: server.id, node_id: NodeId(server.node_id), rpc_addr: server.rpc_addr, role }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_a_role_and_no_wanted_size_is_none() {
        let server = |is_leader, is_learner| api::Server {
            id: "n1".into(),
            rpc_addr: "a:1".into(),
            node_id: 7,
            is_leader,
            is_learner,
        };
        let role = |is_leader, is_learner| Member::from_wire(server(is_leader, is_learner)).role.to_string();
        assert_eq!((role(true, false), role(false, false)), ("leader".into(), "voter".into()));
        assert_eq!(role(false, true), "learner");
        let members = |wanted_size| {
            Members::from_wire(api::GetServersResponse { servers: vec![server(true, false)], wanted_size })
        };
        assert_eq!(members(0).wanted_size, None);
        assert_eq!(members(3).wanted_size, NonZeroU32::new(3));
        assert_eq!((members(0).members[0].node_id, &*members(0).members[0].rpc_addr), (NodeId(7), "a:1"));
    }
}
