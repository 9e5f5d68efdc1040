//! The answers of one node never go back, whichever client asks: an answer to a request sent after an earlier answer
//! had arrived shows at least as much of the store.
//!
//! README guarantees this to clients that have seen nothing: a write returns when the node that received it has applied
//! it, and a node that starts answers nothing before it has recovered its earlier state. The library hides both,
//! because it remembers the highest revision it has seen. A disk that is lost or changed from outside begins anew.

use std::time::Duration;

use super::Finding;
use crate::evidence::history::{Nanos, Seconds};

const NAME: &str = "the answers of one node never go back";
const DOUBTED: &str = "who is doubted answers nobody";
const LATE: &str = "a caller's deadline is kept";

/// An answer of a node at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// The node.
    pub node: String,
    /// The disk it had then; with another disk it counts as another node.
    pub disk: (u64, u64),
    /// When the request was sent.
    pub invoked: Nanos,
    /// When the answer arrived.
    pub returned: Nanos,
    /// The revision of the store in the answer.
    pub revision: u64,
}

/// Checks answers, which are in the order of their arrival.
pub fn check(answers: &[Spoken]) -> Vec<Finding> {
    let goes_back = |later: &Spoken| {
        let earlier = answers.iter().filter(|earlier| {
            (&earlier.node, earlier.disk) == (&later.node, later.disk) && earlier.returned < later.invoked
        });
        let earlier = earlier.max_by_key(|earlier| earlier.revision)?;
        (earlier.revision > later.revision).then(|| {
            let words = format!(
                "{} had answered at revision {} by {}, and a client that asked at {} was told of revision {}",
                later.node,
                earlier.revision,
                Seconds(earlier.returned).to_string().trim_start(),
                Seconds(later.invoked).to_string().trim_start(),
                later.revision
            );
            Finding::violation(NAME, words)
        })
    };
    answers.iter().find_map(goes_back).into_iter().collect()
}

/// The finding that a node answered although its state is doubted.
pub fn doubted(node: &str, answer: &str) -> Finding {
    Finding::violation(DOUBTED, format!("{node}'s state is doubted, and it answered {answer}"))
}

/// The finding that a node without faults did not answer a request by the deadline sent with it.
pub fn late(node: &str, key: &str, deadline: Duration, waited: Duration) -> Finding {
    let words = format!(
        "{node} was asked about {key} with a deadline of {deadline:?}, and said nothing within {waited:?}"
    );
    Finding::liveness(LATE, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(node: &str, invoked: Nanos, revision: u64) -> Spoken {
        Spoken { node: node.to_owned(), disk: (1, 0), invoked, returned: invoked + 10, revision }
    }

    #[test]
    fn a_later_answer_that_shows_less_is_found() {
        let earlier = answer("n1", 0, 7);
        let checked = |later: Spoken| check(&[earlier.clone(), later]).len();
        assert_eq!(checked(answer("n1", 11, 6)), 1);
        assert_eq!(checked(answer("n1", 11, 7)), 0);
        assert_eq!(checked(answer("n1", 10, 6)), 0, "asked when the other answer arrived");
        assert_eq!(checked(answer("n2", 11, 6)), 0, "another node");
        assert_eq!(checked(Spoken { disk: (2, 0), ..answer("n1", 11, 6) }), 0, "the disk is another one");
    }
}
