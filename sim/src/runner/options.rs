//! What the user wants, from arguments and environment. Arguments win.

use crate::child::Manner;
use crate::{judge_check, scenarios};

/// Printed for --help.
pub const HELP: &str = "\
Plays whole clusters in a deterministic simulation.

  cargo test --features sim --test sim -- [list] [NAME ...] [--seed N] [--seeds N] [--first-seed N]

  list             what can be played
  NAME             only what has this in its name
  --seed N         only this seed, told in detail      (MOKV_SEED)
  --seeds N        this many chaos seeds, 50 by default (MOKV_SEEDS)
  --first-seed N   the first chaos seed, 1 by default  (MOKV_FIRST_SEED)

  --history FILE   with a seed: what clients asked and heard, as JSON lines (MOKV_HISTORY)

  MOKV_SCENARIO=NAME   only the scenario of exactly this name
  MOKV_LOG=mokv=debug  the nodes' own logs, in simulated time
  MOKV_OPERATIONS=1    with a seed: every client operation
  MOKV_TRACE=1         with a seed: every event that crosses the seam
  MOKV_PLANTED=NAME    with a planted bug (cargo test --features sim,planted --test sim)";

/// Everything that can be asked for.
#[derive(Debug)]
pub struct Options {
    /// What to do.
    pub command: Command,
    /// Words that names must contain, one of them.
    filters: Vec<String>,
    /// Exactly this scenario.
    exactly: Option<String>,
    /// Only this seed.
    pub seed: Option<u64>,
    /// How many chaos seeds.
    pub seeds: u64,
    /// The first of them.
    pub first_seed: u64,
}

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Explain.
    Help,
    /// Show what there is.
    List,
    /// Play.
    Play,
    /// Be one run (private: the runner starts itself so).
    Child {
        /// Which scenario.
        scenario: String,
        /// Which seed.
        seed: u64,
        /// And how.
        manner: Manner,
    },
}

impl Options {
    /// Whether what has this name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        match &self.exactly {
            Some(exactly) => exactly == name,
            None => self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter)),
        }
    }
}

/// Reads arguments and environment.
pub fn read(
    arguments: impl Iterator<Item = String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Options, String> {
    let number = |what: &str, text: String| {
        text.trim().parse::<u64>().map_err(|_| format!("{what} is '{text}' and should be a whole number"))
    };
    let from = |name: &str| variable(name).map(|text| number(name, text)).transpose();
    let mut options = Options {
        command: Command::Play,
        filters: Vec::new(),
        exactly: variable("MOKV_SCENARIO"),
        seed: from("MOKV_SEED")?,
        seeds: from("MOKV_SEEDS")?.unwrap_or(50),
        first_seed: from("MOKV_FIRST_SEED")?.unwrap_or(1),
    };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut value = || {
            let text = arguments.next().ok_or_else(|| format!("{argument} needs a number"))?;
            number(&argument, text)
        };
        match argument.as_str() {
            "--child" => {
                let scenario = arguments.next().ok_or("--child needs a scenario")?;
                let seed = number("the seed", arguments.next().unwrap_or_default())?;
                let rest: Vec<String> = arguments.collect();
                let has = |flag: &str| rest.iter().any(|argument| argument == flag);
                let manner = Manner { verbose: has("--verbose"), unsteady: has("--unsteady") };
                options.command = Command::Child { scenario, seed, manner };
                return Ok(options);
            }
            "-h" | "--help" => options.command = Command::Help,
            "list" | "--list" => options.command = Command::List,
            "--seed" => options.seed = Some(value()?),
            "--seeds" => options.seeds = value()?,
            "--history" => drop(arguments.next().ok_or("--history needs a file")?),
            "--first-seed" => options.first_seed = value()?,
            // What cargo passes to every test program.
            "--nocapture" | "--no-capture" | "--quiet" | "-q" | "--show-output" => {}
            other if other.starts_with('-') => return Err(format!("'{other}' is unknown; --help explains")),
            filter => options.filters.push(filter.to_owned()),
        }
    }
    if let Some(name) = &options.exactly
        && scenarios::find(name).is_none()
        && name != super::determinism::NAME
        && name != judge_check::NAME
    {
        return Err(format!("there is no scenario '{name}'; `list` shows what there is"));
    }
    // One seed of everything says little: a seed alone means chaos.
    if options.seed.is_some() && options.exactly.is_none() && options.filters.is_empty() {
        options.exactly = Some(scenarios::CHAOS.into());
    }
    Ok(options)
}
