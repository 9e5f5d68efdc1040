//! Writes of one key.

use mokv_proto::log;

use super::{check_key, refused};
use crate::map::{Answer, Command};
use crate::rt::Instant;
use crate::service::{Class, Delete, Deleted, Operation, Refused, Service, Set, WriteName};

pub(super) fn session_write(name: WriteName) -> log::SessionWrite {
    let WriteName { session, sequence, lowest_unanswered } = name;
    log::SessionWrite { session, sequence, lowest_unanswered }
}

impl Operation for Set {
    /// The revision of this write.
    type Reply = u64;
    const CLASS: Class = Class::Client;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<u64, Refused> {
        let Set { key, value, if_revision, name } = self;
        check_key(&key)?;
        let (bytes, most) = (value.len(), service.context.limits.max_value_bytes);
        if bytes > most {
            return Err(Refused::LongValue { bytes, most });
        }
        let command = Command::Set(log::Set { key, value, if_revision, session: name.map(session_write) });
        match service.propose(command, deadline).await?.answer {
            Answer::Written { revision } => Ok(revision),
            other => Err(refused(other)),
        }
    }
}

impl Operation for Delete {
    type Reply = Deleted;
    const CLASS: Class = Class::Client;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<Deleted, Refused> {
        let Delete { key, if_revision, name } = self;
        check_key(&key)?;
        let command = Command::Delete(log::Delete { key, if_revision, session: name.map(session_write) });
        match service.propose(command, deadline).await?.answer {
            Answer::Deleted { revision, existed } => Ok(Deleted { revision, existed }),
            other => Err(refused(other)),
        }
    }
}
