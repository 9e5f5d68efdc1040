//! `cargo test --features sim`: the unit tests of the simulation's workspace, which is not the product's.

#[path = "../sim/src/cargo.rs"]
mod cargo;

use std::path::Path;

fn main() -> std::process::ExitCode {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("sim/Cargo.toml");
    let mut tests = cargo::cargo("test", &manifest);
    tests.arg("--target-dir").arg(cargo::target_folder().join("sim"));
    tests.arg("--").args(std::env::args_os().skip(1));
    cargo::end_with(tests)
}
