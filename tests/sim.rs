//! `cargo test --features sim`: whole clusters in a deterministic simulation. See sim/README.md.

#[path = "../sim/src/door.rs"]
mod door;

fn main() -> std::process::ExitCode {
    door::enter()
}
