//! `mokv check`: tests a cluster end to end.

use clap::Args;
use serde_json::json;

use super::connect::Connect;
use super::failure::Failure;
use super::output::Row;
use crate::client::WriteOptions;
use crate::rt::random::random_nonzero_u64;

/// Try a cluster out: write a key, read it back, delete it, and ask every member how it is
///
/// The key begins with 'mokv-check/' and is gone afterwards. All members have to answer, know the same leader and have no
/// alarm.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  mokv check --endpoints mokv.example:8400")]
pub struct Check {
    #[command(flatten)]
    connect: Connect,
}

impl Check {
    /// Tests the cluster.
    ///
    /// # Errors
    /// The first check that failed.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client_for_all()?;
        let wrong = |what: String| Failure::error(what, "'mokv status' shows the nodes");
        let key = format!("mokv-check/{:016x}", random_nonzero_u64());
        let value = format!("{:016x}", random_nonzero_u64());
        let mut done = Vec::new();

        let action = format!("write '{key}'");
        let written = client.set_with(&key, value.clone(), WriteOptions::if_absent()).await;
        let revision = written.map_err(|error| self.connect.failure(&action, error))?.revision;
        done.push(("set", format!("revision {revision}")));

        let action = format!("read '{key}'");
        let read = client.get(&key).await;
        let entry = read.map_err(|error| self.connect.failure(&action, error))?.entry;
        match entry {
            Some(entry) if entry.value == value && entry.mod_revision == revision => {}
            other => return Err(wrong(format!("'{key}' was written and reads as {other:?}"))),
        }
        done.push(("get", "what was written".to_owned()));

        let action = format!("delete '{key}'");
        let deleted = client.delete_with(&key, WriteOptions::if_revision(revision)).await;
        deleted.map_err(|error| self.connect.failure(&action, error))?;
        let action = format!("read '{key}' again");
        let read = client.get(&key).await;
        if read.map_err(|error| self.connect.failure(&action, error))?.entry.is_some() {
            return Err(wrong(format!("'{key}' was deleted and is still there")));
        }
        done.push(("delete", "and it is gone".to_owned()));

        let mut leader = None;
        let members = self.connect.all_nodes(&client).await;
        for member in &members {
            let action = format!("ask the member {member}");
            let status =
                client.status(&member.address).await.map_err(|error| self.connect.failure(&action, error))?;
            if status.digest_alarm {
                return Err(wrong(format!("{}: the states of the members differ", status.name)));
            }
            let follows = status.leader.as_ref().map(|leader| leader.node_id);
            if follows.is_none() || *leader.get_or_insert(follows) != follows {
                return Err(wrong(format!(
                    "{} knows no leader, or another one than the others",
                    status.name
                )));
            }
        }
        let counted = |count| format!("{count} member{}", if count == 1 { "" } else { "s" });
        done.push(("status", format!("{}, one leader, no alarm", counted(members.len()))));

        let rows = done.into_iter().map(|(step, result)| Row {
            json: json!({ "step": step, "result": result }),
            cells: vec![step.to_owned(), result],
        });
        self.connect.output().rows(&["STEP", "RESULT"], rows)
    }
}
