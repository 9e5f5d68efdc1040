//! Faults of clocks. The product never reads the wall clock, so only the monotonic clock is faulty.

use std::time::Duration;

use super::injection::Injection;

/// A clock runs much faster or slower for a while.
pub async fn odd_clock(injection: &mut Injection) {
    let victim = injection.leader_or_other();
    let rate = *injection.dice.one_of(&[250, 500, 800, 1_250, 2_000, 4_000]);
    injection.count(&format!("{victim}'s runs at {rate} thousandths of time"));
    injection.cluster.set_clock_rate(&victim, Some(rate));
    injection.last().await;
    injection.cluster.set_clock_rate(&victim, None);
}

/// A clock leaps ahead.
pub fn leap(injection: &mut Injection) {
    let victim = injection.leader_or_other();
    let by = injection.dice.time(Duration::from_millis(100)..Duration::from_secs(60));
    injection.count(&format!("{victim}'s by {by:?}"));
    injection.cluster.leap_clock(&victim, by);
}
