//! Random numbers for the harness itself: worlds, schedules, workloads.
//!
//! It has its own generator, so that what the harness draws never shifts what the nodes draw: one more key in a
//! workload leaves elections as they were.

use std::ops::Range;
use std::time::Duration;

/// The product's own file, so that there is one generator; the launcher is built without the product.
#[path = "../../../src/rt/splitmix.rs"]
pub mod splitmix;

use splitmix::SplitMix;

/// Draws for one purpose of one seed. Equal seeds give equal draws, for ever.
#[derive(Debug, Clone)]
pub struct Dice(SplitMix);

impl Dice {
    /// A generator for one purpose of one seed.
    pub fn new(seed: u64, purpose: &str) -> Dice {
        let purpose = purpose.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        // Neighbouring seeds must not give similar runs.
        Dice(SplitMix::new(seed ^ purpose).split())
    }

    /// Any number, all equally likely.
    pub fn roll(&mut self) -> u64 {
        self.0.roll()
    }

    /// A number in the range.
    ///
    /// # Panics
    /// If the range is empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end, "an empty range has no random number");
        range.start + self.roll() % (range.end - range.start)
    }

    /// A time in the range.
    pub fn time(&mut self, range: Range<Duration>) -> Duration {
        Duration::from_nanos(self.within(range.start.as_nanos() as u64..range.end.as_nanos() as u64))
    }

    /// Returns `true` with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.chance(probability)
    }

    /// One of the choices, all equally likely.
    ///
    /// # Panics
    /// If `choices` is empty.
    pub fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.within(0..choices.len() as u64) as usize]
    }

    /// One of the choices, with a probability proportional to its weight.
    ///
    /// # Panics
    /// If all weights are zero.
    pub fn weighted<'a, T>(&mut self, choices: &'a [(T, u32)]) -> &'a T {
        let total: u64 = choices.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = self.within(0..total);
        for (choice, weight) in choices {
            match left.checked_sub(u64::from(*weight)) {
                Some(rest) => left = rest,
                None => return choice,
            }
        }
        unreachable!("the draw lies below the sum of the weights")
    }

    /// Puts the items in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.within(0..last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purpose_has_a_life_of_its_own() {
        let draws = |seed, purpose| {
            let mut dice = Dice::new(seed, purpose);
            [dice.roll(), dice.roll()]
        };
        assert_eq!(draws(1, "faults"), draws(1, "faults"));
        assert_ne!(draws(1, "faults"), draws(1, "clients"));
        assert_ne!(draws(1, "faults"), draws(2, "faults"));
    }

    #[test]
    fn weights_are_kept_and_zero_is_never_drawn() {
        let mut dice = Dice::new(7, "test");
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            counts[*dice.weighted(&[(0, 1), (1, 0), (2, 3)])] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((2_000..3_000).contains(&counts[0]), "{counts:?}");
    }
}
