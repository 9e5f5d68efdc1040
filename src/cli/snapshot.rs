//! `mokv snapshot`: lets nodes write a snapshot now.

use clap::Args;
use serde_json::json;

use super::connect::Connect;
use super::failure::Failure;
use super::output::Row;

/// Let every node write a snapshot of its state now
///
/// Nodes do so by themselves (snapshot-log-entries); a snapshot before a planned restart makes the restart quick.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv snapshot
  mokv snapshot --only 127.0.0.1:8402")]
pub struct Snapshot {
    /// Only the node at this address
    #[arg(long, value_name = "HOST:PORT")]
    only: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

impl Snapshot {
    /// Asks the nodes, all at once.
    ///
    /// # Errors
    /// If one of them did not write its snapshot.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client()?;
        let addresses = match &self.only {
            Some(address) => vec![address.clone()],
            None => self.connect.all_nodes(&client).await,
        };
        let asked = addresses.iter().map(|address| client.snapshot(address));
        let answers = futures_util::future::join_all(asked).await;
        let mut failed = None;
        let mut rows = Vec::new();
        for (address, answer) in addresses.iter().zip(answers) {
            match answer {
                Ok(index) => rows.push(Row {
                    cells: vec![address.clone(), index.to_string()],
                    json: json!({ "rpc_addr": address, "index": index }),
                }),
                Err(error) => {
                    let action = format!("take a snapshot of the node at {address}");
                    failed = Some(self.connect.failure(&action, error));
                }
            }
        }
        if !rows.is_empty() {
            self.connect.output().rows(&["RPC ADDRESS", "LOG INDEX"], rows)?;
        }
        failed.map_or(Ok(()), Err)
    }
}
