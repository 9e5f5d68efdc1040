//! A planted bug: one file of `planted/`, with a header that describes it and the patch that adds it.
//!
//! The header's fields are `area`, `breaks` (what it does wrong and what comes of it), `origin` (the rule that it
//! breaks, or the system that had it), `rare` (`yes`: it shows only after an aimed or rare sequence of events) and,
//! optionally, `story` (the scenario that is aimed at it; without one chaos finds it). A field continues in indented
//! lines. The patch puts the mistake where the rule is enforced, and makes it depend on the switch:
//! `crate::planted::is("its-name")`.

use std::collections::BTreeMap;
use std::path::Path;

/// A planted bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bug {
    /// Its name: of its file, in the call of the switch, and in `MOKV_PLANTED`.
    pub name: String,
    /// The part of the node, or of its client, that it is in.
    pub area: String,
    /// What it does wrong and what comes of it.
    pub breaks: String,
    /// The rule it breaks, or the system that had it.
    pub origin: String,
    /// Whether it shows only after an aimed or rare sequence of events.
    pub rare: bool,
    /// The scenario of the simulation that is aimed at it; `None`: chaos finds it.
    pub scenario: Option<String>,
    /// What it changes, as a unified diff.
    pub patch: String,
}

/// The beginning of a call of the switch.
const QUESTION: &str = "crate::planted::is(\"";

impl Bug {
    /// Parses the text of a bug's file.
    ///
    /// # Errors
    /// A message for the user, if the text does not have the format described at the head of this module.
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
        let scenario = field("story").ok();
        if let Some(unknown) = fields.keys().next() {
            return Err(wrong(&format!("there is no field '{unknown}'")));
        }
        let bug =
            Bug { name: name.to_owned(), area, breaks, origin, rare, scenario, patch: patch.to_owned() };
        bug.asks_for_itself().map_err(|what| wrong(&what))?;
        Ok(bug)
    }

    /// A bug whose switch has another bug's name, or that has no switch, could not be switched on or off.
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

/// The fields of a header. The error is the line that is not a field.
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

/// Reads all bugs of a folder, sorted by name: the order in which they are applied.
///
/// # Errors
/// A message for the user, if the folder cannot be read or a file is not a bug.
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
        assert!(!bug.rare && bug.scenario.is_none() && bug.patch.starts_with("--- a/src/log.rs\n"));
        let told = FILE.replace("rare: no", "rare: yes\nstory: rot");
        assert_eq!(Bug::parse("early", &told).unwrap().scenario.as_deref(), Some("rot"));
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
