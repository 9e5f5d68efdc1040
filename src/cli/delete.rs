//! `mokv delete`: deletes one key, or all keys with a prefix, one by one.

use std::ffi::OsString;

use bytes::Bytes;
use clap::Args;
use serde_json::json;

use super::confirm::confirmed;
use super::connect::Connect;
use super::failure::Failure;
use super::key::{KeySyntax, add_key};
use super::output::{escaped, keys};
use super::set::Write;
use crate::client::{Client, Error, ListOptions, WriteOptions};

/// The most keys of a prefix that are deleted concurrently.
const AT_A_TIME: usize = 64;

/// Delete one key, or all that begin with a prefix
///
/// That there is no such key is no error; the output says whether there was one. With --prefix the keys are listed,
/// counted, asked about and deleted one by one, each only if it is still as it was listed: that is not one step, and
/// others see it half done.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv delete greeting
  mokv delete lock --if-revision 17    only if the key was last written at revision 17
  mokv delete --prefix user/           all that begin so, after asking
  mokv delete --prefix user/ --yes")]
pub struct Delete {
    /// The key
    #[arg(required_unless_present = "prefix")]
    key: Option<OsString>,
    /// All keys that begin with this
    #[arg(long, conflicts_with_all = ["key", "if_revision"])]
    prefix: Option<OsString>,
    /// Do not ask before --prefix
    #[arg(long, conflicts_with = "key")]
    yes: bool,
    #[command(flatten)]
    syntax: KeySyntax,
    #[command(flatten)]
    write: Write,
    #[command(flatten)]
    connect: Connect,
}

/// The results for the keys of a prefix.
#[derive(Default)]
struct Count {
    deleted: u64,
    /// Keys written or deleted by another client since they were listed.
    changed: u64,
}

impl Delete {
    /// Deletes the key, or those of the prefix.
    ///
    /// # Errors
    /// If a delete failed or has an unknown outcome, or there is no terminal to ask on.
    pub async fn run(mut self) -> Result<(), Failure> {
        match (self.key.take(), self.prefix.take()) {
            (_, Some(prefix)) => self.delete_prefix(&self.syntax.key(prefix)?).await,
            (Some(key), None) => self.delete_key(&self.syntax.key(key)?).await,
            (None, None) => unreachable!("the command line asks for one of them"),
        }
    }

    async fn delete_key(&self, key: &Bytes) -> Result<(), Failure> {
        let client = self.write.client(&self.connect)?;
        let result = client.delete_with(key, self.write.options()).await;
        let deleted =
            result.map_err(|error| self.connect.failure(&format!("delete '{}'", escaped(key)), error))?;
        self.write.finish(&client).await;
        let crate::client::Deleted { revision, existed } = deleted;
        let what = if existed { "deleted" } else { "there was no such key" };
        let mut json = json!({ "existed": existed, "revision": revision });
        add_key(&mut json, "key", key);
        self.connect.output().answer(format!("{what}, revision {revision}"), &json)
    }

    async fn delete_prefix(&self, prefix: &Bytes) -> Result<(), Failure> {
        // Each call has the whole timeout, because the number of calls is not known yet.
        let client = self.connect.client()?;
        let listed = self.list(&client, prefix).await?;
        let question =
            format!("This deletes {} under '{}', one by one.", keys(listed.len() as u64), escaped(prefix));
        if !listed.is_empty() && !self.yes && !confirmed(&question, "delete")? {
            return Err(Failure::error("nothing was deleted", "type 'delete' to go on, or add --yes"));
        }
        let mut count = Count::default();
        for some in listed.chunks(AT_A_TIME) {
            let deleting = some
                .iter()
                .map(|(key, revision)| client.delete_with(key, WriteOptions::if_revision(*revision)));
            let mut failed = None;
            for ((key, _), result) in some.iter().zip(futures_util::future::join_all(deleting).await) {
                match result {
                    Ok(deleted) if deleted.existed => count.deleted += 1,
                    Ok(_) | Err(Error::ConditionFailed { .. }) => count.changed += 1,
                    Err(error) => failed = failed.or(Some((key, error))),
                }
            }
            if let Some((key, error)) = failed {
                let (done, all) = (count.deleted, listed.len());
                let action = format!("delete '{}', {done} of {all} are deleted", escaped(key));
                return Err(self.connect.failure(&action, error));
            }
        }
        let client = client.with_total_timeout(self.connect.timeout);
        self.write.finish(&client).await;
        let Count { deleted, changed } = count;
        let mut sentence = format!("deleted {}", keys(deleted));
        if changed > 0 {
            sentence.push_str(&format!(", left {} that changed meanwhile", keys(changed)));
        }
        let mut json = json!({ "deleted": deleted, "changed_meanwhile": changed });
        add_key(&mut json, "prefix", prefix);
        self.connect.output().answer(sentence, &json)
    }

    /// Returns the keys with their mod revisions.
    async fn list(&self, client: &Client, prefix: &Bytes) -> Result<Vec<(Bytes, u64)>, Failure> {
        let failed =
            |error| self.connect.failure(&format!("list the keys under '{}'", escaped(prefix)), error);
        let mut listing = client.list_with(ListOptions::prefix(prefix).keys_only()).await.map_err(failed)?;
        let mut listed = Vec::new();
        while let Some(entry) = listing.next().await.map_err(failed)? {
            listed.push((entry.key, entry.mod_revision));
        }
        Ok(listed)
    }
}
