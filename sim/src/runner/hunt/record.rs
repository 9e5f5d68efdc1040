//! The results of hunts: written at once, and read again when a hunt is resumed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::runner::journal::Journal;

/// The result for a bug in one range of seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hunted {
    /// The name of the bug.
    pub bug: String,
    /// The first seed of the range.
    pub first_seed: u64,
    /// Seeds played, without a gap, including the one that caught it.
    pub seeds: u64,
    /// Real time that this took.
    pub wall_seconds: f64,
    /// `None`: not caught so far.
    pub caught: Option<Catch>,
}

/// How a bug was caught.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catch {
    /// The seed.
    pub seed: u64,
    /// The checker with the finding.
    pub checker: String,
    /// The finding, in words.
    pub words: String,
}

/// The journal and its contents.
pub struct Record {
    journal: Journal,
    hunted: BTreeMap<(String, u64), Hunted>,
}

impl Record {
    /// Opens the journal of a hunt and reads its results, or empties it if `fresh`.
    ///
    /// # Errors
    /// As a message for the user.
    pub fn open(folder: &Path, name: &str, fresh: bool) -> Result<Record, String> {
        let (journal, known) = Journal::open(folder, name, fresh)?;
        // The last line about a range is the complete result.
        let hunted =
            known.into_iter().map(|line: Hunted| ((line.bug.clone(), line.first_seed), line)).collect();
        Ok(Record { journal, hunted })
    }

    /// The result for a bug in the range that begins at a seed; `None`: there is none yet.
    pub fn of(&self, bug: &str, first_seed: u64) -> Option<&Hunted> {
        self.hunted.get(&(bug.to_owned(), first_seed))
    }

    /// Writes a result.
    ///
    /// # Errors
    /// As a message for the user.
    pub fn add(&mut self, hunted: Hunted) -> Result<(), String> {
        self.journal.add(&hunted)?;
        self.hunted.insert((hunted.bug.clone(), hunted.first_seed), hunted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hunt_is_taken_up_where_it_was_left() {
        let folder = std::env::temp_dir().join(format!("mokv-hunt-{}", std::process::id()));
        let mut record = Record::open(&folder, "test", true).unwrap();
        assert_eq!(record.of("a", 1), None);
        let tried = Hunted { bug: "a".into(), first_seed: 1, seeds: 40, wall_seconds: 2.0, caught: None };
        record.add(tried.clone()).unwrap();
        let catch = Catch { seed: 43, checker: "durability".into(), words: "gone".into() };
        let caught = Hunted { seeds: 43, caught: Some(catch), ..tried.clone() };
        record.add(Hunted { bug: "b".into(), ..tried.clone() }).unwrap();
        record.add(caught.clone()).unwrap();
        let again = Record::open(&folder, "test", false).unwrap();
        assert_eq!(again.of("a", 1), Some(&caught));
        assert_eq!(again.of("b", 1).unwrap().caught, None);
        assert_eq!(again.of("a", 2), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
