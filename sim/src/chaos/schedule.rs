//! The faults of a run as data: which, when, how long, with which draws of their own. Pure.
//!
//! The whole schedule is drawn before anything runs, and each strike rolls dice of its own: leaving one out changes
//! nothing about the others. That is what lets a failure be shrunk.

use std::time::Duration;

use crate::dice::Dice;
use crate::world::{FaultKind, World};

/// A run in which less was answered says little: it goes on for a while.
pub const FEWEST_OPERATIONS: usize = 250;
/// How much longer it goes on at most.
pub const LONGER: Duration = Duration::from_secs(60);

/// One strike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Counts the strikes of a run from 1; the story names them by it.
    pub number: u32,
    /// When, since the faults began.
    pub after: Duration,
    /// What.
    pub kind: FaultKind,
    /// How long it lasts, if it lasts.
    pub length: Duration,
    /// Decides everything else about it, the victim above all.
    pub seed: u64,
}

/// The strikes of a world, those included that only a run that goes on for longer will see.
pub fn draw(world: &World, seed: u64) -> Vec<Planned> {
    let mut dice = Dice::new(seed, "faults");
    let mut schedule = Vec::new();
    let mut after = Duration::ZERO;
    if world.faults.is_empty() {
        return schedule;
    }
    for number in 1.. {
        after += dice.time(world.fault_pause.clone());
        if after >= world.faults_last + LONGER {
            break;
        }
        let kind = *dice.weighted(&world.faults);
        let length = dice.time(world.fault_length.clone());
        schedule.push(Planned { number, after, kind, length, seed: dice.roll() });
    }
    schedule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_drawn_once_and_for_the_longest_run() {
        for seed in 1..=50 {
            let world = World::draw(seed);
            let schedule = draw(&world, seed);
            assert_eq!(schedule, draw(&world, seed));
            let longest = world.faults_last + LONGER;
            let last = schedule.last().expect("every world has faults").after;
            assert!(last < longest && last + world.fault_pause.end >= longest, "{last:?} of {longest:?}");
            for (number, injection) in (1..).zip(&schedule) {
                assert_eq!(injection.number, number);
                assert!(world.faults.iter().any(|(kind, _)| *kind == injection.kind));
                assert!(world.fault_length.contains(&injection.length));
            }
            assert!(schedule.is_sorted_by_key(|injection| injection.after));
        }
    }

    #[test]
    fn a_calm_world_has_no_strikes() {
        assert!(draw(&World::calm(3), 1).is_empty());
    }
}
