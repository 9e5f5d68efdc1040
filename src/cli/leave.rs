//! `mokv leave`: a node leaves its cluster for good.

use clap::Args;
use serde_json::json;

use super::confirm::confirmed;
use super::connect::Connect;
use super::failure::Failure;

/// Take one node out of its cluster for good and end its process
///
/// The node at --endpoints leaves: its id is never admitted again, and its data is of no use to the cluster any more. A
/// node that the others cannot do without refuses and goes on. If the node is started again it joins as another one, under
/// a new id. To stop a node for a while, just stop it: it stays a member.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv leave --endpoints 10.0.0.4:8400
  mokv leave --endpoints 10.0.0.4:8400 --yes")]
pub struct Leave {
    /// Do not ask before
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Leave {
    /// Asks the node to leave.
    ///
    /// # Errors
    /// If more than one node is named, the user declines, the node does not answer, or it stays.
    pub async fn run(self) -> Result<(), Failure> {
        let [address] = self.connect.endpoints()? else {
            return Err(Failure::usage(
                "more than one node is named",
                "name the one that leaves with --endpoints",
            ));
        };
        let client = self.connect.client()?;
        let failed = |error| self.connect.failure(&format!("take the node at {address} out"), error);
        let name = client.status(address).await.map_err(failed)?.name;
        let question = format!("Node '{name}' at {address} will leave its cluster for good.");
        if !self.yes && !confirmed(&question, &name)? {
            return Err(Failure::error(
                "nothing was changed",
                "stop the node without leaving: it stays a member",
            ));
        }
        client.leave(address).await.map_err(failed)?;
        self.connect.output().answer(format!("{name} has left and stops"), &json!({ "name": name }))
    }
}
