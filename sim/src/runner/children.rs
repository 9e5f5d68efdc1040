//! Child processes: a limited number at a time, each with one run and a time limit.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::options::CHAOS;
use crate::chaos::reduction;
use crate::evidence::history::Operation;
use crate::evidence::history_file;
use crate::launcher;
use crate::record::report::Report;
use crate::record::timeline::Timeline;

/// A run that takes longer, in real time, counts as hung.
const PATIENCE: Duration = Duration::from_secs(300);

/// One run to play.
#[derive(Debug, Clone)]
pub struct Job {
    /// The scenario.
    pub scenario: &'static str,
    /// The seed.
    pub seed: u64,
    /// What is left out of the run, in the syntax of `MOKV_REDUCE`; empty: nothing.
    pub reduction: String,
    /// The planted bug; `None`: the one that the environment names, if any.
    pub planted: Option<&'static str>,
}

impl Job {
    /// A run with the reduction from the environment.
    pub fn new(scenario: &'static str, seed: u64) -> Job {
        let reduction = std::env::var(reduction::VARIABLE).unwrap_or_default();
        Job { scenario, seed, reduction, planted: None }
    }

    /// The command that plays exactly this run again, from the top of the repository.
    pub fn command(&self) -> String {
        let of_environment = std::env::var(launcher::PLANTED).ok();
        let planted = self.planted.or(of_environment.as_deref());
        let planted = planted.map_or_else(String::new, |name| format!("{}={name} ", launcher::PLANTED));
        let reduced = match self.reduction.as_str() {
            "" => String::new(),
            text => format!("{}='{text}' ", reduction::VARIABLE),
        };
        format!(
            "{planted}{reduced}MOKV_SCENARIO={} MOKV_SEED={} cargo test --features sim --test sim",
            self.scenario, self.seed
        )
    }
}

/// The result of a run.
pub struct Outcome {
    /// The child's report, or one made in its place.
    pub report: Report,
    /// Real time that the run took.
    pub wall: Duration,
}

struct Running {
    job: Job,
    child: Child,
    output: std::thread::JoinHandle<(String, String)>,
    started: Instant,
}

/// The default number of runs at a time: one for each core.
pub fn at_a_time() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Plays all jobs. Calls `done` as each ends, with the number of those that have ended.
pub fn play_all(jobs: Vec<Job>, verbose: bool, mut done: impl FnMut(usize, Job, Outcome)) {
    let (mut waiting, mut over) = (jobs.into_iter(), 0);
    let how = if verbose { How::Aloud } else { How::Quietly };
    play(
        at_a_time(),
        how,
        || waiting.next(),
        |job, outcome| {
            over += 1;
            done(over, job, outcome);
        },
    );
}

/// How a run is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How<'a> {
    /// Only its report is read.
    Quietly,
    /// It prints events on standard error.
    Aloud,
    /// It is made non-deterministic on purpose.
    Unsteadily,
    /// It writes its timeline to this file.
    WithTimeline(&'a Path),
}

/// Plays the jobs that `next` returns, `at_a_time` at once, until all have ended. Calls `done` as each ends.
pub fn play(
    at_a_time: usize,
    how: How<'_>,
    mut next: impl FnMut() -> Option<Job>,
    mut done: impl FnMut(Job, Outcome),
) {
    let mut running: Vec<Running> = Vec::new();
    loop {
        while running.len() < at_a_time
            && let Some(job) = next()
        {
            running.push(start(job, how));
        }
        if running.is_empty() {
            return;
        }
        let mut index = 0;
        while index < running.len() {
            if has_ended(&mut running[index]) {
                let (job, outcome) = collect(running.swap_remove(index));
                done(job, outcome);
            } else {
                index += 1;
            }
        }
        pause();
    }
}

/// Plays one job.
pub fn play_one(job: Job, how: How<'_>) -> Outcome {
    let mut running = start(job, how);
    while !has_ended(&mut running) {
        pause();
    }
    collect(running).1
}

/// Plays one job and returns its timeline, too. `None`: the process wrote none.
pub fn play_for_timeline(job: Job) -> (Outcome, Option<Timeline>) {
    let file = std::env::temp_dir().join(format!("mokv-sim-{}-{}.json", std::process::id(), job.seed));
    let outcome = play_one(job, How::WithTimeline(&file));
    let timeline = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let _ = std::fs::remove_file(&file);
    (outcome, timeline)
}

#[allow(clippy::disallowed_methods)] // The parent simulates nothing.
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// The command that plays one run of `program`, this build of the simulation or another, in a process of its own.
#[allow(clippy::disallowed_methods)] // The parent simulates nothing.
pub fn command(program: &Path, scenario: &str, seed: u64) -> Command {
    let mut command = Command::new(program);
    command.args(["--child", scenario, &seed.to_string()]).stdin(Stdio::null());
    // A run is over in a second: memory returned to the system in between would only be faulted in and cleared again.
    command.env("MIMALLOC_PURGE_DELAY", "-1");
    command
}

/// Plays a chaos seed in a process of its own. Returns the history of its clients, which it writes into the folder.
///
/// # Errors
/// As a message for the user.
pub fn record_history(seed: u64, folder: &Path) -> Result<Vec<Operation>, String> {
    let path = folder.join(format!("{seed}.history"));
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut child = command(&program, CHAOS, seed);
    // A planted bug would be found here, too, and by the wrong test.
    child
        .env(history_file::VARIABLE, &path)
        .env_remove(launcher::PLANTED)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    child.status().map_err(|error| format!("chaos seed {seed} cannot be played: {error}"))?;
    let text = std::fs::read_to_string(&path).map_err(|error| format!("chaos seed {seed}: {error}"))?;
    history_file::read(&text).map_err(|error| format!("chaos seed {seed}: {error}"))
}

#[allow(clippy::disallowed_methods)] // The parent simulates nothing.
fn start(job: Job, how: How<'_>) -> Running {
    let program = std::env::current_exe().expect("the program knows where it is");
    let mut command = command(&program, job.scenario, job.seed);
    match how {
        How::Quietly => {}
        How::Aloud => {
            command.arg("--verbose");
        }
        How::Unsteadily => {
            command.arg("--unsteady");
        }
        How::WithTimeline(file) => {
            command.arg("--timeline").arg(file);
        }
    }
    if let Some(name) = job.planted {
        command.env(launcher::PLANTED, name);
    }
    if !job.reduction.is_empty() {
        command.env(reduction::VARIABLE, &job.reduction);
    }
    match history_file::destination() {
        Some(file) if how == How::Aloud => command.env(history_file::VARIABLE, file),
        _ => command.env_remove(history_file::VARIABLE),
    };
    command.stdout(Stdio::piped());
    command.stderr(if how == How::Aloud { Stdio::inherit() } else { Stdio::piped() });
    let mut child = command.spawn().expect("a process can be started");
    let (mut stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Both pipes are drained, so that no child waits for its parent to read.
    let output = std::thread::spawn(move || {
        let errors = std::thread::spawn(move || stderr.map(read).unwrap_or_default());
        (stdout.take().map(read).unwrap_or_default(), errors.join().unwrap_or_default())
    });
    Running { job, child, output, started: Instant::now() }
}

fn read(mut pipe: impl std::io::Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn has_ended(running: &mut Running) -> bool {
    if running.started.elapsed() > PATIENCE {
        let _ = running.child.kill();
    }
    running.child.try_wait().is_ok_and(|status| status.is_some())
}

fn collect(mut running: Running) -> (Job, Outcome) {
    let status = running.child.wait();
    let wall = running.started.elapsed();
    let (stdout, stderr) = running.output.join().unwrap_or_default();
    let report = Report::from_output(&stdout).unwrap_or_else(|| {
        let how = match status {
            _ if wall > PATIENCE => format!("did not end within {PATIENCE:?}"),
            Ok(status) => format!("the process ended with {status} and left no report"),
            Err(error) => format!("the process is gone: {error}"),
        };
        let last: Vec<String> = stderr.lines().rev().take(40).map(str::to_owned).collect();
        Report::crashed(running.job.scenario, running.job.seed, how, last.into_iter().rev().collect())
    });
    (running.job, Outcome { report, wall })
}
