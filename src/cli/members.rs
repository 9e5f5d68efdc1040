//! `mokv members`: who belongs to the cluster, and taking one out of it.

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::connect::Connect;
use super::failure::Failure;
use super::output::Row;
use crate::client::Server;
use crate::node_id::NodeId;

/// List the members of the cluster, or remove one
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  mokv members
  mokv members --output json | jq -r .rpc_addr
  mokv members remove node-3
  mokv members resize --to 3             of node-1 ... node-5, node-5 and node-4 go"
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
    /// Make the cluster smaller: the members with the highest numbers at the end of their names go
    ///
    /// One after the other, each as by 'members remove', and each only if the others can do without it. Stop their
    /// nodes as well. (To make a cluster larger, start more nodes.)
    Resize(Resize),
}

#[derive(Debug, Args)]
struct Remove {
    /// The member's name
    name: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct Resize {
    /// How many members there shall be
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    to: u32,
    #[command(flatten)]
    connect: Connect,
}

impl Members {
    /// Lists, removes or resizes.
    ///
    /// # Errors
    /// If the call failed, or there is no such member.
    pub async fn run(self) -> Result<(), Failure> {
        match self.action {
            Some(Action::Remove(remove)) => remove.run().await,
            Some(Action::Resize(resize)) => resize.run().await,
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

impl Resize {
    async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client()?;
        let members = client.servers().await;
        let members = members.map_err(|error| self.connect.failure("list the members", error))?;
        let names = members.iter().map(|server| server.id.as_str());
        let leaving = highest(names, self.to as usize)?;
        let mut rows = Vec::new();
        for name in leaving {
            let removed = client.remove_member(&name).await;
            let action = format!("remove the member '{name}'");
            let node_id = node_id(removed.map_err(|error| self.connect.failure(&action, error))?);
            let json = json!({ "name": name, "node_id": node_id });
            rows.push(Row { cells: vec![name, node_id], json });
        }
        self.connect.output().rows(&["REMOVED", "NODE ID"], rows)
    }
}

/// Which of these members go, so that `to` are left: those with the highest numbers, the highest first.
fn highest<'a>(names: impl Iterator<Item = &'a str>, to: usize) -> Result<Vec<String>, Failure> {
    let mut numbered = Vec::new();
    for name in names {
        let digits = name.len() - name.trim_end_matches(|last: char| last.is_ascii_digit()).len();
        let number: u64 = name[name.len() - digits..].parse().map_err(|_| {
            let what = format!("'{name}' does not end with a number, so it cannot be said which members go");
            Failure::usage(what, "remove members by name: 'mokv members remove NAME'")
        })?;
        numbered.push((number, name.to_owned()));
    }
    numbered.sort();
    let leaving = numbered.split_off(to.min(numbered.len()));
    Ok(leaving.into_iter().rev().map(|(_, name)| name).collect())
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

/// A node id as a cell or in JSON.
pub fn node_id(id: u64) -> String {
    NodeId(id).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_numbers_go_first() {
        let five = ["kv-10", "kv-2", "kv-0", "kv-1", "kv-9"];
        assert_eq!(highest(five.into_iter(), 3).unwrap(), ["kv-10", "kv-9"]);
        assert!(highest(five.into_iter(), 5).unwrap().is_empty());
        assert!(highest(five.into_iter(), 9).unwrap().is_empty());
        let unnumbered = highest(["a-1", "b"].into_iter(), 1).unwrap_err();
        assert!(unnumbered.to_string().contains("'b'"), "{unnumbered}");
    }

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
