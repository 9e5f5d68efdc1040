//! `mokv configure`: the settings that all nodes share, because they determine the result of a write.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::connect::Connect;
use super::failure::Failure;
use super::output::Row;
use crate::client::SettingsChange;
use crate::config::{parse_bytes, parse_time};
use crate::replicated_settings::{MAX_SESSIONS, MAX_TRANSACTION_CHANGES, seconds_of_age};

/// Change the settings that all nodes share, or show them
///
/// They are part of the replicated state, so every node applies them at the same position of the log. Without
/// a flag nothing changes. The wanted size, 0 for any, is changed by 'mokv members resize'.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv configure                            shows them
  mokv configure --max-store-bytes 2GiB
  mokv configure --history-max-age 1h --history-max-bytes 512MiB")]
pub struct Configure {
    /// Most client sessions kept at a time; the least recently used one makes room
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(MAX_SESSIONS))]
    max_sessions: Option<u64>,
    /// Most bytes that the store must keep: keys, values and sessions, each with what it takes besides; 0: no bound
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_store_bytes: Option<u64>,
    /// How long a revision can be read after later ones, in whole seconds; 0s: no bound. It may reach twice the age
    /// after an election
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    history_max_age: Option<Duration>,
    /// Most bytes of earlier versions of keys; 0: no bound
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    history_max_bytes: Option<u64>,
    /// So many revisions before the present one can be read, whatever their age and size
    #[arg(long, value_name = "N")]
    history_min_revisions: Option<u64>,
    /// Most keys that one transaction changes; nothing else is done meanwhile
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(MAX_TRANSACTION_CHANGES))]
    max_transaction_changes: Option<u64>,
    /// Most bytes that one transaction looks at to test its conditions and to find what it deletes
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_transaction_bytes: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

impl Configure {
    /// Changes the given settings.
    ///
    /// # Errors
    /// If the change failed or has an unknown outcome.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client()?;
        let mut change = SettingsChange::none();
        change.max_sessions = self.max_sessions;
        change.max_store_bytes = self.max_store_bytes.map(NonZeroU64::new);
        change.history_max_age = self.history_max_age.map(|age| Some(age).filter(|age| !age.is_zero()));
        change.history_max_bytes = self.history_max_bytes.map(NonZeroU64::new);
        change.history_min_revisions = self.history_min_revisions;
        change.max_transaction_changes = self.max_transaction_changes;
        change.max_transaction_bytes = self.max_transaction_bytes;
        let settings = client
            .configure(change)
            .await
            .map_err(|error| self.connect.failure("configure the cluster", error))?;
        let bytes = |bound: Option<NonZeroU64>| bound.map_or(0, NonZeroU64::get);
        let settings = [
            ("max-sessions", settings.max_sessions, ""),
            ("max-store-bytes", bytes(settings.max_store_bytes), ""),
            ("history-max-age", seconds_of_age(settings.history_max_age), "s"),
            ("history-max-bytes", bytes(settings.history_max_bytes), ""),
            ("history-min-revisions", settings.history_min_revisions, ""),
            ("max-transaction-changes", settings.max_transaction_changes, ""),
            ("max-transaction-bytes", settings.max_transaction_bytes, ""),
            ("wanted-size", settings.wanted_size.map_or(0, NonZeroU32::get).into(), ""),
        ];
        let mut output = self.connect.output();
        let rows = settings.map(|(name, value, unit)| Row {
            cells: vec![name.to_owned(), format!("{value}{unit}")],
            json: json!({ "setting": name, "value": value }),
        });
        output.rows(&["SETTING", "VALUE"], rows)
    }
}

/// Parses an age: whole seconds, because the cluster keeps it as such.
fn parse_age(text: &str) -> Result<Duration, String> {
    let age = parse_time(text)?;
    match age.subsec_nanos() {
        0 => Ok(age),
        _ => Err("an age is in whole seconds: 30s, 5m, 2h".to_owned()),
    }
}
