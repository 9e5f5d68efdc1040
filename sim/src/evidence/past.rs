//! The past of the store, as the applied log says.

use std::collections::BTreeMap;

use super::applied_log::AppliedLog;
use super::history::KeyState;

/// The state of every key at every revision.
pub struct Past(BTreeMap<String, Vec<(u64, Option<KeyState>)>>);

impl Past {
    /// What the log says.
    pub fn of(applied_log: &AppliedLog) -> Past {
        let mut past: BTreeMap<String, Vec<(u64, Option<KeyState>)>> = BTreeMap::new();
        for (_, change) in applied_log.changes() {
            past.entry(change.key.clone()).or_default().push((change.revision, change.new));
        }
        Past(past)
    }

    fn at(steps: &[(u64, Option<KeyState>)], revision: u64) -> Option<KeyState> {
        let after = steps.partition_point(|(made, _)| *made <= revision);
        after.checked_sub(1).and_then(|index| steps[index].1)
    }

    /// A key at a revision.
    pub fn key(&self, key: &str, revision: u64) -> Option<KeyState> {
        self.0.get(key).and_then(|steps| Past::at(steps, revision))
    }

    /// The keys with a prefix at a revision, in byte order.
    pub fn prefix(&self, prefix: &str, revision: u64) -> Vec<(String, KeyState)> {
        self.0
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, steps)| Some((key.clone(), Past::at(steps, revision)?)))
            .collect()
    }
}
