//! `mokv compact`: makes earlier revisions unreadable, so that the versions which only they show are removed.

use clap::Args;
use serde_json::json;

use super::connect::Connect;
use super::failure::Failure;

/// Give up the history before a revision
///
/// Earlier revisions cannot be read any more, on any node, and what only they show is removed. The leader does the
/// same by itself, by age and by size: see 'mokv configure'. Keys and values as they are now stay.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv compact            everything before the present revision
  mokv compact 1200")]
pub struct Compact {
    /// The earliest revision that is to be readable [default: the present one]
    #[arg(value_name = "REVISION")]
    revision: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

impl Compact {
    /// Compacts the history.
    ///
    /// # Errors
    /// If the revision is not there yet, or the compaction failed or has an unknown outcome.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client()?;
        let compacted = client.compact(self.revision).await;
        let floor = compacted.map_err(|error| self.connect.failure("compact the history", error))?;
        let answer = format!("the earliest revision that can be read is {floor}");
        self.connect.output().answer(answer, &json!({ "floor_revision": floor }))
    }
}
