//! What the documents name in backticks exists: files, types, functions, settings, commands.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Documents whose every name is checked.
const DOCUMENTS: [&str; 3] = ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"];
/// Where names may be.
const SOURCES: [&str; 10] =
    ["src", "sim", "proto", "tests", "examples", "deploy", "Cargo.toml", "clippy.toml", "justfile", ".ci"];
const LEFT_OUT: [&str; 3] = ["target", "node_modules", "Cargo.lock"];

/// Reads all files below a path; names of files and folders go to `paths`, contents to `text`.
fn read(path: &Path, paths: &mut BTreeSet<String>, text: &mut String) {
    if path.file_name().is_some_and(|name| LEFT_OUT.iter().any(|left_out| name == *left_out)) {
        return;
    }
    paths.insert(path.to_string_lossy().into_owned());
    match fs::read_dir(path) {
        Ok(entries) => {
            entries.for_each(|entry| read(&entry.expect("it was just listed").path(), paths, text))
        }
        Err(_) => text.push_str(&String::from_utf8_lossy(&fs::read(path).expect("it was just listed"))),
    }
}

/// Returns the names in backticks outside of code blocks. Text with blanks in it is a command or a sentence, and no name.
fn names(document: &str) -> BTreeSet<&str> {
    let outside = document.split("```").step_by(2);
    let quoted = outside.flat_map(|text| text.split('`').skip(1).step_by(2));
    quoted.filter(|name| !name.is_empty() && !name.contains(char::is_whitespace)).collect()
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

/// Whether a word stands somewhere by itself.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text.as_bytes()[..at].last().is_none_or(|byte| !is_word(*byte));
        before && text.as_bytes().get(at + word.len()).is_none_or(|byte| !is_word(*byte))
    })
}

fn exists(name: &str, paths: &BTreeSet<String>, text: &str) -> bool {
    let path = name.trim_end_matches('/').trim_start_matches("./");
    if paths.iter().any(|known| known == path || known.ends_with(&format!("/{path}"))) {
        return true;
    }
    let is_file = [".rs", ".md", ".proto", ".toml", ".yaml"].iter().any(|ending| path.ends_with(ending));
    if is_file || name.ends_with('/') {
        return false;
    }
    // Of a path through the code each part.
    let words = name.split("::").map(|word| word.trim_end_matches("()").trim_end_matches("<..>"));
    words.into_iter().all(|word| has_word(text, word))
}

#[test]
fn every_name_in_backticks_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::set_current_dir(root).expect("the tests run where they were built");
    let (mut paths, mut text) = (BTreeSet::new(), String::new());
    SOURCES.iter().for_each(|source| read(Path::new(source), &mut paths, &mut text));
    for entry in fs::read_dir(".").expect("it is the repository") {
        paths.insert(entry.expect("it was just listed").file_name().to_string_lossy().into_owned());
    }
    for file in fs::read_dir("docs").expect("there are docs") {
        read(&file.expect("it was just listed").path(), &mut paths, &mut String::new());
    }
    let mut gone = Vec::new();
    for document in DOCUMENTS {
        let content = fs::read_to_string(document).unwrap_or_else(|error| panic!("{document}: {error}"));
        let names = names(&content);
        assert!(names.len() > 20, "{document} names {names:?} only");
        gone.extend(
            names
                .into_iter()
                .filter(|name| !exists(name, &paths, &text))
                .map(|name| format!("{document}: `{name}`")),
        );
    }
    assert!(gone.is_empty(), "these do not exist (any more):\n{}", gone.join("\n"));
}
