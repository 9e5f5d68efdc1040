//! `mokv left`: shows or deletes the files of earlier nodes in a data directory.

use clap::Args;
use serde_json::json;

use super::confirm::confirmed;
use super::failure::Failure;
use super::format::Format;
use super::output::{Output, Row};
use super::serve::{SettingFlags, open_data_directory};
use crate::config;
use crate::node::left::{self, Left as OfflineState};
use crate::storage::StorageError;

/// Show or delete what removed nodes have left in a stopped node's data directory
///
/// A node that its cluster has removed keeps its old data under names that begin with 'left-' and starts over; so does one
/// that 'mokv recover' made a new cluster of. Nothing reads these files again. They can be searched for a lost write, and
/// take up space until they are deleted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv left --config-file node-3.yaml             how many files and bytes there are
  mokv left --config-file node-3.yaml --remove    delete them, after asking")]
pub struct Left {
    /// Delete them, after asking
    #[arg(long)]
    remove: bool,
    /// Do not ask before --remove
    #[arg(long, requires = "remove")]
    yes: bool,
    /// How to write the result
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    settings: SettingFlags,
}

impl Left {
    /// Shows or deletes.
    ///
    /// # Errors
    /// If the configuration is refused, the node runs, the user declines, or the disk fails.
    pub async fn run(self) -> Result<(), Failure> {
        let config = config::load(&self.settings.0, |name| std::env::var(name).ok())?;
        let directory = config.data_dir.display();
        if !config.data_dir.exists() {
            return Err(Failure::error(
                format!("there is no data directory {directory}"),
                "name the node's with --data-dir or --config-file",
            ));
        }
        let disk = open_data_directory(&config)?;
        let failed = |error: StorageError| {
            Failure::error(
                format!("what is left in {directory} is as it was, or partly deleted: {error}"),
                "try again",
            )
        };
        let OfflineState { files, bytes } = left::measure(&disk).await.map_err(failed)?;
        if self.remove && files > 0 {
            let question =
                format!("{files} files of earlier nodes ({bytes} bytes) in {directory} will be deleted.");
            if !self.yes && !confirmed(&question, &config.node_name)? {
                return Err(Failure::error("nothing was deleted", "leave out --remove to see what there is"));
            }
            left::remove(&disk).await.map_err(failed)?;
        }
        let done = if self.remove { "deleted" } else { "kept" };
        let row = Row {
            cells: vec![files.to_string(), bytes.to_string(), done.to_owned()],
            json: json!({ "data_dir": directory.to_string(), "files": files, "bytes": bytes, "deleted": self.remove }),
        };
        Output::new(self.output).rows(&["FILES", "BYTES", ""], [row])
    }
}
