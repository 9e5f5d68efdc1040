//! `mokv list`: keys and values of one revision, in key order.

use std::ffi::OsString;
use std::io::IsTerminal;

use clap::Args;
use serde_json::json;

use super::connect::Connect;
use super::failure::Failure;
use super::format::Format;
use super::get::entry_json;
use super::key::KeySyntax;
use super::output::{Output, TABLE_ROWS, escaped, keys, shortened, table};
use crate::client::{KeyValue, ListOptions, Listing};

/// List keys and values, in byte order of the keys
///
/// All of one revision of the store. On a terminal a table, with long values cut. In a pipe (or with --output
/// plain) one line an entry, KEY<TAB>VALUE, where tab, newline, carriage return and backslash are written \t \n \r
/// \\ and other control characters and bytes that are not UTF-8 are written \xHH.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv list
  mokv list --prefix user/ --limit 100
  mokv list --prefix user/ --limit 100 --start-after user/0100    the next page
  mokv list --prefix user/ --count
  mokv list --output json | jq -r 'select(.version > 1) | .key'")]
pub struct List {
    /// Only keys that begin with this
    #[arg(long, default_value = "")]
    prefix: OsString,
    /// Only keys after this one: the last key of the page before
    #[arg(long, value_name = "KEY", default_value = "")]
    start_after: OsString,
    /// At most this many keys; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: u64,
    /// Leave the values out
    #[arg(long)]
    keys_only: bool,
    /// Write only how many keys there are
    #[arg(long)]
    count: bool,
    /// List the keys as they were at this revision, for example that of an earlier page
    #[arg(long, value_name = "REVISION", conflicts_with = "stale")]
    at_revision: Option<u64>,
    /// Answer at once from one node's memory, possibly with old values
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    syntax: KeySyntax,
    #[command(flatten)]
    connect: Connect,
}

impl List {
    /// Writes the listing.
    ///
    /// # Errors
    /// If the listing failed, possibly after some output.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connect.client()?;
        let mut listing = client
            .list_with(self.options()?)
            .await
            .map_err(|error| self.connect.failure("list the keys", error))?;
        if self.count {
            return self.write_count(&mut listing).await;
        }
        let people_read = std::io::stdout().is_terminal();
        let mut output = self.connect.output_or(if people_read { Format::Table } else { Format::Plain });
        if output.format() == Format::Table {
            return self.write_tables(&mut listing, &mut output).await;
        }
        while let Some(entry) = self.next(&mut listing).await? {
            let mut line = match output.format() {
                Format::Json => entry_json(&entry, listing.revision(), self.keys_only).to_string(),
                _ if self.keys_only => escaped(&entry.key),
                _ => format!("{}\t{}", escaped(&entry.key), escaped(&entry.value)),
            };
            line.push('\n');
            output.bytes(line.as_bytes())?;
        }
        output.flush()
    }

    fn options(&self) -> Result<ListOptions, Failure> {
        let (prefix, start_after) =
            (self.syntax.key(self.prefix.clone())?, self.syntax.key(self.start_after.clone())?);
        let mut options = ListOptions::prefix(prefix).start_after(start_after);
        if self.limit > 0 {
            options = options.limit(self.limit);
        }
        if self.keys_only || self.count {
            options = options.keys_only();
        }
        if self.stale {
            options = options.stale();
        }
        if let Some(revision) = self.at_revision {
            options = options.at_revision(revision);
        }
        Ok(options)
    }

    async fn next(&self, listing: &mut Listing) -> Result<Option<KeyValue>, Failure> {
        listing.next().await.map_err(|error| self.connect.failure("list all keys", error))
    }

    async fn write_count(&self, listing: &mut Listing) -> Result<(), Failure> {
        let mut count = 0_u64;
        while self.next(listing).await?.is_some() {
            count += 1;
        }
        let json = json!({ "count": count, "revision": listing.revision() });
        self.connect.output().answer(count.to_string(), &json)
    }

    async fn write_tables(&self, listing: &mut Listing, output: &mut Output) -> Result<(), Failure> {
        let mut header: &[&str] =
            if self.keys_only { &["KEY", "REVISION"] } else { &["KEY", "REVISION", "VALUE"] };
        let mut count = 0;
        loop {
            let mut rows = Vec::new();
            while rows.len() < TABLE_ROWS
                && let Some(entry) = self.next(listing).await?
            {
                let mut row = vec![escaped(&entry.key), entry.mod_revision.to_string()];
                if !self.keys_only {
                    row.push(shortened(&entry.value));
                }
                rows.push(row);
            }
            count += rows.len();
            let last = rows.len() < TABLE_ROWS;
            if !rows.is_empty() {
                output.line(table(header, rows))?;
                header = &[];
            }
            if last {
                return output.line(format!("({} at revision {})", keys(count as u64), listing.revision()));
            }
        }
    }
}
