//! A small random generator that never changes: equal seeds give equal draws in every version of mökv.
//!
//! For simulation and tests only. Secrets, ids and timeouts of a node are drawn from `rt::random`.

/// The generator (splitmix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub struct SplitMix(u64);

impl SplitMix {
    /// A generator with this seed.
    pub fn new(seed: u64) -> SplitMix {
        SplitMix(seed)
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An independent generator, seeded by the next draw.
    pub fn split(&mut self) -> SplitMix {
        SplitMix(self.roll())
    }

    /// A number in `0..=most`.
    pub fn up_to(&mut self, most: u64) -> u64 {
        if most == u64::MAX { self.roll() } else { self.roll() % (most + 1) }
    }

    /// `true` with this probability; probability 0 costs no draw.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && ((self.roll() >> 11) as f64 / (1u64 << 53) as f64) < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_the_paper_and_chances_are_kept() {
        let mut dice = SplitMix::new(1_234_567);
        let first = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([dice.roll(), dice.roll(), dice.roll()], first);
        assert!(!dice.chance(0.0) && dice.chance(1.0));
        let hits = (0..10_000).filter(|_| dice.chance(0.25)).count();
        assert!((2_200..2_800).contains(&hits), "{hits}");
        assert!((0..100).all(|_| dice.up_to(3) <= 3));
    }
}
