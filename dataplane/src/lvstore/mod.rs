//! Logical volumes: an lvstore on a bdev, lvols in it, each a bdev of its own (SPDK's `bdev_lvol`).
//!
//! The on-disk format is our own and is described in `docs/lvstore-format.md`. `layout`, `codec`, `state` and `alloc` are
//! pure; `store` does the I/O of metadata, `volume` that of data, `module` is what the methods call.

mod alloc;
mod codec;
mod error;
mod layout;
mod module;
mod state;
mod store;
mod volume;

pub use error::LvolError;
pub use module::{ClearMethod, CreateStore, LvolInfo, LvolModule, LvsSelector, StoreInfo};

#[cfg(test)]
mod crash_tests;
