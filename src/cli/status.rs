//! `mokv status`: the state of every node of the cluster, as the node reports it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Value as Json, json};

use super::connect::Connect;
use super::failure::{Exit, Failure};
use super::format::Format;
use super::output::{Output, Row};
use super::place::Place;
use crate::client::{Client, Error, GoneBack, NodeStatus, Role};
use crate::config::parse_time;
use crate::node_id::{Named, NodeId};
use crate::rt;

/// Show how every node is, seen from itself
///
/// LOG, COMMIT, APPLIED and SNAPSHOT are positions in the log; LAG is how many committed entries a node has not
/// applied yet; REVISION counts the writes of the store. DIGEST is the beginning of a checksum over the node's whole
/// state: equal wherever APPLIED is equal. Below the table each node says what is wrong with it. The exit code is 0 if all
/// nodes answered and are well, 7 if some are not, and 6 if none answered.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv status
  mokv status --watch                  again every second, until Ctrl-C
  mokv status --watch=200ms
  mokv status --memory                 keys, values, history, log: what takes how much
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
    /// Show what takes the memory of each node instead
    #[arg(long)]
    memory: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Digits of the digest in the table; JSON has all 32.
const DIGEST_DIGITS: usize = 8;
/// Clears a terminal and moves to its first line.
const CLEAR: &[u8] = b"\x1b[2J\x1b[H";

/// A node and its reported status.
type Answer = (Place, Result<NodeStatus, Error>);

impl Status {
    /// Asks every node.
    ///
    /// # Errors
    /// If no node answered, or not all are healthy. While it watches, only if stdout cannot be written to.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client()?;
        let mut output = self.connect.output();
        let Some(pause) = self.watch else {
            let answers = self.ask(&client).await;
            if let Some(error) = all_failed(&answers) {
                return Err(self.connect.failure("ask any node for its status", error));
            }
            self.show(&mut output, &answers)?;
            return unhealthy(&answers).map_or(Ok(()), Err);
        };
        loop {
            let answers = self.ask(&client).await;
            if output.format() == Format::Table {
                output.bytes(if output.is_terminal() { CLEAR } else { b"\n" })?;
            }
            self.show(&mut output, &answers)?;
            rt::sleep(pause).await;
        }
    }

    fn show(&self, output: &mut Output, answers: &[Answer]) -> Result<(), Failure> {
        if self.memory { show_memory(output, answers) } else { show(output, answers) }
    }

    async fn ask(&self, client: &Client) -> Vec<Answer> {
        let client = client.with_total_timeout(self.connect.timeout);
        let places = self.connect.all_nodes(&client).await;
        let asked = places.iter().map(|place| client.status(&place.address));
        let answers = futures_util::future::join_all(asked).await;
        let mut answers: Vec<Answer> = places.into_iter().zip(answers).collect();
        for (place, answer) in &mut answers {
            if let Ok(status) = answer {
                place.name = Some(status.name.clone());
            }
        }
        answers.sort_by(|(left, _), (right, _)| left.cmp(right));
        answers
    }
}

/// One row a node, of what it has in memory.
fn show_memory(output: &mut Output, answers: &[Answer]) -> Result<(), Failure> {
    output.rows(
        &["NAME", "RESIDENT", "KEYS", "VALUES", "HISTORY", "SESSIONS", "LOG CACHE", "LOG INDEX", "REST"],
        answers.iter().map(|(place, answer)| match answer {
            Ok(status) => Row { cells: memory_cells(status), json: status_json(status) },
            Err(error) => unreachable_row(place, error, vec![place.cell()]),
        }),
    )
}

fn memory_cells(status: &NodeStatus) -> Vec<String> {
    let Some(memory) = &status.memory else { return vec![status.name.clone()] };
    let parts = [
        memory.resident_bytes,
        Some(memory.key_bytes),
        Some(memory.value_bytes),
        Some(memory.history_bytes),
        Some(memory.session_bytes),
        Some(memory.log_cache_bytes + memory.log_queue_bytes),
        Some(memory.log_index_bytes),
        memory.rest_bytes(),
    ];
    let shown =
        parts.map(|bytes| bytes.map_or_else(|| "-".to_owned(), |bytes| HumanBytes(bytes).to_string()));
    std::iter::once(status.name.clone()).chain(shown).collect()
}

/// The row of a node that did not answer.
fn unreachable_row(place: &Place, error: &Error, mut cells: Vec<String>) -> Row {
    cells.push("unreachable".to_owned());
    let json = json!({ "name": place.name, "rpc_addr": place.address, "error": error.to_string() });
    Row { cells, json }
}

fn show(output: &mut Output, answers: &[Answer]) -> Result<(), Failure> {
    let known: Vec<&NodeStatus> = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
    let committed = known.iter().map(|status| status.committed_index).max().unwrap_or(0);
    output.rows(
        &[
            "NAME", "ADDRESS", "ROLE", "TERM", "LEADER", "LOG", "COMMIT", "APPLIED", "LAG", "SNAPSHOT",
            "REVISION", "KEYS", "DIGEST",
        ],
        answers.iter().map(|(place, answer)| match answer {
            Ok(status) => Row { cells: cells(status, committed), json: status_json(status) },
            Err(error) => unreachable_row(place, error, vec![place.cell(), place.address.clone()]),
        }),
    )?;
    if output.format() != Format::Table {
        return Ok(());
    }
    if let Some(size) = wanted_size(&known) {
        output.line(format!("(wanted size {size}: no more than so many vote)"))?;
    }
    if let Some((index, nodes, equal)) = compared(&known) {
        let verdict = if equal { "agree" } else { "DIFFER" };
        output.line(format!(
            "({nodes} of {} states compared at log index {index}: they {verdict})",
            answers.len()
        ))?;
    }
    for (place, answer) in answers {
        let node = place.name.as_deref().unwrap_or(&place.address);
        let said = match answer {
            Ok(status) => status.reasons.clone(),
            Err(error) => vec![error.to_string()],
        };
        // The error begins with the node's address.
        let address = format!("{}: ", place.address);
        for reason in &said {
            output.line(format!("{node}: {}", reason.strip_prefix(&address).unwrap_or(reason)))?;
        }
    }
    alarms(&known, answers.len()).iter().try_for_each(|alarm| output.line(format!("\nALARM: {alarm}")))
}

/// Returns a failure that names the unhealthy nodes; `None` if all nodes are healthy and there is no alarm.
fn unhealthy(answers: &[Answer]) -> Option<Failure> {
    let known: Vec<&NodeStatus> = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
    let ill = answers.iter().filter_map(|(place, answer)| match answer {
        Ok(status) if status.reasons.is_empty() => None,
        Ok(_) => Some(place.to_string()),
        Err(_) => Some(format!("{place}, which does not answer")),
    });
    let ill: Vec<String> = ill.collect();
    if ill.is_empty() && alarms(&known, answers.len()).is_empty() {
        return None;
    }
    let what = match ill.is_empty() {
        true => "the states of this cluster's nodes differ".to_owned(),
        false => format!("not all nodes are well: {}", ill.join("; ")),
    };
    let next = "the reasons above and the nodes' logs say why";
    Some(Failure::error(what, next).with_exit(Exit::Unhealthy))
}

/// Returns the alarms for the operator. No advice, and no two together, lead to wiping as many nodes as make a
/// majority.
fn alarms(known: &[&NodeStatus], nodes: usize) -> Vec<String> {
    let mut alarms: Vec<String> = known.iter().filter_map(|status| contradicted(status)).collect();
    let is_contradicted = !alarms.is_empty();
    alarms
        .extend(known.iter().flat_map(|status| status.gone_back.iter().map(|found| refused(status, found))));
    let gone_back: BTreeSet<NodeId> =
        known.iter().flat_map(|status| status.gone_back.iter().map(|found| found.node.node_id)).collect();
    let is_sound =
        |status: &&&NodeStatus| status.role != Role::Quarantined && !gone_back.contains(&status.node_id);
    let has_sound_majority = known.iter().filter(is_sound).count() * 2 > nodes;
    if !gone_back.is_empty() && has_sound_majority && !is_contradicted {
        alarms.push(
            "the other nodes have what a refused node has lost. Restore it with 'mokv serve --wipe' there."
                .to_owned(),
        );
        return alarms;
    }
    if !alarms.is_empty() {
        alarms.push(
            "two histories exist. Keep the data directories of all nodes, and wipe none before it is decided which \
             history to keep: 'Two histories' in docs/operate.md says how."
                .to_owned(),
        );
        return alarms;
    }
    let names = |nodes: &[&&NodeStatus]| {
        let names: Vec<&str> = nodes.iter().map(|status| status.name.as_str()).collect();
        names.join(", ")
    };
    let differs = known.iter().filter(|status| status.digest_alarm);
    let (outvoted, differ): (Vec<_>, Vec<_>) = differs.partition(|status| status.role == Role::Quarantined);
    let is_minority = (outvoted.len() + known.len().abs_diff(nodes)) * 2 < nodes;
    if is_minority {
        let restore = |status: &&&NodeStatus| {
            format!(
                "the state of {} differs from that of a majority. Restore it with 'mokv serve --wipe' there.",
                status.name
            )
        };
        alarms.extend(outvoted.iter().map(restore));
    }
    if !is_minority && !outvoted.is_empty() || outvoted.is_empty() && !differ.is_empty() {
        let all: Vec<&&NodeStatus> = outvoted.into_iter().chain(differ).collect();
        alarms.push(format!(
            "the states of this cluster's nodes differ ({} say so). Keep the data directories of all nodes, and wipe \
             none \
             before it is known whose state is right.",
            names(&all)
        ));
    }
    alarms
}

/// Describes a node that `status`'s node refuses, and what the refused node has lost.
fn refused(status: &NodeStatus, found: &GoneBack) -> String {
    let refused = found.node.name.clone().unwrap_or_else(|| found.node.node_id.to_string());
    let has = match found.found_index {
        Some(index) => format!("log index {index} in term {}", found.found_term),
        None => format!("an empty log in term {}", found.found_term),
    };
    let had = match found.acknowledged_index {
        Some(index) => format!("acknowledged log index {index}"),
        None => "voted".to_owned(),
    };
    format!(
        "{} refuses {refused}: it had {had} in term {}, and found {has} when it started with boot counter {}. Its data \
         directory was put back to an older state, or copied while it ran.",
        status.name, found.acknowledged_term, found.found_boot
    )
}

/// Describes which leader contradicts a node's log, and at which index; `None` if none does.
fn contradicted(status: &NodeStatus) -> Option<String> {
    let found = status.contradiction.as_ref()?;
    let leader = &found.leader;
    let leader = leader.name.clone().unwrap_or_else(|| Named(None, leader.node_id).to_string());
    Some(format!(
        "{} serves nothing: it holds a committed entry of term {} at log index {}, and {leader}, the leader of term \
         {}, has \
         one of term {} at log index {}.",
        status.name,
        found.term,
        found.index,
        found.leader_term,
        found.leader_entry_term,
        found.leader_entry_index
    ))
}

/// Returns the highest log index at which the digests of several nodes are known, the number of these nodes, and
/// whether all digests are equal.
fn compared(known: &[&NodeStatus]) -> Option<(u64, usize, bool)> {
    let mut digests: BTreeMap<u64, BTreeMap<&str, &str>> = BTreeMap::new();
    for status in known {
        // A node without a cluster has no state, and a cluster may have no key for digests.
        let Some(digest) = &status.digest else { continue };
        let earlier = status.digests.iter().map(|at| (at.index, at.digest.as_str()));
        for (index, digest) in earlier.chain([(status.applied_index, digest.as_str())]) {
            digests.entry(index).or_default().insert(&status.name, digest);
        }
    }
    let (index, at) = digests.into_iter().rfind(|(_, at)| at.len() > 1)?;
    let mut values = at.values();
    let first = values.next();
    Some((index, at.len(), values.all(|digest| Some(digest) == first)))
}

/// Returns the cluster's wanted size according to the node that has applied most; `None`: any size.
fn wanted_size(known: &[&NodeStatus]) -> Option<NonZeroU32> {
    known.iter().max_by_key(|status| status.applied_index)?.wanted_size
}

fn all_failed(answers: &[Answer]) -> Option<Error> {
    if answers.iter().any(|(_, answer)| answer.is_ok()) {
        return None;
    }
    answers.iter().find_map(|(_, answer)| answer.as_ref().err().cloned())
}

fn cells(status: &NodeStatus, committed: u64) -> Vec<String> {
    let leader = status.leader.as_ref().and_then(|leader| leader.name.clone());
    // It still holds the vote of its term, and no other node may lead yet; no quorum confirms it.
    let role = match status.role == Role::Leader && status.leader.is_none() {
        true => format!("{} (no quorum)", status.role),
        false => status.role.to_string(),
    };
    let mut row = vec![status.name.clone(), status.rpc_addr.clone(), role];
    row.push(status.term.to_string());
    row.push(leader.unwrap_or_else(|| "-".to_owned()));
    let numbers = [
        status.last_log_index,
        status.committed_index,
        status.applied_index,
        committed.saturating_sub(status.applied_index),
        status.snapshot_index.unwrap_or(0),
        status.revision,
        status.keys,
    ];
    row.extend(numbers.map(|number| number.to_string()));
    let digest = status.digest.as_ref().map(|digest| digest.chars().take(DIGEST_DIGITS).collect());
    row.push(digest.unwrap_or_else(|| "-".to_owned()));
    row
}

fn status_json(status: &NodeStatus) -> Json {
    json!({
        "name": status.name,
        "node_id": status.node_id.to_string(),
        // Empty, not null, for those who have read it so far.
        "cluster_id": status.cluster_id.as_deref().unwrap_or_default(),
        "version": status.version,
        "rpc_addr": status.rpc_addr,
        "boot_counter": status.boot_counter,
        "role": status.role.as_str(),
        "term": status.term,
        "leader_id": status.leader.as_ref().map(|leader| leader.node_id.to_string()),
        "leader": status.leader.as_ref().map(|leader| &leader.name),
        "last_log_index": status.last_log_index,
        "committed_index": status.committed_index,
        "applied_index": status.applied_index,
        "snapshot_index": status.snapshot_index.unwrap_or(0),
        "purged_index": status.purged_index.unwrap_or(0),
        "revision": status.revision,
        "keys": status.keys,
        "bytes": status.bytes,
        "size_bytes": status.size_bytes,
        "history_bytes": status.history_bytes,
        "floor_revision": status.floor_revision,
        "sessions": status.sessions,
        "memory": status.memory.as_ref().map(|memory| json!({
            "resident_bytes": memory.resident_bytes,
            "key_bytes": memory.key_bytes,
            "value_bytes": memory.value_bytes,
            "history_bytes": memory.history_bytes,
            "session_bytes": memory.session_bytes,
            "log_cache_bytes": memory.log_cache_bytes,
            "log_index_bytes": memory.log_index_bytes,
            "log_queue_bytes": memory.log_queue_bytes,
            "rest_bytes": memory.rest_bytes(),
        })),
        "digest": status.digest,
        "digest_alarm": status.digest_alarm,
        "reasons": status.reasons,
        "wanted_size": status.wanted_size,
        "contradiction": status.contradiction.as_ref().map(|found| json!({
            "term": found.term,
            "index": found.index,
            "leader_id": found.leader.node_id.to_string(),
            "leader": found.leader.name,
            "leader_term": found.leader_term,
            "leader_entry_term": found.leader_entry_term,
            "leader_entry_index": found.leader_entry_index,
        })),
        "gone_back": status.gone_back.iter().map(|found| json!({
            "node_id": found.node.node_id.to_string(),
            "name": found.node.name,
            "acknowledged_term": found.acknowledged_term,
            "acknowledged_index": found.acknowledged_index,
            "acknowledged_boot_counter": found.acknowledged_boot,
            "found_term": found.found_term,
            "found_index": found.found_index,
            "found_boot_counter": found.found_boot,
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mokv_proto::api::{self, StatusResponse};

    fn status(name: &str, applied_index: u64, digest: &str) -> NodeStatus {
        NodeStatus::from_wire(StatusResponse {
            name: name.to_owned(),
            applied_index,
            digest: digest.repeat(2),
            ..StatusResponse::default()
        })
    }

    #[test]
    fn one_node_that_answers_is_enough() {
        let silent = || (Place::unnamed("a:1"), Err(Error::Unavailable("no answer".into())));
        let known = || (Place::unnamed("b:1"), Ok(status("n1", 7, "0123456789abcdef")));
        assert!(all_failed(&[silent(), known()]).is_none());
        assert!(unhealthy(&[known()]).is_none());
        let failure = unhealthy(&[silent(), known()]).unwrap();
        assert_eq!(failure.exit(), Exit::Unhealthy);
        assert!(failure.to_string().contains("a:1, which does not answer"), "{failure}");
        let mut ill = known();
        ill.1.as_mut().unwrap().reasons.push("no quorum".into());
        assert_eq!(unhealthy(&[ill]).map(|failure| failure.exit()), Some(Exit::Unhealthy));
        assert!(all_failed(&[silent(), silent()]).is_some());
    }

    #[test]
    fn a_node_lags_behind_what_any_node_knows_to_be_committed() {
        let cells = cells(&status("n1", 7, "0123456789abcdef"), 9);
        assert_eq!(cells.len(), 13);
        assert_eq!((cells[4].as_str(), cells[8].as_str(), cells[12].as_str()), ("-", "2", "01234567"));
    }

    #[test]
    fn a_leader_that_no_quorum_confirms_is_reported_as_such() {
        let leader = |leader_id| {
            NodeStatus::from_wire(StatusResponse { role: "leader".into(), leader_id, ..Default::default() })
        };
        assert_eq!(cells(&leader(1), 7)[2], "leader");
        assert_eq!(cells(&leader(0), 7)[2], "leader (no quorum)");
        assert_eq!(status_json(&leader(0))["role"], "leader");
    }

    #[test]
    fn states_are_compared_where_several_nodes_have_been() {
        let mut ahead = status("n1", 300, "new");
        ahead.digests = NodeStatus::from_wire(StatusResponse {
            digests: vec![api::DigestAt { index: 256, digest: "oldold".into() }],
            ..StatusResponse::default()
        })
        .digests;
        let behind = status("n2", 256, "old");
        assert_eq!(compared(&[&ahead, &behind]), Some((256, 2, true)));
        assert_eq!(compared(&[&ahead, &status("n2", 256, "odd")]), Some((256, 2, false)));
        assert_eq!(compared(&[&ahead, &status("n2", 255, "old")]), None);
        assert_eq!(compared(&[&status("n1", 3, "x"), &status("n2", 3, "x")]), Some((3, 2, true)));
        assert_eq!(compared(&[&status("n1", 0, ""), &status("n2", 0, "")]), None, "they have no cluster");
    }

    /// Returns a node's status with these values.
    fn alarmed(name: &str, role: &str, contradicted: bool) -> NodeStatus {
        let contradiction = contradicted.then(|| api::Contradiction {
            term: 2,
            index: 40,
            leader_entry_term: 3,
            leader_entry_index: 40,
            leader_id: 7,
            leader_name: "n1".into(),
            leader_term: 3,
        });
        NodeStatus::from_wire(StatusResponse {
            name: name.into(),
            role: role.into(),
            digest_alarm: true,
            contradiction,
            ..StatusResponse::default()
        })
    }

    #[test]
    fn only_a_node_that_a_majority_outvoted_is_to_be_wiped_and_never_a_majority() {
        let advises = |nodes: &[NodeStatus], of: usize| {
            let all = alarms(&nodes.iter().collect::<Vec<_>>(), of);
            assert!(!all.is_empty(), "no line is printed");
            all.iter().filter(|alarm| alarm.contains("--wipe")).count()
        };
        let outvoted = |name| alarmed(name, "quarantined", false);
        let differs = |name| alarmed(name, "follower", false);
        assert_eq!(advises(&[differs("n1"), differs("n2"), outvoted("n3")], 3), 1);
        assert_eq!(advises(&[outvoted("n1"), outvoted("n2"), differs("n3")], 3), 0, "a majority");
        assert_eq!(advises(&[differs("n1"), differs("n2"), differs("n3")], 3), 0, "all");
        assert_eq!(advises(&[outvoted("n1"), differs("n2")], 3), 0, "the third may be right, too");
        assert_eq!(advises(&[outvoted("n1"), differs("n2")], 2), 0, "two have no majority");
        let contradicted = alarmed("n3", "quarantined", true);
        assert_eq!(advises(&[differs("n1"), outvoted("n2"), contradicted.clone()], 5), 0);
        let said = alarms(&[&contradicted], 3);
        assert_eq!(
            said[0],
            "n3 serves nothing: it holds a committed entry of term 2 at log index 40, and n1, the leader of term 3, \
             has one \
             of term 3 at log index 40."
        );
    }

    #[test]
    fn a_node_that_has_gone_back_is_to_be_wiped_only_beside_a_sound_majority() {
        let found = |node_id| api::GoneBack {
            node_id,
            name: format!("n{node_id}"),
            acknowledged_term: 5,
            acknowledged_index: Some(20),
            acknowledged_boot: 3,
            found_term: 5,
            found_index: Some(11),
            found_boot: 4,
        };
        let refuses = |node_id: u64, refused: &[u64]| {
            NodeStatus::from_wire(StatusResponse {
                name: format!("n{node_id}"),
                node_id,
                gone_back: refused.iter().map(|id| found(*id)).collect(),
                ..StatusResponse::default()
            })
        };
        let said = |nodes: &[NodeStatus], of: usize| alarms(&nodes.iter().collect::<Vec<_>>(), of);
        let wipes =
            |nodes: &[NodeStatus], of: usize| said(nodes, of).iter().any(|said| said.contains("--wipe"));
        assert!(wipes(&[refuses(1, &[3]), refuses(2, &[3])], 3));
        assert!(wipes(&[refuses(1, &[3]), refuses(2, &[])], 3), "one of the others knows");
        assert!(!wipes(&[refuses(1, &[2, 3])], 3), "a majority has gone back");
        assert!(!wipes(&[refuses(1, &[3])], 3), "of the second one nothing is known");
        assert!(!wipes(&[refuses(1, &[2]), refuses(2, &[1])], 2), "each refuses the other");
        let outvoted = NodeStatus { digest_alarm: true, role: Role::Quarantined, ..refuses(2, &[]) };
        assert!(!wipes(&[refuses(1, &[3]), outvoted], 3));
        assert_eq!(
            said(&[refuses(1, &[3])], 3)[0],
            "n1 refuses n3: it had acknowledged log index 20 in term 5, and found log index 11 in term 5 when it \
             started with \
             boot counter 4. Its data directory was put back to an older state, or copied while it ran."
        );
    }

    #[test]
    fn json_has_null_for_an_unknown_leader() {
        assert_eq!(status_json(&NodeStatus::from_wire(StatusResponse::default()))["leader_id"], Json::Null);
    }
}
