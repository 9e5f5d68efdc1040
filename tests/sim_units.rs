//! `cargo test --features sim`: the unit tests of the simulation's workspace, which is not the product's.

#[path = "../sim/src/launcher/cargo.rs"]
mod cargo;

fn main() -> std::process::ExitCode {
    cargo::in_simulation(env!("CARGO_MANIFEST_DIR"), "test")
}
