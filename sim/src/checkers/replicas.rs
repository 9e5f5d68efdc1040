//! Equal replicas: when nothing is under way any more, all nodes hold the same state at the same position.

use std::collections::BTreeMap;

use super::{Finding, Findings};

const NAME: &str = "equal replicas";

/// What a node says of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Who says it.
    pub name: String,
    /// The last log index it applied.
    pub applied: u64,
    /// The store's revision.
    pub revision: u64,
    /// The digest of its state.
    pub digest: String,
    /// It says itself that digests differ.
    pub alarm: bool,
    /// It takes part in elections.
    pub votes: bool,
}

/// Judges what all nodes say.
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

/// Whether all of them vote and are at the same place.
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
