//! `mokv members`: who belongs to the cluster, and taking one out of it.

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::connect::Connect;
use super::failure::Failure;
use super::output::Row;
use crate::client::Server;

/// List the members of the cluster, or remove one
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  mokv members
  mokv members --output json | jq -r .rpc_addr
  mokv members remove node-3"
)]
pub struct Members {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Take a member out of the cluster; its id never comes back, and a node that still runs joins anew
    ///
    /// Its node id is never admitted again. To stop a node for a while, just stop it: it stays a member.
    Remove(Remove),
}

#[derive(Debug, Args)]
struct Remove {
    /// The member's name
    name: String,
    #[command(flatten)]
    connect: Connect,
}

impl Members {
    /// Lists or removes.
    ///
    /// # Errors
    /// If the call failed, or there is no such member.
    pub async fn run(self) -> Result<(), Failure> {
        match self.action {
            Some(Action::Remove(remove)) => remove.run().await,
            None => list(&self.connect).await,
        }
    }
}

async fn list(connect: &Connect) -> Result<(), Failure> {
    let client = connect.client()?;
    let mut servers = client.servers().await.map_err(|error| connect.failure("list the members", error))?;
    servers.sort_by(|left, right| left.id.cmp(&right.id));
    let rows = servers.iter().map(|server| Row {
        cells: vec![
            server.id.clone(),
            node_id(server.node_id),
            server.rpc_addr.clone(),
            role(server).to_owned(),
        ],
        json: server_json(server),
    });
    connect.output().rows(&["NAME", "NODE ID", "RPC ADDRESS", "ROLE"], rows)
}

impl Remove {
    async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client()?;
        let removed = client
            .remove_member(&self.name)
            .await
            .map_err(|error| self.connect.failure(&format!("remove the member '{}'", self.name), error))?;
        self.connect.output().answer(
            format!("removed {}, node id {}", self.name, node_id(removed)),
            &json!({ "name": self.name, "node_id": node_id(removed) }),
        )
    }
}

fn server_json(server: &Server) -> Json {
    json!({
        "name": server.id,
        "node_id": node_id(server.node_id),
        "rpc_addr": server.rpc_addr,
        "role": role(server),
    })
}

/// "leader", "voter" or "learner".
fn role(server: &Server) -> &'static str {
    match (server.is_leader, server.is_learner) {
        (true, _) => "leader",
        (false, true) => "learner",
        (false, false) => "voter",
    }
}

/// A node id as people see it everywhere: sixteen hexadecimal digits. As a number it would lose digits in JSON.
pub fn node_id(id: u64) -> String {
    format!("{id:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_ids_in_words() {
        let server = Server { id: "n".into(), node_id: u64::MAX, is_learner: true, ..Server::default() };
        assert_eq!(
            server_json(&server),
            json!({"name": "n", "node_id": "ffffffffffffffff", "rpc_addr": "", "role": "learner"}),
        );
        assert_eq!(role(&Server { is_leader: true, ..Server::default() }), "leader");
        assert_eq!(role(&Server::default()), "voter");
    }
}
