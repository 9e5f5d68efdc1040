//! Compiles the contract without protoc: protox parses, tonic generates against plain tonic.

use prost::Message as _;
use std::path::PathBuf;

/// What clients and operators say; reflection serves it.
const PUBLIC: [&str; 2] = ["mokv/v1/kv.proto", "mokv/v1/admin.proto"];
/// What nodes say to each other, and what they store.
const INTERNAL: [&str; 3] =
    ["mokv/internal/log.proto", "mokv/internal/raft.proto", "mokv/internal/gossip.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=mokv");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let public = protox::compile(PUBLIC, ["."])?;
    // `compile_fds` does not write the descriptor set that reflection serves.
    std::fs::write(out.join("api.descriptors.bin"), public.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        .compile_fds(protox::compile(PUBLIC.into_iter().chain(INTERNAL), ["."])?)?;
    Ok(())
}
