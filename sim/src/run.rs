//! One run: what happened in it so far, kept where the simulation, its judges and its report can all reach it.
//!
//! It outlives the simulation, so that a panic in there still leaves a story. Draws nothing and decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use madsim::task::NodeId;
use mokv::rt::clock::true_now;
use mokv::rt::{self, Instant, trace};

use crate::applied_log::AppliedLog;
use crate::checkers::Finding;
use crate::checkers::direct::Spoken;
use crate::checkers::stops::Stop;
use crate::history::{Call, History, Nanos, Operation, Outcome, Seconds, Ticket};
use crate::logs::Logs;
use crate::timeline::{self, Event, Mark, Power, Timeline, What};

/// A situation reached more often in one run is no news.
const OFTEN: u64 = 4;

/// What happened. Cheap to share.
pub struct Run {
    /// The seed of everything.
    pub seed: u64,
    /// Tell the story while it happens.
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
    applied_log: AppliedLog,
    logs: Logs,
    stops: Vec<Stop>,
    spoken: Vec<Spoken>,
    encounters: BTreeMap<String, u64>,
    findings: Vec<(Nanos, Finding)>,
    faults: BTreeMap<String, u64>,
    /// By number of the strike.
    underway: BTreeMap<u32, String>,
    situations: BTreeMap<String, u64>,
}

impl Run {
    /// Nothing has happened yet.
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

    /// Whether what is on record can be had: not after a panic of whoever took something down, which holds on to it.
    pub fn is_readable(&self) -> bool {
        self.state.try_lock().is_ok()
    }

    /// Time begins. To be called inside the simulation.
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

    /// The world's description.
    pub fn world(&self) -> String {
        self.world.get().cloned().unwrap_or_default()
    }

    /// Faults raged for this long.
    pub fn add_fault_time(&self, time: Duration) {
        self.faults_lasted.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// How long faults raged.
    pub fn fault_time(&self) -> Duration {
        Duration::from_nanos(self.faults_lasted.load(Ordering::Relaxed))
    }

    /// Something happened that belongs into the story.
    pub fn tell(&self, event: impl AsRef<str>) {
        self.record(None, What::Told, event.as_ref());
    }

    /// Something happened, to a node or to nobody in particular. Events without words are not told, only drawn.
    pub fn record(&self, node: Option<&str>, what: What, words: &str) {
        let event = Event { at: self.now(), node: node.map(str::to_owned), what, words: words.to_owned() };
        if !words.is_empty() {
            let line = event.line();
            if self.verbose {
                eprintln!("{line}");
            }
            trace::record("story", line.as_bytes());
        }
        self.state().events.push(event);
    }

    /// There is a host of this name, which may run a node or be a client's.
    pub fn host(&self, id: NodeId, name: &str, runs_a_node: bool) {
        let mut state = self.state();
        state.hosts.insert(id, name.to_owned());
        if runs_a_node {
            state.nodes.insert(name.to_owned());
        }
    }

    /// A node's process began, ended or stands still.
    pub fn power(&self, node: &str, now: Power) {
        self.record(Some(node), What::Power { now }, "");
    }

    /// A link was cut or made whole.
    pub fn link(&self, from: &str, to: &str, cut: bool, words: &str) {
        self.record(None, What::Link { from: from.to_owned(), to: to.to_owned(), cut }, words);
    }

    /// A node says how it is.
    pub fn status(&self, node: &str, role: &str, term: u64, committed: u64, applied: u64) {
        let what = What::Status { role: role.to_owned(), term, committed, applied };
        let before = self.state().statuses.insert(node.to_owned(), what.clone());
        if before.as_ref() != Some(&what) {
            self.record(Some(node), what, "");
        }
    }

    /// A fault begins, and ends when the guard is dropped.
    pub fn begin_injection(self: &Arc<Self>, injection: u32, fault: &str) -> Underway {
        self.record(None, What::Begins { injection, fault: fault.to_owned() }, "");
        self.state().underway.insert(injection, fault.to_owned());
        Underway { run: self.clone(), injection }
    }

    /// How many faults of this name are under way.
    pub fn faults_underway(&self, fault: &str) -> usize {
        self.state().underway.values().filter(|name| *name == fault).count()
    }

    /// A strike does something.
    pub fn injection(&self, injection: u32, words: &str) {
        self.record(None, What::Injection { injection }, words);
    }

    /// Takes in the rare situations that code said it has reached. To be called where the simulation ran.
    pub fn take_markers(&self) {
        let reached = rt::sometimes::reached();
        // After a panic of whoever holds the lock there is nothing to be had.
        let Ok(mut state) = self.state.try_lock() else { return };
        for (situation, reached) in reached {
            *state.situations.entry(situation.to_owned()).or_default() += reached.count;
            let often = reached.count > OFTEN;
            for place in reached.places {
                let started = self.started.get().copied().unwrap_or(place.at);
                let node = state.hosts.get(&place.host).cloned();
                let at = (place.at - started).as_nanos() as u64;
                let words = match &node {
                    Some(node) => format!("{node}: {situation}"),
                    None => situation.to_owned(),
                };
                state.events.push(Event { at, node, what: What::Reached { often }, words });
            }
        }
        // In the order of time again; events of one instant stay as they came.
        state.events.sort_by_key(|event| event.at);
    }

    /// The whole run as data, with what was found besides the judges' findings.
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

    /// A fault was done to the cluster.
    pub fn fault(&self, kind: &str, event: impl AsRef<str>) {
        *self.state().faults.entry(kind.to_owned()).or_default() += 1;
        self.tell(event);
    }

    /// A strike did a fault to the cluster.
    pub fn fault_of_injection(&self, injection: u32, kind: &str, words: &str) {
        *self.state().faults.entry(kind.to_owned()).or_default() += 1;
        self.injection(injection, words);
    }

    /// Faults by kind.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        self.state().faults.clone()
    }

    /// A situation was reached that is worth counting.
    pub fn situation(&self, name: &str) {
        *self.state().situations.entry(name.to_owned()).or_default() += 1;
    }

    /// Situations by name.
    pub fn situations(&self) -> BTreeMap<String, u64> {
        self.state().situations.clone()
    }

    /// A role met a fault in a situation.
    pub fn encounter(&self, name: String) {
        *self.state().encounters.entry(name).or_default() += 1;
    }

    /// What met what, and how often.
    pub fn encounters(&self) -> BTreeMap<String, u64> {
        self.state().encounters.clone()
    }

    /// A judge has something to say. Said twice it counts once.
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

    /// Whether anything was found so far: going on would only bury it.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// All findings.
    pub fn findings(&self) -> Vec<Finding> {
        self.state().findings.iter().map(|(_, finding)| finding.clone()).collect()
    }

    /// A number that no value had before.
    pub fn next_value(&self) -> u64 {
        self.next_value.fetch_add(1, Ordering::Relaxed)
    }

    /// A client sends a request.
    pub fn invoked(&self, client: u32, key: &str, call: Call) -> Ticket {
        let now = self.now();
        self.state().history.begin(client, key, call, now)
    }

    /// A client hears of its request.
    pub fn returned(&self, ticket: Ticket, outcome: Outcome) {
        let now = self.now();
        let shown = self.state().history.end(ticket, outcome, now).to_string();
        trace::record("client", shown.as_bytes());
        if self.verbose && std::env::var_os("MOKV_OPERATIONS").is_some() {
            eprintln!("{}  {shown}", Seconds(now));
        }
    }

    /// How many operations were answered so far.
    pub fn answered(&self) -> usize {
        let answered = |operation: &&Operation| matches!(operation.outcome, Outcome::Ok(_));
        self.state().history.operations().iter().filter(answered).count()
    }

    /// Looks at the history.
    pub fn with_history<T>(&self, look: impl FnOnce(&[Operation]) -> T) -> T {
        look(self.state().history.operations())
    }

    /// Looks at what was applied, or adds to it.
    pub fn with_applied_log<T>(&self, look: impl FnOnce(&mut AppliedLog) -> T) -> T {
        let (seen, finding) = {
            let applied_log = &mut self.state().applied_log;
            (look(applied_log), applied_log.take_finding())
        };
        finding.into_iter().for_each(|finding| self.find(finding));
        seen
    }

    /// Looks at the history and at what was applied.
    pub fn with_evidence<T>(&self, look: impl FnOnce(&[Operation], &AppliedLog) -> T) -> T {
        let state = self.state();
        look(state.history.operations(), &state.applied_log)
    }

    /// Looks at the nodes' logs, or adds to them.
    pub fn with_logs<T>(&self, look: impl FnOnce(&mut Logs) -> T) -> T {
        let (seen, findings) = {
            let logs = &mut self.state().logs;
            (look(logs), logs.take_findings())
        };
        findings.into_iter().for_each(|finding| self.find(finding));
        seen
    }

    /// A node answered somebody who asked only it.
    pub fn spoke(&self, answer: Spoken) {
        self.state().spoken.push(answer);
    }

    /// All answers of that kind, in the order in which they arrived.
    pub fn spoken(&self) -> Vec<Spoken> {
        self.state().spoken.clone()
    }

    /// A node ended by itself.
    pub fn stopped(&self, stop: Stop) {
        self.state().stops.push(stop);
    }

    /// All ends of nodes.
    pub fn stops(&self) -> Vec<Stop> {
        self.state().stops.clone()
    }
}

/// A fault under way.
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
