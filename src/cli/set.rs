//! `mokv set`: writes one key.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;

use clap::Args;
use serde_json::json;

use super::connect::Connect;
use super::failure::Failure;
use super::key::{KeySyntax, add_key};
use super::output::escaped;
use crate::client::WriteOptions;
use crate::raft::peers::frame::MAX_VALUE_BYTES;

/// The most bytes read from stdin: the longest value that any cluster can be configured to accept.
const MAX_STDIN_BYTES: u64 = MAX_VALUE_BYTES;

/// Write one key
///
/// Returns when a majority of the cluster has the write on disk. The write belongs to a session and is applied
/// exactly once, however often it has to be sent.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv set greeting hello
  mokv set photo - < photo.jpg           the value is what stdin holds, byte by byte
  mokv set lock me --if-revision 0       only if there is no such key
  mokv set counter 2 --if-revision 17    only if the key was last written at revision 17")]
pub struct Set {
    /// The key, 1 to 4096 bytes
    key: OsString,
    /// The value; '-' reads it from stdin
    #[arg(allow_negative_numbers = true)]
    value: OsString,
    #[command(flatten)]
    syntax: KeySyntax,
    #[command(flatten)]
    write: Write,
    #[command(flatten)]
    connect: Connect,
}

/// Flags of every command that writes.
#[derive(Debug, Args)]
pub struct Write {
    /// Only if the key's mod revision is this; 0: only if there is no such key
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Send once, without a session: one round trip instead of three, and more often an unknown outcome
    #[arg(long)]
    no_session: bool,
}

impl Write {
    /// Returns the client for one write and for [`Write::finish`], both within the given timeout from now on.
    ///
    /// # Errors
    /// If an endpoint is not `HOST:PORT`.
    pub fn client(&self, connect: &Connect) -> Result<crate::client::Client, Failure> {
        let client = if self.no_session { connect.client_without_session() } else { connect.client() };
        Ok(client?.with_total_timeout(connect.timeout))
    }

    /// Returns the options of the write itself.
    pub fn options(&self) -> WriteOptions {
        match self.if_revision {
            None => WriteOptions::unconditional(),
            Some(0) => WriteOptions::if_absent(),
            Some(revision) => WriteOptions::if_revision(revision),
        }
    }

    /// Closes the session. A failure changes nothing for the user: the cluster evicts unused sessions later.
    pub async fn finish(&self, client: &crate::client::Client) {
        if !self.no_session {
            let _ = client.close().await;
        }
    }
}

impl Set {
    /// Writes the key.
    ///
    /// # Errors
    /// If the value cannot be read or the write failed or has an unknown outcome.
    pub async fn run(self) -> Result<(), Failure> {
        let key = self.syntax.key(self.key)?;
        // Before the client's timeout starts: reading may take long.
        let value = if self.value == "-" { read_stdin()? } else { self.value.into_vec() };
        let client = self.write.client(&self.connect)?;
        let result = client.set_with(&key, value, self.write.options()).await;
        let written =
            result.map_err(|error| self.connect.failure(&format!("write '{}'", escaped(&key)), error))?;
        self.write.finish(&client).await;
        let revision = written.revision;
        let mut json = json!({ "revision": revision });
        add_key(&mut json, "key", &key);
        self.connect.output().answer(format!("revision {revision}"), &json)
    }
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let read = std::io::stdin().lock().take(MAX_STDIN_BYTES + 1).read_to_end(&mut value);
    match read {
        Err(error) => Err(Failure::error(
            format!("cannot read the value from stdin: {error}"),
            "give the value as an argument",
        )),
        Ok(length) if length as u64 > MAX_STDIN_BYTES => Err(Failure::error(
            format!("the value on stdin is longer than {MAX_STDIN_BYTES} bytes"),
            "split it: no cluster takes longer ones",
        )),
        Ok(_) => Ok(value),
    }
}
