//! Logical volumes: an lvstore on a bdev, lvols in it, each a bdev of its own (SPDK's `bdev_lvol`).
//!
//! The on-disk format is our own and is described in `docs/lvstore-format.md`. `layout`, `codec`, `journal`, `map`, `state`, `check`, `plan`
//! and `alloc` are pure; `load`, `store` and `space` do the I/O of metadata, `volume` and `copy` that of data; `module` (lvstores), `lvols`, `family`
//! (snapshots and clones) and `shallow_copy` are what the methods call.

mod alloc;
mod check;
mod codec;
mod copy;
mod error;
mod esnap;
mod family;
mod gate;
mod journal;
mod layout;
mod load;
mod lvols;
mod map;
mod module;
mod plan;
mod shallow_copy;
mod space;
mod state;
mod store;
mod view;
mod volume;

pub use error::LvolError;
pub use module::{ClearMethod, CreateStore, LvolModule, LvsSelector};
pub use shallow_copy::CopyStatus;
pub use state::LvolClear;
pub use view::{LvolInfo, StoreInfo};

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod freeze_tests;
