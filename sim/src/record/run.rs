//! The record of one run: what has happened so far, for the simulation, the checkers and the report.
//!
//! It outlives the simulation, so that a panic in there still leaves a timeline. It draws and decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use madsim::task::NodeId;
use mokv::rt::clock::true_now;
use mokv::rt::{self, Instant, trace};

use super::timeline::{self, Event, Mark, Power, Timeline, What};
use crate::checkers::direct::Spoken;
use crate::checkers::logs::Logs;
use crate::checkers::stops::Stop;
use crate::checkers::{Finding, state_machine};
use crate::evidence::applied_log::AppliedLog;
use crate::evidence::history::{Call, History, Nanos, Operation, Outcome, Seconds, Ticket};
use crate::evidence::transactions::{Asked, Told, Transacted, TransactionTicket, Transactions};

/// A marker reached more often than this in one run is no longer listed as an event.
const OFTEN: u64 = 4;

/// The record. Cheap to share.
pub struct Run {
    /// Seeds every random number generator of the run.
    pub seed: u64,
    /// Print events on standard error as they happen.
    pub verbose: bool,
    started: OnceLock<Instant>,
    ended: AtomicU64,
    faults_lasted: AtomicU64,
    world: OnceLock<String>,
    next_value: AtomicU64,
    broken: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    hosts: BTreeMap<NodeId, String>,
    nodes: BTreeSet<String>,
    statuses: BTreeMap<String, What>,
    history: History,
    transactions: Transactions,
    applied_log: AppliedLog,
    logs: Logs,
    stops: Vec<Stop>,
    spoken: Vec<Spoken>,
    encounters: BTreeMap<String, u64>,
    findings: Vec<(Nanos, Finding)>,
    faults: BTreeMap<String, u64>,
    /// By number of the injection.
    underway: BTreeMap<u32, String>,
    markers: BTreeMap<String, u64>,
}

impl Run {
    /// An empty record.
    pub fn new(seed: u64, verbose: bool) -> Arc<Run> {
        Arc::new(Run {
            seed,
            verbose,
            started: OnceLock::new(),
            ended: AtomicU64::new(0),
            faults_lasted: AtomicU64::new(0),
            world: OnceLock::new(),
            next_value: AtomicU64::new(1),
            broken: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a panic unwinds nothing")
    }

    /// Whether the record can be locked. It cannot after a panic of code that held the lock: nothing unwinds.
    pub fn is_readable(&self) -> bool {
        self.state.try_lock().is_ok()
    }

    /// Sets time zero. To be called inside the simulation.
    pub fn begin(&self) {
        self.started.set(true_now()).expect("a run begins once");
    }

    /// Simulated time since the beginning.
    pub fn now(&self) -> Nanos {
        let now = self.started.get().map_or(0, |started| (true_now() - *started).as_nanos() as u64);
        self.ended.fetch_max(now, Ordering::Relaxed);
        now
    }

    /// Simulated time from beginning to end.
    pub fn length(&self) -> Duration {
        Duration::from_nanos(self.ended.load(Ordering::Relaxed))
    }

    /// Describes the world, once.
    pub fn set_world(&self, world: String) {
        if self.verbose {
            eprintln!("{world}");
        }
        let _ = self.world.set(world);
    }

    /// The description of the world; empty before [`Run::set_world`].
    pub fn world(&self) -> String {
        self.world.get().cloned().unwrap_or_default()
    }

    /// Adds a time during which faults were injected.
    pub fn add_fault_time(&self, time: Duration) {
        self.faults_lasted.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The total time during which faults were injected.
    pub fn fault_time(&self) -> Duration {
        Duration::from_nanos(self.faults_lasted.load(Ordering::Relaxed))
    }

    /// Records an event that belongs in the printed timeline.
    pub fn tell(&self, event: impl AsRef<str>) {
        self.record(None, What::Told, event.as_ref());
    }

    /// Records an event, of a node or of none. An event without words is not printed, only drawn.
    pub fn record(&self, node: Option<&str>, what: What, words: &str) {
        let event = Event { at: self.now(), node: node.map(str::to_owned), what, words: words.to_owned() };
        if !words.is_empty() {
            let line = event.line();
            if self.verbose {
                eprintln!("{line}");
            }
            trace::record("event", line.as_bytes());
        }
        self.state().events.push(event);
    }

    /// Registers a host by name. It runs a node, or belongs to a client.
    pub fn host(&self, id: NodeId, name: &str, runs_a_node: bool) {
        let mut state = self.state();
        state.hosts.insert(id, name.to_owned());
        if runs_a_node {
            state.nodes.insert(name.to_owned());
        }
    }

    /// A node's process started, ended, or is paused.
    pub fn power(&self, node: &str, now: Power) {
        self.record(Some(node), What::Power { now }, "");
    }

    /// A link was cut or restored.
    pub fn link(&self, from: &str, to: &str, cut: bool, words: &str) {
        self.record(None, What::Link { from: from.to_owned(), to: to.to_owned(), cut }, words);
    }

    /// A node reports its status. Recorded only if it has changed.
    pub fn status(&self, node: &str, role: &str, term: u64, committed: u64, applied: u64) {
        let what = What::Status { role: role.to_owned(), term, committed, applied };
        let before = self.state().statuses.insert(node.to_owned(), what.clone());
        if before.as_ref() != Some(&what) {
            self.record(Some(node), what, "");
        }
    }

    /// A fault begins; it ends when the guard is dropped.
    pub fn begin_injection(self: &Arc<Self>, injection: u32, fault: &str) -> Underway {
        self.record(None, What::Begins { injection, fault: fault.to_owned() }, "");
        self.state().underway.insert(injection, fault.to_owned());
        Underway { run: self.clone(), injection }
    }

    /// How many faults of this name are active.
    pub fn faults_underway(&self, fault: &str) -> usize {
        self.state().underway.values().filter(|name| *name == fault).count()
    }

    /// Records an action of an injection.
    pub fn injection(&self, injection: u32, words: &str) {
        self.record(None, What::Injection { injection }, words);
    }

    /// Copies the markers that code has reached into the record. To be called where the simulation ran.
    pub fn take_markers(&self) {
        let reached = rt::sometimes::reached();
        // After a panic of code that holds the lock, the record cannot be read.
        let Ok(mut state) = self.state.try_lock() else { return };
        for (marker, reached) in reached {
            *state.markers.entry(marker.to_owned()).or_default() += reached.count;
            let often = reached.count > OFTEN;
            for place in reached.places {
                let started = self.started.get().copied().unwrap_or(place.at);
                let node = state.hosts.get(&place.host).cloned();
                let at = (place.at - started).as_nanos() as u64;
                let words = match &node {
                    Some(node) => format!("{node}: {marker}"),
                    None => marker.to_owned(),
                };
                state.events.push(Event { at, node, what: What::Reached { often }, words });
            }
        }
        // Sorted by time; the sort is stable, so events of one instant keep their order.
        state.events.sort_by_key(|event| event.at);
    }

    /// The whole run as data. `more` is a failure beside the checkers' findings.
    pub fn timeline(&self, more: Option<String>) -> Timeline {
        let length = self.length().as_nanos() as u64;
        let state = self.state();
        let operations = state.history.operations();
        let mut marks: Vec<Mark> = (state.findings.iter())
            .map(|(found_at, finding)| {
                let at = timeline::instant(finding, operations, *found_at);
                Mark { at, words: finding.to_string() }
            })
            .collect();
        marks.extend(more.map(|words| Mark { at: length, words }));
        let nodes = state.nodes.iter().cloned().collect();
        Timeline::new(length, nodes, state.events.clone(), operations, marks)
    }

    /// A fault was injected into the cluster.
    pub fn fault(&self, kind: &str, event: impl AsRef<str>) {
        *self.state().faults.entry(kind.to_owned()).or_default() += 1;
        self.tell(event);
    }

    /// An injection injected a fault into the cluster.
    pub fn fault_of_injection(&self, injection: u32, kind: &str, words: &str) {
        *self.state().faults.entry(kind.to_owned()).or_default() += 1;
        self.injection(injection, words);
    }

    /// Injected faults by kind.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        self.state().faults.clone()
    }

    /// Counts a marker that the harness reached.
    pub fn marker(&self, name: &str) {
        *self.state().markers.entry(name.to_owned()).or_default() += 1;
    }

    /// Counts of the markers, by name.
    pub fn markers(&self) -> BTreeMap<String, u64> {
        self.state().markers.clone()
    }

    /// Counts an encounter: a node in a role met a fault in a situation of the cluster.
    pub fn encounter(&self, name: String) {
        *self.state().encounters.entry(name).or_default() += 1;
    }

    /// Counts of the encounters, by name.
    pub fn encounters(&self) -> BTreeMap<String, u64> {
        self.state().encounters.clone()
    }

    /// Records a finding of a checker. A repeated finding counts once.
    pub fn find(&self, finding: Finding) {
        if self.state().findings.iter().any(|(_, known)| *known == finding) {
            return;
        }
        let words = finding.to_string();
        self.record(None, What::Finding, words.lines().next().unwrap_or_default());
        self.broken.store(true, Ordering::Relaxed);
        let now = self.now();
        self.state().findings.push((now, finding));
    }

    /// Whether any checker has a finding. If so, going on would only hide the evidence.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// All findings.
    pub fn findings(&self) -> Vec<Finding> {
        self.state().findings.iter().map(|(_, finding)| finding.clone()).collect()
    }

    /// Returns a number that no value had before.
    pub fn next_value(&self) -> u64 {
        self.next_value.fetch_add(1, Ordering::Relaxed)
    }

    /// A client sends a request.
    pub fn invoked(&self, client: u32, key: &str, call: Call) -> Ticket {
        let now = self.now();
        self.state().history.begin(client, key, call, now)
    }

    /// A client's request ended.
    pub fn returned(&self, ticket: Ticket, outcome: Outcome) {
        let now = self.now();
        let shown = self.state().history.end(ticket, outcome, now).to_string();
        trace::record("client", shown.as_bytes());
        if self.verbose && std::env::var_os("MOKV_OPERATIONS").is_some() {
            eprintln!("{}  {shown}", Seconds(now));
        }
    }

    /// A client sends a transaction.
    pub fn transaction_invoked(&self, client: u32, asked: Asked) -> TransactionTicket {
        let now = self.now();
        self.state().transactions.begin(client, asked, now)
    }

    /// A client's transaction ended.
    pub fn transaction_returned(&self, ticket: TransactionTicket, told: Told) {
        let now = self.now();
        let shown = crate::checkers::transactions::shown(self.state().transactions.end(ticket, told, now));
        trace::record("client", shown.as_bytes());
        if self.verbose && std::env::var_os("MOKV_OPERATIONS").is_some() {
            eprintln!("{}  {shown}", Seconds(now));
        }
    }

    /// How many operations have been answered.
    pub fn answered(&self) -> usize {
        let answered = |operation: &&Operation| matches!(operation.outcome, Outcome::Ok(_));
        self.state().history.operations().iter().filter(answered).count()
    }

    /// Reads the history.
    pub fn with_history<T>(&self, look: impl FnOnce(&[Operation]) -> T) -> T {
        look(self.state().history.operations())
    }

    /// Reads the applied log, or adds to it.
    pub fn with_applied_log<T>(&self, look: impl FnOnce(&mut AppliedLog) -> T) -> T {
        let (seen, conflict) = {
            let applied_log = &mut self.state().applied_log;
            (look(applied_log), applied_log.take_conflict())
        };
        conflict.iter().for_each(|conflict| self.find(state_machine::finding(conflict)));
        seen
    }

    /// Reads the history, the transactions and the applied log.
    pub fn with_evidence<T>(&self, look: impl FnOnce(&[Operation], &[Transacted], &AppliedLog) -> T) -> T {
        let state = self.state();
        look(state.history.operations(), state.transactions.all(), &state.applied_log)
    }

    /// Reads the nodes' logs, or adds to them.
    pub fn with_logs<T>(&self, look: impl FnOnce(&mut Logs) -> T) -> T {
        let (seen, findings) = {
            let logs = &mut self.state().logs;
            (look(logs), logs.take_findings())
        };
        findings.into_iter().for_each(|finding| self.find(finding));
        seen
    }

    /// A node answered a direct client, which asks only this node.
    pub fn spoke(&self, answer: Spoken) {
        self.state().spoken.push(answer);
    }

    /// All answers to direct clients, in order of arrival.
    pub fn spoken(&self) -> Vec<Spoken> {
        self.state().spoken.clone()
    }

    /// A node's process ended by itself.
    pub fn stopped(&self, stop: Stop) {
        self.state().stops.push(stop);
    }

    /// All processes that ended by themselves.
    pub fn stops(&self) -> Vec<Stop> {
        self.state().stops.clone()
    }
}

/// An active fault.
pub struct Underway {
    run: Arc<Run>,
    injection: u32,
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.run.record(None, What::Ends { injection: self.injection }, "");
        self.run.state().underway.remove(&self.injection);
    }
}
