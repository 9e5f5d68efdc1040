//! The configuration file: one YAML mapping from keys to words or lists of words, each with its line. Knows
//! which keys exist, not which values they take.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use super::layers::{ConfigError, Given, Layer, Source};
use super::settings;

/// Reads the text of the file called `path`.
///
/// # Errors
/// If it is not a YAML mapping of known keys, each at most once, to words or lists of words.
pub fn parse(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    // A file of comments alone sets nothing; to YAML it would be a null.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Layer::new());
    }
    let options = serde_saphyr::options! {
        // '007' as a node name stays '007'.
        leading_zero_numbers_as_strings: true,
        // Told below, with the key.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
    };
    let Document(entries) = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = match error.location() {
            Some(location) => format!("{} line {}", path.display(), location.line()),
            None => path.display().to_string(),
        };
        let problem = first_line(&error.without_snippet().to_string());
        ConfigError::new(place, problem, "write one 'key: value' a line, in YAML")
    })?;
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
        let words = match node {
            Node::Nothing => continue,
            Node::Word(word) => vec![word],
            Node::Words(words) => words,
            Node::Other(what) => {
                let problem = format!("the value is {what}");
                return Err(ConfigError::new(
                    place,
                    problem,
                    "write a word, in quotes if need be, or a list of words",
                ));
            }
        };
        let source = Source::File { path: path.to_owned(), line };
        if layer.insert(setting.key, Given { words, source }).is_some() {
            return Err(ConfigError::new(place, "the key was given before", "keep one of them"));
        }
    }
    Ok(layer)
}

/// serde-saphyr ends its messages with the location and may add lines; we say the place ourselves.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    line.split(" at line ").next().unwrap_or(line).to_owned()
}

/// The mapping, in the order of the file.
struct Document(Vec<(Spanned<String>, Node)>);

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

/// The value of a key. What is no word is no error here, but told by [`parse`], which knows the key.
enum Node {
    /// `key:`, which leaves the setting unset.
    Nothing,
    Word(String),
    Words(Vec<String>),
    /// Something else, in words.
    Other(&'static str),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyNode;

        impl<'de> Visitor<'de> for AnyNode {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or a list of words")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Word(value.to_string()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Word(value.to_string()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Word(value.to_string()))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Node, E> {
                // As text it might look otherwise than it was written: 1.10 would become 1.1.
                Ok(Node::Other("a fraction"))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Word(value.to_owned()))
            }

            fn visit_unit<E: Error>(self) -> Result<Node, E> {
                Ok(Node::Nothing)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Node::Other("a mapping"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut words = Vec::new();
                let mut other = None;
                while let Some(node) = list.next_element()? {
                    match node {
                        Node::Word(word) => words.push(word),
                        Node::Nothing => other = Some("a list with an empty entry"),
                        Node::Words(_) | Node::Other(_) => other = Some("a list of more than words"),
                    }
                }
                Ok(other.map_or(Node::Words(words), Node::Other))
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

    fn words(text: &str, key: &str) -> Vec<String> {
        parse(Path::new("mokv.yaml"), text).unwrap().remove(key).unwrap().words
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
    fn a_value_that_is_no_word_is_refused_with_line_and_key() {
        for (value, what) in [
            ("{a: b}", "a mapping"),
            ("1.10", "a fraction"),
            ("[a, [b]]", "a list of more than words"),
            ("[a, {b: 1}]", "a list of more than words"),
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
    fn words_lists_and_nothing() {
        assert_eq!(words("rpc-port: 8400", "rpc-port"), ["8400"]);
        assert_eq!(words("node-name: 007", "node-name"), ["007"]);
        assert_eq!(words("bootstrap: true", "bootstrap"), ["true"]);
        assert_eq!(words("start-join-addrs: 'a:1,b:2'", "start-join-addrs"), ["a:1,b:2"]);
        assert_eq!(words("start-join-addrs: [a:1, 'b:2']", "start-join-addrs"), ["a:1", "b:2"]);
        assert_eq!(words("start-join-addrs: []", "start-join-addrs"), [""; 0]);
        for nothing in ["", "# nothing\n", "advertise-addr:\n"] {
            assert!(parse(Path::new("mokv.yaml"), nothing).unwrap().is_empty(), "{nothing:?}");
        }
    }

    #[test]
    fn the_line_of_a_value_is_known() {
        let layer = parse(Path::new("mokv.yaml"), "\n\nrpc-port: 8400\n").unwrap();
        assert_eq!(layer["rpc-port"].source, Source::File { path: "mokv.yaml".into(), line: 3 });
    }
}
