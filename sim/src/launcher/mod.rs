//! The launcher of the simulation: runs cargo again with `--cfg madsim`, which every crate has to be built with.
//!
//! `cargo test --features sim` of the product and `cargo run` here both come through it: the same command and profile
//! build the simulation into one target folder, and it gets their arguments and determines their exit code. The build
//! uses the compiler's profile from there (`train`), if there is one. For planted bugs, the copy of the tree that has
//! them is built instead. Has no knowledge of what the simulation does.

pub mod cargo;
pub mod planted;

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
#[cfg(not(madsim))]
use std::process::ExitCode;

#[cfg(not(madsim))]
use planted::tree;

/// Set for the inner build, so that an inner build without the flag is noticed instead of running for ever.
const INSIDE: &str = "MOKV_SIM_INSIDE";

/// The user's working directory, for relative paths.
pub const FROM: &str = "MOKV_SIM_FROM";

/// The simulation's target folder.
pub const TARGET: &str = "MOKV_SIM_TARGET";

/// Names the planted bug that is switched on.
pub const PLANTED: &str = "MOKV_PLANTED";

/// A command of the launcher only: updates the copy with the planted bugs and prints its path.
#[cfg(not(madsim))]
const PLANTED_TREE: &str = "planted-tree";
/// The command that needs the planted bugs, whatever the environment is.
#[cfg(not(madsim))]
const HUNT: &str = "hunt";

/// rustc's flags, with [`BETWEEN_FLAGS`] between them. Overrides all other places for flags.
const FLAGS: &str = "CARGO_ENCODED_RUSTFLAGS";
const BETWEEN_FLAGS: &str = "\x1f";

/// Gives rustc the profile. It need not match line by line: after a change it is still useful for the rest.
const LEARNED: &str = "-Cprofile-use=";
const MORE_OR_LESS: &str = "-Cllvm-args=-no-pgo-warn-mismatch";

/// Builds and runs the simulation. Returns its exit code, 101 if cargo cannot run, or 5 if bugs cannot be planted.
#[cfg(not(madsim))]
pub fn enter() -> ExitCode {
    if std::env::var_os(INSIDE).is_some() {
        eprintln!("the inner build of the simulation did not get --cfg madsim; look at RUSTFLAGS");
        return ExitCode::from(101);
    }
    let target = target_folder();
    let first = std::env::args().nth(1);
    let is_planted =
        first.as_deref() == Some(HUNT) || std::env::var_os(PLANTED).is_some_and(|bug| !bug.is_empty());
    let build = match is_planted || first.as_deref() == Some(PLANTED_TREE) {
        false => Build::of_this_tree(),
        true => match tree::prepare(&Build::of_this_tree().sim, &target.with_file_name("planted")) {
            Ok(sim) => Build { sim, is_planted: true },
            Err(words) => {
                eprintln!("{words}");
                return ExitCode::from(5);
            }
        },
    };
    if first.as_deref() == Some(PLANTED_TREE) {
        println!("{}", build.sim.parent().unwrap_or(&build.sim).display());
        return ExitCode::SUCCESS;
    }
    let learned = Compiler::ask().and_then(|compiler| compiler.learned(&target));
    let mut command =
        build.cargo("run", &target, &learned.map_or_else(Vec::new, |profile| learned_from(&profile)));
    if let Ok(from) = std::env::current_dir() {
        command.env(FROM, from);
    }
    command.arg("--").args(std::env::args_os().skip(1));
    cargo::end_with(command)
}

/// rustc's flags for a build with this profile.
pub fn learned_from(profile: &Path) -> Vec<String> {
    vec![format!("{LEARNED}{}", profile.display()), MORE_OR_LESS.to_owned()]
}

/// Which sources are built: this tree, or its copy with planted bugs.
#[derive(Debug)]
pub struct Build {
    /// The simulation's folder.
    sim: PathBuf,
    is_planted: bool,
}

impl Build {
    /// The sources that this program was built from.
    pub fn of_this_tree() -> Build {
        Build { sim: env!("CARGO_MANIFEST_DIR").into(), is_planted: cfg!(feature = "planted") }
    }

    /// Builds the simulation into a target folder. If `training` has flags, the build names its target, as if for
    /// another machine: cargo then does not apply them to build scripts and macros.
    pub fn cargo(&self, verb: &str, target_folder: &Path, training: &[String]) -> Command {
        let mut command = cargo::cargo(verb, &self.sim.join("Cargo.toml"));
        command.args(["--package", "mokv-sim", "--profile", "sim"]);
        if self.is_planted {
            command.args(["--features", "planted"]);
        }
        command.arg("--target-dir").arg(target_folder);
        let mut flags = flags_of_user();
        flags.extend(["--cfg".to_owned(), "madsim".to_owned()]);
        if let (false, Some(compiler)) = (training.is_empty(), Compiler::ask()) {
            command.args(["--target", compiler.says("host:").unwrap_or_default()]);
            flags.extend_from_slice(training);
        }
        command.env(FLAGS, flags.join(BETWEEN_FLAGS));
        command.env(INSIDE, "1").env(TARGET, target_folder);
        command
    }
}

/// The user's flags, without those that the launcher adds.
fn flags_of_user() -> Vec<String> {
    let flags: Vec<String> = match (std::env::var(FLAGS), std::env::var("RUSTFLAGS")) {
        (Ok(flags), _) => flags.split(BETWEEN_FLAGS).map(str::to_owned).collect(),
        (_, Ok(flags)) => flags.split_whitespace().map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let of_launcher = |flag: &str| flag.starts_with(LEARNED) || flag == MORE_OR_LESS;
    let mut kept: Vec<String> = Vec::new();
    for flag in flags.into_iter().filter(|flag| !flag.is_empty() && !of_launcher(flag)) {
        match kept.last().map(String::as_str) {
            Some("--cfg") if flag == "madsim" => drop(kept.pop()),
            _ => kept.push(flag),
        }
    }
    kept
}

/// The compiler that cargo uses.
pub struct Compiler {
    /// The compiler's full version text.
    version: String,
}

impl Compiler {
    /// Runs the compiler for its version. `None`: there is none.
    pub fn ask() -> Option<Compiler> {
        let output = Compiler::command().arg("-vV").output().ok()?;
        Some(Compiler { version: String::from_utf8(output.stdout).ok()? })
    }

    /// The command that runs the compiler.
    pub fn command() -> Command {
        Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")))
    }

    /// The value after these words in the version text, for example after `host:`.
    pub fn says(&self, words: &str) -> Option<&str> {
        self.version.lines().find_map(|line| line.strip_prefix(words)).map(str::trim)
    }

    /// The folder for profiles, and the prefix of the names of the files that this version can use.
    pub fn profiles(&self, target_folder: &Path) -> (PathBuf, String) {
        let mut hasher = DefaultHasher::new();
        self.version.hash(&mut hasher);
        (target_folder.join("learned"), format!("{:016x}-", hasher.finish()))
    }

    #[cfg(not(madsim))]
    fn learned(&self, target_folder: &Path) -> Option<PathBuf> {
        let (folder, beginning) = self.profiles(target_folder);
        let files = std::fs::read_dir(folder).ok()?;
        let mut names = files.flatten().map(|file| file.path());
        names.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&beginning)))
    }
}

/// One folder for every way to the launcher: `sim` in the product's target folder. This program was built into that
/// folder by a test of the product, or by `cargo run` into the simulation's own target folder, or into one that the
/// user has chosen.
#[cfg(not(madsim))]
fn target_folder() -> PathBuf {
    let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ours = cargo::target_folder();
    match ours {
        _ if ours == sim.join("target") => sim.with_file_name("target").join("sim"),
        _ if ours.ends_with("sim") => ours,
        _ => ours.join("sim"),
    }
}
