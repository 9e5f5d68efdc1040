//! The clients: each on a host of its own, with every call on record.
//!
//! `client` calls through the product's own library, `direct` asks one node without it, `workload` is what they do in
//! chaos.

mod client;
pub mod direct;
mod transactor;
mod workload;

pub use client::SimClient;
pub use workload::Workload;
