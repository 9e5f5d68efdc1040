//! The request core: every request of every API passes here, once.
//!
//! A caller, a request as plain types and a deadline come in; a reply or a [`Refused`] goes out, and streams the same. Here a
//! request gets its place ([`Admission`]), is checked against the node's limits, proposed or read, and its outcome is found.
//! What bytes, codes and texts an API has for that is the business of [`crate::api`]; what a command does is decided in
//! [`crate::map`]. Knows neither HTTP nor gRPC.

mod admission;
mod context;
mod execute;
mod outcome;
mod request;
mod timed;

use std::sync::Arc;

pub use admission::{Admission, Class, ConnectionKind, Phase};
pub use context::{AskedToLeave, Context, Diagnosis, Operator, Place, Serving};
use execute::Retained;
pub use execute::{BackupChunks, BackupStart, Keys, ListedKey, MAX_BACKUP_TIME};
pub use outcome::{Certainty, Refused};
pub use request::*;

use crate::rt::Instant;

/// Who sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The kind of place that its connection holds.
    pub connection: ConnectionKind,
}

/// A request of one kind: what it asks for, and how it is executed.
pub trait Operation: Send + 'static {
    /// What answers it.
    type Reply: Send + 'static;

    /// Among whose requests it is counted.
    const CLASS: Class;

    /// Executes it. It has its place, and its caller may send it.
    fn execute(
        self,
        service: &Service,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self::Reply, Refused>> + Send;
}

/// The core of one node. Clones share it.
#[derive(Clone)]
pub struct Service {
    context: Arc<Context>,
    retained: Arc<Retained>,
}

impl Service {
    /// The core of a node.
    pub fn new(context: Arc<Context>) -> Service {
        Service { context, retained: Arc::default() }
    }

    /// Executes a request, which is all there, and answers by `deadline`.
    ///
    /// # Errors
    /// [`Refused`]: the request was answered otherwise than it asked for, was certainly not executed, or its outcome is unknown.
    pub async fn call<O: Operation>(
        &self,
        caller: Caller,
        operation: O,
        deadline: Instant,
    ) -> Result<O::Reply, Refused> {
        let _place = self.context.admission.admit(caller, O::CLASS)?;
        operation.execute(self, deadline).await
    }
}
