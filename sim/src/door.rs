//! The door to the simulated world: runs cargo again with `--cfg madsim`, which every crate has to see.
//!
//! Used from two sides, by `cargo test --features sim` (tests/sim.rs includes this file) and by the plain build of
//! the `mokv-sim` command. Both build the same command with the same profile into one target folder below their
//! own, pass their arguments on and end with its exit code. Knows nothing of what the simulation does.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Set for the inner build, so that a build that did not get the flag is noticed instead of running for ever.
const INSIDE: &str = "MOKV_SIM_INSIDE";

/// Where the user stands, for relative paths.
const FROM: &str = "MOKV_SIM_FROM";

/// Goes through the door. Ends with the simulation's exit code, or with 101 if cargo could not be run.
pub fn enter() -> ExitCode {
    if std::env::var_os(INSIDE).is_some() {
        eprintln!("the inner build of the simulation did not get --cfg madsim; look at RUSTFLAGS");
        return ExitCode::from(101);
    }
    match command().status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(101)),
        Err(error) => {
            eprintln!("cannot run cargo: {error}");
            ExitCode::from(101)
        }
    }
}

fn command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["run", "--quiet", "--package", "mokv-sim", "--profile", "sim"]);
    if cfg!(feature = "planted") {
        command.args(["--features", "planted"]);
    }
    command.arg("--target-dir").arg(target_folder());
    // The environment is the one place for flags that holds everywhere: it wins over cargo's configuration.
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    command.env("RUSTFLAGS", format!("{flags} --cfg madsim").trim());
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
    if let Ok(from) = std::env::current_dir() {
        command.env(FROM, from);
    }
    command.env(INSIDE, "1").arg("--").args(std::env::args_os().skip(1));
    command
}

/// `target/debug/deps/sim-0123` and `target/debug/mokv-sim` both mean `target/sim`.
fn target_folder() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    let profile = here.parent().map_or(Path::new("."), |folder| {
        if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder }
    });
    profile.parent().unwrap_or(profile).join("sim")
}
