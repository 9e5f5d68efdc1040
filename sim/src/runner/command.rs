//! The commands of `mokv-sim` in the simulated world.

use std::io::Write;
use std::process::ExitCode;

use super::options::{self, Command, DETERMINISM, SECOND_OPINION};
use super::{bench, child, determinism, hunt, pages, play, shrink, sweep, train};
use crate::checkers::second_opinion;
use crate::scenarios;

/// The `mokv-sim` command in the simulated world.
pub fn main() -> ExitCode {
    let is_known = |name: &str| scenarios::find(name).is_some();
    match options::read(std::env::args().skip(1), |name| std::env::var(name).ok(), is_known) {
        Ok(command) => carry_out(command),
        Err(words) => {
            let asked_for = !words.use_stderr();
            let _ = words.print();
            if asked_for { ExitCode::SUCCESS } else { ExitCode::from(2) }
        }
    }
}

fn carry_out(command: Command) -> ExitCode {
    match command {
        Command::List => {
            for scenario in scenarios::ALL {
                println!("{:<28} {}", scenario.name, scenario.about);
            }
            println!("{:<28} {}", DETERMINISM, determinism::ABOUT);
            println!("{:<28} {}", SECOND_OPINION, second_opinion::ABOUT);
            ExitCode::SUCCESS
        }
        Command::Child { scenario, seed, manner } => {
            let scenario = scenarios::find(&scenario).expect("the options know the scenarios");
            let report = child::play(scenario, seed, manner);
            println!("{}", report.to_line());
            let _ = std::io::stdout().flush();
            // Not even destructors run: half of a cluster is still in memory.
            std::process::exit(0)
        }
        Command::Bench(options) => bench::main(&options),
        Command::Train(options) => train::train(&options),
        Command::Play(options) => play::play(&options),
        Command::Sweep(options) => sweep::sweep(&options),
        Command::Report(options) => pages::report(&options),
        Command::Shrink(run) => shrink::shrink(&run),
        Command::Hunt(options) => hunt::hunt(&options),
    }
}
