//! Opening and closing client sessions, whose writes are applied once.

use super::refused;
use crate::map::{Answer, Command};
use crate::rt::Instant;
use crate::service::{Class, CloseSession, OpenSession, Operation, Refused, Service, SessionOpened};

impl Operation for OpenSession {
    type Reply = SessionOpened;
    const CLASS: Class = Class::Client;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<SessionOpened, Refused> {
        match service.propose(Command::OpenSession, deadline).await?.answer {
            Answer::SessionOpened { session } => {
                let window = service.context.serving()?.consensus.store().read().map.session_window();
                Ok(SessionOpened { session, window })
            }
            other => Err(refused(other)),
        }
    }
}

impl Operation for CloseSession {
    /// Whether the session existed.
    type Reply = bool;
    const CLASS: Class = Class::Client;

    async fn execute(self, service: &Service, deadline: Instant) -> Result<bool, Refused> {
        let command = Command::CloseSession { session: self.session };
        match service.propose(command, deadline).await?.answer {
            Answer::SessionClosed { existed } => Ok(existed),
            other => Err(refused(other)),
        }
    }
}
