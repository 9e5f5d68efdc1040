//! `mokv status`: how every node of the cluster is, seen from itself.

use clap::Args;
use serde_json::{Value as Json, json};

use super::connect::Connect;
use super::failure::Failure;
use super::members::node_id;
use super::output::Output;
use crate::client::{Error, NodeStatus};

/// Show how every node is, seen from itself
///
/// LOG, COMMIT, APPLIED and SNAPSHOT are positions in the log; REVISION counts the writes of the store. DIGEST is
/// the beginning of a checksum over the node's whole state: equal wherever APPLIED is equal.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv status
  mokv status --json | jq -c '{name, role, applied_index}'")]
pub struct Status {
    #[command(flatten)]
    connect: Connect,
}

/// Digits of the digest in the table; JSON has all 32.
const DIGEST_DIGITS: usize = 8;

impl Status {
    /// Asks every node.
    ///
    /// # Errors
    /// If no node answered.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client()?;
        let addresses = self.connect.all_nodes(&client).await;
        let asked = addresses.iter().map(|address| client.status(address));
        let answers = futures_util::future::join_all(asked).await;
        if let Some(error) = all_failed(&answers) {
            return Err(self.connect.failure("ask any node for its status", error));
        }
        let mut output = Output::new();
        if self.connect.json {
            return addresses.iter().zip(&answers).try_for_each(|(address, answer)| {
                output.json(&match answer {
                    Ok(status) => status_json(status),
                    Err(error) => json!({ "rpc_addr": address, "error": error.to_string() }),
                })
            });
        }
        output.table(
            &[
                "NAME", "ADDRESS", "ROLE", "TERM", "LEADER", "LOG", "COMMIT", "APPLIED", "SNAPSHOT",
                "REVISION", "KEYS", "DIGEST",
            ],
            addresses.iter().zip(&answers).map(|(address, answer)| row(address, answer)),
        )?;
        for status in answers.iter().flatten().filter(|status| status.digest_alarm) {
            output.line(format!(
                "\nALARM: the state of {} differs from other nodes'. Restore it with 'mokv serve --wipe' there.",
                status.name
            ))?;
        }
        Ok(())
    }
}

fn all_failed(answers: &[Result<NodeStatus, Error>]) -> Option<Error> {
    if answers.iter().any(Result::is_ok) {
        return None;
    }
    answers.iter().find_map(|answer| answer.as_ref().err().cloned())
}

fn row(address: &str, answer: &Result<NodeStatus, Error>) -> Vec<String> {
    let Ok(status) = answer else {
        return vec!["?".to_owned(), address.to_owned(), "unreachable".to_owned()];
    };
    let leader = if status.leader_name.is_empty() { "-".to_owned() } else { status.leader_name.clone() };
    let mut row = vec![status.name.clone(), status.rpc_addr.clone(), status.role.clone()];
    row.push(status.term.to_string());
    row.push(leader);
    let numbers = [
        status.last_log_index,
        status.committed_index,
        status.applied_index,
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

    #[test]
    fn a_node_that_does_not_answer_is_shown_and_one_that_does_is_enough() {
        let silent = || Err(Error::Unavailable("no answer".into()));
        let status =
            NodeStatus { name: "n1".into(), digest: "0123456789abcdef".repeat(2), ..Default::default() };
        assert!(all_failed(&[silent(), Ok(status.clone())]).is_none());
        assert!(all_failed(&[silent(), silent()]).is_some());
        assert_eq!(row("a:1", &silent()), ["?", "a:1", "unreachable"]);
        let row = row("a:1", &Ok(status));
        assert_eq!((row.len(), row[4].as_str(), row[11].as_str()), (12, "-", "01234567"));
    }

    #[test]
    fn json_says_null_for_an_unknown_leader() {
        assert_eq!(status_json(&NodeStatus::default())["leader_id"], Json::Null);
    }
}
