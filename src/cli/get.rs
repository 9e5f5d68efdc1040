//! `mokv get`: reads one key or several.

use std::ffi::OsString;

use clap::Args;
use serde_json::{Value as Json, json};

use super::connect::Connect;
use super::failure::Failure;
use super::format::Format;
use super::key::{KeySyntax, add_key};
use super::output::{Row, escaped, json_value, shortened};
use crate::client::{KeyValue, ReadOptions};

/// Read keys
///
/// Writes the value of one key as it is, byte by byte; on a terminal a newline follows. Several keys are read at one
/// revision and become a table, or with --output json or plain a line each. Exit code 3: a key does not exist.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv get greeting
  mokv get photo > photo.jpg
  mokv get greeting planet            a table of both
  mokv get greeting --output table    with its revision and version
  mokv get greeting --at-revision 7   as it was then
  mokv get greeting --output json     {\"key\":..,\"value\":{\"text\":..,\"base64\":..},\"mod_revision\":..,..}
                                      (text, or a key, is null where it is not UTF-8; key_base64 never is)
  mokv get --escaped-keys 'a\\xff'     a key that is no text, written as tables show it")]
pub struct Get {
    /// The keys
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<OsString>,
    #[command(flatten)]
    syntax: KeySyntax,
    /// Read the keys as they were at this revision
    #[arg(long, value_name = "REVISION", conflicts_with = "stale")]
    at_revision: Option<u64>,
    /// Answer at once from one node's memory, possibly with an old value
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Get {
    /// Reads the keys and writes the results.
    ///
    /// # Errors
    /// If a key does not exist, or a read failed.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client_for_all()?;
        let mut options = read_options(self.stale);
        if let Some(revision) = self.at_revision {
            options = options.at_revision(revision);
        }
        let keys = self.keys.into_iter().map(|key| self.syntax.key(key)).collect::<Result<Vec<_>, _>>()?;
        let (one, names) = (keys.len() == 1, keys.iter().map(|key| escaped(key)).collect::<Vec<_>>());
        let shown = format!("'{}'", names.join("', '"));
        let read = match keys.as_slice() {
            [key] => client.get_with(key, options).await.map(|read| (read.revision, vec![read.entry])),
            keys => client.get_many_with(keys, options).await.map(|read| (read.revision, read.entries)),
        };
        let (revision, entries) =
            read.map_err(|error| self.connect.failure(&format!("read {shown}"), error))?;
        let mut found = Vec::new();
        let mut absent = Vec::new();
        for (key, entry) in keys.iter().zip(entries) {
            match entry {
                Some(entry) => found.push((revision, entry)),
                None => absent.push(format!("there is no key '{}' at revision {revision}", escaped(key))),
            }
        }
        let mut output = self.connect.output_or(if one { Format::Plain } else { Format::Table });
        match (output.format(), found.as_slice()) {
            (_, []) => {}
            (Format::Plain, [(_, entry)]) if one => {
                output.bytes(&entry.value)?;
                if output.is_terminal() && !entry.value.ends_with(b"\n") {
                    output.bytes(b"\n")?;
                }
                output.flush()?;
            }
            (Format::Plain, _) => {
                for (_, entry) in &found {
                    output.line(format!("{}\t{}", escaped(&entry.key), escaped(&entry.value)))?;
                }
            }
            (Format::Table | Format::Json, _) => {
                let rows = found.iter().map(|(revision, entry)| Row {
                    cells: vec![
                        escaped(&entry.key),
                        entry.mod_revision.to_string(),
                        entry.version.to_string(),
                        shortened(&entry.value),
                    ],
                    json: entry_json(entry, *revision, false),
                });
                output.rows(&["KEY", "REVISION", "VERSION", "VALUE"], rows)?;
            }
        }
        if absent.is_empty() {
            return Ok(());
        }
        Err(Failure::not_found(absent.join(", "), "'mokv list --keys-only' lists the keys"))
    }
}

/// Returns the options of a read with or without `--stale`.
pub fn read_options(stale: bool) -> ReadOptions {
    if stale { ReadOptions::stale() } else { ReadOptions::linearizable() }
}

/// Returns an entry that was read at `revision` of the store.
pub fn entry_json(entry: &KeyValue, revision: u64, keys_only: bool) -> Json {
    let mut object = json!({
        "create_revision": entry.create_revision,
        "mod_revision": entry.mod_revision,
        "version": entry.version,
        "revision": revision,
    });
    add_key(&mut object, "key", &entry.key);
    if !keys_only {
        object["value"] = json_value(&entry.value);
    }
    object
}
