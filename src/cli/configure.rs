//! `mokv configure`: the settings that all nodes share, because they determine the result of a write.

use std::num::{NonZeroU32, NonZeroU64};

use clap::Args;
use serde_json::json;

use super::connect::Connect;
use super::failure::Failure;
use super::output::Row;
use crate::client::SettingsChange;
use crate::config::parse_bytes;
use crate::replicated_settings::MAX_SESSIONS;

/// Change the settings that all nodes share, or show them
///
/// They are part of the replicated state, so every node applies them at the same position of the log. Without
/// a flag nothing changes. The wanted size, 0 for any, is changed by 'mokv members resize'.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv configure                            shows them
  mokv configure --max-store-bytes 2GiB")]
pub struct Configure {
    /// Most client sessions kept at a time; the least recently used one makes room
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(MAX_SESSIONS))]
    max_sessions: Option<u64>,
    /// Most bytes of keys and values in the store; 0: no bound
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_store_bytes: Option<u64>,
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
        let settings = client
            .configure(change)
            .await
            .map_err(|error| self.connect.failure("configure the cluster", error))?;
        let settings = [
            ("max-sessions", settings.max_sessions),
            ("max-store-bytes", settings.max_store_bytes.map_or(0, NonZeroU64::get)),
            ("wanted-size", settings.wanted_size.map_or(0, NonZeroU32::get).into()),
        ];
        let mut output = self.connect.output();
        let rows = settings.map(|(name, value)| Row {
            cells: vec![name.to_owned(), value.to_string()],
            json: json!({ "setting": name, "value": value }),
        });
        output.rows(&["SETTING", "VALUE"], rows)
    }
}
