//! `mokv delete`: deletes one key.

use clap::Args;
use serde_json::json;

use super::connect::Connect;
use super::failure::Failure;
use super::set::Write;

/// Delete one key
///
/// That there is no such key is no error; the output says whether there was one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mokv delete greeting
  mokv delete lock --if-revision 17    only if the key was last written at revision 17")]
pub struct Delete {
    /// The key
    key: String,
    #[command(flatten)]
    write: Write,
    #[command(flatten)]
    connect: Connect,
}

impl Delete {
    /// Deletes the key.
    ///
    /// # Errors
    /// If the delete failed or has an unknown outcome.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.write.client(&self.connect)?;
        let result = client.delete(&self.key, self.write.options()).await;
        let deleted =
            result.map_err(|error| self.connect.failure(&format!("delete '{}'", self.key), error))?;
        self.write.finish(&client).await;
        let crate::client::Deleted { revision, existed } = deleted;
        let what = if existed { "deleted" } else { "there was no such key" };
        self.connect.output().answer(
            format!("{what}, revision {revision}"),
            &json!({ "key": self.key, "existed": existed, "revision": revision }),
        )
    }
}
