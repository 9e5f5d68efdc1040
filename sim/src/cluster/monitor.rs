//! The monitor of a cluster: polls nodes for their status, sends an operator's requests, and keeps count of the members
//! that may be missing before the harness itself would destroy the data.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use madsim::runtime::Handle;
use mokv::client::{Client, NodeStatus, Role, SettingsChange};
use mokv::rt;

use super::network::dns_name;
use super::{Cluster, Power, RPC_PORT};
use crate::world::HistoryBounds;
use crate::world::fault_budget::{self, Missing, SelfReport};

/// Interval at which the monitor polls every node.
const MONITOR_PAUSE: Duration = Duration::from_millis(200);
/// An operator's timeout.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(5);

/// Whether a node that reports this role votes.
pub fn votes(role: &Role) -> bool {
    matches!(role, Role::Leader | Role::Follower | Role::Candidate)
}

fn word(status: &NodeStatus) -> SelfReport {
    SelfReport {
        node_id: status.node_id.0,
        votes: votes(&status.role),
        term: status.term,
        leader_id: status.leader.as_ref().map_or(0, |leader| leader.node_id.0),
        last_log_index: status.last_log_index,
        applied_index: status.applied_index,
    }
}

/// The status of the last reported leader of the highest term.
fn leader_of(statuses: &BTreeMap<String, NodeStatus>) -> Option<&NodeStatus> {
    statuses.values().filter(|status| status.role == Role::Leader).max_by_key(|status| status.term)
}

impl Cluster {
    /// Reserves, or reserves again, the one place of a missing member for this node. Returns `false` if the cluster
    /// could not bear its loss now.
    pub fn may_lose(&self, name: &str) -> bool {
        let applied = self.run().with_logs(|logs| logs.fewest_voters());
        let mut state = self.state();
        let voting = state.statuses.values().filter(|status| word(status).votes).count();
        if state.missing.as_ref().is_some_and(|missing| !missing.is(name))
            || !fault_budget::bears_a_loss(voting, applied)
        {
            return false;
        }
        state.missing = Some(Missing::new(name, self.run().now()));
        true
    }

    /// Polls a node's status. `None` if it does not answer.
    pub async fn status(&self, name: &str) -> Option<NodeStatus> {
        let client = self.0.monitor_client.clone();
        let address = format!("{}:{RPC_PORT}", dns_name(name));
        let monitor = Handle::current().get_node(self.0.monitor).expect("the monitor exists");
        let status = monitor.spawn(Box::pin(async move { client.status(&address).await.ok() })).await;
        let status = status.expect("the monitor lives as long as the run")?;
        self.run().status(
            name,
            status.role.as_str(),
            status.term,
            status.committed_index,
            status.applied_index,
        );
        let outsider = self.state().nodes.get(name).is_none_or(|host| host.outsider);
        if status.role == Role::Leader && !outsider {
            let now = self.run().now();
            self.run().with_logs(|logs| logs.said_to_lead(status.term, &status.name, status.node_id.0, now));
        }
        let is_damaged = self.is_here(name) && self.is_damaged(name);
        let (now, is_settled) = (self.run().now(), self.run().with_logs(|logs| logs.members_are_settled()));
        let mut state = self.state();
        let leader = leader_of(&state.statuses).map(word);
        let is_back = |missing: &mut Missing| {
            missing.is(name) && !is_damaged && missing.is_over(word(&status), leader, is_settled, now)
        };
        if state.missing.take_if(is_back).is_some() {
            self.run().tell(format!("{name} is a full member again"));
        }
        if state.nodes.get(name).is_some_and(|host| !host.retired) {
            state.statuses.insert(name.to_owned(), status.clone());
        }
        Some(status)
    }

    /// Sends a request as an operator; the outcome goes to the timeline. Returns `true` if it was granted.
    pub async fn operate<T, F>(&self, what: &str, ask: impl FnOnce(Client) -> F) -> bool
    where
        T: Send + std::fmt::Debug + 'static,
        F: Future<Output = Result<T, mokv::client::Error>> + Send + 'static,
    {
        let monitor = Handle::current().get_node(self.0.monitor).expect("the monitor exists");
        let answer = monitor.spawn(ask(self.0.monitor_client.with_timeout(OPERATOR_PATIENCE))).await;
        let answer = answer.expect("the monitor lives as long as the run");
        self.run().tell(format!("{what}: {answer:?}"));
        answer.is_ok()
    }

    /// Changes the replicated bounds. [`Cluster::lift_bounds`] has to follow; the liveness phase calls it.
    pub async fn configure_bounds(&self, change: SettingsChange) {
        self.state().had_small_bounds = true;
        let ask = |client: Client| async move { client.configure(change).await };
        self.operate("small bounds", ask).await;
    }

    /// Restores the world's replicated bounds, if they were ever changed. A change still under way may make them small
    /// again afterwards.
    pub async fn lift_bounds(&self) {
        if !self.state().had_small_bounds {
            return;
        }
        let usual = SettingsChange::none().max_sessions(self.world().limits.sessions).max_store_bytes(None);
        let ask = |client: Client| async move { client.configure(usual).await };
        self.operate("usual bounds", ask).await;
    }

    /// Gives the history the bounds of the world.
    pub async fn bound_history(&self) {
        let HistoryBounds { seconds, bytes, revisions } = self.world().history;
        let change = SettingsChange::none()
            .history_max_age(seconds.map(Duration::from_secs))
            .history_max_bytes(bytes.and_then(NonZeroU64::new))
            .history_min_revisions(revisions);
        let ask = |client: Client| async move { client.configure(change).await };
        self.operate("bounds of the history", ask).await;
    }

    /// Makes room for nodes that want to join, if any node last reported a wanted size.
    pub async fn lift_size(&self) {
        if self.state().statuses.values().all(|status| status.wanted_size.is_none()) {
            return;
        }
        let ask = |client: Client| async move { client.set_wanted_size(None).await };
        self.operate("any size", ask).await;
    }

    /// The last reported leader of the highest term, as far as the monitor knows.
    pub fn last_known_leader(&self) -> Option<String> {
        leader_of(&self.state().statuses).map(|status| status.name.clone())
    }

    /// The last status that a node reported.
    pub fn last_status(&self, name: &str) -> Option<NodeStatus> {
        self.state().statuses.get(name).cloned()
    }

    /// The last role that a node reported.
    pub fn last_known_role(&self, name: &str) -> Option<Role> {
        self.state().statuses.get(name).map(|status| status.role.clone())
    }

    /// Waits until a majority of `among` agree on a leader that is one of them. Returns its name.
    ///
    /// # Errors
    /// Returns a description if there is none within the bound.
    pub async fn wait_for_leader(&self, among: &[String], within: Duration) -> Result<String, String> {
        let before = rt::now();
        loop {
            let mut votes: BTreeMap<(u64, String), usize> = BTreeMap::new();
            let mut said_so = None;
            for name in among {
                let Some(status) = self.status(name).await else { continue };
                if status.role == Role::Leader {
                    said_so = Some((status.term, status.name.clone())).max(said_so);
                }
                let leader = status.leader.and_then(|leader| leader.name).unwrap_or_default();
                *votes.entry((status.term, leader)).or_default() += 1;
            }
            if let Some(leader) = said_so
                && votes.get(&leader).is_some_and(|votes| *votes > among.len() / 2)
            {
                return Ok(leader.1);
            }
            if rt::now() - before > within {
                return Err(format!("{} have no leader after {within:?}", among.join(", ")));
            }
            rt::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Polls every running node until the end of the run, beside `checkers`, which look at the cluster meanwhile.
    pub fn monitor(&self, checkers: impl Future<Output = ()> + Send + 'static) {
        let looking = rt::task::spawn_guarded(checkers);
        let cluster = self.clone();
        let polling = rt::task::spawn_guarded(async move {
            loop {
                for name in cluster.running() {
                    if cluster.power(&name) == Power::On {
                        let cluster = cluster.clone();
                        rt::spawn(async move {
                            cluster.status(&name).await;
                        });
                    }
                }
                rt::sleep(MONITOR_PAUSE).await;
            }
        });
        self.state().supervisors.extend([polling, looking]);
    }
}
