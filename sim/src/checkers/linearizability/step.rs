//! The operations of one key, as steps from one state of the key to the next.

use std::collections::{BTreeMap, BTreeSet};

use crate::evidence::history::{Answer, Call, Nanos, Operation, Outcome};

/// The effect of an operation on its key, and what its answer implies about the state before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Set { value: u64, condition: Option<u64> },
    Delete { condition: Option<u64>, existed: Option<bool> },
    Refused { condition: Option<u64>, present_revision: u64 },
    Read(Option<u64>),
}

impl Effect {
    /// `None`: the operation implies nothing.
    pub fn of(operation: &Operation) -> Option<Effect> {
        match (&operation.call, &operation.outcome) {
            (_, Outcome::Failed) => None,
            (
                Call::Set { if_revision: condition, .. } | Call::Delete { if_revision: condition },
                Outcome::Ok(Answer::ConditionFailed { present_revision }),
            ) => Some(Effect::Refused { condition: *condition, present_revision: *present_revision }),
            (Call::Set { value, if_revision }, _) => {
                Some(Effect::Set { value: *value, condition: *if_revision })
            }
            (Call::Delete { if_revision }, Outcome::Ok(Answer::Deleted { existed, .. })) => {
                Some(Effect::Delete { condition: *if_revision, existed: Some(*existed) })
            }
            (Call::Delete { if_revision }, _) => {
                Some(Effect::Delete { condition: *if_revision, existed: None })
            }
            (Call::Get { stale: false }, Outcome::Ok(Answer::Read { entry, .. })) => {
                Some(Effect::Read(entry.map(|entry| entry.value)))
            }
            _ => None,
        }
    }

    /// Returns the state after the operation, or `None` if its answer does not fit `state`.
    pub fn apply(self, state: State, revisions: &Revisions) -> Option<State> {
        let met = |condition: Option<u64>| condition.is_none_or(|at| revisions.fit(state, at).is_some());
        match self {
            Effect::Set { value, condition } => met(condition).then_some(Some(Held { value, told: 0 })),
            Effect::Delete { condition, existed } => {
                (met(condition) && existed.is_none_or(|existed| existed == state.is_some())).then_some(None)
            }
            Effect::Refused { condition, present_revision } => {
                let is_reason = condition.is_some_and(|at| at != present_revision);
                revisions.fit(state, present_revision).filter(|_| is_reason)
            }
            Effect::Read(value) => (value == state.map(|held| held.value)).then_some(state),
        }
    }
}

/// The state of the key; `None`: absent.
pub type State = Option<Held>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub value: u64,
    /// For a write whose revision no answer and no read revealed: the revision in a failed condition; 0: none so far.
    pub told: u64,
}

/// The revision that wrote each value, as far as answers reveal it.
pub struct Revisions {
    pub of_value: BTreeMap<u64, u64>,
    taken: BTreeSet<u64>,
}

impl Revisions {
    pub fn of(operations: &[Operation]) -> Revisions {
        let mut known = BTreeMap::new();
        for operation in operations {
            if let (Call::Set { value, .. }, Outcome::Ok(Answer::Written { revision })) =
                (operation.call, &operation.outcome)
            {
                known.insert(value, *revision);
            }
        }
        // The answer to the write itself takes precedence.
        for operation in operations {
            match &operation.outcome {
                Outcome::Ok(Answer::Read { entry: Some(entry), .. }) => {
                    known.entry(entry.value).or_insert(entry.mod_revision);
                }
                Outcome::Ok(Answer::Listed { entries, .. }) => {
                    for (_, entry) in entries {
                        known.entry(entry.value).or_insert(entry.mod_revision);
                    }
                }
                _ => {}
            }
        }
        Revisions { taken: known.values().copied().collect(), of_value: known }
    }

    /// Returns the state if a key in it may be at `revision`. The revision of an unanswered write may be unknown,
    /// although a failed condition named it. It can then be any that belongs to no other write, and stays the same from
    /// then on.
    fn fit(&self, state: State, revision: u64) -> Option<State> {
        let Some(held) = state else { return (revision == 0).then_some(None) };
        let is_possible = match self.of_value.get(&held.value) {
            Some(known) => return (*known == revision).then_some(state),
            None if held.told != 0 => held.told == revision,
            None => revision != 0 && !self.taken.contains(&revision),
        };
        is_possible.then_some(Some(Held { told: revision, ..held }))
    }
}

/// An operation of one key.
#[derive(Debug, Clone)]
pub struct Step<'a> {
    pub effect: Effect,
    pub invoked: Nanos,
    /// `None`: unknown, open to the end.
    pub returned: Option<Nanos>,
    /// Its index in the history.
    index: usize,
    pub operation: &'a Operation,
}

impl Step<'_> {
    pub fn new(index: usize, operation: &Operation, effect: Effect) -> Step<'_> {
        let returned = operation.returned.filter(|_| operation.outcome != Outcome::Unknown);
        Step { effect, invoked: operation.invoked, returned, index, operation }
    }
}

impl std::fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{} {}", self.index, self.operation)
    }
}
