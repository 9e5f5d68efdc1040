//! Runs as pages of HTML: plays a run once more and records its timeline.

use std::path::Path;
use std::process::ExitCode;

use super::children::{self, Job};
use super::folders;
use super::options::Picture;
use crate::picture;
use crate::record::report::Verdict;
use crate::scenarios;

/// The command `report`. Returns the run's own exit code.
pub fn report(options: &Picture) -> ExitCode {
    let scenario = scenarios::find(&options.run.scenario).expect("the options know the scenarios");
    let job = Job::new(scenario.name, options.run.seed);
    let file = match &options.output {
        Some(file) => folders::of_user(file),
        None => folders::in_target("report").join(file_name(&job)),
    };
    match write(&file, &job) {
        Ok(verdict) => {
            println!("{}: {} {} seed {}", file.display(), verdict.word(), job.scenario, job.seed);
            ExitCode::from(verdict.exit_code())
        }
        Err(words) => {
            eprintln!("{words}");
            ExitCode::from(Verdict::HarnessError.exit_code())
        }
    }
}

/// Writes the page of a run that has just failed into a folder, and prints its path.
pub fn write_into(folder: &Path, job: &Job) {
    let file = folders::of_user(folder).join(file_name(job));
    match write(&file, job) {
        Ok(_) => println!("its picture: {}\n", file.display()),
        Err(words) => eprintln!("{words}"),
    }
}

fn file_name(job: &Job) -> String {
    format!("{}-{}.html", job.scenario, job.seed)
}

fn write(file: &Path, job: &Job) -> Result<Verdict, String> {
    let (outcome, timeline) = children::play_for_timeline(job.clone());
    let Some(timeline) = timeline else {
        return Err(format!(
            "{} seed {} left nothing to draw: {}",
            job.scenario,
            job.seed,
            outcome.report.findings.join("\n")
        ));
    };
    folders::write(file, &picture::page(&outcome.report, &timeline, &job.command()))?;
    Ok(outcome.report.verdict)
}
