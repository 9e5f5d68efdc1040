//! `mokv snapshot`: backups of the whole store, and the snapshots that nodes keep.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::connect::{Connect, checked};
use super::failure::Failure;
use super::format::Format;
use super::output::{self, Output, Row};
use super::place::Place;
use crate::node::backup::{self, Contents};
use crate::rt::disk::{FileRef, create_file, open_file, rename_durably};
use crate::rt::process::StopSignals;
use crate::rt::random::random_nonzero_u64;

/// A backup is copied to stdout in pieces of this size.
const COPY_BYTES: usize = 1 << 20;

/// Save a backup of the store, look into one, or let nodes write their snapshots
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv snapshot save monday.snap
  mokv snapshot save - | gzip > monday.snap.gz
  mokv snapshot inspect monday.snap
  mokv snapshot take                      before a planned restart, which it makes quick")]
pub struct Snapshot {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Save(Save),
    Inspect(Inspect),
    Take(Take),
}

/// Save a backup of the whole store to a file, while the cluster runs
///
/// It holds every write that was answered before the command began, with sessions and settings, all at one revision.
/// The file gets its name when every byte of it has been read again and its digest is right. 'mokv restore' makes a
/// new cluster of it.
#[derive(Debug, Args)]
struct Save {
    /// Where to; '-' writes it to stdout, by way of a file for temporary ones (TMPDIR)
    file: PathBuf,
    /// Replace a file of this name
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Read a whole backup, check it, and show what it holds
#[derive(Debug, Args)]
struct Inspect {
    /// The backup
    file: PathBuf,
    /// How to write it
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Let every node write a snapshot of its state now, on its own disk
///
/// Nodes do so by themselves (snapshot-log-bytes); a snapshot before a planned restart makes the restart quick.
/// A node writes 32 MiB a second, so that its clients do not wait: give --timeout 5m where there is much data.
#[derive(Debug, Args)]
struct Take {
    /// Only the node at this address
    #[arg(long, value_name = "HOST:PORT")]
    only: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

impl Snapshot {
    /// Saves or inspects a backup, or takes snapshots.
    ///
    /// # Errors
    /// If a file cannot be written or read or is not sound, or a node failed to write its snapshot.
    pub async fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Save(save) => save.run().await,
            Action::Inspect(inspect) => inspect.run().await,
            Action::Take(take) => take.run().await,
        }
    }
}

impl Save {
    async fn run(self) -> Result<(), Failure> {
        if self.is_for_stdout() {
            return self.save_to_stdout().await;
        }
        if !self.force && self.file.exists() {
            return Err(Failure::error(
                format!("{} exists already", self.file.display()),
                "give another name, or --force to replace it",
            ));
        }
        let draft = self.draft();
        let mut signals = StopSignals::listen()
            .map_err(|error| Failure::error(format!("cannot listen for signals: {error}"), "try again"))?;
        let saved = tokio::select! {
            biased;
            saved = self.save(&draft) => saved,
            () = signals.next() => Err(Failure::error("stopped by a signal", "nothing was saved; save it again")),
        };
        let saved = saved.and_then(|(contents, _)| {
            rename_durably(&draft, &self.file).map_err(|error| unwritable(&self.file, &error))?;
            Ok(contents)
        });
        let contents = saved.inspect_err(|_| {
            // Otherwise a user in need of a backup might take it for one.
            let _ = fs::remove_file(&draft);
        })?;
        let Contents { revision, file_bytes, .. } = &contents;
        let (keys, digest) = (output::keys(contents.keys), output::digest(contents.digest));
        let file = self.file.display();
        self.connect.output().answer(
            format!("{file}: {keys} at revision {revision}, {file_bytes} bytes, digest {digest}"),
            &as_json(&self.file, &contents),
        )
    }

    fn draft(&self) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(".part");
        name.into()
    }

    fn is_for_stdout(&self) -> bool {
        self.file.as_os_str() == "-"
    }

    /// Writes a backup to the file `draft` and checks it by reading it again. Returns its contents and the file for
    /// reading.
    async fn save(&self, draft: &Path) -> Result<(Contents, FileRef), Failure> {
        let client = self.connect.client()?;
        let failed = |error| self.connect.failure("save a backup", error);
        let mut incoming = client.backup().await.map_err(failed)?;
        let file = create_file(draft).map_err(|error| unwritable(draft, &error))?;
        let copy = open(draft)?;
        if self.is_for_stdout() {
            // Without a name the file disappears with this process, however that ends.
            fs::remove_file(draft).map_err(|error| unwritable(draft, &error))?;
        }
        let progress = progress(incoming.info().expected_bytes);
        while let Some(bytes) = incoming.next().await.map_err(failed)? {
            let (offset, length) = (progress.position(), bytes.len() as u64);
            file.write_at(offset, bytes).await.map_err(|error| unwritable(draft, &error))?;
            progress.inc(length);
        }
        file.sync().await.map_err(|error| unwritable(draft, &error))?;
        progress.finish_and_clear();
        let contents = inspect(copy.clone(), draft).await?;
        let announced = &incoming.info().digest;
        // For a state without a key, a node of an earlier version announces another digest.
        if let Some(digest) = contents.digest.map(|digest| digest.to_string())
            && Some(&digest) != announced.as_ref()
        {
            let announced = announced.as_deref().unwrap_or("none");
            return Err(Failure::error(
                format!("the backup has digest {digest} and not {announced}, as the node said"),
                "save it again, from another node (--endpoints)",
            ));
        }
        Ok((contents, copy))
    }

    /// Writes only the backup to stdout, after every byte was checked.
    async fn save_to_stdout(&self) -> Result<(), Failure> {
        let mut output = Output::new(Format::Plain);
        if output.is_terminal() {
            return Err(Failure::usage(
                "a backup is binary and is not written to a terminal",
                "redirect it to a file: mokv snapshot save - > backup.snap",
            ));
        }
        let name = format!("mokv-backup-{:016x}.part", random_nonzero_u64());
        let draft = std::env::temp_dir().join(name);
        let (_, file) = self.save(&draft).await?;
        let unreadable = |error: io::Error| {
            Failure::error(format!("cannot read {}: {error}", draft.display()), "save it again")
        };
        let mut offset = 0;
        loop {
            let chunk = file.read_at(offset, COPY_BYTES).await.map_err(unreadable)?;
            if chunk.is_empty() {
                return output.flush();
            }
            output.bytes(&chunk)?;
            offset += chunk.len() as u64;
        }
    }
}

fn unwritable(file: &Path, error: &io::Error) -> Failure {
    Failure::error(
        format!("cannot write {}: {error}", file.display()),
        "check the path, its permissions and its space",
    )
}

/// Returns a progress bar, which is shown on a terminal only.
fn progress(bytes: u64) -> ProgressBar {
    const TEMPLATE: &str = "saving {wide_bar} {bytes}/about {total_bytes} ({bytes_per_sec}, {eta} left)";
    let style = ProgressStyle::with_template(TEMPLATE).expect("the template is our own");
    ProgressBar::new(bytes).with_style(style)
}

/// Reads a backup and checks it.
///
/// # Errors
/// If it cannot be read or is not sound.
async fn inspect(file: FileRef, path: &Path) -> Result<Contents, Failure> {
    backup::inspect(file, &path.display().to_string()).await.map_err(|error| {
        let next = "use another backup, or save a new one if the cluster still runs";
        Failure::error(format!("{} is not a sound backup: {error}", path.display()), next)
    })
}

/// Opens a backup's file.
///
/// # Errors
/// If it cannot be opened.
pub fn open(path: &Path) -> Result<FileRef, Failure> {
    open_file(path).map_err(|error| {
        Failure::error(
            format!("cannot open {}: {error}", path.display()),
            "check the path and its permissions",
        )
    })
}

fn as_json(path: &Path, contents: &Contents) -> serde_json::Value {
    json!({
        "file": path.display().to_string(),
        "file_bytes": contents.file_bytes,
        "revision": contents.revision,
        "keys": contents.keys,
        "bytes": contents.bytes,
        "sessions": contents.sessions,
        "digest": contents.digest.map(|digest| digest.to_string()),
        "term": contents.position.term,
        "index": contents.position.index,
        "members": contents.members,
    })
}

impl Inspect {
    async fn run(self) -> Result<(), Failure> {
        let contents = inspect(open(&self.file)?, &self.file).await?;
        let mut output = Output::new(self.output);
        let json = as_json(&self.file, &contents);
        if self.output == Format::Json {
            return output.json(&json);
        }
        let members = contents.members.iter().map(|(name, address)| format!("{name} at {address}"));
        let fields = [
            ("keys", contents.keys.to_string()),
            ("revision", contents.revision.to_string()),
            ("bytes of keys and values", contents.bytes.to_string()),
            ("sessions", contents.sessions.to_string()),
            ("log index", contents.position.index.to_string()),
            ("digest", output::digest(contents.digest)),
            ("members", members.collect::<Vec<_>>().join(", ")),
        ];
        let rows = fields.map(|(name, value)| Row { cells: vec![name.to_owned(), value], json: json!(null) });
        output.rows(&["HOLDS", ""], rows)
    }
}

impl Take {
    async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client_for_all()?;
        let places = match &self.only {
            Some(address) => checked([address])?.iter().map(|address| Place::unnamed(address)).collect(),
            None => self.connect.all_nodes(&client).await,
        };
        let asked = places.iter().map(|place| client.snapshot(&place.address));
        let answers = futures_util::future::join_all(asked).await;
        let (mut rows, mut failed) = (Vec::new(), Vec::new());
        for (place, answer) in places.iter().zip(answers) {
            match answer {
                Ok(index) => rows.push(Row {
                    cells: vec![place.cell(), place.address.clone(), index.to_string()],
                    json: json!({ "name": place.name, "rpc_addr": place.address, "index": index }),
                }),
                Err(error) => {
                    let failure = self.connect.failure_at(place, &error);
                    let failure = match error.is_unknown() {
                        true => {
                            failure.with_next("it may yet be taken: 'mokv status' shows how far it reaches")
                        }
                        false => failure,
                    };
                    failed.push((place.clone(), failure));
                }
            }
        }
        if !rows.is_empty() {
            self.connect.output().rows(&["NAME", "RPC ADDRESS", "LOG INDEX"], rows)?;
        }
        if failed.is_empty() {
            return Ok(());
        }
        let what = match places.len() {
            1 => "cannot take a snapshot".to_owned(),
            all => format!("cannot take a snapshot of {} of {all} nodes", failed.len()),
        };
        Err(self.connect.in_context(Failure::of_nodes(what, failed)))
    }
}
