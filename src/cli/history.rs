//! `mokv history`: the versions of one key.

use std::ffi::OsString;

use clap::Args;
use serde_json::{Value as Json, json};

use super::connect::Connect;
use super::failure::Failure;
use super::format::Format;
use super::key::{KeySyntax, add_key};
use super::output::{Output, Row, TABLE_ROWS, escaped, json_value, shortened, table};
use crate::client::{Change, Changes, Consistency, Error, VersionsOptions};

/// Show the versions of a key, deletions included
///
/// All that the history has, in the order in which they were made: the leader compacts what is old (see 'mokv configure').
/// A line has the revision that made the version, the number of writes since the key was created, the revision that created
/// it, and the value. Of a deletion it has a dash for each number, and 'deleted'. Exit code 3: there is no such version.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv history greeting
  mokv history greeting --from 8         the version that revision 8 shows, and those after it
  mokv history greeting --from 8 --to 8  only what revision 8 shows
  mokv history greeting --output json | jq -r 'select(.deleted | not) | .value.text'")]
pub struct History {
    /// The key
    #[arg(value_name = "KEY")]
    key: OsString,
    #[command(flatten)]
    revisions: Revisions,
    /// At most this many versions, the first ones; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: u64,
    #[command(flatten)]
    syntax: KeySyntax,
    #[command(flatten)]
    connect: Connect,
}

/// Which revisions to read, and how fresh the last must be.
#[derive(Debug, Args)]
pub struct Revisions {
    /// Begin with this revision; by default with the earliest that can be read
    #[arg(long, value_name = "REVISION")]
    pub from: Option<u64>,
    /// End with this revision; by default with the present one
    #[arg(long, value_name = "REVISION", conflicts_with = "stale")]
    pub to: Option<u64>,
    /// Answer at once from one node's memory, possibly without the newest
    #[arg(long)]
    pub stale: bool,
}

impl Revisions {
    /// How fresh the last revision must be.
    pub fn consistency(&self) -> Consistency {
        if self.stale { Consistency::Stale } else { Consistency::Linearizable }
    }

    /// Checks that they are in order.
    ///
    /// # Errors
    /// If the last comes before the first.
    pub fn check(&self) -> Result<(), Failure> {
        match (self.from, self.to) {
            (Some(from), Some(to)) if from > to => Err(Failure::usage(
                format!("--from {from} is after --to {to}"),
                "begin with an earlier revision, or end with a later one",
            )),
            _ => Ok(()),
        }
    }
}

impl History {
    /// Reads the versions and writes them.
    ///
    /// # Errors
    /// If there is none, or the read failed.
    pub async fn run(self) -> Result<(), Failure> {
        self.revisions.check()?;
        let client = self.connect.client()?;
        let key = self.syntax.key(self.key.clone())?;
        let action = format!("read the history of '{}'", escaped(&key));
        let failure = |error| history_failure(&self.connect, &action, error);
        let mut versions = client.versions_with(&key, self.options()).await.map_err(failure)?;
        let mut output = self.connect.output_or(Format::Table);
        let header = ["REVISION", "VERSION", "CREATED", "VALUE"];
        let count = write(&mut versions, &mut output, &header, version_row, failure).await?;
        match count {
            0 => Err(Failure::not_found(
                format!("no version of '{}' is kept up to revision {}", escaped(&key), versions.revision()),
                "'mokv list --keys-only' lists the keys, 'mokv changes' what was changed",
            )),
            _ => output.flush(),
        }
    }

    fn options(&self) -> VersionsOptions {
        VersionsOptions::all()
            .from_revision(self.revisions.from)
            .to_revision(self.revisions.to)
            .limit((self.limit > 0).then_some(self.limit))
            .consistency(self.revisions.consistency())
    }
}

/// Returns the failure of a reading of the history, with what to do about a revision that is compacted.
pub fn history_failure(connect: &Connect, action: &str, error: Error) -> Failure {
    let is_gone = matches!(error, Error::RevisionGone(_));
    let failure = connect.failure(action, error);
    match is_gone {
        true => failure.with_next(
            "read from the earliest revision that can be read on: leave out --from, or both bounds",
        ),
        false => failure,
    }
}

/// Writes all changes: tables part by part, other formats as the changes come. Returns how many there were.
///
/// # Errors
/// If the reading ends with an error, or stdout cannot be written to.
pub async fn write(
    changes: &mut Changes,
    output: &mut Output,
    header: &[&str],
    row: impl Fn(&Change, Format) -> Row,
    failure: impl Fn(Error) -> Failure,
) -> Result<u64, Failure> {
    let format = output.format();
    let (mut count, mut header) = (0, header);
    loop {
        let mut rows = Vec::new();
        while rows.len() < TABLE_ROWS
            && let Some(change) = changes.next().await.map_err(&failure)?
        {
            let Row { cells, json } = row(&change, format);
            count += 1;
            match format {
                Format::Table => rows.push(cells),
                Format::Json => output.bytes(format!("{json}\n").as_bytes())?,
                Format::Plain => output.bytes(format!("{}\n", cells.join("\t")).as_bytes())?,
            }
        }
        let is_last = rows.len() < TABLE_ROWS;
        if !rows.is_empty() {
            output.line(table(header, rows))?;
            header = &[];
        }
        if is_last {
            return Ok(count);
        }
    }
}

fn version_row(change: &Change, format: Format) -> Row {
    let [version, created, value] = match &change.entry {
        Some(entry) => {
            [entry.version.to_string(), entry.create_revision.to_string(), shown(&entry.value, format)]
        }
        None => ["-".to_owned(), "-".to_owned(), DELETED.to_owned()],
    };
    let revision = change.position.revision.to_string();
    Row { cells: vec![revision, version, created, value], json: change_json(change, false) }
}

/// Stands for the value of a deletion, whose version is a dash.
pub const DELETED: &str = "deleted";

/// Returns a value for a cell: cut in tables only.
pub fn shown(value: &[u8], format: Format) -> String {
    if format == Format::Table { shortened(value) } else { escaped(value) }
}

/// Returns a change.
pub fn change_json(change: &Change, keys_only: bool) -> Json {
    let mut object = json!({
        "revision": change.position.revision,
        "place": change.position.place,
        "deleted": change.entry.is_none(),
    });
    add_key(&mut object, "key", &change.key);
    if let Some(entry) = &change.entry {
        object["create_revision"] = json!(entry.create_revision);
        object["version"] = json!(entry.version);
        if !keys_only {
            object["value"] = json_value(&entry.value);
        }
    }
    object
}
