//! Mutated histories: one answer, or one time, is changed. Some changes do no harm, which a checker must find, too.

use crate::evidence::history::{Answer, Call, KeyState, Operation, Outcome};
use crate::world::dice::Dice;

/// The names of the mutations, in the order of their numbers.
pub const LIES: [&str; 9] = [
    "an older value is read",
    "a key that is there is read as absent",
    "two reads exchange their values",
    "a write that was acknowledged is said to have failed",
    "a write that was acknowledged is forgotten",
    "a delete says the opposite",
    "a condition that held is said to have failed",
    "an operation is said to have begun later",
    "an answer is lost",
];

/// Applies one mutation to a history. Returns its name; `None`: the history has no operation that it fits.
pub fn lie(operations: &mut Vec<Operation>, dice: &mut Dice) -> Option<&'static str> {
    let kind = dice.within(0..LIES.len() as u64) as usize;
    let done = match kind {
        0 => older_value(operations, dice),
        1 => absent(operations, dice),
        2 => exchanged(operations, dice),
        3 => said_to_have_failed(operations, dice),
        4 => forgotten(operations, dice),
        5 => opposite_delete(operations, dice),
        6 => refused(operations, dice),
        7 => begun_later(operations, dice),
        _ => lost_answer(operations, dice),
    };
    done.map(|()| LIES[kind])
}

fn pick(operations: &[Operation], dice: &mut Dice, fits: impl Fn(&Operation) -> bool) -> Option<usize> {
    let fitting: Vec<usize> =
        operations.iter().enumerate().filter(|(_, operation)| fits(operation)).map(|(at, _)| at).collect();
    (!fitting.is_empty()).then(|| *dice.one_of(&fitting))
}

/// The state that a linearizable get returned.
fn found(operation: &Operation) -> Option<KeyState> {
    match (operation.call, &operation.outcome) {
        (Call::Get { stale: false }, Outcome::Ok(Answer::Read { entry, .. })) => *entry,
        _ => None,
    }
}

fn set_found(operation: &mut Operation, found: Option<KeyState>) {
    if let Outcome::Ok(Answer::Read { entry, .. }) = &mut operation.outcome {
        *entry = found;
    }
}

fn is_acknowledged_set(operation: &Operation) -> bool {
    matches!(operation.outcome, Outcome::Ok(Answer::Written { .. }))
}

fn older_value(operations: &mut [Operation], dice: &mut Dice) -> Option<()> {
    let at = pick(operations, dice, |operation| found(operation).is_some())?;
    let now = found(&operations[at])?;
    let older = pick(operations, dice, |operation| {
        operation.key == operations[at].key
            && found(operation).is_some_and(|entry| entry.mod_revision < now.mod_revision)
    })?;
    let older = found(&operations[older]);
    set_found(&mut operations[at], older);
    Some(())
}

fn absent(operations: &mut [Operation], dice: &mut Dice) -> Option<()> {
    let at = pick(operations, dice, |operation| found(operation).is_some())?;
    set_found(&mut operations[at], None);
    Some(())
}

fn exchanged(operations: &mut [Operation], dice: &mut Dice) -> Option<()> {
    let one = pick(operations, dice, |operation| found(operation).is_some())?;
    let entry = found(&operations[one]);
    let key = operations[one].key.clone();
    let other = pick(operations, dice, |operation| {
        operation.key == key && found(operation).is_some() && found(operation) != entry
    })?;
    let swapped = found(&operations[other]);
    set_found(&mut operations[other], entry);
    set_found(&mut operations[one], swapped);
    Some(())
}

fn said_to_have_failed(operations: &mut [Operation], dice: &mut Dice) -> Option<()> {
    let at = pick(operations, dice, is_acknowledged_set)?;
    operations[at].outcome = Outcome::Failed;
    Some(())
}

fn forgotten(operations: &mut Vec<Operation>, dice: &mut Dice) -> Option<()> {
    let at = pick(operations, dice, is_acknowledged_set)?;
    operations.remove(at);
    Some(())
}

fn opposite_delete(operations: &mut [Operation], dice: &mut Dice) -> Option<()> {
    let is_delete = |operation: &Operation| matches!(operation.outcome, Outcome::Ok(Answer::Deleted { .. }));
    let at = pick(operations, dice, is_delete)?;
    if let Outcome::Ok(Answer::Deleted { existed, .. }) = &mut operations[at].outcome {
        *existed = !*existed;
    }
    Some(())
}

fn refused(operations: &mut [Operation], dice: &mut Dice) -> Option<()> {
    let is_conditional = |operation: &Operation| {
        is_acknowledged_set(operation) && matches!(operation.call, Call::Set { if_revision: Some(_), .. })
    };
    let at = pick(operations, dice, is_conditional)?;
    if let Outcome::Ok(Answer::Written { revision }) = operations[at].outcome {
        let present_revision = revision.saturating_sub(dice.within(0..3));
        operations[at].outcome = Outcome::Ok(Answer::ConditionFailed { present_revision });
    }
    Some(())
}

fn begun_later(operations: &mut [Operation], dice: &mut Dice) -> Option<()> {
    let at = pick(operations, dice, |operation| matches!(operation.outcome, Outcome::Ok(_)))?;
    let later = operations.iter().map(|operation| operation.invoked).max()?;
    let invoked = operations[at].invoked + dice.within(0..later - operations[at].invoked + 1) / 4;
    let took = operations[at].returned?.saturating_sub(operations[at].invoked);
    operations[at].invoked = invoked;
    operations[at].returned = Some(invoked + took);
    operations.sort_by_key(|operation| operation.invoked);
    Some(())
}

fn lost_answer(operations: &mut [Operation], dice: &mut Dice) -> Option<()> {
    let at = pick(operations, dice, is_acknowledged_set)?;
    operations[at].outcome = Outcome::Unknown;
    Some(())
}
