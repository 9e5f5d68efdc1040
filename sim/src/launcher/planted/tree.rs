//! The copy of the whole tree that the planted bugs are applied to: the product itself has no trace of them.
//!
//! The copy has a fixed path, and a file is written only if its content changes, so that its unchanged parts are not
//! compiled again. All patches are applied one after the other, so that one build has all bugs; `MOKV_PLANTED` switches
//! one of them on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use diffy::patch_set::{FileOperation, ParseOptions, PatchSet};

use super::FOLDER;
use super::bug::{Bug, read_all};

/// The parts of the tree that are not copied: built files, history.
const LEFT_OUT: [&str; 3] = ["target", ".git", "mokv-data"];
/// The switch that bugs depend on; a module of the product in the copy.
const SWITCH: &str = include_str!("../../../planted/switch.rs");
const SWITCH_AT: &str = "src/planted.rs";
const ROOMS: &str = "src/lib.rs";

/// Updates the copy of the tree around `sim`, the simulation's folder. Returns the simulation's folder in the copy.
///
/// # Errors
/// A message for the user, if a bug no longer applies, or a file cannot be read or written.
pub fn prepare(sim: &Path, copy: &Path) -> Result<PathBuf, String> {
    let root = sim.parent().ok_or_else(|| format!("{} has no parent", sim.display()))?;
    let mut files = BTreeMap::new();
    collect(root, Path::new(""), &mut files)?;
    plant(&mut files, &read_all(&sim.join(FOLDER))?)?;
    let wanted: BTreeSet<PathBuf> = files.keys().cloned().collect();
    for (name, content) in files {
        let path = copy.join(&name);
        if fs::read(&path).is_ok_and(|present| present == content) {
            continue;
        }
        let folder = path.parent().unwrap_or(copy);
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, content));
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        #[cfg(unix)]
        keep_mode(&root.join(&name), &path)?;
    }
    let mut there = BTreeMap::new();
    collect(copy, Path::new(""), &mut there)?;
    for name in there.keys().filter(|name| !wanted.contains(*name)) {
        let path = copy.join(name);
        fs::remove_file(&path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
    }
    let name = sim.file_name().unwrap_or_default();
    Ok(copy.join(name))
}

/// Scripts stay executable.
#[cfg(unix)]
fn keep_mode(original: &Path, copy: &Path) -> Result<(), String> {
    let Ok(metadata) = fs::metadata(original) else { return Ok(()) };
    fs::set_permissions(copy, metadata.permissions())
        .map_err(|error| format!("cannot change the mode of {}: {error}", copy.display()))
}

/// Collects all files of a folder, by their path relative to `root`.
fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> Result<(), String> {
    let path = root.join(folder);
    let failed = |error| format!("cannot read {}: {error}", path.display());
    for entry in fs::read_dir(&path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = folder.join(entry.file_name());
        let kind = entry.file_type().map_err(failed)?;
        if LEFT_OUT.iter().any(|left_out| entry.file_name() == *left_out) {
            continue;
        }
        if kind.is_dir() {
            collect(root, &name, files)?;
        } else if kind.is_file() {
            let content = fs::read(entry.path())
                .map_err(|error| format!("cannot read {}: {error}", entry.path().display()))?;
            files.insert(name, content);
        }
    }
    Ok(())
}

/// Applies all bugs, one after the other, and adds the switch that they depend on.
fn plant(files: &mut BTreeMap<PathBuf, Vec<u8>>, bugs: &[Bug]) -> Result<(), String> {
    for bug in bugs {
        for (name, changed) in changes(bug, files)? {
            files.insert(name, changed.into_bytes());
        }
    }
    let rooms = files.get_mut(Path::new(ROOMS)).ok_or_else(|| format!("there is no {ROOMS}"))?;
    rooms.extend_from_slice(b"\n#[doc(hidden)]\npub mod planted;\n");
    files.insert(SWITCH_AT.into(), SWITCH.into());
    Ok(())
}

/// The files that a bug changes, with their new content.
fn changes(bug: &Bug, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Vec<(PathBuf, String)>, String> {
    let stale = |file: &str, why: String| {
        format!(
            "planted bug {}: its patch does not apply to {file} any more ({why}); next: bring sim/{FOLDER}/{}.patch up to date",
            bug.name, bug.name
        )
    };
    let mut changes = Vec::new();
    for part in PatchSet::parse(&bug.patch, ParseOptions::unidiff()) {
        let part = part.map_err(|error| stale("what it names", error.to_string()))?;
        let FileOperation::Modify { original, .. } = part.operation().strip_prefix(1) else {
            return Err(stale(
                "what it names",
                "a bug changes files, and neither adds nor removes any".into(),
            ));
        };
        let name = original.to_string();
        let present =
            files.get(Path::new(&name)).ok_or_else(|| stale(&name, "there is no such file".into()))?;
        let present = std::str::from_utf8(present).map_err(|error| stale(&name, error.to_string()))?;
        let patch = part.patch().as_text().ok_or_else(|| stale(&name, "it is no text".into()))?;
        let changed = diffy::apply(present, patch).map_err(|error| stale(&name, error.to_string()))?;
        changes.push((name.into(), changed));
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_bug_applies_to_the_present_tree() {
        let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
        let bugs = read_all(&sim.join(FOLDER)).unwrap();
        assert!(bugs.len() >= 50, "{} bugs are left", bugs.len());
        let mut files = BTreeMap::new();
        collect(sim.parent().unwrap(), Path::new("src"), &mut files).unwrap();
        let before = files.clone();
        plant(&mut files, &bugs).unwrap();
        let source: String = files.values().map(|file| String::from_utf8_lossy(file)).collect();
        for bug in &bugs {
            assert!(source.contains(&format!("planted::is(\"{}\")", bug.name)), "{} is gone again", bug.name);
        }
        let without: String = before.values().map(|file| String::from_utf8_lossy(file)).collect();
        assert!(!without.contains("planted::is("), "the product asks for a bug itself");
    }

    #[test]
    fn a_file_is_written_only_if_its_content_changes_and_removed_when_its_original_is() {
        let folder = std::env::temp_dir().join(format!("mokv-planted-{}", std::process::id()));
        let (root, copy) = (folder.join("tree"), folder.join("copy"));
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("src/lib.rs", "pub mod log;\n");
        write("src/log.rs", "fn log() {\n    write();\n}\n");
        write("gone.txt", "gone");
        write(
            "sim/planted/early.patch",
            "\
area: log\nbreaks: a\norigin: b\nrare: no\n\n--- a/src/log.rs\n+++ b/src/log.rs\n@@ -1,3 +1,4 @@\n fn log() {\n\
+    if crate::planted::is(\"early\") { return }\n     write();\n }\n",
        );
        let sim = prepare(&root.join("sim"), &copy).unwrap();
        assert_eq!(sim, copy.join("sim"));
        let log = fs::read_to_string(copy.join("src/log.rs")).unwrap();
        assert_eq!(log, "fn log() {\n    if crate::planted::is(\"early\") { return }\n    write();\n}\n");
        let modified = |name: &str| fs::metadata(copy.join(name)).unwrap().modified().unwrap();
        let before = (modified("src/log.rs"), modified("src/lib.rs"));
        fs::remove_file(root.join("gone.txt")).unwrap();
        write("src/lib.rs", "pub mod log;\n// changed\n");
        prepare(&root.join("sim"), &copy).unwrap();
        assert!(modified("src/log.rs") == before.0 && !copy.join("gone.txt").exists());
        assert!(fs::read_to_string(copy.join("src/lib.rs")).unwrap().contains("changed\n\n#[doc(hidden)]"));
        write("src/log.rs", "fn log() {\n    write_all();\n}\n");
        let stale = prepare(&root.join("sim"), &copy).unwrap_err();
        assert!(stale.contains("early") && stale.contains("src/log.rs"), "{stale}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
