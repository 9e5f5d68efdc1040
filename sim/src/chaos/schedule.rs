//! The faults of a run as data: kind, time, length and a seed of its own for each. Pure.
//!
//! The whole schedule is drawn before anything runs, and each injection has random numbers of its own: leaving one out
//! changes nothing about the others. That makes it possible to shrink a failure.

use std::time::Duration;

use crate::world::dice::Dice;
use crate::world::{FaultKind, World};

/// A run with fewer answered operations proves little: it goes on for a while.
pub const FEWEST_OPERATIONS: usize = 250;
/// Longest extension of such a run.
pub const LONGER: Duration = Duration::from_secs(60);

/// One injection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Counts the injections of a run from 1; the timeline names them by it.
    pub number: u32,
    /// Time since the faults began.
    pub after: Duration,
    /// The kind of fault.
    pub kind: FaultKind,
    /// How long it lasts, if its kind has a duration.
    pub length: Duration,
    /// Seed of its other random choices, the victim above all.
    pub seed: u64,
}

/// The injections of a world, including those that only an extended run reaches.
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
