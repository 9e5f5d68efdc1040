//! The `mokv` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    mokv::cli::run(std::env::args_os().collect())
}
