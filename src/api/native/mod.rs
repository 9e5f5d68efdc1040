//! The store's own API: `api.KV` and `api.Admin`, whose contract is `proto/mokv/v1`.

pub(super) mod admin;
pub(super) mod kv;
mod outcome;

use tonic::{Request, Status};

pub(super) use outcome::status;

use super::Deadline;
use crate::service::{Caller, Operation, Service};

/// Has the core execute the operation that a message asks for. Every request gets its caller and its deadline when it arrives.
async fn call<T, O: Operation>(
    service: &Service,
    request: Request<T>,
    operation: impl FnOnce(T) -> O,
) -> Result<O::Reply, Status> {
    let extensions = request.extensions();
    let caller = *extensions.get::<Caller>().expect("every request gets its caller when it arrives");
    let Deadline(deadline) = *extensions.get().expect("every request gets one when it arrives");
    service.call(caller, operation(request.into_inner()), deadline).await.map_err(status)
}
