//! The door to the simulated world: runs cargo again with `--cfg madsim`, which every crate has to see.
//!
//! Used from two sides, by `cargo test --features sim` (tests/sim.rs includes this file) and by the plain build of
//! the `mokv-sim` command. Both build the same command with the same profile into one target folder below their
//! own, pass their arguments on and end with its exit code. What the compiler has learned there (`train`) goes into the
//! build. Knows nothing of what the simulation does.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::hash::{Hash, Hasher};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Set for the inner build, so that a build that did not get the flag is noticed instead of running for ever.
const INSIDE: &str = "MOKV_SIM_INSIDE";

/// Where the user stands, for relative paths.
pub const FROM: &str = "MOKV_SIM_FROM";

/// The simulation's target folder.
pub const TARGET: &str = "MOKV_SIM_TARGET";

/// rustc's flags, one after the other, with this in between. It wins over all other places for flags.
const FLAGS: &str = "CARGO_ENCODED_RUSTFLAGS";
const BETWEEN_FLAGS: &str = "\x1f";

/// How rustc is told of what it has learned, and that it need not fit line by line: the code changes, and what was
/// learned of the rest is still worth something.
const LEARNED: &str = "-Cprofile-use=";
const MORE_OR_LESS: &str = "-Cllvm-args=-no-pgo-warn-mismatch";

/// Goes through the door. Ends with the simulation's exit code, or with 101 if cargo could not be run.
pub fn enter() -> ExitCode {
    if std::env::var_os(INSIDE).is_some() {
        eprintln!("the inner build of the simulation did not get --cfg madsim; look at RUSTFLAGS");
        return ExitCode::from(101);
    }
    let target = target_folder();
    let learned = Compiler::ask().and_then(|compiler| compiler.learned(&target));
    let mut command = cargo("run", &target, &learned.map_or_else(Vec::new, |profile| learned_from(&profile)));
    if let Ok(from) = std::env::current_dir() {
        command.env(FROM, from);
    }
    command.arg("--").args(std::env::args_os().skip(1));
    match command.status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(101)),
        Err(error) => {
            eprintln!("cannot run cargo: {error}");
            ExitCode::from(101)
        }
    }
}

/// rustc's flags for a build with what was learned.
pub fn learned_from(profile: &Path) -> Vec<String> {
    vec![format!("{LEARNED}{}", profile.display()), MORE_OR_LESS.to_owned()]
}

/// Builds the simulation into a target folder. With flags that have to do with training it is for a named target, as if
/// for another machine: cargo then keeps them from build scripts and macros.
pub fn cargo(verb: &str, target_folder: &Path, training: &[String]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args([verb, "--package", "mokv-sim", "--profile", "sim"]);
    // People see how far it is; files hear what the simulation says.
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    if cfg!(feature = "planted") {
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
    // What the outer cargo says about the outer package does not hold for the inner ones.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_package = text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_");
        let of_target =
            ["CARGO_CRATE_NAME", "CARGO_BIN_NAME", "CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR"];
        if of_package || of_target.contains(&text.as_ref()) || text.starts_with("CARGO_BIN_EXE_") {
            command.env_remove(&name);
        }
    }
    command.env(INSIDE, "1").env(TARGET, target_folder);
    command
}

/// The flags of whoever came to the door, without those of the door.
fn flags_of_user() -> Vec<String> {
    let flags: Vec<String> = match (std::env::var(FLAGS), std::env::var("RUSTFLAGS")) {
        (Ok(flags), _) => flags.split(BETWEEN_FLAGS).map(str::to_owned).collect(),
        (_, Ok(flags)) => flags.split_whitespace().map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let of_door = |flag: &str| flag.starts_with(LEARNED) || flag == MORE_OR_LESS;
    let mut kept: Vec<String> = Vec::new();
    for flag in flags.into_iter().filter(|flag| !flag.is_empty() && !of_door(flag)) {
        match kept.last().map(String::as_str) {
            Some("--cfg") if flag == "madsim" => drop(kept.pop()),
            _ => kept.push(flag),
        }
    }
    kept
}

/// The compiler that cargo uses.
pub struct Compiler {
    /// Everything that it says of its version.
    version: String,
}

impl Compiler {
    /// Asks it. `None`: there is none.
    pub fn ask() -> Option<Compiler> {
        let output = Compiler::command().arg("-vV").output().ok()?;
        Some(Compiler { version: String::from_utf8(output.stdout).ok()? })
    }

    /// What runs it.
    pub fn command() -> Command {
        Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")))
    }

    /// What it says of itself after these words, `host:` say.
    pub fn says(&self, words: &str) -> Option<&str> {
        self.version.lines().find_map(|line| line.strip_prefix(words)).map(str::trim)
    }

    /// The folder for what it learns, and how the names of the files begin that this version can use for this build.
    pub fn school(&self, target_folder: &Path) -> (PathBuf, String) {
        let mut hasher = DefaultHasher::new();
        (&self.version, cfg!(feature = "planted")).hash(&mut hasher);
        (target_folder.join("learned"), format!("{:016x}-", hasher.finish()))
    }

    fn learned(&self, target_folder: &Path) -> Option<PathBuf> {
        let (folder, beginning) = self.school(target_folder);
        let files = std::fs::read_dir(folder).ok()?;
        let mut names = files.flatten().map(|file| file.path());
        names.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&beginning)))
    }
}

/// `target/debug/deps/sim-0123` and `target/debug/mokv-sim` both mean `target/sim`.
fn target_folder() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    let profile = here.parent().map_or(Path::new("."), |folder| {
        if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder }
    });
    profile.parent().unwrap_or(profile).join("sim")
}
