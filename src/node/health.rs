//! Whether the node is ready to serve, for gRPC health checks and probes, and why not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::lifecycle::namesake;
use super::reasons::{Known, KnownOfRaft, Other, Reason, Unreadable, in_one_line, reasons};
use crate::membership::formation::Waiting;
use crate::membership::{ClusterId, Gossip, OtherSelf, UnreadableSenders, View};
use crate::metrics::http::Health;
use crate::node_id::{Named, NodeId};
use crate::raft::Consensus;
use crate::raft::peers::AddressBook;
use crate::rt::{self, Instant, disk, watch};
use crate::service::{Context, Diagnosis};

/// The services whose health is reported; the empty name stands for the whole node.
const SERVICES: [&str; 3] = ["", "api.KV", "api.Admin"];
/// The interval at which the state is checked.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long unreadable datagrams, or a copy of this node, count after they were last received; nodes repeat their
/// questions more often.
const REPORTED_FOR: Duration = Duration::from_secs(15);

/// A node is ready when it has recovered, may answer, knows a leader, lags by at most `ready-max-lag` entries, and
/// votes. Stopping one node after the other, each when the one before is ready, thus never stops one voter too many.
pub struct Readiness {
    /// The node.
    pub context: Arc<Context>,
    /// The most committed entries that a ready node may still have to apply.
    max_lag: u64,
    view: watch::Receiver<View>,
    unreadable: watch::Receiver<UnreadableSenders>,
    other_self: watch::Receiver<Option<OtherSelf>>,
    /// What the formation of the cluster waits for.
    waiting: watch::Receiver<Option<Waiting>>,
}

impl Readiness {
    /// The readiness of a node that is about to start.
    pub fn new(
        context: Arc<Context>,
        max_lag: u64,
        gossip: &Gossip,
        waiting: watch::Receiver<Option<Waiting>>,
    ) -> Readiness {
        let (view, unreadable, other_self) = (gossip.view(), gossip.unreadable(), gossip.other_self());
        Readiness { context, max_lag, view, unreadable, other_self, waiting }
    }

    fn known(&self) -> Known {
        let context = &self.context;
        let was_lately =
            |received_at: Instant| rt::now().saturating_duration_since(received_at) < REPORTED_FOR;
        // The view must not stay borrowed during the calls below: the address book reads it too, and would wait for
        // ever behind a waiting writer.
        let view = self.view.borrow().clone();
        let peer_at = |from: &SocketAddr| {
            let from = from.to_string();
            view.values().map(|peer| &peer.claim).find(|claim| claim.gossip_addr == from)
        };
        // Connections need the same key: if a node connected after its last unreadable datagram, another process had
        // sent that.
        let met_since = |from: &SocketAddr, received_at: Instant| {
            let peers = context.consensus().map(Consensus::peers);
            let met = peer_at(from).and_then(|claim| peers?.in_contact_since(claim.node_id));
            met.is_some_and(|met| met > received_at)
        };
        let unreadable = self.unreadable.borrow().clone();
        let lately = unreadable
            .iter()
            .filter(|(from, (received_at, _))| was_lately(*received_at) && !met_since(from, *received_at));
        Known {
            contradiction: context.contradiction().map(ToString::to_string),
            is_quarantined: context.is_quarantined(),
            is_outside: context.is_outside(),
            not_admitted: context.not_admitted(),
            waiting: self.waiting.borrow().clone(),
            raft: context.raft().map(|(consensus, book)| of_raft(consensus, &**book)),
            is_recovered: context.recovered().is_some(),
            max_lag: self.max_lag,
            namesake: namesake(&view, context.node_id).map(|claim| (claim.name, claim.rpc_addr)),
            unreadable: lately
                .map(|(from, (_, why))| Unreadable {
                    name: peer_at(from).map(|claim| claim.name.clone()),
                    from: *from,
                    why: why.clone(),
                })
                .collect(),
            copy: self
                .other_self
                .borrow()
                .filter(|other| was_lately(other.received_at))
                .map(|other| other.from),
            files_waiting: disk::waiting_for_descriptors(),
            damage: context.damage(),
        }
    }

    fn reasons(&self) -> Vec<Reason> {
        reasons(&self.known())
    }
}

fn of_raft(consensus: &Consensus, book: &dyn AddressBook) -> KnownOfRaft {
    let (membership, me) = (consensus.membership(), consensus.node_id());
    let is_voter = |id: NodeId| membership.voter_ids().any(|voter| voter == id);
    let mut others: Vec<Other> = (membership.nodes())
        .filter(|(id, _)| **id != me)
        .map(|(id, member)| Other {
            name: member.name.clone(),
            node_id: *id,
            address: book.addresses(*id).into_iter().next().unwrap_or_else(|| member.rpc_addr.clone()),
            is_voter: is_voter(*id),
            contact: consensus.peers().contact(*id),
        })
        .collect();
    others.sort_by(|left, right| left.name.cmp(&right.name));
    let named = |id: NodeId| {
        let member = membership.membership().get_node(&id);
        Named(member.map(|member| member.name.as_str()), id).to_string()
    };
    KnownOfRaft {
        cluster_id: ClusterId(consensus.peers().local().cluster_id).to_string(),
        has_leader: consensus.leader().is_some(),
        lag: consensus.lag(),
        is_member: consensus.is_member(),
        is_voter: is_voter(me),
        others,
        full: consensus.full_voter().map(named),
    }
}

impl Health for Readiness {
    fn ready(&self) -> Result<(), String> {
        let found = self.reasons();
        match found.iter().any(Reason::keeps_from_serving) {
            true => Err(in_one_line(&found)),
            false => Ok(()),
        }
    }
}

impl Diagnosis for Readiness {
    fn reasons(&self) -> Vec<String> {
        Readiness::reasons(self).iter().map(ToString::to_string).collect()
    }

    fn is_forming(&self) -> bool {
        Readiness::reasons(self).iter().any(|reason| matches!(reason, Reason::Forming(_)))
    }
}

/// Reports NOT_SERVING until more is known. Must be called before the first connection is accepted: by default the
/// service begins with SERVING.
pub async fn begin(reporter: &HealthReporter) {
    set_status(reporter, ServingStatus::NotServing).await;
}

/// Keeps the gRPC health service up to date, for ever.
pub async fn report(readiness: Arc<Readiness>, reporter: HealthReporter) {
    let mut reported = ServingStatus::NotServing;
    loop {
        let status = match readiness.ready() {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        if reported != status {
            set_status(&reporter, status).await;
            reported = status;
        }
        rt::sleep(INTERVAL).await;
    }
}

async fn set_status(reporter: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
