//! Keys on the command line, in tables and in JSON. A key is bytes; most keys are text.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use serde_json::{Value as Json, json};

use super::failure::Failure;

/// How the keys among the arguments are written.
#[derive(Debug, Clone, Copy, Args)]
pub struct KeySyntax {
    /// Keys are written as tables show them: \t, \n, \r, \\ and \xHH stand for one byte each
    #[arg(long = "escaped-keys")]
    escaped: bool,
}

impl KeySyntax {
    /// Returns the key, or the beginning of keys, that an argument stands for.
    ///
    /// # Errors
    /// If it is escaped and an escape sequence in it is none.
    pub fn key(self, argument: OsString) -> Result<Bytes, Failure> {
        let bytes = argument.into_vec();
        if !self.escaped {
            return Ok(bytes.into());
        }
        unescaped(&bytes).map(Bytes::from).map_err(|sequence| {
            let (sequence, key) = (String::from_utf8_lossy(sequence), String::from_utf8_lossy(&bytes));
            Failure::usage(
                format!("'{sequence}' in '{key}' is no escape sequence"),
                "write \\t, \\n, \\r, \\\\, or \\x and two hexadecimal digits",
            )
        })
    }
}

/// Returns the bytes for which [`escaped`](super::output::escaped) returns this text.
///
/// # Errors
/// The first sequence that begins with a backslash and is no escape sequence.
pub fn unescaped(mut text: &[u8]) -> Result<Vec<u8>, &[u8]> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some(at) = text.iter().position(|byte| *byte == b'\\') {
        bytes.extend_from_slice(&text[..at]);
        let (byte, length) = match &text[at..] {
            [_, b't', ..] => (b'\t', 2),
            [_, b'n', ..] => (b'\n', 2),
            [_, b'r', ..] => (b'\r', 2),
            [_, b'\\', ..] => (b'\\', 2),
            [_, b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex_digit(*high) << 4 | hex_digit(*low), 4)
            }
            sequence => return Err(&sequence[..sequence.len().min(4)]),
        };
        bytes.push(byte);
        text = &text[at + length..];
    }
    bytes.extend_from_slice(text);
    Ok(bytes)
}

/// Returns the value of an ASCII hexadecimal digit.
fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.to_ascii_lowercase() - b'a' + 10,
    }
}

/// Adds a key, or the beginning of keys, to a JSON object: as text, or null if it is not UTF-8, and always as base64.
pub fn add_key(object: &mut Json, name: &str, key: &[u8]) {
    object[name] = json!(std::str::from_utf8(key).ok());
    object[format!("{name}_base64")] = json!(STANDARD.encode(key));
}

#[cfg(test)]
mod tests {
    use super::super::output::escaped;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn a_backslash_that_begins_no_escape_sequence_is_named() {
        for (text, wrong) in
            [(r"a\q", r"\q"), (r"a\", r"\"), (r"\x0", r"\x0"), (r"\xg0abc", r"\xg0"), (r"\t\x", r"\x")]
        {
            assert_eq!(unescaped(text.as_bytes()), Err(wrong.as_bytes()), "{text}");
        }
        assert_eq!(unescaped(br"\xfF\t\\x").unwrap(), b"\xff\t\\x");
    }

    #[test]
    fn a_key_in_json_is_text_where_it_can_be_and_base64_always() {
        let mut object = json!({});
        add_key(&mut object, "key", b"a/b");
        add_key(&mut object, "prefix", b"\xff");
        assert_eq!(
            object,
            json!({ "key": "a/b", "key_base64": "YS9i", "prefix": null, "prefix_base64": "/w==" })
        );
    }

    proptest! {
        #[test]
        fn every_key_that_a_table_shows_can_be_typed(key in vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(unescaped(escaped(&key).as_bytes()).unwrap(), key);
        }

        #[test]
        fn any_text_is_read_or_refused(text in vec(prop_oneof![Just(b'\\'), Just(b'x'), any::<u8>()], 0..12)) {
            if let Ok(bytes) = unescaped(&text) {
                prop_assert!(bytes.len() <= text.len());
            }
        }
    }
}
