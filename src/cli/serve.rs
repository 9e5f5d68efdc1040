//! `mokv serve`: runs one node until it is asked to stop.

use std::path::Path;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::failure::Failure;
use super::logging::Logging;
use super::wipe;
use crate::config::settings::{Kind, SETTINGS};
use crate::config::{self, Layer, NodeConfig};
use crate::node;
use crate::rt;
use crate::rt::disk::{DiskRef, other_readers};
use crate::rt::process::{StopSignals, end_on_panic, end_with_parent, outlive_terminal};

/// Run one node, from flags, environment variables and a YAML file
///
/// A value is taken from the flag, else from the environment (MOKV_ and the flag in upper snake case:
/// MOKV_RPC_PORT), else from the file, else it is the default. SIGTERM and Ctrl-C hand over leadership, finish
/// the requests under way and stop; a second one stops at once, and loses nothing that was acknowledged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv serve --bootstrap                                   one node, a store of its own
  mokv serve --config-file node-1.yaml
  MOKV_LOG_LEVEL=debug mokv serve --config-file node-1.yaml
  mokv serve --config-file node-1.yaml --wipe              throw its data away, join anew")]
pub struct Serve {
    #[command(flatten)]
    settings: SettingFlags,
    /// Delete this node's data first, after asking. It comes back from the other nodes of the cluster; a cluster
    /// of one loses everything
    #[arg(long)]
    wipe: bool,
    /// Do not ask before --wipe
    #[arg(long, requires = "wipe")]
    yes: bool,
    /// Stop when the process with this id, which started this one, ends
    #[arg(long, value_name = "PID", hide = true)]
    exit_with_parent: Option<u32>,
}

impl Serve {
    /// Returns the settings that were given as flags.
    #[cfg(test)]
    pub fn into_flags(self) -> Layer {
        self.settings.0
    }

    /// Runs the node.
    ///
    /// # Errors
    /// If the configuration is refused, or the node cannot start or has to stop.
    pub async fn run(self) -> Result<(), Failure> {
        // Before anything else: from here on the node ends with its parent.
        if let Some(parent) = self.exit_with_parent {
            let alive = end_with_parent(parent).map_err(|error| {
                Failure::error(
                    format!("cannot follow process {parent}: {error}"),
                    "start the node without it",
                )
            })?;
            if !alive {
                return Err(Failure::error(
                    format!("process {parent}, which started this node, has ended"),
                    "start the node without --exit-with-parent",
                ));
            }
        }
        let config = config::load_here(&self.settings.0)?;
        let log = Logging::start(&config);
        end_on_panic({
            let log = log.clone();
            move || log.end()
        });
        let _telling = log.report_dropped();
        let ended = self.serve(config, &log).await;
        log.end();
        ended
    }

    async fn serve(self, config: NodeConfig, log: &Logging) -> Result<(), Failure> {
        if self.wipe {
            wipe::wipe(&config, self.yes).await?;
        }
        // Closing the shell must not stop the node and cause an election.
        outlive_terminal()
            .map_err(|error| Failure::error(format!("cannot listen for SIGHUP: {error}"), "try again"))?;
        let mut signals = StopSignals::listen()
            .map_err(|error| Failure::error(format!("cannot listen for signals: {error}"), "try again"))?;
        let log = log.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let _signals = rt::task::spawn_guarded(async move {
            signals.next().await;
            tracing::info!("asked to stop; a second signal stops at once");
            // The receiver is gone if the node has ended by itself.
            let _ = stop.send(());
            signals.next().await;
            log.end();
            std::process::exit(130);
        });
        run_node(config, async move {
            let _ = stopped.await;
        })
        .await
    }
}

/// Runs the node until `shutdown` resolves, then transfers leadership, drains requests and syncs.
async fn run_node(config: NodeConfig, shutdown: impl Future<Output = ()>) -> Result<(), Failure> {
    let name = config.node_name.clone();
    let failed = |what: String| Failure::error(format!("node '{name}': {what}"), "its log says more");
    let disk = open_data_directory(&config)?;
    warn_of_readers(&config.data_dir, "chmod -R go=");
    if let Some(file) = &config.cluster_key_file {
        warn_of_readers(file, "chmod go=");
    }
    let run = node::run(config, disk, node::Options::default(), shutdown);
    run.await.map_err(|error| failed(error.to_string()))
}

/// Logs once which other users may read the node's files. Does not refuse: wider permissions may be intended.
fn warn_of_readers(path: &Path, remedy: &str) {
    // A path without metadata was opened a moment ago; the cause shows elsewhere.
    if let Ok(Some(readers)) = other_readers(path) {
        let path = path.display();
        tracing::warn!("{path} can be read by {readers}; '{remedy} {path}' restricts it to this node's user");
    }
}

/// Opens the node's data directory for exclusive use by this process.
///
/// # Errors
/// If it cannot be created or is in use.
pub fn open_data_directory(config: &NodeConfig) -> Result<DiskRef, Failure> {
    rt::disk::open_directory(&config.data_dir).map_err(|error| {
        Failure::error(
            format!("cannot use the data directory {}: {error}", config.data_dir.display()),
            "check data-dir and its permissions; a directory serves one process at a time",
        )
    })
}

/// The values of the flags that stand for settings. Flags are made from the table of settings.
#[derive(Debug, Default)]
pub struct SettingFlags(pub Layer);

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        command.args(SETTINGS.iter().map(|setting| {
            let mut help = setting.help.to_owned();
            if !setting.default.is_empty() {
                help.push_str(&format!(" [default: {}]", setting.default));
            }
            let arg = Arg::new(setting.key)
                .long(setting.key)
                .value_name(setting.kind.placeholder())
                .help_heading(setting.group.heading())
                .help(help);
            match setting.kind {
                Kind::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                Kind::HostPorts => arg.action(ArgAction::Append),
                Kind::Choice(choices) => {
                    arg.value_parser(PossibleValuesParser::new(choices)).ignore_case(true)
                }
                _ => arg,
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = SETTINGS.iter().filter_map(|setting| {
            let values = matches.get_many::<String>(setting.key)?;
            Some((setting.key, values.cloned().collect()))
        });
        Ok(SettingFlags(config::flags(given)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}
