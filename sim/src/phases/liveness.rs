//! The liveness phase, which ends every run: all faults are undone, the cluster must recover within a bound, and the
//! checkers check what was recorded.

use std::time::Duration;

use mokv::rt;

use super::watch;
use crate::checkers::replicas::{self, Replica};
use crate::checkers::{
    Finding, changes, direct, durability, exactly_once, linearizability, revisions, stops, transactions,
};
use crate::clients::SimClient;
use crate::cluster::{Cluster, votes};
use crate::evidence::history::{Answer, KeyState, Outcome};
use crate::record::Run;

/// Within this time after all faults are undone: one leader, a new write, all nodes are voters with equal states.
pub const LIVENESS_BOUND: Duration = Duration::from_secs(30);
const LIVENESS: &str = "liveness after healing";
const PATIENCE: Duration = Duration::from_secs(4);

/// Undoes all faults, waits for recovery, and runs the checkers.
pub async fn end(cluster: &Cluster) {
    let run = cluster.run().clone();
    if !run.is_broken() {
        cluster.repair();
        let nodes = cluster.running();
        match revive(cluster, &nodes).await {
            Ok(last) => {
                for finding in run.with_history(|operations| durability::check(operations, &last)) {
                    run.find(finding);
                }
            }
            Err(finding) => run.find(finding),
        }
        watch::look_at_disks(cluster).await;
    }
    check(&run);
}

/// Runs the checkers over the record.
pub fn check(run: &Run) {
    let mut findings = run.with_evidence(|operations, transacted, applied_log| {
        let mut findings = linearizability::check(operations);
        findings.extend(revisions::check(operations, transacted, applied_log));
        findings.extend(exactly_once::check(operations, applied_log));
        findings.extend(transactions::check(transacted, applied_log));
        findings.extend(changes::check(operations, applied_log));
        findings
    });
    findings.extend(direct::check(&run.spoken()));
    findings.extend(stops::check(&run.stops()));
    findings.into_iter().for_each(|finding| run.find(finding));
}

/// Waits for one leader, a new write that every node has applied, and equal states. Returns the store's keys then.
///
/// # Errors
/// The condition that did not hold within [`LIVENESS_BOUND`].
pub async fn revive(cluster: &Cluster, nodes: &[String]) -> Result<Vec<(String, KeyState)>, Finding> {
    let run = cluster.run();
    let deadline = rt::now() + LIVENESS_BOUND;
    let left = || deadline.saturating_duration_since(rt::now());
    let dead = |words: String| Finding::liveness(LIVENESS, words);
    let leader = loop {
        match cluster.wait_for_leader(nodes, left().min(PATIENCE)).await {
            Ok(leader) => break leader,
            Err(_) if left().is_zero() => {
                let nodes = nodes.join(", ");
                return Err(dead(format!("{nodes} have no leader after {LIVENESS_BOUND:?}")));
            }
            // Nodes that wait to join have not learned of a leader, and there may be more of them than members.
            Err(_) => cluster.lift_size().await,
        }
    };
    run.tell(format!("{leader} leads the healed cluster"));
    let client = SimClient::new(cluster, nodes, PATIENCE, true);
    let written = loop {
        cluster.lift_bounds().await;
        let (_, outcome) = client.set("fresh", None, 16).await;
        match outcome {
            Outcome::Ok(Answer::Written { revision }) => break revision,
            _ if left().is_zero() => return Err(dead("no write succeeds".into())),
            _ => {}
        }
    };
    let replicas = loop {
        let replicas = look_at_all(cluster, nodes).await;
        let all_have_it = replicas.iter().all(|replica| replica.revision >= written);
        let settled = run.with_logs(|logs| logs.members_are_settled());
        if replicas.len() == nodes.len() && all_have_it && replicas::are_level(&replicas) && settled {
            break replicas;
        }
        if left().is_zero() {
            let words = match settled {
                true => format!("not all nodes vote and show revision {written}: {}", shown(&replicas)),
                false => "a change of the members is half done".to_owned(),
            };
            return Err(dead(words));
        }
        // Nodes that wait to join have to become voters, too.
        cluster.lift_size().await;
        rt::sleep(Duration::from_millis(100)).await;
    };
    if let Some(finding) = replicas::check(&replicas).into_iter().next() {
        return Err(finding);
    }
    loop {
        match client.list("", false).await {
            Outcome::Ok(Answer::Listed { entries, .. }) => return Ok(entries),
            _ if left().is_zero() => return Err(dead("no list succeeds".into())),
            _ => {}
        }
    }
}

async fn look_at_all(cluster: &Cluster, nodes: &[String]) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for name in nodes {
        if let Some(status) = cluster.status(name).await {
            replicas.push(Replica {
                name: name.clone(),
                applied: status.applied_index,
                revision: status.revision,
                digest: status.digest.unwrap_or_default(),
                alarm: status.digest_alarm,
                votes: votes(&status.role),
            });
        }
    }
    replicas
}

fn shown(replicas: &[Replica]) -> String {
    let one = |replica: &Replica| {
        let learns = if replica.votes { "" } else { " (no voter)" };
        format!("{}{learns} at index {}, revision {}", replica.name, replica.applied, replica.revision)
    };
    replicas.iter().map(one).collect::<Vec<_>>().join("; ")
}
