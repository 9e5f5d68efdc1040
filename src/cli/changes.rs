//! `mokv changes`: what was written and deleted, in the order in which it was.

use std::ffi::OsString;
use std::io::IsTerminal;

use clap::Args;

use super::connect::Connect;
use super::failure::Failure;
use super::format::Format;
use super::history::{DELETED, Revisions, change_json, history_failure, shown, write};
use super::key::KeySyntax;
use super::output::{Row, changes, escaped};
use crate::client::{Change, ChangesOptions};

/// Show what was changed, in the order in which it was
///
/// All that the history has: the leader compacts what is old (see 'mokv configure'). Changes of one transaction have one
/// revision. On a terminal a table, with long values cut. In a pipe (or with --output plain) one line a change,
/// REVISION<TAB>KEY<TAB>VERSION<TAB>VALUE, with the escape sequences of 'mokv list'. Of a deletion the version is a dash, and
/// the value is 'deleted'.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv changes
  mokv changes --prefix user/ --from 8
  mokv changes --from 8 --to 8      what revision 8 has changed
  mokv changes --from 8 --limit 100 the next page begins with the revision after the last one
  mokv changes --output json | jq -r 'select(.deleted) | .key'")]
pub struct ListChanges {
    /// Only changes of keys that begin with this
    #[arg(long, default_value = "")]
    prefix: OsString,
    #[command(flatten)]
    revisions: Revisions,
    /// End after this many changes, and never within a transaction; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: u64,
    /// Leave the values out
    #[arg(long)]
    keys_only: bool,
    #[command(flatten)]
    syntax: KeySyntax,
    #[command(flatten)]
    connect: Connect,
}

impl ListChanges {
    /// Reads the changes and writes them.
    ///
    /// # Errors
    /// If the read failed.
    pub async fn run(self) -> Result<(), Failure> {
        self.revisions.check()?;
        let client = self.connect.client()?;
        let failure = |error| history_failure(&self.connect, "read the changes", error);
        let mut reading = client.changes_with(self.options()?).await.map_err(failure)?;
        let people_read = std::io::stdout().is_terminal();
        let mut output = self.connect.output_or(if people_read { Format::Table } else { Format::Plain });
        let header = ["REVISION", "KEY", "VERSION", "VALUE"];
        let header = if self.keys_only { &header[..3] } else { &header };
        let row = |change: &Change, format| self.row(change, format);
        let count = write(&mut reading, &mut output, header, row, failure).await?;
        if output.format() == Format::Table {
            return output.line(format!("({} up to revision {})", changes(count), reading.revision()));
        }
        output.flush()
    }

    fn options(&self) -> Result<ChangesOptions, Failure> {
        let options = ChangesOptions::prefix(self.syntax.key(self.prefix.clone())?)
            .from_revision(self.revisions.from)
            .to_revision(self.revisions.to)
            .limit((self.limit > 0).then_some(self.limit))
            .consistency(self.revisions.consistency());
        Ok(if self.keys_only { options.keys_only() } else { options })
    }

    fn row(&self, change: &Change, format: Format) -> Row {
        let (version, value) = match &change.entry {
            Some(entry) => (entry.version.to_string(), shown(&entry.value, format)),
            None => ("-".to_owned(), DELETED.to_owned()),
        };
        let mut cells = vec![change.position.revision.to_string(), escaped(&change.key), version];
        if !self.keys_only {
            cells.push(value);
        }
        Row { cells, json: change_json(change, self.keys_only) }
    }
}
