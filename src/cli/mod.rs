//! The command line: one file per subcommand, on top of the node and the client library. Keeps no state and reaches a
//! cluster only through [`crate::client`].
//!
//! Exit codes: see `failure.rs`.

mod bench;
mod changes;
mod check;
mod compact;
mod completion;
mod configure;
mod confirm;
mod connect;
mod context;
mod contexts;
mod credentials;
mod delete;
mod dev;
mod failure;
mod format;
mod get;
mod history;
mod key;
mod leave;
mod left;
mod list;
mod logging;
mod members;
mod output;
mod place;
mod pod_config;
mod ports;
mod probe;
mod recover;
mod restore;
mod serve;
mod set;
mod snapshot;
mod status;
mod transfer_leader;
mod txn;
mod wipe;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use failure::Failure;
use format::Format;

use crate::config::settings;
use crate::rt::process::block_on_and_leave;

/// mökv, a distributed key-value store
#[derive(Debug, Parser)]
#[command(
    name = "mokv",
    version,
    max_term_width = 110,
    arg_required_else_help = true,
    after_help = format!("\
Start here:
  mokv dev                    a cluster of three on this machine
  mokv set greeting hello     in another terminal
  mokv get greeting

{}", failure::EXIT_CODES)
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Dev),
    Serve(Box<serve::Serve>),
    Get(get::Get),
    #[command(visible_alias = "put")]
    Set(set::Set),
    #[command(visible_aliases = ["del", "rm"])]
    Delete(delete::Delete),
    #[command(visible_alias = "ls")]
    List(list::List),
    History(history::History),
    Changes(changes::ListChanges),
    Txn(txn::Txn),
    Members(Box<members::Members>),
    Leave(leave::Leave),
    Status(status::Status),
    TransferLeader(transfer_leader::TransferLeader),
    Snapshot(snapshot::Snapshot),
    Restore(Box<restore::Restore>),
    Recover(Box<recover::Recover>),
    Left(Box<left::Left>),
    Configure(configure::Configure),
    Compact(compact::Compact),
    Context(context::Context),
    Check(check::Check),
    Bench(bench::Bench),
    Probe(probe::Probe),
    PodConfig(pod_config::PodConfig),
    Completion(completion::Completion),
    /// Write the version, as --version does
    Version,
}

impl Command {
    async fn run(self) -> Result<(), Failure> {
        match self {
            Command::Dev(dev) => dev.run().await,
            Command::Serve(serve) => serve.run().await,
            Command::Get(get) => get.run().await,
            Command::Set(set) => set.run().await,
            Command::Delete(delete) => delete.run().await,
            Command::List(list) => list.run().await,
            Command::History(history) => history.run().await,
            Command::Changes(changes) => changes.run().await,
            Command::Txn(txn) => txn.run().await,
            Command::Members(members) => members.run().await,
            Command::Leave(leave) => leave.run().await,
            Command::Status(status) => status.run().await,
            Command::TransferLeader(transfer) => transfer.run().await,
            Command::Snapshot(snapshot) => snapshot.run().await,
            Command::Restore(restore) => restore.run().await,
            Command::Recover(recover) => recover.run().await,
            Command::Left(left) => left.run().await,
            Command::Configure(configure) => configure.run().await,
            Command::Compact(compact) => compact.run().await,
            Command::Context(context) => context.run().await,
            Command::Check(check) => check.run().await,
            Command::Bench(bench) => bench.run().await,
            Command::Probe(probe) => probe.run().await,
            Command::PodConfig(pod_config) => pod_config.run().await,
            Command::Completion(completion) => completion.run(),
            Command::Version => {
                output::Output::new(Format::Plain).line(concat!("mokv ", env!("CARGO_PKG_VERSION")))
            }
        }
    }
}

/// Parses the command line `args`, which begin with the program's name, and runs it to its end. Ends the process for
/// `--help`, `--version` and usage errors.
///
/// Not generic on purpose: a generic function is compiled in the calling crate, and this one would bring the whole
/// node, openraft included, into every binary.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = with_subcommand(args);
    let parsed = Cli::command().try_get_matches_from(args.clone());
    let parsed = parsed.and_then(|matches| Ok((wants_json(&matches), Cli::from_arg_matches(&matches)?)));
    let (json, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() && asks_for_json(&args) => {
            let failure = unparsed(&error);
            failure.print_json();
            return failure.exit().into();
        }
        Err(error) => error.exit(),
    };
    let ended = block_on_and_leave(cli.command.run()).unwrap_or_else(|error| {
        let what = format!("cannot start worker threads: {error}");
        Err(Failure::error(what, "free some memory or raise the limit on processes"))
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if json {
                failure.print_json();
            } else {
                failure.print();
            }
            failure.exit().into()
        }
    }
}

/// Whether a command's results, and so its error, are requested as JSON.
fn wants_json(matches: &ArgMatches) -> bool {
    let here = matches.try_get_one::<Format>("output").ok().flatten() == Some(&Format::Json);
    here || matches.subcommand().is_some_and(|(_, matches)| wants_json(matches))
}

/// Like `wants_json`, for a command line that does not parse.
fn asks_for_json(args: &[OsString]) -> bool {
    let mut words =
        args.iter().map(|word| word.to_str().unwrap_or_default()).take_while(|word| *word != "--");
    let mut before = "";
    words.any(|word| {
        let said = matches!(word, "--output=json" | "-ojson" | "-o=json")
            || word == "json" && matches!(before, "--output" | "-o");
        before = word;
        said
    })
}

/// Returns the failure for a command line that does not parse, without the colours and extra lines of the text for
/// people.
fn unparsed(error: &clap::Error) -> Failure {
    let text = error.to_string();
    // The error and its arguments, without the usage lines.
    let about = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let what = about.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    Failure::usage(what.strip_prefix("error: ").unwrap_or(&what), "'--help' after a command shows its usage")
}

/// Returns the name by which this program was called, for the commands in messages.
fn program() -> String {
    std::env::args_os().next().map_or_else(|| "mokv".to_owned(), |name| name.display().to_string())
}

/// Inserts `serve` where a setting's flag comes first: `mokv --config-file F` without a subcommand serves, as in the
/// original.
fn with_subcommand(mut args: Vec<OsString>) -> Vec<OsString> {
    let first = args.get(1).and_then(|arg| arg.to_str()).and_then(|arg| arg.strip_prefix("--"));
    let key = first.map(|flag| flag.split('=').next().unwrap_or(flag));
    if key.and_then(settings::find).is_some() {
        args.insert(1, "serve".into());
    }
    args
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;
    use crate::config::Source;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(with_subcommand(line.split(' ').map(OsString::from).collect()))
    }

    fn served(line: &str) -> crate::config::Layer {
        match parse(line).unwrap().command {
            Command::Serve(serve) => serve.into_flags(),
            other => panic!("{line} must serve, not {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_subcommand_the_flags_of_serve_serve() {
        for line in
            ["mokv --config-file f.yaml", "mokv --config-file=f.yaml", "mokv serve --config-file f.yaml"]
        {
            let flags = served(line);
            assert_eq!(flags["config-file"].values, ["f.yaml"], "{line}");
            assert_eq!(flags["config-file"].source, Source::Flag);
        }
        assert_eq!(parse("mokv --version").unwrap_err().kind(), ErrorKind::DisplayVersion);
        assert_eq!(parse("mokv --nonsense").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn switches_take_a_value_only_with_an_equals_sign_and_lists_repeat() {
        let flags = served("mokv serve --bootstrap --start-join-addrs a:1,b:2 --start-join-addrs c:3");
        assert_eq!(flags["bootstrap"].values, ["true"]);
        assert_eq!(flags["start-join-addrs"].values, ["a:1,b:2", "c:3"]);
        assert_eq!(served("mokv serve --bootstrap=false")["bootstrap"].values, ["false"]);
        assert!(served("mokv serve").is_empty(), "a flag that was not given hides no other source");
    }

    #[test]
    fn usage_errors_exit_with_2() {
        for line in [
            "mokv",
            "mokv nonsense",
            "mokv get",
            "mokv set key",
            "mokv serve --rpc-prt 1",
            "mokv serve --yes",
            "mokv dev --nodes 0",
            "mokv get key --timeout 5",
            "mokv history",
            "mokv history key --to 5 --stale",
            "mokv changes key",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn values_may_look_like_numbers_and_flags_may_follow() {
        for line in
            ["mokv set k -5 -o json", "mokv set k -", "mokv set -o json k v", "mokv members remove n -ojson"]
        {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn every_setting_has_a_flag_with_help() {
        let mut command = Cli::command();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.render_long_help().to_string();
        for setting in settings::SETTINGS {
            assert!(help.contains(&format!("--{}", setting.key)), "{}", setting.key);
        }
    }
}
