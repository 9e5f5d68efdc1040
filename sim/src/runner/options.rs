//! What the user wants, from arguments and environment. Arguments win.
//!
//! Without a command, scenarios are played: that is what `cargo test` goes through, and cargo's own flags for test
//! programs are taken and ignored there.

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::child::Manner;
use crate::scenarios;

const ENVIRONMENT: &str = "\
Environment:
  MOKV_SCENARIO=NAME   only the scenario of exactly this name
  MOKV_SEED=N, MOKV_SEEDS=N, MOKV_FIRST_SEED=N   as --seed, --seeds, --first-seed
  MOKV_LOG=mokv=debug  the nodes' own logs, in simulated time
  MOKV_OPERATIONS=1    with a seed: every client operation
  MOKV_TRACE=1         with a seed: every event that crosses the seam
  MOKV_PLANTED=NAME    with a planted bug (build with --features planted)

Exit codes: 0 all passed, 2 not understood, 3 a crash or a hang, 4 a safety violation, 5 an error of the harness
(a judge could not decide), 6 a liveness violation, 7 non-determinism. Of several the worst: 3, 4, 7, 6, 5.";

/// Plays whole clusters in a deterministic simulation.
///
/// Without a command: plays every scenario and 50 chaos seeds, or what is named.
#[derive(Debug, Parser)]
#[command(name = "mokv-sim", after_help = ENVIRONMENT, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    play: Play,
    #[command(flatten)]
    child: Child,
    #[command(flatten)]
    of_cargo: OfCargo,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what can be played.
    List,
    /// Play scenarios: what happens without a command.
    #[command(skip)]
    Play(Play),
    /// Be one run (private: the runner starts itself so).
    #[command(skip)]
    Child {
        /// Which scenario.
        scenario: String,
        /// Which seed.
        seed: u64,
        /// And how.
        manner: Manner,
    },
}

/// Which runs.
#[derive(Debug, Default, Args)]
pub struct Play {
    /// Only what has this in its name
    #[arg(value_name = "NAME")]
    filters: Vec<String>,
    /// Only this seed, told in detail; alone it means chaos
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// This many chaos seeds [default: 50]
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first chaos seed [default: 1]
    #[arg(long, value_name = "N")]
    first_seed: Option<u64>,
    /// Exactly this scenario.
    #[arg(skip)]
    exactly: Option<String>,
}

#[derive(Debug, Args)]
struct Child {
    #[arg(long, num_args = 2, value_names = ["SCENARIO", "SEED"], hide = true)]
    child: Option<Vec<String>>,
    #[arg(long, hide = true)]
    verbose: bool,
    #[arg(long, hide = true)]
    unsteady: bool,
}

/// What cargo passes to every test program.
#[derive(Debug, Args)]
struct OfCargo {
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true, alias = "no-capture")]
    nocapture: bool,
    #[arg(long, short, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    show_output: bool,
}

impl Play {
    /// Whether what has this name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        match &self.exactly {
            Some(exactly) => exactly == name,
            None => self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter)),
        }
    }

    /// The chaos seeds.
    pub fn chaos_seeds(&self) -> std::ops::Range<u64> {
        let first = self.first_seed.unwrap_or(1);
        first..first + self.seeds.unwrap_or(50)
    }

    fn complete(mut self, variable: impl Fn(&str) -> Option<String>) -> Result<Play, String> {
        let number = |name: &str| {
            let wrong = |text: &String| format!("{name} is '{text}' and should be a whole number");
            variable(name).map(|text| text.trim().parse::<u64>().map_err(|_| wrong(&text))).transpose()
        };
        self.seed = self.seed.or(number("MOKV_SEED")?);
        self.seeds = self.seeds.or(number("MOKV_SEEDS")?);
        self.first_seed = self.first_seed.or(number("MOKV_FIRST_SEED")?);
        self.exactly = variable("MOKV_SCENARIO");
        if let Some(name) = &self.exactly
            && scenarios::find(name).is_none()
            && name != super::determinism::NAME
        {
            return Err(format!("there is no scenario '{name}'; `list` shows what there is"));
        }
        // One seed of everything says little: a seed alone means chaos.
        if self.seed.is_some() && self.exactly.is_none() && self.filters.is_empty() {
            self.exactly = Some(scenarios::CHAOS.into());
        }
        Ok(self)
    }
}

/// Reads arguments (without the program's name) and environment.
///
/// # Errors
/// With what to print, and whether that was asked for.
pub fn read(
    arguments: impl Iterator<Item = String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Command, clap::Error> {
    let refuse = |words| Arguments::command().error(clap::error::ErrorKind::ValueValidation, words);
    let arguments = Arguments::try_parse_from(std::iter::once("mokv-sim".to_owned()).chain(arguments))?;
    if let Some(child) = arguments.child.child {
        let [scenario, seed] = &child[..] else { unreachable!("clap counts the values") };
        let seed = seed.parse().map_err(|_| refuse(format!("the seed '{seed}' is no whole number")))?;
        let manner = Manner { verbose: arguments.child.verbose, unsteady: arguments.child.unsteady };
        if scenarios::find(scenario).is_none() {
            return Err(refuse(format!("there is no scenario '{scenario}'; `list` shows what there is")));
        }
        return Ok(Command::Child { scenario: scenario.clone(), seed, manner });
    }
    match arguments.command {
        Some(command) => Ok(command),
        None if arguments.of_cargo.list => Ok(Command::List),
        None => Ok(Command::Play(arguments.play.complete(variable).map_err(refuse)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str, variables: &[(&str, &str)]) -> Result<Command, String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        read(line.split_whitespace().map(str::to_owned), variable).map_err(|error| error.to_string())
    }

    fn play(line: &str, variables: &[(&str, &str)]) -> Play {
        match parsed(line, variables) {
            Ok(Command::Play(play)) => play,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_commands_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn names_filter_and_a_seed_alone_means_chaos() {
        let all = play("--nocapture", &[]);
        assert!(all.wants("chaos") && all.wants("join") && all.chaos_seeds() == (1..51));
        let some = play("snapshot --seeds 5 --first-seed 7", &[]);
        assert!(some.wants("snapshot-to-a-laggard") && !some.wants("chaos") && some.chaos_seeds() == (7..12));
        let one = play("", &[("MOKV_SEED", "17")]);
        assert!(one.seed == Some(17) && one.wants("chaos") && !one.wants("join"));
        let exact = play("--seed 3", &[("MOKV_SCENARIO", "join"), ("MOKV_SEED", "17")]);
        assert!(exact.seed == Some(3) && exact.wants("join") && !exact.wants("chaos"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        assert!(parsed("", &[("MOKV_SCENARIO", "jion")]).unwrap_err().contains("no scenario 'jion'"));
        assert!(parsed("", &[("MOKV_SEEDS", "many")]).unwrap_err().contains("MOKV_SEEDS is 'many'"));
        assert!(parsed("--sedes 3", &[]).is_err());
    }

    #[test]
    fn list_and_a_child_are_understood() {
        assert!(matches!(parsed("list", &[]), Ok(Command::List)));
        assert!(matches!(parsed("--list", &[]), Ok(Command::List)));
        let child = parsed("--child chaos 7 --verbose", &[]).unwrap();
        assert!(matches!(child, Command::Child { seed: 7, manner: Manner { verbose: true, .. }, .. }));
    }
}
