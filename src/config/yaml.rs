//! The configuration file: one YAML mapping from keys to scalars or lists of scalars, each with its line.
//!
//! Checks the keys, not the values. A scalar is kept as written: 'no' stays 'no' and 0x10 stays 0x10, whatever they mean
//! in YAML.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use super::layers::{ConfigError, Given, Layer, Source};
use super::settings;

/// Parses the text of the file `path`.
///
/// # Errors
/// If it is not a YAML mapping of known keys, each at most once, to scalars or lists of scalars.
pub fn parse(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    // A file with comments only sets nothing; in YAML it would be a null.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Layer::new());
    }
    let options = serde_saphyr::options! {
        // '007' as a node name stays '007'.
        leading_zero_numbers_as_strings: true,
        // Reported below, with the key.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
    };
    let Document(entries) = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| not_read(path, &error, "write one 'key: value' a line, in YAML"))?;
    let mut layer = Layer::new();
    for (key, node) in entries {
        let line = key.referenced.line();
        let place = format!("{} line {line}: {}", path.display(), key.value);
        let known = settings::find(&key.value).filter(|setting| setting.in_file());
        let Some(setting) = known else {
            let remedy = match settings::nearest(&key.value) {
                Some(near) => format!("did you mean '{}'?", near.key),
                None => "'mokv serve --help' lists the keys".to_owned(),
            };
            return Err(ConfigError::new(place, "there is no such key", remedy));
        };
        let values = match node.value {
            Node::Nothing => continue,
            Node::Plain => Ok(vec![written(text, &node)]),
            Node::Scalar(value) => Ok(vec![value]),
            Node::List(list) => list.into_iter().map(|node| scalar(text, node)).collect(),
            Node::Other(what) => Err(what),
        };
        let values = match values {
            Ok(values) => values,
            Err(what) => {
                let problem = format!("the value is {what}");
                return Err(ConfigError::new(
                    place,
                    problem,
                    "write one value, in quotes if need be, or a list of values",
                ));
            }
        };
        let source = Source::File { path: path.to_owned(), line };
        if layer.insert(setting.key, Given { values, source }).is_some() {
            return Err(ConfigError::new(place, "the key was given before", "keep one of them"));
        }
    }
    Ok(layer)
}

/// Returns the scalar of a list's entry.
fn scalar(text: &str, node: Spanned<Node>) -> Result<String, &'static str> {
    match node.value {
        Node::Scalar(value) => Ok(value),
        Node::Plain => Ok(written(text, &node)),
        Node::Nothing => Err("a list with an empty entry"),
        Node::List(_) | Node::Other(_) => Err("a list with an entry that is not one value"),
    }
}

/// Returns the scalar as written in the file. A number or a truth value contains no space and no quotes.
fn written(text: &str, node: &Spanned<Node>) -> String {
    let from = text.chars().skip(node.defined.span().offset() as usize);
    from.take_while(|c| !c.is_whitespace() && !matches!(c, ',' | ']' | '}')).collect()
}

/// Returns the error for a file with invalid YAML, with its place.
pub fn not_read(path: &Path, error: &serde_saphyr::Error, remedy: &str) -> ConfigError {
    let place = match error.location() {
        Some(location) => format!("{} line {}", path.display(), location.line()),
        None => path.display().to_string(),
    };
    ConfigError::new(place, as_text(error.without_snippet()), remedy)
}

/// Returns the error as text that requires no knowledge of the library.
fn as_text(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error::{
        DuplicateMappingKey, InvalidBooleanStrict, InvalidScalar, MultipleDocuments, NullIntoString,
        SerdeMissingField, SerdeUnknownField, Unexpected,
    };
    match error {
        Unexpected { expected, .. } if expected.contains("sequence") => "a list is expected here".to_owned(),
        Unexpected { expected, .. } if expected.contains("mapping") => {
            "lines of the form 'key: value' are expected here".to_owned()
        }
        Unexpected { .. } | NullIntoString { .. } => "one value is expected here".to_owned(),
        InvalidBooleanStrict { .. } | InvalidScalar { .. } => "true or false is expected here".to_owned(),
        SerdeUnknownField { field, expected, .. } => {
            format!("there is no such key: '{}'; the keys are {}", field.escape_debug(), expected.join(", "))
        }
        SerdeMissingField { field, .. } => format!("the key '{field}' is missing"),
        DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key '{}' was given before", key.escape_debug())
        }
        DuplicateMappingKey { key: None, .. } => "a key was given before".to_owned(),
        MultipleDocuments { .. } => "the file continues after a line '---' or '...'".to_owned(),
        other => format!("this is no YAML: {}", first_line(&other.to_string())),
    }
}

/// serde-saphyr ends its messages with the location and may add lines; the place is reported separately.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    line.split(" at line ").next().unwrap_or(line).to_owned()
}

/// The mapping, in the order of the file.
struct Document(Vec<(Spanned<String>, Spanned<Node>)>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of keys to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Document(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// The value of a key. A value that is no scalar is accepted here and reported by [`parse`], which has the key.
enum Node {
    /// `key:`, which leaves the setting unset.
    Nothing,
    /// A scalar that is a number, a fraction or a truth value in YAML.
    Plain,
    Scalar(String),
    List(Vec<Spanned<Node>>),
    /// Something else, with its description.
    Other(&'static str),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyNode;

        impl<'de> Visitor<'de> for AnyNode {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one value or a list of values")
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Plain)
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Plain)
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Plain)
            }

            fn visit_i128<E: Error>(self, _: i128) -> Result<Node, E> {
                Ok(Node::Plain)
            }

            fn visit_u128<E: Error>(self, _: u128) -> Result<Node, E> {
                Ok(Node::Plain)
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Plain)
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Scalar(value.to_owned()))
            }

            fn visit_unit<E: Error>(self) -> Result<Node, E> {
                Ok(Node::Nothing)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Node::Other("a mapping"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut nodes = Vec::new();
                while let Some(node) = list.next_element()? {
                    nodes.push(node);
                }
                Ok(Node::List(nodes))
            }
        }

        deserializer.deserialize_any(AnyNode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse(Path::new("mokv.yaml"), text).expect_err("this file must be refused").to_string()
    }

    fn values(text: &str, key: &str) -> Vec<String> {
        parse(Path::new("mokv.yaml"), text).unwrap().remove(key).unwrap().values
    }

    #[test]
    fn a_typo_is_refused_with_file_line_key_and_the_nearest_key() {
        let said = refusal("data-dir: /tmp/a\n# a comment\nbind-adr: 127.0.0.1:1\n");
        assert_eq!(said, "mokv.yaml line 3: bind-adr: there is no such key; did you mean 'bind-addr'?");
        let said = refusal("zebra: 1\n");
        assert_eq!(said, "mokv.yaml line 1: zebra: there is no such key; 'mokv serve --help' lists the keys");
    }

    #[test]
    fn the_file_cannot_name_a_file() {
        assert!(refusal("config-file: other.yaml").starts_with("mokv.yaml line 1: config-file:"));
    }

    #[test]
    fn a_key_given_twice_is_refused_with_its_line() {
        let said = refusal("rpc-port: 1\nmetrics-port: 2\nrpc-port: 3\n");
        assert_eq!(said, "mokv.yaml line 3: rpc-port: the key was given before; keep one of them");
    }

    #[test]
    fn a_value_that_is_no_scalar_is_refused_with_line_and_key() {
        for (value, what) in [
            ("{a: b}", "a mapping"),
            ("[a, [b]]", "a list with an entry that is not one value"),
            ("[a, {b: 1}]", "a list with an entry that is not one value"),
            ("[a, ]\nnode-name: [ ~ ]", "a list with an empty entry"),
        ] {
            let said = refusal(&format!("rpc-port: 1\nstart-join-addrs: {value}\n"));
            let line = if value.contains('\n') { "line 3: node-name" } else { "line 2: start-join-addrs" };
            assert!(said.starts_with(&format!("mokv.yaml {line}: the value is {what}; ")), "{said}");
        }
    }

    #[test]
    fn what_is_no_yaml_or_no_mapping_is_refused_with_its_line() {
        assert!(refusal("- a\n- b\n").starts_with("mokv.yaml line 1"));
        assert!(refusal("rpc-port: 1\n bind-addr: a\n").starts_with("mokv.yaml line 2"));
        assert!(refusal("rpc-port: [1\nnode-name: x\n").starts_with("mokv.yaml line "));
    }

    #[test]
    fn scalars_lists_and_nothing() {
        assert_eq!(values("rpc-port: 8400", "rpc-port"), ["8400"]);
        assert_eq!(values("node-name: 007", "node-name"), ["007"]);
        assert_eq!(values("bootstrap: true", "bootstrap"), ["true"]);
        assert_eq!(values("start-join-addrs: 'a:1,b:2'", "start-join-addrs"), ["a:1,b:2"]);
        assert_eq!(values("start-join-addrs: [a:1, 'b:2']", "start-join-addrs"), ["a:1", "b:2"]);
        assert_eq!(values("start-join-addrs: []", "start-join-addrs"), [""; 0]);
        for nothing in ["", "# nothing\n", "advertise-addr:\n"] {
            assert!(parse(Path::new("mokv.yaml"), nothing).unwrap().is_empty(), "{nothing:?}");
        }
    }

    #[test]
    fn no_scalar_becomes_another_one() {
        for scalar in [
            "no",
            "yes",
            "on",
            "Off",
            "True",
            "y",
            "0x10",
            "0o17",
            "0b11",
            "017",
            "1e3",
            "1.10",
            "+5",
            "1_000",
            "-0",
            ".5",
            "1:30",
            "2026-11-29",
            "8400",
        ] {
            for text in [
                format!("node-name: {scalar}\n"),
                format!("# ö\nnode-name:   {scalar}   # a remark\nrpc-port: 1"),
                format!("{{node-name: {scalar}, rpc-port: 1}}"),
                format!("{{node-name: {scalar}}}"),
                format!("node-name: '{scalar}'"),
            ] {
                assert_eq!(values(&text, "node-name"), [scalar], "{text}");
            }
            let list = format!("start-join-addrs: [{scalar}, a:1, {scalar}]\n");
            assert_eq!(values(&list, "start-join-addrs"), [scalar, "a:1", scalar]);
            let list = format!("start-join-addrs:\n  - {scalar}\n  - {scalar} # a remark\n");
            assert_eq!(values(&list, "start-join-addrs"), [scalar, scalar]);
        }
    }

    #[test]
    fn the_line_of_a_value_is_known() {
        let layer = parse(Path::new("mokv.yaml"), "\n\nrpc-port: 8400\n").unwrap();
        assert_eq!(layer["rpc-port"].source, Source::File { path: "mokv.yaml".into(), line: 3 });
    }
}
