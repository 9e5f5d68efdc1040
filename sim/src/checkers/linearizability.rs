//! Linearizability of each key: there is one order of its operations that respects real time and explains every answer.
//!
//! The algorithm of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's compression ("Testing
//! for linearizability", 2017): a depth-first search over orders that never visits the same set of operations with the
//! same state twice. Linearizability is local, so keys are checked alone; a linearizable list counts as a read of every
//! key. Operations with unknown outcome stay open to the end and may take effect or not. The search is bounded by its
//! number of states, not by time, and giving up is no verdict. Visited states are remembered by a hash of 128 bits.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::xxh3_128;

use super::{Finding, Findings};
use crate::history::{Answer, Call, Nanos, Operation, Outcome};

const NAME: &str = "linearizability";

/// Most states visited for one key before the checker gives up. The workload bounds the unknown operations of a key, so
/// that histories stay far below it.
pub const MOST_STATES: usize = 3_000_000;

/// Checks all keys of a history.
pub fn check(operations: &[Operation]) -> Findings {
    let mut steps: BTreeMap<&str, Vec<Step<'_>>> = BTreeMap::new();
    let lists: Vec<&Operation> =
        operations.iter().filter(|operation| matches!(operation.call, Call::List { stale: false })).collect();
    for (index, operation) in operations.iter().enumerate() {
        if let Outcome::Ok(Answer::Listed { entries, .. }) = &operation.outcome {
            // A key that only a list has returned is checked, too.
            for (key, _) in entries {
                steps.entry(key).or_default();
            }
        }
        if matches!(operation.call, Call::List { .. }) {
            continue;
        }
        let steps = steps.entry(&operation.key).or_default();
        steps.extend(Effect::of(operation).map(|effect| Step::new(index, operation, effect)));
    }
    for list in lists {
        let Outcome::Ok(Answer::Listed { entries, .. }) = &list.outcome else { continue };
        let found: BTreeMap<&str, u64> =
            entries.iter().map(|(key, entry)| (key.as_str(), entry.value)).collect();
        // Invocations are in order, so the list's own index is found by its time.
        let index = operations.partition_point(|operation| operation.invoked < list.invoked);
        for (key, steps) in steps.range_mut(list.key.as_str()..) {
            if key.starts_with(&list.key) {
                steps.push(Step::new(index, list, Effect::Read(found.get(key).copied())));
            }
        }
    }
    let revisions = Revisions::of(operations);
    let mut findings = Findings::new();
    for (key, mut steps) in steps {
        steps.sort_by_key(|step| step.invoked);
        match decide(&steps, &revisions) {
            Verdict::Linearizable => {}
            Verdict::Broken { ordered, stuck } => findings.push(Finding::violation(
                NAME,
                format!("no order explains the answers about {key}\n{}", evidence(&steps, &ordered, stuck)),
            )),
            Verdict::GaveUp => findings.push(Finding::gave_up(
                NAME,
                format!(
                    "key {key}: gave up after {MOST_STATES} states over {} operations, {} of them unknown",
                    steps.len(),
                    steps.iter().filter(|step| step.returned.is_none()).count()
                ),
            )),
        }
    }
    findings
}

/// The effect of an operation on its key, and what its answer implies about the state before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Set { value: u64, condition: Option<u64> },
    Delete { condition: Option<u64>, existed: Option<bool> },
    Refused { condition: Option<u64>, present_revision: u64 },
    Read(Option<u64>),
}

impl Effect {
    /// `None`: the operation implies nothing.
    fn of(operation: &Operation) -> Option<Effect> {
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
    fn apply(self, state: State, revisions: &Revisions) -> Option<State> {
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
type State = Option<Held>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    value: u64,
    /// For a write whose revision no answer and no read revealed: the revision in a failed condition; 0: none so far.
    told: u64,
}

/// The revision that wrote each value, as far as answers reveal it.
struct Revisions {
    of_value: BTreeMap<u64, u64>,
    taken: BTreeSet<u64>,
}

impl Revisions {
    fn of(operations: &[Operation]) -> Revisions {
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
struct Step<'a> {
    effect: Effect,
    invoked: Nanos,
    /// `None`: unknown, open to the end.
    returned: Option<Nanos>,
    /// Its index in the history.
    index: usize,
    operation: &'a Operation,
}

impl Step<'_> {
    fn new(index: usize, operation: &Operation, effect: Effect) -> Step<'_> {
        let returned = operation.returned.filter(|_| operation.outcome != Outcome::Unknown);
        Step { effect, invoked: operation.invoked, returned, index, operation }
    }
}

impl std::fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{} {}", self.index, self.operation)
    }
}

enum Verdict {
    Linearizable,
    /// The longest order that was found, and the next operation, whose answer does not fit.
    Broken {
        ordered: Vec<usize>,
        stuck: usize,
    },
    GaveUp,
}

/// An index in the list of events: 0 is the list's head.
#[derive(Debug, Clone, Copy)]
struct Event {
    step: usize,
    is_return: bool,
    before: usize,
    after: usize,
}

/// Calls and returns in order of time, as a doubly linked list from which operations can be removed and put back.
struct Events {
    list: Vec<Event>,
    call_of: Vec<usize>,
    return_of: Vec<Option<usize>>,
}

const NOWHERE: usize = usize::MAX;

impl Events {
    fn new(steps: &[Step<'_>]) -> Events {
        let mut order: Vec<(Nanos, bool, usize)> = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            order.push((step.invoked, false, index));
            if let Some(returned) = step.returned {
                order.push((returned, true, index));
            }
        }
        // At one instant, calls sort first: operations that touch in time are concurrent.
        order.sort();
        let mut events = Events {
            list: vec![Event { step: NOWHERE, is_return: false, before: NOWHERE, after: NOWHERE }],
            call_of: vec![NOWHERE; steps.len()],
            return_of: vec![None; steps.len()],
        };
        for (_, is_return, step) in order {
            let place = events.list.len();
            events.list[place - 1].after = place;
            events.list.push(Event { step, is_return, before: place - 1, after: NOWHERE });
            if is_return {
                events.return_of[step] = Some(place);
            } else {
                events.call_of[step] = place;
            }
        }
        events
    }

    fn first(&self) -> usize {
        self.list[0].after
    }

    /// A step that may come next and whose answer fits without changing the state.
    fn forced(&self, steps: &[Step<'_>], state: State, revisions: &Revisions) -> Option<usize> {
        let mut place = self.first();
        while place != NOWHERE && !self.list[place].is_return {
            let step = self.list[place].step;
            let answered = steps[step].returned.is_some();
            if answered && steps[step].effect.apply(state, revisions) == Some(state) {
                return Some(step);
            }
            place = self.list[place].after;
        }
        None
    }

    fn unlink(&mut self, place: usize) {
        let Event { before, after, .. } = self.list[place];
        self.list[before].after = after;
        if after != NOWHERE {
            self.list[after].before = before;
        }
    }

    fn relink(&mut self, place: usize) {
        let Event { before, after, .. } = self.list[place];
        self.list[before].after = place;
        if after != NOWHERE {
            self.list[after].before = place;
        }
    }

    fn lift(&mut self, step: usize) {
        self.unlink(self.call_of[step]);
        if let Some(place) = self.return_of[step] {
            self.unlink(place);
        }
    }

    fn put_back(&mut self, step: usize) {
        if let Some(place) = self.return_of[step] {
            self.relink(place);
        }
        self.relink(self.call_of[step]);
    }
}

/// Searches first where an order is likely to be found, because the number of all orders is huge: in orders in which
/// writes that no client read never took effect, and writes with a known revision come in the order of revisions. Any
/// order that fits is proof enough.
fn decide(steps: &[Step<'_>], revisions: &Revisions) -> Verdict {
    let read = |step: &Step<'_>| if let Effect::Read(value) = step.effect { value } else { None };
    let seen: BTreeSet<u64> = steps.iter().filter_map(read).collect();
    let was_seen =
        |step: &&Step<'_>| matches!(step.effect, Effect::Set { value, .. } if seen.contains(&value));
    let without: Vec<Step<'_>> =
        steps.iter().filter(|step| step.returned.is_some() || was_seen(step)).cloned().collect();
    let all_if_more = (without.len() < steps.len()).then_some(steps);
    for likely in std::iter::once(&without[..]).chain(all_if_more) {
        let ranks = ranks(likely, revisions);
        if let Verdict::Linearizable = search(likely, revisions, &ranks, MOST_STATES) {
            return Verdict::Linearizable;
        }
    }
    search(steps, revisions, &vec![None; steps.len()], MOST_STATES)
}

/// The ranks of the writes that are known to have created a revision, in the order of revisions.
fn ranks(steps: &[Step<'_>], revisions: &Revisions) -> Vec<Option<usize>> {
    let revision = |step: &Step<'_>| match (step.effect, &step.operation.outcome) {
        (Effect::Set { value, .. }, _) => revisions.of_value.get(&value).copied(),
        (Effect::Delete { existed: Some(true), .. }, Outcome::Ok(Answer::Deleted { revision, .. })) => {
            Some(*revision)
        }
        _ => None,
    };
    let known = steps.iter().enumerate().filter_map(|(index, step)| Some((revision(step)?, index)));
    let order: BTreeSet<(u64, usize)> = known.collect();
    let mut ranks = vec![None; steps.len()];
    order.into_iter().enumerate().for_each(|(rank, (_, index))| ranks[index] = Some(rank));
    ranks
}

/// Searches among the orders in which steps with a rank come in the order of their ranks.
fn search(steps: &[Step<'_>], revisions: &Revisions, ranks: &[Option<usize>], most_states: usize) -> Verdict {
    let mut events = Events::new(steps);
    let mut open_returns = steps.iter().filter(|step| step.returned.is_some()).count();
    // A hash of the set of placed operations: placing and removing one toggles the same bits.
    let mut placed = 0u128;
    let mut seen: BTreeSet<u128> = BTreeSet::new();
    let mut order: Vec<Placed> = Vec::new();
    let mut best = (Vec::new(), NOWHERE);
    let mut state: State = None;
    let mut next_rank = 0;
    let mut place = events.first();
    let mut is_new = true;
    while open_returns > 0 {
        // A step that fits here and changes nothing need not be tried anywhere else.
        let forced = is_new.then(|| events.forced(steps, state, revisions)).flatten();
        is_new = false;
        if let Some(step) = forced {
            place = events.call_of[step];
        }
        let here = (place != NOWHERE).then(|| events.list[place]);
        match here {
            Some(Event { step, is_return: false, after, .. }) => {
                let next = steps[step].effect.apply(state, revisions);
                // An unknown operation that changes nothing need not be placed anywhere.
                let next = next.filter(|next| steps[step].returned.is_some() || *next != state);
                let next = next.filter(|_| ranks[step].is_none_or(|rank| rank == next_rank));
                if let Some(next) = next {
                    placed ^= hash_of_step(step);
                    if seen.insert(placed ^ hash_of_state(next)) {
                        if seen.len() > most_states {
                            return Verdict::GaveUp;
                        }
                        order.push(Placed { step, before: state, is_forced: forced.is_some() });
                        state = next;
                        next_rank += usize::from(ranks[step].is_some());
                        events.lift(step);
                        open_returns -= usize::from(steps[step].returned.is_some());
                        place = events.first();
                        is_new = true;
                        continue;
                    }
                    placed ^= hash_of_step(step);
                }
                place = if forced.is_some() { NOWHERE } else { after };
            }
            // The return of an operation that is not placed yet, or no operation left to try: go back one step.
            _ => {
                if order.len() >= best.0.len() {
                    let stuck = here.map_or(NOWHERE, |event| event.step);
                    best = (order.iter().map(|placed| placed.step).collect(), stuck);
                }
                let Some(Placed { step, before, is_forced }) = order.pop() else {
                    return Verdict::Broken { ordered: best.0, stuck: best.1 };
                };
                state = before;
                next_rank -= usize::from(ranks[step].is_some());
                placed ^= hash_of_step(step);
                events.put_back(step);
                open_returns += usize::from(steps[step].returned.is_some());
                place = if is_forced { NOWHERE } else { events.list[events.call_of[step]].after };
            }
        }
    }
    Verdict::Linearizable
}

/// A step in the order that is being tried.
struct Placed {
    step: usize,
    before: State,
    /// No other step is to be tried in its place.
    is_forced: bool,
}

fn hash_of_step(step: usize) -> u128 {
    xxh3_128(&(step as u64).to_be_bytes())
}

fn hash_of_state(state: State) -> u128 {
    let Some(Held { value, told }) = state else { return 0 };
    xxh3_128(&((u128::from(value) << 64) | u128::from(told)).to_be_bytes())
}

/// The last operations that could be ordered, the one that could not, and those concurrent with it.
fn evidence(steps: &[Step<'_>], ordered: &[usize], stuck: usize) -> String {
    const SHOWN: usize = 6;
    let mut text = String::from("  in this order the answers fit:\n");
    if ordered.len() > SHOWN {
        text.push_str(&format!("    ... {} operations before\n", ordered.len() - SHOWN));
    }
    for step in ordered.iter().skip(ordered.len().saturating_sub(SHOWN)) {
        text.push_str(&format!("    {}\n", steps[*step]));
    }
    let Some(stuck) = steps.get(stuck) else { return text };
    text.push_str(&format!("  and then this one cannot:\n    {}\n", stuck));
    let until = stuck.returned.unwrap_or(Nanos::MAX);
    let open: Vec<&Step<'_>> = steps
        .iter()
        .enumerate()
        .filter(|(index, step)| {
            !ordered.contains(index) && step.invoked <= until && !std::ptr::eq(*step, stuck)
        })
        .map(|(_, step)| step)
        .collect();
    if !open.is_empty() {
        text.push_str("  while these were under way or unknown:\n");
        open.iter().take(SHOWN).for_each(|step| text.push_str(&format!("    {}\n", step)));
    }
    text
}

#[cfg(test)]
mod tests;
