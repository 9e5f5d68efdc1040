//! The `mokv-sim` command: the simulation, or the door to it when it was built without `--cfg madsim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(madsim)]
    return mokv_sim::main();
    #[cfg(not(madsim))]
    mokv_sim::door::enter()
}
