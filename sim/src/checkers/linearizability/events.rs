//! Calls and returns of steps in order of time.

use super::step::{Revisions, State, Step};
use crate::evidence::history::Nanos;

/// An index in the list of events: 0 is the list's head.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub step: usize,
    pub is_return: bool,
    before: usize,
    pub after: usize,
}

/// Calls and returns in order of time, as a doubly linked list from which operations can be removed and put back.
pub struct Events {
    list: Vec<Event>,
    call_of: Vec<usize>,
    return_of: Vec<Option<usize>>,
}

/// The place after the last event.
pub const NOWHERE: usize = usize::MAX;

impl Events {
    pub fn new(steps: &[Step<'_>]) -> Events {
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

    /// The place of the first event.
    pub fn first(&self) -> usize {
        self.list[0].after
    }

    /// The event at a place; `None`: the place is after the last one.
    pub fn at(&self, place: usize) -> Option<Event> {
        (place != NOWHERE).then(|| self.list[place])
    }

    /// The place of the call of a step.
    pub fn call(&self, step: usize) -> usize {
        self.call_of[step]
    }

    /// The place after the call of a step.
    pub fn after_call(&self, step: usize) -> usize {
        self.list[self.call_of[step]].after
    }

    /// A step that may come next and whose answer fits without changing the state.
    pub fn forced(&self, steps: &[Step<'_>], state: State, revisions: &Revisions) -> Option<usize> {
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

    /// Removes the call and the return of a step.
    pub fn lift(&mut self, step: usize) {
        self.unlink(self.call_of[step]);
        if let Some(place) = self.return_of[step] {
            self.unlink(place);
        }
    }

    /// Puts the call and the return of a step back, the last removed first.
    pub fn put_back(&mut self, step: usize) {
        if let Some(place) = self.return_of[step] {
            self.relink(place);
        }
        self.relink(self.call_of[step]);
    }
}
