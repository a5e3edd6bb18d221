//! The embedded data plane: block devices, lvstores, raid, an NVMe/TCP target and host, driven through SPDK's JSON-RPC.
//!
//! Everything runs on one thread (tokio `current_thread` in a `LocalSet`); state is shared by `Rc` and never locked, and no
//! `RefCell` borrow is held across an await. See `docs/adr/0020-dataplane-runtime.md`.

pub mod allocator;
pub mod app;
pub mod bdev;
pub mod initiator;
pub mod lvstore;
pub mod nvmf;
pub mod open_files;
mod page;
mod page_buffers;
pub mod raid;
mod receive_chunks;
pub mod rpc;
mod slabs;
mod socket;
pub mod spin;
