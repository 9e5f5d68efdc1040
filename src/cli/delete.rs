//! `mokv delete`: deletes one key, or all keys with a prefix, in transactions of many.

use std::ffi::OsString;

use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::confirm::confirmed;
use super::connect::Connect;
use super::failure::Failure;
use super::key::{KeySyntax, add_key};
use super::output::{escaped, keys};
use super::set::Write;
use crate::client::{
    Client, Comparison, Condition, Error, KeyRange, ListOptions, Operation, OperationResult, Transaction,
    WriteOptions,
};

/// The most keys of a prefix that one transaction deletes.
const IN_ONE_STEP: usize = 1_000;
/// The most keys of a prefix that are deleted concurrently, where one step does not delete them.
const AT_A_TIME: usize = 64;

/// Delete one key, or all that begin with a prefix
///
/// That there is no such key is no error; the output says whether there was one. With --prefix the keys are listed,
/// counted, asked about and deleted, each only if it is still as it was listed: up to 1,000 of them in one step. More
/// take several steps, and others see it half done.
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
        let (listed, revision) = self.list(&client, prefix).await?;
        let question = format!("This deletes {} under '{}'.", keys(listed.len() as u64), escaped(prefix));
        if !listed.is_empty() && !self.yes && !confirmed(&question, "delete")? {
            return Err(Failure::error("nothing was deleted", "type 'delete' to go on, or add --yes"));
        }
        let mut count = Count::default();
        let bar = progress(listed.len() as u64);
        for step in listed.chunks(IN_ONE_STEP) {
            let done = match delete_together(&client, step, revision).await {
                Ok(Some(deleted)) => {
                    count.deleted += deleted;
                    // Others were quicker.
                    count.changed += step.len() as u64 - deleted;
                    Ok(())
                }
                Ok(None) => delete_one_by_one(&client, step, &mut count).await,
                Err(error) => Err((&step[0].0, error)),
            };
            if let Err((key, error)) = done {
                bar.finish_and_clear();
                let (done, all) = (count.deleted, listed.len());
                let action = format!("delete '{}', {done} of {all} are deleted", escaped(key));
                return Err(self.connect.failure(&action, error));
            }
            bar.inc(step.len() as u64);
        }
        bar.finish_and_clear();
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

    /// Returns the keys with their mod revisions, and the revision at which they were listed.
    async fn list(&self, client: &Client, prefix: &Bytes) -> Result<(Vec<(Bytes, u64)>, u64), Failure> {
        let failed =
            |error| self.connect.failure(&format!("list the keys under '{}'", escaped(prefix)), error);
        let mut listing = client.list_with(ListOptions::prefix(prefix).keys_only()).await.map_err(failed)?;
        let mut listed = Vec::new();
        while let Some(entry) = listing.next().await.map_err(failed)? {
            listed.push((entry.key, entry.mod_revision));
        }
        Ok((listed, listing.revision()))
    }
}

/// Deletes keys that were listed at a revision, and follow each other, at one revision. Returns how many were there; `None`:
/// nothing was deleted, because one was changed or added since, or the cluster does not change so many at a time.
async fn delete_together(
    client: &Client,
    step: &[(Bytes, u64)],
    revision: u64,
) -> Result<Option<u64>, Error> {
    let [(first, _), .., (last, _)] = step else { return Ok(None) };
    let range = KeyRange::new(first, [last, &[0][..]].concat());
    let delete = Transaction::new()
        .when(Condition::mod_revision(range.clone(), Comparison::Less, revision + 1))
        .then(Operation::delete_range(range));
    match client.transact(delete).await {
        Ok(done) => match done.results.as_deref() {
            Ok([OperationResult::Deleted(deleted)]) if done.succeeded => Ok(Some(*deleted)),
            _ => Ok(None),
        },
        Err(Error::ResourceExhausted(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes each key, if it is as it was listed. An error comes with its key.
async fn delete_one_by_one<'a>(
    client: &Client,
    step: &'a [(Bytes, u64)],
    count: &mut Count,
) -> Result<(), (&'a Bytes, Error)> {
    for some in step.chunks(AT_A_TIME) {
        let deleting =
            some.iter().map(|(key, revision)| client.delete_with(key, WriteOptions::if_revision(*revision)));
        let mut failed = None;
        for ((key, _), result) in some.iter().zip(futures_util::future::join_all(deleting).await) {
            match result {
                Ok(deleted) if deleted.existed => count.deleted += 1,
                Ok(_) | Err(Error::ConditionFailed { .. }) => count.changed += 1,
                Err(error) => failed = failed.or(Some((key, error))),
            }
        }
        failed.map_or(Ok(()), Err)?;
    }
    Ok(())
}

/// Returns a progress bar, which is shown on a terminal only.
fn progress(keys: u64) -> ProgressBar {
    const TEMPLATE: &str = "deleting {wide_bar} {human_pos}/{human_len} keys ({eta} left)";
    let style = ProgressStyle::with_template(TEMPLATE).expect("the template is our own");
    ProgressBar::new(keys).with_style(style)
}
