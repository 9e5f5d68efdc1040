//! The judges that look while a run goes on: a failure stops it near its cause.
//!
//! What nodes report is judged as they report it (`logs`, `ledger`). Here is what somebody has to look at: what lies
//! on the disks, and what clients heard so far.

use std::time::Duration;

use mokv::map::Settings;
use mokv::rt;

use crate::cluster::{Cluster, Power};
use crate::judges::footprint::{self, Bounds, Footprint};
use crate::judges::{Class, exactly_once, linearizability, revisions};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(4);

/// Looks for ever, or until something was found.
pub async fn watch(cluster: Cluster) {
    while !cluster.run().is_broken() {
        rt::sleep(PAUSE).await;
        look_at_disks(&cluster);
        look_at_answers(&cluster);
    }
}

/// What the nodes keep.
pub fn look_at_disks(cluster: &Cluster) {
    let run = cluster.run();
    for name in cluster.names().iter().filter(|name| cluster.power(name) == Power::On) {
        let config = cluster.config(name);
        let (log, bound) = run.with_logs(|logs| (logs.measure(name), logs.most_sessions()));
        let status = cluster.last_status(name).unwrap_or_default();
        let bound = bound.filter(|(index, _)| status.applied_index >= *index).map(|(_, most)| most);
        let footprint = Footprint {
            node: name.clone(),
            files: cluster.disk(name).files(),
            log,
            sessions: status.sessions,
        };
        let bounds = Bounds {
            snapshot_entries: config.storage.snapshot_log_entries,
            segment_bytes: config.storage.log_segment_bytes,
            sessions: bound.unwrap_or(Settings::default().max_sessions),
        };
        footprint::judge(&footprint, bounds).into_iter().for_each(|finding| run.find(finding));
    }
}

/// What clients heard.
fn look_at_answers(cluster: &Cluster) {
    let run = cluster.run();
    let findings = run.with_evidence(|operations, ledger| {
        let mut findings = revisions::judge(operations, ledger);
        findings.extend(exactly_once::judge(operations, ledger));
        findings.extend(linearizability::judge(operations));
        // What is undecided now is decided at the end.
        findings.retain(|finding| finding.class != Class::Undecided);
        findings
    });
    findings.into_iter().for_each(|finding| run.find(finding));
}
