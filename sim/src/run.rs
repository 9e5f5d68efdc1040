//! One run: what happened in it so far, kept where the simulation, its judges and its report can all reach it.
//!
//! It outlives the simulation, so that a panic in there still leaves a story. Draws nothing and decides nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use mokv::rt::clock::true_now;
use mokv::rt::{Instant, trace};

use crate::history::{Call, History, Nanos, Operation, Outcome, Seconds, Ticket};
use crate::judges::Finding;
use crate::judges::election::Leaders;
use crate::judges::stops::Stop;
use crate::ledger::Ledger;

/// Events shown of a run that failed.
const LAST_EVENTS: usize = 60;

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
    events: Vec<String>,
    history: History,
    ledger: Ledger,
    leaders: Leaders,
    stops: Vec<Stop>,
    findings: Vec<Finding>,
    faults: BTreeMap<String, u64>,
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
        // A panic of the program under test must not hide what happened before it.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
        let line = format!("{}  {}", Seconds(self.now()), event.as_ref());
        if self.verbose {
            eprintln!("{line}");
        }
        trace::record("story", line.as_bytes());
        self.state().events.push(line);
    }

    /// The last events.
    pub fn last_events(&self) -> Vec<String> {
        let state = self.state();
        state.events[state.events.len().saturating_sub(LAST_EVENTS)..].to_vec()
    }

    /// A fault was done to the cluster.
    pub fn fault(&self, kind: &str, event: impl AsRef<str>) {
        *self.state().faults.entry(kind.to_owned()).or_default() += 1;
        self.tell(event);
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

    /// A judge has something to say.
    pub fn find(&self, finding: Finding) {
        self.tell(finding.to_string().lines().next().unwrap_or_default());
        self.broken.store(true, Ordering::Relaxed);
        self.state().findings.push(finding);
    }

    /// Whether anything was found so far: going on would only bury it.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed) || self.state().ledger.first_finding().is_some()
    }

    /// All findings.
    pub fn findings(&self) -> Vec<Finding> {
        self.state().findings.clone()
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
    pub fn with_ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.state().ledger)
    }

    /// Looks at the history and at what was applied.
    pub fn with_evidence<T>(&self, look: impl FnOnce(&[Operation], &Ledger) -> T) -> T {
        let state = self.state();
        look(state.history.operations(), &state.ledger)
    }

    /// Looks at who led, or adds to it.
    pub fn with_leaders<T>(&self, look: impl FnOnce(&mut Leaders) -> T) -> T {
        look(&mut self.state().leaders)
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
