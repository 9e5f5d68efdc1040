//! What hunts have found, one JSON object a line: appended at once, read again when a hunt is taken up.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What came of a bug in one range of seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hunted {
    /// Which bug.
    pub bug: String,
    /// The first seed of the range.
    pub first_seed: u64,
    /// Seeds played, without a gap, the one that caught it included.
    pub seeds: u64,
    /// Real time that took.
    pub wall_seconds: f64,
    /// `None`: not caught so far.
    pub caught: Option<Catch>,
}

/// How a bug showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catch {
    /// With which seed.
    pub seed: u64,
    /// Whose finding it was.
    pub judge: String,
    /// In words.
    pub words: String,
}

/// The file.
pub struct Record {
    path: PathBuf,
    hunted: BTreeMap<(String, u64), Hunted>,
}

impl Record {
    /// Reads what is there; a file that is not there is empty.
    ///
    /// # Errors
    /// If it cannot be read or holds something else.
    pub fn open(path: &Path) -> io::Result<Record> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let mut hunted = BTreeMap::new();
        for line in text.lines() {
            let line: Hunted = serde_json::from_str(line)?;
            // The last line about a range says all that is known of it.
            hunted.insert((line.bug.clone(), line.first_seed), line);
        }
        Ok(Record { path: path.to_owned(), hunted })
    }

    /// What is known of a bug in the range that begins at a seed.
    pub fn of(&self, bug: &str, first_seed: u64) -> Option<&Hunted> {
        self.hunted.get(&(bug.to_owned(), first_seed))
    }

    /// Keeps a result.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add(&mut self, hunted: Hunted) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut line = serde_json::to_string(&hunted)?;
        line.push('\n');
        OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(line.as_bytes())?;
        self.hunted.insert((hunted.bug.clone(), hunted.first_seed), hunted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hunt_is_taken_up_where_it_was_left() {
        let path = std::env::temp_dir().join(format!("mokv-hunt-{}.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut record = Record::open(&path).unwrap();
        assert_eq!(record.of("a", 1), None);
        let tried = Hunted { bug: "a".into(), first_seed: 1, seeds: 40, wall_seconds: 2.0, caught: None };
        record.add(tried.clone()).unwrap();
        let catch = Catch { seed: 43, judge: "durability".into(), words: "gone".into() };
        let caught = Hunted { seeds: 43, caught: Some(catch), ..tried.clone() };
        record.add(Hunted { bug: "b".into(), ..tried.clone() }).unwrap();
        record.add(caught.clone()).unwrap();
        let again = Record::open(&path).unwrap();
        assert_eq!(again.of("a", 1), Some(&caught));
        assert_eq!(again.of("b", 1).unwrap().caught, None);
        assert_eq!(again.of("a", 2), None);
        std::fs::remove_file(&path).unwrap();
    }
}
