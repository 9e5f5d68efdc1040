//! The wire contract of mökv: the messages of clients, operators and Raft peers, and the contents of the log.
//!
//! Generated against plain tonic, so that the same bytes flow in production and in simulation.

/// Package `api`: the services `KV` and `Admin`.
#[allow(missing_docs, clippy::all)]
pub mod api {
    tonic::include_proto!("api");
    /// The descriptors of package `api`, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api.descriptors.bin"));
}

/// Package `log`: payloads of log entries and snapshots.
#[allow(missing_docs, clippy::all)]
pub mod log {
    tonic::include_proto!("log");
}

/// Package `raft`: frames between peers.
#[allow(missing_docs, clippy::all)]
pub mod raft {
    tonic::include_proto!("raft");
}

pub mod status;

/// Package `gossip`: claims, datagrams and the identity file.
#[allow(missing_docs, clippy::all)]
pub mod gossip {
    tonic::include_proto!("gossip");
}

pub use tonic;
