//! One run in a process of its own: a new thread, a new simulator, a report on standard output.
//!
//! tokio and futures seed generators from process-wide counters, so a process that has run one seed can never run
//! another as if it were the first.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use madsim::runtime::Runtime;
use mokv::rt::trace::{self, Trace};

use super::options::{CHAOS, Manner};
use crate::checkers::Finding;
use crate::evidence::history_file;
use crate::launcher;
use crate::phases::liveness;
use crate::record::Run;
use crate::record::report::{Report, Verdict};
use crate::record::timeline::{self, Timeline};
use crate::scenarios::Scenario;

/// A run that takes longer, in simulated time, counts as hung.
const TIME_LIMIT: Duration = Duration::from_secs(1_800);

/// Plays one scenario with one seed and returns its report.
pub fn play(scenario: &'static Scenario, seed: u64, manner: Manner) -> Report {
    start_logging(manner.verbose);
    if let Ok(name) = std::env::var("MOKV_PLANTED") {
        plant(&name);
    }
    let run = Run::new(seed, manner.verbose);
    let (said, hears) = mpsc::channel();
    watch_for_panics(&run, said.clone());
    let inside = run.clone();
    let unsteady = manner.unsteady;
    #[allow(clippy::disallowed_methods)] // The simulator needs a thread that has never simulated.
    std::thread::spawn(move || {
        let trace = simulate(scenario, inside, unsteady);
        let _ = said.send(Ended::AsItShould(trace));
    });
    let ended = hears.recv().expect("the other thread says how it ends");
    if let Ended::Panicked { words, place, .. } = &ended
        && !run.is_readable()
    {
        let words = format!("panicked at {}, while it took something down: {words}", in_short(place));
        return Report {
            verdict: Verdict::over_panic(place),
            ..Report::crashed(scenario.name, seed, words, Vec::new())
        };
    }
    if let Some(file) = history_file::destination() {
        #[allow(clippy::disallowed_methods)] // The simulation is over.
        let written = std::fs::write(&file, run.with_history(history_file::write));
        written.unwrap_or_else(|error| panic!("cannot write the history to {}: {error}", file.display()));
    }
    let (report, timeline) = match ended {
        Ended::AsItShould(trace) => report(scenario, &run, trace, None),
        Ended::Panicked { words, place, trace } => {
            let words = format!("panicked at {}: {words}", in_short(&place));
            let (mut report, timeline) = report(scenario, &run, trace, Some(words.clone()));
            report.verdict = Verdict::over_panic(&place);
            report.checkers.insert(0, "a panic".into());
            report.findings.insert(0, words);
            (report, timeline)
        }
    };
    if let Some(file) = &manner.timeline {
        write_timeline(file, &timeline);
    }
    report
}

fn words_of(payload: &dyn std::any::Any) -> String {
    let owned = payload.downcast_ref::<String>().map(String::as_str);
    owned.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

/// A source location in a dependency, without the path to this machine's package cache.
fn in_short(place: &str) -> &str {
    let dependency = place.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/'));
    dependency.map_or(place, |(_, rest)| rest)
}

/// How the simulating thread ended.
enum Ended {
    AsItShould(Trace),
    Panicked { words: String, place: String, trace: Trace },
}

/// Catches a panic where it happens, while the simulator's clock and trace can still be read. Nothing is unwound
/// (`panic = "abort"` in the profile): the thread stops there for good, and another one reports what it recorded.
fn watch_for_panics(run: &Arc<Run>, said: mpsc::Sender<Ended>) {
    let (run, reporter) = (run.clone(), std::thread::current().id());
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        if std::thread::current().id() == reporter {
            return;
        }
        run.now();
        run.take_markers();
        let place = panic.location().map_or_else(|| "nowhere".into(), ToString::to_string);
        let words = words_of(panic.payload());
        let _ = said.send(Ended::Panicked { words, place, trace: trace::snapshot() });
        loop {
            std::thread::park();
        }
    }));
}

fn simulate(scenario: &'static Scenario, run: Arc<Run>, unsteady: bool) -> Trace {
    let mut runtime = Runtime::with_seed_and_config(run.seed, madsim::Config::default());
    runtime.set_time_limit(TIME_LIMIT);
    let trace = runtime.block_on(async {
        trace::start();
        run.begin();
        if unsteady {
            // Nothing is recorded here: the check must notice that everything afterwards happens a little later.
            mokv::rt::sleep(Duration::from_nanos(1 + u64::from(std::process::id()))).await;
        }
        match (scenario.play)(run.clone()).await {
            Ok(cluster) => liveness::end(&cluster).await,
            Err(words) => {
                // Chaos itself returns an error only if its cluster never forms.
                run.find(if scenario.name == CHAOS {
                    Finding::liveness("the cluster forms", words)
                } else {
                    Finding::violation("the scenario", words)
                });
                liveness::check(&run);
            }
        }
        run.now();
        run.take_markers();
        trace::snapshot()
    });
    // The tasks of a whole cluster, in the middle of their work: they end with the process.
    std::mem::forget(runtime);
    trace
}

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
    let mut markers = run.markers();
    markers.insert("terms with a leader".into(), run.with_logs(|logs| logs.terms() as u64));
    let timeline = run.timeline(panic);
    let failed = !timeline.marks.is_empty();
    let report = Report {
        scenario: scenario.name.to_owned(),
        seed: run.seed,
        world: run.world(),
        verdict,
        findings: findings.iter().map(ToString::to_string).collect(),
        checkers: findings.iter().map(|finding| finding.checker().to_owned()).collect(),
        last_events: if failed { timeline::that_matter(&timeline) } else { Vec::new() },
        simulated_seconds: run.length().as_secs_f64(),
        fault_seconds: run.fault_time().as_secs_f64(),
        faults: run.faults(),
        operations,
        markers,
        encounters: run.encounters(),
        trace_hash: trace.hash,
        trace_events: trace.events,
    };
    (report, timeline)
}

fn outcome_word(outcome: &crate::evidence::history::Outcome) -> &'static str {
    use crate::evidence::history::{Answer, Outcome};
    match outcome {
        Outcome::Ok(Answer::ConditionFailed { .. }) => "ok, condition refused",
        Outcome::Ok(Answer::Compacted) => "refused, compacted",
        Outcome::Ok(_) => "ok",
        Outcome::Failed => "failed",
        Outcome::Unknown => "unknown",
    }
}

/// A misspelt name would switch no bug on, and a run without the bug would look like proof.
#[cfg(feature = "planted")]
fn plant(name: &str) {
    let bugs = launcher::planted::all().unwrap_or_else(|words| panic!("{words}"));
    assert!(
        bugs.iter().any(|bug| bug.name == name),
        "{}={name}: there is no such planted bug",
        launcher::PLANTED
    );
    mokv::planted::set(name);
}

#[cfg(not(feature = "planted"))]
fn plant(name: &str) {
    panic!(
        "{}={name} needs a build with planted bugs, which the door makes: cargo test --features sim --test sim",
        launcher::PLANTED
    );
}

/// Prints the nodes' own logs, in simulated time: as `MOKV_LOG` selects, else from level info on if `verbose`.
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
