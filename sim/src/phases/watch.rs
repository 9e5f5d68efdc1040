//! The checkers that run during a run: a failure stops the run near its cause.
//!
//! The nodes' reports are checked as they arrive (`logs`, `applied_log`). This module checks what has to be polled:
//! what is on the disks, and which answers clients have received so far.

use std::collections::BTreeMap;
use std::time::Duration;

use mokv::replicated_settings::Settings;
use mokv::rt;

use crate::checkers::footprint::{self, Bounds, Footprint};
use crate::checkers::{Class, Finding, changes, exactly_once, linearizability, revisions, transactions};
use crate::cluster::{Cluster, Power};

/// Time between two checks.
const PAUSE: Duration = Duration::from_secs(4);

/// Checks for ever, or until there is a finding.
pub async fn watch(cluster: Cluster) {
    while !cluster.run().is_broken() {
        rt::sleep(PAUSE).await;
        look_at_disks(&cluster).await;
        look_at_answers(&cluster);
    }
}

/// Checks what the nodes keep on disk. What a purge makes obsolete is removed file by file, with a sync for each: an
/// excess counts only if it is still there a while later.
pub async fn look_at_disks(cluster: &Cluster) {
    const GOING: Duration = Duration::from_secs(8);
    let before = excesses(cluster);
    if before.is_empty() {
        return;
    }
    rt::sleep(GOING).await;
    let now = excesses(cluster).into_iter().filter(|(name, _)| before.contains_key(name));
    now.for_each(|(_, finding)| cluster.run().find(finding));
}

/// The nodes that keep too much at this moment.
fn excesses(cluster: &Cluster) -> BTreeMap<String, Finding> {
    let run = cluster.run();
    let mut found = BTreeMap::new();
    let (tasks, nodes) = (cluster.tasks(), cluster.names().len() as u64);
    for name in cluster.names().iter().filter(|name| cluster.power(name) == Power::On) {
        let config = cluster.config(name);
        let (log, bound) = run.with_logs(|logs| (logs.measure(name), logs.most_sessions()));
        let status = cluster.last_status(name);
        let (applied_index, sessions) =
            status.map_or((0, 0), |status| (status.applied_index, status.sessions));
        let bound = bound.filter(|(index, _)| applied_index >= *index).map(|(_, most)| most);
        let footprint = Footprint {
            node: name.clone(),
            files: cluster.disk(name).files(),
            log,
            sessions,
            tasks: tasks.get(name).map_or(0, |tasks| *tasks as u64),
        };
        let bounds = Bounds {
            snapshot_log_bytes: *config.storage.snapshot_log_bytes.end(),
            segment_bytes: config.storage.log_segment_bytes,
            sessions: bound.unwrap_or(Settings::default().max_sessions),
            peers: nodes - 1,
        };
        found.extend(footprint::check(&footprint, bounds).into_iter().map(|finding| (name.clone(), finding)));
    }
    found
}

/// Checks the answers that clients have received.
fn look_at_answers(cluster: &Cluster) {
    let run = cluster.run();
    let findings = run.with_evidence(|operations, transacted, applied_log| {
        let mut findings = revisions::check(operations, transacted, applied_log);
        findings.extend(exactly_once::check(operations, applied_log));
        findings.extend(transactions::check(transacted, applied_log));
        findings.extend(changes::check(operations, applied_log));
        findings.extend(linearizability::check(operations));
        // What is undecided now is checked again at the end of the run.
        findings.retain(|finding| finding.class != Class::Undecided);
        findings
    });
    findings.into_iter().for_each(|finding| run.find(finding));
}
