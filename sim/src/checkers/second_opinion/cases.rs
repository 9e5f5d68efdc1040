//! The histories that both checkers get: recorded, generated, and both with mutations.

use super::{generated, mutations};
use crate::evidence::history::Operation;
use crate::world::dice::Dice;

/// A history and its origin.
pub struct Case {
    /// Unique among all.
    pub name: String,
    /// Its operations.
    pub operations: Vec<Operation>,
}

/// Generated histories that are checked as they are, and those with one to three mutations each.
const GENERATED: u64 = 60;
const GENERATED_WITH_LIES: u64 = 120;
/// Each recorded history is checked as it is, and this many times with a mutation.
const LIES_ABOUT_RECORDED: u64 = 14;

/// All histories to be checked. `recorded`: seeds and their recorded histories.
pub fn cases(recorded: &[(u64, Vec<Operation>)]) -> Vec<Case> {
    let mut cases = Vec::new();
    for seed in 0..GENERATED + GENERATED_WITH_LIES {
        let mut dice = Dice::new(seed, "generated cases");
        let mut operations = generated::history(seed, dice.within(20..120), dice.within(1..4));
        let mut name = format!("generated-{seed:03}");
        if seed >= GENERATED {
            let lies =
                (0..dice.within(1..4)).filter(|_| mutations::lie(&mut operations, &mut dice).is_some());
            name = format!("{name}-{}-lies", lies.count());
        }
        cases.push(Case { name, operations });
    }
    for (seed, operations) in recorded {
        cases.push(Case { name: format!("recorded-{seed:03}"), operations: operations.clone() });
        for number in 0..LIES_ABOUT_RECORDED {
            let mut dice = Dice::new(seed * 1_000 + number, "recorded cases");
            let mut operations = operations.clone();
            let told = mutations::lie(&mut operations, &mut dice).is_some();
            let name = format!("recorded-{seed:03}-{number:02}-{}-lies", u64::from(told));
            cases.push(Case { name, operations });
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::linearizability;

    #[test]
    fn honest_histories_pass_and_lies_are_noticed_often_but_not_always() {
        let (mut good, mut broken) = (0, 0);
        for case in cases(&[]) {
            let holds = linearizability::check(&case.operations).is_empty();
            assert!(holds || case.name.ends_with("-lies"), "{} is honest", case.name);
            *(if holds { &mut good } else { &mut broken }) += 1;
        }
        assert!(good > 70 && broken > 70, "{good} good and {broken} broken histories");
    }

    #[test]
    fn every_lie_is_told() {
        let mut told = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut operations = generated::history(seed, 60, 2);
            let before = operations.clone();
            if let Some(lie) = mutations::lie(&mut operations, &mut Dice::new(seed, "lies")) {
                told.insert(lie);
                assert!(operations != before || lie == "an operation is said to have begun later");
            }
        }
        assert_eq!(told.len(), mutations::LIES.len());
    }
}
