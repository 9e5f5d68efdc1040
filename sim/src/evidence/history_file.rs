//! A history as a file: one operation per line, in JSON, for people and for other checkers.
//!
//! `sim/README.md` describes the format. Reading a written file gives the same history, without reads of versions and
//! changes: those say nothing about one state of the store.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::history::{Answer, Call, KeyState, Nanos, Operation, Outcome};

/// The environment variable that names the file; `--history FILE` does so on the command line.
pub const VARIABLE: &str = "MOKV_HISTORY";

/// Where to write the history of this process's run; `None`: nowhere.
pub fn destination() -> Option<PathBuf> {
    let mut arguments = std::env::args_os().skip_while(|argument| argument != "--history").skip(1);
    arguments.next().or_else(|| std::env::var_os(VARIABLE)).map(PathBuf::from)
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    client: u32,
    operation: Kind,
    /// For a list: the prefix.
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_revision: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    /// For a get or a list of the past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_revision: Option<u64>,
    invoked: Nanos,
    returned: Option<Nanos>,
    outcome: Status,
    /// The store's revision in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    /// For a delete: whether the key existed.
    #[serde(skip_serializing_if = "Option::is_none")]
    existed: Option<bool>,
    /// For a write whose condition did not hold: the key's mod revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    present_revision: Option<u64>,
    /// For a get or a list: what was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<Vec<Item>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Set,
    Delete,
    Get,
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Failed,
    Unknown,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    key: String,
    value: u64,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
}

impl Item {
    fn new(key: &str, entry: &KeyState) -> Item {
        let KeyState { value, create_revision, mod_revision, version } = *entry;
        Item { key: key.to_owned(), value, create_revision, mod_revision, version }
    }

    fn entry(&self) -> KeyState {
        let Item { value, create_revision, mod_revision, version, .. } = *self;
        KeyState { value, create_revision, mod_revision, version }
    }
}

/// Returns the operations as lines.
pub fn write(operations: &[Operation]) -> String {
    let text = |line: Line| serde_json::to_string(&line).expect("a line is plain data") + "\n";
    operations.iter().filter_map(line).map(text).collect()
}

/// Parses the operations of a file.
///
/// # Errors
/// A message with the number of the line that is not an operation.
pub fn read(text: &str) -> Result<Vec<Operation>, String> {
    let one = |(number, text): (usize, &str)| {
        let line: Line = serde_json::from_str(text).map_err(|error| format!("line {number}: {error}"))?;
        operation(&line).ok_or_else(|| format!("line {number}: the answer does not fit the operation"))
    };
    (1..).zip(text.lines()).map(one).collect()
}

/// `None`: the file has no such operations.
fn line(operation: &Operation) -> Option<Line> {
    let (kind, value, if_revision, stale) = match operation.call {
        Call::Set { value, if_revision } => (Kind::Set, Some(value), if_revision, false),
        Call::Delete { if_revision } => (Kind::Delete, None, if_revision, false),
        Call::Get { stale } => (Kind::Get, None, None, stale),
        Call::List { stale } => (Kind::List, None, None, stale),
        Call::GetAt { .. } => (Kind::Get, None, None, false),
        Call::ListAt { .. } => (Kind::List, None, None, false),
        Call::Versions(_) | Call::Changes(_) => return None,
    };
    let mut line = Line {
        client: operation.client,
        operation: kind,
        key: operation.key.clone(),
        value,
        if_revision,
        stale,
        at_revision: operation.call.at_revision(),
        invoked: operation.invoked,
        returned: operation.returned,
        outcome: Status::Ok,
        revision: None,
        existed: None,
        present_revision: None,
        read: None,
    };
    match &operation.outcome {
        Outcome::Failed | Outcome::Ok(Answer::Compacted) => line.outcome = Status::Failed,
        Outcome::Unknown => line.outcome = Status::Unknown,
        Outcome::Ok(Answer::ConditionFailed { present_revision }) => {
            line.outcome = Status::Failed;
            line.present_revision = Some(*present_revision);
        }
        Outcome::Ok(Answer::Written { revision }) => line.revision = Some(*revision),
        Outcome::Ok(Answer::Deleted { revision, existed }) => {
            (line.revision, line.existed) = (Some(*revision), Some(*existed));
        }
        Outcome::Ok(Answer::Read { revision, entry }) => {
            line.revision = Some(*revision);
            line.read = Some(entry.iter().map(|entry| Item::new(&operation.key, entry)).collect());
        }
        Outcome::Ok(Answer::Listed { revision, entries }) => {
            line.revision = Some(*revision);
            line.read = Some(entries.iter().map(|(key, entry)| Item::new(key, entry)).collect());
        }
        Outcome::Ok(Answer::Changed { .. }) => return None,
    }
    Some(line)
}

fn operation(line: &Line) -> Option<Operation> {
    let call = match (line.operation, line.at_revision) {
        (Kind::Set, _) => Call::Set { value: line.value?, if_revision: line.if_revision },
        (Kind::Delete, _) => Call::Delete { if_revision: line.if_revision },
        (Kind::Get, None) => Call::Get { stale: line.stale },
        (Kind::List, None) => Call::List { stale: line.stale },
        (Kind::Get, Some(revision)) => Call::GetAt { revision },
        (Kind::List, Some(revision)) => Call::ListAt { revision },
    };
    let outcome = match (line.outcome, line.operation) {
        (Status::Unknown, _) => Outcome::Unknown,
        (Status::Failed, _) => match line.present_revision {
            Some(present_revision) => Outcome::Ok(Answer::ConditionFailed { present_revision }),
            None => Outcome::Failed,
        },
        (Status::Ok, kind) => {
            let revision = line.revision?;
            Outcome::Ok(match kind {
                Kind::Set => Answer::Written { revision },
                Kind::Delete => Answer::Deleted { revision, existed: line.existed? },
                Kind::Get => Answer::Read { revision, entry: line.read.as_ref()?.first().map(Item::entry) },
                Kind::List => {
                    let found = line.read.as_ref()?.iter().map(|item| (item.key.clone(), item.entry()));
                    Answer::Listed { revision, entries: found.collect() }
                }
            })
        }
    };
    let (client, key) = (line.client, line.key.clone());
    Some(Operation { client, key, call, invoked: line.invoked, returned: line.returned, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::{delete, ended, get, in_doubt, list, set, set_if, stale};

    #[test]
    fn what_is_written_is_read_back_and_has_a_line_each() {
        let operations = vec![
            set(0, 1, 7),
            set_if(2, 3, 8, 7, None),
            set_if(2, 3, 9, 7, Some(8)),
            delete(4, 5, true),
            ended(set(4, 5, 10), Outcome::Failed),
            Operation { returned: None, ..in_doubt(set(6, 7, 11)) },
            get(8, 9, 8),
            stale(get(8, 9, 0)),
            list(10, 11, 8, &[("k", 8), ("other", 3)]),
        ];
        let text = write(&operations);
        assert_eq!(text.lines().count(), operations.len());
        assert_eq!(read(&text).unwrap(), operations);
        assert_eq!(
            text.lines().next().unwrap(),
            r#"{"client":1,"operation":"set","key":"k","value":7,"invoked":0,"returned":1,"outcome":"ok","revision":7}"#
        );
    }

    #[test]
    fn what_is_no_operation_is_refused_with_its_line() {
        assert!(read("nonsense").unwrap_err().starts_with("line 1"));
        let text = write(&[set(0, 1, 7)]).replace(r#","value":7"#, "");
        assert!(read(&text).unwrap_err().contains("does not fit"));
    }
}
