//! The power of hosts, and their processes: nodes start, stop, are killed, are paused, exit by themselves.

use std::sync::Arc;
use std::time::Duration;

use madsim::runtime::Handle;
use mokv::node::{self, Options};
use mokv::raft::Observer;
use mokv::rt;
use mokv::rt::disk::SimDisk;
use tokio::sync::oneshot;

use super::cause::Proof;
use super::host::Host;
use super::observer::{NodeObserver, UntilOver};
use super::{Cluster, Power};
use crate::checkers::Finding;
use crate::checkers::stops::{self, Stop};
use crate::record::timeline;

/// Time in which an operator wipes a node whose exit message asks for it.
const OPERATOR_PAUSE: Duration = Duration::from_secs(1);
/// Longest graceful stop.
const STOP_BOUND: Duration = Duration::from_secs(30);

/// How a node's process ended by itself: the error is its exit message.
type End = Result<(), String>;

impl Cluster {
    /// The power state of a host.
    pub fn power(&self, name: &str) -> Power {
        self.host(&mut self.state(), name).power
    }

    /// The number of a host's present process: how often it was started.
    pub fn process_number(&self, name: &str) -> u64 {
        self.host(&mut self.state(), name).process_number
    }

    /// Identifies a period in which a node runs at a steady pace with a clock that is about right; two equal values
    /// belong to the same period. `None` if it does not run so now. On a slow disk a start takes seconds, in which the
    /// node has its port and does not answer yet.
    pub fn pace(&self, name: &str) -> Option<u64> {
        let is_open = self.run().with_logs(|logs| logs.is_open(name));
        let mut state = self.state();
        let host = self.host(&mut state, name);
        let is_about_to_start = host.has_slow_disk && !is_open;
        (host.power == Power::On && !host.has_odd_clock && !is_about_to_start).then_some(host.disturbances)
    }

    /// Nodes whose process runs, paused ones included.
    pub fn running(&self) -> Vec<String> {
        let state = self.state();
        state
            .nodes
            .iter()
            .filter(|(_, host)| host.power != Power::Off)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Starts all nodes that do not run.
    pub fn start_all(&self) {
        for name in self.names() {
            if self.power(&name) == Power::Off {
                self.start(&name);
            }
        }
    }

    /// Starts a node in a new process, on its disk as it is, or on an empty one if its exit message asked for that.
    pub fn start(&self, name: &str) {
        if !self.is_here(name) {
            return;
        }
        if self.host(&mut self.state(), name).has_to_be_wiped {
            self.wipe(name);
        }
        let mut state = self.state();
        let id = state.network.id(name);
        let host = self.host(&mut state, name);
        assert_eq!(host.power, Power::Off, "{name} runs already");
        host.power = Power::On;
        host.process_number += 1;
        host.disturbances += 1;
        host.drop_past_causes();
        let (stop, stopped) = oneshot::channel();
        host.stop = Some(stop);
        let (number, config, disk) = (host.process_number, host.config.clone(), host.disk.mount());
        let options = Options { supports: host.supports, observer: self.observer(name, host) };
        // A restart makes a new host: nothing of the old process is left.
        Handle::current().restart(id);
        let process = Handle::current().get_node(id).expect("the host exists").spawn(async move {
            let asked_to_stop = async {
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            node::run(config, disk, options, asked_to_stop).await.map_err(|error| error.to_string())
        });
        let (cluster, name) = (self.clone(), name.to_owned());
        self.0.run.power(&name, timeline::Power::Up);
        self.0.run.tell(format!("{name} starts (process {number})"));
        state.supervisors.push(rt::task::spawn_guarded(async move {
            // A killed process does not report.
            if let Ok(end) = process.await {
                cluster.ended(&name, number, end);
            }
        }));
    }

    /// The observer of a process that is about to start. `None`: what it does is not recorded.
    fn observer(&self, name: &str, host: &mut Host) -> Option<Arc<dyn Observer>> {
        let tampered = host.disk.counts().tampered;
        // Under a copied identity two processes vote and acknowledge, until both are wiped.
        let is_damaged = host.causes.iter().any(|cause| cause.proof == Proof::Damage);
        let is_tampered = std::mem::replace(&mut host.tampered, tampered) != tampered || is_damaged;
        let disk_name = format!("{name}'s disk {}", host.disks);
        let (run, installed, memory) = (self.0.run.clone(), host.installed.clone(), host.memory.clone());
        host.record_is_over = Arc::default();
        let is_over = host.record_is_over.clone();
        let observer = UntilOver {
            observer: NodeObserver::new(name, disk_name, is_tampered, run, installed, memory),
            is_over,
        };
        (!host.outsider).then(|| Arc::new(observer) as Arc<dyn Observer>)
    }

    fn ended(&self, name: &str, number: u64, end: End) {
        let mut state = self.state();
        let id = state.network.id(name);
        let Some(host) = state.nodes.get_mut(name) else { return };
        if host.process_number != number || host.power == Power::Off {
            return;
        }
        host.power = Power::Off;
        let was_asked = host.stop.is_none();
        host.stop = None;
        host.disk.kill();
        Handle::current().kill(id);
        self.run().with_logs(|logs| logs.ended(name));
        self.run().power(name, timeline::Power::Down);
        let reason = match end {
            Ok(()) if was_asked => {
                drop(state);
                return self.run().tell(format!("{name} has stopped"));
            }
            end => end.err().unwrap_or_else(|| "it said nothing".into()),
        };
        // The latest cause that explains it; damage stays until the wipe.
        let known = host.causes.iter().rposition(|cause| cause.explains(&host.disk, &reason));
        let cause = known.map(|known| host.causes[known].words.clone());
        if let Some(known) = known {
            host.disk.on_call(None);
            host.has_to_be_wiped |= matches!(host.causes[known].proof, Proof::Damage | Proof::Copied);
            if !host.causes[known].lasts() {
                host.causes.remove(known);
            }
        }
        let has_to_be_wiped = host.has_to_be_wiped;
        drop(state);
        self.run().tell(format!("{name} ends by itself: {reason}"));
        let stop = Stop { node: name.to_owned(), at: self.run().now(), reason, cause };
        if stop.cause.is_none() {
            stops::check(std::slice::from_ref(&stop))
                .into_iter()
                .for_each(|finding| self.run().find(finding));
        }
        self.run().stopped(stop);
        if has_to_be_wiped {
            let (cluster, name) = (self.clone(), name.to_owned());
            rt::spawn(async move {
                rt::sleep(OPERATOR_PAUSE).await;
                if cluster.power(&name) == Power::Off {
                    cluster.start(&name);
                }
            });
        }
    }

    pub(super) fn is_stopping(&self, name: &str) -> bool {
        self.host(&mut self.state(), name).stop.is_none()
    }

    /// Kills the process, as `kill -9` does; its writes stay in the page cache.
    pub fn kill(&self, name: &str) {
        if self.switch_off(name, SimDisk::kill) {
            self.0.run.fault("kill", format!("{name} is killed"));
        }
    }

    /// Power fails on one machine: unsynced writes are lost, torn or kept.
    pub fn power_loss(&self, name: &str) {
        let unsynced = self.disk(name).counts().unsynced_writes;
        if self.switch_off(name, SimDisk::power_loss) {
            if unsynced > 0 {
                self.0.run.marker("power lost with unsynced writes");
            }
            self.0.run.fault("power loss", format!("{name} loses power, {unsynced} writes were not synced"));
        }
    }

    fn switch_off(&self, name: &str, what: impl FnOnce(&SimDisk)) -> bool {
        let mut state = self.state();
        let id = state.network.id(name);
        let host = self.host(&mut state, name);
        let was_running = host.power != Power::Off;
        // The disk first: no write of the dying process reaches it any more.
        what(&host.disk);
        if host.power == Power::Paused {
            Handle::current().resume(id);
        }
        host.power = Power::Off;
        host.stop = None;
        Handle::current().kill(id);
        self.0.run.with_logs(|logs| logs.ended(name));
        if was_running {
            self.0.run.power(name, timeline::Power::Down);
        }
        was_running
    }

    /// Asks a node to stop, as SIGTERM does, and waits until it has, or until another fault has ended the process.
    pub async fn stop(&self, name: &str) {
        let Some(stop) = self.host(&mut self.state(), name).stop.take() else { return };
        let number = self.process_number(name);
        self.0.run.fault("stop", format!("{name} is asked to stop"));
        let _ = stop.send(());
        let before = rt::now();
        while self.power(name) == Power::On && self.process_number(name) == number {
            if rt::now() - before > STOP_BOUND {
                let words = format!("{name} did not stop within {STOP_BOUND:?} of being asked");
                self.0.run.find(Finding::liveness("graceful stop", words));
                self.kill(name);
                return;
            }
            rt::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Pauses the node: none of its code runs, its connections stay open.
    pub fn pause(&self, name: &str) {
        let mut state = self.state();
        let id = state.network.id(name);
        let host = self.host(&mut state, name);
        if host.power == Power::On {
            host.power = Power::Paused;
            host.disturbances += 1;
            Handle::current().pause(id);
            drop(state);
            self.0.run.power(name, timeline::Power::Paused);
            self.0.run.fault("pause", format!("{name} stands still"));
        }
    }

    /// Resumes a paused node.
    pub fn resume(&self, name: &str) {
        let mut state = self.state();
        let id = state.network.id(name);
        let host = self.host(&mut state, name);
        if host.power == Power::Paused {
            host.power = Power::On;
            Handle::current().resume(id);
            drop(state);
            self.0.run.power(name, timeline::Power::Up);
            self.0.run.tell(format!("{name} goes on"));
        }
    }
}
