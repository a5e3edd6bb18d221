//! The messages of VDA: what clients, monitors and agents say to each other, and what etcd stores.
//!
//! A type has one definition, in `proto/vda/v1`. With no features only the messages are compiled; `client` and `server` add the
//! gRPC stubs, and with them tonic.

/// Package `vda.v1`.
#[allow(missing_docs, rustdoc::all, clippy::all, clippy::unwrap_used, unreachable_pub, unused_qualifications)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/vda.v1.rs"));
}

/// The encoded `FileDescriptorSet` of all files, for the gRPC reflection service and for JSON output.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Written into every stored record; a reader refuses a newer one.
pub const SCHEMA_VERSION: u32 = 1;
