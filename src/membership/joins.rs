//! The answers of the join addresses, one attempt at a time.
//!
//! An attempt resolves every configured name anew and asks each of its addresses. A name has answered when all of its
//! addresses have, in this attempt: silence is never consent, and neither is a name that does not resolve. Addresses of
//! another family than the socket's are neither asked nor waited for. Draws no conclusions.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV6};

use super::claim::{Claim, ClusterId};
use crate::node_id::NodeId;

/// The answers of one attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JoinAnswers {
    /// Numbers the attempts; 0 if none was made yet.
    pub attempt: u64,
    /// By configured name.
    pub names: BTreeMap<String, NameAnswer>,
    /// Claims of members that asked this node unprompted and proved that they have the cluster's key, by node id.
    pub invitations: BTreeMap<NodeId, Claim>,
    /// Every cluster that this node has learned of in any attempt, and the first node that reported it.
    pub clusters: BTreeMap<ClusterId, Teller>,
}

/// A node that reported a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Teller {
    /// Its name.
    pub name: String,
    /// The join name it answered for, or the address it sent its invitation from.
    pub at: String,
    /// The attempt in which it reported.
    pub attempt: u64,
}

/// The most clusters that are remembered: two are too many already.
const MAX_CLUSTERS: usize = 4;

/// The answers of one join name in this attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameAnswer {
    /// Every current address of the name, and the claim of the node that answered there.
    pub addresses: BTreeMap<SocketAddr, Option<Claim>>,
}

impl NameAnswer {
    /// Returns `true` if every address of the name has answered.
    pub fn is_complete(&self) -> bool {
        !self.addresses.is_empty() && self.addresses.values().all(Option::is_some)
    }
}

impl JoinAnswers {
    /// Returns `true` if every name has answered.
    pub fn is_complete(&self) -> bool {
        self.names.values().all(NameAnswer::is_complete)
    }

    /// The names that have not answered, in order.
    pub fn silent(&self) -> Vec<&str> {
        self.names.iter().filter(|(_, answer)| !answer.is_complete()).map(|(name, _)| name.as_str()).collect()
    }

    /// Remembers the cluster of a claim, and `at` as its source.
    pub(super) fn note(&mut self, claim: &Claim, at: &str) {
        let Some(cluster_id) = claim.cluster_id else { return };
        if self.clusters.len() < MAX_CLUSTERS {
            let teller = || Teller { name: claim.name.clone(), at: at.to_owned(), attempt: self.attempt };
            self.clusters.entry(cluster_id).or_insert_with(teller);
        }
    }

    /// The newest claim of each node that answered, by node id.
    pub fn claims(&self) -> BTreeMap<NodeId, &Claim> {
        let mut newest: BTreeMap<NodeId, &Claim> = BTreeMap::new();
        for claim in self.names.values().flat_map(|name| name.addresses.values().flatten()) {
            let kept = newest.entry(claim.node_id).or_insert(claim);
            if claim.is_newer_than(kept) {
                *kept = claim;
            }
        }
        newest
    }
}

/// Returns the addresses that a socket bound to `local` can send to.
pub(super) fn reachable_from(local: SocketAddr, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let fit = |address: &SocketAddr| match (local, address) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => Some(*address),
        // A socket on all IPv6 addresses also sends IPv4, as IPv4-mapped IPv6 addresses.
        (SocketAddr::V6(v6), SocketAddr::V4(v4)) if v6.ip().is_unspecified() => {
            Some(SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0)))
        }
        _ => None,
    };
    addresses.iter().filter_map(fit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e2_a_name_has_answered_when_all_its_addresses_have() {
        let (one, two): (SocketAddr, SocketAddr) =
            ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:1".parse().unwrap());
        let claim = Claim::example("a", NodeId(1));
        let mut answers = JoinAnswers::default();
        answers.names.insert("a:1".into(), NameAnswer::default());
        assert!(!answers.is_complete(), "a name that does not resolve is silent");
        answers.names.get_mut("a:1").unwrap().addresses =
            BTreeMap::from([(one, Some(claim.clone())), (two, None)]);
        assert_eq!(answers.silent(), ["a:1"]);
        answers.names.get_mut("a:1").unwrap().addresses.insert(two, Some(claim));
        assert!(answers.is_complete());
        assert_eq!(answers.claims().len(), 1);
    }

    #[test]
    fn localhost_is_asked_in_the_family_of_the_socket() {
        let both: [SocketAddr; 2] = ["127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()];
        assert_eq!(reachable_from("127.0.0.1:9".parse().unwrap(), &both), both[..1]);
        assert_eq!(reachable_from("[::1]:9".parse().unwrap(), &both), both[1..]);
        assert_eq!(reachable_from("[::]:9".parse().unwrap(), &both).len(), 2);
    }
}
