//! Chooses the key of a request.

use clap::ValueEnum;
use rand::distr::Distribution as _;
use rand_distr::Zipf;

use crate::cli::failure::Failure;
use crate::rt::random;

const PREFIX: &str = "bench/";
/// The exponent of the Zipf distribution; the same as in YCSB.
const ZIPF_EXPONENT: f64 = 0.99;

/// Which keys are asked for how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Distribution {
    /// Each as often as any other
    Uniform,
    /// A few of them most of the time (Zipf's law with exponent 0.99, as YCSB has it)
    Zipf,
    #[value(skip)]
    Sequential,
}

/// A key space and the order of access to it.
#[derive(Debug, Clone)]
pub struct Keys {
    count: u64,
    digits: usize,
    choice: Choice,
}

#[derive(Debug, Clone)]
enum Choice {
    Uniform,
    Zipf(Zipf<f64>),
    Sequential,
}

impl Keys {
    /// A space of `count` keys of `bytes` bytes each.
    ///
    /// # Errors
    /// If `bytes` are too few for `count` different keys.
    pub fn new(count: u64, bytes: usize, distribution: Distribution) -> Result<Keys, Failure> {
        let digits = bytes.saturating_sub(PREFIX.len());
        let needed = (count - 1).to_string().len();
        if needed > digits {
            return Err(Failure::usage(
                format!(
                    "{count} different keys do not fit into {bytes} bytes, of which '{PREFIX}' takes {}",
                    PREFIX.len()
                ),
                format!("give --key-size {} or more, or a smaller --key-space-size", PREFIX.len() + needed),
            ));
        }
        let choice = match distribution {
            Distribution::Uniform => Choice::Uniform,
            Distribution::Sequential => Choice::Sequential,
            Distribution::Zipf => {
                Choice::Zipf(Zipf::new(count as f64, ZIPF_EXPONENT).expect("there is at least one key"))
            }
        };
        Ok(Keys { count, digits, choice })
    }

    /// Returns the key of the request with this number.
    pub fn key(&self, request: u64) -> String {
        let number = match &self.choice {
            Choice::Uniform => random::below(self.count),
            Choice::Sequential => request % self.count,
            // Ranks start at 1. The hot keys are adjacent, as after sequential inserts.
            Choice::Zipf(zipf) => (zipf.sample(&mut random::rng()) as u64 - 1).min(self.count - 1),
        };
        format!("{PREFIX}{number:0width$}", width = self.digits)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn drawn(distribution: Distribution) -> BTreeMap<String, u64> {
        let keys = Keys::new(100, 16, distribution).unwrap();
        let mut drawn = BTreeMap::new();
        for request in 0..10_000 {
            let key = keys.key(request);
            assert_eq!(key.len(), 16);
            *drawn.entry(key).or_default() += 1;
        }
        drawn
    }

    #[test]
    fn each_distribution_is_what_it_is_called() {
        assert!(drawn(Distribution::Sequential).values().all(|count| *count == 100));
        let uniform = drawn(Distribution::Uniform);
        assert!(uniform.len() == 100 && uniform.values().all(|count| (20..500).contains(count)));
        let zipf = drawn(Distribution::Zipf);
        let (first, last) = (zipf["bench/0000000000"], zipf.get("bench/0000000099").copied().unwrap_or(0));
        assert!(first > 1_000 && last < 200, "the first {first} times, the last {last} times");
        assert!(zipf.len() <= 100);
    }

    #[test]
    fn keys_that_do_not_fit_are_refused() {
        assert!(Keys::new(100, 8, Distribution::Uniform).is_ok());
        let refused = Keys::new(101, 8, Distribution::Uniform).unwrap_err();
        assert!(refused.to_string().contains("--key-size 9"), "{refused}");
    }
}
