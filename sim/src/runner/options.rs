//! The user's options, from arguments and environment. Arguments take precedence.
//!
//! Without a command, scenarios are played: `cargo test` uses this, so cargo's own flags for test programs are accepted
//! and ignored there. Which scenarios exist is passed in.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

/// The scenario name of the chaos loop.
pub const CHAOS: &str = "chaos";
/// The scenario name of the determinism check.
pub const DETERMINISM: &str = "determinism";
/// The scenario name of the comparison with another checker.
pub const SECOND_OPINION: &str = "second-opinion";

const ENVIRONMENT: &str = "\
Environment:
  MOKV_SCENARIO=NAME   only the scenario of exactly this name
  MOKV_SEED=N, MOKV_SEEDS=N, MOKV_FIRST_SEED=N   as --seed, --seeds, --first-seed
  MOKV_LOG=mokv=debug  the nodes' own logs, in simulated time
  MOKV_OPERATIONS=1    with a seed: every client operation
  MOKV_TRACE=1         with a seed: every event that crosses the seam
  MOKV_PLANTED=NAME    with a planted bug

Exit codes: 0 all passed, 2 not understood, 3 a crash or a hang, 4 a safety violation, 5 an error of the harness
(it panicked, or a checker could not decide), 6 a liveness violation, 7 non-determinism. Of several the worst: 3, 4, 7, 6,
5. 8: a sweep passed but never reached a marker that it must reach.";

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
    /// Show what can be played
    List,
    /// Play many chaos seeds, on all cores; can be broken off and gone on with
    ///
    /// Every run's result is kept; the same command goes on where it was broken off, and a changed program starts
    /// anew. A share of the seeds is played again in another process and compared. A seed counts if it passed with a
    /// fault at least, 30 simulated seconds under faults and 200 completed operations. With 1,000 seeds or more the sweep
    /// fails (exit code 8) if a marker of the table in sim/src/record/markers.rs was never reached.
    Sweep(Sweep),
    /// Write a run as one page of HTML: lanes of nodes, faults, operations, the violation
    Report(Picture),
    /// Measure how fast the simulation is, on a world that never changes
    Bench(Bench),
    /// Make the simulation faster: let the compiler watch it work, and build it anew
    ///
    /// A build with counters plays the world of `bench` and some chaos; every command is built with what was counted from
    /// then on (profile-guided optimisation), and does the same in less time. Two builds are a matter of minutes: worth it
    /// before a long sweep. Needs LLVM's llvm-profdata: `rustup component add llvm-tools`, or a distribution's package.
    Train(Train),
    /// Make a failing chaos run as small as possible
    ///
    /// Leaves out faults, clients, keys and time as long as the same checker complains, and prints what remains and the
    /// command that plays it.
    Shrink(One),
    /// Hunt the planted bugs, each until chaos catches it
    ///
    /// Plays chaos with one bug of sim/planted at a time, in ranges of seeds that are far apart, and prints how
    /// many seeds that took and who caught it. Results are kept; the same command goes on where it was broken off.
    Hunt(Hunt),
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

/// How one run is played, besides scenario and seed.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// Print events on standard error.
    pub verbose: bool,
    /// Be non-deterministic on purpose, to prove that the determinism check works.
    pub unsteady: bool,
    /// Write the timeline to this file.
    pub timeline: Option<PathBuf>,
}

/// A sweep.
#[derive(Debug, Args)]
pub struct Sweep {
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub seeds: u64,
    /// The first of them
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub first_seed: u64,
    /// Runs at a time [default: one for each core]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Every seed that is a multiple of this is played twice, to compare the traces
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub check_every: u64,
    /// Where results are kept [default: target/sweep]
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// Forget the results that are there
    #[arg(long)]
    pub fresh: bool,
    /// Write a page of HTML for each failing run into this folder
    #[arg(long, value_name = "FOLDER")]
    pub reports: Option<PathBuf>,
}

/// A measurement.
#[derive(Debug, Args)]
pub struct Bench {
    /// Play all of its seeds this many times
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// In turn with this other mokv-sim, and compare
    #[arg(long, value_name = "PROGRAM")]
    pub against: Option<PathBuf>,
    /// Print every repetition, for programs
    #[arg(long)]
    pub json: bool,
}

/// A training.
#[derive(Debug, Args)]
pub struct Train {
    /// Build without what was learned again
    #[arg(long)]
    pub forget: bool,
}

/// One run.
#[derive(Debug, Args)]
pub struct One {
    /// Which scenario
    pub scenario: String,
    /// Which seed
    pub seed: u64,
}

/// Which planted bugs, and how far.
#[derive(Debug, Clone, Args)]
pub struct Hunt {
    /// Only these bugs
    #[arg(value_name = "NAME")]
    pub bugs: Vec<String>,
    /// Most seeds of a range
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub seeds_max: u64,
    /// How many ranges of seeds, far apart from each other
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub ranges: u64,
    /// Where results are kept [default: target/hunt]
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// Forget the results that are there
    #[arg(long)]
    pub fresh: bool,
    /// Play a calm world with each bug instead: it must not be noticed there
    #[arg(long)]
    pub check: bool,
    /// Tell what each bug breaks, and play nothing
    #[arg(long)]
    pub list: bool,
}

/// One run as a page.
#[derive(Debug, Args)]
pub struct Picture {
    /// Which run.
    #[command(flatten)]
    pub run: One,
    /// The file [default: target/report/SCENARIO-SEED.html]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
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
    /// Write a page of HTML for each failing run into this folder
    #[arg(long, value_name = "FOLDER")]
    pub reports: Option<PathBuf>,
    /// With a seed: write what clients asked and heard to this file, as JSON lines [env: MOKV_HISTORY]
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
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
    #[arg(long, value_name = "FILE", hide = true)]
    timeline: Option<PathBuf>,
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
    /// Whether the scenario with this name was asked for.
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

    fn complete(
        mut self,
        variable: impl Fn(&str) -> Option<String>,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<Play, String> {
        let number = |name: &str| {
            let wrong = |text: &String| format!("{name} is '{text}' and should be a whole number");
            variable(name).map(|text| text.trim().parse::<u64>().map_err(|_| wrong(&text))).transpose()
        };
        self.seed = self.seed.or(number("MOKV_SEED")?);
        self.seeds = self.seeds.or(number("MOKV_SEEDS")?);
        self.first_seed = self.first_seed.or(number("MOKV_FIRST_SEED")?);
        self.exactly = variable("MOKV_SCENARIO");
        if let Some(name) = &self.exactly
            && !is_known(name)
            && name != DETERMINISM
            && name != SECOND_OPINION
        {
            return Err(format!("there is no scenario '{name}'; `list` shows what there is"));
        }
        // One seed of every scenario tests little: a seed alone means chaos.
        if self.seed.is_some() && self.exactly.is_none() && self.filters.is_empty() {
            self.exactly = Some(CHAOS.into());
        }
        Ok(self)
    }
}

/// Reads arguments (without the program's name) and environment. `is_known` returns whether a scenario exists.
///
/// # Errors
/// With the text to print, and whether the user asked for it (help, version).
pub fn read(
    arguments: impl Iterator<Item = String>,
    variable: impl Fn(&str) -> Option<String>,
    is_known: impl Fn(&str) -> bool,
) -> Result<Command, clap::Error> {
    let refuse = |words| Arguments::command().error(clap::error::ErrorKind::ValueValidation, words);
    let arguments = Arguments::try_parse_from(std::iter::once("mokv-sim".to_owned()).chain(arguments))?;
    if let Some(child) = &arguments.child.child {
        let [scenario, seed] = &child[..] else { unreachable!("clap counts the values") };
        let seed = seed.parse().map_err(|_| refuse(format!("the seed '{seed}' is no whole number")))?;
        let Child { verbose, unsteady, timeline, .. } = arguments.child;
        let manner = Manner { verbose, unsteady, timeline };
        if !is_known(scenario) {
            return Err(refuse(format!("there is no scenario '{scenario}'; `list` shows what there is")));
        }
        return Ok(Command::Child { scenario: scenario.clone(), seed, manner });
    }
    if let Some(Command::Report(Picture { run, .. }) | Command::Shrink(run)) = &arguments.command
        && !is_known(&run.scenario)
    {
        let words = format!("there is no scenario '{}'; `list` shows what there is", run.scenario);
        return Err(refuse(words));
    }
    match arguments.command {
        Some(command) => Ok(command),
        None if arguments.of_cargo.list => Ok(Command::List),
        None => Ok(Command::Play(arguments.play.complete(variable, is_known).map_err(refuse)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str, variables: &[(&str, &str)]) -> Result<Command, String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let is_known = |name: &str| ["chaos", "join"].contains(&name);
        read(line.split_whitespace().map(str::to_owned), variable, is_known)
            .map_err(|error| error.to_string())
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
    fn sweeps_reports_and_shrinking_are_understood() {
        let sweep = parsed("sweep --seeds 10000 --jobs 4", &[]).unwrap();
        assert!(matches!(sweep, Command::Sweep(Sweep { seeds: 10_000, jobs: Some(4), check_every: 20, .. })));
        assert!(parsed("sweep --check-every 0", &[]).is_err());
        let report = parsed("report chaos 17 -o x.html", &[]).unwrap();
        assert!(matches!(report, Command::Report(Picture { run: One { seed: 17, .. }, output: Some(_) })));
        assert!(matches!(parsed("shrink chaos 17", &[]), Ok(Command::Shrink(One { seed: 17, .. }))));
        assert!(parsed("shrink jion 17", &[]).unwrap_err().contains("no scenario 'jion'"));
    }

    #[test]
    fn a_measurement_is_understood() {
        let bench = parsed("bench --against other", &[]).unwrap();
        assert!(matches!(bench, Command::Bench(Bench { repeat: 5, against: Some(_), json: false })));
        assert!(parsed("bench --repeat 0", &[]).is_err());
    }

    #[test]
    fn list_and_a_child_are_understood() {
        assert!(matches!(parsed("list", &[]), Ok(Command::List)));
        assert!(matches!(parsed("--list", &[]), Ok(Command::List)));
        let child = parsed("--child chaos 7 --verbose", &[]).unwrap();
        assert!(matches!(child, Command::Child { seed: 7, manner: Manner { verbose: true, .. }, .. }));
    }
}
