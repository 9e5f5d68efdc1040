//! A planted bug: one file of `planted/`, a header that tells of it and the patch that brings it about.
//!
//! The header's fields are `area`, `breaks` (what it does wrong and what comes of it), `origin` (the rule that it breaks, or
//! the system that had it), `rare` (`yes`: it shows only after an aimed or rare sequence of events) and perhaps `story` (the
//! scenario that is aimed at it; without one chaos finds it). A field goes on in lines that are indented. The patch puts the
//! mistake where the rule is enforced, behind the question whether it is switched on:
//! `crate::planted::is("its-name")`.

use std::collections::BTreeMap;
use std::path::Path;

/// A planted bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bug {
    /// What its file, its question and `MOKV_PLANTED` call it.
    pub name: String,
    /// The part of the node, or of its client, that it sits in.
    pub area: String,
    /// What it does wrong and what comes of it.
    pub breaks: String,
    /// The rule it breaks, or the system that had it.
    pub origin: String,
    /// Whether it shows only after an aimed or rare sequence of events.
    pub rare: bool,
    /// The scenario of the simulation that is aimed at it; `None`: chaos finds it.
    pub story: Option<String>,
    /// What it changes, as a unified diff.
    pub patch: String,
}

/// How a question begins.
const QUESTION: &str = "crate::planted::is(\"";

impl Bug {
    /// Reads the text of its file.
    ///
    /// # Errors
    /// In words, if it is not what the head of this page says.
    pub fn parse(name: &str, text: &str) -> Result<Bug, String> {
        let wrong = |what: &str| format!("planted bug {name}: {what}");
        let begins = text.find("\n--- ").ok_or_else(|| wrong("there is no patch in its file"))?;
        let (header, patch) = text.split_at(begins + 1);
        let mut fields =
            fields(header).map_err(|line| wrong(&format!("'{line}' is no field of a header")))?;
        let mut field = |name: &str| {
            fields.remove(name).ok_or_else(|| wrong(&format!("its header has no field '{name}'")))
        };
        let (area, breaks, origin) = (field("area")?, field("breaks")?, field("origin")?);
        let rare = match &*field("rare")? {
            "yes" => true,
            "no" => false,
            other => return Err(wrong(&format!("rare is '{other}' and should be yes or no"))),
        };
        let story = field("story").ok();
        if let Some(unknown) = fields.keys().next() {
            return Err(wrong(&format!("there is no field '{unknown}'")));
        }
        let bug = Bug { name: name.to_owned(), area, breaks, origin, rare, story, patch: patch.to_owned() };
        bug.asks_for_itself().map_err(|what| wrong(&what))?;
        Ok(bug)
    }

    /// A question that names another bug, or none, would be a bug that nobody can switch on or off.
    fn asks_for_itself(&self) -> Result<(), String> {
        let added = self.patch.lines().filter_map(|line| line.strip_prefix('+'));
        let mut names = added
            .flat_map(|line| line.split(QUESTION).skip(1))
            .map(|rest| rest.split('"').next().unwrap_or_default())
            .peekable();
        if names.peek().is_none() {
            return Err(format!("it never asks {QUESTION}{}\")", self.name));
        }
        match names.find(|name| *name != self.name) {
            Some(other) => Err(format!("it asks for '{other}'")),
            None => Ok(()),
        }
    }
}

/// The fields of a header, or the line that is none.
fn fields(header: &str) -> Result<BTreeMap<String, String>, &str> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in header.lines().filter(|line| !line.trim().is_empty()) {
        match (line.strip_prefix("  "), fields.last_mut()) {
            (Some(more), Some((_, text))) => {
                text.push(' ');
                text.push_str(more.trim());
            }
            _ => {
                let (name, text) = line.split_once(": ").ok_or(line)?;
                fields.push((name.to_owned(), text.trim().to_owned()));
            }
        }
    }
    Ok(fields.into_iter().collect())
}

/// All bugs of a folder, by name: the order in which they are applied.
///
/// # Errors
/// In words, if the folder cannot be read or a file is none of a bug.
pub fn read_all(folder: &Path) -> Result<Vec<Bug>, String> {
    let failed = |error| format!("cannot read {}: {error}", folder.display());
    let mut bugs = Vec::new();
    for file in std::fs::read_dir(folder).map_err(failed)? {
        let path = file.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".patch")) else {
            continue;
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        bugs.push(Bug::parse(name, &text)?);
    }
    bugs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(bugs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
area: log
breaks: entries count as durable
  once they are queued
origin: etcd #14370
rare: no

--- a/src/log.rs
+++ b/src/log.rs
@@ -1,1 +1,2 @@
+if crate::planted::is(\"early\") { return }
 write();
";

    #[test]
    fn a_file_is_a_header_and_a_patch() {
        let bug = Bug::parse("early", FILE).unwrap();
        assert_eq!((&*bug.area, &*bug.breaks), ("log", "entries count as durable once they are queued"));
        assert!(!bug.rare && bug.story.is_none() && bug.patch.starts_with("--- a/src/log.rs\n"));
        let told = FILE.replace("rare: no", "rare: yes\nstory: rot");
        assert_eq!(Bug::parse("early", &told).unwrap().story.as_deref(), Some("rot"));
    }

    #[test]
    fn what_is_no_bug_is_refused_in_words() {
        let refused = |name: &str, text: &str| Bug::parse(name, text).unwrap_err();
        assert!(refused("late", FILE).contains("it asks for 'early'"));
        assert!(refused("early", &FILE.replace("crate::planted::is", "is")).contains("never asks"));
        assert!(refused("early", &FILE.replace("rare: no\n", "")).contains("no field 'rare'"));
        assert!(refused("early", &FILE.replace("rare: no", "rare: so")).contains("should be yes or no"));
        assert!(refused("early", &FILE.replace("rare: no", "rare: no\nseldom: yes")).contains("'seldom'"));
        assert!(refused("early", "area: log\n").contains("no patch"));
    }
}
