//! Results that outlive a command, as JSON lines, so that it can be interrupted at any moment and resumed.
//!
//! A journal belongs to one build of the program: results of another build do not apply to this one, so the file has
//! the hash of the program in its name. A line that a crash cut short is ignored.

#![allow(clippy::disallowed_types)] // The parent keeps it, which simulates nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

/// A file of results, open at its end.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens `FOLDER/NAME.jsonl` and reads its lines, or empties it if `fresh`.
    ///
    /// # Errors
    /// As a message for the user.
    pub fn open<T: DeserializeOwned>(
        folder: &Path,
        name: &str,
        fresh: bool,
    ) -> Result<(Journal, Vec<T>), String> {
        let path = folder.join(format!("{name}.jsonl"));
        let opened = fs::create_dir_all(folder)
            .and_then(|()| if fresh { remove(&path) } else { Ok(()) })
            .and_then(|()| OpenOptions::new().create(true).append(true).open(&path));
        let text = opened.and_then(|file| Ok((file, fs::read_to_string(&path)?)));
        let (file, text) = text.map_err(|error| cannot(&path, &error))?;
        let mut journal = Journal { path, file };
        if !text.is_empty() && !text.ends_with('\n') {
            // Ends the line that a crash cut short.
            journal.write("\n")?;
        }
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok((journal, lines))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// As a message for the user.
    pub fn add(&mut self, line: &impl Serialize) -> Result<(), String> {
        self.write(&format!("{}\n", serde_json::to_string(line).expect("results are plain data")))
    }

    /// The path of its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, text: &str) -> Result<(), String> {
        self.file.write_all(text.as_bytes()).map_err(|error| cannot(&self.path, &error))
    }
}

/// An identifier of this build of the program.
///
/// # Errors
/// As a message for the user.
pub fn build() -> Result<String, String> {
    let program = std::env::current_exe().and_then(fs::read);
    let program = program.map_err(|error| format!("cannot read this program: {error}"))?;
    Ok(format!("{:016x}", xxh3_64(&program)))
}

/// Removes a file, if it exists.
///
/// # Errors
/// The operating system's.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn cannot(path: &Path, error: &io::Error) -> String {
    format!("cannot keep results in {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_goes_on_where_it_was_broken_off_and_loses_only_the_line_that_was_cut_short() {
        let folder = std::env::temp_dir().join(format!("mokv-journal-{}", std::process::id()));
        let open = |fresh| Journal::open::<(u64, String)>(&folder, "test", fresh).unwrap();
        let line = |number: u64| (number, "words".to_owned());
        let (mut journal, known) = open(true);
        assert_eq!(known, []);
        journal.add(&line(1)).unwrap();
        journal.add(&line(2)).unwrap();
        assert_eq!(open(false).1, [line(1), line(2)]);
        let whole = fs::read_to_string(journal.path()).unwrap();
        fs::write(journal.path(), &whole[..whole.len() - 3]).unwrap();
        let (mut journal, known) = open(false);
        assert_eq!(known, [line(1)]);
        journal.add(&line(3)).unwrap();
        assert_eq!(open(false).1, [line(1), line(3)]);
        assert_eq!(open(true).1, []);
        fs::remove_dir_all(&folder).unwrap();
    }
}
