//! Linearizability of each key: there is one order of its operations that respects real time and explains every answer.
//!
//! The algorithm of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's compression ("Testing
//! for linearizability", 2017): a depth-first search over orders that never visits the same set of operations with the
//! same state twice. Linearizability is local, so keys are checked alone; a linearizable list counts as a read of every
//! key. Operations with unknown outcome stay open to the end and may take effect or not. The search is bounded by its
//! number of states, not by time, and giving up is no verdict. Visited states are remembered by a hash of 128 bits.

mod events;
mod search;
mod step;

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Findings};
use crate::evidence::history::{Answer, Call, Nanos, Operation, Outcome};
use search::{Verdict, search};
use step::{Effect, Revisions, Step};

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
        if matches!(operation.call, Call::List { .. } | Call::ListAt { .. } | Call::Changes(_)) {
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
