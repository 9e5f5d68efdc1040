//! Good histories pass, broken ones do not, and on small random ones the checker agrees with an exhaustive search.

use super::step::State;
use super::*;
use crate::checkers::second_opinion::generated;
use crate::checkers::testing::{delete, get, in_doubt, list, on, set, set_if};
use crate::world::dice::Dice;

fn holds(operations: &[Operation]) -> bool {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| operation.invoked);
    check(&operations).is_empty()
}

#[test]
fn reads_see_what_was_written_before_them() {
    assert!(holds(&[set(0, 1, 7), get(2, 3, 7)]));
    assert!(!holds(&[set(0, 1, 7), get(2, 3, 0)]), "an acknowledged write was lost");
    assert!(!holds(&[set(0, 1, 7), set(2, 3, 8), get(4, 5, 7)]), "a stale read");
    assert!(!holds(&[get(0, 1, 7)]), "nobody wrote it");
}

#[test]
fn concurrent_operations_may_go_either_way_but_only_one_way() {
    assert!(holds(&[set(0, 9, 7), get(1, 2, 0), get(3, 4, 7)]));
    assert!(!holds(&[set(0, 9, 7), get(1, 2, 7), get(3, 4, 0)]), "seen, then not seen");
    assert!(holds(&[set(0, 5, 7), set(1, 6, 8), get(7, 8, 7)]));
    assert!(!holds(&[set(0, 5, 7), set(1, 6, 8), get(7, 8, 7), get(9, 10, 8)]));
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never_but_once() {
    let lost = in_doubt(set(0, 1, 7));
    assert!(holds(&[lost.clone(), get(2, 3, 0)]));
    assert!(holds(&[lost.clone(), get(2, 3, 0), get(4, 5, 7)]));
    assert!(!holds(&[lost.clone(), get(2, 3, 7), get(4, 5, 0)]));
    assert!(!holds(&[lost.clone(), set(2, 3, 8), get(4, 5, 7), set(6, 7, 9), get(8, 9, 7)]), "applied twice");
    let mut never_sent = lost;
    never_sent.outcome = Outcome::Failed;
    assert!(!holds(&[never_sent, get(2, 3, 7)]), "what failed for certain has no effect");
}

#[test]
fn a_refusal_may_tell_the_revision_of_a_write_that_was_never_answered() {
    let lost = in_doubt(set(0, 1, 7));
    assert!(holds(&[lost.clone(), set_if(2, 3, 8, 0, Some(7)), set_if(4, 5, 9, 7, None), get(6, 7, 9)]));
    assert!(!holds(&[lost.clone(), set_if(2, 3, 8, 0, Some(7)), get(4, 5, 0)]), "refused because of nothing");
    assert!(
        !holds(&[lost.clone(), set_if(2, 3, 8, 0, Some(7)), set_if(4, 5, 9, 0, Some(6))]),
        "one write, two revisions"
    );
    assert!(!holds(&[set(0, 1, 7), set_if(2, 3, 8, 7, Some(7))]), "refused though the condition held");
    assert!(
        !holds(&[set(0, 1, 6), lost, set_if(2, 3, 8, 6, None), get(4, 5, 7), get(6, 7, 8)]),
        "late, then undone"
    );
}

#[test]
fn deletes_and_conditions_say_what_they_found() {
    assert!(holds(&[set(0, 1, 7), delete(2, 3, true), delete(4, 5, false), get(6, 7, 0)]));
    assert!(!holds(&[set(0, 1, 7), delete(2, 3, false)]));
    assert!(holds(&[set_if(0, 1, 7, 0, None), set_if(2, 3, 8, 7, None), set_if(4, 5, 9, 7, Some(8))]));
    assert!(!holds(&[set_if(0, 1, 7, 0, None), set_if(2, 3, 8, 0, None)]), "both created the key");
    assert!(!holds(&[set(0, 1, 7), set(2, 3, 8), set_if(4, 5, 9, 7, None)]), "a lost update");
}

#[test]
fn a_list_is_a_read_of_every_key() {
    let other = on("other", set(0, 1, 8));
    assert!(holds(&[set(0, 1, 7), other.clone(), list(2, 3, 9, &[("k", 7), ("other", 8)])]));
    assert!(!holds(&[set(0, 1, 7), other, list(2, 3, 9, &[("k", 7)])]), "a key is missing");
}

#[test]
fn giving_up_is_no_verdict() {
    let mut operations: Vec<Operation> = (1..=24).map(|value| in_doubt(set(0, 1, value))).collect();
    operations.extend([get(2, 3, 1), get(4, 5, 99)]);
    let steps: Vec<Step> = operations
        .iter()
        .filter_map(|operation| Some(Step::new(0, operation, Effect::of(operation)?)))
        .collect();
    assert!(matches!(search(&steps, &Revisions::of(&operations), &[None; 26], 1_000), Verdict::GaveUp));
}

#[test]
fn writes_in_doubt_that_nobody_saw_cost_no_search() {
    let mut operations: Vec<Operation> = (1..=24).map(|value| in_doubt(set(0, 1, value))).collect();
    operations.push(delete(2, 3, false));
    assert!(holds(&operations));
}

/// Tries every order of every subset of the unknown operations.
fn by_trying_all(operations: &[Operation]) -> bool {
    fn go(operations: &[Operation], revisions: &Revisions, used: &mut Vec<bool>, state: State) -> bool {
        let pending = |operation: &Operation| {
            if operation.outcome == Outcome::Unknown { Nanos::MAX } else { operation.returned.unwrap() }
        };
        let open: Vec<usize> = (0..operations.len()).filter(|index| !used[*index]).collect();
        if open.iter().all(|index| pending(&operations[*index]) == Nanos::MAX) {
            return true;
        }
        let earliest = open.iter().map(|index| pending(&operations[*index])).min().unwrap();
        for index in open {
            if operations[index].invoked > earliest {
                continue;
            }
            let Some(effect) = Effect::of(&operations[index]) else { continue };
            if let Some(next) = effect.apply(state, revisions) {
                used[index] = true;
                if go(operations, revisions, used, next) {
                    return true;
                }
                used[index] = false;
            }
        }
        false
    }
    let said: Vec<Operation> =
        operations.iter().filter(|operation| Effect::of(operation).is_some()).cloned().collect();
    go(&said, &Revisions::of(operations), &mut vec![false; said.len()], None)
}

#[test]
fn agrees_with_trying_all_orders_of_small_histories() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..4_000 {
        let mut dice = Dice::new(seed, "small histories");
        let length = dice.within(2..8);
        let mut operations: Vec<Operation> = (1..=length)
            .map(|value| {
                let invoked = dice.within(0..12);
                let returned = invoked + dice.within(0..8);
                let seen = dice.within(0..length + 1);
                let operation = match dice.within(0..6) {
                    0 | 1 => set(invoked, returned, value),
                    2 => delete(invoked, returned, dice.chance(0.5)),
                    3 => set_if(invoked, returned, value, seen, dice.chance(0.5).then_some(value - 1)),
                    _ => get(invoked, returned, seen),
                };
                if dice.chance(0.2) { in_doubt(operation) } else { operation }
            })
            .collect();
        operations.sort_by_key(|operation| operation.invoked);
        let expected = by_trying_all(&operations);
        *(if expected { &mut good } else { &mut bad }) += 1;
        assert_eq!(holds(&operations), expected, "seed {seed}: {operations:#?}");
    }
    assert!(good > 300 && bad > 300, "{good} good and {bad} bad histories say little");
}

#[test]
fn long_honest_histories_pass_and_one_wrong_answer_is_found() {
    for seed in 0..5 {
        let mut operations = generated::history(seed, 150, 1);
        assert!(holds(&operations), "seed {seed}");
        let last = operations.iter().map(|operation| operation.returned.unwrap()).max().unwrap();
        operations.push(on("k0", get(last + 1, last + 2, 12_345)));
        assert!(!holds(&operations), "seed {seed}");
    }
}
