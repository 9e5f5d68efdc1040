//! cargo within cargo: the simulation's workspace is built by a program that cargo itself has started.
//!
//! Used by tests of the product (tests/sim.rs, tests/sim_units.rs) and by the plain build of `mokv-sim`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// A command for the cargo that started this program, or for the one on the PATH.
///
/// Variables that the outer cargo sets about the outer package are wrong for the inner ones, and are removed.
pub fn cargo(verb: &str, manifest: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(verb).arg("--manifest-path").arg(manifest);
    // People want to see the progress of the build; files should hold only the program's output.
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_package = text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_");
        let of_target =
            ["CARGO_CRATE_NAME", "CARGO_BIN_NAME", "CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR"];
        if of_package || of_target.contains(&text.as_ref()) || text.starts_with("CARGO_BIN_EXE_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs cargo in the simulation's workspace for a test of the product, whose folder is `root`, with the test's arguments.
pub fn in_simulation(root: &str, verb: &str) -> ExitCode {
    let mut command = cargo(verb, &Path::new(root).join("sim/Cargo.toml"));
    command.arg("--target-dir").arg(target_folder().join("sim"));
    command.arg("--").args(std::env::args_os().skip(1));
    end_with(command)
}

/// Runs a command. Returns its exit code, or 101 if it could not be run.
pub fn end_with(mut command: Command) -> ExitCode {
    match command.status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(101)),
        Err(error) => {
            eprintln!("cannot run {}: {error}", command.get_program().display());
            ExitCode::from(101)
        }
    }
}

/// The target folder that this program was built into: `target` for `target/debug/deps/sim-0123` and for
/// `target/debug/mokv-sim`.
pub fn target_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let profile = program.parent().map_or(Path::new("."), |folder| {
        if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder }
    });
    profile.parent().unwrap_or(profile).to_owned()
}
