//! One run in a process of its own: a fresh thread, a fresh simulator, a report on standard output.
//!
//! tokio and futures seed generators from process-wide counters, so a process that has run one seed can never run
//! another as if it were the first.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use madsim::net::NetSim;
use madsim::runtime::Runtime;
use mokv::rt::trace::{self, Trace};

use crate::judges::Finding;
use crate::options::Manner;
use crate::report::{Report, Verdict};
use crate::run::Run;
use crate::scenarios::Scenario;
use crate::timeline::{self, Timeline};
use crate::world::World;

/// Simulated time after which a run hangs.
const TIME_LIMIT: Duration = Duration::from_secs(1_800);

/// Plays one scenario with one seed and returns its report.
pub fn play(scenario: &'static Scenario, seed: u64, manner: Manner) -> Report {
    start_logging(manner.verbose);
    if let Ok(name) = std::env::var("MOKV_PLANTED") {
        plant(&name);
    }
    let run = Run::new(seed, manner.verbose);
    let panicked = watch_for_panics(&run);
    let inside = run.clone();
    #[allow(clippy::disallowed_methods)] // The simulator wants a thread that has never simulated.
    let unsteady = manner.unsteady;
    let thread = std::thread::spawn(move || simulate(scenario, inside, unsteady));
    let (report, timeline) = match (thread.join(), panicked.get()) {
        (Ok(trace), _) => report(scenario, &run, trace, None),
        (Err(_), Some(panic)) => {
            let words = format!("panicked at {}: {}", panic.place, panic.words);
            let (mut report, timeline) = report(scenario, &run, panic.trace, Some(words.clone()));
            report.verdict = Verdict::over_panic(&panic.place);
            report.judges.insert(0, "a panic".into());
            report.findings.insert(0, words);
            (report, timeline)
        }
        (Err(_), None) => unreachable!("the hook hears of every panic"),
    };
    if let Some(file) = &manner.timeline {
        write_timeline(file, &timeline);
    }
    report
}

/// The first panic of the run; later ones only follow from it.
struct Panic {
    words: String,
    place: String,
    trace: Trace,
}

/// Hears of panics where they happen, while the simulator's clock and trace can still be read.
fn watch_for_panics(run: &Arc<Run>) -> Arc<OnceLock<Panic>> {
    let first = Arc::new(OnceLock::new());
    let (run, panicked) = (run.clone(), first.clone());
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        panicked.get_or_init(|| {
            run.now();
            run.take_markers();
            Panic {
                words: panic.payload_as_str().unwrap_or("no message").to_owned(),
                place: panic.location().map_or_else(|| "nowhere".into(), ToString::to_string),
                trace: trace::snapshot(),
            }
        });
    }));
    first
}

fn simulate(scenario: &'static Scenario, run: Arc<Run>, unsteady: bool) -> Trace {
    let mut runtime = Runtime::with_seed_and_config(run.seed, madsim::Config::default());
    runtime.set_time_limit(TIME_LIMIT);
    let trace = runtime.block_on(async {
        trace::start();
        run.begin();
        if unsteady {
            // Nothing is put on record here: that everything after it happens a little later must be enough.
            mokv::rt::sleep(Duration::from_nanos(1 + u64::from(std::process::id()))).await;
        }
        match (scenario.play)(run.clone()).await {
            Ok(cluster) => crate::ending::end(&cluster).await,
            Err(words) => {
                // Chaos fails by itself only if its cluster never forms.
                run.find(if scenario.name == crate::scenarios::CHAOS {
                    Finding::liveness("the cluster forms", words)
                } else {
                    Finding::violation("the story", words)
                });
                crate::ending::judge(&run);
            }
        }
        run.now();
        run.take_markers();
        trace::snapshot()
    });
    // The tasks of a whole cluster, half-way through what they do: the process's end is their end.
    std::mem::forget(runtime);
    trace
}

#[allow(clippy::disallowed_methods)] // The simulation is over.
fn write_timeline(file: &Path, timeline: &Timeline) {
    let text = serde_json::to_string(timeline).expect("a timeline is plain data");
    if let Err(error) = std::fs::write(file, text) {
        eprintln!("cannot write the timeline to {}: {error}", file.display());
    }
}

fn report(scenario: &Scenario, run: &Run, trace: Trace, panic: Option<String>) -> (Report, Timeline) {
    let findings = run.findings();
    let verdict = Verdict::over(&findings);
    let mut operations = std::collections::BTreeMap::new();
    run.with_history(|history| {
        for operation in history {
            *operations.entry(outcome_word(&operation.outcome).to_owned()).or_default() += 1;
        }
    });
    let mut situations = run.situations();
    situations.insert("terms with a leader".into(), run.with_leaders(|leaders| leaders.terms() as u64));
    let timeline = run.timeline(panic);
    let failed = !timeline.marks.is_empty();
    let report = Report {
        scenario: scenario.name.to_owned(),
        seed: run.seed,
        world: run.world(),
        verdict,
        findings: findings.iter().map(ToString::to_string).collect(),
        judges: findings.iter().map(|finding| finding.judge().to_owned()).collect(),
        last_events: if failed { timeline::that_matter(&timeline) } else { Vec::new() },
        simulated_seconds: run.length().as_secs_f64(),
        fault_seconds: run.fault_time().as_secs_f64(),
        faults: run.faults(),
        operations,
        situations,
        trace_hash: trace.hash,
        trace_events: trace.events,
    };
    (report, timeline)
}

fn outcome_word(outcome: &crate::history::Outcome) -> &'static str {
    use crate::history::{Answer, Outcome};
    match outcome {
        Outcome::Ok(Answer::ConditionFailed { .. }) => "ok, condition refused",
        Outcome::Ok(_) => "ok",
        Outcome::Failed => "failed",
        Outcome::Unknown => "unknown",
    }
}

/// Makes the network as fast and as lossy as the world says.
pub fn set_network(world: &World) {
    NetSim::current().update_config(|config| {
        config.send_latency = world.network_latency.clone();
        config.packet_loss_rate = world.packet_loss;
    });
}

#[cfg(feature = "planted")]
fn plant(name: &str) {
    mokv::planted::set(name);
}

#[cfg(not(feature = "planted"))]
fn plant(name: &str) {
    panic!("MOKV_PLANTED={name} needs the feature: cargo test --features sim,planted --test sim");
}

/// The nodes' own logs, in simulated time, when somebody looks.
fn start_logging(verbose: bool) {
    use tracing_subscriber::EnvFilter;
    let default = if verbose { "mokv=info" } else { "off" };
    let filter = EnvFilter::try_from_env("MOKV_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let started = std::sync::OnceLock::new();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_timer(SimulatedTime(started))
        .init();
}

struct SimulatedTime(std::sync::OnceLock<mokv::rt::Instant>);

impl tracing_subscriber::fmt::time::FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        let now = mokv::rt::now();
        let started = self.0.get_or_init(|| now);
        write!(writer, "{:>10.6}s ", now.saturating_duration_since(*started).as_secs_f64())
    }
}
