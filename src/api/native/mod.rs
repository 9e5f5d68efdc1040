//! The store's own API: `api.KV` and `api.Admin`, whose contract is `proto/mokv/v1`.

pub(super) mod admin;
pub(super) mod kv;
mod outcome;
mod transaction;

use tonic::{Request, Status};

pub(super) use outcome::status;

use super::Deadline;
use crate::service::{Caller, Operation, Service};

/// Executes the operation of a message in the core. The connection has put the caller and the deadline into every
/// request.
async fn call<T, O: Operation>(
    service: &Service,
    request: Request<T>,
    operation: impl FnOnce(T) -> O,
) -> Result<O::Reply, Status> {
    let extensions = request.extensions();
    let caller = *extensions.get::<Caller>().expect("every request gets its caller on arrival");
    let Deadline(deadline) = *extensions.get().expect("every request gets its deadline on arrival");
    service.call(caller, operation(request.into_inner()), deadline).await.map_err(status)
}
