//! openraft's invariants, checked once after every change instead of at every look.
//!
//! openraft keeps its state in [`Valid`], which checks the state's invariants whenever it is looked at, as long as
//! debug assertions are on, and keeps parts of that state in further [`Valid`]s, so that one look at the outermost
//! checks the innermost dozens of times: half of all instructions of a simulated run. This crate has the name and the
//! interface of the crate that openraft asks for, as far as openraft uses it, and is put in its place by the
//! workspace. A value can change only through [`DerefMut`], so one check at the first look after a mutable one finds
//! exactly what a check at every look would find, at the same place. Without debug assertions neither checks anything.

use std::error::Error;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// Something with invariants.
pub trait Validate {
    /// Checks them.
    ///
    /// # Errors
    /// In words, which does not hold.
    fn validate(&self) -> Result<(), Box<dyn Error>>;
}

/// A value whose invariants hold at every look at it, or the look panics.
pub struct Valid<T: Validate> {
    enabled: bool,
    /// It may have changed since it was last checked. Atomic only so that the wrapper is as `Sync` as the value.
    changed: AtomicBool,
    inner: T,
}

impl<T: Validate> Valid<T> {
    /// Wraps a value. It is checked at the first look, not here.
    pub fn new(inner: T) -> Valid<T> {
        Valid { enabled: true, changed: AtomicBool::new(true), inner }
    }

    /// Turns the checks on or off.
    pub fn enable_validation(&mut self, enabled: bool) {
        self.enabled = enabled;
        *self.changed.get_mut() = true;
    }

    /// The value itself, not checked.
    pub fn into_inner(self) -> T {
        self.inner
    }

    #[inline]
    fn check(&self) {
        if cfg!(debug_assertions) && self.enabled && self.changed.load(Ordering::Relaxed) {
            if let Err(error) = self.inner.validate() {
                panic!("invalid state: {error}");
            }
            // Only now: what is invalid stays so, and whoever looks again shall see it again.
            self.changed.store(false, Ordering::Relaxed);
        }
    }
}

impl<T: Validate> Deref for Valid<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.check();
        &self.inner
    }
}

impl<T: Validate> DerefMut for Valid<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.check();
        *self.changed.get_mut() = true;
        &mut self.inner
    }
}

impl<T: Validate + Clone> Clone for Valid<T> {
    fn clone(&self) -> Valid<T> {
        let inner = T::clone(self);
        Valid { enabled: self.enabled, changed: AtomicBool::new(true), inner }
    }
}

impl<T: Validate + Default> Default for Valid<T> {
    fn default() -> Valid<T> {
        Valid::new(T::default())
    }
}

impl<T: Validate + PartialEq> PartialEq for Valid<T> {
    fn eq(&self, other: &Valid<T>) -> bool {
        T::eq(self, other)
    }
}

impl<T: Validate + Eq> Eq for Valid<T> {}

impl<T: Validate + fmt::Debug> fmt::Debug for Valid<T> {
    /// Shows an invalid value too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<T: Validate + fmt::Display> fmt::Display for Valid<T> {
    /// Shows an invalid value too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Returns an error from the calling function unless the first is at most the second.
#[macro_export]
macro_rules! less_equal {
    ($smaller:expr, $larger:expr) => {{
        let (smaller, larger) = (&$smaller, &$larger);
        if !(smaller <= larger) {
            let words = format!(
                "expect: {}({smaller:?}) <= {}({larger:?})",
                stringify!($smaller),
                stringify!($larger)
            );
            return Err(words.into());
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[derive(Debug, Clone, Default, PartialEq)]
    struct AtMostFive {
        value: u64,
        checks: Cell<u32>,
    }

    impl Validate for AtMostFive {
        fn validate(&self) -> Result<(), Box<dyn Error>> {
            self.checks.set(self.checks.get() + 1);
            less_equal!(self.value, 5);
            Ok(())
        }
    }

    /// Holds another, as openraft's state does.
    struct Outer(Valid<AtMostFive>);

    impl Validate for Outer {
        fn validate(&self) -> Result<(), Box<dyn Error>> {
            less_equal!(self.0.value, 4);
            Ok(())
        }
    }

    fn fails(look: impl FnOnce()) -> bool {
        catch_unwind(AssertUnwindSafe(look)).is_err()
    }

    #[test]
    fn a_change_is_checked_at_the_next_look_and_only_there() {
        let mut valid = Valid::new(AtMostFive::default());
        for value in 1..=5 {
            valid.value = value;
            assert_eq!(
                (valid.value, valid.checks.get(), valid.checks.get()),
                (value, value as u32 + 1, value as u32 + 1)
            );
        }
    }

    #[test]
    fn what_is_invalid_fails_at_every_look_of_any_kind() {
        let mut valid = Valid::new(AtMostFive { value: 6, ..AtMostFive::default() });
        assert!(fails(|| drop(valid.clone())));
        assert!(fails(|| assert!(valid.value > 0)));
        assert!(fails(|| valid.value = 1), "a mutable look is a look");
        assert_eq!(format!("{valid:?}"), format!("{:?}", valid.inner));
        valid.enable_validation(false);
        valid.value = 3;
        valid.enable_validation(true);
        assert_eq!(valid.value, 3);
    }

    #[test]
    fn a_change_of_a_part_is_a_change_of_the_whole() {
        let mut outer = Valid::new(Outer(Valid::new(AtMostFive::default())));
        outer.0.value = 4;
        assert_eq!(outer.0.value, 4);
        outer.0.value = 5;
        assert!(fails(|| assert!(outer.0.value > 0)), "the part holds, the whole does not");
    }
}
