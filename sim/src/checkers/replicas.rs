//! Equal replicas: once nothing is under way any more, all nodes hold the same state at the same log index.

use std::collections::BTreeMap;

use super::{Finding, Findings};

const NAME: &str = "equal replicas";

/// A node's report of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// The node.
    pub name: String,
    /// The last log index it applied.
    pub applied: u64,
    /// The store's revision.
    pub revision: u64,
    /// The digest of its state.
    pub digest: String,
    /// The node itself reports that digests differ.
    pub alarm: bool,
    /// It is a voter.
    pub votes: bool,
}

/// Checks the reports of all nodes.
pub fn check(replicas: &[Replica]) -> Findings {
    let mut findings = Findings::new();
    for replica in replicas.iter().filter(|replica| replica.alarm) {
        findings.push(Finding::violation(NAME, format!("{} raises the digest alarm", replica.name)));
    }
    let mut first: BTreeMap<u64, &Replica> = BTreeMap::new();
    for other in replicas {
        let one = *first.entry(other.applied).or_insert(other);
        if one.digest != other.digest {
            let words = format!(
                "at log index {}, {} has the digest {} and {} has {}",
                one.applied, one.name, one.digest, other.name, other.digest
            );
            findings.push(Finding::violation(NAME, words));
        }
    }
    findings
}

/// Whether all of them are voters and have applied the same index.
pub fn are_level(replicas: &[Replica]) -> bool {
    replicas.iter().all(|replica| replica.votes)
        && replicas
            .windows(2)
            .all(|pair| (pair[0].applied, pair[0].revision) == (pair[1].applied, pair[1].revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(name: &str, applied: u64, digest: &str) -> Replica {
        Replica {
            name: name.into(),
            applied,
            revision: applied,
            digest: digest.into(),
            alarm: false,
            votes: true,
        }
    }

    #[test]
    fn equal_positions_mean_equal_digests() {
        assert!(check(&[replica("n1", 5, "aa"), replica("n2", 5, "aa")]).is_empty());
        assert!(check(&[replica("n1", 5, "aa"), replica("n2", 6, "bb")]).is_empty());
        assert!(!are_level(&[replica("n1", 5, "aa"), replica("n2", 6, "bb")]));
        assert!(!are_level(&[replica("n1", 5, "aa"), Replica { votes: false, ..replica("n2", 5, "aa") }]));
        assert_eq!(check(&[replica("n1", 5, "aa"), replica("n2", 5, "bb")]).len(), 1);
        let with_one_between = [replica("n1", 5, "aa"), replica("n2", 6, "cc"), replica("n3", 5, "bb")];
        assert_eq!(check(&with_one_between).len(), 1);
        assert_eq!(check(&[Replica { alarm: true, ..replica("n1", 5, "aa") }]).len(), 1);
    }
}
