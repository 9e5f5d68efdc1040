//! The store's own API: `api.KV` and `api.Admin`, whose contract is `proto/mokv/v1`.

pub(super) mod admin;
pub(super) mod kv;
mod outcome;

use tonic::Request;

pub(super) use outcome::status;

use super::Deadline;
use crate::rt::Instant;
use crate::service::Caller;

/// By when a request is to be answered, and who sends it. Every request gets both when it arrives.
fn terms<T>(request: &Request<T>) -> (Caller, Instant) {
    let extensions = request.extensions();
    let caller = extensions.get::<Caller>().expect("every request gets its caller when it arrives");
    let deadline = extensions.get::<Deadline>().expect("every request gets one when it arrives");
    (*caller, deadline.0)
}
