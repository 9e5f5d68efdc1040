//! `mokv status`: how every node of the cluster is, seen from itself.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::{Value as Json, json};

use super::connect::Connect;
use super::failure::Failure;
use super::members::node_id;
use super::output::{Format, Output, Row};
use crate::client::{Client, Error, NodeStatus};
use crate::config::parse_time;
use crate::rt;

/// Show how every node is, seen from itself
///
/// LOG, COMMIT, APPLIED and SNAPSHOT are positions in the log; LAG is how many committed entries a node has not
/// applied yet; REVISION counts the writes of the store. DIGEST is the beginning of a checksum over the node's whole
/// state: equal wherever APPLIED is equal.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv status
  mokv status --watch                  again every second, until Ctrl-C
  mokv status --watch=200ms
  mokv status --output json | jq -c '{name, role, applied_index}'")]
pub struct Status {
    /// Show it again and again, every second or as often as is said
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1s",
        value_parser = parse_time
    )]
    watch: Option<Duration>,
    #[command(flatten)]
    connect: Connect,
}

/// Digits of the digest in the table; JSON has all 32.
const DIGEST_DIGITS: usize = 8;
/// Clears a terminal and goes to its first line.
const CLEAR: &[u8] = b"\x1b[2J\x1b[H";

/// An address and what the node there said of itself.
type Answer = (String, Result<NodeStatus, Error>);

impl Status {
    /// Asks every node.
    ///
    /// # Errors
    /// If no node answered. While it watches, only if stdout cannot be written to.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client()?;
        let mut output = self.connect.output();
        let Some(pause) = self.watch else {
            let answers = self.ask(&client).await;
            if let Some(error) = all_failed(&answers) {
                return Err(self.connect.failure("ask any node for its status", error));
            }
            return show(&mut output, &answers);
        };
        loop {
            let answers = self.ask(&client).await;
            if output.format() == Format::Table {
                output.bytes(if output.is_terminal() { CLEAR } else { b"\n" })?;
            }
            show(&mut output, &answers)?;
            rt::sleep(pause).await;
        }
    }

    async fn ask(&self, client: &Client) -> Vec<Answer> {
        let client = client.with_total_timeout(self.connect.timeout);
        let addresses = self.connect.all_nodes(&client).await;
        let asked = addresses.iter().map(|address| client.status(address));
        let answers = futures_util::future::join_all(asked).await;
        addresses.into_iter().zip(answers).collect()
    }
}

fn show(output: &mut Output, answers: &[Answer]) -> Result<(), Failure> {
    let known: Vec<&NodeStatus> = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
    let committed = known.iter().map(|status| status.committed_index).max().unwrap_or(0);
    output.rows(
        &[
            "NAME", "ADDRESS", "ROLE", "TERM", "LEADER", "LOG", "COMMIT", "APPLIED", "LAG", "SNAPSHOT",
            "REVISION", "KEYS", "DIGEST",
        ],
        answers.iter().map(|(address, answer)| match answer {
            Ok(status) => Row { cells: cells(status, committed), json: status_json(status) },
            Err(error) => Row {
                cells: vec!["?".to_owned(), address.clone(), "unreachable".to_owned()],
                json: json!({ "rpc_addr": address, "error": error.to_string() }),
            },
        }),
    )?;
    if output.format() != Format::Table {
        return Ok(());
    }
    if let Some((index, nodes, equal)) = compared(&known) {
        let verdict = if equal { "agree" } else { "DIFFER" };
        output.line(format!(
            "({nodes} of {} states compared at log index {index}: they {verdict})",
            answers.len()
        ))?;
    }
    for status in known.iter().filter(|status| status.digest_alarm) {
        output.line(format!(
            "\nALARM: the state of {} differs from other nodes'. Restore it with 'mokv serve --wipe' there.",
            status.name
        ))?;
    }
    Ok(())
}

/// The highest position at which the digests of several nodes are known, how many they are, and whether all are equal.
fn compared(known: &[&NodeStatus]) -> Option<(u64, usize, bool)> {
    let mut digests: BTreeMap<u64, BTreeMap<&str, &str>> = BTreeMap::new();
    for status in known {
        let earlier = status.digests.iter().map(|at| (at.index, at.digest.as_str()));
        for (index, digest) in earlier.chain([(status.applied_index, status.digest.as_str())]) {
            digests.entry(index).or_default().insert(&status.name, digest);
        }
    }
    let (index, at) = digests.into_iter().rfind(|(_, at)| at.len() > 1)?;
    let mut values = at.values();
    let first = values.next();
    Some((index, at.len(), values.all(|digest| Some(digest) == first)))
}

fn all_failed(answers: &[Answer]) -> Option<Error> {
    if answers.iter().any(|(_, answer)| answer.is_ok()) {
        return None;
    }
    answers.iter().find_map(|(_, answer)| answer.as_ref().err().cloned())
}

fn cells(status: &NodeStatus, committed: u64) -> Vec<String> {
    let leader = if status.leader_name.is_empty() { "-".to_owned() } else { status.leader_name.clone() };
    let mut row = vec![status.name.clone(), status.rpc_addr.clone(), status.role.clone()];
    row.push(status.term.to_string());
    row.push(leader);
    let numbers = [
        status.last_log_index,
        status.committed_index,
        status.applied_index,
        committed.saturating_sub(status.applied_index),
        status.snapshot_index,
        status.revision,
        status.keys,
    ];
    row.extend(numbers.map(|number| number.to_string()));
    row.push(status.digest.chars().take(DIGEST_DIGITS).collect());
    row
}

fn status_json(status: &NodeStatus) -> Json {
    json!({
        "name": status.name,
        "node_id": node_id(status.node_id),
        "cluster_id": status.cluster_id,
        "version": status.version,
        "rpc_addr": status.rpc_addr,
        "boot_counter": status.boot_counter,
        "role": status.role,
        "term": status.term,
        "leader_id": (status.leader_id != 0).then(|| node_id(status.leader_id)),
        "leader": (!status.leader_name.is_empty()).then_some(&status.leader_name),
        "last_log_index": status.last_log_index,
        "committed_index": status.committed_index,
        "applied_index": status.applied_index,
        "snapshot_index": status.snapshot_index,
        "purged_index": status.purged_index,
        "revision": status.revision,
        "keys": status.keys,
        "bytes": status.bytes,
        "sessions": status.sessions,
        "digest": status.digest,
        "digest_alarm": status.digest_alarm,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str, applied_index: u64, digest: &str) -> NodeStatus {
        let digest = digest.repeat(2);
        NodeStatus { name: name.to_owned(), applied_index, digest, ..NodeStatus::default() }
    }

    #[test]
    fn one_node_that_answers_is_enough() {
        let silent = || ("a:1".to_owned(), Err(Error::Unavailable("no answer".into())));
        let known = ("b:1".to_owned(), Ok(status("n1", 7, "0123456789abcdef")));
        assert!(all_failed(&[silent(), known]).is_none());
        assert!(all_failed(&[silent(), silent()]).is_some());
    }

    #[test]
    fn a_node_lags_behind_what_any_node_knows_to_be_committed() {
        let cells = cells(&status("n1", 7, "0123456789abcdef"), 9);
        assert_eq!(cells.len(), 13);
        assert_eq!((cells[4].as_str(), cells[8].as_str(), cells[12].as_str()), ("-", "2", "01234567"));
    }

    #[test]
    fn states_are_compared_where_several_nodes_have_been() {
        let mut ahead = status("n1", 300, "new");
        ahead.digests.push(crate::client::DigestAt { index: 256, digest: "oldold".into() });
        let behind = status("n2", 256, "old");
        assert_eq!(compared(&[&ahead, &behind]), Some((256, 2, true)));
        assert_eq!(compared(&[&ahead, &status("n2", 256, "odd")]), Some((256, 2, false)));
        assert_eq!(compared(&[&ahead, &status("n2", 255, "old")]), None);
        assert_eq!(compared(&[&status("n1", 3, "x"), &status("n2", 3, "x")]), Some((3, 2, true)));
    }

    #[test]
    fn json_says_null_for_an_unknown_leader() {
        assert_eq!(status_json(&NodeStatus::default())["leader_id"], Json::Null);
    }
}
