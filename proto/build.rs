//! Compiles the .proto files with `protox` (no `protoc` needed for them) into messages, and clients and servers behind features.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 4] =
    ["vda/v1/types.proto", "vda/v1/record.proto", "vda/v1/agent.proto", "vda/v1/portal.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
