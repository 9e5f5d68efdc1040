//! `mokv members`: lists, removes or resizes the cluster's members.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::connect::Connect;
use super::failure::{Failure, warn};
use super::format::Format;
use super::get::read_options;
use super::output::Row;
use crate::client::{Member, MemberRole, ReadOptions};

/// List the members of the cluster, or change how many it has
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  mokv members
  mokv members --output json | jq -r .rpc_addr
  mokv members remove node-3
  mokv members resize --to 3             of node-1 ... node-5, node-5 and node-4 go
  mokv members resize --to 5             and two that wait may join again"
)]
pub struct Members {
    #[command(subcommand)]
    action: Option<Action>,
    /// As the node that answers knows them, also without a leader
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Take a member out of the cluster for good
    ///
    /// Its node id is never admitted again, and the cluster is to have as many members as remain: the node stays out, also
    /// while it runs, until 'members resize' lets more in. To stop a node for a while, just stop it: it stays a member.
    Remove(Remove),
    /// Set how many members the cluster is to have
    ///
    /// Of too many members those with the highest numbers at the end of their names go, one after the other, each only if
    /// the others can do without it. They stay out, also while they run; stop their nodes when it suits. Of too few, nodes
    /// that wait join by themselves, and so do those that are started.
    Resize(Resize),
}

#[derive(Debug, Args)]
struct Remove {
    /// The member's name
    name: String,
    /// Its place stays open: its node comes back as another, with an empty store, or another node joins in its stead
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct Resize {
    /// The wanted number of members, or 'any': every node that is started joins, as before the first resize
    #[arg(long, value_name = "N", value_parser = parse_size)]
    to: Size,
    #[command(flatten)]
    connect: Connect,
}

/// The wanted number of members of a cluster. `None`: no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(Option<NonZeroU32>);

fn parse_size(text: &str) -> Result<Size, String> {
    match text {
        "any" => Ok(Size(None)),
        number => number
            .parse()
            .map(|number| Size(Some(number)))
            .map_err(|_| "it is a number from 1 on, or 'any'".to_owned()),
    }
}

/// Returns the wanted size as text.
fn is_to_have(wanted: NonZeroU32) -> String {
    let members = if wanted.get() == 1 { "member" } else { "members" };
    format!("the cluster is to have {wanted} {members}")
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
            None => list(&self.connect, read_options(self.stale)).await,
        }
    }
}

async fn list(connect: &Connect, options: ReadOptions) -> Result<(), Failure> {
    let client = connect.client()?;
    let members =
        client.members_with(options).await.map_err(|error| connect.failure("list the members", error))?;
    let (mut members, wanted_size) = (members.members, members.wanted_size);
    members.sort_by(|left, right| left.name.cmp(&right.name));
    let rows = members.iter().map(|member| Row {
        cells: vec![
            member.name.clone(),
            member.node_id.to_string(),
            member.rpc_addr.clone(),
            member.role.to_string(),
        ],
        json: member_json(member),
    });
    let mut output = connect.output();
    output.rows(&["NAME", "NODE ID", "RPC ADDRESS", "ROLE"], rows)?;
    if let Some(wanted) = wanted_size
        && output.format() == Format::Table
    {
        output.line(format!("({})", is_to_have(wanted)))?;
    }
    Ok(())
}

impl Remove {
    async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client()?;
        let removed = match self.replace {
            true => client.replace_member(&self.name).await,
            false => client.remove_member(&self.name).await,
        };
        let removed = removed
            .map_err(|error| self.connect.failure(&format!("remove the member '{}'", self.name), error))?;
        self.connect.output().answer(
            format!("removed {}, node id {removed}", self.name),
            &json!({ "name": self.name, "node_id": removed.to_string() }),
        )
    }
}

impl Resize {
    async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client_for_all()?;
        // A lagging node would list members already removed.
        let members = client.members().await;
        let members = members.map_err(|error| self.connect.failure("list the members", error))?;
        let names = voters(&members.members);
        let Size(to) = self.to;
        let leaving = match to {
            Some(to) => highest(names.into_iter(), to.get() as usize)?,
            None => Vec::new(),
        };
        // Before any removal: a removed node that still runs would join again.
        let settings = client.set_wanted_size(to).await;
        let settings =
            settings.map_err(|error| self.connect.failure("set how many members there are to be", error))?;
        if settings.wanted_size != to {
            let text = "nodes that are removed now join again if they run on, because not all members support a \
                        wanted size yet; upgrade them, and resize again";
            warn(self.connect.output, text);
        }
        let (mut rows, mut failed) = (Vec::new(), None);
        for name in leaving {
            match client.remove_member(&name).await {
                Ok(removed) => {
                    let node_id = removed.to_string();
                    let json = json!({ "name": name, "node_id": node_id });
                    rows.push(Row { cells: vec![name, node_id], json });
                }
                Err(error) => {
                    failed = Some(self.connect.failure(&format!("remove the member '{name}'"), error));
                    break;
                }
            }
        }
        let mut output = self.connect.output();
        match output.format() {
            Format::Json => output.json(&resized_json(settings.wanted_size, rows))?,
            _ if rows.is_empty() => {}
            Format::Table | Format::Plain => output.rows(&["REMOVED", "NODE ID"], rows)?,
        }
        if let Some(wanted) = settings.wanted_size
            && output.format() == Format::Table
        {
            output.line(is_to_have(wanted))?;
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Returns one object, whether or not members were removed.
fn resized_json(wanted_size: Option<NonZeroU32>, removed: Vec<Row>) -> Json {
    let removed: Vec<Json> = removed.into_iter().map(|row| row.json).collect();
    json!({ "wanted_size": wanted_size, "removed": removed })
}

/// Returns the names of the voters. A member that comes back with an empty disk is listed twice, as the old voter and
/// as the new learner; a joining node waits for its place by itself.
fn voters(members: &[Member]) -> BTreeSet<&str> {
    let votes = |member: &&Member| matches!(member.role, MemberRole::Leader | MemberRole::Voter);
    members.iter().filter(votes).map(|member| member.name.as_str()).collect()
}

/// Returns the members to remove so that `to` are left: those with the highest numbers, the highest first.
fn highest<'a>(names: impl Iterator<Item = &'a str>, to: usize) -> Result<Vec<String>, Failure> {
    let names: Vec<&str> = names.collect();
    if names.len() <= to {
        return Ok(Vec::new());
    }
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
    let leaving = numbered.split_off(to);
    Ok(leaving.into_iter().rev().map(|(_, name)| name).collect())
}

fn member_json(member: &Member) -> Json {
    json!({
        "name": member.name,
        "node_id": member.node_id.to_string(),
        "rpc_addr": member.rpc_addr,
        "role": member.role.as_str(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mokv_proto::api::Server;

    #[test]
    fn the_highest_numbers_go_first() {
        let five = ["kv-10", "kv-2", "kv-0", "kv-1", "kv-9"];
        let wiped = |id: &str, is_learner| {
            Member::from_wire(Server { id: id.into(), is_learner, ..Server::default() })
        };
        let members = [wiped("kv-0", false), wiped("kv-0", true), wiped("kv-1", false), wiped("kv-2", true)];
        assert_eq!(voters(&members), BTreeSet::from(["kv-0", "kv-1"]));
        assert_eq!(highest(five.into_iter(), 3).unwrap(), ["kv-10", "kv-9"]);
        assert!(highest(five.into_iter(), 5).unwrap().is_empty());
        assert!(highest(five.into_iter(), 9).unwrap().is_empty());
        assert!(highest(["a", "b"].into_iter(), 2).unwrap().is_empty(), "no member goes, whatever the names");
        let unnumbered = highest(["a-1", "b"].into_iter(), 1).unwrap_err();
        assert!(unnumbered.to_string().contains("'b'"), "{unnumbered}");
    }

    #[test]
    fn a_size_is_a_number_of_members_or_any() {
        assert_eq!(parse_size("3"), Ok(Size(NonZeroU32::new(3))));
        assert_eq!(parse_size("any"), Ok(Size(None)));
        for bad in ["0", "-1", "", "three", "4294967296"] {
            assert!(parse_size(bad).unwrap_err().contains("'any'"), "{bad}");
        }
    }

    #[test]
    fn a_resize_is_printed_as_one_object() {
        assert_eq!(resized_json(NonZeroU32::new(3), Vec::new()), json!({ "wanted_size": 3, "removed": [] }));
        let row = Row { cells: Vec::new(), json: json!({ "name": "kv-3" }) };
        assert_eq!(
            resized_json(None, vec![row]),
            json!({ "wanted_size": null, "removed": [{ "name": "kv-3" }] })
        );
    }

    #[test]
    fn roles_and_ids_in_words() {
        let server = Server { id: "n".into(), node_id: u64::MAX, is_learner: true, ..Server::default() };
        assert_eq!(
            member_json(&Member::from_wire(server)),
            json!({"name": "n", "node_id": "ffffffffffffffff", "rpc_addr": "", "role": "learner"}),
        );
        let role = |server| member_json(&Member::from_wire(server))["role"].clone();
        assert_eq!(role(Server { is_leader: true, ..Server::default() }), "leader");
        assert_eq!(role(Server::default()), "voter");
    }
}
