//! Block devices: the [`Bdev`] trait that every layer implements, and the [`Registry`] through which layers find, open, claim
//! and watch each other. The vocabulary and the semantics are SPDK's (`include/spdk/bdev.h`).
//!
//! All of this lives on one reactor thread: state is in `Cell`/`RefCell`, and no borrow is ever held across an await.

mod atomic;
pub mod delay;
mod descriptor;
mod error;
pub mod file;
mod histogram;
pub mod inject;
pub mod malloc;
pub mod null;
pub mod nvme;
mod over;
mod qos;
mod registry;
mod stats;

use bytes::{Bytes, BytesMut};
use futures::future::LocalBoxFuture;
use serde_json::Value;
use uuid::Uuid;

pub use descriptor::{ClaimType, Descriptor, FusedError, Waiting};
pub use error::{BdevError, IoError};
pub use histogram::{Counted, Histogram};
pub use qos::{QosLimits, QosUpdate};
pub use registry::{BdevEvent, BdevInfo, Events, Examiner, NewBdev, Registration, Registry};
pub use stats::{IoClass, IoCounters, IoStat, IoStatReset, TICK_RATE};

/// What an I/O resolves to. The future does not borrow the bdev, so it may outlive the call.
pub type IoFuture<T> = LocalBoxFuture<'static, Result<T, IoError>>;

/// The I/O types of `bdev_get_bdevs` -> `supported_io_types` that this data plane knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IoType {
    Read,
    Write,
    Unmap,
    Flush,
    Reset,
    WriteZeroes,
    Compare,
    /// Atomic compare-and-write of one block (NVMe fused operation).
    CompareAndWrite,
    Abort,
}

/// A block device.
///
/// Callers go through a [`Descriptor`], which checks ranges, accounts and throttles; an implementation may rely on
/// `lba + blocks <= num_blocks`, on `blocks > 0` and on lengths being whole blocks.
///
/// A returned future is driven to its end: a [`Descriptor`] hands an I/O that its caller dropped half-way to the reactor, so a
/// mirror never has only half of a write because a connection went away.
pub trait Bdev: 'static {
    /// SPDK's `product_name`, e.g. `Malloc disk`.
    fn product_name(&self) -> &'static str;

    /// The module that made it (`malloc`, `aio`, `raid`, ...): delete methods only touch bdevs of their own module.
    fn module(&self) -> &'static str;

    /// Bytes in a block.
    fn block_size(&self) -> u32;

    /// Blocks it has now. When it grows, the module calls [`Registration::notify_resize`].
    fn num_blocks(&self) -> u64;

    /// Identity of the contents; also an alias in the registry unless it is nil or is the name.
    fn uuid(&self) -> Uuid;

    /// Whether an I/O type works here.
    fn supports(&self, io: IoType) -> bool;

    /// The `driver_specific` object of `bdev_get_bdevs`.
    fn driver_specific(&self) -> Value;

    /// Fills the whole of `buf` (its length is the number of bytes to read) from block `lba` on and gives it back.
    /// The buffer returned is the one passed in, possibly after `split_to`/`unsplit`.
    fn read(&self, lba: u64, buf: BytesMut) -> IoFuture<BytesMut>;

    /// Writes `data` from block `lba` on. With `fua` the data, and all metadata needed to find it again, is durable when the
    /// future resolves.
    fn write(&self, lba: u64, data: Bytes, fua: bool) -> IoFuture<()>;

    /// Makes every write, unmap and write-zeroes that was acknowledged before the call durable.
    fn flush(&self) -> IoFuture<()>;

    /// Deallocates blocks; they read as zeros or as what they held before.
    fn unmap(&self, lba: u64, blocks: u64) -> IoFuture<()>;

    /// Makes blocks read as zeros.
    fn write_zeroes(&self, lba: u64, blocks: u64, fua: bool) -> IoFuture<()>;

    /// Succeeds if the blocks hold exactly `data`, else fails with [`IoError::Miscompare`].
    fn compare(&self, lba: u64, data: Bytes) -> IoFuture<()> {
        let read = self.read(lba, BytesMut::zeroed(data.len()));
        Box::pin(async move { if read.await? == data { Ok(()) } else { Err(IoError::Miscompare) } })
    }

    /// Releases what the bdev holds (files, base bdevs); called once, after it is unregistered, nobody has it open and no I/O is
    /// in flight.
    fn destruct(&self) -> LocalBoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
pub(crate) mod held_disk;
#[cfg(test)]
pub(crate) mod sim_disk;

#[cfg(test)]
mod faults_tests;

#[cfg(test)]
#[path = "registry_tests.rs"]
mod registry_tests;
