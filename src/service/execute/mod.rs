//! The execution of each request.

mod backup;
mod cluster;
mod history;
mod list;
mod read;
mod sessions;
mod steps;
mod transact;
mod write;

pub use backup::{BackupChunks, BackupStart, MAX_BACKUP_TIME};
pub use history::{KeyChange, KeyChanges};
pub use list::{Keys, ListedKey};

use super::{Refused, Service};
use crate::config::MAX_KEY_BYTES;
use crate::map::{Answer, Command};
use crate::raft::Committed;
use crate::raft::peers::frame::MAX_COMMAND_BYTES;
use crate::rt::{self, Instant};

impl Service {
    /// Proposes a command through the leader, and returns its answer when it is committed and applied here.
    async fn propose(&self, command: Command, deadline: Instant) -> Result<Committed, Refused> {
        let serving = self.context.serving()?;
        let payload = command.encode();
        let bytes = payload.len();
        if bytes > MAX_COMMAND_BYTES {
            return Err(Refused::Invalid(format!(
                "the request takes {bytes} bytes in the log; at most {MAX_COMMAND_BYTES} are allowed"
            )));
        }
        let committed = serving.consensus.propose(payload, deadline).await;
        committed.map_err(|error| self.context.propose_failed(error, rt::now() >= deadline))
    }
}

fn check_key(key: &[u8]) -> Result<(), Refused> {
    match key.len() {
        0 => Err(Refused::EmptyKey),
        bytes if bytes > MAX_KEY_BYTES => Err(Refused::LongKey { bytes }),
        _ => Ok(()),
    }
}

/// The error for a client that has given one name to two writes.
fn sequence_of_another_write() -> Refused {
    Refused::Invalid("the session has used this sequence for another write".into())
}

/// Maps an answer of the store other than success to the error for the client.
fn refused(answer: Answer) -> Refused {
    match answer {
        Answer::ConditionFailed { present_revision } => Refused::ConditionFailed { present_revision },
        Answer::SessionExpired => Refused::SessionExpired,
        Answer::OutOfWindow { lowest } => Refused::OutOfWindow { lowest },
        Answer::StoreFull { max_store_bytes } => Refused::StoreFull { max_store_bytes },
        Answer::Written { .. } | Answer::Deleted { .. } | Answer::Transaction(_) => {
            sequence_of_another_write()
        }
        other => Refused::Bug(format!("the store gave an answer to another command: {other:?}")),
    }
}
