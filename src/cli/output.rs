//! The output of commands on stdout: for people on a terminal, for programs everywhere else. Never panics when the
//! reader has gone.

use std::io::{self, IsTerminal, Write};

use base64::Engine;
use comfy_table::Table;
use serde_json::{Value as Json, json};

use super::failure::Failure;
use super::format::Format;
use crate::map::ShownDigest;

/// Rows of a table that are formatted together: columns align within them, and memory stays bounded.
pub const TABLE_ROWS: usize = 500;
/// Most characters of a value in a table.
const SHOWN_CHARACTERS: usize = 60;

/// One result: as columns, and as JSON.
pub struct Row {
    /// A cell for each heading.
    pub cells: Vec<String>,
    /// The same and more, for programs.
    pub json: Json,
}

/// stdout of a command.
pub struct Output {
    stdout: io::StdoutLock<'static>,
    /// stdout is a terminal.
    terminal: bool,
    format: Format,
}

impl Output {
    /// Locks stdout.
    pub fn new(format: Format) -> Output {
        let stdout = io::stdout().lock();
        let terminal = stdout.is_terminal();
        Output { stdout, terminal, format }
    }

    /// Returns the format of the results.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether stdout is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// If stdout cannot be written to.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stdout.write_all(bytes).map_err(|error| Failure::output(&error))
    }

    /// Writes one line.
    ///
    /// # Errors
    /// If stdout cannot be written to.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.bytes(text.as_ref().as_bytes())?;
        self.bytes(b"\n")?;
        self.flush()
    }

    /// Writes one JSON value on a line of its own.
    ///
    /// # Errors
    /// If stdout cannot be written to.
    pub fn json(&mut self, value: &Json) -> Result<(), Failure> {
        self.line(value.to_string())
    }

    /// Writes the one result of a command: a sentence for people and scripts, JSON for programs.
    ///
    /// # Errors
    /// If stdout cannot be written to.
    pub fn answer(&mut self, sentence: impl AsRef<str>, json: &Json) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(json),
            Format::Table | Format::Plain => self.line(sentence),
        }
    }

    /// Writes several results.
    ///
    /// # Errors
    /// If stdout cannot be written to.
    pub fn rows(&mut self, header: &[&str], rows: impl IntoIterator<Item = Row>) -> Result<(), Failure> {
        let mut rows = rows.into_iter();
        match self.format {
            Format::Table => self.line(table(header, rows.map(|row| row.cells))),
            Format::Json => rows.try_for_each(|row| self.json(&row.json)),
            Format::Plain => rows.try_for_each(|row| self.line(row.cells.join("\t"))),
        }
    }

    /// Flushes stdout.
    ///
    /// # Errors
    /// If stdout cannot be written to.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(|error| Failure::output(&error))
    }
}

/// Returns a table: columns under their headings, two spaces apart.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    let columns = table.column_count();
    for column in 0..columns {
        table.column_mut(column).expect("it was counted").set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Returns a value in JSON: always as base64, and also as text if it is UTF-8.
pub fn json_value(value: &[u8]) -> Json {
    json!({
        "text": std::str::from_utf8(value).ok(),
        "base64": base64::engine::general_purpose::STANDARD.encode(value),
    })
}

/// Returns one line of text for any bytes, which can be decoded unambiguously: tab, newline, carriage return and
/// backslash become `\t`, `\n`, `\r`, `\\`; other control characters and bytes that are not UTF-8 become `\xHH`.
pub fn escaped(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\t' => line.push_str("\\t"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '\\' => line.push_str("\\\\"),
                _ if character.is_control() => {
                    let mut utf8 = [0; 4];
                    push_hex(&mut line, character.encode_utf8(&mut utf8).as_bytes());
                }
                _ => line.push(character),
            }
        }
        push_hex(&mut line, chunk.invalid());
    }
    line
}

fn push_hex(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        line.push_str(&format!("\\x{byte:02x}"));
    }
}

/// Returns the beginning of a value, for a cell of a table.
pub fn shortened(value: &[u8]) -> String {
    // A character has at most four bytes, so this is enough to detect that the value is too long.
    let beginning = &value[..value.len().min(4 * SHOWN_CHARACTERS + 4)];
    let text = escaped(beginning);
    if beginning.len() == value.len() && text.chars().count() <= SHOWN_CHARACTERS {
        return text;
    }
    let shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
    format!("{shown}... ({} bytes)", value.len())
}

/// Returns the number of keys in words.
pub fn keys(count: u64) -> String {
    if count == 1 { "1 key".into() } else { format!("{count} keys") }
}

/// Returns the number of changes in words.
pub fn changes(count: u64) -> String {
    if count == 1 { "1 change".into() } else { format!("{count} changes") }
}

/// Returns the digest as text; `-` if the cluster has no key for it.
pub fn digest(digest: Option<ShownDigest>) -> String {
    digest.map_or_else(|| "-".into(), |digest| digest.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_never_breaks_its_line_and_differs_from_its_escape() {
        assert_eq!(escaped("a\tb\nc\\n\u{1b}[1m é".as_bytes()), r"a\tb\nc\\n\x1b[1m é");
        assert_eq!(escaped(b"\xff\x00z"), r"\xff\x00z");
        assert_ne!(escaped(b"\n"), escaped(br"\n"));
    }

    #[test]
    fn long_values_are_cut_and_say_how_long_they_are() {
        assert_eq!(shortened(b"short"), "short");
        let long = vec![b'x'; 5000];
        assert_eq!(shortened(&long), format!("{}... (5000 bytes)", "x".repeat(60)));
        assert_eq!(shortened("é".repeat(60).as_bytes()), "é".repeat(60));
    }

    #[test]
    fn tables_are_plain_columns() {
        let text =
            table(&["KEY", "N"], [vec!["a".to_owned(), "1".to_owned()], vec!["long".into(), "22".into()]]);
        assert_eq!(text, "KEY   N\na     1\nlong  22");
    }

    #[test]
    fn json_has_text_only_where_it_is_text() {
        assert_eq!(json_value(b"hi"), json!({"text": "hi", "base64": "aGk="}));
        assert_eq!(json_value(b"\xff"), json!({"text": null, "base64": "/w=="}));
    }
}
