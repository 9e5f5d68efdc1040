//! Randomness. In simulation every draw comes from the seed, in a fixed order, and is part of the trace.

use std::convert::Infallible;

/// A generator for one use: cheap to make, not to be kept across awaits.
pub fn rng() -> Rng {
    Rng::new()
}

/// One random number.
pub fn random_u64() -> u64 {
    rand::Rng::next_u64(&mut rng())
}

/// A random number that is not zero.
pub fn random_nonzero_u64() -> u64 {
    loop {
        match random_u64() {
            0 => continue,
            number => return number,
        }
    }
}

/// A number in `0..bound`.
///
/// # Panics
/// If `bound` is zero.
pub fn below(bound: u64) -> u64 {
    assert!(bound > 0, "an empty range has no random number");
    random_u64() % bound
}

#[cfg(not(madsim))]
mod world {
    pub(super) type Source = rand::rngs::ThreadRng;

    #[allow(clippy::disallowed_methods)] // The one place that uses the operating system's randomness.
    pub(super) fn source() -> Source {
        rand::rng()
    }

    pub(super) fn next_u64(source: &mut Source) -> u64 {
        rand::Rng::next_u64(source)
    }
}

#[cfg(madsim)]
mod world {
    pub(super) type Source = madsim::rand::GlobalRng;

    pub(super) fn source() -> Source {
        madsim::rand::thread_rng()
    }

    pub(super) fn next_u64(source: &mut Source) -> u64 {
        let draw = madsim::rand::RngCore::next_u64(source);
        crate::rt::trace::record("draw", &draw.to_le_bytes());
        draw
    }
}

/// See [`rng`]. Implements rand's traits.
pub struct Rng(world::Source);

impl Rng {
    fn new() -> Self {
        Rng(world::source())
    }
}

impl rand::TryRng for Rng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(world::next_u64(&mut self.0) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(world::next_u64(&mut self.0))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let draw = world::next_u64(&mut self.0).to_le_bytes();
            chunk.copy_from_slice(&draw[..chunk.len()]);
        }
        Ok(())
    }
}
