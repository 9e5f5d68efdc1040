//! `mokv restore`: makes a new cluster from a backup.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::format::Format;
use super::output::{self, Output};
use super::serve::{SettingFlags, open_data_directory};
use super::snapshot;
use crate::config::{self, NodeConfig};
use crate::node::backup::{self, BackupError, Restored};
use crate::raft::Member;

/// Make a new cluster of a backup
///
/// Fills the empty data directory of one node, which is then the only member of a new cluster: a new cluster id, a new
/// node id, the same keys, sessions and settings, and a revision that the old cluster has never reached: no client takes
/// the new cluster's writes for the old one's. Earlier revisions cannot be read. Start it with 'mokv serve' and the same
/// settings, and then the others with empty data directories (or 'mokv serve --wipe') and this node among their
/// start-join-addrs. Nodes that still have the data of the old cluster are refused until they are wiped.
#[derive(Debug, Args)]
#[command(after_help = "\
Example, after the old nodes are stopped and their directories put away:
  mokv restore monday.snap --config-file node-1.yaml
  mokv serve --config-file node-1.yaml
  mokv serve --config-file node-2.yaml --wipe      on the second machine
  mokv serve --config-file node-3.yaml --wipe      on the third")]
pub struct Restore {
    /// The backup, as 'mokv snapshot save' wrote it
    file: PathBuf,
    /// How to write the result
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    settings: SettingFlags,
}

impl Restore {
    /// Restores.
    ///
    /// # Errors
    /// If the configuration is refused, the backup is not sound, or the data directory is not empty or cannot be
    /// written.
    pub async fn run(self) -> Result<(), Failure> {
        let config = config::load_here(&self.settings.0)?;
        let path = self.file.display().to_string();
        let file = snapshot::open(&self.file)?;
        let disk = open_data_directory(&config)?;
        let member = Member { name: config.node_name.clone(), rpc_addr: config.advertised_rpc() };
        let directory = config.data_dir.display();
        let restored = backup::restore(file, &path, disk, member).await.map_err(|error| {
            let next = match &error {
                BackupError::Unsound(_) => "nothing was written; use another backup".to_owned(),
                BackupError::NotEmpty(_) => {
                    format!("put what is in {directory} away first, or name another data-dir")
                }
                BackupError::Storage(_) => {
                    format!("check the disk and its space, see that {directory} is empty, and try again")
                }
                BackupError::Identity(_) => format!("empty {directory} and try again"),
            };
            Failure::error(format!("cannot restore {path} to {directory}: {error}"), next)
        })?;
        report(&mut Output::new(self.output), ["restored", "to"], &restored, &config)
    }
}

/// Writes what a new cluster starts with, and what to do next; `done` is the verb for how it was made, and its
/// preposition.
///
/// # Errors
/// If stdout cannot be written to.
pub fn report(
    output: &mut Output,
    done: [&str; 2],
    restored: &Restored,
    config: &NodeConfig,
) -> Result<(), Failure> {
    let [verb, preposition] = done;
    let Restored { cluster_id, node_id, keys, old_revision, revision, digest } = restored;
    output.answer(
        format!(
            "{verb} {} at revision {old_revision} {preposition} {}\nthey begin a new cluster at revision {revision}, \
             digest {}\n'{}' is the only member of the new cluster {cluster_id}: start it, then the others with empty data \
             directories",
            output::keys(*keys),
            config.data_dir.display(),
            output::digest(*digest),
            config.node_name,
        ),
        &json!({
            "cluster_id": cluster_id.to_string(),
            "node_id": node_id.to_string(),
            "keys": keys,
            "old_revision": old_revision,
            "revision": revision,
            "digest": digest.map(|digest| digest.to_string()),
        }),
    )
}
