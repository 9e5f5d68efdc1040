//! Compaction: the leader raises the floor of the history after the replicated settings, and keeps the removal of versions
//! going when clients send no entries.
//!
//! Age is measured by this leader's clock from its election on: revisions that were there before count as made then.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::map::{Command, Map};
use crate::raft::Consensus;
use crate::replicated_settings::Settings;
use crate::rt::time::Seldom;
use crate::rt::{self, Instant};

/// The interval at which the leader looks at the history while there is nothing to do.
const INTERVAL: Duration = Duration::from_millis(100);
/// The pause between two entries, so that they take a small part of the time in which entries are applied.
const PAUSE: Duration = Duration::from_millis(5);
/// Age is measured in steps of its bound divided by this.
const STEPS: u32 = 32;
/// A history that is above its bound is brought below this share of it, so that it stays below for a while.
const LEFT_OF_EIGHT: u64 = 7;

/// Compacts the history whenever this node leads. Never returns.
pub async fn compact_for_ever(consensus: Consensus) {
    let mut ages = Ages::default();
    let failing = Seldom::default();
    loop {
        let Some(term) = consensus.term_led() else {
            ages = Ages::default();
            rt::sleep(INTERVAL).await;
            continue;
        };
        let is_full = consensus.full_voter().is_some();
        let due = due(&consensus.store().read().map, &mut ages, is_full, rt::now());
        let Some(command) = due else {
            rt::sleep(INTERVAL).await;
            continue;
        };
        let deadline = rt::now() + consensus.request_timeout();
        match consensus.propose_in(term, &command, deadline).await {
            Ok(_) => rt::sleep(PAUSE).await,
            Err(error) => {
                if let Some(more) = failing.now() {
                    tracing::debug!(more, "the history is not compacted yet: {error}");
                }
                rt::sleep(INTERVAL).await;
            }
        }
    }
}

/// Returns the entry that is due, if any. `is_full`: a voter's disk is nearly full.
fn due(map: &Map, ages: &mut Ages, is_full: bool, now: Instant) -> Option<Command> {
    let Settings { history_max_age, history_max_bytes, history_min_revisions, .. } = map.settings();
    let revision = map.revision();
    ages.note(revision, history_max_age, now);
    // Snapshots hold the history, and are what frees a disk.
    if is_full && revision > map.floor() && map.history_size() > 0 {
        rt::sometimes("history given up for a full disk");
        return Some(Command::Compact { revision });
    }
    let kept = revision.saturating_sub(history_min_revisions);
    let compact = |revision: u64| {
        let revision = revision.min(kept);
        (revision > map.floor()).then_some(Command::Compact { revision })
    };
    if let Some(compact) = ages.outlived(history_max_age, now).and_then(compact) {
        rt::sometimes("history compacted by its age");
        return Some(compact);
    }
    if map.has_removable() {
        return Some(Command::Prune);
    }
    let most = history_max_bytes.map_or(u64::MAX, NonZeroU64::get);
    if map.history_size() <= most {
        return None;
    }
    let compact = compact(map.floor_for(most / 8 * LEFT_OF_EIGHT))?;
    rt::sometimes("history compacted by its size");
    Some(compact)
}

/// When the store had reached which revision, in ascending order of both.
#[derive(Debug, Default)]
struct Ages(VecDeque<(Instant, u64)>);

impl Ages {
    /// Notes the present revision, unless it is there or another one was noted a moment ago.
    fn note(&mut self, revision: u64, max_age: Option<Duration>, now: Instant) {
        let Some(max_age) = max_age else { return self.0.clear() };
        let step = max_age / STEPS;
        let is_new =
            |(at, noted): &(Instant, u64)| *noted < revision && now.saturating_duration_since(*at) >= step;
        if self.0.back().is_none_or(is_new) {
            self.0.push_back((now, revision));
        }
    }

    /// Returns the newest revision that was there so long ago, and forgets earlier ones.
    fn outlived(&mut self, max_age: Option<Duration>, now: Instant) -> Option<u64> {
        let max_age = max_age?;
        let is_old = |at: Instant| now.saturating_duration_since(at) >= max_age;
        while self.0.get(1).is_some_and(|(at, _)| is_old(*at)) {
            self.0.pop_front();
        }
        self.0.front().filter(|(at, _)| is_old(*at)).map(|(_, revision)| *revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicated_settings::SettingsChange;
    use mokv_proto::log;

    struct Leader {
        map: Map,
        index: u64,
        ages: Ages,
        now: Instant,
    }

    impl Leader {
        fn of(settings: SettingsChange) -> Leader {
            let mut leader = Leader { map: Map::new(), index: 0, ages: Ages::default(), now: rt::now() };
            leader.apply(&Command::Configure(settings.history_min_revisions(0)));
            leader
        }

        fn apply(&mut self, command: &Command) {
            self.index += 1;
            self.map.apply(self.index, command);
        }

        fn write(&mut self, times: usize) {
            let set = log::Set { key: "k".into(), value: vec![0; 100].into(), ..Default::default() };
            (0..times).for_each(|_| self.apply(&Command::Set(set.clone())));
        }

        /// Applies what is due until nothing is; returns it.
        fn compact(&mut self) -> Vec<Command> {
            let mut commands = Vec::new();
            while let Some(command) = due(&self.map, &mut self.ages, false, self.now) {
                self.apply(&command);
                commands.push(command);
            }
            commands
        }

        fn floor_after(&mut self, seconds: u64) -> u64 {
            self.now += Duration::from_secs(seconds);
            self.compact();
            self.map.floor()
        }
    }

    fn age(seconds: u64) -> SettingsChange {
        SettingsChange::none().history_max_age(Duration::from_secs(seconds)).history_max_bytes(None)
    }

    #[test]
    fn a_revision_that_was_there_for_so_long_is_the_floor() {
        let mut leader = Leader::of(age(320));
        leader.write(9); // Revisions 2 to 10.
        assert_eq!(leader.floor_after(0), 1);
        leader.write(10);
        assert_eq!(leader.floor_after(100), 1, "what was there before counts as made now");
        assert_eq!(leader.floor_after(219), 1);
        assert_eq!(leader.floor_after(1), 10);
        assert_eq!(leader.floor_after(99), 10);
        assert_eq!(leader.floor_after(10), 20);
        leader.floor_after(1_000);
        assert_eq!(leader.ages.0.len(), 1, "an idle store has one revision");
    }

    #[test]
    fn the_newest_revisions_are_kept_however_old() {
        let mut leader = Leader::of(age(10));
        leader.apply(&Command::Configure(SettingsChange::none().history_min_revisions(7)));
        leader.write(9);
        leader.floor_after(0);
        assert_eq!(leader.floor_after(1_000), 3);
        leader.write(1);
        assert_eq!(leader.floor_after(1_000), 4);
    }

    #[test]
    fn no_more_is_noted_than_the_steps_of_the_age() {
        let mut leader = Leader::of(age(320));
        for _ in 0..10_000 {
            leader.write(1);
            leader.now += Duration::from_millis(100);
            leader.compact();
        }
        assert!((30..=34).contains(&leader.ages.0.len()), "{}", leader.ages.0.len());
        let behind = leader.map.revision() - leader.map.floor();
        assert!((3_200..3_400).contains(&behind), "320 seconds and a step: {behind}");
        leader.apply(&Command::Configure(SettingsChange::none().history_max_age(None)));
        leader.compact();
        assert!(leader.ages.0.is_empty());
    }

    #[test]
    fn a_history_above_its_bytes_is_brought_below_them() {
        let bound = NonZeroU64::new(100_000);
        let mut leader = Leader::of(SettingsChange::none().history_max_age(None).history_max_bytes(bound));
        leader.write(500);
        assert_eq!(leader.compact(), [], "it is below");
        leader.write(5_000);
        assert!(leader.map.history_size() > 900_000);
        let commands = leader.compact();
        assert!(commands.len() < 20 && commands.contains(&Command::Prune), "{commands:?}");
        assert!((80_000..=100_000).contains(&leader.map.history_size()), "{}", leader.map.history_size());
        // It stays below for a while.
        leader.write(10);
        assert_eq!(leader.compact(), []);
    }

    #[test]
    fn removal_goes_on_when_clients_send_nothing() {
        let mut leader = Leader::of(age(1));
        leader.write(5_000);
        leader.apply(&Command::Compact { revision: 5_001 });
        assert!(leader.map.has_removable());
        assert_eq!(leader.compact(), vec![Command::Prune; 5]);
        assert_eq!(leader.map.versions(), 1);
    }

    #[test]
    fn a_full_disk_takes_all_of_the_history_once() {
        let mut leader = Leader::of(age(1_000));
        leader.apply(&Command::Configure(SettingsChange::none().history_min_revisions(100)));
        leader.write(9);
        let full = |leader: &mut Leader| due(&leader.map, &mut leader.ages, true, leader.now);
        assert_eq!(full(&mut leader), Some(Command::Compact { revision: 10 }));
        leader.apply(&Command::Compact { revision: 10 });
        assert_eq!(full(&mut leader), None);
    }
}
