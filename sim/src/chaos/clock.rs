//! Faults of clocks. The product never reads the wall clock, so only the monotonic one has any.

use std::time::Duration;

use super::strike::Strike;

/// A clock runs much faster or slower for a while.
pub async fn odd_clock(strike: &mut Strike) {
    let victim = strike.leader_or_other();
    let rate = *strike.dice.one_of(&[250, 500, 800, 1_250, 2_000, 4_000]);
    strike.count(&format!("{victim}'s runs at {rate} thousandths of time"));
    strike.cluster.set_clock_rate(&victim, Some(rate));
    strike.last().await;
    strike.cluster.set_clock_rate(&victim, None);
}

/// A clock leaps ahead.
pub fn leap(strike: &mut Strike) {
    let victim = strike.leader_or_other();
    let by = strike.dice.time(Duration::from_millis(100)..Duration::from_secs(60));
    strike.count(&format!("{victim}'s by {by:?}"));
    strike.cluster.leap_clock(&victim, by);
}
