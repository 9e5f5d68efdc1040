//! `mokv serve --wipe`: deletes one node's data, after asking, so that it comes back from its peers under a new id.
//!
//! Deletes plain files directly in the data directory and nothing else. A directory that contains anything else is not
//! a data directory and is left untouched.

use std::io;
use std::path::{Path, PathBuf};

use super::confirm::confirmed;
use super::failure::{Failure, complain};
use super::ports::{self, Port, Protocol};
use crate::config::NodeConfig;
use crate::membership::Identity;
use crate::rt;

/// Deletes the node's data. `yes`: without asking.
///
/// # Errors
/// If the node runs, the directory contains a foreign file, the user declines, or a file cannot be deleted.
pub async fn wipe(config: &NodeConfig, yes: bool) -> Result<(), Failure> {
    refuse_if_running(config).await?;
    let directory = &config.data_dir;
    let files = files_of(directory)?;
    if files.is_empty() {
        complain(format_args!("nothing to wipe: {} is empty", directory.display()));
        return Ok(());
    }
    if !yes && !asked(config, files.len())? {
        return Err(Failure::error("nothing was deleted", "start the node without --wipe to keep its data"));
    }
    if config.start_join_addrs.is_empty() {
        delete(directory, &files)?;
    } else {
        start_over(config).await?;
    }
    complain(format_args!("deleted {} files in {}", files.len(), directory.display()));
    Ok(())
}

async fn refuse_if_running(config: &NodeConfig) -> Result<(), Failure> {
    let rpc = Port { address: config.rpc_bind(), protocol: Protocol::Tcp, purpose: "rpc".to_owned() };
    let gossip = Port { address: config.bind_addr, protocol: Protocol::Udp, purpose: "gossip".to_owned() };
    match ports::unavailable(&[rpc, gossip]).await.first() {
        Some((port, error)) => Err(Failure::error(
            format!(
                "cannot wipe '{}': {port} is taken, so the node may be running: {error}",
                config.node_name
            ),
            "stop it first",
        )),
        None => Ok(()),
    }
}

/// Returns the files of the data directory; none if it does not exist.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: io::Error| {
        let what = format!("cannot list the data directory {}: {error}", directory.display());
        Failure::error(what, "check data-dir and its permissions")
    };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        // A volume mounted as the data directory has this directory, which no node made.
        if kind.is_dir() && entry.file_name() == "lost+found" {
            continue;
        }
        if !kind.is_file() || entry.file_name().to_string_lossy().starts_with('.') {
            let what = format!(
                "cannot wipe {}: '{}' in it is not a node's",
                directory.display(),
                entry.file_name().display()
            );
            return Err(Failure::error(what, "check data-dir; if it is right, move that away"));
        }
        files.push(entry.path());
    }
    files.sort();
    Ok(files)
}

fn asked(config: &NodeConfig, files: usize) -> Result<bool, Failure> {
    let consequence = if config.start_join_addrs.is_empty() {
        "It has no start-join-addrs: nothing brings this data back."
    } else {
        "It comes back from the other nodes, if a majority of the cluster is without this one."
    };
    let (name, directory) = (&config.node_name, config.data_dir.display());
    confirmed(
        &format!("All data of node '{name}' ({files} files in {directory}) will be deleted.\n{consequence}"),
        name,
    )
}

/// Deletes all data except the record that there was some: a node that was part of a cluster joins again and never
/// forms a second cluster, whatever `bootstrap` says.
async fn start_over(config: &NodeConfig) -> Result<(), Failure> {
    let failed = |error: String| {
        let what = format!("cannot wipe {}: {error}", config.data_dir.display());
        Failure::error(what, "remove the cause, then wipe again: a node cannot use a part of its data")
    };
    let disk = rt::disk::open_directory(&config.data_dir).map_err(|error| failed(error.to_string()))?;
    Identity::wipe(disk, &config.node_name).await.map_err(|error| failed(error.to_string()))?;
    tracing::warn!(directory = %config.data_dir.display(), "wiped the data directory");
    Ok(())
}

fn delete(directory: &Path, files: &[PathBuf]) -> Result<(), Failure> {
    for file in files {
        std::fs::remove_file(file).map_err(|error| {
            let what = format!("cannot delete {}: {error}", file.display());
            Failure::error(
                what,
                "delete the rest of the directory's files by hand: a node cannot use a part of its data",
            )
        })?;
    }
    tracing::warn!(directory = %directory.display(), files = files.len(), "wiped the data directory");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_of_plain_files_can_be_wiped() {
        let directory = tempfile::tempdir().unwrap();
        assert!(files_of(&directory.path().join("absent")).unwrap().is_empty());
        std::fs::write(directory.path().join("identity"), b"x").unwrap();
        std::fs::create_dir(directory.path().join("lost+found")).unwrap();
        let files = files_of(directory.path()).unwrap();
        assert_eq!(files, [directory.path().join("identity")]);
        std::fs::write(directory.path().join(".profile"), b"x").unwrap();
        assert!(files_of(directory.path()).unwrap_err().to_string().contains("'.profile'"));
        std::fs::remove_file(directory.path().join(".profile")).unwrap();
        std::fs::create_dir(directory.path().join("src")).unwrap();
        assert!(files_of(directory.path()).unwrap_err().to_string().contains("'src'"));
        delete(directory.path(), &files).unwrap();
        assert!(!directory.path().join("identity").exists());
    }
}
