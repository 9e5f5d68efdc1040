//! Runs both checkers on all histories, and compares.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use super::cases::{Case, cases};
use crate::checkers::{Class, linearizability};
use crate::evidence::history::Operation;
use crate::evidence::history_file;

/// A description of the check.
pub const ABOUT: &str = "the linearizability checker and porcupine agree on good and on broken histories";

/// Chaos seeds whose histories are recorded.
const RECORDED: std::ops::RangeInclusive<u64> = 1..=6;
/// Fewest histories of each verdict.
const FEWEST: usize = 50;

/// The result of the comparison.
pub enum Opinion {
    /// The checkers agree on all histories; with their numbers.
    Agrees(String),
    /// They do not, or one of them gave no verdict.
    Differs(String),
    /// Go is not installed.
    Missing(String),
}

/// Plays a chaos seed and returns the history of its clients. Its files belong into the folder.
pub type Recorder = fn(u64, &Path) -> Result<Vec<Operation>, String>;

/// Compares the two checkers.
pub fn check(record: Recorder) -> Opinion {
    if !has_go() {
        let words = "there is no Go here to build porcupine with; install Go 1.18 or later".to_owned();
        let must = std::env::var("CI").is_ok_and(|ci| ci == "true");
        return if must { Opinion::Differs(words) } else { Opinion::Missing(words) };
    }
    let folder = std::env::temp_dir().join(format!("mokv-second-opinion-{}", std::process::id()));
    let opinion = compare(&folder, record);
    let _ = std::fs::remove_dir_all(&folder);
    opinion.map_or_else(Opinion::Differs, Opinion::Agrees)
}

fn has_go() -> bool {
    let version = Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

fn compare(folder: &Path, record: Recorder) -> Result<String, String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let recorded =
        RECORDED.map(|seed| Ok((seed, record(seed, folder)?))).collect::<Result<Vec<_>, String>>()?;
    let cases = cases(&recorded);
    for Case { name, operations } in &cases {
        let path = folder.join(name).with_extension("jsonl");
        let written = std::fs::write(&path, history_file::write(operations));
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    let theirs = porcupine(folder)?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for Case { name, operations } in &cases {
        let findings = linearizability::check(operations);
        let ours = match findings.as_slice() {
            [] => "ok",
            findings if findings.iter().any(|finding| finding.class == Class::Safety) => "broken",
            undecided => return Err(format!("{name}: {}", undecided[0])),
        };
        let theirs = theirs.get(name).ok_or_else(|| format!("porcupine says nothing of {name}"))?;
        if theirs != ours {
            let said = findings.first().map_or_else(String::new, |finding| format!("\n{finding}"));
            return Err(format!("{name}: we say {ours}, porcupine says {theirs}{said}"));
        }
        *counts.entry(ours).or_default() += 1;
    }
    let count = |verdict| counts.get(verdict).copied().unwrap_or(0);
    let words = format!("{} histories, {} good, {} broken", cases.len(), count("ok"), count("broken"));
    if count("ok").min(count("broken")) < FEWEST {
        Err(format!("{words}: too few of a kind"))
    } else {
        Ok(words)
    }
}

/// Porcupine's verdict on every history in a folder, by name.
fn porcupine(folder: &Path) -> Result<BTreeMap<String, String>, String> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("porcupine");
    let output = Command::new("go").args(["run", "."]).arg(folder).current_dir(module).output();
    let output = output.map_err(|error| format!("go cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("go run: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let verdict = |line: &str| line.split_once(' ').map(|(name, word)| (name.to_owned(), word.to_owned()));
    Ok(lines.lines().filter_map(verdict).collect())
}
