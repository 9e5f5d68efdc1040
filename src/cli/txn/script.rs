//! The lines of a transaction: from text, and back.

use std::num::NonZeroU64;

use bytes::Bytes;

use crate::cli::key::unescaped;
use crate::cli::output::{escaped, shortened};
use crate::client::{Comparison, Condition, KeyRange, Keys, Operation, Test, Transaction};

/// A transaction of which some lines are read.
#[derive(Default)]
pub struct Script {
    /// The outermost transaction, and those within it that have not ended.
    open: Vec<Part>,
}

/// One transaction of several that lie in each other.
#[derive(Default)]
struct Part {
    transaction: Transaction,
    section: Section,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Section {
    #[default]
    Conditions,
    Then,
    Otherwise,
}

/// A word of a line.
struct Word {
    /// As it was written.
    text: String,
    /// What it stands for.
    bytes: Bytes,
}

impl Script {
    /// Adds a line.
    ///
    /// # Errors
    /// What is wrong with it. The script is as it was before.
    pub fn add(&mut self, line: &[u8]) -> Result<(), String> {
        let words = words(line)?;
        if self.open.is_empty() {
            self.open.push(Part::default());
        }
        let depth = self.open.len();
        let part = self.open.last_mut().expect("there is an outermost one");
        let mut words = words.iter();
        let Some(first) = words.next() else { return Ok(()) };
        match first.text.as_str() {
            "if" if part.section == Section::Conditions => {
                part.transaction.conditions.push(condition(words.as_slice())?);
            }
            "if" => return Err("conditions come before operations".into()),
            "then" if part.section == Section::Conditions => part.section = Section::Then,
            "else" if part.section == Section::Otherwise => return Err("there is an 'else' already".into()),
            "else" if part.transaction.conditions.is_empty() => {
                return Err("'else' needs a condition that may not hold".into());
            }
            "else" => part.section = Section::Otherwise,
            "begin" => {
                part.begin_operations()?;
                self.open.push(Part::default());
            }
            "end" if depth > 1 => {
                let nested = self.open.pop().expect("there are several").transaction;
                let around = self.open.last_mut().expect("there are several");
                around.push(Operation::Nested(nested));
            }
            "end" => return Err("there is no 'begin' before this 'end'".into()),
            _ => {
                let operation = operation(first, words.as_slice())?;
                part.begin_operations()?;
                part.push(operation);
            }
        }
        Ok(())
    }

    /// Returns the transaction.
    ///
    /// # Errors
    /// What is missing, or why it is none.
    pub fn finish(mut self) -> Result<Transaction, String> {
        if self.open.len() > 1 {
            return Err("a 'begin' has no 'end'".into());
        }
        let transaction = self.open.pop().unwrap_or_default().transaction;
        if transaction == Transaction::default() {
            return Err("there is no condition and no operation".into());
        }
        transaction.check().map_err(|malformed| malformed.to_string())?;
        Ok(transaction)
    }
}

impl Part {
    /// Without conditions, operations need no 'then' before them.
    fn begin_operations(&mut self) -> Result<(), String> {
        if self.section == Section::Conditions {
            if !self.transaction.conditions.is_empty() {
                return Err("'then' comes between conditions and operations".into());
            }
            self.section = Section::Then;
        }
        Ok(())
    }

    fn push(&mut self, operation: Operation) {
        match self.section {
            Section::Conditions | Section::Then => self.transaction.then.push(operation),
            Section::Otherwise => self.transaction.otherwise.push(operation),
        }
    }
}

fn condition(words: &[Word]) -> Result<Condition, String> {
    let (keys, rest) = match words {
        // A key may be called so, too.
        [prefix, keys, rest @ ..] if prefix.text == "prefix" && !rest.is_empty() && !is_test(keys, rest) => {
            (Keys::In(KeyRange::prefix(&keys.bytes)), rest)
        }
        [key, rest @ ..] => (Keys::One(key.bytes.clone()), rest),
        [] => return Err("'if' needs a key and what must hold".into()),
    };
    let texts: Vec<&str> = rest.iter().map(|word| word.text.as_str()).collect();
    let test = match texts.as_slice() {
        ["exists"] => Test::Exists(true),
        ["absent"] => Test::Exists(false),
        ["value", comparison, _] => Test::Value(compare(comparison)?, rest[2].bytes.clone()),
        ["version", comparison, number] => Test::Version(compare(comparison)?, parse(number)?),
        ["mod-revision", comparison, number] => Test::ModRevision(compare(comparison)?, parse(number)?),
        ["create-revision", comparison, number] => Test::CreateRevision(compare(comparison)?, parse(number)?),
        _ => {
            return Err(
                "after its key a condition is 'exists', 'absent', or 'value', 'version', 'mod-revision' or \
                        'create-revision' with =, !=, < or > and what to compare with"
                    .into(),
            );
        }
    };
    Ok(Condition { keys, test })
}

/// Whether the words after 'prefix' say what must hold of a key called 'prefix'.
fn is_test(word: &Word, rest: &[Word]) -> bool {
    let compares = matches!(word.text.as_str(), "value" | "version" | "mod-revision" | "create-revision");
    compares && rest.len() == 2
}

fn compare(word: &str) -> Result<Comparison, String> {
    match word {
        "=" | "==" => Ok(Comparison::Equal),
        "!=" => Ok(Comparison::NotEqual),
        "<" => Ok(Comparison::Less),
        ">" => Ok(Comparison::Greater),
        other => Err(format!("'{other}' compares nothing; write =, !=, < or >")),
    }
}

fn parse(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("'{word}' is no whole number"))
}

fn operation(name: &Word, words: &[Word]) -> Result<Operation, String> {
    let usage = |usage: &str| Err(format!("write it as '{usage}'"));
    match (name.text.as_str(), words) {
        ("set", [key, value]) => Ok(Operation::set(&key.bytes, value.bytes.clone())),
        ("set", _) => usage("set KEY VALUE"),
        ("delete", [key]) => Ok(Operation::delete(&key.bytes)),
        ("delete", _) => usage("delete KEY"),
        ("delete-prefix", [prefix, rest @ ..]) => match options(rest)? {
            (limit, None) => Ok(Operation::DeleteRange { range: KeyRange::prefix(&prefix.bytes), limit }),
            _ => usage("delete-prefix PREFIX [limit N]"),
        },
        ("delete-prefix", _) => usage("delete-prefix PREFIX [limit N]"),
        ("get", [key, rest @ ..]) => match options(rest)? {
            (None, at_revision) => Ok(Operation::Get { key: key.bytes.clone(), at_revision }),
            _ => usage("get KEY [at REVISION]"),
        },
        ("get", _) => usage("get KEY [at REVISION]"),
        ("list", [prefix, rest @ ..]) => {
            let (limit, at_revision) = options(rest)?;
            let range = KeyRange::prefix(&prefix.bytes);
            Ok(Operation::List { range, limit, keys_only: false, at_revision })
        }
        ("list", _) => usage("list PREFIX [limit N] [at REVISION]"),
        (other, _) => Err(format!(
            "'{other}' is none of if, then, else, set, delete, delete-prefix, get, list, begin and end"
        )),
    }
}

/// Parses `limit N` and `at REVISION`.
fn options(mut words: &[Word]) -> Result<(Option<NonZeroU64>, Option<u64>), String> {
    let (mut limit, mut at_revision) = (None, None);
    while let [name, number, rest @ ..] = words {
        match name.text.as_str() {
            "limit" if limit.is_none() => {
                let most = NonZeroU64::new(parse(&number.text)?);
                limit = Some(most.ok_or("a limit is at least 1")?);
            }
            "at" if at_revision.is_none() => at_revision = Some(parse(&number.text)?),
            other => return Err(format!("'{other}' does not belong there")),
        }
        words = rest;
    }
    match words {
        [] => Ok((limit, at_revision)),
        [more, ..] => Err(format!("'{}' needs a number behind it", more.text)),
    }
}

/// Splits a line into words.
fn words(line: &[u8]) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        match rest {
            [] | [b'#', ..] => return Ok(words),
            [b'"', quoted @ ..] => {
                let end = closing_quote(quoted).ok_or("a quote is not closed")?;
                words.push(word(&quoted[..end], true)?);
                rest = &quoted[end + 1..];
                if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                    return Err("a space has to follow a quoted word".into());
                }
            }
            plain => {
                let end = plain.iter().position(u8::is_ascii_whitespace).unwrap_or(plain.len());
                words.push(word(&plain[..end], false)?);
                rest = &plain[end..];
            }
        }
    }
}

/// The position of the quote that is not escaped.
fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn word(text: &[u8], is_quoted: bool) -> Result<Word, String> {
    // A quote is the one escape that keys on the command line do not have.
    let mut without_quotes = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match &text[at..] {
            [b'\\', b'"', ..] => {
                without_quotes.extend_from_slice(b"\\x22");
                at += 2;
            }
            [b'\\', next, ..] => {
                without_quotes.extend_from_slice(&[b'\\', *next]);
                at += 2;
            }
            [byte, ..] => {
                without_quotes.push(*byte);
                at += 1;
            }
            [] => unreachable!("the loop ends before"),
        }
    }
    let bytes = unescaped(&without_quotes).map_err(|sequence| {
        format!(
            "'{}' is no escape sequence; write \\t, \\n, \\r, \\\\, \\\", or \\x and two hexadecimal digits",
            String::from_utf8_lossy(sequence)
        )
    })?;
    // A quoted word is never a word of the language.
    let text = if is_quoted { "\"".to_owned() } else { String::from_utf8_lossy(text).into_owned() };
    Ok(Word { text, bytes: bytes.into() })
}

/// Returns the lines of a transaction, with long values cut.
pub fn shown(transaction: &Transaction) -> Vec<String> {
    let mut lines = Vec::new();
    show(transaction, 0, &mut lines);
    lines
}

fn show(transaction: &Transaction, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    for condition in &transaction.conditions {
        lines.push(format!("{indent}if {}", show_condition(condition)));
    }
    let is_plain = transaction.conditions.is_empty();
    if !is_plain {
        lines.push(format!("{indent}then"));
    }
    let inner = if is_plain { depth } else { depth + 1 };
    show_branch(&transaction.then, inner, lines);
    if !transaction.otherwise.is_empty() {
        lines.push(format!("{indent}else"));
        show_branch(&transaction.otherwise, depth + 1, lines);
    }
}

fn show_branch(operations: &[Operation], depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    for operation in operations {
        match operation {
            Operation::Nested(nested) => {
                lines.push(format!("{indent}begin"));
                show(nested, depth + 1, lines);
                lines.push(format!("{indent}end"));
            }
            _ => lines.push(format!("{indent}{}", show_operation(operation))),
        }
    }
}

/// Writes a word such that it is read as what it stands for.
fn quoted(bytes: &[u8]) -> String {
    let text = escaped(bytes).replace('"', "\\\"");
    let is_plain = !text.is_empty() && !text.starts_with('#') && !text.contains([' ', '"']);
    if is_plain { text } else { format!("\"{text}\"") }
}

fn show_condition(condition: &Condition) -> String {
    let keys = match &condition.keys {
        Keys::One(key) => quoted(key),
        Keys::In(range) => format!("prefix {}", quoted(&range.start)),
    };
    let compares = |comparison: &Comparison| match comparison {
        Comparison::Equal => "=",
        Comparison::NotEqual => "!=",
        Comparison::Less => "<",
        Comparison::Greater => ">",
    };
    let test = match &condition.test {
        Test::Exists(true) => "exists".to_owned(),
        Test::Exists(false) => "absent".to_owned(),
        Test::Value(comparison, value) => format!("value {} {}", compares(comparison), quoted(value)),
        Test::CreateRevision(comparison, number) => {
            format!("create-revision {} {number}", compares(comparison))
        }
        Test::ModRevision(comparison, number) => format!("mod-revision {} {number}", compares(comparison)),
        Test::Version(comparison, number) => format!("version {} {number}", compares(comparison)),
    };
    format!("{keys} {test}")
}

fn show_operation(operation: &Operation) -> String {
    let limit = |limit: &Option<NonZeroU64>| limit.map_or(String::new(), |most| format!(" limit {most}"));
    let at = |at_revision: &Option<u64>| at_revision.map_or(String::new(), |at| format!(" at {at}"));
    match operation {
        Operation::Set { key, value } => {
            let value = if value.len() <= 60 { quoted(value) } else { shortened(value) };
            format!("set {} {value}", quoted(key))
        }
        Operation::Delete { key } => format!("delete {}", quoted(key)),
        Operation::DeleteRange { range, limit: most } => {
            format!("delete-prefix {}{}", quoted(&range.start), limit(most))
        }
        Operation::Get { key, at_revision } => format!("get {}{}", quoted(key), at(at_revision)),
        Operation::List { range, limit: most, at_revision, .. } => {
            format!("list {}{}{}", quoted(&range.start), limit(most), at(at_revision))
        }
        Operation::Nested(_) => "begin".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Transaction, String> {
        let mut script = Script::default();
        text.lines().try_for_each(|line| script.add(line.as_bytes()))?;
        script.finish()
    }

    #[test]
    fn a_script_becomes_a_transaction_and_is_shown_as_it_was() {
        let text = "\
if a mod-revision = 12
if prefix lock/ absent
if \"two words\" value != \"\\x00\\\"\"
then
  set a 90
  delete-prefix tmp/ limit 5
  begin
    if b exists
    then
      get b at 7
    else
      list c/ limit 2 at 3
  end
else
  delete \"\\ttab\"";
        let transaction = read(text).unwrap();
        assert_eq!(transaction.conditions.len(), 3);
        assert_eq!(transaction.conditions[2].test, Test::Value(Comparison::NotEqual, "\0\"".into()));
        assert_eq!(transaction.then.len(), 3);
        assert_eq!(transaction.otherwise, [Operation::delete("\ttab")]);
        let again = shown(&transaction).join("\n");
        assert_eq!(read(&again), Ok(transaction));
        assert_eq!(again, text.replace("\"\\ttab\"", "\\ttab"));
    }

    #[test]
    fn operations_alone_need_no_then() {
        let transaction = read("# a comment\n\nget a\nlist b/").unwrap();
        assert_eq!((transaction.then.len(), transaction.conditions.len()), (2, 0));
    }

    #[test]
    fn a_key_may_be_called_as_the_language_is() {
        let transaction =
            read("if prefix version = 3\nif prefix exists\nthen\nget get\nset \"set\" if").unwrap();
        assert_eq!(transaction.conditions[0].keys, Keys::from("prefix"));
        assert_eq!(transaction.conditions[1].keys, Keys::from("prefix"));
        assert_eq!(transaction.then, [Operation::get("get"), Operation::set("set", "if")]);
    }

    #[test]
    fn what_is_wrong_is_said_in_the_words_of_the_script() {
        for (text, expected) in [
            ("", "no condition"),
            ("jump a", "'jump' is none of"),
            ("set a", "set KEY VALUE"),
            ("get a at", "'at' needs a number"),
            ("get a limit 3", "get KEY [at REVISION]"),
            ("delete-prefix a limit 0", "at least 1"),
            ("delete-prefix a at 3", "delete-prefix PREFIX"),
            ("if a", "after its key"),
            ("if a version ~ 3", "compares nothing"),
            ("if a version = x", "no whole number"),
            ("if a exists\nset a 1", "'then' comes"),
            ("set a 1\nif a exists", "come before"),
            ("get a\nelse\nget b", "needs a condition"),
            ("begin\nget a", "no 'end'"),
            ("end", "no 'begin'"),
            ("set a \"open", "not closed"),
            ("set a \"b\"c", "a space has to follow"),
            ("set a \\q", "no escape sequence"),
            ("set a 1\nset a 2", "twice"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(expected), "{text:?}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_word_is_read_as_what_was_meant(key in vec(any::<u8>(), 1..20), value in vec(any::<u8>(), 0..20)) {
            let transaction = Transaction::new().then(Operation::set(&key, value));
            prop_assert_eq!(read(&shown(&transaction).join("\n")), Ok(transaction));
        }

        #[test]
        fn no_line_is_too_strange(line in vec(any::<u8>(), 0..60)) {
            let _ = Script::default().add(&line);
        }
    }
}
