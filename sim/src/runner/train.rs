//! The command `train`: profile-guided optimisation of the simulation, as rustc's own book describes it.
//!
//! A build with counters plays the world of `bench` and some chaos. The profile goes into the simulation's target
//! folder, where the launcher finds it: from then on every command is built with it. The program does the same as
//! before, event by event; only the layout of its code differs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use xxhash_rust::xxh3::xxh3_64;

use super::options::Train;
use crate::launcher::{self, Build, Compiler};

/// The commands that are profiled, because they should be fast.
const LESSONS: [&[&str]; 2] = [&["bench", "--repeat", "3"], &["chaos", "--seeds", "24"]];

/// A simulator calls much through pointers: this many counters of call targets per call site, or the profiler runs out.
const ROOM_FOR_VALUES: &str = "-Cllvm-args=-vp-counters-per-site=8";

/// Runs the command.
pub fn train(options: &Train) -> ExitCode {
    let done = match std::env::var_os(launcher::TARGET) {
        Some(target) if options.forget => forget(Path::new(&target)),
        Some(target) => learn(Path::new(&target)),
        None => Err("this needs cargo: cargo run --manifest-path sim/Cargo.toml -- train".into()),
    };
    match done {
        Ok(words) => {
            println!("{words}");
            ExitCode::SUCCESS
        }
        Err(words) => {
            eprintln!("{words}");
            ExitCode::from(5)
        }
    }
}

fn forget(target: &Path) -> Result<String, String> {
    let compiler = compiler()?;
    let (folder, beginning) = compiler.profiles(target);
    remove_all(&folder, &beginning)?;
    Ok("what was learned is forgotten; the next command builds without it".into())
}

fn learn(target: &Path) -> Result<String, String> {
    let compiler = compiler()?;
    let tools = tools(&compiler);
    // Checked first, before minutes of building.
    if !tools.iter().any(|tool| Command::new(tool).args(["merge", "--help"]).output().is_ok()) {
        return Err(missing_tool(&compiler, "there is none"));
    }
    let training = target.join("training");
    let (counts, profile) = (training.join("counts"), training.join("profile"));
    let _ = fs::remove_dir_all(&counts);
    println!("1 of 4: a build with counters (minutes)");
    let count = format!("-Cprofile-generate={}", counts.display());
    run(Build::of_this_tree().cargo("build", &training, &[count, ROOM_FOR_VALUES.into()]))?;
    let host = compiler.says("host:").unwrap_or_default();
    for (number, lesson) in (2..).zip(LESSONS) {
        println!("{number} of 4: it plays {}", lesson.join(" "));
        let mut command = Command::new(training.join(host).join("sim").join("mokv-sim"));
        command.args(lesson);
        run(command)?;
    }
    merge(&compiler, &tools, &counts, &profile)?;
    let failed = |error| format!("cannot keep what was learned in {}: {error}", target.display());
    let (folder, beginning) = compiler.profiles(target);
    let learned = fs::read(&profile).map_err(failed)?;
    remove_all(&folder, &beginning)?;
    // A name for each content: cargo does not notice a change within the file.
    let file = folder.join(format!("{beginning}{:016x}.profdata", xxh3_64(&learned)));
    fs::create_dir_all(&folder).and_then(|()| fs::write(&file, learned)).map_err(failed)?;
    fs::remove_dir_all(&training)
        .map_err(|error| format!("cannot remove {}: {error}", training.display()))?;
    println!("4 of 4: a build with what was learned (minutes)");
    run(Build::of_this_tree().cargo("build", target, &launcher::learned_from(&file)))?;
    Ok(format!("learned: every command is built with {} from now on", file.display()))
}

fn compiler() -> Result<Compiler, String> {
    Compiler::ask().ok_or_else(|| "rustc does not answer; is it on the PATH?".into())
}

fn run(mut command: Command) -> Result<(), String> {
    let program = command.get_program().to_owned();
    let status = command.status().map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed: {status}", program.display())) }
}

fn remove_all(folder: &Path, beginning: &str) -> Result<(), String> {
    let Ok(files) = fs::read_dir(folder) else { return Ok(()) };
    for file in files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(beginning)) {
        let path = file.path();
        fs::remove_file(&path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
    }
    Ok(())
}

fn major_of_llvm(compiler: &Compiler) -> &str {
    compiler.says("LLVM version:").and_then(|version| version.split('.').next()).unwrap_or_default()
}

/// Where llvm-profdata may be: beside the compiler (rustup), under its versioned name or in the folder of its version
/// (distributions), or under its plain name on the PATH.
fn tools(compiler: &Compiler) -> Vec<PathBuf> {
    let libraries = Compiler::command().args(["--print", "target-libdir"]).output();
    let libraries = libraries.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let beside = libraries.map(|path| Path::new(&path).with_file_name("bin").join("llvm-profdata"));
    let major = major_of_llvm(compiler);
    let of_distributions = [
        format!("llvm-profdata-{major}"),
        format!("/usr/lib/llvm-{major}/bin/llvm-profdata"),
        "llvm-profdata".into(),
    ];
    beside.into_iter().chain(of_distributions.map(PathBuf::from)).collect()
}

/// Merges the counts into a profile with the first tool that can read them. Functions that never ran stay in it: a
/// function that is missing in the profile would not be treated as cold.
fn merge(compiler: &Compiler, tools: &[PathBuf], counts: &Path, profile: &Path) -> Result<(), String> {
    let mut said = String::new();
    for tool in tools {
        let merged = Command::new(tool).args(["merge", "-o"]).arg(profile).arg(counts).output();
        match merged {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                said.push_str(&format!("{}: {}", tool.display(), String::from_utf8_lossy(&output.stderr)))
            }
            Err(_) => {}
        }
    }
    Err(missing_tool(compiler, said.trim_end()))
}

fn missing_tool(compiler: &Compiler, said: &str) -> String {
    let major = major_of_llvm(compiler);
    format!(
        "this needs an llvm-profdata that understands LLVM {major}, the compiler's: 'rustup component add llvm-tools', or \
         the package llvm-{major} of a distribution; {said}"
    )
}
