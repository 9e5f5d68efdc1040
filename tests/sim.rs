//! `cargo test --features sim`: whole clusters in a deterministic simulation. See sim/README.md.

#[path = "../sim/src/cargo.rs"]
mod cargo;

use std::path::Path;

fn main() -> std::process::ExitCode {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("sim/Cargo.toml");
    let mut simulation = cargo::cargo("run", &manifest);
    simulation.arg("--target-dir").arg(cargo::target_folder().join("sim"));
    simulation.arg("--").args(std::env::args_os().skip(1));
    cargo::end_with(simulation)
}
