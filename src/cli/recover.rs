//! `mokv recover`: makes a new cluster from the data of one node of a lost cluster.

use clap::Args;
use serde_json::json;

use super::confirm::confirmed;
use super::failure::Failure;
use super::format::Format;
use super::output::{self, Output, Row};
use super::restore;
use super::serve::{SettingFlags, open_data_directory};
use crate::config;
use crate::node::backup::{self, BackupError, OfflineState};

/// Make a new cluster of what one node has left, when a majority of the old one is lost for good
///
/// The last resort. Without a majority it cannot be known which entries were committed: the new cluster takes this node's
/// log as it is, with entries that were never acknowledged, and WITHOUT the entries that this node had not received yet.
/// Acknowledged writes can be lost. If any majority of the voters can be brought back, bring it back instead; if a backup
/// is newer, use 'mokv restore'.
///
/// Stop all nodes of the old cluster first, for good. Look at each one that is left with --inspect, and recover on the
/// one with the highest LAST TERM, of those the highest LAST INDEX. The node gets a new id in a new cluster, its old data
/// stays in the directory under names that begin with 'left-', and every other node joins with an empty directory
/// ('mokv serve --wipe'): directories of the old cluster are refused.
#[derive(Debug, Args)]
#[command(after_help = "\
Example, with node-1 and node-2 of three gone for good:
  mokv recover --inspect --config-file node-3.yaml
  mokv recover --config-file node-3.yaml
  mokv serve --config-file node-3.yaml
  mokv serve --config-file node-1.yaml --wipe      on a machine in the place of the first")]
pub struct Recover {
    /// Only show what this node has left, and change nothing of it
    #[arg(long)]
    inspect: bool,
    /// Do not ask before
    #[arg(long, conflicts_with = "inspect")]
    yes: bool,
    /// How to write the result
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    settings: SettingFlags,
}

impl Recover {
    /// Inspects the data or recovers.
    ///
    /// # Errors
    /// If the configuration is refused, the node runs, its data is not sound, the user declines, or the new data cannot
    /// be written.
    pub async fn run(self) -> Result<(), Failure> {
        let config = config::load_here(&self.settings.0)?;
        let directory = config.data_dir.display();
        if !config.data_dir.exists() {
            return Err(Failure::error(
                format!("there is no data directory {directory}"),
                "name the node's with --data-dir or --config-file",
            ));
        }
        let disk = open_data_directory(&config)?;
        let failed = |error: BackupError| {
            let next = "look at the other nodes with 'mokv recover --inspect', or restore a backup";
            Failure::error(format!("cannot recover {directory}: {error}"), next)
        };
        let offline_state = backup::offline_state(disk.clone(), &config.storage).await.map_err(failed)?;
        let mut output = Output::new(self.output);
        if self.inspect {
            return show(&mut output, &offline_state);
        }
        if offline_state.name != config.node_name {
            return Err(Failure::usage(
                format!("{directory} is the node '{}' and not '{}'", offline_state.name, config.node_name),
                "give the configuration of that node",
            ));
        }
        let question = format!(
            "A new cluster will be made of '{}' alone, as of index {} in term {}.\n\
             {} of its entries are not known to be committed and will count as if they were; acknowledged writes that it \
             had not received are lost.\n\
             All other nodes of cluster {} must be stopped for good.",
            offline_state.name,
            offline_state.last.index,
            offline_state.last.term,
            offline_state.uncertain,
            offline_state.cluster_id
        );
        if !self.yes && !confirmed(&question, &offline_state.name)? {
            return Err(Failure::error("nothing was changed", "bring back a majority of the old cluster"));
        }
        let recovered = backup::recover(disk, &config.storage, config.advertised_rpc()).await;
        restore::report(&mut output, ["recovered", "in"], &recovered.map_err(failed)?, &config)
    }
}

fn show(output: &mut Output, offline_state: &OfflineState) -> Result<(), Failure> {
    let members: Vec<&str> = offline_state.members.keys().map(String::as_str).collect();
    let header =
        ["NAME", "LAST TERM", "LAST INDEX", "NOT KNOWN COMMITTED", "KEYS", "REVISION", "DIGEST", "MEMBERS"];
    let cells = vec![
        offline_state.name.clone(),
        offline_state.last.term.to_string(),
        offline_state.last.index.to_string(),
        offline_state.uncertain.to_string(),
        offline_state.keys.to_string(),
        offline_state.revision.to_string(),
        output::digest(offline_state.digest).chars().take(8).collect(),
        members.join(", "),
    ];
    let json = json!({
        "name": offline_state.name,
        "cluster_id": offline_state.cluster_id.to_string(),
        "last_term": offline_state.last.term,
        "last_index": offline_state.last.index,
        "not_known_committed": offline_state.uncertain,
        "keys": offline_state.keys,
        "revision": offline_state.revision,
        "digest": offline_state.digest.map(|digest| digest.to_string()),
        "members": offline_state.members,
    });
    output.rows(&header, [Row { cells, json }])
}
