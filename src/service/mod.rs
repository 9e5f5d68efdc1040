//! The request core: every request of every API passes here, once.
//!
//! The input is a caller, a request as plain types and a deadline. The output is a reply or a [`Refused`]; streams are
//! handled the same way. The core takes a place for the request ([`Admission`]), checks it against the node's limits,
//! proposes or reads, and determines the outcome. [`crate::api`] maps both to the bytes, codes and texts of its API;
//! [`crate::map`] decides what a command does. This module has no code for HTTP or gRPC.

mod admission;
mod context;
mod execute;
mod outcome;
mod request;
mod timed;

use std::sync::Arc;

pub use admission::{Admission, Class, ConnectionKind, Phase};
pub use context::{AskedToLeave, Context, Diagnosis, Operator, Place, Serving};
pub use execute::{BackupChunks, BackupStart, KeyChange, KeyChanges, Keys, ListedKey, MAX_BACKUP_TIME};
pub use outcome::{Certainty, Refused};
pub use request::*;

use crate::rt::Instant;

/// The sender of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The kind of place that its connection holds.
    pub connection: ConnectionKind,
}

/// A request of one kind, and how it is executed.
pub trait Operation: Send + 'static {
    /// Its reply.
    type Reply: Send + 'static;

    /// The class whose places it takes.
    const CLASS: Class;

    /// Executes the request. The request holds its place, and its caller may send it.
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
}

impl Service {
    /// Returns the core of a node.
    pub fn new(context: Arc<Context>) -> Service {
        Service { context }
    }

    /// Executes a request that has been read whole, and answers by `deadline`.
    ///
    /// # Errors
    /// [`Refused`]: the node declined the request, the request was certainly not executed, or its outcome is unknown.
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
