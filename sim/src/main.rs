//! The `mokv-sim` command: the simulation itself, or its launcher when built without `--cfg madsim`.

use std::process::ExitCode;

/// A simulated run allocates a million times a second, and each run is a new process with a new heap.
#[cfg(madsim)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(madsim)]
    return mokv_sim::main();
    #[cfg(not(madsim))]
    mokv_sim::launcher::enter()
}
