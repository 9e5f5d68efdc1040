//! Child processes: at most a few at a time, each with one run, none for ever.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::history_file;
use crate::report::Report;

/// Runs at a time.
const AT_A_TIME: usize = 2;
/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// One run to do.
#[derive(Debug, Clone)]
pub struct Job {
    /// Which scenario.
    pub scenario: &'static str,
    /// Which seed.
    pub seed: u64,
}

impl Job {
    /// What plays exactly this run again, from the top of the repository.
    pub fn command(&self) -> String {
        let planted = std::env::var("MOKV_PLANTED");
        let (variable, features) = match &planted {
            Ok(name) => (format!("MOKV_PLANTED={name} "), "sim,planted"),
            Err(_) => (String::new(), "sim"),
        };
        format!(
            "{variable}MOKV_SCENARIO={} MOKV_SEED={} cargo test --features {features} --test sim",
            self.scenario, self.seed
        )
    }
}

/// A run that is over.
pub struct Outcome {
    /// What it said, or what is said for it.
    pub report: Report,
    /// Real time it took.
    pub wall: Duration,
}

struct Running {
    job: Job,
    child: Child,
    output: std::thread::JoinHandle<(String, String)>,
    started: Instant,
}

/// Plays all jobs; `done` hears of each as it ends, with how many are over.
pub fn play_all(jobs: Vec<Job>, verbose: bool, mut done: impl FnMut(usize, Job, Outcome)) {
    let mut waiting = jobs.into_iter();
    let mut running: Vec<Running> = Vec::new();
    let mut over = 0;
    loop {
        while running.len() < AT_A_TIME
            && let Some(job) = waiting.next()
        {
            running.push(start(job, verbose, false));
        }
        if running.is_empty() {
            return;
        }
        let mut index = 0;
        while index < running.len() {
            if has_ended(&mut running[index]) {
                let (job, outcome) = collect(running.swap_remove(index));
                over += 1;
                done(over, job, outcome);
            } else {
                index += 1;
            }
        }
        pause();
    }
}

/// Plays one job alone.
pub fn play_one(job: Job, unsteady: bool) -> Outcome {
    let mut running = start(job, false, unsteady);
    while !has_ended(&mut running) {
        pause();
    }
    collect(running).1
}

#[allow(clippy::disallowed_methods)] // The parent simulates nothing.
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

#[allow(clippy::disallowed_methods)] // The parent simulates nothing.
fn start(job: Job, verbose: bool, unsteady: bool) -> Running {
    let program = std::env::current_exe().expect("the program knows where it is");
    let mut command = Command::new(program);
    command.args(["--child", job.scenario, &job.seed.to_string()]);
    if verbose {
        command.arg("--verbose");
    }
    if unsteady {
        command.arg("--unsteady");
    }
    match history_file::destination() {
        Some(file) if verbose => command.env(history_file::VARIABLE, file),
        _ => command.env_remove(history_file::VARIABLE),
    };
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(if verbose { Stdio::inherit() } else { Stdio::piped() });
    let mut child = command.spawn().expect("a process can be started");
    let (mut stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Both ends are drained, so that no child waits for its parent to read.
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
    let report = with_panic(report, &stderr);
    (running.job, Outcome { report, wall })
}

/// A panic's place is on standard error only.
fn with_panic(mut report: Report, stderr: &str) -> Report {
    let lines: Vec<&str> = stderr.lines().collect();
    if let Some(place) = lines.iter().position(|line| line.contains("panicked at")) {
        report.findings.extend(lines[place..].iter().take(6).map(ToString::to_string));
    }
    report
}
