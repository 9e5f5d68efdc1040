//! The depth-first search for an order that explains all answers.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_128;

use super::events::{Event, Events, NOWHERE};
use super::step::{Held, Revisions, State, Step};

/// The result of a search.
pub enum Verdict {
    Linearizable,
    /// The longest order that was found, and the next operation, whose answer does not fit.
    Broken {
        ordered: Vec<usize>,
        stuck: usize,
    },
    GaveUp,
}

/// Searches among the orders in which steps with a rank come in the order of their ranks.
pub fn search(
    steps: &[Step<'_>],
    revisions: &Revisions,
    ranks: &[Option<usize>],
    most_states: usize,
) -> Verdict {
    let mut search = Search::new(steps, revisions, ranks);
    let mut place = search.events.first();
    let mut is_new = true;
    while search.open_returns > 0 {
        // A step that fits here and changes nothing need not be tried anywhere else.
        let forced = is_new.then(|| search.events.forced(steps, search.state, revisions)).flatten();
        is_new = false;
        if let Some(step) = forced {
            place = search.events.call(step);
        }
        let here = search.events.at(place);
        match here {
            Some(Event { step, is_return: false, after, .. }) => {
                if search.place(step, forced.is_some()) {
                    if search.seen.len() > most_states {
                        return Verdict::GaveUp;
                    }
                    place = search.events.first();
                    is_new = true;
                } else {
                    place = if forced.is_some() { NOWHERE } else { after };
                }
            }
            // The return of an operation that is not placed yet, or no operation left to try: go back one step.
            _ => {
                search.keep_if_longest(here);
                match search.take_back() {
                    Some(next) => place = next,
                    None => return Verdict::Broken { ordered: search.longest, stuck: search.stuck },
                }
            }
        }
    }
    Verdict::Linearizable
}

/// The order that is being tried, and what was visited.
struct Search<'a> {
    steps: &'a [Step<'a>],
    revisions: &'a Revisions,
    ranks: &'a [Option<usize>],
    /// The events of the steps that are not placed.
    events: Events,
    /// The number of returns among them.
    open_returns: usize,
    order: Vec<Placed>,
    state: State,
    next_rank: usize,
    /// A hash of the set of placed steps: placing and removing one toggles the same bits.
    placed: u128,
    /// Hashes of the visited sets, each with the state after it.
    seen: BTreeSet<u128>,
    /// The longest order so far, and the step that did not fit after it.
    longest: Vec<usize>,
    stuck: usize,
}

/// A step in the order that is being tried.
struct Placed {
    step: usize,
    before: State,
    /// No other step is to be tried in its place.
    is_forced: bool,
}

impl<'a> Search<'a> {
    fn new(steps: &'a [Step<'a>], revisions: &'a Revisions, ranks: &'a [Option<usize>]) -> Search<'a> {
        Search {
            steps,
            revisions,
            ranks,
            events: Events::new(steps),
            open_returns: steps.iter().filter(|step| step.returned.is_some()).count(),
            order: Vec::new(),
            state: None,
            next_rank: 0,
            placed: 0,
            seen: BTreeSet::new(),
            longest: Vec::new(),
            stuck: NOWHERE,
        }
    }

    /// Appends a step to the order. Returns `false` if its answer or its rank does not fit, or if the same set of steps
    /// was visited with the same state.
    fn place(&mut self, step: usize, is_forced: bool) -> bool {
        let Some(next) = self.state_after(step) else { return false };
        let placed = self.placed ^ hash_of_step(step);
        if !self.seen.insert(placed ^ hash_of_state(next)) {
            return false;
        }
        self.placed = placed;
        self.order.push(Placed { step, before: self.state, is_forced });
        self.state = next;
        self.next_rank += usize::from(self.ranks[step].is_some());
        self.events.lift(step);
        self.open_returns -= usize::from(self.steps[step].returned.is_some());
        true
    }

    /// The state after a step that may come next. `None`: it may not.
    fn state_after(&self, step: usize) -> Option<State> {
        let next = self.steps[step].effect.apply(self.state, self.revisions)?;
        // An unknown operation that changes nothing need not be placed anywhere.
        let is_of_use = self.steps[step].returned.is_some() || next != self.state;
        let is_its_turn = self.ranks[step].is_none_or(|rank| rank == self.next_rank);
        (is_of_use && is_its_turn).then_some(next)
    }

    /// Keeps the order for the evidence, if none before was longer. `here`: the event after which it cannot go on.
    fn keep_if_longest(&mut self, here: Option<Event>) {
        if self.order.len() >= self.longest.len() {
            self.longest = self.order.iter().map(|placed| placed.step).collect();
            self.stuck = here.map_or(NOWHERE, |event| event.step);
        }
    }

    /// Removes the last step from the order. Returns the place of the next event to try; `None`: the order was empty.
    fn take_back(&mut self) -> Option<usize> {
        let Placed { step, before, is_forced } = self.order.pop()?;
        self.state = before;
        self.next_rank -= usize::from(self.ranks[step].is_some());
        self.placed ^= hash_of_step(step);
        self.events.put_back(step);
        self.open_returns += usize::from(self.steps[step].returned.is_some());
        Some(if is_forced { NOWHERE } else { self.events.after_call(step) })
    }
}

fn hash_of_step(step: usize) -> u128 {
    xxh3_128(&(step as u64).to_be_bytes())
}

fn hash_of_state(state: State) -> u128 {
    let Some(Held { value, told }) = state else { return 0 };
    xxh3_128(&((u128::from(value) << 64) | u128::from(told)).to_be_bytes())
}
