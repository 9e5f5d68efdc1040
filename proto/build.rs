//! Compiles the contract without protoc: protox parses, tonic generates against plain tonic.

use prost::Message as _;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["kv.proto", "admin.proto", "log.proto", "raft.proto", "gossip.proto", "rpc_status.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let public = protox::compile(["kv.proto", "admin.proto"], ["."])?;
    // `compile_fds` does not write the descriptor set that reflection serves.
    std::fs::write(out.join("api.descriptors.bin"), public.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        .compile_fds(protox::compile(files, ["."])?)?;
    Ok(())
}
