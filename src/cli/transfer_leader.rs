//! `mokv transfer-leader`: transfers leadership to another voter.

use clap::Args;
use serde_json::json;

use super::connect::Connect;
use super::failure::Failure;

/// Hand leadership over to another node
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv transfer-leader                  to the most up-to-date voter
  mokv transfer-leader --to node-2")]
pub struct TransferLeader {
    /// Name of the node that shall lead
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

impl TransferLeader {
    /// Transfers leadership.
    ///
    /// # Errors
    /// If there is no such member, or the transfer failed.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client()?;
        let leader = client
            .transfer_leader(self.to.as_deref())
            .await
            .map_err(|error| self.connect.failure("hand over leadership", error))?;
        self.connect.output().answer(format!("{leader} leads"), &json!({ "leader": leader }))
    }
}
