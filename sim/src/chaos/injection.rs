//! One injection of a fault: what the functions of all kinds share.

use std::ops::Range;
use std::time::Duration;

use mokv::rt;
use mokv::rt::disk::{DiskCall, Fault};
use tokio::sync::oneshot;

use super::schedule::Planned;
use crate::cluster::{Cluster, Power};
use crate::world::FaultKind;
use crate::world::dice::Dice;

/// Longest wait for the chosen moment.
const AIM: Duration = Duration::from_secs(5);
/// Delays so short that no election begins.
pub const SOON: Range<Duration> = Duration::from_millis(1)..Duration::from_millis(60);

/// The node that a fault hits.
#[derive(Debug, Clone, Copy)]
pub enum Victim {
    /// Any node.
    Any,
    /// The leader as far as the monitor knows, else any node.
    Leader,
}

/// One fault, from its beginning to its end.
pub struct Injection {
    /// The cluster that it hits.
    pub cluster: Cluster,
    /// How long it lasts, if its kind has a duration.
    pub length: Duration,
    /// Random numbers for all choices that the schedule left open.
    pub dice: Dice,
    /// Its kind.
    pub kind: FaultKind,
    /// Its number in the schedule.
    pub number: u32,
}

impl Injection {
    /// The injection that the schedule planned.
    pub fn new(cluster: &Cluster, planned: &Planned) -> Injection {
        Injection {
            cluster: cluster.clone(),
            length: planned.length,
            dice: Dice::new(planned.seed, planned.kind.name()),
            kind: planned.kind,
            number: planned.number,
        }
    }

    /// Reports what happens, under the injection's number. To be called when it really happens.
    pub fn tell(&self, what: &str) {
        let words = format!("#{} {}: {what}", self.number, self.kind.name());
        self.cluster.run().injection(self.number, &words);
    }

    /// Reports and counts a fault that the cluster does not count by itself.
    pub fn count(&self, what: &str) {
        let words = format!("#{} {}: {what}", self.number, self.kind.name());
        self.cluster.run().fault_of_injection(self.number, self.kind.name(), &words);
    }

    /// The same injection, for a task that runs beside it. It would draw the same numbers, so it should draw none.
    pub fn shadow(&self) -> Injection {
        Injection {
            cluster: self.cluster.clone(),
            length: self.length,
            dice: self.dice.clone(),
            kind: self.kind,
            number: self.number,
        }
    }

    /// Whether another injection of this kind is still under way.
    fn is_doubled(&self) -> bool {
        self.cluster.run().faults_underway(self.kind.name()) > 1
    }

    /// The name of the node to hit.
    pub fn pick(&mut self, victim: Victim) -> String {
        match victim {
            Victim::Any => self.victim(),
            Victim::Leader => self.leader(),
        }
    }

    /// Any node.
    pub fn victim(&mut self) -> String {
        let names = self.cluster.names();
        self.dice.one_of(&names).clone()
    }

    /// The leader as far as the monitor knows, else any node.
    pub fn leader(&mut self) -> String {
        self.cluster.last_known_leader().unwrap_or_else(|| self.victim())
    }

    /// The leader that a majority agrees on, and the others. `None` if there is no leader in time or no other node, or
    /// if another injection of this kind is under way: two at a time would mend each other's links too soon.
    pub async fn leader_and_others(&self) -> Option<(String, Vec<String>)> {
        if self.is_doubled() {
            return None;
        }
        let leader = self.cluster.wait_for_leader(&self.cluster.names(), AIM).await.ok()?;
        let others = self.others(&leader);
        (!others.is_empty()).then_some((leader, others))
    }

    /// All nodes but this one.
    pub fn others(&self, than: &str) -> Vec<String> {
        self.cluster.names().into_iter().filter(|name| name != than).collect()
    }

    /// The leader or any node, each with probability one half.
    pub fn leader_or_other(&mut self) -> String {
        if self.dice.chance(0.5) { self.leader() } else { self.victim() }
    }

    /// All nodes in random order.
    pub fn shuffled(&mut self) -> Vec<String> {
        let mut names = self.cluster.names();
        self.dice.shuffle(&mut names);
        names
    }

    /// Waits as long as the schedule says.
    pub async fn last(&self) {
        rt::sleep(self.length).await;
    }

    /// How long a machine is down: often so briefly that no peer notices.
    pub fn away(&mut self, longest: Duration) -> Duration {
        if self.dice.chance(0.3) { self.soon() } else { longest }
    }

    /// A time so short that no election begins.
    pub fn soon(&mut self) -> Duration {
        self.dice.time(SOON)
    }

    /// Crashes a node at the first call of its disk for which `meant` returns `true`. Returns `false` if there was none
    /// in time or if another fault came first.
    pub async fn crash_at_call(
        &self,
        name: &str,
        crash: Fault,
        meant: impl FnMut(&DiskCall) -> bool + Send + 'static,
    ) -> bool {
        if self.cluster.power(name) != Power::On {
            return false;
        }
        match rt::timeout(AIM, self.cluster.crash_at_call(name, crash, meant)).await {
            Ok(has_struck) => has_struck,
            Err(_) => {
                self.cluster.mend_disk(name);
                false
            }
        }
    }

    /// Pauses a node inside the code that reaches one of these markers, so that no result of its last decision leaves
    /// it. Returns the node and the marker, if one was reached in time.
    pub async fn pause_at(&self, markers: &'static [&'static str]) -> Option<(String, &'static str)> {
        let cluster = self.cluster.clone();
        let (sender, struck) = oneshot::channel();
        let mut sender = Some(sender);
        let _watch = rt::sometimes::watch(move |reached, host| {
            let Some(marker) = markers.iter().find(|marker| **marker == reached) else { return };
            let node = cluster.names().into_iter().find(|name| cluster.host_id(name) == host);
            if let Some(node) = node
                && let Some(sender) = sender.take()
            {
                cluster.pause(&node);
                // The receiver is dropped only together with this watcher.
                let _ = sender.send((node, *marker));
            }
        });
        rt::timeout(AIM, struck).await.ok()?.ok()
    }

    /// Starts a node after a time so short that no election begins.
    pub async fn come_back_soon(&mut self, name: &str) {
        let soon = self.soon();
        self.come_back(name, soon).await;
    }

    /// Starts a node after the injection's length or much earlier, as [`Injection::away`] draws.
    pub async fn come_back_later(&mut self, name: &str) {
        let away = self.away(self.length);
        self.come_back(name, away).await;
    }

    /// Starts a node after a delay, unless another task has started it.
    pub async fn come_back(&self, name: &str, after: Duration) {
        rt::sleep(after).await;
        if self.cluster.power(name) == Power::Off {
            self.cluster.start(name);
        }
    }
}
