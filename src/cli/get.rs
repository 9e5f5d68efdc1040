//! `mokv get`: reads one key.

use clap::Args;
use serde_json::{Value as Json, json};

use super::connect::Connect;
use super::failure::Failure;
use super::output::{Format, Row, escaped, json_value, shortened};
use crate::client::{Consistency, KeyValue, ReadOptions};

/// Read one key
///
/// Writes the value as it is, byte by byte; on a terminal a newline follows. Exit code 3: there is no such key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv get greeting
  mokv get photo > photo.jpg
  mokv get greeting --output table    with its revision and version
  mokv get greeting --output json     {\"key\":..,\"value\":{\"text\":..,\"base64\":..},\"mod_revision\":..,..}
                                      (text is null where the value is not UTF-8)")]
pub struct Get {
    /// The key
    key: String,
    /// Answer at once from one node's memory, possibly with an old value
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Get {
    /// Reads and writes it out.
    ///
    /// # Errors
    /// If there is no such key, or the read failed.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client()?;
        let options = ReadOptions { consistency: consistency(self.stale) };
        let read = client
            .get(&self.key, options)
            .await
            .map_err(|error| self.connect.failure(&format!("read '{}'", self.key), error))?;
        let Some(entry) = read.entry else {
            return Err(Failure::not_found(
                format!("there is no key '{}' at revision {}", self.key, read.revision),
                "'mokv list --keys-only' lists the keys",
            ));
        };
        let mut output = self.connect.output_or(Format::Plain);
        if output.format() != Format::Plain {
            let row = Row {
                cells: vec![
                    escaped(&entry.key),
                    entry.mod_revision.to_string(),
                    entry.version.to_string(),
                    shortened(&entry.value),
                ],
                json: entry_json(&entry, read.revision, false),
            };
            return output.rows(&["KEY", "REVISION", "VERSION", "VALUE"], [row]);
        }
        output.bytes(&entry.value)?;
        if output.is_terminal() && !entry.value.ends_with(b"\n") {
            output.bytes(b"\n")?;
        }
        output.flush()
    }
}

/// How fresh a read is that was or was not given `--stale`.
pub fn consistency(stale: bool) -> Consistency {
    if stale { Consistency::Stale } else { Consistency::Linearizable }
}

/// An entry read at `revision` of the store.
pub fn entry_json(entry: &KeyValue, revision: u64, keys_only: bool) -> Json {
    let mut object = json!({
        // The service takes keys that are UTF-8 only.
        "key": String::from_utf8_lossy(&entry.key),
        "create_revision": entry.create_revision,
        "mod_revision": entry.mod_revision,
        "version": entry.version,
        "revision": revision,
    });
    if !keys_only {
        object["value"] = json_value(&entry.value);
    }
    object
}
