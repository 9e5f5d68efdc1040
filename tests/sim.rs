//! `cargo test --features sim`: whole clusters in a deterministic simulation. See sim/README.md.

#[path = "../sim/src/launcher/cargo.rs"]
mod cargo;

fn main() -> std::process::ExitCode {
    cargo::in_simulation(env!("CARGO_MANIFEST_DIR"), "run")
}
